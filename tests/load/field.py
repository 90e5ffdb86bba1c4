"""What the load scenarios read: a serial line with units on it whose bytes take the time that they take, and a crowd of
devices of Modbus TCP. Each is a process of its own, `field.py line BAUD UNITS DEAD` or `field.py crowd PORT DEAD`, that
writes one JSON line a second of what it saw.

A register of a line's unit holds unit * 100 + address; one of the crowd counts up with each read.
"""

import asyncio
import json
import os
import select
import struct
import sys
import time
import tty

REGISTERS = 50
# Start bit, eight data bits, stop bit.
BITS = 10
# Modbus over Serial Line 2.5.1.1
FIXED_SILENCE_BAUD, FIXED_SILENCE = 19_200, 0.00175
REQUEST_BYTES = 8
# Of the question what a unit is (43/14), which is shorter; these do not know it.
IDENTIFY, IDENTIFY_BYTES = 0x2B, 7
READ_HOLDING, READ_INPUT = 3, 4
ILLEGAL_FUNCTION = 1
CHUNK_BYTES = 8
REPORT_SECONDS = 1


def crc(data):
    value = 0xFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = (value >> 1) ^ 0xA001 if value & 1 else value >> 1
    return struct.pack("<H", value)


class Line:
    """The wire and its units: answers after the silence that the standard asks for, byte by byte as the speed has it."""

    def __init__(self, baud, units, dead):
        self.character = BITS / baud
        self.silence = FIXED_SILENCE if baud > FIXED_SILENCE_BAUD else 3.5 * self.character
        self.units, self.dead = range(1, units + 1), dead
        self.answers = {}
        self.master, slave = os.openpty()
        tty.setraw(slave)
        self.path = os.ttyname(slave)
        # What the exchanges took on the wire with their silences, and what passed between them beside that.
        self.counts = {"path": self.path, "exchanges": 0, "busy": 0.0, "idle": 0.0, "lost": 0.0, "units": {}}
        self.free_since = None

    def answer(self, request):
        unit, function = request[:2]
        if unit not in self.units or unit in self.dead:
            return None
        if function not in (READ_HOLDING, READ_INPUT):
            body = bytes((unit, function | 0x80, ILLEGAL_FUNCTION))
            return body + crc(body)
        if request not in self.answers:
            address, count = struct.unpack(">HH", request[2:6])
            words = struct.pack(f">{count}H", *(unit * 100 + at for at in range(address, address + count)))
            body = bytes((unit, function, count * 2)) + words
            self.answers[request] = body + crc(body)
        return self.answers[request]

    def run(self):
        request, reported = b"", time.monotonic()
        print(json.dumps(self.counts), flush=True)
        while True:
            ready, _, _ = select.select([self.master], [], [], REPORT_SECONDS)
            now = time.monotonic()
            if ready:
                if not request:
                    began = now
                request += os.read(self.master, 256)
            length = IDENTIFY_BYTES if request[1:2] == bytes((IDENTIFY,)) else REQUEST_BYTES
            if len(request) >= length:
                self.exchange(request[:length], began)
                request = b""
            if time.monotonic() - reported >= REPORT_SECONDS:
                reported = time.monotonic()
                print(json.dumps(self.counts), flush=True)

    def exchange(self, request, began):
        unit = str(request[0])
        if self.free_since is not None:
            # The silence before a request belongs to it; what is longer is the time that nobody used.
            self.counts["idle"] += max(0.0, began - self.free_since - self.silence)
        if request[1] != IDENTIFY:
            self.counts["units"][unit] = self.counts["units"].get(unit, 0) + 1
        answer = self.answer(request)
        if answer is None:
            # What a silent unit costs is neither the line's work nor idleness.
            self.free_since = None
            return
        at = began + len(request) * self.character + self.silence
        for start in range(0, len(answer), CHUNK_BYTES):
            part = answer[start : start + CHUNK_BYTES]
            at += len(part) * self.character
            time.sleep(max(0.0, at - time.monotonic()))
            os.write(self.master, part)
        self.free_since = time.monotonic()
        self.counts["exchanges"] += 1
        self.counts["busy"] += (len(request) + len(answer)) * self.character + 2 * self.silence


class Crowd:
    """Devices of Modbus TCP, told apart by the address of 127.0.0.0/8 that they were called at."""

    def __init__(self, dead):
        self.dead, self.reads = dead, {}

    async def serve(self, reader, writer):
        number = int(writer.get_extra_info("sockname")[0].rsplit(".", 1)[1])
        count = 0
        try:
            while True:
                transaction, _, rest = struct.unpack(">HHH", await reader.readexactly(6))
                request = await reader.readexactly(rest)
                if number in self.dead:
                    continue
                unit, function = request[:2]
                if function not in (READ_HOLDING, READ_INPUT):
                    writer.write(struct.pack(">HHHBBB", transaction, 0, 3, unit, function | 0x80, ILLEGAL_FUNCTION))
                    continue
                address, length = struct.unpack(">HH", request[2:6])
                count += 1
                words = struct.pack(f">{length}H", *((count + at) & 0xFFFF for at in range(address, address + length)))
                head = struct.pack(">HHHBBB", transaction, 0, 3 + len(words), unit, function, len(words))
                writer.write(head + words)
                self.reads[number] = count
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def run(self, port):
        await asyncio.start_server(self.serve, "0.0.0.0", port, backlog=512)
        while True:
            print(json.dumps({"reads": self.reads}), flush=True)
            await asyncio.sleep(REPORT_SECONDS)


if __name__ == "__main__":
    kind, first, *rest = sys.argv[1:]
    numbers = {int(number) for number in rest[-1].split(",") if number}
    if kind == "line":
        Line(int(first), int(rest[0]), numbers).run()
    else:
        asyncio.run(Crowd(numbers).run(int(first)))
