"""The disk between a gateway and the kernel: orders for `disk.c`, and what a loss of power could have left of its journal.

A file is what was synced, plus what was written since: of that, each sector of 512 bytes may have reached the disk up
to any of its writes. A sync that failed makes nothing safe, and what it should have written counts as clean from then
on: a later sync does not write it, unless its page was written again. Names become safe with a sync of their folder.
"""

import mmap
import os
import struct
import subprocess
from pathlib import Path

NONE, FULL, BAD_WRITE, BAD_SYNC, READ_ONLY, BAD_READ = range(6)
FOREVER = 0xFFFFFFFF
SECTOR, PAGE = 512, 4096
ENTRY = struct.Struct("<BBHIQq")
ORDERS = struct.Struct("<5I")
# What a gateway does about a sync that failed takes so many entries.
AFTER_FAILURE_MAX = 300
MOODS = ("lost", "kept", "torn", "torn", "torn")


def build(folder):
    library = folder / "disk.so"
    source = Path(__file__).with_name("disk.c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-o", library, source, "-ldl"], check=True)
    return library


class Disk:
    """The disk of one gateway."""

    def __init__(self, library, gateway, has_journal=False):
        folder = gateway.data_dir
        path = folder.with_suffix(".orders")
        path.write_bytes(bytes(ORDERS.size))
        with path.open("r+b") as file:
            self.orders = mmap.mmap(file.fileno(), ORDERS.size)
        self.journal = folder.with_suffix(".journal")
        gateway.environment = {"LD_PRELOAD": str(library), "DISK_FOLDER": str(folder), "DISK_ORDERS": str(path)}
        if has_journal:
            gateway.environment["DISK_JOURNAL"] = str(self.journal)

    def order(self, fault, after=0, times=FOREVER):
        """The fault last, so that it never comes with the numbers of the one before."""
        self.orders[0:4] = struct.pack("<I", NONE)
        self.orders[4:16] = struct.pack("<3I", after, times, 0)
        self.orders[0:4] = struct.pack("<I", fault)

    def lift(self):
        self.orders[0:4] = struct.pack("<I", NONE)

    @property
    def hits(self):
        return struct.unpack("<I", self.orders[12:16])[0]

    @property
    def journal_entries(self):
        return struct.unpack("<I", self.orders[16:20])[0]

    def entries(self):
        """Kind, whether it failed, file or port, offset, data."""
        content, position = self.journal.read_bytes(), 0
        while position < len(content):
            kind, failed, _, length, file, offset = ENTRY.unpack_from(content, position)
            position += ENTRY.size
            yield chr(kind), failed, file, offset, content[position : position + length]
            position += length


class Change:
    """A write within one page, or a new size."""

    __slots__ = ("number", "offset", "data", "size", "is_clean")

    def __init__(self, number, offset=0, data=b"", size=None):
        self.number, self.offset, self.data, self.size = number, offset, data, size
        # A failed sync has taken it off the list of what is to be written.
        self.is_clean = False


def put(content, offset, data):
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


def resize(content, size):
    if size < len(content):
        del content[size:]
    else:
        content.extend(bytes(size - len(content)))


class File:
    def __init__(self):
        self.synced = bytearray()
        self.changes = []
        self.sync_began = 0

    def write(self, number, offset, data):
        end = offset + len(data)
        while offset < end:
            page = offset // PAGE
            part = data[len(data) - (end - offset) :][: (page + 1) * PAGE - offset]
            for change in self.changes:
                if change.is_clean and change.offset // PAGE == page:
                    change.is_clean = False
            self.changes.append(Change(number, offset, part))
            offset += len(part)

    def end_sync(self, failed):
        rest = []
        for change in self.changes:
            if change.number >= self.sync_began or (change.is_clean and not failed):
                rest.append(change)
            elif failed:
                change.is_clean = change.size is None
                rest.append(change)
            elif change.size is not None:
                resize(self.synced, change.size)
            else:
                put(self.synced, change.offset, change.data)
        self.changes = rest

    def unsynced_bytes(self):
        return sum(len(change.data) for change in self.changes)

    def survivor(self, mood, random):
        content = bytearray(self.synced)
        if mood == "lost":
            return content
        every = mood == "kept"
        sizes_kept = len(self.changes) if every else random.randint(0, len(self.changes))
        share, reached = random.choice((0.1, 0.5, 0.9)), {}
        for number, change in enumerate(self.changes):
            if change.size is not None:
                if number < sizes_kept:
                    resize(content, change.size)
                continue
            position = 0
            while position < len(change.data):
                at = change.offset + position
                sector = at // SECTOR
                part = change.data[position : position + (sector + 1) * SECTOR - at]
                if sector not in reached:
                    all_or_some = len(self.changes) if random.random() < share else random.randint(0, len(self.changes))
                    reached[sector] = len(self.changes) if every else all_or_some
                if number < reached[sector]:
                    put(content, at, part)
                position += len(part)
        return content


class Replay:
    """Plays a journal entry by entry."""

    def __init__(self):
        self.files, self.names, self.names_synced, self.name_changes = {}, {}, {}, []
        self.number = 0

    def play(self, kind, failed, file, offset, data):
        self.number += 1
        known = self.files.get(file)
        if kind == "O":
            self.open(data.decode(), file, is_new=offset)
        elif kind == "W":
            known.write(self.number, offset, data)
        elif kind == "T":
            known.changes.append(Change(self.number, size=offset))
        elif kind == "B" and known:
            known.sync_began = self.number
        elif kind == "F":
            known.end_sync(failed)
        elif kind == "D" and not failed:
            self.names_synced, self.name_changes = dict(self.names), []
        elif kind == "U":
            self.rename(data.decode(), None)
        elif kind == "R":
            self.rename(*data.decode().split("\0"))

    def open(self, name, file, is_new):
        if not is_new:
            return
        self.files[file] = self.names[name] = File()
        self.name_changes.append((name, self.files[file], None))

    def rename(self, old, new):
        file = self.names.pop(old, None)
        if new:
            self.names[new] = file
        self.name_changes.append((old, file, new or ""))

    def unsynced_bytes(self, name):
        return self.names[name].unsynced_bytes() if name in self.names else 0

    def make(self, folder, mood, random):
        """The folder as it is found when power is back."""
        names = dict(self.names_synced)
        kept = {"lost": 0, "kept": len(self.name_changes)}.get(mood, random.randint(0, len(self.name_changes)))
        for name, file, new in self.name_changes[:kept]:
            if new is None:
                names[name] = file
                continue
            names.pop(name, None)
            if new:
                names[new] = file
        folder.mkdir()
        for name, file in names.items():
            (folder / name).write_bytes(file.survivor(mood, random))


class Answers:
    """MQTT packets that the gateway sent, by the port of their receiver: when each of them had left as a whole."""

    KINDS = {4: "PUBACK", 5: "PUBREC", 7: "PUBCOMP"}

    def __init__(self):
        self.rest = {}
        # Port to (kind, packet identifier) to the number of the journal's entry.
        self.sent = {}

    def take(self, number, port, data):
        rest = self.rest.setdefault(port, bytearray())
        rest += data
        while (packet := self.cut(rest)) is not None:
            head, body = packet
            kind = self.KINDS.get(head >> 4)
            is_failure = len(body) > 2 and body[2] >= 0x80
            if kind and not is_failure:
                self.sent.setdefault(port, {}).setdefault((kind, int.from_bytes(body[:2], "big")), number)

    @staticmethod
    def cut(rest):
        length, shift = 0, 0
        for position in range(1, 5):
            if len(rest) <= position:
                return None
            length |= (rest[position] & 0x7F) << shift
            shift += 7
            if rest[position] < 0x80:
                break
        end = position + 1 + length
        if len(rest) < end:
            return None
        packet = rest[0], bytes(rest[position + 1 : end])
        del rest[:end]
        return packet


def cut_points(disk, first, count, random):
    """Numbers of entries after which power is lost: half of them right behind an answer, or soon after a sync that failed."""
    entries = [(kind, failed) for kind, failed, _, _, _ in disk.entries()]
    marks = [number for number, (kind, _) in enumerate(entries, 1) if kind == "S" and number > first]
    failures = [number for number, (_, failed) in enumerate(entries, 1) if failed]
    if failures:
        marks = [min(len(entries), random.choice(failures) + random.randint(0, AFTER_FAILURE_MAX)) for _ in range(count)]
    points = {random.choice(marks) for _ in range(count // 2)} if marks else set()
    while len(points) < min(count, len(entries) - first):
        points.add(random.randint(first + 1, len(entries)))
    return sorted(points)


def environment_count(name, default):
    return int(os.environ.get(name, default))
