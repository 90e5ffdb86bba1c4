"""An MQTT client whose every packet is the scenario's choice, on a plain socket. Nothing is answered by itself."""

import socket
import struct

from strict_client import CONNACK, CONNECT, PUBACK, PUBCOMP, PUBLISH, PUBREC, PUBREL, packet, text

SUBSCRIBE, SUBACK, PINGREQ, DISCONNECT = 8, 9, 12, 14
ANSWER_SECONDS_MAX = 20


class Closed(Exception):
    """The gateway has closed the connection; `reason`: what DISCONNECT said before."""

    def __init__(self, reason=None):
        super().__init__(f"closed with {reason}")
        self.reason = reason


class Mqtt:
    def __init__(self, client_id, port, version=4, clean=False):
        self.version, self.input = version, bytearray()
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=ANSWER_SECONDS_MAX)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.port = self.socket.getsockname()[1]
        body = text("MQTT") + bytes([version, 2 if clean else 0]) + struct.pack(">H", 0)
        if version == 5:
            body += b"\x00" if clean else b"\x05\x11\xff\xff\xff\xff"
        self.send(packet(CONNECT, 0, body + text(client_id)))
        kind, _, answer = self.read()
        if kind != CONNACK or answer[1] != 0:
            raise Closed(answer[1] if kind == CONNACK else None)
        self.session_present = bool(answer[0] & 1)

    def send(self, encoded):
        try:
            self.socket.sendall(encoded)
        except (ConnectionError, TimeoutError) as error:
            raise Closed from error

    def read(self, seconds=ANSWER_SECONDS_MAX):
        """The next packet's kind, flags and body. TimeoutError: none came."""
        self.socket.settimeout(seconds)
        while (cut := self.cut()) is None:
            try:
                more = self.socket.recv(65536)
            except ConnectionError as error:
                raise Closed from error
            if not more:
                raise Closed
            self.input += more
        if cut[0] == DISCONNECT:
            raise Closed(cut[2][0] if cut[2] else 0)
        return cut

    def cut(self):
        length, shift, position = 0, 0, 1
        while True:
            if len(self.input) <= position:
                return None
            digit = self.input[position]
            length |= (digit & 0x7F) << shift
            position, shift = position + 1, shift + 7
            if digit < 0x80:
                break
        if len(self.input) < position + length:
            return None
        head, body = self.input[0], bytes(self.input[position : position + length])
        del self.input[: position + length]
        return head >> 4, head & 0xF, body

    def publish(self, packet_id, topic, payload, qos, dup=False, retain=False):
        body = text(topic) + (struct.pack(">H", packet_id) if qos else b"")
        body += b"\x00" if self.version == 5 else b""
        self.send(packet(PUBLISH, qos << 1 | dup << 3 | retain, body + payload))

    def answer(self, kind, packet_id):
        self.send(packet(kind, 2 if kind == PUBREL else 0, struct.pack(">H", packet_id)))

    def subscribe(self, topic, qos):
        properties = b"\x00" if self.version == 5 else b""
        self.send(packet(SUBSCRIBE, 2, struct.pack(">H", 1) + properties + text(topic) + bytes([qos])))
        kind, _, _ = self.read()
        if kind != SUBACK:
            raise Closed

    def received(self, body, qos):
        """Packet identifier (None at QoS 0), topic and payload of a PUBLISH."""
        length = int.from_bytes(body[:2], "big")
        topic, rest = body[2 : 2 + length].decode(), body[2 + length :]
        packet_id = int.from_bytes(rest[:2], "big") if qos else None
        rest = rest[2:] if qos else rest
        if self.version == 5:
            # Nothing here has properties of 128 bytes.
            rest = rest[1 + rest[0] :]
        return packet_id, topic, rest

    def close(self):
        self.socket.close()

    def part(self):
        self.send(packet(DISCONNECT, 0, b""))
        self.close()


class Consumer:
    """A session's other end: takes what waits for it, each QoS 2 message once."""

    def __init__(self, client):
        self.client, self.held, self.payloads = client, set(), []

    def take_until(self, last):
        """Until a payload is `last`."""
        while not self.payloads or self.payloads[-1] != last:
            kind, flags, body = self.client.read()
            if kind == PUBLISH:
                self.take(flags >> 1 & 3, body)
            elif kind == PUBREL:
                packet_id = int.from_bytes(body[:2], "big")
                self.held.discard(packet_id)
                self.client.answer(PUBCOMP, packet_id)

    def take(self, qos, body):
        packet_id, _, payload = self.client.received(body, qos)
        if qos == 2:
            self.client.answer(PUBREC, packet_id)
            if packet_id in self.held:
                return
            self.held.add(packet_id)
        elif qos == 1:
            self.client.answer(PUBACK, packet_id)
        self.payloads.append(payload)
