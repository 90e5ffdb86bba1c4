"""What Home Assistant is told of a pymodbus device: a client that knows its documented keys reads the retained messages,
renders their templates, commands what they say can be commanded, and sees the registers change. Where
HOMEASSISTANT_PYTHON names a Python that has `homeassistant` installed, the real one does it too."""

import json
import os
import subprocess
from pathlib import Path

import jinja2
from harness import Client, Gateway, Scenario, free_port, wait_for
from modbus_server import ModbusServer, Registers

# Documented at https://www.home-assistant.io/integrations/: of the message, of every entity, of each platform.
MESSAGE = "dev o cmps availability_topic payload_available payload_not_available"
ENTITY = "p name unique_id state_topic value_template"
PLATFORMS = {
    "sensor": "unit_of_measurement device_class state_class options expire_after",
    "binary_sensor": "payload_on payload_off expire_after device_class",
    "switch": "command_topic payload_on payload_off state_on state_off",
    "number": "command_topic command_template min max step unit_of_measurement device_class",
    "select": "command_topic options",
    "text": "command_topic max",
}
POINTS = """{ setpoint: { holding: 1, type: i16, scale: 0.1, unit: °C, writable: true, min: 5, max: 30 },
        relay: { coil: 3, writable: true }, door: { coil: 4 },
        mode: { holding: 2, labels: { 0: off, 1: auto, 2: manual }, writable: true },
        state: { holding: 3, bits: { alarm: 0, gear: 4-6 }, writable: true },
        odd: { holding: 4, labels: { 0: off, 1: auto } }, text: { holding: 10, type: string, length: 4, writable: true },
        power: { holding: 5, unit: kW }, twice: { compute: "power * 2", unit: kW } }"""
PUBLISH = {"json": "{}", "plain": "{ format: plain }", "one": '{ topic: "plant/{device}" }'}
# Entity, what a person asks for, the state that follows; then where it is held.
COMMANDS = [("setpoint", 21.5, "21.5"), ("relay", True, "true"), ("mode", "manual", "manual"), ("text", "hello", "hello")]
COMMANDS += [("state.alarm", True, "true"), ("state.gear", 5, "5")]
STATES = {"door": "true", "odd": "None", "power": "7", "twice": "14"}
HELD = {1: 215, 2: 2, 3: 0xFF51}


def registers():
    held = {1: 200, 2: 1, 3: 0xFF00, 4: 9, 5: 7, **{at: 0x2020 for at in range(10, 14)}}
    return Registers(holding=held, coils={3: False, 4: True})


def sections(ports):
    devices = [
        f"""  {name}:
    modbus: {{ tcp: 127.0.0.1:{ports[name]}, unit: 1 }}
    poll: 200ms
    homeassistant: true
    publish: {publish}
    points: {POINTS}"""
        for name, publish in PUBLISH.items()
    ]
    return "devices:\n" + "\n".join(devices) + "\n"


class Entity:
    """One component, as Home Assistant's MQTT integration goes by it."""

    templates = jinja2.Environment(undefined=jinja2.StrictUndefined)

    def __init__(self, client, config):
        self.client, self.config = client, config

    def state(self):
        messages = self.client.received(self.config["state_topic"])
        if not messages:
            return None
        payload = messages[-1].payload.decode()
        template = self.config.get("value_template", "{{ value }}")
        try:
            value_json = json.loads(payload)
        except ValueError:
            value_json = None
        return self.templates.from_string(template).render(value=payload, value_json=value_json)

    def command(self, value):
        if self.config["p"] == "switch":
            return self.config["payload_on" if value else "payload_off"]
        template = self.config.get("command_template", "{{ value }}")
        return self.templates.from_string(template).render(value=value)


def check_keys(scenario, topic, config):
    unknown = set(config) - set(MESSAGE.split())
    for key, component in config["cmps"].items():
        known = f"{ENTITY} {PLATFORMS[component['p']]}".split()
        unknown |= {f"{key}: {name}" for name in set(component) - set(known)}
    scenario.check(f"{topic}: all keys are documented", not unknown, unknown)


def check_device(scenario, client, name, server):
    topic = f"homeassistant/device/plant-7_{name}/config"
    wait_for(f"{topic} with what the unit is", lambda: '"mf":"pymodbus"' in (client.payloads(topic) or [""])[-1])
    config = json.loads(client.payloads(topic)[-1])
    check_keys(scenario, topic, config)
    dev = {key: config["dev"][key] for key in ("mf", "mdl", "sw")}
    scenario.check_equal(f"{name}: what it is", dev, {"mf": "pymodbus", "mdl": "PM", "sw": "3.16"})
    client.wait_payload(config["availability_topic"], config["payload_available"])
    entities = {key: Entity(client, component) for key, component in config["cmps"].items()}
    for key, state in STATES.items():
        wait_for(f"{name} {key} {state}", lambda key=key, state=state: entities[key].state() == state)
    scenario.check(f"{name}: states are what the registers say", True)
    for key, value, state in COMMANDS:
        entity = entities[key]
        client.publish(entity.config["command_topic"], entity.command(value), qos=0)
        wait_for(f"{name} {key} {state}", lambda entity=entity, state=state: entity.state() == state)
    held = {at: server.holding(at)[0] for at in HELD}
    scenario.check_equal(f"{name}: the registers hold what was commanded", held, HELD)
    scenario.check_equal(f"{name}: the coil too", server.coil(3), True)


def check_real(scenario, port, servers):
    """Home Assistant itself, with its MQTT integration on the gateway's broker."""
    python = os.environ["HOMEASSISTANT_PYTHON"]
    script = Path(__file__).with_name("homeassistant_core.py")
    for server in servers.values():
        server.stop()
        server.start()
    done = subprocess.run([python, "-P", script, str(port), *PUBLISH], capture_output=True, text=True, timeout=300, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    scenario.check("Home Assistant ran", done.returncode == 0 and lines, done.stderr[-2000:])
    found = json.loads(lines[-1])
    wanted = {"number.{}_setpoint": "21.5", "switch.{}_relay": "on", "select.{}_mode": "manual", "text.{}_text": "hello"}
    wanted |= {"switch.{}_state_alarm": "on", "number.{}_state_gear": "5", "binary_sensor.{}_door": "on"}
    wanted |= {"sensor.{}_odd": "unknown", "sensor.{}_power": "7", "sensor.{}_twice": "14"}
    wanted = {key.format(name): state for name in PUBLISH for key, state in wanted.items()}
    scenario.check_equal("its entities, after its own commands", {key: found.get(key) for key in wanted}, wanted)
    for name, server in servers.items():
        scenario.check_equal(f"{name}: what Home Assistant set", {at: server.holding(at)[0] for at in HELD}, HELD)


def main():
    with Scenario("homeassistant", 380) as scenario:
        ports = {name: free_port() for name in PUBLISH}
        servers = {name: ModbusServer(1, registers(), tcp_port=port, identity=("pymodbus", "PM", "3.16")) for name, port in ports.items()}
        for server in servers.values():
            scenario.cleanups.append(server.stop)
            server.start()
        gateway = Gateway(scenario, sections(ports))
        gateway.start()
        client = Client("assistant", gateway.port)
        client.connect()
        for topic in ("homeassistant/#", "devices/#", "plant/#"):
            client.subscribe(topic, 0)
        for name, server in servers.items():
            check_device(scenario, client, name, server)
        before = len(client.received("homeassistant/device/+/config"))
        client.publish("homeassistant/status", "online", qos=0)
        client.wait_count(before + len(PUBLISH), "homeassistant/device/+/config")
        scenario.check("all of it is said again when Home Assistant comes up", True)
        if "HOMEASSISTANT_PYTHON" in os.environ:
            check_real(scenario, gateway.port, servers)


main()
