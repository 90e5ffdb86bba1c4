"""Relays TCP connections and writes down what passes as a pcap file, for tshark to read:

    recorder.py FILE LISTEN:TARGET[:ws]...      ports of 127.0.0.1

It needs no right to capture and never loses a packet, as a capture of the loopback can. Sequence numbers and
acknowledgements in the file are made up; bytes, their order and their times are real. SIGTERM ends it.
With `ws`, what is in the WebSocket's binary messages is there a second time as a connection of its own to TARGET, for a
dissector that knows MQTT on TCP alone.
"""

import asyncio
import contextlib
import itertools
import signal
import socket
import struct
import sys
import time

# Of one IP packet.
READ_BYTES_MAX = 32 * 1024
LINK_TYPE_RAW_IP = 101
SNAPSHOT_BYTES = 65535
FIN, SYN, PUSH, ACK = 1, 2, 8, 16
SERVER = bytes([127, 0, 0, 1])


class Recording:
    def __init__(self, path):
        self.file = open(path, "wb")  # noqa: SIM115
        self.file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, SNAPSHOT_BYTES, LINK_TYPE_RAW_IP))
        self.numbers = itertools.count(1)

    def write(self, packet):
        now = time.time_ns() // 1000
        self.file.write(struct.pack("<IIII", now // 1_000_000, now % 1_000_000, len(packet), len(packet)) + packet)


class Conversation:
    """One connection in the file."""

    def __init__(self, recording, client, client_port, server_port):
        self.recording = recording
        # To the server and to the client: addresses, ports. What each has sent so far.
        self.ends = {True: (client + SERVER, client_port, server_port), False: (SERVER + client, server_port, client_port)}
        self.sent = {True: 0, False: 0}
        self.write(True, SYN)
        self.write(False, SYN | ACK)
        self.write(True, ACK)

    def write(self, to_server, flags, data=b""):
        addresses, source, target = self.ends[to_server]
        sequence = self.sent[to_server] & 0xFFFFFFFF
        acknowledged = self.sent[not to_server] & 0xFFFFFFFF if flags & ACK else 0
        tcp = struct.pack(">HHIIBBHHH", source, target, sequence, acknowledged, 5 << 4, flags, 65535, 0, 0)
        ip = struct.pack(">BBHHHBBH", 0x45, 0, 40 + len(data), 0, 0, 64, 6, 0) + addresses
        self.recording.write(ip + tcp + data)
        self.sent[to_server] += len(data) + bool(flags & (SYN | FIN))


class Unwrapped:
    """The binary messages of a WebSocket, behind its handshake, as a conversation of their own."""

    BINARY, CONTINUED = 2, 0

    def __init__(self, conversation):
        self.conversation = conversation
        self.waiting = {True: bytearray(), False: bytearray()}
        self.is_open = {True: False, False: False}

    def write(self, to_server, data):
        waiting = self.waiting[to_server]
        waiting += data
        if not self.is_open[to_server]:
            end = waiting.find(b"\r\n\r\n")
            if end < 0:
                return
            del waiting[: end + 4]
            self.is_open[to_server] = True
        while (frame := self.take_frame(waiting)) is not None:
            for start in range(0, len(frame), READ_BYTES_MAX):
                self.conversation.write(to_server, PUSH | ACK, frame[start : start + READ_BYTES_MAX])

    def take_frame(self, waiting):
        """The payload of the first frame when it is whole, empty for those that carry no MQTT."""
        if len(waiting) < 2:
            return None
        kind, is_masked, length, at = waiting[0] & 15, waiting[1] & 0x80, waiting[1] & 0x7F, 2
        extended = {126: 2, 127: 8}.get(length, 0)
        if len(waiting) < at + extended + 4:
            # A header that is not whole, or a short frame without a mask.
            if extended or is_masked or len(waiting) < at + length:
                return None
        if extended:
            length, at = int.from_bytes(waiting[at : at + extended], "big"), at + extended
        mask = bytes(waiting[at : at + 4]) if is_masked else b""
        at += len(mask)
        if len(waiting) < at + length:
            return None
        payload = bytes(waiting[at : at + length])
        del waiting[: at + length]
        if mask:
            whole = (mask * (length // 4 + 1))[:length]
            payload = (int.from_bytes(payload, "big") ^ int.from_bytes(whole, "big")).to_bytes(length, "big")
        return payload if kind in (self.BINARY, self.CONTINUED) else b""


async def relay(reader, writer, conversation, to_server, acknowledging, unwrapped):
    try:
        while data := await reader.read(READ_BYTES_MAX):
            # Paho C leaves Nagle's algorithm on: a small packet waits until the one before it is acknowledged.
            acknowledging.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            conversation.write(to_server, PUSH | ACK, data)
            if unwrapped:
                unwrapped.write(to_server, data)
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    conversation.write(to_server, FIN | ACK)
    # Half a connection is no use to MQTT: what one end gives up, the other loses too, after what was on its way.
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def serve(recording, listen, target, is_websocket):
    async def accept(reader, writer):
        # Each an address of its own, at the gateway too: no port comes twice in the file, and the failed logins of one
        # do not slow the others down.
        number = next(recording.numbers)
        client = bytes([127, 1, number >> 8, number & 0xFF])
        source = (".".join(map(str, client)), 0)
        to_reader, to_writer = await asyncio.open_connection("127.0.0.1", target, local_addr=source)
        port = writer.get_extra_info("peername")[1]
        conversation = Conversation(recording, client, port, listen)
        unwrapped = Unwrapped(Conversation(recording, client, port, target)) if is_websocket else None
        sockets = [each.get_extra_info("socket") for each in (writer, to_writer)]
        for each in sockets:
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        await asyncio.gather(
            relay(reader, to_writer, conversation, True, sockets[0], unwrapped),
            relay(to_reader, writer, conversation, False, sockets[1], unwrapped),
        )

    return await asyncio.start_server(accept, "127.0.0.1", listen, limit=READ_BYTES_MAX)


async def main():
    path, *pairs = sys.argv[1:]
    recording = Recording(path)
    for listen, target, *kind in (pair.split(":") for pair in pairs):
        await serve(recording, int(listen), int(target), kind == ["ws"])
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    await told.wait()
    recording.file.close()


asyncio.run(main())
