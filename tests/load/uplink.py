"""What a reading of 200 bytes costs on the way to the cloud, beside Mosquitto's own bridge with the same readings: bytes of
MQTT and segments of TCP, both ways, as the system counts them for the one connection.

The cloud is Mosquitto; readings come one by one from ten topics. Judged is that the gateway's bridge sends no more bytes
than Mosquitto's; what either costs is printed. And what a reading of a polled device costs over MQTT 5, by itself and in
batches of 100: judged is that a batch is cheaper.
"""

import json
import os
import re
import subprocess
import time

import wire
from harness import Client, Failure, Gateway, Mosquitto, Process, Scenario, free_port, wait_for
from modbus_server import ModbusServer, Registers

READINGS, PAYLOAD_BYTES, RATE = 2000, 200, 200
TOPICS = [f"devices/meter-{number:02}/active-power" for number in range(10)]
# A ping or two fall into the while that is measured, or not: two bytes each, by the readings.
PINGS_BYTES = 0.1
# Of IPv4 and TCP with time stamps; a link adds its own.
HEADER_BYTES = 20 + 32
# Of a device with four points that is polled 100 times a second.
POLLED, BATCH, POLL, POLLED_SECONDS_MAX = 500, 100, "10ms", 120
SCENARIO_SECONDS_MAX = 200


class MosquittoBridge(Process):
    """Mosquitto with a bridge to the cloud, as its manual has it."""

    def __init__(self, scenario, version, cloud_port):
        self.port = free_port()
        config = scenario.folder / f"bridge-{version}.conf"
        config.write_text(
            ("user root\n" if os.getuid() == 0 else "")
            + f"listener {self.port} 127.0.0.1\nallow_anonymous true\nconnection cloud\n"
            f"address 127.0.0.1:{cloud_port}\nremote_clientid mosquitto-{version}\ntry_private false\n"
            f"bridge_protocol_version mqttv{version}\ntopic devices/# out 1\n"
        )
        super().__init__(scenario, f"bridge-{version}", ["/usr/sbin/mosquitto", "-c", config])

    def start(self):
        super().start()
        self.wait_port(self.port)


def counters(pid, port):
    """(bytes out, segments out, bytes in, segments in) of the process's connection to that port."""
    rows = subprocess.run(
        ["ss", "-tinpH", "dport", "=", f":{port}"], capture_output=True, text=True, check=True
    ).stdout
    for row in re.split(r"\n(?=\S)", rows):
        if f"pid={pid}," in row:
            found = [re.search(rf"\b{name}:(\d+)", row) for name in ("bytes_sent", "segs_out", "bytes_received", "segs_in")]
            return [int(match[1]) if match else 0 for match in found]
    raise Failure(f"no connection of {pid} to port {port} in: {rows}")


class Run:
    def __init__(self, scenario, cloud, observer):
        self.scenario, self.cloud, self.observer = scenario, cloud, observer

    def measure(self, name, process):
        """Bytes up a reading."""
        sock = wire.open_socket(process.port)
        sock.sendall(wire.connect("meters"))
        reader = sock.makefile("rb")
        if reader.read(len(wire.CONNACK)) != wire.CONNACK:
            raise Failure(f"{name} does not take who publishes")
        sock.sendall(wire.publish_1("devices/ready", name.encode()))
        self.observer.wait_payload("devices/ready", name)
        self.observer.clear()
        before = counters(process.child.pid, self.cloud.port)
        for number in range(READINGS):
            payload = f"{number:0{PAYLOAD_BYTES}}".encode()
            sock.sendall(wire.publish_1(TOPICS[number % len(TOPICS)], payload, number + 1))
            time.sleep(1 / RATE)
        wait_for("every reading", lambda: len(self.observer.received("+/+/active-power")) >= READINGS)
        after = counters(process.child.pid, self.cloud.port)
        up, up_segments, down, down_segments = ((b - a) / READINGS for a, b in zip(before, after))
        total = up + down + (up_segments + down_segments) * HEADER_BYTES
        self.scenario.figure(
            f"{name:28} up {up:6.1f} B in {up_segments:.2f} segments, down {down:5.1f} B in {down_segments:.2f}; "
            f"with headers {total:.0f} B a reading"
        )
        sock.close()
        return up


def gateway(scenario, cloud, protocol):
    tag = protocol.replace(".", "")
    return Gateway(
        scenario,
        f"""
bridges:
  cloud:
    url: mqtt://127.0.0.1:{cloud.port}
    protocol: {protocol}
    client_id: tidegate-{tag}
    forward:
      - topic: devices/#
""",
        name=f"gateway-{tag}",
    )


def polled(scenario, cloud, observer, name, batch):
    """Bytes up a reading of a device that is polled, over MQTT 5."""
    port = free_port()
    unit = ModbusServer(1, Registers(inputs=dict.fromkeys(range(4), 7)), tcp_port=port)
    unit.start()
    topic = f"batched/{name}"
    points = "".join(f"      p{at}: {{ input: {at}, type: u16 }}\n" for at in range(4))
    process = Gateway(
        scenario,
        f"""
devices:
  {name}:
    modbus: {{ tcp: "127.0.0.1:{port}", unit: 1 }}
    poll: {POLL}
    publish: {{ topic: "batched/{{device}}", when: poll, retain: false{batch} }}
    points:
{points}
bridges:
  cloud:
    url: mqtt://127.0.0.1:{cloud.port}
    client_id: tidegate-{name}
    forward:
      - topic: batched/#
""",
        name=f"gateway-{name}",
    )
    process.start()

    def readings():
        said = [json.loads(message.payload) for message in observer.received(topic)]
        return sum(len(one) if isinstance(one, list) else 1 for one in said)

    wait_for("the first readings", readings)
    first, before = readings(), counters(process.child.pid, cloud.port)
    wait_for("the readings", lambda: readings() >= first + POLLED, POLLED_SECONDS_MAX)
    after, count = counters(process.child.pid, cloud.port), readings() - first
    process.stop()
    unit.stop()
    up, up_segments, down, down_segments = ((b - a) / count for a, b in zip(before, after))
    total = up + down + (up_segments + down_segments) * HEADER_BYTES
    scenario.figure(f"a polled device, {name:14} up {up:6.1f} B, down {down:5.1f} B; with headers {total:.0f} B a reading")
    return total


def main():
    with Scenario("uplink", SCENARIO_SECONDS_MAX) as scenario:
        cloud = Mosquitto(scenario, "cloud")
        cloud.start()
        observer = Client("observer", cloud.port)
        observer.connect()
        observer.subscribe("devices/#", 1)
        run = Run(scenario, cloud, observer)
        for protocol, version in (("3.1.1", "311"), ("5", "50")):
            costs = []
            for name, process in (
                (f"Mosquitto's bridge, {protocol}", MosquittoBridge(scenario, version, cloud.port)),
                (f"the gateway's, {protocol}", gateway(scenario, cloud, protocol)),
            ):
                process.start()
                costs.append(run.measure(name, process))
                process.stop()
            scenario.check(
                f"MQTT {protocol}: the gateway sends no more than Mosquitto's bridge",
                costs[1] <= costs[0] + PINGS_BYTES,
                f"{costs[1]:.1f} B, not {costs[0]:.1f} B at most",
            )
        observer.subscribe("batched/#", 1)
        single = polled(scenario, cloud, observer, "one-by-one", "")
        batched = polled(scenario, cloud, observer, "batched", f", batch: {{ every: 10s, readings: {BATCH} }}")
        scenario.check("a batch costs less", batched < single, f"{batched:.1f} B, not below {single:.1f} B")


if __name__ == "__main__":
    main()
