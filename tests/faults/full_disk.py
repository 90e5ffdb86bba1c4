"""A file system that is really full: a small tmpfs that only the gateway sees. Its reserve goes first, so that what
makes room can be committed; publishers are told; when space is back, so is the reserve, and all goes on. A gateway
also starts on a full disk."""

import os
import subprocess
from pathlib import Path

from failing_disk import QUOTA_EXCEEDED, Web
from harness import Failure, Gateway, Mosquitto, Scenario, free_port, wait_for
from mqtt import PUBACK, Closed, Consumer, Mqtt

SIZE_MIB, RESERVE_BYTES = 48, 8 << 20
PAYLOAD = b"x" * 8000
# More than fit into the file system.
MESSAGES_MAX = 10_000


class SmallDisk(Gateway):
    """Its data_dir is a file system of its own, in a mount namespace of its own."""

    def __init__(self, scenario, sections):
        super().__init__(scenario, sections, name="full-disk", limits="  limits: { queued_messages: 20000, queued_bytes: 1GiB }\n")
        self.holder = None
        self.run_args = self.args

    def mount(self):
        """A process that keeps the namespace with the file system while the gateway comes and goes."""
        script = f"mount -t tmpfs -o size={SIZE_MIB}m none {self.data_dir} && echo ready && exec sleep 1000"
        self.holder = subprocess.Popen(
            ["unshare", "--mount", "--map-root-user", "sh", "-c", script], stdout=subprocess.PIPE, text=True
        )
        if self.holder.stdout.readline() != "ready\n":
            raise Failure("no file system can be mounted here (needs user namespaces or root)")
        self.args = ["nsenter", f"--target={self.holder.pid}", "--user", "--mount", "--preserve-credentials", *self.run_args]
        self.disk = Path(f"/proc/{self.holder.pid}/root{self.data_dir}")

    def unmount(self):
        self.holder.kill()
        self.holder.wait()

    def fill(self, keep_bytes):
        status = os.statvfs(self.disk)
        self.filler = self.disk / "filler"
        with self.filler.open("ab") as file:
            size = self.filler.stat().st_size
            os.posix_fallocate(file.fileno(), size, max(1, status.f_bavail * status.f_frsize - keep_bytes))

    def free(self):
        self.filler.unlink()

    def reserve(self):
        return (self.disk / "tidegate.reserve").stat().st_size


def publish_until_refused(client):
    """How many were acknowledged; each is a message of its own."""
    for number in range(1, MESSAGES_MAX):
        client.publish(number, "kept/a", b"%06d" % number + PAYLOAD, 1)
        try:
            kind, _, body = client.read()
        except Closed as closed:
            # It was on its way when the reserve was used up too: in doubt.
            return number - 1, closed.reason
        if kind == PUBACK and len(body) > 2 and body[2] >= 0x80:
            return number - 1, body[2]
    raise Failure("the disk never was full")


def fill_up(scenario, gateway, web):
    scenario.check_equal("the reserve is held", (gateway.reserve(), web.metric("store_reserve_bytes")), (RESERVE_BYTES, RESERVE_BYTES))
    gateway.fill(keep_bytes=4 << 20)
    acknowledged = 0
    client = Mqtt("writer", gateway.port, 5, clean=True)
    try:
        acknowledged, reason = publish_until_refused(client)
        scenario.check_equal("publishers are told that the disk is full", reason, QUOTA_EXCEEDED)
    finally:
        client.close()
    scenario.check("what was acknowledged before has come into the room that there was", acknowledged > 50, acknowledged)
    scenario.check_equal("the reserve is given back", (gateway.reserve(), web.metric("store_reserve_bytes")), (0, 0))
    status, text = web.get("/readyz")
    scenario.check("/readyz says that the disk is full", status == 503 and "no space is left" in text, text)
    return acknowledged


def drain(scenario, gateway, acknowledged):
    """The reserve is for this: what leaves can be taken off a disk that has no room."""
    gateway.fill(keep_bytes=RESERVE_BYTES // 2)
    consumer = Consumer(Mqtt("away", gateway.port))
    consumer.take_until(b"%06d" % acknowledged + PAYLOAD)
    numbers = [int(payload[:6]) for payload in consumer.payloads]
    scenario.check("a session that comes back gets everything acknowledged", set(range(1, acknowledged + 1)) <= set(numbers), len(numbers))
    consumer.client.part()


def main():
    with Scenario("full_disk", 300) as scenario:
        http_port = free_port()
        gateway = SmallDisk(scenario, f"http: {{ address: 127.0.0.1:{http_port} }}\n")
        gateway.mount()
        scenario.cleanups.append(gateway.unmount)
        web = Web(http_port)
        gateway.start()
        gateway.wait_port(http_port)
        away = Mqtt("away", gateway.port)
        away.subscribe("kept/#", 1)
        away.part()
        acknowledged = fill_up(scenario, gateway, web)
        gateway.kill()
        gateway.start()
        gateway.wait_port(http_port)
        scenario.check("it starts on a full disk, and says so", web.get("/readyz")[0] == 503)
        drain(scenario, gateway, acknowledged)
        wait_for("everything to leave the disk", lambda: web.metric("store_waiting_records") == 0)
        gateway.kill()
        gateway.start()
        gateway.wait_port(http_port)
        consumer = Mqtt("away", gateway.port)
        scenario.check("what has left is not there again after a crash", is_silent(consumer))
        consumer.part()
        gateway.free()
        wait_for("the reserve", lambda: gateway.reserve() == RESERVE_BYTES and web.get("/readyz")[0] == 200, 30)
        client = Mqtt("writer", gateway.port, 5, clean=True)
        wait_for("a message to be taken again", lambda: is_taken(client))
        client.close()
        gateway.end(scenario)


def is_taken(client):
    client.publish(1, "kept/a", b"again", 1)
    return client.read()[2][2:] in (b"", b"\x00")


def is_silent(client):
    """PINGRESP comes behind whatever waits."""
    client.send(b"\xc0\x00")
    return client.read()[0] == 13


if __name__ == "__main__":
    main()
