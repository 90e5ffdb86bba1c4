"""MQTT 3.1.1 on plain sockets, for clients by the thousand and messages by the million: what paho would need minutes
for. Knows packets alone, as far as the scenarios send and get them; judges nothing."""

import socket
import struct

PUBLISH_0, PUBLISH_1 = 0x30, 0x32
CONNACK = b"\x20\x02\x00\x00"
PUBACK = 0x40
SUBACK_QOS_0, SUBACK_QOS_1 = b"\x90\x03\x00\x01\x00", b"\x90\x03\x00\x01\x01"
PINGREQ, PINGRESP = b"\xc0\x00", b"\xd0\x00"
DISCONNECT = b"\xe0\x00"
CLEAN_SESSION = 0x02
ANSWER_SECONDS_MAX = 30


class Broken(Exception):
    """The gateway sent what does not belong there, or closed."""


def packet(first, body):
    length, rest = b"", len(body)
    while True:
        rest, digit = divmod(rest, 128)
        length += bytes([digit | (0x80 if rest else 0)])
        if not rest:
            return bytes([first]) + length + body


def text(value):
    return struct.pack(">H", len(value)) + value.encode()


def connect(client_id, *, clean=True, keep_alive=0):
    flags = CLEAN_SESSION if clean else 0
    return packet(0x10, text("MQTT") + bytes([4, flags]) + struct.pack(">H", keep_alive) + text(client_id))


def subscribe(topic_filter, qos=1):
    """With packet identifier 1."""
    return packet(0x82, b"\x00\x01" + text(topic_filter) + bytes([qos]))


def publish_0(topic, payload):
    return packet(PUBLISH_0, text(topic) + payload)


def publish_1(topic, payload, packet_id=1, properties=b""):
    """Of MQTT 5 with its properties, of 3.1.1 without."""
    return packet(PUBLISH_1, text(topic) + struct.pack(">H", packet_id) + properties + payload)


def puback(packet_id=1):
    return struct.pack(">BBH", PUBACK, 2, packet_id)


def open_socket(port, receive_buffer_bytes=None):
    sock = socket.socket()
    if receive_buffer_bytes:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
    sock.settimeout(ANSWER_SECONDS_MAX)
    sock.connect(("127.0.0.1", port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def expect(sock, answer):
    got = b""
    while len(got) < len(answer):
        part = sock.recv(len(answer) - len(got))
        if not part:
            raise Broken(f"the gateway closed where {answer.hex()} was to come, after {got.hex()}")
        got += part
    if got != answer:
        raise Broken(f"{got.hex()} came, not {answer.hex()}")


def ask(sock, question, answer):
    sock.sendall(question)
    expect(sock, answer)


def ask_all(socks, questions, answer):
    """All questions first: the gateway answers them while they are asked."""
    for sock, question in zip(socks, questions, strict=True):
        sock.sendall(question)
    for sock in socks:
        expect(sock, answer)
