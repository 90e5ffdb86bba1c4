"""The promise under the worst week of a gateway: SIGKILL again and again at random moments, under QoS 1 and QoS 2 load in
both directions, with an uplink that delays, cuts and stalls. Nothing acknowledged is lost, QoS 2 is never doubled,
order is kept: from LAN to cloud, from cloud to LAN, and from one LAN client to the session of another.

TIDEGATE_KILLS is how often for each protocol version of the bridge (100), TIDEGATE_KILL_SEED repeats the moments of a run and its link's moods.
"""

import asyncio
import logging
import os
import random
import threading
import time

from bad_link import BadLink
from harness import Client, Gateway, Mosquitto, Scenario, wait_for
from outage import Counts, messages
from strict_client import StrictPublisher

KILLS = int(os.environ.get("TIDEGATE_KILLS", "100"))
SEED = int(os.environ.get("TIDEGATE_KILL_SEED", random.randrange(1_000_000)))
LIFE_SECONDS = (0.02, 0.9)
RATE_EACH = 60
# More than any run comes to: publishers end when they are told.
MESSAGES_MAX = RATE_EACH * (KILLS * 4 + 60)
SECONDS_MAX = 90 + KILLS * 3
ARRIVAL_SECONDS_MAX = 90
LOOK_SECONDS = 0.5
RECONNECT_SECONDS = 0.2
# A client that hardly ever gets to its queue between two kills must not lose by its bound.
LIMITS = "  limits: { queued_messages: 1000000, queued_bytes: 256MiB }\n"
PROGRESS_LEAST = KILLS  # acknowledged messages a publisher: fewer would show nothing
UP, DOWN = {"meter-a": 4, "meter-b": 5}, {"office-a": 4, "office-b": 5}


class Publisher(StrictPublisher):
    """Goes on until it is told to stop, then waits for what it has in flight."""

    is_stopped = False

    def is_due(self):
        if self.is_stopped:
            self.waiting.clear()
            return False
        return super().is_due()


def publishers(names, port):
    return {
        name: Publisher(name, port, version, messages(name, MESSAGES_MAX), RATE_EACH)
        for name, version in names.items()
    }


class Run:
    """One bridge's protocol version."""

    def __init__(self, scenario, protocol):
        self.scenario, self.random = scenario, random.Random(f"{SEED} {protocol}")
        tag = protocol.replace(".", "")
        self.cloud = Mosquitto(scenario, f"cloud-{tag}")
        self.link = BadLink(self.cloud.port, f"{SEED} {protocol} link")
        self.gateway = Gateway(scenario, self.bridge(protocol), limits=LIMITS, name=f"gateway-{tag}")
        self.observer = Client("observer", self.cloud.port, clean=False, expiry=3600)
        self.actuator = Client("actuator", self.gateway.port, version=4, clean=False)
        self.display = Client("display", self.gateway.port, version=5, clean=False, expiry=3600)
        for client in (self.observer, self.actuator, self.display):
            client.paho.reconnect_delay_set(RECONNECT_SECONDS, RECONNECT_SECONDS)
        self.up, self.down = publishers(UP, self.gateway.port), publishers(DOWN, self.cloud.port)

    def bridge(self, protocol):
        return f"""
bridges:
  cloud:
    url: mqtt://127.0.0.1:{self.link.port}
    protocol: {protocol}
    keep_alive: 5s
    reconnect: {{ min: 100ms, max: 200ms }}
    forward:
      - {{ topic: "load/#", to: "up/{{topic}}" }}
    receive:
      - {{ topic: "load/#", to: "down/{{topic}}" }}
"""

    def all_publishers(self):
        return list(self.up.values()) + list(self.down.values())

    def run(self):
        self.cloud.start()
        self.link.start()
        self.observer.connect()
        self.observer.subscribe("up/#", 2)
        self.observer.subscribe("gateways/plant-7/status", 1)
        self.gateway.start()
        self.actuator.connect()
        self.actuator.subscribe("down/#", 2)
        self.display.connect()
        self.display.subscribe("load/#", 2)
        self.observer.wait_payload("gateways/plant-7/status", "online", seconds=60)
        publishing = threading.Thread(target=lambda: asyncio.run(self.publish()), daemon=True)
        publishing.start()
        began = time.monotonic()
        self.kill_often()
        self.scenario.figure(f"{KILLS} kills in {time.monotonic() - began:.0f} s; connections of the link: {dict(self.link.suffered)}")
        for publisher in self.all_publishers():
            publisher.is_stopped = True
        self.link.heal()
        wait_for("the publishers' end", lambda: not publishing.is_alive(), ARRIVAL_SECONDS_MAX)
        self.judge("LAN to cloud", self.observer, "up/#", self.up)
        self.judge("cloud to LAN", self.actuator, "down/#", self.down)
        self.judge("LAN to LAN", self.display, "load/#", self.up)
        for client in (self.observer, self.actuator, self.display):
            client.disconnect()
        self.gateway.end(self.scenario)
        self.cloud.stop()

    async def publish(self):
        await asyncio.gather(*(publisher.run() for publisher in self.all_publishers()))

    def kill_often(self):
        for _ in range(KILLS):
            time.sleep(self.random.uniform(*LIFE_SECONDS))
            self.gateway.kill()
            self.gateway.start()

    def judge(self, way, receiver, topic, sources):
        deadline = time.monotonic() + ARRIVAL_SECONDS_MAX
        count = Counts(receiver.received(topic), sources)
        while count.lost and time.monotonic() < deadline:
            # Each look reads all that came, with the lock that the receiver needs too.
            time.sleep(LOOK_SECONDS)
            count = Counts(receiver.received(topic), sources)
        acknowledged = sum(len(publisher.acknowledged) for publisher in sources.values())
        again = sum(sum(publisher.sent_again.values()) for publisher in sources.values())
        check, figure = self.scenario.check, self.scenario.figure
        figure(
            f"{way}: acknowledged {acknowledged} (sent again {again}), arrived {count.arrivals}, lost {len(count.lost)}, "
            f"reordered {count.reordered}, QoS 1 twice {count.by_bridge + count.by_publisher}, QoS 2 twice {count.duplicates[2]}"
        )
        for name, publisher in sources.items():
            check(f"{way}: {name} went on", len(publisher.acknowledged) >= PROGRESS_LEAST, len(publisher.acknowledged))
            broken = publisher.sessions_lost + publisher.refused + publisher.acknowledged_out_of_order
            check(f"{way}: {name} kept its session and the order of its acknowledgements", broken == 0, broken)
        check(f"{way}: everything acknowledged arrived", not count.lost, f"lost {count.lost[:20]}")
        check(f"{way}: nothing else arrived", not count.strange, f"{count.strange[:20]}")
        check(f"{way}: in order a topic and publisher", count.reordered == 0, f"{count.first_reordered}")
        twice = [message.payload for message in count.repeated if message.qos == 2]
        by_server = [payload for payload in twice if self.link.replays.has(payload)]
        if by_server:
            figure(f"{way}: Mosquitto published {len(by_server)} QoS 2 messages again after their PUBREL")
        check(f"{way}: QoS 2 without a duplicate", len(twice) == len(by_server), f"{twice[:20]}")


def main():
    # It says so each time that a connection breaks; that it breaks is the point.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    with Scenario("kill", 2 * SECONDS_MAX) as scenario:
        scenario.figure(f"TIDEGATE_KILL_SEED={SEED}")
        for protocol in ("5", "3.1.1"):
            scenario.figure(f"--- bridge over MQTT {protocol}")
            Run(scenario, protocol).run()


if __name__ == "__main__":
    main()
