"""50,000 QoS 1 messages to each of the brokers that a cloud may run, through three outages: nothing lost, order kept.
Duplicates and the rate of draining are printed.

The outages begin and end when so many messages are acknowledged by the gateway, and who publishes goes on meanwhile and
afterwards, but not further than the outage's part of all. TIDEGATE_CLOUD_MESSAGES: fewer, or more; TIDEGATE_CLOUDS: only
those of these names.
"""

import asyncio
import collections
import logging
import os
import threading
import time

from cloud_brokers import MosquittoCloud, Nats, RabbitMq, Rumqttd
from harness import Client, Gateway, Scenario, wait_for
from strict_client import Message, StrictPublisher

MESSAGES = int(os.environ.get("TIDEGATE_CLOUD_MESSAGES", "50000"))
PUBLISHERS = [("meter-a", 4), ("meter-b", 5), ("meter-c", 4), ("meter-d", 5)]
MESSAGES_EACH = MESSAGES // len(PUBLISHERS)
TOPICS = 10
OUTAGES = 3
# Of each publisher: so many while all is well, so many while the cloud is away, so many while what waited drains.
HEALTHY_EACH, AWAY_EACH, BACK_EACH = (MESSAGES_EACH * percent // 100 for percent in (10, 15, 8))
BRIDGE_INFLIGHT = 128
# Bounds on waiting, which decide only that something never comes.
PROGRESS_SECONDS_MAX, DRAIN_SECONDS_MAX, QUIET_SECONDS = 120, 240, 2
SCENARIO_SECONDS_MAX = 1200


def messages(publisher):
    for number in range(MESSAGES_EACH):
        yield Message(number, f"load/{number % TOPICS}", f"{publisher} {number}".encode(), 1)


class HeldPublisher(StrictPublisher):
    """Goes no further than it may."""

    allowed = 0

    def is_due(self):
        return self.sent < self.allowed


class Run:
    """One broker."""

    def __init__(self, scenario, cloud):
        self.scenario, self.cloud = scenario, cloud
        self.publishers = [
            HeldPublisher(name, None, version, messages(name), rate=0) for name, version in PUBLISHERS
        ]
        self.drains = []
        self.seen, self.seen_to = set(), 0

    def bridge(self):
        return f"""
bridges:
  cloud:
    url: mqtt://127.0.0.1:{self.cloud.port}
    protocol: {self.cloud.versions[0]}
    inflight: {BRIDGE_INFLIGHT}
    keep_alive: 5s
    reconnect: {{ min: 200ms, max: 1s }}
    status_topic: gateways/{{gateway}}/status
    forward:
      - topic: load/#
        to: "sites/{{gateway}}/{{topic}}"
"""

    def run(self):
        self.cloud.start()
        version = 5 if self.cloud.versions[0] == "5" else 4
        self.observer = Client("observer", self.cloud.observer_port, version=version, clean=False, expiry=3600)
        self.observer.connect()
        self.observer.subscribe("sites/plant-7/load/#", 1)
        self.gateway = Gateway(self.scenario, self.bridge(), name=f"gateway-{self.cloud.name}")
        self.gateway.start()
        for publisher in self.publishers:
            publisher.port = self.gateway.port
        publishing = threading.Thread(target=lambda: asyncio.run(self.publish()), daemon=True)
        publishing.start()
        for number in range(OUTAGES):
            self.disturb(number)
        self.allow(MESSAGES_EACH)
        wait_for("the publishers' end", lambda: not publishing.is_alive(), PROGRESS_SECONDS_MAX)
        self.drain()
        self.judge()
        self.gateway.end(self.scenario)
        self.observer.disconnect()
        self.cloud.end()

    async def publish(self):
        await asyncio.gather(*(publisher.run() for publisher in self.publishers))

    def acknowledged(self):
        return sum(len(publisher.acknowledged) for publisher in self.publishers)

    def wait_acknowledged(self, count):
        wait_for(f"{count} acknowledgements", lambda: self.acknowledged() >= count, PROGRESS_SECONDS_MAX)

    def arrived(self):
        """How many different ones."""
        messages = self.observer.messages
        end = len(messages)
        self.seen.update(message.payload for message in messages[self.seen_to : end])
        self.seen_to = end
        return len(self.seen)

    def allow(self, more):
        for publisher in self.publishers:
            publisher.allowed = min(publisher.allowed + more, MESSAGES_EACH)
        return self.publishers[0].allowed * len(self.publishers)

    def disturb(self, number):
        healthy = self.allow(HEALTHY_EACH)
        self.wait_acknowledged(healthy - HEALTHY_EACH * len(PUBLISHERS) // 2)
        self.cloud.break_down(number)
        self.wait_acknowledged(self.allow(AWAY_EACH))
        backlog = self.acknowledged() - self.arrived()
        self.cloud.come_back()
        back, expected = time.monotonic(), self.allow(BACK_EACH)
        wait_for("what waited", lambda: self.arrived() >= expected, DRAIN_SECONDS_MAX)
        self.drains.append((backlog, time.monotonic() - back))

    def drain(self):
        """Until all are there and nothing has come for a while, or time is up: `judge` says what is missing."""
        seen, seen_at = -1, time.monotonic()
        deadline = time.monotonic() + DRAIN_SECONDS_MAX
        while time.monotonic() < deadline:
            if len(self.observer.messages) != seen:
                seen, seen_at = len(self.observer.messages), time.monotonic()
            if self.arrived() >= MESSAGES_EACH * len(PUBLISHERS) and time.monotonic() - seen_at > QUIET_SECONDS:
                break
            time.sleep(0.05)

    def judge(self):
        name, check = self.cloud.name, self.scenario.check
        copies, last = collections.Counter(), {}
        reordered, by_broker, strange = [], 0, []
        for message in self.observer.received("sites/plant-7/load/#"):
            publisher, number = message.payload.decode().split()
            key, topic = (publisher, int(number)), message.topic
            if int(topic.rsplit("/", 1)[1]) != key[1] % TOPICS:
                strange.append((topic, message.payload))
            if key in copies:
                by_broker += message.dup
            elif key[1] < last.get((publisher, topic), -1):
                reordered.append((key, last[publisher, topic]))
            else:
                last[publisher, topic] = key[1]
            copies[key] += 1
        lost = [
            (name, number)
            for (name, _), publisher in zip(PUBLISHERS, self.publishers)
            for number in publisher.acknowledged
            if (name, number) not in copies
        ]
        twice = sum(copies.values()) - len(copies)
        more = BACK_EACH * len(PUBLISHERS)
        drains = ", ".join(
            f"{backlog} and {more} new ones in {seconds:.1f} s ({(backlog + more) / seconds:.0f}/s)"
            for backlog, seconds in self.drains
        )
        self.scenario.figure(
            f"{name} (MQTT {self.cloud.versions[0]}; {OUTAGES} times {self.cloud.what}): acknowledged "
            f"{self.acknowledged()}, lost {len(lost)}, reordered {len(reordered)}, twice {twice} "
            f"(with DUP, by the broker itself: {by_broker}); drained {drains}"
        )
        everything = self.acknowledged() == MESSAGES_EACH * len(PUBLISHERS)
        check(f"{name}: every message was acknowledged", everything, self.acknowledged())
        check(f"{name}: every acknowledged message arrived", not lost, f"lost {len(lost)}, {lost[:10]}")
        check(f"{name}: nothing else arrived", not strange, strange[:10])
        check(f"{name}: in order a topic and publisher", not reordered, f"{len(reordered)}, {reordered[:3]}")


def main():
    # It says so each time that a connection breaks; that it breaks is the point.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    wanted = os.environ.get("TIDEGATE_CLOUDS", "mosquitto rabbitmq nats rumqttd").split()
    with Scenario("clouds", SCENARIO_SECONDS_MAX) as scenario:
        for kind in (MosquittoCloud, RabbitMq, Nats, Rumqttd):
            if kind.name in wanted:
                Run(scenario, kind(scenario)).run()


if __name__ == "__main__":
    main()
