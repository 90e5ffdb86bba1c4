"""An outage of a million messages: what waits in the buffer of a bridge takes disk and neither memory nor time. The gateway
is killed and started, stopped and started, and then replays all of it while clients on the LAN talk to each other.

Judged is what no machine's speed decides: memory, that each message arrives once and in order, the largest write-ahead log,
and that the file shrinks again. Times are printed beside what they are to be. TIDEGATE_MILLION_MESSAGES: fewer, or more.
"""

import json
import os
import re
import signal
import socket
import struct
import sys
import threading
import time
import urllib.request

import wire
from harness import Failure, Gateway, Mosquitto, Process, Scenario, free_port, wait_for
from memory import status_bytes

MESSAGES = int(os.environ.get("TIDEGATE_MILLION_MESSAGES", "1000000"))
# The same again, to a broker of others: what it takes decides how long that is.
MESSAGES_MOSQUITTO = MESSAGES // 10
TOPIC, PAYLOAD_BYTES = "plant/line-4/meter-17/power", 100
# Of the publisher: a commit takes 1,000.
UNACKNOWLEDGED_MAX = 5000
PACKET_IDS = 0xFFFF
PROBES_A_SECOND, PROBED_SECONDS = 200, 4

RSS_BYTES_MAX = 40 << 20
# The log is carried over at 4 MiB; what one commit adds behind that comes on top.
WAL_BYTES_MAX = 8 << 20
# What the file keeps for the next outage, and what stands in it beside the buffer.
FILE_BYTES_MAX = 6 << 20
SAMPLE_SECONDS = 0.02
READ_BYTES = 1 << 18
# Bounds on waiting, which decide only that something never comes.
START_SECONDS_MAX, REPLAY_SECONDS_MAX, SHRINK_SECONDS_MAX, SCENARIO_SECONDS_MAX = 60, 240, 120, 380
MIB = 1 << 20


def sections(cloud_port, http_port):
    return f"""
http: {{ address: 127.0.0.1:{http_port} }}
bridges:
  cloud:
    url: mqtt://127.0.0.1:{cloud_port}
    reconnect: {{ min: 200ms, max: 500ms }}
    buffer: {{ size: 4GiB }}
    forward:
      - topic: plant/#
"""


class Largest(threading.Thread):
    """How large the write-ahead log ever was, as far as somebody who looks often can see."""

    def __init__(self, path):
        super().__init__(daemon=True)
        self.path, self.bytes = path, 0
        self.start()

    def run(self):
        while True:
            self.bytes = max(self.bytes, size_of(self.path))
            time.sleep(SAMPLE_SECONDS)


def size_of(path):
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


def publish(port, first, count):
    """As fast as they are acknowledged."""
    sock = wire.open_socket(port)
    wire.ask(sock, wire.connect("meter-17"), wire.CONNACK)
    packet = bytearray(wire.publish_1(TOPIC, bytes(PAYLOAD_BYTES)))
    number_at = len(packet) - PAYLOAD_BYTES
    group, sent, acknowledged, rest = UNACKNOWLEDGED_MAX // 2, 0, 0, b""
    while acknowledged < count:
        while sent < count and sent - acknowledged <= UNACKNOWLEDGED_MAX - group:
            many = bytearray(packet * min(group, count - sent))
            for at in range(0, len(many), len(packet)):
                struct.pack_into(">HQ", many, at + number_at - 2, sent % PACKET_IDS + 1, first + sent)
                sent += 1
            sock.sendall(many)
        part = sock.recv(READ_BYTES)
        if not part:
            raise Failure("the gateway closed the publisher")
        rest += part
        acknowledged += len(rest) // 4
        rest = rest[len(rest) // 4 * 4 :]
    sock.sendall(wire.DISCONNECT)
    sock.close()


class Run:
    def __init__(self, scenario):
        self.scenario, self.cloud_port, self.http_port = scenario, free_port(), free_port()
        self.gateway = Gateway(scenario, sections(self.cloud_port, self.http_port))
        self.file = self.gateway.data_dir / "tidegate.db"
        self.log = Largest(f"{self.file}-wal")

    def metric(self, name):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}/metrics", timeout=10) as page:
            found = re.search(rf"^tidegate_{name}{{.*}} (\d+)$", page.read().decode(), re.M)
        if not found:
            raise Failure(f"no metric {name}")
        return int(found[1])

    def queued(self):
        return self.metric("bridge_queued_messages")

    def start(self, after):
        """Until the first client is served."""
        begun = time.monotonic()
        super(Gateway, self.gateway).start()
        while True:
            try:
                sock = socket.create_connection(("127.0.0.1", self.gateway.port), timeout=START_SECONDS_MAX)
                break
            except ConnectionRefusedError:
                if time.monotonic() - begun > START_SECONDS_MAX or not self.gateway.is_running():
                    raise Failure(f"no start after {after}") from None
                time.sleep(0.002)
        wire.ask(sock, wire.connect("first"), wire.CONNACK)
        seconds = time.monotonic() - begun
        sock.close()
        self.scenario.figure(f"after {after}: a client is served after {seconds:.2f} s (2 s), {self.memory()}")

    def memory(self):
        now, most = (status_bytes(self.gateway, key) / MIB for key in ("VmRSS", "VmHWM"))
        return f"{now:.1f} MiB resident, {most:.1f} at most (40)"

    def check_memory(self, when):
        most = status_bytes(self.gateway, "VmHWM")
        self.scenario.check(f"{when}: less than {RSS_BYTES_MAX // MIB} MiB are resident", most < RSS_BYTES_MAX, most)

    def fill(self):
        self.gateway.start()
        begun = time.monotonic()
        publish(self.gateway.port, 0, MESSAGES)
        seconds = time.monotonic() - begun
        self.scenario.figure(f"{MESSAGES} messages are buffered, {MESSAGES / seconds:,.0f} a second; {self.memory()}")
        self.check_memory("as the buffer fills")

    def restart(self):
        self.gateway.kill()
        self.start("a kill")
        self.check_memory("after a kill")
        self.scenario.check_equal("nothing that was acknowledged is lost by the kill", self.queued(), MESSAGES)
        self.scenario.check_equal("the gateway ends with 0 after SIGTERM", self.gateway.stop(), 0)
        self.start("a stop")
        self.scenario.check_equal("nothing is lost by the stop", self.queued(), MESSAGES)

    def replay(self):
        """To a cloud that takes everything at once, beside clients that talk to each other."""
        probe = Process(
            self.scenario, "probe", [sys.executable, "tests/load/probe.py", self.gateway.port, PROBES_A_SECOND]
        )
        self.scenario.quiet.add(probe)
        probe.start()
        wait_for("the probe", lambda: "ready" in probe.log())
        time.sleep(PROBED_SECONDS)
        full = size_of(self.file)
        sink = Process(
            self.scenario,
            "sink",
            [sys.executable, "tests/load/sink.py", self.cloud_port, TOPIC, PAYLOAD_BYTES, MESSAGES],
        )
        sink.start()
        wait_for("the end of the replay", lambda: not sink.is_running(), REPLAY_SECONDS_MAX)
        probe.stop()
        self.judge(json.loads(sink.log()), json.loads(probe.log().splitlines()[-1]))
        self.check_memory("as the buffer is replayed")
        return full

    def judge(self, seen, probed):
        scenario = self.scenario
        scenario.check_equal("the cloud has every message", seen["expected"], MESSAGES)
        scenario.check_equal("each once", seen["repeated"], 0)
        scenario.check_equal("in order", seen["disordered"], 0)
        seconds = seen["last"] - seen["first"]
        scenario.figure(
            f"replay: begins {1000 * (seen['first'] - seen['connected']):.0f} ms after CONNECT (1,000), takes {seconds:.1f} s:"
            f" {MESSAGES / seconds:,.0f} messages a second (25,000); {self.memory()}"
        )
        before = sorted(took for due, took in probed if due < seen["connected"])
        during = sorted(took for due, took in probed if seen["first"] <= due <= seen["last"])
        for name, part in (("median", 50), ("p99", 99)):
            idle, busy = (1000 * times[len(times) * part // 100] for times in (before, during))
            scenario.figure(
                f"a message on the LAN takes {busy:.2f} ms ({name} of {len(during)}) meanwhile, {idle:.2f} before:"
                f" {busy / idle:.2f} times as long (2)"
            )

    def shrink(self, full):
        begun = time.monotonic()
        wait_for("the file to shrink", lambda: size_of(self.file) <= FILE_BYTES_MAX, SHRINK_SECONDS_MAX)
        self.scenario.check("the file shrinks once the buffer is empty", True)
        self.scenario.figure(
            f"the file: {full / MIB:.1f} MiB with all of them, {size_of(self.file) / MIB:.1f} MiB"
            f" {time.monotonic() - begun:.1f} s later; the largest log {self.log.bytes / MIB:.1f} MiB"
        )
        self.scenario.check(
            f"the log never has more than {WAL_BYTES_MAX // MIB} MiB", self.log.bytes <= WAL_BYTES_MAX, self.log.bytes
        )

    def replay_to_mosquitto(self):
        """No subscriber: it takes what it can."""
        publish(self.gateway.port, 0, MESSAGES_MOSQUITTO)
        mosquitto = Mosquitto(self.scenario, "cloud", port=self.cloud_port)
        mosquitto.start()
        wait_for("the first message to reach Mosquitto", lambda: self.queued() < MESSAGES_MOSQUITTO)
        begun, left = time.monotonic(), self.queued()
        wait_for("the end of the replay to Mosquitto", lambda: self.queued() == 0, REPLAY_SECONDS_MAX)
        rate = left / (time.monotonic() - begun)
        self.scenario.figure(f"replay to Mosquitto: {left} messages, {rate:,.0f} a second")


def main():
    with Scenario("million", SCENARIO_SECONDS_MAX) as scenario:
        run = Run(scenario)
        run.fill()
        run.restart()
        run.shrink(run.replay())
        run.replay_to_mosquitto()
        run.gateway.end(scenario)


if __name__ == "__main__":
    main()
