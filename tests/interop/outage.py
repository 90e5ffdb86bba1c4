"""The promise. 11,000 messages go through the gateway while the cloud stops and starts again and the gateway is killed
twice in between, and once more while it drains: every acknowledged message arrives, in order, QoS 2 exactly once.

The cloud is Mosquitto with TLS that asks for a client certificate. Who publishes keeps its session (strict_client), in
both protocol versions; a paho client with a persistent session watches what arrives at the cloud. Everything happens
when so many messages are acknowledged, not after so many seconds. Once for each protocol version of the bridge.
"""

import asyncio
import collections
import logging
import threading
import time

from harness import Certificates, Client, Gateway, Mosquitto, Scenario, wait_for
from strict_client import Message, StrictPublisher

PUBLISHERS = [("meter-a", 4), ("meter-b", 5), ("meter-c", 4), ("meter-d", 5)]
MESSAGES_EACH = 2750
TOPICS = 11  # the last one carries QoS 2: 10,000 QoS 1 and 1,000 QoS 2 messages in all
RATE_EACH = 250
CLOUD_STOPS_AT, KILLS_AT, CLOUD_STARTS_AT = 2500, (4500, 6500), 8500
KILL_AFTER_DRAINED = 50  # the gateway is far ahead of what the observer has seen
BRIDGE_INFLIGHT = 128
DRAIN_SECONDS_MAX = 90
PROGRESS_SECONDS_MAX = 30
QUIET_SECONDS = 2
CUTS = 1 + len(KILLS_AT) + 1


def messages(publisher, count=MESSAGES_EACH):
    for number in range(count):
        topic = number % TOPICS + 1
        yield Message(number, f"load/{topic}", f"{publisher} {number}".encode(), 2 if topic == TOPICS else 1)


def qos_of(number):
    return 2 if number % TOPICS + 1 == TOPICS else 1


def by_name(publishers):
    return {name: publisher for (name, _), publisher in zip(PUBLISHERS, publishers)}


class Run:
    """One bridge's protocol version."""

    def __init__(self, scenario, protocol, certificates):
        self.scenario, self.protocol = scenario, protocol
        tag = protocol.replace(".", "")
        self.cloud = Mosquitto(scenario, f"cloud-{tag}", certificates)
        self.gateway = Gateway(scenario, self.bridge(certificates), name=f"gateway-{tag}")
        self.observer = Client(
            "observer", self.cloud.port, clean=False, expiry=3600, tls=(certificates, "observer")
        )
        self.publishers = [
            StrictPublisher(f"{name}-{tag}", self.gateway.port, version, messages(name), RATE_EACH)
            for name, version in PUBLISHERS
        ]
        self.began = None
        self.kills, self.cloud_away = [], [0.0, 0.0]
        self.arrived_before = self.acknowledged_before = 0
        self.last_arrival = 0.0

    def bridge(self, certificates):
        return f"""
bridges:
  cloud:
    url: mqtts://127.0.0.1:{self.cloud.port}
    protocol: {self.protocol}
    tls:
      ca: {certificates.ca}
      certificate: {certificates.crt("gateway")}
      private_key: {certificates.key("gateway")}
    inflight: {BRIDGE_INFLIGHT}
    reconnect: {{ min: 200ms, max: 1s }}
    forward:
      - topic: load/#
        to: "sites/{{gateway}}/{{topic}}"
"""

    def since(self):
        return time.monotonic() - self.began

    def acknowledged(self):
        return sum(len(publisher.acknowledged) for publisher in self.publishers)

    def arrived(self):
        return len(self.observer.messages)

    def run(self):
        self.cloud.start()
        self.observer.connect()
        self.observer.subscribe("sites/plant-7/load/#", 2)
        self.observer.subscribe("gateways/plant-7/status", 1)
        self.gateway.start()
        self.observer.wait_payload("gateways/plant-7/status", "online")
        self.observer.clear()
        self.began = time.monotonic()
        self.load()
        self.drain()
        self.judge()
        self.gateway.end(self.scenario)
        self.observer.disconnect()
        self.cloud.stop()

    def load(self):
        """The publishers run in a thread of their own; the disturbances come from here."""
        publishing = threading.Thread(target=lambda: asyncio.run(self.publish()), daemon=True)
        publishing.start()
        self.disturb()
        wait_for("the publishers' end", lambda: not publishing.is_alive(), DRAIN_SECONDS_MAX)
        self.scenario.figure(f"published and acknowledged in {self.since():.1f} s")

    async def publish(self):
        await asyncio.gather(*(publisher.run() for publisher in self.publishers))

    def wait_acknowledged(self, count):
        wait_for(f"{count} acknowledgements", lambda: self.acknowledged() >= count, PROGRESS_SECONDS_MAX)

    def disturb(self):
        self.wait_acknowledged(CLOUD_STOPS_AT)
        self.cloud_away[0] = self.since()
        self.scenario.check_equal("Mosquitto ended by itself", self.cloud.stop(), 0)
        for count in KILLS_AT:
            self.wait_acknowledged(count)
            self.kill_gateway()
        self.wait_acknowledged(CLOUD_STARTS_AT)
        self.acknowledged_before, self.arrived_before = self.acknowledged(), self.arrived()
        self.cloud.start()
        self.cloud_away[1] = self.since()
        drained = self.arrived_before + KILL_AFTER_DRAINED
        wait_for(f"{drained} arrivals", lambda: self.arrived() >= drained, PROGRESS_SECONDS_MAX)
        self.kill_gateway()

    def kill_gateway(self):
        self.gateway.kill()
        killed = self.since()
        self.gateway.start()
        self.kills.append((killed, self.since()))

    def drain(self):
        """Until all messages are there and nothing has come for a while, or time is up: `judge` says what is missing."""
        expected = len(PUBLISHERS) * MESSAGES_EACH
        seen, seen_at = -1, time.monotonic()
        deadline = time.monotonic() + DRAIN_SECONDS_MAX
        while time.monotonic() < deadline:
            if self.arrived() != seen:
                seen, seen_at = self.arrived(), time.monotonic()
            if seen >= expected and time.monotonic() - seen_at > QUIET_SECONDS:
                break
            time.sleep(0.02)
        self.last_arrival = seen_at - self.began

    def judge(self):
        count = Counts(self.observer.received("sites/plant-7/load/#"), by_name(self.publishers))
        check, figure = self.scenario.check, self.scenario.figure
        published = sum(publisher.sent for publisher in self.publishers)
        sent_again = sum(sum(publisher.sent_again.values()) for publisher in self.publishers)
        kills = ", ".join(f"{killed:.1f} s (up after {up - killed:.2f} s)" for killed, up in self.kills)
        away, back = self.cloud_away
        backlog = self.acknowledged_before - self.arrived_before
        figure(f"published {published}, acknowledged {self.acknowledged()}, arrived {count.arrivals}")
        figure(f"lost {len(count.lost)}, reordered {count.reordered}")
        figure(
            f"duplicates: QoS 1 {count.by_bridge} by the bridge, {count.by_publisher} by publishers; "
            f"QoS 2 {count.duplicates[2] - count.by_observer_hop[2]}"
        )
        figure(
            f"  and what Mosquitto sent to the observer again when it stopped in between: "
            f"QoS 1 {count.by_observer_hop[1]}, QoS 2 {count.by_observer_hop[2]}"
        )
        figure(f"publishers sent {sent_again} messages again after a broken connection")
        figure(f"cloud away from {away:.1f} s to {back:.1f} s: {back - away:.1f} s; gateway killed at {kills}")
        drain_seconds = max(self.last_arrival - back, 0.001)
        rate = (count.arrivals - self.arrived_before) / drain_seconds
        figure(f"backlog {backlog} at the cloud's return; drained {drain_seconds:.1f} s later, {rate:.0f} messages/s")
        check("every message was acknowledged", self.acknowledged() == len(PUBLISHERS) * MESSAGES_EACH)
        check("every acknowledged message arrived", not count.lost, f"lost {count.lost[:20]}")
        check("nothing else arrived", not count.strange, f"{count.strange[:20]}")
        check("in order a topic and publisher", count.reordered == 0, f"{count.first_reordered}")
        twice = count.duplicates[2] - count.by_observer_hop[2]
        check("QoS 2 without a duplicate", twice == 0, twice)
        allowed = BRIDGE_INFLIGHT * CUTS
        check(f"the bridge's QoS 1 duplicates are at most {allowed}", count.by_bridge <= allowed, count.by_bridge)
        for what in ("sessions_lost", "refused", "acknowledged_out_of_order"):
            number = sum(getattr(publisher, what) for publisher in self.publishers)
            check(f"publishers saw no {what.replace('_', ' ')}", number == 0, number)


class Counts:
    """What an observer saw, against what the publishers did; each by the name that its payloads begin with."""

    def __init__(self, arrivals, by_name):
        self.arrivals = len(arrivals)
        # By QoS; `by_observer_hop` are those that Mosquitto itself sent to the observer again.
        self.duplicates, self.by_observer_hop = {1: 0, 2: 0}, {1: 0, 2: 0}
        self.by_publisher = self.by_bridge = self.reordered = 0
        self.first_reordered, self.strange, self.repeated = None, [], []
        copies, last, packet_ids = collections.Counter(), {}, {}
        for message in arrivals:
            name, number = message.payload.decode().split()
            key = name, int(number)
            topic = int(message.topic.rsplit("/", 1)[1])
            if name not in by_name or topic != key[1] % TOPICS + 1 or message.qos != qos_of(key[1]):
                self.strange.append((message.topic, message.payload, message.qos))
                continue
            if key in copies:
                self.duplicates[message.qos] += 1
                self.repeated.append(message)
                # [MQTT-3.3.1-3]: DUP speaks of this hop alone. A second copy from the gateway would be a publication
                # of its own to Mosquitto, with another packet identifier.
                if message.dup and message.mid == packet_ids[key]:
                    self.by_observer_hop[message.qos] += 1
                    continue
            elif key[1] < last.get((name, topic), -1):
                self.reordered += 1
                self.first_reordered = self.first_reordered or (key, last[name, topic])
            else:
                last[name, topic] = key[1]
            packet_ids.setdefault(key, message.mid)
            copies[key] += 1
        self.lost = sorted(
            (name, number)
            for name, publisher in by_name.items()
            for number in publisher.acknowledged
            if (name, number) not in copies
        )
        for (name, number), copies_seen in copies.items():
            if qos_of(number) == 1:
                by_publisher = min(copies_seen - 1, by_name[name].sent_again[number])
                self.by_publisher += by_publisher
                self.by_bridge += copies_seen - 1 - by_publisher


def main():
    # It says so each time that a connection breaks; that it breaks is the point.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    with Scenario("outage", 360) as scenario:
        certificates = Certificates(scenario.folder / "tls")
        for protocol in ("5", "3.1.1"):
            scenario.figure(f"--- bridge over MQTT {protocol}")
            Run(scenario, protocol, certificates).run()


if __name__ == "__main__":
    main()
