"""A box without a clock battery. The gateway starts in 1970, with the uplink down; it is killed and starts again, and
then the clock is set, by 56 years. Everything that waited arrives once, in order, with the time at which the device
answered and without a mark; nothing has expired. The clock is set back and forwards again, and the machine starts anew
twice: what waits is corrected where its boot has known the time, and else stays marked."""

import json
import mmap
import struct
import subprocess
import time
import urllib.request
from datetime import datetime
from pathlib import Path

from harness import Client, Gateway, Mosquitto, Scenario, free_port, wait_for
from modbus_server import ModbusServer, Registers

READINGS = "devices/meter/voltage"
IN_CLOUD = f"sites/plant-7/{READINGS}"
MARK = "unsynchronised"
# Between an answer of the device, here and in the gateway: both read their clocks at different moments.
TOLERANCE_SECONDS = 2
MESSAGES_MIN = 5


class Clock:
    """The wall clock of one gateway."""

    def __init__(self, scenario, gateway):
        self.gateway = gateway
        library = scenario.folder / "clock.so"
        source = Path(__file__).with_name("clock.c")
        subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-o", library, source, "-ldl"], check=True)
        path = scenario.folder / "clock.offset"
        path.write_bytes(bytes(8))
        with path.open("r+b") as file:
            self.offset = mmap.mmap(file.fileno(), 8)
        gateway.environment = {"LD_PRELOAD": str(library), "CLOCK_OFFSET": str(path)}

    def boot(self, number):
        """The machine starts anew, at the first of January 1970. Its uptime goes on in truth: what an earlier boot left
        counts as that old, hence the buffer's age, which 56 years are above all the same."""
        self.gateway.environment["TIDEGATE_BOOT_ID"] = f"{number:016x}{number:016x}"
        self.step_to(60)

    def step_to(self, seconds):
        self.offset[:] = struct.pack("<q", int((seconds - time.time()) * 1000))

    def set(self):
        self.offset[:] = bytes(8)


def reading(message):
    said = json.loads(message.payload)
    moment = datetime.fromisoformat(said["time"].replace("Z", "+00:00")).timestamp()
    return moment, said.get("clock") == MARK


class Run:
    def __init__(self, scenario):
        self.scenario = scenario
        self.meter = ModbusServer(1, Registers(holding={0: 230}), tcp_port=free_port())
        self.cloud = Mosquitto(scenario, "cloud")
        self.http_port = free_port()
        self.gateway = Gateway(scenario, self.sections())
        self.clock = Clock(scenario, self.gateway)
        # A client whose session must not expire by a step of 56 years.
        self.local = None
        self.observer = Client("observer", self.cloud.port, clean=False, expiry=3600)

    def sections(self):
        return f"""
http: {{ address: 127.0.0.1:{self.http_port} }}
devices:
  meter:
    modbus: {{ tcp: 127.0.0.1:{self.meter.tcp_port}, unit: 1 }}
    poll: 100ms
    publish: {{ when: poll }}
    points:
      voltage: {{ holding: 0, type: u16 }}
bridges:
  cloud:
    url: mqtt://127.0.0.1:{self.cloud.port}
    reconnect: {{ min: 200ms, max: 1s }}
    buffer: {{ age: 365d }}
    forward:
      - topic: {READINGS}
        to: "sites/{{gateway}}/{{topic}}"
"""

    def status(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}/api/v1/status") as answer:
            return json.load(answer)

    def waits(self):
        return self.status()["bridges"][0]["queued_messages"]

    def wait_more(self):
        """Until the buffer holds some more readings."""
        before = self.waits()
        wait_for("readings that wait", lambda: self.waits() >= before + MESSAGES_MIN)

    def wait_live(self, marked):
        """Until a reading passes on the LAN with the mark, or without it."""
        client = Client(f"live-{time.monotonic_ns()}", self.gateway.port)
        client.connect()
        client.subscribe(READINGS, 0)
        wait_for(
            f"a reading {'with' if marked else 'without'} the mark",
            lambda: [m for m in client.received(READINGS) if not m.retain and reading(m)[1] == marked],
        )
        client.disconnect()

    def start(self):
        self.gateway.start()
        wait_for("a status", self.status)

    def subscribe(self):
        """Whoever is faster when the cloud is there again: what the bridge brings waits for the observer's session."""
        self.cloud.start()
        self.observer.connect()
        self.observer.subscribe(IN_CLOUD, 1)
        self.observer.disconnect()
        self.cloud.stop()

    def drain(self):
        """Everything that waits, as the cloud has it: the moments, and how many are marked."""
        self.cloud.start()
        self.observer.connect()
        wait_for("the buffer to drain", lambda: self.waits() <= 1, 30)
        self.meter.stop()
        wait_for("the last reading", lambda: self.status()["devices"][0]["state"] == "offline")
        wait_for("the buffer to be empty", lambda: self.waits() == 0)
        received = [m for m in self.observer.received(IN_CLOUD) if json.loads(m.payload)["quality"] == "good"]
        self.observer.clear()
        self.observer.disconnect()
        self.cloud.stop()
        self.meter.start()
        return [reading(message) for message in received]

    def judge(self, what, readings, began, ended):
        moments = [moment for moment, marked in readings if not marked]
        check = self.scenario.check
        check(f"{what}: enough arrived", len(moments) >= MESSAGES_MIN, f"{len(moments)}")
        wrong = [(a, b) for a, b in zip(moments, moments[1:]) if a >= b]
        check(f"{what}: in order, none twice", not wrong, f"{wrong}")
        first, last = moments[0] - began, moments[-1] - ended
        right = first >= -TOLERANCE_SECONDS and last <= TOLERANCE_SECONDS
        check(f"{what}: at the times of the device's answers", right, f"{first:.3f} s, {last:.3f} s")
        dropped = self.status()["bridges"][0]
        lost = [dropped[key] for key in ("dropped_full", "dropped_aged", "dropped_expired")]
        self.scenario.check_equal(f"{what}: nothing was dropped", lost, [0, 0, 0])

    def first_boot(self):
        self.clock.boot(1)
        began = time.time()
        self.meter.start()
        self.start()
        self.scenario.check_equal("status says that the clock is not set", self.status()["clock_synchronised"], False)
        self.local = Client("local", self.gateway.port, clean=False, expiry=600)
        self.local.connect()
        self.local.subscribe(READINGS, 1)
        self.wait_live(marked=True)
        self.local.disconnect()
        self.wait_more()
        self.gateway.kill()
        self.start()
        self.wait_more()
        self.clock.set()
        self.wait_live(marked=False)
        self.scenario.check_equal("status says that the clock is set", self.status()["clock_synchronised"], True)
        self.local = Client("local", self.gateway.port, clean=False, expiry=600)
        self.local.connect()
        self.scenario.check("a session outlives the step", self.local.session_present)
        waiting = [reading(m) for m in self.local.wait_count(MESSAGES_MIN, READINGS) if not m.retain]
        self.scenario.check("its messages are corrected", waiting[0][0] >= began - TOLERANCE_SECONDS, f"{waiting[0]}")
        self.local.disconnect()
        waited = self.waits()
        readings = self.drain()
        self.scenario.check("all that waited arrived", len(readings) >= waited, f"{len(readings)} of {waited}")
        self.scenario.check_equal("none of it is marked", [r for r in readings if r[1]], [])
        self.judge("the first boot", readings, began, time.time())

    def set_back(self):
        """By somebody, to what cannot be; the gateway runs on."""
        began = time.time()
        self.clock.step_to(3600)
        self.wait_live(marked=True)
        self.wait_more()
        self.clock.set()
        self.wait_live(marked=False)
        readings = self.drain()
        # The second until the step is noticed.
        kept = [r for r in readings if r[1] or r[0] > 1e9]
        self.judge("a clock that is set back", kept, began, time.time())

    def other_boots(self):
        """One that ends before its clock is set, and one that finds what it left and what an earlier one left."""
        began = time.time()
        self.wait_more()
        known = self.waits()
        self.gateway.kill()
        self.clock.boot(2)
        self.start()
        self.wait_live(marked=True)
        self.wait_more()
        self.gateway.kill()
        self.clock.boot(3)
        self.clock.set()
        self.start()
        self.wait_live(marked=False)
        readings = self.drain()
        marked = [r for r in readings if r[1]]
        self.scenario.check("what nobody can date stays marked", len(marked) >= MESSAGES_MIN, f"{len(marked)}")
        self.scenario.check("what an earlier boot dated is not", not any(r[1] for r in readings[: known // 2]))
        self.judge("other boots", readings, began, time.time())

    def run(self):
        self.subscribe()
        self.first_boot()
        self.set_back()
        self.other_boots()
        self.gateway.end(self.scenario)
        self.meter.stop()


if __name__ == "__main__":
    with Scenario("clock", 180) as scenario:
        Run(scenario).run()
