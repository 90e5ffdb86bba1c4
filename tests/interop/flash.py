"""What a message costs in bytes written to disk: nothing on a healthy link, little in an outage.

Each case is a gateway of its own, all at once: bytes are no matter of time. Counted are the bytes that the process has
made the kernel write (`write_bytes` of /proc/PID/io, whole pages of the file system), from before the first message to
the end of the process, so that what the last checkpoint writes is counted too. In an outage nothing listens at the
bridge's URL. The publishers send at their own rate, whenever their acknowledgements come; one that sends a message only
after the acknowledgement of the one before shows that nobody waits without need.
"""

import asyncio
import os
import struct
import threading
import time

from harness import Client, Failure, Gateway, Mosquitto, Scenario, free_port, wait_for
from modbus_server import ModbusServer, Registers
from strict_client import PUBACK, PUBLISH, Message, StrictPublisher, packet, text

SECONDS = int(os.environ.get("TIDEGATE_FLASH_SECONDS", "25"))
RATE = 100
PAYLOAD_BYTES = 100
# Bytes a message in an outage, by `commit`.
BYTES_MAX = {"100ms": 1600, "1s": 420}
# Longer than any stall of a busy machine: what the cloud acknowledges within `commit` is never written.
PATIENT_COMMIT = "10s"
POINTS, POLL = 10, "100ms"
WINDOW = 1000
FLEET = 20
LONELY_MESSAGES, LONELY_COMMIT_SECONDS = 200, 5
BLOCK_BYTES = 512
DAY_SECONDS = 86_400
# What is left of it makes every commit gather as long as it may.
BUDGET_BYTES, SPENT_BYTES = 16 << 20, 15 << 20


def bridge(port, commit):
    return f"""
bridges:
  cloud:
    url: mqtt://127.0.0.1:{port}
    reconnect: {{ min: 1s, max: 2s }}
    buffer: {{ commit: {commit} }}
    forward:
      - topic: devices/#
"""


def device(port):
    points = "".join(f"      point{n}: {{ input: {n}, type: u16, unit: mm }}\n" for n in range(POINTS))
    return f"""
devices:
  meter:
    modbus: {{ tcp: 127.0.0.1:{port}, unit: 1 }}
    poll: {POLL}
    publish: {{ when: poll, qos: 1 }}
    points:
{points}"""


def messages(count, topic="devices/line-4/meter-7/load"):
    for number in range(count):
        yield Message(number, topic, f"{number:0{PAYLOAD_BYTES}}".encode(), 1)


class Case:
    """One gateway, what is published to it, and the most that a message may cost; None: a figure and no verdict."""

    GATEWAY = ""

    def __init__(self, scenario, name, sections, bytes_max, publishers=0):
        self.scenario, self.name, self.bytes_max = scenario, name, bytes_max
        folder = name.replace(",", "").replace(" ", "-")
        self.gateway = Gateway(scenario, sections, gateway=self.GATEWAY, name=folder)
        self.prepare()
        self.gateway.start()
        count = SECONDS * RATE // max(publishers, 1)
        self.publishers = [
            Publisher(
                f"meter-{n}",
                self.gateway.port,
                4,
                messages(count, f"devices/line-4/meter-{n}/load"),
                RATE / publishers,
                WINDOW,
            )
            for n in range(publishers)
        ]
        self.count = count * publishers
        self.before = 0

    def prepare(self):
        """The data directory is there, the gateway is not."""

    def written(self):
        """By the process so far."""
        lines = open(f"/proc/{self.gateway.child.pid}/io").read().splitlines()
        return int(next(line for line in lines if line.startswith("write_bytes")).split()[1])

    def begin(self):
        self.before = self.written()

    async def publish(self):
        await asyncio.gather(*(publisher.run() for publisher in self.publishers))

    def end(self):
        running = self.written() - self.before
        self.gateway.child.terminate()
        deadline = time.monotonic() + 15
        while True:
            pid, status, usage = os.wait4(self.gateway.child.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() > deadline:
                raise Failure(f"{self.name}: the gateway does not end")
            time.sleep(0.02)
        self.gateway.child.returncode = os.waitstatus_to_exitcode(status)
        ended = usage.ru_oublock * BLOCK_BYTES - self.before
        self.scenario.check_equal(f"{self.name}: ends with 0 after SIGTERM", self.gateway.child.returncode, 0)
        self.judge(running, ended)

    def judge(self, running, ended):
        each = ended / self.count
        self.scenario.figure(
            f"{self.name}: {self.count} messages, {each:.0f} bytes a message; {running / self.count:.0f} before the end; "
            f"{each * RATE * DAY_SECONDS / (1 << 20):.0f} MiB a day at {RATE} messages/s"
        )
        if self.bytes_max is None:
            return
        if self.bytes_max == 0:
            self.scenario.check_equal(f"{self.name}: bytes written while it runs", running, 0)
            return
        # Less than the messages themselves: the folder is in memory, and nothing was measured.
        self.scenario.check(f"{self.name}: is written to a disk", each > PAYLOAD_BYTES / 2, each)
        self.scenario.check(f"{self.name}: at most {self.bytes_max} bytes a message", each <= self.bytes_max, each)


class Readings(Case):
    """A device's readings: nobody waits for them."""

    def __init__(self, scenario, name, commit, bytes_max=None):
        self.server_port = free_port()
        self.server = ModbusServer(1, Registers(inputs=dict.fromkeys(range(POINTS), 7)), tcp_port=self.server_port)
        sections = device(self.server_port) + bridge(free_port(), commit)
        super().__init__(scenario, name, sections, bytes_max or BYTES_MAX[commit])
        self.client = Client("watch", self.gateway.port).connect()
        self.client.subscribe("$SYS/tidegate/bridges/cloud/queued", 0)

    def queued(self):
        return int((self.client.payloads("$SYS/tidegate/bridges/cloud/queued") or ["0"])[-1])

    async def publish(self):
        self.server.start()
        while self.queued() < SECONDS * RATE:
            await asyncio.sleep(0.1)
        self.count = self.queued()


class Away(Case):
    """A durable session whose client is away, and no bridge."""

    def __init__(self, scenario, name):
        super().__init__(scenario, name, "", BYTES_MAX["100ms"], publishers=1)
        client = Client("sleeper", self.gateway.port, clean=False, expiry=3600).connect()
        client.subscribe("devices/#", 1)
        client.disconnect()


class Spared(Case):
    """The flash budget runs short, as the process before has written down."""

    GATEWAY = f"  flash_budget: {BUDGET_BYTES >> 20}MiB\n"

    def prepare(self):
        hours = " ".join(["0", str(SPENT_BYTES)] + ["0"] * 22)
        (self.gateway.data_dir / "tidegate.flash").write_text(f"1 {time.time_ns() // 1_000_000} 0 {hours}\n")


class SparedReadings(Readings, Spared):
    """What nobody waits for gathers longer still."""


class Healthy(Case):
    """The cloud is there and acknowledges, on a machine that may not let it do so within 100 ms."""

    def __init__(self, scenario, name, commit, bytes_max):
        cloud = Mosquitto(scenario, name.replace(" ", "-") + "-cloud")
        cloud.start()
        super().__init__(scenario, name, bridge(cloud.port, commit), bytes_max, publishers=1)
        observer = Client("observer", self.gateway.port).connect()
        observer.subscribe("$SYS/tidegate/bridges/cloud/state", 0)
        observer.wait_payload("$SYS/tidegate/bridges/cloud/state", "up")


class Publisher(StrictPublisher):
    """Without a session that outlives its connection: that would be written too."""

    CONNECT_FLAGS = 0x02


class Lonely(Publisher):
    """Sends one at a time."""

    async def exchange(self):
        began = time.monotonic()
        for message in self.waiting:
            self.writer.write(packet(PUBLISH, 2, text(message.topic) + struct.pack(">H", 1) + message.payload))
            kind, _, _ = await self.read_packet()
            if kind != PUBACK:
                raise Failure(f"packet {kind} for a PUBLISH")
        self.seconds = time.monotonic() - began
        self.waiting.clear()


def run_lonely(scenario, commit, publishers):
    gateway = Gateway(scenario, bridge(free_port(), commit), name=f"lonely-{commit}-{publishers}")
    gateway.start()
    alone = [
        Lonely(f"alone-{n}", gateway.port, 4, messages(LONELY_MESSAGES, f"devices/{n}"), 0) for n in range(publishers)
    ]

    async def publish():
        await asyncio.gather(*(publisher.run() for publisher in alone))

    asyncio.run(publish())
    seconds = max(publisher.seconds for publisher in alone)
    scenario.figure(
        f"{publishers} one at a time, commit {commit}: {publishers * LONELY_MESSAGES / seconds:.0f} messages/s"
    )
    gateway.end(scenario)
    return seconds


def main():
    with Scenario("flash", 120 + 2 * SECONDS) as scenario:
        cases = [
            Case(scenario, "outage 100ms", bridge(free_port(), "100ms"), BYTES_MAX["100ms"], publishers=1),
            Case(scenario, "outage 1s", bridge(free_port(), "1s"), BYTES_MAX["1s"], publishers=1),
            Case(scenario, "fleet 100ms", bridge(free_port(), "100ms"), BYTES_MAX["100ms"], publishers=FLEET),
            Readings(scenario, "readings 100ms", "100ms"),
            Readings(scenario, "readings 1s", "1s"),
            Away(scenario, "session away"),
            Spared(scenario, "outage, budget short", bridge(free_port(), "100ms"), BYTES_MAX["1s"], publishers=1),
            SparedReadings(scenario, "readings, budget short", "100ms", BYTES_MAX["1s"]),
            Healthy(scenario, "healthy", PATIENT_COMMIT, 0),
            Healthy(scenario, "healthy 100ms", "100ms", None),
        ]
        for case in cases:
            case.begin()

        async def publish():
            await asyncio.gather(*(case.publish() for case in cases))

        publishing = threading.Thread(target=lambda: asyncio.run(publish()), daemon=True)
        publishing.start()
        wait_for("the publishers' end", lambda: not publishing.is_alive(), 2 * SECONDS + 60)
        for case in cases:
            case.end()
        run_lonely(scenario, "100ms", 1)
        run_lonely(scenario, "100ms", 10)
        seconds = run_lonely(scenario, f"{LONELY_COMMIT_SECONDS}s", 1)
        # If each waited for its commit, it would be a hundred times as long as the bound.
        patience = LONELY_MESSAGES * LONELY_COMMIT_SECONDS / 10
        scenario.check("who sends one at a time does not wait for each commit", seconds < patience, seconds)


if __name__ == "__main__":
    main()
