"""What a stream of large messages costs those who send small ones: how long a small one waits for its acknowledgement, which
comes once it is on disk, with large ones beside it and without. A bridge's buffer takes both, its cloud is away.

Judged is that everything is acknowledged, and memory. Times are printed and decide nothing.
"""

import os
import select
import threading
import time

import wire
from harness import Failure, Gateway, Scenario, free_port
from memory import status_bytes

SMALL_BYTES, LARGE_BYTES = 100, 1000 << 10
SMALL_A_SECOND, SMALL_MESSAGES = 100, 1000
LARGE_UNACKNOWLEDGED = int(os.environ.get("TIDEGATE_LARGE_UNACKNOWLEDGED", "32"))
# What waits for the disk is bounded by its bytes, however many are on their way.
RSS_BYTES_MAX = 40 << 20
ANSWER_SECONDS_MAX, SCENARIO_SECONDS_MAX = 30, 120
MIB = 1 << 20


def bridge():
    return f"""
bridges:
  cloud:
    url: mqtt://127.0.0.1:{free_port()}
    reconnect: {{ min: 60s, max: 120s }}
    buffer: {{ size: 4GiB }}
    forward:
      - topic: plant/#
"""


def send_small(port):
    """At their own rate. How long each waited for its acknowledgement, in milliseconds, sorted."""
    sock = wire.open_socket(port)
    wire.ask(sock, wire.connect("small"), wire.CONNACK)
    due, waits, rest = [], [], b""
    begun = time.monotonic()
    while len(waits) < SMALL_MESSAGES:
        next_due = begun + len(due) / SMALL_A_SECOND
        left = next_due - time.monotonic() if len(due) < SMALL_MESSAGES else ANSWER_SECONDS_MAX
        if left <= 0:
            due.append(next_due)
            sock.sendall(wire.publish_1("plant/small", bytes(SMALL_BYTES), len(due)))
            continue
        ready, _, _ = select.select([sock], [], [], left)
        if ready:
            part = sock.recv(4096)
            if not part:
                raise Failure("the gateway closed who sends small ones")
            rest += part
            for _ in range(len(rest) // 4):
                waits.append(1000 * (time.monotonic() - due[len(waits)]))
            rest = rest[len(rest) // 4 * 4 :]
        elif len(due) == SMALL_MESSAGES:
            raise Failure(f"{len(waits)} of {SMALL_MESSAGES} small messages are acknowledged")
    sock.close()
    return sorted(waits)


class Large(threading.Thread):
    """As fast as they are acknowledged, so many on their way."""

    def __init__(self, port):
        super().__init__(daemon=True)
        self.sock = wire.open_socket(port)
        wire.ask(self.sock, wire.connect("large"), wire.CONNACK)
        self.sent = self.acknowledged = 0
        self.ended = False
        self.payload = os.urandom(LARGE_BYTES)

    def send(self):
        self.sent += 1
        self.sock.sendall(wire.publish_1("plant/large", self.payload, self.sent))

    def run(self):
        for _ in range(LARGE_UNACKNOWLEDGED):
            self.send()
        while self.acknowledged < self.sent:
            self.acknowledged += 1
            wire.expect(self.sock, wire.puback(self.acknowledged))
            if not self.ended:
                self.send()


def main():
    with Scenario("large", SCENARIO_SECONDS_MAX) as scenario:
        gateway = Gateway(scenario, bridge())
        gateway.start()
        alone = send_small(gateway.port)
        large = Large(gateway.port)
        begun = time.monotonic()
        large.start()
        beside = send_small(gateway.port)
        large.ended = True
        large.join(ANSWER_SECONDS_MAX)
        rate = large.acknowledged * LARGE_BYTES / MIB / (time.monotonic() - begun)
        for name, part in (("median", 50), ("p99", 99)):
            before, busy = (times[len(times) * part // 100] for times in (alone, beside))
            scenario.figure(
                f"a small message is acknowledged after {busy:.1f} ms ({name}) beside large ones, {before:.1f} without:"
                f" {busy / before:.2f} times as long"
            )
        scenario.figure(f"large ones: {large.acknowledged} of {LARGE_BYTES >> 10} KiB, {rate:.1f} MiB a second")
        scenario.check_equal("every large message is acknowledged", large.acknowledged, large.sent)
        most = status_bytes(gateway, "VmHWM")
        scenario.figure(f"at most {most / MIB:.1f} MiB are resident")
        scenario.check(f"less than {RSS_BYTES_MAX // MIB} MiB are resident", most < RSS_BYTES_MAX, most)
        gateway.end(scenario)


if __name__ == "__main__":
    main()
