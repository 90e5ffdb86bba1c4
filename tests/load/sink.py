"""The least of a cloud, as a program: takes one bridge with MQTT 5 after the other, acknowledges all of QoS 1 and holds
the numbers in the payloads against their order. Packets that are alike are taken by the thousand, so that it is not what
limits a replay. Ends once it has so many messages, and says in one line of JSON what it saw and when.

    sink.py PORT TOPIC PAYLOAD_BYTES MESSAGES
"""

import contextlib
import json
import socket
import struct
import sys
import time

import wire

READ_BYTES = 1 << 18
CONNACK_5 = b"\x20\x03\x00\x00\x00"
CONNECT, PINGREQ_KIND, DUP = 0x10, 0xC0, 0x08


class Sink:
    def __init__(self, topic, payload_bytes, messages):
        packet = wire.publish_1(topic, bytes(payload_bytes), properties=b"\x00")
        self.size, self.messages = len(packet), messages
        self.id_at = self.size - payload_bytes - 3
        self.number = struct.Struct(f">{self.size - payload_bytes}xQ{payload_bytes - 8}x")
        # What all of them have in common but the first byte, which may say that it comes again.
        self.common = packet[1 : self.id_at]
        self.received = self.expected = self.repeated = self.disordered = 0
        self.connected = self.first = self.last = None

    def serve(self, port):
        with socket.create_server(("127.0.0.1", port)) as listener:
            while self.expected < self.messages:
                connection, _ = listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with connection, contextlib.suppress(ConnectionError):
                    self.take_all(connection)

    def take_all(self, connection):
        rest = b""
        while self.expected < self.messages:
            part = connection.recv(READ_BYTES)
            if not part:
                return
            taken, answers = self.take(rest + part)
            rest = (rest + part)[taken:]
            if answers:
                connection.sendall(answers)

    def take(self, data):
        """How many bytes were whole packets, and what is answered."""
        at, answers = 0, []
        while at < len(data):
            alike = self.count_alike(data, at)
            if alike:
                end = at + alike * self.size
                answers.append(self.take_publishes(data[at:end], alike))
            else:
                end = packet_end(data, at)
                if end is None or end > len(data):
                    break
                answers.append(self.take_other(data[at]))
            at = end
        return at, b"".join(answers)

    def count_alike(self, data, at):
        """Publications of the expected form, one behind the other."""
        count = (len(data) - at) // self.size
        end = at + count * self.size
        for offset, byte in enumerate(self.common, 1):
            column = data[at + offset : end : self.size]
            if column.count(byte) != len(column):
                column = column[: len(column) - len(column.lstrip(bytes([byte])))]
                end = at + len(column) * self.size
        firsts = data[at : end : self.size]
        return len(firsts) - len(firsts.lstrip(bytes([wire.PUBLISH_1, wire.PUBLISH_1 | DUP])))

    def take_publishes(self, chunk, count):
        now = time.monotonic()
        self.first, self.last = self.first or now, now
        numbers = [number for (number,) in self.number.iter_unpack(chunk)]
        self.received += count
        if numbers == list(range(self.expected, self.expected + count)):
            self.expected += count
        else:
            for number in numbers:
                self.repeated += number < self.expected
                self.disordered += number > self.expected
                self.expected = max(self.expected, number + 1)
        answers = bytearray(wire.puback() * count)
        answers[2::4], answers[3::4] = chunk[self.id_at :: self.size], chunk[self.id_at + 1 :: self.size]
        return bytes(answers)

    def take_other(self, first):
        if first == CONNECT:
            self.connected = time.monotonic()
            return CONNACK_5
        return wire.PINGRESP if first == PINGREQ_KIND else b""


def packet_end(data, at):
    """Where a packet ends; None where that is not to be seen yet."""
    length, shift = 0, 0
    for place in range(at + 1, min(at + 5, len(data))):
        length |= (data[place] & 0x7F) << shift
        if data[place] < 0x80:
            return place + 1 + length
        shift += 7
    return None


def main():
    port, topic, payload_bytes, messages = sys.argv[1:]
    sink = Sink(topic, int(payload_bytes), int(messages))
    sink.serve(int(port))
    names = ("received", "expected", "repeated", "disordered", "connected", "first", "last")
    print(json.dumps({name: getattr(sink, name) for name in names}), flush=True)


if __name__ == "__main__":
    main()
