"""A publisher that keeps an MQTT session exactly as the specification says, on plain sockets, and counts what it does.

paho keeps a session too, but does not say what it sent again; without that number, a bridge's duplicates cannot be
told from the publisher's own.
"""

import asyncio
import collections
import struct
import time

CONNECT, CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP, PINGRESP, DISCONNECT = 1, 2, 3, 4, 5, 6, 7, 13, 14
RECONNECT_SECONDS = 0.1
ANSWER_SECONDS_MAX = 10
INFLIGHT_MAX = 100
PACKET_IDS = 65535
REFUSED = 0x80
# MQTT 5, 2.2.2.2: how long the values of CONNACK's properties are; "text" and "pair" say it themselves.
PROPERTY_SIZES = {
    0x11: 4, 0x12: "text", 0x13: 2, 0x15: "text", 0x16: "text", 0x1A: "text", 0x1C: "text", 0x1F: "text",
    0x21: 2, 0x22: 2, 0x24: 1, 0x25: 1, 0x26: "pair", 0x27: 4, 0x28: 1, 0x29: 1, 0x2A: 1,
}  # fmt: skip
RECEIVE_MAXIMUM = 0x21


class Broken(Exception):
    """The other end broke the protocol."""


def variable_integer(number):
    encoded = bytearray()
    while True:
        number, digit = divmod(number, 128)
        encoded.append(digit | (0x80 if number else 0))
        if not number:
            return bytes(encoded)


def packet(kind, flags, body):
    return bytes([kind << 4 | flags]) + variable_integer(len(body)) + body


def text(value):
    encoded = value.encode()
    return struct.pack(">H", len(encoded)) + encoded


def connack_properties(body):
    """Property identifier to value, of a CONNACK's body behind its flags and reason."""
    length, position, shift = 0, 0, 0
    while True:
        digit = body[position]
        length |= (digit & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if digit < 0x80:
            break
    end, found = position + length, {}
    while position < end:
        identifier, position = body[position], position + 1
        size = PROPERTY_SIZES[identifier]
        if size == "pair":
            position += 2 + int.from_bytes(body[position : position + 2], "big")
        if size in ("pair", "text"):
            size = 2 + int.from_bytes(body[position : position + 2], "big")
        found[identifier] = int.from_bytes(body[position : position + size], "big") if size <= 4 else None
        position += size
    return found


class Message:
    """One publication on its way. `number` counts a publisher's messages; it is in the payload."""

    __slots__ = ("number", "topic", "payload", "qos", "is_released")

    def __init__(self, number, topic, payload, qos):
        self.number, self.topic, self.payload, self.qos = number, topic, payload, qos
        self.is_released = False


class StrictPublisher:
    """Publishes `messages` at `rate` a second until all are acknowledged, through any number of broken connections."""

    # The session outlives the connection.
    CONNECT_FLAGS = 0x00

    def __init__(self, client_id, port, version, messages, rate, window_max=INFLIGHT_MAX):
        self.client_id, self.port, self.version, self.rate = client_id, port, version, rate
        self.waiting = collections.deque(messages)
        self.inflight = collections.OrderedDict()
        self.packet_id = 0
        self.window = self.window_max = window_max
        self.sent, self.acknowledged = 0, set()
        self.sent_again = collections.Counter()
        self.connections = self.sessions_lost = self.refused = self.acknowledged_out_of_order = 0
        self.started = None
        self.reader = self.writer = None

    async def run(self):
        self.started = time.monotonic()
        while self.waiting or self.inflight:
            try:
                await self.connect()
                await self.exchange()
            except (OSError, asyncio.IncompleteReadError, TimeoutError, asyncio.TimeoutError):
                await asyncio.sleep(RECONNECT_SECONDS)
            finally:
                if self.writer:
                    self.writer.close()
                    self.writer = None

    async def connect(self):
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        level = 5 if self.version == 5 else 4
        body = text("MQTT") + bytes([level, self.CONNECT_FLAGS]) + struct.pack(">H", 30)
        if self.version == 5:
            body += b"\x05\x11\xff\xff\xff\xff"
        self.writer.write(packet(CONNECT, 0, body + text(self.client_id)))
        kind, _, answer = await asyncio.wait_for(self.read_packet(), ANSWER_SECONDS_MAX)
        if kind != CONNACK or answer[1] != 0:
            raise Broken(f"{self.client_id}: no CONNACK that accepts: {kind} {answer!r}")
        if self.version == 5:
            maximum = connack_properties(answer[2:]).get(RECEIVE_MAXIMUM, 65535)
            self.window = min(self.window_max, maximum)
        self.connections += 1
        self.resume(is_present=answer[0] & 1)

    def resume(self, is_present):
        """MQTT 4.4: what is not acknowledged goes again, in its order, under its packet identifier."""
        if not is_present and self.connections > 1:
            self.sessions_lost += 1
        for packet_id, message in self.inflight.items():
            if message.is_released:
                self.writer.write(packet(PUBREL, 2, struct.pack(">H", packet_id)))
            else:
                self.sent_again[message.number] += 1
                self.write_publish(packet_id, message, duplicate=True)

    async def exchange(self):
        sending = asyncio.ensure_future(self.send())
        try:
            while self.waiting or self.inflight:
                self.handle(*await asyncio.wait_for(self.read_packet(), ANSWER_SECONDS_MAX))
            self.writer.write(packet(DISCONNECT, 0, b""))
            await self.writer.drain()
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    async def send(self):
        while self.waiting:
            while self.waiting and len(self.inflight) < self.window and self.is_due():
                message = self.waiting.popleft()
                self.packet_id = self.packet_id % PACKET_IDS + 1
                while self.packet_id in self.inflight:
                    self.packet_id = self.packet_id % PACKET_IDS + 1
                self.inflight[self.packet_id] = message
                self.sent += 1
                self.write_publish(self.packet_id, message, duplicate=False)
            await self.writer.drain()
            await asyncio.sleep(0.005)

    def is_due(self):
        return time.monotonic() >= self.started + self.sent / self.rate

    def write_publish(self, packet_id, message, duplicate):
        flags = message.qos << 1 | (8 if duplicate else 0)
        body = text(message.topic) + struct.pack(">H", packet_id) + (b"\x00" if self.version == 5 else b"")
        self.writer.write(packet(PUBLISH, flags, body + message.payload))

    async def read_packet(self):
        head = (await self.reader.readexactly(1))[0]
        length = shift = 0
        while True:
            digit = (await self.reader.readexactly(1))[0]
            length |= (digit & 0x7F) << shift
            shift += 7
            if digit < 0x80:
                break
        return head >> 4, head & 0xF, await self.reader.readexactly(length)

    def handle(self, kind, _flags, body):
        if kind in (PINGRESP, DISCONNECT):
            return
        packet_id = struct.unpack(">H", body[:2])[0]
        reason = body[2] if len(body) > 2 else 0
        message = self.inflight.get(packet_id)
        expected = {PUBACK: (1, False), PUBREC: (2, False), PUBCOMP: (2, True)}.get(kind)
        if message is None or expected is None:
            raise Broken(f"{self.client_id}: packet {kind} for identifier {packet_id}")
        if kind == PUBREC and message.is_released:
            # It crossed with a PUBREL that was sent again.
            return
        if expected != (message.qos, message.is_released):
            raise Broken(f"{self.client_id}: packet {kind} for a QoS {message.qos} message")
        if kind != PUBCOMP and reason >= REFUSED:
            self.refused += 1
            del self.inflight[packet_id]
        elif kind == PUBREC:
            self.check_order(packet_id, message)
            message.is_released = True
            self.writer.write(packet(PUBREL, 2, struct.pack(">H", packet_id)))
        else:
            # MQTT 5, 4.3.3: PUBCOMP ends it, even with 0x92 for a PUBREL that was sent again and is long done.
            self.check_order(packet_id, message)
            self.acknowledged.add(message.number)
            del self.inflight[packet_id]

    def check_order(self, packet_id, message):
        """[MQTT-4.6.0-2, -3]: PUBACK and PUBREC come in the order of the PUBLISH packets."""
        state = (message.qos, message.is_released)
        oldest = next(key for key, m in self.inflight.items() if (m.qos, m.is_released) == state)
        if oldest != packet_id:
            self.acknowledged_out_of_order += 1
