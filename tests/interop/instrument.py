"""Serial instruments over pairs of pseudo-terminals: a scale that is asked, a GPS receiver, a JSON sensor and a CSV logger
that talk by themselves, and a binary protocol that runs elsewhere. Noise, half lines, wrong checksums and ports that
vanish: what was never said is never published."""

import contextlib
import json
import random
import struct
import threading
import time

import serial
from harness import Client, Failure, Gateway, Process, Scenario, wait_for

ROUNDS = 12
VANISHED_READINGS = 3


class Line(Process):
    """Two pseudo-terminals that are one cable: the gateway's end and the instrument's."""

    def __init__(self, scenario, name):
        self.gateway_end, self.device_end = (scenario.folder / f"{name}-{end}" for end in ("gateway", "device"))
        ends = [f"pty,raw,echo=0,link={path}" for path in (self.gateway_end, self.device_end)]
        super().__init__(scenario, f"socat-{name}", ["socat", *ends])

    def start(self):
        super().start()
        wait_for(f"the ends of {self.name}", lambda: self.gateway_end.exists() and self.device_end.exists())

    def vanish(self):
        self.kill()
        for path in (self.gateway_end, self.device_end):
            path.unlink(missing_ok=True)


class Instrument(threading.Thread):
    """What stands at the far end of a line. `said` is every value that it has said in a whole and right line."""

    def __init__(self, scenario, name):
        super().__init__(daemon=True)
        self.line = Line(scenario, name)
        self.said, self.lock = set(), threading.Lock()
        self.random = random.Random(name)
        self.port, self.is_ended = None, False
        scenario.cleanups.append(self.end)

    def plug_in(self):
        self.line.start()
        self.port = serial.Serial(str(self.line.device_end), timeout=0.05)
        if not self.is_alive():
            self.start()

    def pull_out(self):
        port, self.port = self.port, None
        self.line.vanish()
        with contextlib.suppress(OSError):
            port.close()

    def end(self):
        self.is_ended = True

    def run(self):
        while not self.is_ended:
            port = self.port
            try:
                if port is None:
                    time.sleep(0.01)
                else:
                    self.step(port)
            except (OSError, TypeError, serial.SerialException):
                # Unplugged in the midst of it.
                time.sleep(0.01)

    def say(self, value):
        with self.lock:
            self.said.add(value)

    def all_said(self):
        with self.lock:
            return set(self.said)


class Scale(Instrument):
    """Answers `P`, takes `T` and a number, which it shows from then on as its tare. Each weight is another one."""

    def __init__(self, scenario):
        super().__init__(scenario, "scale")
        self.weight, self.tare, self.is_silent = 0, 0.0, False
        self.tares, self.asked = [], 0
        self.buffer = b""

    def step(self, port):
        self.buffer += port.read(64)
        while b"\r\n" in self.buffer:
            line, self.buffer = self.buffer.split(b"\r\n", 1)
            if line.startswith(b"T "):
                self.tare = float(line[2:])
                self.tares.append(self.tare)
                port.write(b"OK\r\n")
            elif line == b"P":
                self.asked += 1
                if not self.is_silent:
                    self.answer(port)

    def answer(self, port):
        self.weight += 1
        weight = self.weight / 100
        line = f"ST,GS,{weight:9.2f}kg,{self.tare:.2f}\r\n".encode()
        # What a half or damaged line would be read as was never said: it lies above 1000.
        false = f"ST,GS, {1000 + self.weight:8d}".encode()
        kind = self.asked % 6
        if kind == 1:
            port.write(false + b"\r\n")
        elif kind == 2:
            port.write(self.random.randbytes(40).replace(b"\n", b"?") + b"\r\n" + false + b"xkg,0.00\r\n")
        elif kind == 3:
            # No answer this time, but the beginning of one.
            port.write(false)
            return
        self.say(weight)
        if kind == 4:
            port.write(line[:11])
            port.flush()
            time.sleep(0.03)
            port.write(line[11:])
        else:
            port.write(line)


class Gps(Instrument):
    """Says RMC and GGA ten times a second."""

    def __init__(self, scenario):
        super().__init__(scenario, "gps")
        self.minute, self.has_fix = 0, True

    @staticmethod
    def sentence(body, false_sum=0):
        total = 0
        for byte in body.encode():
            total ^= byte
        return f"${body}*{total ^ false_sum:02X}\r\n".encode()

    def step(self, port):
        time.sleep(0.1)
        self.minute += 1
        minutes = f"{self.minute % 60:02d}.0000"
        place = f"48{minutes},N,011{minutes},W"
        rmc = self.sentence(f"GPRMC,120000,{'A' if self.has_fix else 'V'},{place},022.4,084.4,230394,,")
        gga = self.sentence(f"GPGGA,120000,{place},{int(self.has_fix)},08,0.9,{1000 + self.minute}.5,M,46.9,M,,")
        # 70 degrees north, which no right sentence says.
        false = self.sentence(f"GPRMC,120000,A,70{minutes},N,011{minutes},W,022.4,084.4,230394,,", false_sum=1)
        if self.has_fix:
            self.say(round(48 + self.minute % 60 / 60, 7))
        self.say(1000 + self.minute + 0.5)
        half = rmc[: self.random.randrange(len(rmc) - 2)]
        port.write(self.random.choice([b"", false, half, self.random.randbytes(9)]) + rmc + gga)


class Sensor(Instrument):
    """Says JSON twenty times a second, some of it damaged."""

    def __init__(self, scenario):
        super().__init__(scenario, "sensor")
        self.count = 0

    def step(self, port):
        time.sleep(0.05)
        self.count += 1
        line = json.dumps({"temperature": self.count / 10, "door": self.count % 2 == 0, "in": {"counts": [self.count]}})
        line = line.encode() + b"\n"
        kind = self.count % 5
        if kind == 1:
            # Cut, and glued to the next one, as bytes that a buffer lost.
            port.write(line[: len(line) // 2])
        elif kind == 2:
            port.write(line.replace(b"}", b"", 1))
        else:
            self.say(self.count / 10)
            self.say(self.count)
            port.write(line)


class Logger(Instrument):
    """Says three columns, with their names first, and sometimes loses one."""

    def __init__(self, scenario):
        super().__init__(scenario, "logger")
        self.count = 0

    def step(self, port):
        time.sleep(0.05)
        self.count += 1
        if self.count % 10 == 1:
            port.write(b"time;temp;label\r\n")
        if self.count % 4 == 2:
            port.write(f"12:00;{9000 + self.count}\r\n".encode())
        elif self.count % 4 == 3:
            port.write(f'12:00;{9000 + self.count};"open\r\n'.encode())
        else:
            self.say(self.count / 4)
            port.write(f'12:00;{self.count / 4};"a;{self.count}"\r\n'.encode())


def crc(data):
    value = 0xFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ 0xA001 if value & 1 else value >> 1
    return value.to_bytes(2, "little")


class Binary(Instrument):
    """Frames of a start, a length and a checksum, among noise. Gives back what it gets, as a frame."""

    def __init__(self, scenario):
        super().__init__(scenario, "binary")
        self.got, self.count = [], 0

    @staticmethod
    def frame(payload):
        frame = b"\x02" + bytes([len(payload) + 2]) + payload
        return frame + crc(frame)

    def step(self, port):
        data = port.read(64)
        self.count += 1
        if data:
            self.got.append(data)
            payload = data
        else:
            payload = b"\x02\x02" + self.count.to_bytes(2, "big")
        frame = self.frame(payload)
        self.say(frame.hex().upper())
        wrong = bytearray(self.frame(b"\xee\xee\xee\xee"))
        wrong[3] ^= 1
        port.write(self.random.choice([b"", b"\x02", b"\x02\xff", self.random.randbytes(30), bytes(wrong)]) + frame)


def sections(scale, gps, sensor, logger, binary):
    common = "reconnect: { min: 100ms, max: 300ms }"
    pattern = r"^(?P<status>ST|US),(?P<kind>[GN]S),\s*(?P<weight>[-+]?\d+(\.\d+)?)\s*(?P<unit>kg|g),(?P<tare>[\d.]+)$"
    return f"""
ports:
  scale: {{ path: {scale.line.gateway_end} }}
  gps: {{ path: {gps.line.gateway_end}, baud_rate: 4800 }}
  sensor: {{ path: {sensor.line.gateway_end}, baud_rate: 115200 }}
  logger: {{ path: {logger.line.gateway_end} }}
  binary: {{ path: {binary.line.gateway_end} }}
devices:
  scale:
    serial:
      port: scale
      framing: {{ delimiter: "\\r\\n", max_length: 256 }}
      match: '{pattern}'
      request: {{ send: "P\\r\\n", every: 100ms }}
    timeout: 300ms
    retries: 1
    {common}
    points:
      weight: {{ field: weight, type: f64, unit: kg, deadband: 0.01 }}
      stable: {{ field: status, labels: {{ ST: true, US: false }} }}
      tare: {{ field: tare, type: f64, writable: true, command: "T {{value}}\\r\\n", expect: '^OK$', min: 0, max: 50 }}
  gps:
    serial: {{ port: gps, format: nmea, framing: {{ delimiter: "\\r\\n" }} }}
    offline_after: 2s
    {common}
    points:
      latitude: {{ field: RMC.latitude, type: f64, unit: °, round: 7 }}
      longitude: {{ field: RMC.longitude, type: f64, unit: ° }}
      altitude: {{ field: GGA.9, type: f64, unit: m }}
  sensor:
    serial: {{ port: sensor, format: json }}
    offline_after: 2s
    {common}
    publish: {{ topic: "lab/{{device}}" }}
    points:
      temperature: {{ field: temperature }}
      door: {{ field: door }}
      count: {{ field: in.counts.0, type: u32 }}
  logger:
    serial: {{ port: logger, format: csv, separator: ";", columns: [time, temp, label], framing: {{ delimiter: "\\r\\n" }} }}
    {common}
    points:
      temp: {{ field: temp, type: f64 }}
      label: {{ field: label }}
  binary:
    serial:
      port: binary
      format: raw
      framing: {{ start: "\\x02", length_at: 1, checksum: crc16-modbus }}
    {common}
    publish: {{ format: plain, retain: false }}
    points:
      frames: {{ field: hex, writable: true }}
      count: {{ byte: 4, type: u16, scale: 0.1 }}
      crc: {{ byte: 6, type: u16, byte_order: little, publish: false }}
      sum: {{ compute: "count * 10 + crc" }}
"""


def values(client, topic):
    """The good ones."""
    readings = [json.loads(message.payload) for message in client.received(topic)]
    return [reading["value"] for reading in readings if reading["quality"] == "good"]


def check_only_said(scenario, client, instruments):
    """Each value that was published was said in a whole and right line."""
    scale, gps, sensor, logger, binary = instruments
    for instrument, topic in ((scale, "weight"), (gps, "latitude"), (gps, "altitude"), (logger, "temp")):
        name = f"devices/{instrument.line.name.removeprefix('socat-')}/{topic}"
        published = values(client, name)
        false = set(published) - instrument.all_said()
        scenario.check(f"{name}: {len(published)} values, each was said", published and not false, false)
    payloads = [json.loads(payload) for payload in client.payloads("lab/sensor")]
    said = sensor.all_said()
    false = [
        payload
        for payload in payloads
        if payload["values"]["temperature"] not in said or payload["values"]["count"] not in said
    ]
    scenario.check(f"lab/sensor: {len(payloads)} messages, each was said", payloads and not false, false)
    frames = client.payloads("devices/binary/frames")
    false = set(frames) - binary.all_said()
    scenario.check(f"devices/binary/frames: {len(frames)} frames, each was said", frames and not false, false)
    scenario.check("no frame was said twice", len(frames) == len(set(frames)))
    # What a frame is too short for is bad, and said by nobody.
    frames = [bytes.fromhex(frame) for frame in frames]
    counts = [struct.unpack_from(">H", frame, 4)[0] for frame in frames if len(frame) >= 6]
    sums = [
        struct.unpack_from(">H", frame, 4)[0] + struct.unpack_from("<H", frame, 6)[0] for frame in frames if len(frame) >= 8
    ]
    wait_for("the last sum", lambda: len(client.payloads("devices/binary/sum")) >= len(sums))
    told = [round(float(payload) * 10) for payload in client.payloads("devices/binary/count")[: len(counts)]]
    scenario.check(f"{len(told)} numbers are what the bytes of their frames say", told == counts, (told, counts))
    told = [float(payload) for payload in client.payloads("devices/binary/sum")[: len(sums)]]
    scenario.check(f"{len(told)} numbers are computed from them", told == sums, (told, sums))


def ask(client, point, payload):
    """The answer to a command, parsed."""
    before = len(client.received(f"{point}/result"))
    client.publish(f"{point}/set", payload)
    return json.loads(client.wait_count(before + 1, f"{point}/result")[-1].payload)


def check_commands(scenario, client, scale, binary):
    check = scenario.check_equal
    check("a command is confirmed and read back", ask(client, "devices/scale/tare", "1.25"), {"value": 1.25, "ok": True})
    check("the scale got it once", scale.tares, [1.25])
    answer = ask(client, "devices/scale/tare", '{"value":51}')
    check("a command beyond max is refused", answer, {"ok": False, "error": "tare: 51 is above max 50"})
    answer = ask(client, "devices/scale/weight", "1")
    check("a point without a command is refused", answer, {"ok": False, "error": "weight: is not writable"})
    client.publish("devices/scale/tare/set", "2.5", qos=2)
    wait_for("the second tare", lambda: scale.tares == [1.25, 2.5])
    wait_for("the tare's reading", lambda: values(client, "devices/scale/tare")[-1:] == [2.5])
    client.publish("devices/binary/frames/set", "0A0b 0C")
    wait_for("the bytes at the instrument", lambda: b"\x0a\x0b\x0c" in b"".join(binary.got))
    client.wait_payload("devices/binary/frames", Binary.frame(b"\x0a\x0b\x0c").hex().upper())
    scenario.check("raw bytes go there, and what answers comes back", True)
    answer = ask(client, "devices/binary/frames", "0A0")
    check("half a byte is refused", answer, {"ok": False, "error": "frames: takes bytes in hex, as 02 0A FF"})


def wait_status(client, device, status):
    def condition():
        messages = client.payloads(f"devices/{device}/status")
        return messages and messages[-1] == status

    wait_for(f"{device} {status}", condition)


def check_vanished(scenario, client, scale, gps):
    """Ports that go and come back, and a scale that is silent."""
    for instrument, name, point in ((scale, "scale", "weight"), (gps, "gps", "altitude")):
        instrument.pull_out()
        wait_status(client, name, "offline")
        reading = json.loads(client.received(f"devices/{name}/{point}")[-1].payload)
        scenario.check_equal(f"{name}: a vanished port makes its readings stale", reading["quality"], "stale")
        before = len(values(client, f"devices/{name}/{point}"))
        instrument.plug_in()
        wait_status(client, name, "online")
        wait_for(
            f"new readings of {name}",
            lambda p=f"devices/{name}/{point}", b=before: len(values(client, p)) >= b + VANISHED_READINGS,
        )
        scenario.check(f"{name}: the port comes back, and readings with it", True)
    scale.is_silent = True
    wait_status(client, "scale", "offline")
    scale.is_silent = False
    wait_status(client, "scale", "online")
    scenario.check("a silent scale is offline until it answers again", True)
    gps.has_fix = False
    lost = lambda: json.loads(client.received("devices/gps/latitude")[-1].payload)  # noqa: E731
    wait_for("a latitude without fix", lambda: lost()["quality"] == "bad")
    scenario.check_equal("without a fix there is no position", lost()["error"], "the receiver has no fix")
    gps.has_fix = True


def main():
    with Scenario("instrument", 150) as scenario:
        instruments = [kind(scenario) for kind in (Scale, Gps, Sensor, Logger, Binary)]
        scale, gps, sensor, logger, binary = instruments
        gateway = Gateway(scenario, sections(*instruments))
        for instrument in instruments:
            instrument.plug_in()
        gateway.start()
        client = Client("observer", gateway.port).connect()
        for topic in ("devices/#", "lab/#"):
            client.subscribe(topic, 1)
        for name in ("scale", "gps", "sensor", "logger", "binary"):
            wait_status(client, name, "online")
        scenario.check("all instruments are online", True)
        for topic in ("scale/weight", "gps/latitude", "gps/altitude", "logger/temp", "binary/frames"):
            client.wait_count(ROUNDS, f"devices/{topic}", seconds=40)
        client.wait_count(ROUNDS, "lab/sensor")
        check_only_said(scenario, client, instruments)
        check_commands(scenario, client, scale, binary)
        check_vanished(scenario, client, scale, gps)
        check_only_said(scenario, client, instruments)
        if not gateway.is_running():
            raise Failure("the gateway ended")
        gateway.end(scenario)


main()
