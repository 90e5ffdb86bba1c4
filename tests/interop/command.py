"""A command at the cloud changes a register of a pymodbus device, and its result comes back to the cloud."""

import json
import statistics
import time

from harness import Client, Gateway, Mosquitto, Scenario, free_port, properties, wait_for
from modbus_server import ModbusServer, Registers

SETPOINT, RELAY = 100, 3
ROUND_TRIPS = 20
ROUND_TRIP_SECONDS_MAX = 5
COMMAND = "commands/plant-7/devices/meter/setpoint/set"
RESULT = "sites/plant-7/devices/meter/setpoint/result"


def sections(cloud_port, device_port, protocol):
    return f"""
devices:
  meter:
    modbus: {{ tcp: 127.0.0.1:{device_port}, unit: 1 }}
    poll: 1s
    points:
      setpoint: {{ holding: {SETPOINT}, type: i16, scale: 0.1, unit: °C, writable: true, min: 5, max: 30 }}
      relay: {{ coil: {RELAY}, writable: true }}
bridges:
  cloud:
    url: mqtt://127.0.0.1:{cloud_port}
    protocol: {protocol}
    reconnect: {{ min: 200ms, max: 1s }}
    forward:
      - {{ topic: "devices/#", to: "sites/{{gateway}}/{{topic}}" }}
      - {{ topic: "replies/#" }}
    receive:
      - {{ topic: "commands/plant-7/#", to: "{{rest}}" }}
"""


class Command:
    """One protocol version of the bridge."""

    def __init__(self, scenario, protocol):
        self.scenario, tag = scenario, protocol.replace(".", "")
        self.cloud = Mosquitto(scenario, f"cloud-{tag}")
        device_port = free_port()
        registers = Registers(holding={SETPOINT: 200}, coils={RELAY: False})
        self.device = ModbusServer(1, registers, tcp_port=device_port)
        scenario.cleanups.append(self.device.stop)
        yaml = sections(self.cloud.port, device_port, protocol)
        self.gateway = Gateway(scenario, yaml, name=f"gateway-{tag}")
        self.operator = Client(f"operator-{tag}", self.cloud.port)

    def start(self):
        self.cloud.start()
        self.device.start()
        self.operator.connect()
        for topic in ("sites/#", "gateways/#", "replies/#"):
            self.operator.subscribe(topic, 1)
        self.gateway.start()
        self.operator.wait_payload("gateways/plant-7/status", "online")
        self.operator.wait_payload("sites/plant-7/devices/meter/status", "online")
        self.operator.wait_count(1, "sites/plant-7/devices/meter/setpoint")

    def ask(self, payload, topic=COMMAND, result=RESULT):
        """The answer on the result topic, parsed."""
        before = len(self.operator.received(result))
        self.operator.publish(topic, payload)
        return json.loads(self.operator.wait_count(before + 1, result)[-1].payload)

    def check_writes(self):
        check = self.scenario.check_equal
        check("the result of 21.5", self.ask("21.5"), {"value": 21.5, "ok": True})
        check("the register holds it", self.device.holding(SETPOINT), [215])
        check('the result of {"value":12.3}', self.ask('{"value":12.3}'), {"value": 12.3, "ok": True})
        check("the register holds it", self.device.holding(SETPOINT), [123])
        relay = [topic.replace("setpoint", "relay") for topic in (COMMAND, RESULT)]
        check("the result of true for a coil", self.ask("true", *relay), {"value": True, "ok": True})
        check("the coil is on", self.device.coil(RELAY), True)
        readings = "sites/plant-7/devices/meter/setpoint"
        wait_for(
            "the reading of the new value",
            lambda: any(json.loads(payload)["value"] == 12.3 for payload in self.operator.payloads(readings)),
        )

    def check_refusals(self):
        answer = self.ask("99")
        self.scenario.check_equal("99 is refused", answer, {"ok": False, "error": "setpoint: 99 is above max 30"})
        for payload in ("4.9", '"warm"', "{}", "true"):
            answer = self.ask(payload)
            is_refused = answer.get("ok") is False and answer.get("error")
            self.scenario.check(f"{payload} is refused with a reason", is_refused, answer)
        self.scenario.check_equal("the register is as it was", self.device.holding(SETPOINT), [123])

    def check_round_trips(self):
        """With a response topic and correlation data, which only MQTT 5 carries."""
        seconds = []
        for number in range(ROUND_TRIPS):
            value, correlation = 10 + number / 2, f"request {number}".encode()
            asked = properties("PUBLISH", ResponseTopic="replies/operator", CorrelationData=correlation)
            began = time.monotonic()
            self.operator.paho.publish(COMMAND, str(value), 1, properties=asked)
            message = self.operator.wait_count(number + 1, "replies/operator", ROUND_TRIP_SECONDS_MAX)[-1]
            seconds.append(time.monotonic() - began)
            answer = json.loads(message.payload)
            is_right = answer == {"value": value, "ok": True} and self.device.holding(SETPOINT) == [round(value * 10)]
            if not (is_right and message.properties.CorrelationData == correlation):
                self.scenario.check("a response with its correlation data", False, (answer, message.properties))
                return
        self.scenario.check("responses come with their correlation data", True)
        millis = [second * 1000 for second in seconds]
        self.scenario.figure(
            f"{ROUND_TRIPS} commands, cloud to register, read back, to cloud: "
            f"median {statistics.median(millis):.1f} ms, longest {max(millis):.1f} ms"
        )

    def time_results(self):
        """As `check_round_trips` over MQTT 3.1.1, where the result topic answers."""
        millis = []
        for number in range(ROUND_TRIPS):
            began = time.monotonic()
            self.ask(str(10 + number / 2))
            millis.append((time.monotonic() - began) * 1000)
        self.scenario.figure(
            f"{ROUND_TRIPS} commands, cloud to register, read back, to cloud: "
            f"median {statistics.median(millis):.1f} ms, longest {max(millis):.1f} ms"
        )

    def check_echo(self):
        echo = [message.topic for message in self.operator.messages if message.topic.endswith("/set")]
        self.scenario.check("no command comes back as a forwarded message", not echo, echo)

    def end(self):
        self.operator.disconnect()
        self.gateway.end(self.scenario)
        self.cloud.stop()
        self.device.stop()


def main():
    with Scenario("command", 120) as scenario:
        for protocol in ("5", "3.1.1"):
            scenario.figure(f"--- bridge over MQTT {protocol}")
            command = Command(scenario, protocol)
            command.start()
            command.check_writes()
            command.check_refusals()
            if protocol == "5":
                command.check_round_trips()
            else:
                command.time_results()
            command.check_echo()
            command.end()


if __name__ == "__main__":
    main()
