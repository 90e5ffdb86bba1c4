"""A subscriber that stops reading while 1,000,000 QoS 0 and 100,000 QoS 1 messages flow to it and to one that reads.
The one that reads gets all of them, the publisher is acknowledged for all of QoS 1, the gateway's memory keeps within what
its limits say, and every message that a bound costs is counted. With the session of the stuck one kept, and not kept.
"""

import re
import selectors
import time
import urllib.request

from flood import GROUP_0, Flood, Publisher, Reader
from harness import Failure, Gateway, Scenario, free_port, wait_for
from memory import status_bytes

GROUPS = 100_000
# The publisher is at most so many groups ahead of the healthy reader, so that the speed of the machine decides nothing:
# 1 MiB at QoS 0 may wait for a reader, and these are less.
AHEAD_MAX = 64
# Sent one by one, for how long each takes.
GROUPS_TIMED = 3000
INFLIGHT, QUEUED_MESSAGES, QUEUED_BYTES = 100, 10_000, 16 << 20

# What bounds the gateway's memory, beside what it has when it is idle. The stuck one's queue, each message with what stands
# around it.
QUEUED_OVERHEAD_BYTES = 512
QUEUE_BYTES = QUEUED_BYTES + QUEUED_MESSAGES * QUEUED_OVERHEAD_BYTES
# For each reader: the QoS 0 messages that wait for it (1 MiB), as they are and encoded.
OUTBOX_BYTES = 4 << 20
# For all: SQLite's pages, what is on its way there, shared buffers.
SHARED_BYTES = 8 << 20
LOAD_BYTES = QUEUE_BYTES + 2 * OUTBOX_BYTES + SHARED_BYTES

# The system holds little for it, so that it is the gateway that has to.
STUCK_RECEIVE_BUFFER_BYTES = 4096
DRAIN_SECONDS_MAX = 60
SCENARIO_SECONDS_MAX = 240


def start_gateway(scenario, name, http_port):
    limits = f"inflight: {INFLIGHT}, queued_messages: {QUEUED_MESSAGES}, queued_bytes: {QUEUED_BYTES >> 20}MiB"
    gateway = Gateway(
        scenario, f"http: {{ address: 127.0.0.1:{http_port} }}\n", limits=f"  limits: {{ {limits} }}\n", name=name
    )
    gateway.start()
    return gateway


def dropped(http_port):
    with urllib.request.urlopen(f"http://127.0.0.1:{http_port}/metrics", timeout=10) as page:
        found = re.findall(r"^tidegate_broker_messages_dropped_total\{.*\} (\d+)$", page.read().decode(), re.M)
    if not found:
        raise Failure("no tidegate_broker_messages_dropped_total")
    return sum(map(int, found))


def flow(scenario, port, first, groups, ahead_max):
    """From a publisher to a reader that reads, until both are done."""
    publisher, healthy = Publisher(port, first, groups), Reader(port, "healthy")
    flood = Flood(publisher, healthy, ahead_max)
    begun = time.monotonic()
    flood.run()
    seconds = time.monotonic() - begun
    times = flood.latencies()
    scenario.figure(
        f"{groups * (GROUP_0 + 1)} messages, {groups * (GROUP_0 + 1) / seconds:,.0f} a second; those at QoS 1 take"
        f" {times[len(times) // 2]:.2f} ms (median) and {times[len(times) * 99 // 100]:.2f} ms (99 of 100)"
    )
    flood.end()
    scenario.check_equal("the publisher is acknowledged for all of QoS 1", publisher.acknowledged, groups)
    scenario.check_equal("the healthy reader has all of QoS 1", healthy.received_1, groups)
    scenario.check_equal("it has all of QoS 0", healthy.received_0, groups * GROUP_0)
    scenario.check_equal("in order, each once", healthy.disordered, 0)


def drain(stuck, sent, http_port):
    """The stuck one reads again, until what it got and what the gateway has counted as dropped is all there was."""
    selector = selectors.DefaultSelector()
    selector.register(stuck.sock, selectors.EVENT_READ)

    def is_accounted():
        while selector.select(0):
            stuck.handle_readable()
        return stuck.received_0 + stuck.received_1 + dropped(http_port) == sent

    wait_for("each message to be either received or counted as dropped", is_accounted, DRAIN_SECONDS_MAX)


def play(scenario, *, kept):
    name = "kept" if kept else "clean"
    http_port = free_port()
    gateway = start_gateway(scenario, name, http_port)
    idle_bytes = status_bytes(gateway, "VmRSS")
    scenario.figure("nobody is stuck, one by one:")
    flow(scenario, gateway.port, 0, GROUPS_TIMED, 1)
    scenario.check_equal("nothing is dropped", dropped(http_port), 0)

    stuck = Reader(gateway.port, "stuck", clean=not kept, receive_buffer_bytes=STUCK_RECEIVE_BUFFER_BYTES)
    scenario.figure(f"one is stuck, its session is {name}:")
    flow(scenario, gateway.port, 0, GROUPS, AHEAD_MAX)
    scenario.figure("it is still stuck, one by one:")
    flow(scenario, gateway.port, GROUPS, GROUPS_TIMED, 1)

    drain(stuck, (GROUPS + GROUPS_TIMED) * (GROUP_0 + 1), http_port)
    scenario.check(f"{name}: what the stuck one did not get is counted", True)
    scenario.check_equal(f"{name}: what it got is in order, each once", stuck.disordered, 0)
    scenario.figure(f"the stuck one has {stuck.received_0} at QoS 0 and {stuck.received_1} at QoS 1")

    peak, bound = status_bytes(gateway, "VmHWM"), idle_bytes + LOAD_BYTES
    scenario.figure(f"memory: {peak / (1 << 20):.1f} MiB at its peak, {bound / (1 << 20):.1f} MiB by the limits")
    scenario.check(f"{name}: the peak is within the limits", peak <= bound, f"{peak} bytes")
    stuck.sock.close()
    gateway.end(scenario)


def main():
    with Scenario("slow_reader", SCENARIO_SECONDS_MAX) as scenario:
        for kept in (False, True):
            play(scenario, kept=kept)


if __name__ == "__main__":
    main()
