"""An uplink as rural modems have it: a TCP proxy that delays, cuts at any byte, and stalls without a word.

Which connection suffers what comes from a seed; how often it did is counted.
"""

import asyncio
import collections
import contextlib
import random
import threading

from harness import free_port
from strict_client import PUBCOMP, PUBLISH, PUBREL

CHUNK_BYTES_MAX = 4096
DELAY_SECONDS_MAX = 0.08
CUT_AFTER_BYTES_MAX = 60_000
STALL_SECONDS_MAX = 3.0
KINDS = ("clean", "delay", "delay", "cut", "cut", "stall", "refuse")


class Replays:
    """Sees what goes through and knows which QoS 2 messages the server published once more after their PUBREL, before
    PUBCOMP: MQTT forbids it [MQTT-4.3.3-6], and who gets them cannot tell them from new ones after a crash. Mosquitto
    2.0.11 does it when a second connection of the client follows at once.
    """

    def __init__(self):
        self.released, self.payloads = set(), set()

    def handle_down(self, head, body):
        if head >> 4 == PUBREL:
            self.released.add(body[:2])
        elif head >> 4 == PUBLISH and head >> 1 & 3 == 2:
            topic_end = 2 + int.from_bytes(body[:2], "big")
            packet_id, rest = body[topic_end : topic_end + 2], body[topic_end + 2 :]
            if packet_id in self.released:
                self.payloads.add(rest)

    def has(self, payload):
        # Of a 5.0 message the properties come first.
        return any(rest.endswith(payload) for rest in self.payloads)

    def handle_up(self, head, body):
        if head >> 4 == PUBCOMP:
            self.released.discard(body[:2])


class Packets:
    """Cuts one way of a connection into packets and hands them on; the last may stay incomplete."""

    def __init__(self, handle):
        self.handle, self.held = handle, b""

    def feed(self, chunk):
        self.held += chunk
        while True:
            length, shift, at = 0, 0, 1
            while at < len(self.held) and at < 5:
                digit = self.held[at]
                length, shift, at = length | (digit & 0x7F) << shift, shift + 7, at + 1
                if digit < 0x80:
                    break
            else:
                return
            if len(self.held) < at + length:
                return
            self.handle(self.held[0], self.held[at : at + length])
            self.held = self.held[at + length :]


class BadLink:
    """Forwards `port` on 127.0.0.1 to another one, from a thread of its own that ends with the process."""

    def __init__(self, target_port, seed):
        self.target_port, self.port = target_port, free_port()
        self.random = random.Random(seed)
        self.suffered = collections.Counter()
        self.replays = Replays()
        self.is_good = False
        self.connections = set()
        self.loop = asyncio.new_event_loop()
        self.listening = threading.Event()

    def start(self):
        threading.Thread(target=self.loop.run_until_complete, args=(self.serve(),), daemon=True).start()
        self.listening.wait()

    async def serve(self):
        server = await asyncio.start_server(self.accept, "127.0.0.1", self.port)
        self.listening.set()
        async with server:
            await server.serve_forever()

    def heal(self):
        """Connections from now on suffer nothing; those that are open end."""
        self.is_good = True
        self.loop.call_soon_threadsafe(lambda: [writer.transport.abort() for writer in list(self.connections)])

    async def accept(self, reader, writer):
        kind = "clean" if self.is_good else self.random.choice(KINDS)
        self.suffered[kind] += 1
        self.connections.add(writer)
        other = None
        try:
            if kind != "refuse":
                far_reader, other = await asyncio.open_connection("127.0.0.1", self.target_port)
                link = Link(kind, self.random)
                up, down = Packets(self.replays.handle_up), Packets(self.replays.handle_down)
                ways = link.carry(reader, other, up), link.carry(far_reader, writer, down)
                tasks = [asyncio.ensure_future(way) for way in ways]
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        except OSError:
            pass
        finally:
            self.connections.discard(writer)
            for end in filter(None, (writer, other)):
                end.transport.abort()


class Link:
    """One connection. Both its ways share what is left until it is cut."""

    def __init__(self, kind, chance):
        self.kind, self.random = kind, chance
        self.left_bytes = chance.randrange(1, CUT_AFTER_BYTES_MAX)

    async def carry(self, reader, writer, packets):
        with contextlib.suppress(OSError):
            while chunk := await reader.read(CHUNK_BYTES_MAX):
                if self.kind == "delay":
                    await asyncio.sleep(self.random.uniform(0, DELAY_SECONDS_MAX))
                if self.kind in ("cut", "stall"):
                    kept, self.left_bytes = chunk[: self.left_bytes], self.left_bytes - len(chunk)
                    if self.left_bytes <= 0:
                        packets.feed(kept)
                        writer.write(kept)
                        await writer.drain()
                        if self.kind == "stall":
                            await asyncio.sleep(self.random.uniform(0, STALL_SECONDS_MAX))
                        return
                packets.feed(chunk)
                writer.write(chunk)
                await writer.drain()
