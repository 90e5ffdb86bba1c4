"""The Modbus tools on the command line against pymodbus, over TCP and on a pty, alone and beside a running gateway;
mbpoll sees what they see, and tshark reads what they trace."""

import json
import os
import struct
import subprocess

from harness import TIDEGATE, Gateway, Process, Scenario, free_port, wait_for
from modbus_server import ModbusServer, Registers

UNIT = 7
VOLTS = 230.1
COUNTER = 1_234_567


def words(code, value):
    """Registers, the most significant first."""
    data = struct.pack(">" + code, value)
    return list(struct.unpack(f">{len(data) // 2}H", data))


def registers():
    holding = {0: [5], 100: [215], 110: words("I", COUNTER)[::-1], 120: [0, 1, 2, 3], 130: words("f", float("nan"))}
    flat = {address + index: word for address, row in holding.items() for index, word in enumerate(row)}
    inputs = dict(enumerate(words("f", VOLTS)))
    return Registers(holding=flat, inputs=inputs, coils={3: True, 4: False})


class Tools:
    def __init__(self, scenario):
        self.scenario = scenario

    def run(self, *args, seconds=60, user=None):
        arguments = [TIDEGATE, *map(str, args)]
        return subprocess.run(
            arguments, capture_output=True, text=True, timeout=seconds, stdin=subprocess.DEVNULL, user=user
        )

    def json(self, *args):
        """What it prints, parsed; it must end well."""
        done = self.run(*args, "--json")
        if done.returncode:
            self.scenario.check(f"{' '.join(map(str, args))} ends with 0", False, done.stderr)
            return None
        return json.loads(done.stdout)

    def values(self, *args):
        answer = self.json(*args)
        return answer and [value["value"] for value in answer["values"]]

    def check_refusal(self, what, code, words, *args):
        """One line on stderr that says what to do, nothing else, and the exit code."""
        done = self.run(*args)
        lines = done.stderr.splitlines()
        is_right = done.returncode == code and lines and all(line.startswith("error: ") for line in lines)
        self.scenario.check(what, is_right and words in done.stderr, (done.returncode, done.stderr, done.stdout))


def check_reads(tools, link):
    check = tools.scenario.check_equal
    read = ["read", *link, "-a", UNIT]
    check("a float", tools.values(*read, "--input", 0, "--type", "f32", "--round", 1), [VOLTS])
    check("a scaled integer", tools.values(*read, "--holding", 100, "--type", "i16", "--scale", 0.1), [21.5])
    check("words swapped", tools.values(*read, "--holding", 110, "-t", "u32", "--word-order", "little"), [COUNTER])
    check("several", tools.values(*read, "--holding", 120, "--count", 4), [0, 1, 2, 3])
    check("addresses from 1", tools.values(*read, "--holding", 122, "--address-base", 1), [1])
    check("coils", tools.values(*read, "--coil", 3, "-n", 2), [True, False])
    text = tools.run(*read, "--holding", 120, "-n", 2)
    check("as text", (text.returncode, text.stdout), (0, "holding 120: 0\nholding 121: 1\n"))
    shown = tools.run(*read, "--holding", 100, "--verbose").stderr.splitlines()
    check("the raw frames on request", [line[0] for line in shown], [">", "<"])


def check_writes(tools, link, server):
    check = tools.scenario.check_equal
    write = ["write", *link, "-a", UNIT]
    check("a value is written", tools.values(*write, "--holding", 100, "-t", "i16", "--scale", 0.1, "-3.5"), [-3.5])
    check("and held", server.holding(100), [0x10000 - 35])
    check("several are written", tools.values(*write, "--holding", 120, 7, 8, 9), [7, 8, 9])
    check("and held", server.holding(120, 4), [7, 8, 9, 3])
    check("coils are written", tools.values(*write, "--coil", 3, "false", "on"), [False, True])
    check("and held", [server.coil(3), server.coil(4)], [False, True])
    for address, value in [(100, 215), (120, 0), (121, 1), (122, 2)]:
        tools.run(*write, "--holding", address, value)
    tools.run(*write, "--coil", 3, "true", "false")


def check_find(tools, link):
    check = tools.scenario.check_equal
    find = ["find", *link, "-a", UNIT]
    found = tools.json(*find, "--input", 0, "--expect", VOLTS)
    best = found["fits"][0]
    check("type and table", (best["input"], best["type"], best["shift"], found["requests"] <= 3), (0, "f32", 0, True))
    found = tools.json(*find, "--holding", 111, "--expect", COUNTER)
    best = found["fits"][0]
    seen = best["holding"], best["type"], best["word_order"], best["shift"], found["requests"] <= 3
    check("the word order and an address off by one", seen, (110, "u32", "little", -1, True))
    found = tools.json(*find, "--holding", 100, "--expect", 21.5)
    best = found["fits"][0]
    check("the scale", (best["holding"], best["type"], best["scale"]), (100, "u16", 0.1))
    found = tools.json(*find, "--holding", 0, "--expect", VOLTS)
    best = found["fits"][0]
    check("the other table", (best["input"], best["type"], found["requests"] <= 3), (0, "f32", True))
    text = tools.run(*find, "--input", 0, "--expect", VOLTS, "--name", "voltage").stdout
    check("a line to paste", text.splitlines()[0].split("  #")[0], "voltage: { input: 0, type: f32 }")
    done = tools.run(*find, "--input", 0, "--expect", 999.5, "--verbose")
    requests = [line for line in done.stderr.splitlines() if line.startswith(">")]
    tools.scenario.check("in vain after 3 requests at most", done.returncode == 1 and len(requests) <= 3, done.stderr)


def check_faults(tools, tcp, port, silent):
    refusal = tools.check_refusal
    read = ["read", "--tcp", tcp, "-a", UNIT]
    refusal("an exception", 1, "exception 2 (illegal data address)", *read, "--holding", 5000)
    refusal("no number", 1, "not every value can be decoded", *read, "--holding", 130, "-t", "f32")
    refusal("a wrong type", 2, "--type: unknown value `f31`", *read, "--holding", 1, "-t", "f31")
    refusal("a wrong unit", 2, "--unit: ", "read", "--port", port, "-a", 300, "--holding", 1)
    refusal("no address", 2, "which address?", *read)
    refusal("nobody listens", 1, "nobody listens there", "read", "--tcp", f"127.0.0.1:{free_port()}", "--input", 0)
    quick = ["-o", "200ms", "--holding", 100]
    refusal("no answer", 1, "does not answer within 200ms", "read", "--port", silent, *quick)
    refusal("a value that does not fit", 2, "does not fit u16", "write", "--tcp", tcp, "--holding", 100, 70000)
    refusal("no such port", 1, "`tidegate scan` lists", "read", "--port", "/dev/no-such-port", "--input", 0)
    if os.getuid() == 0 and tools.run("--version", user="nobody").returncode == 0:
        done = tools.run("read", "--port", os.path.realpath(port), "--input", 0, user="nobody")
        is_right = done.returncode == 1 and "of the group that owns the port" in done.stderr
        tools.scenario.check("no permission", is_right, done.stderr)


def check_mbpoll(tools, tcp_port):
    """Somebody else's master sees the same."""
    asked = ["mbpoll", "-a", UNIT, "-r", 120, "-0", "-c", 4, "-t", 4, "-1", "-p", tcp_port, "127.0.0.1"]
    done = subprocess.run([*map(str, asked)], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    seen = [int(line.split(":")[1]) for line in done.stdout.splitlines() if line.startswith("[12")]
    ours = tools.values("read", "--tcp", f"127.0.0.1:{tcp_port}", "-a", UNIT, "--holding", 120, "-n", 4)
    tools.scenario.check_equal("mbpoll reads the same", seen, ours)


def check_scan(tools, tcp, port, silent):
    """pymodbus answers under every number, but holds registers under its own alone."""
    check = tools.scenario.check_equal
    found = tools.json("scan", "--port", port, "--baud-rate", "19200", "--parity", "none", "--units", "5-9")
    units = [unit["unit"] for unit in found["units"] if unit["answer"] == "holding 0 is 5"]
    check("the unit on the line", (units, found["baud_rate"], found["complete"]), ([UNIT], 19200, True))
    done = tools.run("scan", "--port", port, "-b", "19200", "--units", UNIT)
    pasted = tools.scenario.folder / "pasted.yaml"
    pasted.write_text(done.stdout)
    check("its YAML loads", tools.run("check", "-c", pasted).stdout, "ok: 1 device, 1 point, 0 bridges\n")
    found = tools.json("scan", "--tcp", tcp, "--units", "6-8", "--timeout", "200ms")
    tools.scenario.check("the unit behind an address", UNIT in [unit["unit"] for unit in found["units"]], found)
    ports = tools.json("scan")["ports"]
    tools.scenario.check("the serial ports", all(port["path"].startswith("/dev/") for port in ports), ports)
    bounded = ["scan", "--port", silent, "--for", "1s"]
    tools.check_refusal("a scan that finds nobody", 1, "nobody answers", "scan", "--port", silent, "-b", 9600, "-a", "1-2")
    tools.check_refusal("a scan ends in its time", 1, "`--for` gives more time", *bounded)


def configuration(tcp, port):
    return f"""
ports:
  rs485-a: {{ path: {port}, baud_rate: 19200 }}
devices:
  meter:
    modbus: {{ port: rs485-a, unit: {UNIT} }}
    poll: 100ms
    points:
      voltage: {{ input: 0, type: f32, round: 1, unit: V }}
      setpoint: {{ holding: 100, type: i16, scale: 0.1, unit: °C, writable: true, min: 5, max: 30 }}
  inverter:
    modbus: {{ tcp: "{tcp}", unit: {UNIT} }}
    poll: 100ms
    points:
      counter: {{ holding: 110, type: u32, word_order: little }}
"""


def check_beside_gateway(tools, gateway, line_server, port):
    check, config = tools.scenario.check_equal, ["-c", gateway.config]
    check("a point of the gateway's line", tools.values("read", "meter", "voltage", *config), [VOLTS])
    check("all points of a device", tools.values("read", "inverter", *config), [COUNTER])
    check("an address on its line", tools.values("read", "meter", "--holding", 120, "-n", 2, *config), [0, 1])
    check("another unit's port by name", tools.values("read", "--port", "rs485-a", "-a", UNIT, "--coil", 3, *config), [True])
    check("a point is written", tools.values("write", "meter", "setpoint", 12.5, *config), [12.5])
    check("and held", line_server.holding(100), [125])
    tools.check_refusal("beyond its bounds", 2, "99 is above max 30", "write", "meter", "setpoint", 99, *config)
    tools.check_refusal("not writable", 2, "voltage: is not writable", "write", "meter", "voltage", 1, *config)
    refused = ["read", "--port", "rs485-a", "-a", UNIT, "--coil", 900, *config]
    tools.check_refusal("an exception through the gateway", 1, "exception 2", *refused)
    found = tools.json("find", "meter", "--input", 1, "--expect", VOLTS, *config)
    check("a register on its line", (found["fits"][0]["input"], found["fits"][0]["shift"]), (0, -1))
    tools.check_refusal("the port itself is busy", 1, "another program holds it", "read", "--port", port, "--input", 0)


def check_trace(tools, gateway):
    scenario, config = tools.scenario, ["-c", gateway.config]
    done = tools.run("trace", "rs485-a", "-n", 1000, "--json", *config)
    frames = [json.loads(line) for line in done.stdout.splitlines()]
    scenario.check("frames of the line", frames and {frame["line"] for frame in frames} == {"rs485-a"}, done.stderr)
    numbers = [frame["seq"] for frame in frames]
    scenario.check("in their order", numbers == sorted(numbers), numbers)
    sent = [frame["hex"] for frame in frames if frame["direction"] == "sent"]
    scenario.check("the poll of the voltage", any(frame.startswith("070400000002") for frame in sent), sent[:5])
    scenario.check("by a device's name", tools.run("trace", "inverter", "-n", 4, *config).stdout.count("\n") == 4)
    tools.check_refusal("a line that is none", 1, "known: ", "trace", "rs485-b", *config)
    check_capture(scenario, tools, config)
    follower = Process(scenario, "follower", [TIDEGATE, "trace", "meter", "--follow", *config])
    follower.start()
    before = wait_for("frames as they come", lambda: follower.log().count("\n") > 60 and follower.log())
    scenario.check_equal("none of them twice", len(set(before.splitlines())), len(before.splitlines()))
    scenario.check_equal("a follower ends with 0 after SIGTERM", follower.stop(), 0)


def check_capture(scenario, tools, config):
    """tshark takes the file as Modbus, with no setting, and finds no fault in it."""
    capture = scenario.folder / "line.pcapng"
    done = tools.run("trace", "--pcap", capture, *config)
    scenario.check_equal("a capture is written", (done.returncode, done.stderr), (0, ""))
    fields = ["frame.protocols", "modbus.func_code", "_ws.malformed", "mbrtu.crc16.status", "frame.interface_name"]
    command = ["tshark", "-r", capture, "-T", "fields", *(part for field in fields for part in ("-e", field))]
    read = subprocess.run([*map(str, command)], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    rows = [line.split("\t") for line in read.stdout.splitlines()]
    scenario.figure(f"{len(rows)} frames for tshark; the first: {rows[0] if rows else read.stderr}")
    scenario.check("every frame is Modbus", rows and all("modbus" in row[0] for row in rows), rows[:3])
    functions = {row[1] for row in rows}
    scenario.check("with the functions that were used", {"3", "4", "6"} <= functions, functions)
    scenario.check("and none is malformed", not any(row[2] for row in rows), [row for row in rows if row[2]][:3])
    lines = {row[4] for row in rows}
    scenario.check("each line is an interface", len(lines) == 2 and "rs485-a" in lines, lines)


def pty_pair(scenario, name):
    ends = [scenario.folder / f"{name}-{end}" for end in ("gateway", "device")]
    pair = Process(scenario, f"socat-{name}", ["socat", *(f"pty,rawer,link={end}" for end in ends)])
    pair.start()
    wait_for("a pty pair", lambda: all(end.exists() for end in ends))
    return ends


def main():
    with Scenario("tools", 180) as scenario:
        tools = Tools(scenario)
        gateway_end, device_end = pty_pair(scenario, "line")
        silent, _ = pty_pair(scenario, "silent")
        tcp_port = free_port()
        tcp = f"127.0.0.1:{tcp_port}"
        servers = [ModbusServer(UNIT, registers(), tcp_port=tcp_port), ModbusServer(UNIT, registers(), serial_path=device_end)]
        for server in servers:
            scenario.cleanups.append(server.stop)
            server.start()
        links = {"tcp": ["--tcp", tcp], "serial": ["--port", gateway_end, "-b", "19200"]}
        for (name, link), server in zip(links.items(), servers, strict=True):
            scenario.figure(f"over {name}")
            check_reads(tools, link)
            check_writes(tools, link, server)
            check_find(tools, link)
        check_faults(tools, tcp, str(gateway_end), str(silent))
        check_mbpoll(tools, tcp_port)
        check_scan(tools, tcp, str(gateway_end), str(silent))
        gateway = Gateway(scenario, configuration(tcp, gateway_end))
        gateway.start()
        check_beside_gateway(tools, gateway, servers[1], str(gateway_end))
        check_trace(tools, gateway)
        gateway.end(scenario)
        stopped = tools.values("read", "meter", "voltage", "-c", gateway.config)
        scenario.check_equal("a stopped gateway leaves the line to the tools", stopped, [VOLTS])
        tools.check_refusal("no trace without a gateway", 1, "no gateway runs", "trace", "-c", gateway.config)


if __name__ == "__main__":
    main()
