"""What registers mean, over a Modbus TCP server of pymodbus: the whole of tests/decoding.txt is read as it says there, and
what is written arrives; labels, named bits, scales of other points, windows, and computed points as Python computes them."""

import json
import math
import random
import subprocess
import sys
import time
from pathlib import Path

from harness import Client, Gateway, Scenario, free_port, wait_for
from modbus_server import ModbusServer, Registers

TESTS = Path(__file__).parents[1]
# Behind the cases: what the others are for.
STATE, MODE, POWER, POWER_SF, SETPOINT, SETPOINT_SF, TEXT = 5000, 5001, 5010, 5011, 5020, 5021, 5030
COUNTER = 5040
EXPONENTS = {"-2": 5050, "-1": 5051}
EXPRESSIONS = 60
INPUTS = {"a": 6.5, "b": -2.25, "c": 17.0, "n": 0.0}
WINDOW_SECONDS = 2


def cases():
    """Point, type and options, registers, value; each at an address of its own."""
    address = 0
    for number, line in enumerate((TESTS / "decoding.txt").read_text().splitlines()):
        if not line.startswith("#"):
            what, words, value = line.split(" | ")
            words = [int(word, 16) for word in words.split()]
            yield f"c{number}", address, what.split(), words, value
            address += len(words)


def yaml_of(address, what, words):
    name, word_order, byte_order, *options = what
    keys = [f"holding: {address}", f"type: {name}", f"word_order: {word_order}", f"byte_order: {byte_order}"]
    if name == "string":
        keys.append(f"length: {len(words)}")
    for option in options:
        key, value = option.split("=")
        if key == "invalid":
            keys.append(f"invalid: [{value}]")
        elif key != "exponent":
            keys.append(f"{key}: {value}")
        elif value in EXPONENTS:
            keys.append(f"scale_from: sf{value}")
    return "{ " + ", ".join(keys) + " }"


def expressions():
    """Text, and what Python makes of it: ours has `^` for `**`, and `c ? a : b`."""
    rng = random.Random(7)

    def grow(levels):
        if levels == 0 or rng.random() < 0.15:
            return str(rng.randint(0, 40) / 4) if rng.random() < 0.5 else rng.choice(list(INPUTS))
        kind = rng.random()
        if kind < 0.6:
            return f"({grow(levels - 1)} {rng.choice(['+', '-', '*', '/', '%'])} {grow(levels - 1)})"
        if kind < 0.75:
            return f"{rng.choice(['min', 'max'])}({grow(levels - 1)}, {grow(levels - 1)})"
        if kind < 0.85:
            return f"abs(-{grow(levels - 1)})"
        sign = rng.choice(["<", "<=", ">", ">=", "==", "!="])
        return f"({grow(levels - 1)} if {grow(levels - 1)} {sign} {grow(levels - 1)} else {grow(levels - 1)})"

    def ours(text):
        # `(A if C else B)` is `if(C, A, B)`.
        while " if " in text:
            end = text.index(" else ")
            middle = text.rindex(" if ", 0, end)
            depth, start = 0, middle
            while depth != 1:
                start -= 1
                depth += {"(": 1, ")": -1}.get(text[start], 0)
            depth, stop = 0, end
            while depth != -1:
                stop += 1
                depth += {"(": 1, ")": -1}.get(text[stop], 0)
            parts = text[middle + 4 : end], text[start + 1 : middle], text[end + 6 : stop]
            text = f"{text[:start]}if({', '.join(parts)}){text[stop + 1 :]}"
        return text

    for number in range(EXPRESSIONS):
        # One input at least.
        python = f"{grow(4)} + a * 0"
        try:
            value = eval(python, {"min": min, "max": max, "abs": abs}, INPUTS)
        except ZeroDivisionError:
            value = None
        yield f"e{number}", ours(python), value


def sections(port, table):
    points = [f"      {name}: {yaml_of(address, what, words)}" for name, address, what, words, _ in table]
    points += [f"      sf{value}: {{ holding: {at}, type: i16, publish: false }}" for value, at in EXPONENTS.items()]
    points += [
        f"      state: {{ holding: {STATE}, bits: {{ alarm: 0, running: 1, gear: 4-6 }}, writable: true }}",
        f"      mode: {{ holding: {MODE}, labels: {{ 0: off, 1: auto, 2: manual }}, writable: true }}",
        f"      power: {{ holding: {POWER}, type: i16, scale_from: power_sf }}",
        f"      power_sf: {{ holding: {POWER_SF}, type: i16, publish: false }}",
        f"      setpoint: {{ holding: {SETPOINT}, type: i16, scale_from: setpoint_sf, writable: true, max: 50 }}",
        f"      setpoint_sf: {{ holding: {SETPOINT_SF}, type: i16 }}",
        f"      text: {{ holding: {TEXT}, type: string, length: 4, writable: true }}",
        f"      counter: {{ holding: {COUNTER}, aggregate: {{ every: {WINDOW_SECONDS}s, of: max }} }}",
        '      ready: { compute: "state.running and mode == \'auto\' ? state.gear : -1" }',
    ]
    for at, (name, _) in enumerate(INPUTS.items()):
        points.append(f"      {name}: {{ holding: {COUNTER + 1 + at}, type: i16, scale: 0.25, publish: false }}")
    points += [f'      {name}: {{ compute: "{text}" }}' for name, text, _ in expressions()]
    lines = "\n".join(points)
    return f"""
devices:
  meter:
    modbus: {{ tcp: 127.0.0.1:{port}, unit: 1 }}
    poll: 300ms
    points:
{lines}
"""


def registers(table):
    held = {}
    for _, address, _, words, _ in table:
        held.update(enumerate(words, address))
    held.update({at: int(value) & 0xFFFF for value, at in EXPONENTS.items()})
    held.update({STATE: 0xFF52, MODE: 1, POWER: 2301, POWER_SF: 0xFFFF, SETPOINT: 200, SETPOINT_SF: 0xFFFF})
    held.update({TEXT + at: 0 for at in range(4)})
    held.update({COUNTER: 9})
    held.update({COUNTER + 1 + at: int(value * 4) & 0xFFFF for at, value in enumerate(INPUTS.values())})
    return Registers(holding=held)


def is_told(reading, value):
    if value.startswith("bad: "):
        return reading["value"] is None and reading["quality"] == "bad" and reading["error"] == value[5:]
    wanted = json.loads(value)
    if isinstance(reading["value"], float):
        # A float is written shorter.
        wanted = float(wanted)
    return reading["quality"] == "good" and reading["value"] == wanted


class Values:
    def __init__(self, scenario):
        self.scenario = scenario
        self.table = list(cases())
        port = free_port()
        self.device = ModbusServer(1, registers(self.table), tcp_port=port)
        scenario.cleanups.append(self.device.stop)
        self.device.start()
        self.gateway = Gateway(scenario, sections(port, self.table))
        self.gateway.start()
        self.client = Client("reader", self.gateway.port).connect()
        self.client.subscribe("devices/#", 1)

    def last(self, point):
        messages = wait_for(f"a reading of {point}", lambda: self.client.received(f"devices/meter/{point}"))
        return json.loads(messages[-1].payload)

    def wait_value(self, point, value):
        wait_for(f"{point} is {value}", lambda: self.last(point)["value"] == value)

    def ask(self, point, payload):
        result = f"devices/meter/{point}/result"
        before = len(self.client.received(result))
        self.client.publish(f"devices/meter/{point}/set", payload)
        return json.loads(self.client.wait_count(before + 1, result)[-1].payload)

    def check_table(self):
        told = {name: (self.last(name), what, value) for name, _, what, _, value in self.table}
        wrong = [of for of in told.values() if not is_told(of[0], of[2])]
        self.scenario.check(f"{len(told)} values are read as tests/decoding.txt says", not wrong, wrong[:5])

    def check_expressions(self):
        wrong = []
        for name, text, value in expressions():
            reading = self.last(name)
            if value is None:
                good = reading["error"] == "division by zero"
            else:
                good = reading["quality"] == "good" and math.isclose(reading["value"], value, rel_tol=1e-9, abs_tol=1e-9)
            if not good:
                wrong.append((text, reading, value))
        self.scenario.check(f"{EXPRESSIONS} expressions are what Python computes", not wrong, wrong[:5])

    def check_writes(self):
        check = self.scenario.check_equal
        state = {"alarm": False, "running": True, "gear": 5}
        check("named bits", self.last("state")["value"], state)
        check("the label of a number", self.last("mode")["value"], "auto")
        check("computed from bits and a label", self.last("ready")["value"], 5)
        state = {"alarm": True, "running": True, "gear": 2}
        check("two fields are written", self.ask("state", '{"alarm":true,"gear":2}'), {"value": state, "ok": True})
        check("and the other bits stay", self.device.holding(STATE), [0xFF23])
        self.wait_value("ready", 2)
        check("a label is written", self.ask("mode", "manual"), {"value": "manual", "ok": True})
        check("as its number", self.device.holding(MODE), [2])
        self.wait_value("ready", -1)
        check("a scale of another point", self.last("power")["value"], 230.1)
        check("a point that is not published", self.client.received("devices/meter/power_sf"), [])
        check("a scaled value is written", self.ask("setpoint", "21.5"), {"value": 21.5, "ok": True})
        check("with that scale", self.device.holding(SETPOINT), [215])
        refused = {"ok": False, "error": "setpoint: 51 is above max 50"}
        check("a value above max is refused", self.ask("setpoint", "51"), refused)
        check("text is written", self.ask("text", "Größe"), {"value": "Größe", "ok": True})
        held = "Größe".encode().ljust(8, b"\0")
        words = [int.from_bytes(held[at : at + 2], "big") for at in range(0, 8, 2)]
        check("as UTF-8, with zeros behind it", self.device.holding(TEXT, 4), words)

    def check_window(self):
        topic = "devices/meter/counter"
        before = len(self.client.received(topic))
        messages = self.client.wait_count(before + 2, topic)[-2:]
        readings = [json.loads(message.payload) for message in messages]
        self.scenario.check_equal("a window's largest", [reading["value"] for reading in readings], [9, 9])


def main():
    table = subprocess.run([sys.executable, TESTS / "decoding.py", "--check"], capture_output=True, text=True, check=False)
    with Scenario("values", 120) as scenario:
        scenario.check(f"the table: {table.stdout.strip()}", table.returncode == 0, table.stderr)
        dumps = subprocess.run([sys.executable, TESTS / "profiles.py", "--check"], capture_output=True, text=True, check=False)
        scenario.check("the dumps of the profiles", dumps.returncode == 0, dumps.stderr)
        values = Values(scenario)
        began = time.monotonic()
        values.check_table()
        scenario.figure(f"{len(values.table)} points were read and published in {time.monotonic() - began:.2f} s")
        values.check_expressions()
        values.check_writes()
        values.check_window()
        values.gateway.end(scenario)


if __name__ == "__main__":
    main()
