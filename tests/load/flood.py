"""A publisher and its readers, on plain sockets and in one thread: fast enough that the gateway is what is measured.
Counts what is sent, acknowledged and received, and in which order; judges nothing."""

import contextlib
import selectors
import struct
import time

import wire

# All packets of a kind are alike but for their number and their packet identifier.
PAYLOAD_0_BYTES = 1000
# With this, a session's queue is full by its bytes, which cost the most memory, before it is by its messages.
PAYLOAD_1_BYTES = 2048
TOPIC_0, TOPIC_1 = "load/fast", "load/sure"
PACKET_0 = wire.publish_0(TOPIC_0, bytes(PAYLOAD_0_BYTES))
PACKET_1 = wire.publish_1(TOPIC_1, bytes(PAYLOAD_1_BYTES))
PACKET_0_BYTES, PACKET_1_BYTES = len(PACKET_0), len(PACKET_1)
NUMBER_0_AT, NUMBER_1_AT = PACKET_0_BYTES - PAYLOAD_0_BYTES, PACKET_1_BYTES - PAYLOAD_1_BYTES
PACKET_ID_1_AT = NUMBER_1_AT - 2
NUMBER = struct.Struct(">Q")
# A group is so many messages at QoS 0, and then one at QoS 1.
GROUP_0 = 10
# Messages at QoS 1 that a publisher is not acknowledged for.
UNACKNOWLEDGED_MAX = 500
READ_BYTES = 1 << 18
STALLED_SECONDS_MAX = 30


class Stalled(Exception):
    """Nothing moved any more."""


class Reader:
    """Takes messages whole, acknowledges those at QoS 1, and holds their numbers against the order they were sent in."""

    def __init__(self, port, name, *, clean=True, receive_buffer_bytes=None):
        self.sock = wire.open_socket(port, receive_buffer_bytes)
        wire.ask(self.sock, wire.connect(name, clean=clean), wire.CONNACK)
        wire.ask(self.sock, wire.subscribe("load/#"), wire.SUBACK_QOS_1)
        self.sock.setblocking(False)
        self.rest, self.answers = b"", b""
        self.received_0 = self.received_1 = 0
        self.last_0 = self.last_1 = -1
        self.disordered = 0
        # The end of each read, and how many there had been at QoS 1 by then.
        self.reads = []

    def handle_readable(self):
        with contextlib.suppress(BlockingIOError):
            part = self.sock.recv(READ_BYTES)
            if not part:
                raise wire.Broken("the gateway closed a reader")
            self.take(self.rest + part)
            self.reads.append((self.received_1, time.monotonic()))
        self.answer()

    def take(self, data):
        at, end = 0, len(data)
        while end - at >= PACKET_0_BYTES:
            first = data[at]
            if first == wire.PUBLISH_0:
                number = NUMBER.unpack_from(data, at + NUMBER_0_AT)[0]
                self.disordered += number <= self.last_0
                self.last_0 = number
                self.received_0 += 1
                at += PACKET_0_BYTES
                continue
            if first != wire.PUBLISH_1:
                raise wire.Broken(f"a packet begins with {first:#x}")
            if end - at < PACKET_1_BYTES:
                break
            number = NUMBER.unpack_from(data, at + NUMBER_1_AT)[0]
            self.disordered += number <= self.last_1
            self.last_1 = number
            self.received_1 += 1
            self.answers += b"\x40\x02" + data[at + PACKET_ID_1_AT : at + PACKET_ID_1_AT + 2]
            at += PACKET_1_BYTES
        self.rest = data[at:]

    def answer(self):
        with contextlib.suppress(BlockingIOError):
            while self.answers:
                self.answers = self.answers[self.sock.send(self.answers) :]


class Publisher:
    """Sends groups, the first of them by a number of the caller's."""

    def __init__(self, port, first, groups):
        self.sock = wire.open_socket(port)
        wire.ask(self.sock, wire.connect("publisher"), wire.CONNACK)
        self.sock.setblocking(False)
        self.first, self.groups, self.sent, self.acknowledged = first, groups, 0, 0
        self.group = bytearray(PACKET_0 * GROUP_0 + PACKET_1)
        self.waiting = memoryview(b"")
        self.rest = b""
        self.times = []

    def next_group(self):
        group, number = self.group, self.first + self.sent
        for index in range(GROUP_0):
            NUMBER.pack_into(group, index * PACKET_0_BYTES + NUMBER_0_AT, number * GROUP_0 + index)
        sure = GROUP_0 * PACKET_0_BYTES
        struct.pack_into(">H", group, sure + PACKET_ID_1_AT, self.sent % 0xFFFF + 1)
        NUMBER.pack_into(group, sure + NUMBER_1_AT, number)
        self.sent += 1
        self.times.append(time.monotonic())
        return bytes(group)

    def write(self, sent_max):
        """Until the gateway takes no more, or one of the bounds is reached."""
        with contextlib.suppress(BlockingIOError):
            while True:
                if not self.waiting:
                    may = min(UNACKNOWLEDGED_MAX + self.acknowledged, sent_max, self.groups) - self.sent
                    if may <= 0:
                        return
                    self.waiting = memoryview(b"".join(self.next_group() for _ in range(may)))
                self.waiting = self.waiting[self.sock.send(self.waiting) :]

    def handle_readable(self):
        with contextlib.suppress(BlockingIOError):
            part = self.sock.recv(READ_BYTES)
            if not part:
                raise wire.Broken("the gateway closed the publisher")
            data = self.rest + part
            whole = len(data) - len(data) % 4
            for first, length, packet_id in struct.iter_unpack(">BBH", data[:whole]):
                wanted = self.acknowledged % 0xFFFF + 1
                if (first, length, packet_id) != (wire.PUBACK, 2, wanted):
                    raise wire.Broken(f"{first:#x} for {packet_id} came, not PUBACK for {wanted}")
                self.acknowledged += 1
            self.rest = data[whole:]


class Flood:
    """A publisher and a reader that reads. The one is at most so many groups ahead of the other."""

    def __init__(self, publisher, healthy, ahead_max):
        self.publisher, self.healthy, self.ahead_max = publisher, healthy, ahead_max
        self.selector = selectors.DefaultSelector()
        for end in (publisher, healthy):
            self.selector.register(end.sock, selectors.EVENT_READ, end)

    def run(self):
        publisher, healthy = self.publisher, self.healthy
        writable = False
        while publisher.acknowledged < publisher.groups or healthy.received_1 < publisher.groups:
            publisher.write(healthy.received_1 + self.ahead_max)
            if writable != bool(publisher.waiting):
                writable = not writable
                events = selectors.EVENT_READ | (selectors.EVENT_WRITE if writable else 0)
                self.selector.modify(publisher.sock, events, publisher)
            ready = self.selector.select(STALLED_SECONDS_MAX)
            if not ready:
                raise Stalled(
                    f"{publisher.sent} were sent, {publisher.acknowledged} acknowledged, {healthy.received_1} received"
                )
            for key, mask in ready:
                if mask & selectors.EVENT_READ:
                    key.data.handle_readable()

    def end(self):
        self.selector.close()
        for end in (self.publisher, self.healthy):
            with contextlib.suppress(OSError):
                end.sock.sendall(wire.DISCONNECT)
            end.sock.close()

    def latencies(self):
        """Of the QoS 1 messages to the healthy reader, in milliseconds, sorted."""
        found, number = [], 0
        for received, at in self.healthy.reads:
            found += [(at - sent) * 1000 for sent in self.publisher.times[number:received]]
            number = max(number, received)
        return sorted(found)
