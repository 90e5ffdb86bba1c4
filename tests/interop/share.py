"""Lines that other masters share: pymodbus and mbpoll (libmodbus) as two masters beside the gateway's own polls, pymodbus
as RTU units behind socat. What reached the units is counted by the units themselves."""

import contextlib
import json
import re
import subprocess
import threading

from harness import TIDEGATE, Gateway, Process, Scenario, free_port, wait_for
from modbus_server import ModbusServer, Registers
from pymodbus.client import ModbusTcpClient
from pymodbus.framer import FramerType
from pymodbus.server import ModbusSerialServer

UNITS = (1, 2)
DEAD = 9
REGISTERS = 40
ILLEGAL_FUNCTION, ILLEGAL_ADDRESS, NO_ANSWER = 1, 2, 11
# Modbus application protocol V1.1b3, 6.21.
IDENTIFY = 0x2B
# Of one kind of request each, so that polls and masters are told apart and take as long.
POLLED, HAMMERED = 4, 3
HAMMERED_REQUESTS = 200


def value(unit, address):
    return unit * 1000 + address


class Units(ModbusServer):
    """Two units on one line, and one that is dead."""

    def __init__(self, serial_path):
        super().__init__(None, None, serial_path=serial_path, framer=FramerType.RTU)
        self.seen = []

    async def _start(self):
        def trace(sending, pdu):
            if not sending:
                self.seen.append((pdu.dev_id, pdu.function_code, pdu.address))
            return pdu

        def keep_silent(sending, data):
            # pymodbus answers for units that it does not have, too.
            return b"" if sending and data[:1] == bytes([DEAD]) else data

        def registers(unit):
            table = {address: value(unit, address) for address in range(REGISTERS)}
            return Registers(holding=dict(table), inputs=dict(table), coils={3: True}).device(unit)

        self.server = ModbusSerialServer(
            [registers(unit) for unit in (*UNITS, DEAD)],
            framer=self.framer,
            port=str(self.serial_path),
            baudrate=19200,
            trace_pdu=trace,
            trace_packet=keep_silent,
        )
        await self.server.serve_forever(background=True)

    def count(self, unit=None, function=None):
        """Without the gateway's question what a unit is, which comes when the line is idle."""
        seen = [request for request in list(self.seen) if request[1] != IDENTIFY or function == IDENTIFY]
        return sum((unit is None or unit == of) and (function is None or function == code) for of, code, _ in seen)


class Mbpoll:
    """libmodbus as a master: a process a request."""

    def __init__(self, port):
        self.port = port

    def run(self, unit, address, *values, count=1):
        args = ["mbpoll", "-a", unit, "-r", address, "-0", "-t", 4, "-1", "-o", 5, "-p", self.port]
        args += ["127.0.0.1", *values] if values else ["-c", count, "127.0.0.1"]
        done = subprocess.run([*map(str, args)], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60)
        return done.stdout + done.stderr

    def read(self, unit, address, count):
        lines = self.run(unit, address, count=count).splitlines()
        return [int(line.split(":")[1]) for line in lines if re.match(r"\[\d+\]", line)]


class Line:
    """A shared line with its units and two masters."""

    def __init__(self, scenario, name):
        self.name, self.port = name, free_port()
        self.end, far = scenario.folder / f"{name}-gateway", scenario.folder / f"{name}-units"
        socat = ["socat", *(f"pty,rawer,link={end}" for end in (self.end, far))]
        Process(scenario, f"socat-{name}", socat).start()
        wait_for("the pseudo-terminals", lambda: self.end.exists() and far.exists())
        self.units = Units(far)
        self.units.start()
        scenario.cleanups.append(self.units.stop)
        self.mbpoll = Mbpoll(self.port)

    def connect(self):
        # One request is one request.
        self.pymodbus = self.client()

    def client(self):
        client = ModbusTcpClient("127.0.0.1", port=self.port, timeout=20, retries=0)
        wait_for(f"{self.name} is shared", client.connect)
        return client


def configuration(quiet, busy):
    return f"""
ports:
  quiet: {{ path: {quiet.end}, baud_rate: 19200, share: {{ address: "127.0.0.1:{quiet.port}", cache: 1h }} }}
  busy:
    path: {busy.end}
    baud_rate: 19200
    share: {{ address: "127.0.0.1:{busy.port}", cache: 0s, writes: true }}
devices:
  meter:
    modbus: {{ port: quiet, unit: 1 }}
    poll: 1h
    points: {{ a: {{ holding: 10 }}, b: {{ holding: 11 }} }}
  pump:
    modbus: {{ port: busy, unit: 1 }}
    poll: 10ms
    retries: 0
    read: {{ max_gap: 0 }}
    points: {{ a: {{ input: 0 }}, b: {{ input: 20 }}, c: {{ input: 30 }} }}
"""


def tidegate(*args):
    arguments = [TIDEGATE, *map(str, args)]
    return subprocess.run(arguments, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)


def requests(gateway, port):
    """Of other masters, by what came of them."""
    shares = json.loads(tidegate("status", "--json", "-c", gateway.config).stdout)["shares"]
    return next(share["requests"] for share in shares if share["port"] == port)


def check_reads(scenario, line):
    """Right values for both, and each asked for once."""
    units = line.units
    wait_for("the poll", lambda: units.count(unit=1) > 0)
    before = units.count()
    expected = [value(1, 10), value(1, 11)]
    scenario.check_equal("pymodbus has what our poll read", line.pymodbus.read_holding_registers(10, count=2).registers, expected)
    scenario.check_equal("mbpoll has it too", line.mbpoll.read(1, 10, 2), expected)
    scenario.check_equal("nobody was asked for it", units.count(), before)
    wanted = [value(2, address) for address in range(5, 15)]
    for _ in range(3):
        read = line.pymodbus.read_holding_registers(5, count=10, device_id=2).registers
        if read != wanted or line.mbpoll.read(2, 7, 4) != wanted[2:6]:
            scenario.check("a unit that is no device of ours is read", False, read)
    scenario.check_equal("six reads by two masters are one on the line", units.count() - before, 1)
    bits = line.pymodbus.read_coils(3, count=1, device_id=2).bits
    scenario.check_equal("coils are read", bits[0], True)
    for _ in range(2):
        answer = line.pymodbus.read_holding_registers(5000, count=1, device_id=2)
        scenario.check_equal("a unit's exception comes through", answer.exception_code, ILLEGAL_ADDRESS)
    scenario.check_equal("and is asked for each time", units.count() - before, 4)


def check_refusals(scenario, line):
    before = line.units.count()
    answers = [
        line.pymodbus.write_register(12, 1),
        line.pymodbus.write_registers(12, [1, 2]),
        line.pymodbus.write_coil(3, False),
        line.pymodbus.mask_write_register(address=12, and_mask=0, or_mask=1),
    ]
    codes = [answer.exception_code for answer in answers]
    scenario.check_equal("pymodbus may not write", codes, [ILLEGAL_FUNCTION] * len(codes))
    said = line.mbpoll.run(1, 12, 7)
    scenario.check("mbpoll may not either", "Illegal function" in said, said)
    scenario.check_equal("no write reached the line", line.units.count(), before)


def check_writes(scenario, line):
    one, other = line.pymodbus, line.mbpoll
    scenario.check("pymodbus writes", not one.write_registers(12, [7, 8]).isError())
    scenario.check_equal("mbpoll reads it", other.read(1, 12, 2), [7, 8])
    said = other.run(2, 13, 99)
    scenario.check("mbpoll writes", "Written 1 references" in said, said)
    scenario.check_equal("pymodbus reads it", one.read_holding_registers(12, count=2, device_id=2).registers, [value(2, 12), 99])
    masked = one.mask_write_register(address=12, and_mask=0x00F0, or_mask=0x0005)
    scenario.check("a register is masked", not masked.isError() and other.read(1, 12, 1) == [5], masked)
    both = one.readwrite_registers(read_address=12, read_count=2, write_address=13, values=[6])
    scenario.check_equal("read and write in one", both.registers, [5, 6])
    echo = one.diag_query_data(b"\xa5\x37")
    scenario.check("diagnostics come through", not echo.isError(), echo)
    name = one.report_device_id()
    scenario.check("the unit's id comes through", not name.isError() and name.identifier, name)


def check_dead(scenario, line):
    """A unit that nobody is behind, and its neighbour."""
    client, units = line.pymodbus, line.units
    codes, values = set(), set()
    before = units.count(unit=DEAD)
    for _ in range(20):
        codes.add(client.read_holding_registers(1, count=1, device_id=DEAD).exception_code)
        values.add(client.read_holding_registers(1, count=1, device_id=2).registers[0])
    scenario.check_equal("a dead unit is said to be dead", codes, {NO_ANSWER})
    scenario.check_equal("its neighbour is read", values, {value(2, 1)})
    said = line.mbpoll.run(DEAD, 1)
    scenario.check("mbpoll is told so", "Target device failed to respond" in said, said)
    asked = units.count(unit=DEAD) - before
    scenario.check("most of that without asking it", 3 <= asked < 12, f"{asked} of 21")


def check_share(scenario, line):
    """The polls want more than the line has, two masters do too."""
    stop = threading.Event()
    wrong = []

    def hammer(unit):
        client = line.client()
        while not stop.is_set():
            answer = client.read_holding_registers(20, count=1, device_id=unit)
            if answer.isError() or answer.registers != [value(unit, 20)]:
                wrong.append(answer)
        client.close()

    threads = [threading.Thread(target=hammer, args=(unit,), daemon=True) for unit in UNITS]
    for thread in threads:
        thread.start()
    units = line.units
    wait_for("both are served", lambda: units.count(2, HAMMERED) > 20)
    before = units.count(1, POLLED), units.count(function=HAMMERED)
    wait_for("many requests", lambda: units.count(function=HAMMERED) >= before[1] + HAMMERED_REQUESTS, 120)
    own, others = units.count(1, POLLED) - before[0], units.count(function=HAMMERED) - before[1]
    stop.set()
    for thread in threads:
        thread.join(30)
    scenario.figure(f"{own} of our polls beside {others} requests of others")
    scenario.check_equal("each answer is right", wrong, [])
    scenario.check("our polls keep about half of the line", own >= others * 0.8, f"{own} to {others}")


def check_told(scenario, gateway, quiet, busy):
    counts = requests(gateway, "quiet")
    told = counts["answered"], counts["cached"], counts["exception"], counts["refused"]
    scenario.check_equal("the gateway counts as we do", told, (2, 7, 2, 5))
    scenario.check("dead units are counted", requests(gateway, "busy")["dead"] > 0)
    text = tidegate("status", "-c", gateway.config).stdout
    scenario.check("`status` shows shared lines", f"127.0.0.1:{quiet.port}" in text and "SHARED PORT" in text, text)
    text = tidegate("plan", "-c", gateway.config).stdout
    scenario.check("`plan` does", f"shared on 127.0.0.1:{busy.port}" in text, text)
    frames = tidegate("trace", "quiet", "-c", gateway.config).stdout.replace(" ", "")
    # Unit 2, holding registers 5 to 14.
    scenario.check("`trace` shows their requests", "02030005000a" in frames.lower(), frames)


def check_taken(scenario, gateway):
    """Its own data, the same port for other masters."""
    text = gateway.config.read_text()
    other = scenario.folder / "other.yaml"
    data = scenario.folder / "other-data"
    data.mkdir()
    other.write_text(text.replace(str(gateway.data_dir), str(data)).replace(f":{gateway.port}", ":0"))
    done = tidegate("run", "-c", other)
    said = "cannot share port" in done.stderr and "in use" in done.stderr
    scenario.check("a port that is taken ends the start", done.returncode == 1 and said, (done.returncode, done.stderr))


def main():
    with Scenario("share", 240) as scenario:
        quiet, busy = Line(scenario, "quiet"), Line(scenario, "busy")
        gateway = Gateway(scenario, configuration(quiet, busy))
        gateway.start()
        for line in (quiet, busy):
            line.connect()
        check_reads(scenario, quiet)
        check_refusals(scenario, quiet)
        check_writes(scenario, busy)
        check_dead(scenario, busy)
        check_share(scenario, busy)
        check_told(scenario, gateway, quiet, busy)
        check_taken(scenario, gateway)
        for line in (quiet, busy):
            with contextlib.suppress(Exception):
                line.pymodbus.close()
        gateway.end(scenario)


if __name__ == "__main__":
    main()
