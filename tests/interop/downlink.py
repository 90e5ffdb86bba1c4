"""The other way: messages from the cloud reach a LAN client, QoS 2 exactly once, while the gateway is killed three times
and the client is away for a while. Once for each protocol version of the bridge; the client's is the other one."""

import asyncio
import logging
import threading
import time

from harness import Client, Gateway, Mosquitto, Scenario, wait_for
from outage import PUBLISHERS, RATE_EACH, Counts, by_name, messages
from strict_client import StrictPublisher

MESSAGES_EACH = 1100
KILLS_AT = (800, 1900, 3000)
CLIENT_LEAVES_AT, CLIENT_RETURNS_AT = 1400, 2400
ARRIVAL_SECONDS_MAX = 60
QUIET_SECONDS = 2


class Run:
    """One bridge's protocol version."""

    def __init__(self, scenario, protocol):
        self.scenario = scenario
        tag = protocol.replace(".", "")
        self.cloud = Mosquitto(scenario, f"cloud-{tag}")
        self.gateway = Gateway(scenario, self.bridge(protocol), name=f"gateway-{tag}")
        version = 4 if protocol == "5" else 5
        self.client = Client("actuator", self.gateway.port, version=version, clean=False, expiry=3600)
        self.publishers = [
            StrictPublisher(name, self.cloud.port, version, messages(name, MESSAGES_EACH), RATE_EACH)
            for name, version in PUBLISHERS
        ]

    def bridge(self, protocol):
        return f"""
bridges:
  cloud:
    url: mqtt://127.0.0.1:{self.cloud.port}
    protocol: {protocol}
    reconnect: {{ min: 200ms, max: 1s }}
    receive:
      - {{ topic: "load/#", to: "down/{{topic}}" }}
"""

    def acknowledged(self):
        return sum(len(publisher.acknowledged) for publisher in self.publishers)

    def wait_acknowledged(self, count):
        wait_for(f"{count} acknowledgements", lambda: self.acknowledged() >= count)

    def run(self):
        self.cloud.start()
        self.gateway.start()
        operator = Client("operator", self.cloud.port).connect()
        operator.subscribe("gateways/plant-7/status", 1)
        operator.wait_payload("gateways/plant-7/status", "online")
        self.client.connect()
        self.client.subscribe("down/#", 2)
        publishing = threading.Thread(target=lambda: asyncio.run(self.publish()), daemon=True)
        publishing.start()
        self.disturb()
        wait_for("the publishers' end", lambda: not publishing.is_alive(), ARRIVAL_SECONDS_MAX)
        self.wait_arrivals()
        self.judge()
        operator.disconnect()
        self.client.disconnect()
        self.gateway.end(self.scenario)
        self.cloud.stop()

    async def publish(self):
        await asyncio.gather(*(publisher.run() for publisher in self.publishers))

    def disturb(self):
        steps = [(count, self.kill_gateway) for count in KILLS_AT]
        steps += [(CLIENT_LEAVES_AT, self.client.disconnect), (CLIENT_RETURNS_AT, self.client.connect)]
        for count, step in sorted(steps, key=lambda pair: pair[0]):
            self.wait_acknowledged(count)
            step()

    def kill_gateway(self):
        self.gateway.kill()
        self.gateway.start()

    def wait_arrivals(self):
        expected, seen, seen_at = len(PUBLISHERS) * MESSAGES_EACH, -1, time.monotonic()
        deadline = time.monotonic() + ARRIVAL_SECONDS_MAX
        while time.monotonic() < deadline:
            if len(self.client.messages) != seen:
                seen, seen_at = len(self.client.messages), time.monotonic()
            if seen >= expected and time.monotonic() - seen_at > QUIET_SECONDS:
                break
            time.sleep(0.02)

    def judge(self):
        count = Counts(self.client.received("down/#"), by_name(self.publishers))
        check, figure = self.scenario.check, self.scenario.figure
        figure(f"published {self.acknowledged()}, arrived {count.arrivals}, lost {len(count.lost)}, reordered {count.reordered}")
        figure(
            f"duplicates: QoS 1 {count.by_bridge} new and {count.by_observer_hop[1]} sent again, "
            f"QoS 2 {count.duplicates[2]}; gateway killed {len(KILLS_AT)} times"
        )
        check("every message arrived", not count.lost, f"lost {count.lost[:20]}")
        check("nothing else arrived", not count.strange, f"{count.strange[:20]}")
        check("in order a topic and publisher", count.reordered == 0, f"{count.first_reordered}")
        check("QoS 2 without a duplicate", count.duplicates[2] == 0, count.duplicates[2])


def main():
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    with Scenario("downlink", 180) as scenario:
        for protocol in ("5", "3.1.1"):
            scenario.figure(f"--- bridge over MQTT {protocol}")
            Run(scenario, protocol).run()


if __name__ == "__main__":
    main()
