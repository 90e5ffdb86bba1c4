"""How long a message takes from a publisher to a subscriber, both on the LAN, as a program: so many a second at QoS 1,
each with the time when it was due, so that a gateway that stands still shows. After SIGTERM it says in one line of JSON
when each was due and what it took, in seconds.

    probe.py PORT RATE
"""

import json
import select
import signal
import struct
import sys
import time

import wire

TOPIC = "probe/load"
DUE = struct.Struct(">d")
ANSWERS_BYTES = 1 << 16


class Probe:
    def __init__(self, port, rate):
        self.subscriber, self.publisher = wire.open_socket(port), wire.open_socket(port)
        wire.ask(self.subscriber, wire.connect("probe-reader"), wire.CONNACK)
        wire.ask(self.subscriber, wire.subscribe(TOPIC, qos=0), wire.SUBACK_QOS_0)
        wire.ask(self.publisher, wire.connect("probe-writer"), wire.CONNACK)
        self.period, self.ended = 1 / rate, False
        self.size = len(wire.publish_0(TOPIC, bytes(DUE.size)))
        self.rest, self.found = b"", []

    def run(self):
        due = time.monotonic()
        while not self.ended:
            due += self.period
            self.wait_until(due)
            self.publisher.sendall(wire.publish_1(TOPIC, DUE.pack(due)))
        return self.found

    def wait_until(self, due):
        while True:
            left = due - time.monotonic()
            ready, _, _ = select.select([self.subscriber, self.publisher], [], [], max(left, 0))
            if self.subscriber in ready:
                self.take(self.subscriber.recv(ANSWERS_BYTES))
            if self.publisher in ready:
                self.publisher.recv(ANSWERS_BYTES)
            if left <= 0:
                return

    def take(self, part):
        now, data = time.monotonic(), self.rest + part
        whole = len(data) - len(data) % self.size
        for end in range(self.size, whole + 1, self.size):
            (due,) = DUE.unpack_from(data, end - DUE.size)
            self.found.append((due, now - due))
        self.rest = data[whole:]


def main():
    port, rate = map(int, sys.argv[1:])
    probe = Probe(port, rate)
    signal.signal(signal.SIGTERM, lambda _number, _frame: setattr(probe, "ended", True))
    print("ready", flush=True)
    print(json.dumps(probe.run()), flush=True)


if __name__ == "__main__":
    main()
