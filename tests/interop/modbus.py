"""pymodbus and libmodbus as devices: Modbus TCP, RTU over TCP and, over pairs of pseudo-terminals, RTU and ASCII. Every
type is read as Python packs it; a device that dies goes offline alone and comes back."""

import json
import math
import struct
import time

from harness import Client, Gateway, Process, Scenario, free_port, wait_for
from pymodbus.framer import FramerType
from modbus_server import LibmodbusServer, ModbusServer, Registers

POLL_MILLIS = 500
RHYTHM_READINGS = 15
# name, table, address, type, options, the value in the registers as Python packs it, what the reading says
NUMBERS = [
    ("u16", 0, "u16", "H", 65535, {}),
    ("i16", 1, "i16", "h", -32768, {}),
    ("u32", 2, "u32", "I", 4_000_000_000, {}),
    ("i32", 4, "i32", "i", -2_000_000_000, {}),
    ("u64", 6, "u64", "Q", 2**63 + 12345, {}),
    ("i64", 10, "i64", "q", -(2**62) - 321, {}),
    ("f32", 14, "f32", "f", 230.1, {}),
    ("f64", 16, "f64", "d", -1234.56789012345, {}),
    ("u32_word_little", 20, "u32", "I", 0x01020304, {"word_order": "little"}),
    ("u32_byte_little", 22, "u32", "I", 0x01020304, {"byte_order": "little"}),
    ("u32_both_little", 24, "u32", "I", 0x01020304, {"word_order": "little", "byte_order": "little"}),
    ("i16_byte_little", 26, "i16", "h", -2, {"byte_order": "little"}),
    ("f32_word_little", 28, "f32", "f", 49.98, {"word_order": "little"}),
    ("f64_word_little", 30, "f64", "d", math.pi, {"word_order": "little"}),
    ("u64_both_little", 34, "u64", "Q", 0x0102030405060708, {"word_order": "little", "byte_order": "little"}),
    ("scaled", 40, "i16", "h", 215, {"scale": 0.1}),
    ("offset", 41, "u16", "H", 500, {"scale": 0.1, "offset": -40}),
    # Far from the rest: a request of its own. Counted from 1, as manuals do.
    ("far", 900, "u16", "H", 77, {"address_base": 1}),
]
STRINGS = [("text", 50, "SN-12345", {}), ("text_byte_little", 60, "ABCDEF", {"byte_order": "little"})]
BITS = [("coil", 3, True), ("coil_off", 4, False), ("discrete", 5, True), ("discrete_inverted", 6, True)]
NOWHERE = 5000


def words(packed, options):
    """Big-endian bytes as registers, in the orders that the options name."""
    registers = [packed[i : i + 2] for i in range(0, len(packed), 2)]
    if options.get("byte_order") == "little":
        registers = [register[::-1] for register in registers]
    if options.get("word_order") == "little":
        registers.reverse()
    return [int.from_bytes(register, "big") for register in registers]


def table():
    """The registers of one unit: input registers hold the same as holding registers."""
    # What lies between is there and zero: neighbours are read in one request.
    registers = dict.fromkeys(range(70), 0)
    for _, address, _, code, value, options in NUMBERS:
        address -= options.get("address_base", 0)
        registers.update(enumerate(words(struct.pack(f">{code}", value), options), address))
    for _, address, text, options in STRINGS:
        registers.update(enumerate(words(text.encode(), options), address))
    bits = {address: value for _, address, value in BITS}
    return Registers(coils=bits, discrete=bits, holding=dict(registers), inputs=dict(registers))


def points():
    """The YAML of all points, each number once as a holding and once as an input register."""
    lines = []
    for name, address, type_name, _, _, options in NUMBERS:
        extra = "".join(f", {key}: {value}" for key, value in options.items())
        for kind in ("holding", "input"):
            lines.append(f"      {kind}_{name}: {{ {kind}: {address}, type: {type_name}{extra} }}")
    for name, address, text, options in STRINGS:
        extra = "".join(f", {key}: {value}" for key, value in options.items())
        lines.append(f"      {name}: {{ holding: {address}, type: string, length: {len(text)}{extra} }}")
    lines += [
        "      coil: { coil: 3 }",
        "      coil_off: { coil: 4 }",
        "      discrete: { discrete: 5 }",
        "      discrete_inverted: { discrete: 6, invert: true }",
        f"      nowhere: {{ holding: {NOWHERE}, type: u16, poll: 2s }}",
    ]
    return "\n".join(lines)


def expected():
    """Point to value."""
    values = {"coil": True, "coil_off": False, "discrete": True, "discrete_inverted": False}
    for name, _, _, code, value, options in NUMBERS:
        exact = struct.unpack(f">{code}", struct.pack(f">{code}", value))[0]
        if "scale" in options:
            exact = exact * options["scale"] + options.get("offset", 0)
        for kind in ("holding", "input"):
            values[f"{kind}_{name}"] = exact
    values.update({name: text for name, _, text, _ in STRINGS})
    return values


def is_same(value, wanted):
    if isinstance(wanted, float) and isinstance(value, (int, float)) and not isinstance(value, bool):
        # A reading of an f32 may say 230.1, which is a hair beside the nearest f32.
        return math.isclose(value, wanted, rel_tol=1e-7)
    return type(value) is type(wanted) and value == wanted


def sections(links, ports):
    """The YAML of a device for each name and link, with the same points."""
    common = f"""
    poll: {POLL_MILLIS}ms
    timeout: 1s
    retries: 0
    offline_after: 2
    reconnect: {{ min: 200ms, max: 500ms }}
    publish: {{ when: poll }}
    points:
{points()}
"""
    lines = "".join(f"  {name}: {{ path: {path}, baud_rate: 19200 }}\n" for name, path in ports.items())
    devices = "".join(f"  {name}:\n    modbus: {{ {link} }}{common}" for name, link in links.items())
    return f"\nports:\n{lines}devices:\n{devices}"


def last_reading(client, device, point):
    messages = client.received(f"devices/{device}/{point}")
    return json.loads(messages[-1].payload) if messages else None


def check_values(scenario, client, device):
    wanted = expected()
    for point in [*wanted, "nowhere"]:
        client.wait_count(1, f"devices/{device}/{point}")
    wrong = {}
    for point, value in wanted.items():
        reading = last_reading(client, device, point)
        if reading["quality"] != "good" or not is_same(reading["value"], value):
            wrong[point] = (reading, value)
    scenario.check(f"{device}: {len(wanted)} points are what Python packed", not wrong, wrong)
    reading = last_reading(client, device, "nowhere")
    is_bad = reading["quality"] == "bad" and reading["value"] is None and reading.get("error")
    scenario.check(f"{device}: an address that is not there is a bad reading with an error", is_bad, reading)


def status(client, device):
    messages = client.received(f"devices/{device}/status")
    return messages[-1].payload.decode() if messages else None


def check_death(scenario, client, server, dead, alive):
    """The dead one goes offline, the other keeps its rhythm, the dead one comes back."""
    server.stop()
    wait_for(f"{dead} is offline", lambda: status(client, dead) == "offline")
    scenario.check(f"{dead}: offline when its server is gone", True)
    wait_for("a stale reading", lambda: last_reading(client, dead, "holding_u16")["quality"] == "stale")
    reading = last_reading(client, dead, "holding_u16")
    scenario.check_equal(f"{dead}: a stale reading keeps the value", reading["value"], 65535)
    topic = f"devices/{alive}/holding_u16"
    before, began = len(client.received(topic)), time.monotonic()
    client.wait_count(before + RHYTHM_READINGS, topic)
    seconds = time.monotonic() - began
    due = RHYTHM_READINGS * POLL_MILLIS / 1000
    scenario.figure(f"{alive}: {RHYTHM_READINGS} readings in {seconds:.2f} s while {dead} is dead ({due:.2f} s are due)")
    scenario.check(f"{alive}: keeps its rhythm while {dead} is dead", seconds < 2 * due, f"{seconds:.2f} s")
    scenario.check_equal(f"{alive}: is online meanwhile", status(client, alive), "online")
    server.start()
    wait_for(f"{dead} is online", lambda: status(client, dead) == "online")
    wait_for("a good reading", lambda: last_reading(client, dead, "holding_u16")["quality"] == "good")
    scenario.check(f"{dead}: online and read again when its server is back", True)


def pair(scenario, name):
    """Both ends of a serial line: the gateway's and the device's."""
    ends = scenario.folder / f"{name}-gateway", scenario.folder / f"{name}-device"
    Process(scenario, f"socat-{name}", ["socat", *(f"pty,rawer,link={end}" for end in ends)]).start()
    wait_for("the pseudo-terminals", lambda: all(end.exists() for end in ends))
    return ends


def main():
    with Scenario("modbus", 240) as scenario:
        names = ("rtu", "ascii", "peer")
        gateway_ends, device_ends = zip(*(pair(scenario, name) for name in names), strict=True)
        tcp_port, converter_port, peer_port = free_port(), free_port(), free_port()
        rtu_end, ascii_end, peer_end = device_ends
        servers = {
            "by-tcp": ModbusServer(1, table(), tcp_port=tcp_port),
            "by-rtu": ModbusServer(7, table(), serial_path=rtu_end),
            "by-converter": ModbusServer(3, table(), tcp_port=converter_port, framer=FramerType.RTU),
            "by-ascii": ModbusServer(9, table(), serial_path=ascii_end, framer=FramerType.ASCII),
            "peer-tcp": LibmodbusServer(scenario, "libmodbus-tcp", 1, table(), tcp_port=peer_port),
            "peer-rtu": LibmodbusServer(scenario, "libmodbus-rtu", 5, table(), serial_path=peer_end),
        }
        for server in servers.values():
            server.start()
            scenario.cleanups.append(server.stop)
        links = {
            "by-tcp": f"tcp: 127.0.0.1:{tcp_port}, unit: 1",
            "by-rtu": "port: rtu, unit: 7",
            "by-converter": f'rtu_over_tcp: "127.0.0.1:{converter_port}", unit: 3',
            "by-ascii": "port: ascii, unit: 9, framing: ascii",
            "peer-tcp": f"tcp: 127.0.0.1:{peer_port}, unit: 1",
            "peer-rtu": "port: peer, unit: 5",
        }
        gateway = Gateway(scenario, sections(links, dict(zip(names, gateway_ends, strict=True))))
        gateway.start()
        client = Client("reader", gateway.port).connect()
        client.subscribe("devices/#", 1)
        for device in links:
            wait_for(f"{device} is online", lambda device=device: status(client, device) == "online")
            check_values(scenario, client, device)
        late = Client("late", gateway.port).connect()
        late.subscribe("devices/+/status", 1)
        late.wait_count(len(links))
        flags = [(message.payload, message.retain) for message in late.messages]
        scenario.check_equal("the status is retained", flags, [(b"online", True)] * len(links))
        for dead, alive in (("by-rtu", "by-tcp"), ("by-tcp", "by-rtu"), ("by-converter", "by-ascii"), ("by-ascii", "by-converter")):
            check_death(scenario, client, servers[dead], dead=dead, alive=alive)
        gateway.end(scenario)


if __name__ == "__main__":
    main()
