"""`tidegate simulate` plays every kind of line at once, for a gateway that runs on the same configuration: Modbus ASCII, a
converter that passes RTU on, and instruments that say JSON, CSV and NMEA. pymodbus reads the ASCII line too, `scan` finds the
units, and `trace` keeps what instruments and a bridge said, which tshark reads, without the bridge's password."""

import json
import subprocess

from harness import TIDEGATE, Client, Gateway, Mosquitto, Process, Scenario, free_port, wait_for
from pymodbus import FramerType
from pymodbus.client import ModbusSerialClient
from tools import Tools, pty_pair

PASSWORD = "very-s3cret"
PORTS = ["ascii", "json", "csv", "nmea", "match"]


def configuration(ends, tcp, cloud):
    ports = "".join(f"  {name}: {{ path: {ends[name][0]}, baud_rate: 19200 }}\n" for name in PORTS)
    return f"""
ports:
{ports}
devices:
  plc:
    modbus: {{ port: ascii, unit: 5, framing: ascii }}
    poll: 200ms
    points:
      level: {{ holding: 0, type: u16, min: 5, max: 90, writable: true }}
      flow: {{ input: 10, type: f32, unit: A }}
      pump: {{ coil: 3, writable: true }}
  meter:
    modbus: {{ rtu_over_tcp: "{tcp}", unit: 9 }}
    poll: 200ms
    points:
      first: {{ holding: 0, type: u16 }}
      voltage: {{ input: 2, type: f32, unit: V }}
  sensor:
    serial: {{ port: json, format: json }}
    points:
      t: {{ field: air.t, type: f64, unit: °C }}
  logger:
    serial: {{ port: csv, format: csv, columns: [time, temp], request: {{ send: "R\\r\\n", every: 300ms }} }}
    points:
      temp: {{ field: temp, type: f64, unit: °C }}
  gps:
    serial: {{ port: nmea, format: nmea }}
    points:
      latitude: {{ field: RMC.latitude, type: f64 }}
  scale:
    serial: {{ port: match, match: '^(?P<kg>[0-9.]+)kg$' }}
    points:
      weight: {{ field: kg, type: f64 }}
bridges:
  cloud:
    url: mqtt://127.0.0.1:{cloud}
    username: "plant-7?token=also-s3cret"
    password: {PASSWORD}
    forward: [{{ topic: "devices/#" }}]
"""


def check_other_master(scenario, path):
    """Somebody else's ASCII."""
    client = ModbusSerialClient(str(path), framer=FramerType.ASCII, baudrate=19200, timeout=2)
    client.connect()
    read = client.read_holding_registers(0, count=1, device_id=5)
    scenario.check("pymodbus reads the ASCII line", not read.isError() and 5 <= read.registers[0] <= 90, read)
    scenario.check("and is told what is not there", client.read_holding_registers(500, count=1, device_id=5).exception_code == 2)
    client.write_register(0, 44, device_id=5)
    scenario.check_equal("and writes", client.read_holding_registers(0, count=1, device_id=5).registers, [44])
    client.write_coils(3, [True], device_id=5)
    scenario.check_equal("and coils", client.read_coils(3, count=1, device_id=5).bits[0], True)
    client.close()


def check_scan(tools, tcp, path):
    check = tools.scenario.check_equal
    found = tools.json("scan", "--rtu-over-tcp", tcp, "--units", "8-10", "--timeout", "300ms")
    check("the unit behind a converter", [unit["unit"] for unit in found["units"]], [9])
    ascii_line = ["scan", "--port", path, "--framing", "ascii", "-b", 19200, "-P", "none", "--units", "4-6"]
    found = tools.json(*ascii_line)
    check("the unit of an ASCII line", [unit["unit"] for unit in found["units"]], [5])
    done = tools.run(*ascii_line)
    pasted = tools.scenario.folder / "pasted.yaml"
    pasted.write_text(done.stdout)
    check("its YAML loads", tools.run("check", "-c", pasted).stdout, "ok: 1 device, 1 point, 0 bridges\n")
    pasted.write_text(tools.run("scan", "--rtu-over-tcp", tcp, "--units", 9).stdout)
    check("and that of the converter", tools.run("check", "-c", pasted).stdout, "ok: 1 device, 1 point, 0 bridges\n")


def frames_of(tools, gateway, *args):
    done = tools.run("trace", "--json", *args, "-c", gateway.config)
    return [json.loads(line) for line in done.stdout.splitlines()]


def check_instruments(tools, gateway):
    said = wait_for("a line of each", lambda: (lines := frames_of(tools, gateway, "sensor")) and len(lines) > 1 and lines)
    texts = [bytes.fromhex(frame["hex"]).decode() for frame in said]
    scenario = tools.scenario
    scenario.check("each line of an instrument is a frame", all("air" in json.loads(text) for text in texts), texts)
    frames = frames_of(tools, gateway, "logger")
    asked = [bytes.fromhex(frame["hex"]) for frame in frames if frame["direction"] == "sent"]
    scenario.check("and what it is asked", set(asked) == {b"R\r\n"}, asked[:3])
    answered = [bytes.fromhex(frame["hex"]).count(b",") for frame in frames if frame["direction"] == "received"]
    scenario.check_equal("and what it answers", set(answered), {1})


def check_bridge(tools, gateway):
    scenario = tools.scenario
    packets = frames_of(tools, gateway, "cloud", "-n", 1000)
    raw = [bytes.fromhex(frame["hex"]) for frame in packets]
    scenario.check_equal("the bridge's link", {frame["protocol"] for frame in packets}, {"mqtt"})
    connects = [packet for packet in raw if packet[0] == 0x10]
    scenario.check("its CONNECT", len(connects) == 1 and b"plant-7?****" in connects[0], connects)
    scenario.check("no packet shows a secret", not any(b"s3cret" in packet for packet in raw))
    scenario.check("and what it carries", any(b"devices/plc/level" in packet for packet in raw))
    capture = scenario.folder / "link.pcapng"
    tools.run("trace", "cloud", "--pcap", capture, "-c", gateway.config)
    fields = ["frame.protocols", "mqtt.msgtype", "_ws.malformed", "mqtt.username"]
    command = ["tshark", "-r", capture, "-T", "fields", *(part for field in fields for part in ("-e", field))]
    read = subprocess.run([*map(str, command)], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    rows = [line.split("\t") for line in read.stdout.splitlines()]
    scenario.figure(f"{len(rows)} packets for tshark; the first: {rows[0] if rows else read.stderr}")
    scenario.check("every packet is MQTT to tshark", rows and all("mqtt" in row[0] for row in rows), rows[:3])
    scenario.check("connected, acknowledged, published", {"1", "2", "3"} <= {kind for row in rows for kind in row[1].split(",")})
    scenario.check("and none is malformed", not any(row[2] for row in rows), [row for row in rows if row[2]][:3])


def main():
    with Scenario("played", 120) as scenario:
        tools = Tools(scenario)
        cloud = Mosquitto(scenario, "cloud")
        cloud.start()
        ends = {name: pty_pair(scenario, name) for name in PORTS}
        tcp = f"127.0.0.1:{free_port()}"
        gateway = Gateway(scenario, configuration(ends, tcp, cloud.port))
        others = [part for name in PORTS for part in ("--port", f"{name}={ends[name][1]}")]
        player = Process(scenario, "player", [TIDEGATE, "simulate", "-c", gateway.config, *others])
        player.start()
        wait_for("what is played", lambda: player.log().count("playing") == 6)
        scenario.check("what cannot be played is said", "not playing scale: its pattern does not tell" in player.log(), player.log())
        check_other_master(scenario, ends["ascii"][0])
        check_scan(tools, tcp, ends["ascii"][0])
        gateway.start()
        client = Client("reader", gateway.port).connect()
        client.subscribe("devices/+/+", 0)
        expected = {"plc/level", "plc/flow", "plc/pump", "meter/first", "meter/voltage", "sensor/t", "logger/temp", "gps/latitude"}

        def good():
            readings = {topic[len("devices/") :]: payload for topic, payload in said(client) if payload.startswith(b"{")}
            return expected <= {topic for topic, payload in readings.items() if json.loads(payload)["quality"] == "good"}

        wait_for("a good reading of all that is played", good, 30)
        scenario.check("the gateway reads all that is played", True)
        written = tools.values("write", "plc", "level", 71, "-c", gateway.config)
        scenario.check_equal("and writes over ASCII", written, [71])
        check_instruments(tools, gateway)
        check_bridge(tools, gateway)
        gateway.end(scenario)
        scenario.check_equal("the player ends with 0 after SIGTERM", player.stop(), 0)


def said(client):
    return [(message.topic, message.payload) for message in list(client.messages)]


if __name__ == "__main__":
    main()
