"""Sparkplug B. Devices of pymodbus go through the gateway to Mosquitto, and a host at either end reads them with Eclipse's
published protobuf definitions (the package tahu), which share nothing with the gateway.

Births come first and in order, numbers have no gaps, over an outage in which the gateway is killed too; what was
buffered arrives, in order and marked as historical; a rebirth is asked at the cloud and on the LAN, each answered alone; a
command at the cloud changes a register; NDEATH is what a SIGKILL leaves, with the number of its birth; a primary host
holds everything back while it is away. Over MQTT 5 and 3.1.1.
"""

import json
import subprocess
import time

from harness import TIDEGATE, Client, Gateway, Mosquitto, Scenario, free_port, wait_for
from modbus_server import ModbusServer, Registers
from tahu import sparkplug_b_pb2 as pb

COUNTER, SETPOINT, MODE, STATE = 0, 100, 40, 41
GROUP, NODE, HOST = "plant", "plant-7", "scada-1"
GOOD, STALE = 192, 500
INT16, INT64, DOUBLE, UINT16, BOOLEAN, STRING = 2, 4, 10, 6, 11, 12
OUTAGE_VALUES, OTHER_VALUES = 12, 5
REBIRTH = "Node Control/Rebirth"
VALUES = ("int_value", "long_value", "float_value", "double_value", "boolean_value", "string_value")


def topic(kind, device=None):
    return "/".join(["spBv1.0", GROUP, kind, NODE] + ([device] if device else []))


def sections(cloud_port, meter_port, boiler_port, protocol, more):
    return f"""
devices:
  meter:
    modbus: {{ tcp: 127.0.0.1:{meter_port}, unit: 1 }}
    poll: 50ms
    timeout: 300ms
    retries: 0
    offline_after: 2
    reconnect: {{ min: 100ms, max: 300ms }}
    publish: {{ format: sparkplug, topic: "spBv1.0/{GROUP}/DDATA/{{gateway}}/{{device}}", heartbeat: 0s }}
    points:
      counter: {{ holding: {COUNTER} }}
      setpoint: {{ holding: {SETPOINT}, type: i16, scale: 0.1, unit: °C, writable: true, min: 5, max: 30 }}
      mode: {{ holding: {MODE}, labels: {{ 0: off, 1: auto }}, writable: true }}
      state: {{ holding: {STATE}, bits: {{ alarm: 0, running: 1 }}, writable: true }}
  boiler:
    modbus: {{ tcp: 127.0.0.1:{boiler_port}, unit: 1 }}
    poll: 50ms
    timeout: 300ms
    retries: 0
    offline_after: 2
    reconnect: {{ min: 100ms, max: 300ms }}
    publish: {{ format: sparkplug, topic: "spBv1.0/{GROUP}/DDATA/{{gateway}}/{{device}}", heartbeat: 0s }}
    points:
      counter: {{ holding: {COUNTER} }}
bridges:
  cloud:
    url: mqtt://127.0.0.1:{cloud_port}
    protocol: {protocol}
    reconnect: {{ min: 100ms, max: 300ms }}
{more}    forward:
      - topic: "spBv1.0/#"
"""


def value_of(metric):
    kind = metric.WhichOneof("value")
    return getattr(metric, kind) if kind else None


def properties_of(metric):
    found = {}
    for key, value in zip(metric.properties.keys, metric.properties.values):
        found[key] = getattr(value, next(name for name in VALUES if value.HasField(name)))
    return found


class Said:
    """One message of the node."""

    def __init__(self, message):
        self.topic, self.qos, self.retain = message.topic, message.qos, message.retain
        parts = message.topic.split("/")
        self.kind, self.device = parts[2], parts[4] if len(parts) > 4 else None
        self.payload = pb.Payload()
        self.payload.ParseFromString(message.payload)
        self.seq = self.payload.seq if self.payload.HasField("seq") else None

    def metric(self, name):
        return next((metric for metric in self.payload.metrics if metric.name == name), None)

    @property
    def bd_seq(self):
        return value_of(self.metric("bdSeq"))

    def __repr__(self):
        return f"{self.kind} {self.device or ''} seq {self.seq}"


class Host:
    """What a host at one server makes of what arrives there, by the specification's rules alone."""

    def __init__(self, name, port, version, *, late=False):
        # A late one joins a session that it knows nothing of, until it has asked for a rebirth.
        self.late = late
        self.client = Client(name, port, version=version, clean=False, expiry=3600 if version == 5 else None)
        self.faults = []

    def connect(self):
        self.client.connect()
        self.client.subscribe("spBv1.0/#", 1)
        return self

    def said(self, kind=None, device=None):
        own = [m for m in self.client.received("spBv1.0/#") if m.topic.split("/")[2] not in ("NCMD", "DCMD", HOST)]
        said = [Said(message) for message in own]
        return [one for one in said if kind in (None, one.kind) and device in (None, one.device)]

    def wait(self, count, kind, device=None):
        return wait_for(
            f"{count} {kind} {device or ''}",
            lambda: (found := self.said(kind, device)) and len(found) >= count and found,
        )

    def readings(self, device, name):
        """Values of a metric as DDATA brought them, each with whether it is historical."""
        return [
            (value, historical)
            for one, at, metric, value, historical in self.read()
            if one == device and metric == name and at >= 0
        ]

    def read(self):
        """Walks through all that was said as a host does; what breaks a rule goes to `faults`."""
        self.faults, readings = [], []
        aliases, bd_seq, last = None, None, None
        for at, one in enumerate(self.said()):
            if one.retain:
                self.faults.append(f"{one} is retained")
            if one.kind == "NDEATH":
                if aliases is not None and one.bd_seq == bd_seq:
                    aliases = None
                continue
            if one.kind == "NBIRTH":
                rebirth = one.metric(REBIRTH)
                if one.seq != 0 or value_of(rebirth) is not False or rebirth.HasField("alias"):
                    self.faults.append(f"{one} is no NBIRTH: {one.payload}")
                aliases, bd_seq, last = {}, one.bd_seq, 0
                continue
            if last is None and self.late:
                continue
            if aliases is None:
                self.faults.append(f"{one} while nobody knows the node")
                continue
            if one.seq != (last + 1) % 256:
                self.faults.append(f"{one} behind seq {last}")
            last = one.seq
            if one.kind == "DBIRTH":
                aliases[one.device] = {m.alias: (m.name, m.datatype) for m in one.payload.metrics}
            elif one.device not in aliases:
                self.faults.append(f"{one} of a device that is not born")
            elif one.kind == "DDEATH":
                del aliases[one.device]
            else:
                for metric in one.payload.metrics:
                    known = aliases[one.device].get(metric.alias)
                    if known is None or metric.name or not metric.timestamp:
                        self.faults.append(f"{one} has {metric}")
                        continue
                    readings.append((one.device, at, known[0], value_of(metric), metric.is_historical))
        return readings

    def order(self, device, **metrics):
        """A DCMD; a key is a metric's name."""
        payload = pb.Payload()
        payload.timestamp = int(time.time() * 1000)
        for name, (kind, value, alias) in metrics.items():
            metric = payload.metrics.add()
            if alias:
                metric.alias = alias
            else:
                metric.name = name.replace("__", "/")
            setattr(metric, kind, value)
        self.client.publish(topic("DCMD", device), payload.SerializeToString(), 0)

    def ask_rebirth(self):
        payload = pb.Payload()
        metric = payload.metrics.add()
        metric.name, metric.datatype, metric.boolean_value = REBIRTH, BOOLEAN, True
        self.client.publish(topic("NCMD"), payload.SerializeToString(), 0)

    def alias(self, device, name):
        return self.said("DBIRTH", device)[-1].metric(name).alias


class Run:
    """One protocol version of the bridge and of the hosts."""

    def __init__(self, scenario, protocol, more="", name=""):
        self.scenario, self.protocol = scenario, protocol
        tag, version = protocol.replace(".", "") + name, 5 if protocol == "5" else 4
        self.cloud = Mosquitto(scenario, f"cloud-{tag}")
        ports = free_port(), free_port()
        holding = {COUNTER: 0, SETPOINT: 200, MODE: 0, STATE: 2}
        self.meter = ModbusServer(1, Registers(holding=holding), tcp_port=ports[0])
        self.boiler = ModbusServer(1, Registers(holding={COUNTER: 7}), tcp_port=ports[1])
        scenario.cleanups += [self.meter.stop, self.boiler.stop]
        yaml = sections(self.cloud.port, *ports, protocol, more)
        self.gateway = Gateway(scenario, yaml, name=f"gateway-{tag}")
        self.host = Host(f"host-{tag}", self.cloud.port, version)
        self.lan = Host(f"lan-{tag}", self.gateway.port, version, late=True)
        self.counter = 0

    def start(self):
        self.cloud.start()
        self.meter.start()
        self.boiler.start()
        self.host.connect()
        self.gateway.start()
        self.lan.connect()

    def count(self, times):
        """Counts on in the meter, each value as soon as a client on the LAN was told of the one before."""
        for _ in range(times):
            self.counter += 1
            self.meter.set_holding(COUNTER, self.counter)
            self.wait_reading(self.lan, self.counter)

    def wait_reading(self, host, value, name="counter"):
        wait_for(
            f"{name} {value}", lambda: any(read == value for read, _ in host.readings("meter", name))
        )

    def check_births(self):
        check = self.scenario.check_equal
        births = self.host.wait(1, "NBIRTH"), self.host.wait(1, "DBIRTH", "meter"), self.host.wait(1, "DBIRTH", "boiler")
        check("NBIRTH is the first", self.host.said()[0].kind, "NBIRTH")
        check("bdSeq begins with 0", births[0][0].bd_seq, 0)
        check("its type is Int64", births[0][0].metric("bdSeq").datatype, INT64)
        meter = births[1][0]
        told = [(m.name, m.datatype, value_of(m)) for m in meter.payload.metrics]
        expected = [("counter", UINT16, 0), ("setpoint", DOUBLE, 20.0), ("mode", STRING, "off")]
        expected += [("state/alarm", BOOLEAN, False), ("state/running", BOOLEAN, True)]
        check("DBIRTH names every metric with its type and value", told, expected)
        check("quality and unit", properties_of(meter.metric("setpoint")), {"Quality": GOOD, "engUnit": "°C"})
        aliases = [m.alias for birth in births[1:] for m in birth[0].payload.metrics]
        check("every alias is another", len(set(aliases)), 6)

    def check_outage(self):
        """The cloud goes, the gateway is killed meanwhile, and all that was read arrives."""
        check = self.scenario.check
        self.count(OTHER_VALUES)
        self.wait_reading(self.host, self.counter)
        live, bd_seq = self.host.readings("meter", "counter"), self.host.said("NBIRTH")[-1].bd_seq
        # The first reading may have been taken before the link stood.
        check("what was read on a link is not historical", not any(old for value, old in live if value), live)
        self.scenario.check_equal("Mosquitto ended by itself", self.cloud.stop(), 0)
        self.count(OUTAGE_VALUES)
        # Readings are on the disk `commit` after they were taken.
        time.sleep(0.5)
        self.gateway.kill()
        self.gateway.start()
        lan_back = lambda: self.lan.client.connack and len(self.lan.said("DBIRTH", "meter")) >= 1
        self.lan.client.disconnect()
        self.lan = Host(f"lan-again-{self.protocol}", self.gateway.port, self.lan.client.version, late=True).connect()
        self.lan.ask_rebirth()
        wait_for("the LAN's births", lan_back)
        self.count(OUTAGE_VALUES)
        # Else the births could come before the host that is to see them: Mosquitto keeps no QoS 0 for it.
        self.tool("pause")
        before = len(self.host.said())
        connects = self.host.client.connack
        self.cloud.start()
        wait_for("the host's return", lambda: self.host.client.connack is not connects)
        self.tool("retry")
        self.wait_reading(self.host, self.counter)
        self.count(OTHER_VALUES)
        self.wait_reading(self.host, self.counter)
        # Mosquitto may have kept the will for the host.
        after = [one for one in self.host.said()[before:] if one.kind != "NDEATH"]
        check("births come first", [one.kind for one in after[:1]] == ["NBIRTH"], after[:3])
        # The killed process never reached the cloud: its number is unused.
        self.scenario.check_equal("bdSeq counts on", after[0].bd_seq, bd_seq + 1)
        readings = self.host.readings("meter", "counter")
        values = [value for value, _ in readings]
        missing = sorted(set(range(1, self.counter + 1)) - set(values))
        check("every value arrived", not missing, missing)
        away = set(range(OTHER_VALUES + 1, OTHER_VALUES + 2 * OUTAGE_VALUES + 1))
        check("what was buffered is historical", all(old for value, old in readings if value in away and (value, True) in readings))
        first = {value: old for value, old in reversed(readings)}
        check("each of it", all(first[value] for value in away), {value: first[value] for value in sorted(away)})
        check("what came later is not", not any(first[value] for value in range(self.counter - 4, self.counter + 1)))
        order = [value for value, old in readings if value in away and old]
        check("in the order of its reading", order == sorted(order), order)

    def tool(self, verb):
        subprocess.run([TIDEGATE, "buffer", verb, "cloud", "-c", str(self.gateway.config)], check=True, capture_output=True)

    def check_rebirths(self):
        check = self.scenario.check_equal
        for asked, other in ((self.host, self.lan), (self.lan, self.host)):
            births, others, bd_seq = len(asked.said("NBIRTH")), len(other.said("NBIRTH")), asked.said("NBIRTH")[-1].bd_seq
            devices = len(asked.said("DBIRTH"))
            asked.ask_rebirth()
            said = asked.wait(births + 1, "NBIRTH")
            asked.wait(devices + 2, "DBIRTH")
            check("a rebirth has the number of its session", said[-1].bd_seq, bd_seq)
            # Something that comes behind it at the other end.
            self.count(1)
            self.wait_reading(self.host, self.counter)
            check("and is answered where it was asked", len(other.said("NBIRTH")), others)

    def check_commands(self):
        check = self.scenario.check_equal
        self.host.order("meter", setpoint=("double_value", 21.5, None))
        self.wait_reading(self.host, 21.5, "setpoint")
        check("a command by name: the register holds it", self.meter.holding(SETPOINT), [215])
        self.host.order("meter", any=("double_value", 12.5, self.host.alias("meter", "setpoint")))
        self.wait_reading(self.host, 12.5, "setpoint")
        check("a command by alias: the register holds it", self.meter.holding(SETPOINT), [125])
        self.lan.order("meter", mode=("string_value", "auto", None), state__alarm=("boolean_value", True, None))
        self.wait_reading(self.host, "auto", "mode")
        self.wait_reading(self.host, True, "state/alarm")
        check("a label and a bit, from the LAN", self.meter.holding(MODE, 2), [1, 3])
        self.lan.client.subscribe("devices/meter/+/result", 1)
        self.host.order("meter", setpoint=("double_value", 99.0, None))
        answer = json.loads(self.lan.client.wait_count(1, "devices/meter/setpoint/result")[-1].payload)
        check("99 is refused", answer, {"ok": False, "error": "setpoint: 99 is above max 30"})
        check("and the register is as it was", self.meter.holding(SETPOINT), [125])

    def check_device_away(self):
        births = len(self.host.said("DBIRTH", "boiler"))
        self.boiler.stop()
        for host in (self.host, self.lan):
            host.wait(1, "DDEATH", "boiler")
        self.scenario.check("its last reading is stale", self.last_quality("boiler") == STALE, self.last_quality("boiler"))
        self.boiler.start()
        self.host.wait(births + 1, "DBIRTH", "boiler")
        self.lan.wait(2, "DBIRTH", "boiler")
        self.scenario.check("a device dies and is born again", True)
        deaths = len(self.host.said("DDEATH", "meter"))
        self.scenario.check_equal("and its neighbour does not", deaths, 0)

    def last_quality(self, device):
        metric = self.host.said("DDATA", device)[-1].payload.metrics[0]
        return properties_of(metric)["Quality"]

    def check_deaths(self):
        check = self.scenario.check_equal
        bd_seq, deaths = self.host.said("NBIRTH")[-1].bd_seq, len(self.host.said("NDEATH"))
        self.gateway.kill()
        death = self.host.wait(deaths + 1, "NDEATH")[-1]
        check("SIGKILL leaves NDEATH with the number of its birth", (death.bd_seq, death.seq), (bd_seq, None))
        births = len(self.host.said("NBIRTH"))
        self.gateway.start()
        birth = self.host.wait(births + 1, "NBIRTH")[-1]
        check("the next birth has the next number", birth.bd_seq, bd_seq + 1)
        self.host.wait(1, "DBIRTH", "meter")
        self.gateway.end(self.scenario)
        death = self.host.wait(deaths + 2, "NDEATH")[-1]
        check("a clean end says NDEATH too", death.bd_seq, bd_seq + 1)

    def check_rules(self):
        for name, host in (("cloud", self.host), ("LAN", self.lan)):
            host.read()
            self.scenario.check(
                f"{len(host.said())} messages at the {name} without a gap, each metric born before it", not host.faults, host.faults[:5]
            )

    def end(self):
        self.host.client.disconnect()
        self.lan.client.disconnect()
        self.cloud.stop()


class PrimaryHost(Run):
    """Nothing leaves while the host is away."""

    def __init__(self, scenario, protocol):
        super().__init__(scenario, protocol, f"    primary_host: {HOST}\n", "-host")

    def state(self, online):
        payload = json.dumps({"online": online, "timestamp": int(time.time() * 1000)})
        self.host.client.publish(f"spBv1.0/STATE/{HOST}", payload, 1, retain=True)

    def run(self):
        check = self.scenario.check
        self.start()
        self.lan.ask_rebirth()
        self.lan.wait(1, "DBIRTH", "meter")
        wait_for("the wait for the host", lambda: "waits for its primary host" in self.gateway.log())
        self.count(OTHER_VALUES)
        check("nothing is said before the host is there", not self.host.said(), self.host.said())
        self.state(True)
        self.wait_reading(self.host, self.counter)
        self.count(OTHER_VALUES)
        self.wait_reading(self.host, self.counter)
        bd_seq = self.host.said("NBIRTH")[-1].bd_seq
        self.state(False)
        death = self.host.wait(1, "NDEATH")[-1]
        self.scenario.check_equal("its end is answered by NDEATH", death.bd_seq, bd_seq)
        said = len(self.host.said())
        self.count(OTHER_VALUES)
        check("nothing is said while it is away", len(self.host.said()) == said, self.host.said()[said:])
        self.state(True)
        self.wait_reading(self.host, self.counter)
        check("its return is answered by births with another number", self.host.said("NBIRTH")[-1].bd_seq > bd_seq)
        readings = self.host.readings("meter", "counter")
        first = {value: old for value, old in reversed(readings)}
        check("every value arrived", set(range(1, self.counter + 1)) <= set(first), sorted(first))
        away = list(range(1, OTHER_VALUES + 1)) + list(range(2 * OTHER_VALUES + 1, 3 * OTHER_VALUES + 1))
        check("what was read while it was away is historical", all(first[value] for value in away), first)
        self.gateway.end(self.scenario)
        self.check_rules()
        self.end()


def main():
    with Scenario("sparkplug", 240) as scenario:
        for protocol in ("5", "3.1.1"):
            scenario.figure(f"--- bridge over MQTT {protocol}")
            run = Run(scenario, protocol)
            run.start()
            run.check_births()
            run.lan.ask_rebirth()
            run.lan.wait(1, "DBIRTH", "meter")
            run.check_outage()
            run.check_rebirths()
            run.check_commands()
            run.check_device_away()
            run.check_deaths()
            run.check_rules()
            run.end()
            scenario.figure(f"--- with a primary host, over MQTT {protocol}")
            PrimaryHost(scenario, protocol).run()


if __name__ == "__main__":
    main()
