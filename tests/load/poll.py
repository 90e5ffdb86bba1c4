"""What polling costs and how much of a line it uses: one serial line at 9,600 and at 115,200 baud whose polls are denser
than it carries, beside mbpoll doing the same reads; 64 units on a line and 200 devices of Modbus TCP with 50 points each,
ten of them dead. Times and rates are printed; what is checked is memory, and that every live device is read while
the dead ones are silent."""

import json
import os
import sys
import time
import urllib.request
from pathlib import Path

from harness import Client, Gateway, Process, Scenario, free_port, is_open, wait_for
from memory import status_bytes

LINE_SECONDS = 5
LINE_UNITS = 20
LINE_REGISTERS = 10
MANY_UNITS, MANY_DEAD = 64, [3, 9, 15, 21, 27, 33, 39, 45, 51, 57]
DEVICES, DEVICES_DEAD = 200, [5, 25, 45, 65, 85, 105, 125, 145, 165, 185]
POINTS = 50
RATE_SECONDS = 15
MEMORY_BYTES_MAX = 40 << 20
FIELD = Path(__file__).with_name("field.py")
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


class Field(Process):
    """`field.py`; what it saw last."""

    def __init__(self, scenario, name, *args):
        super().__init__(scenario, name, [sys.executable, FIELD, *args])

    def start(self):
        super().start()
        wait_for(f"{self.name} to begin", lambda: self.log().endswith("\n"))
        return self

    def seen(self):
        return json.loads(self.log().splitlines()[-1])


def difference(after, before):
    return {key: after[key] - before[key] for key in ("exchanges", "busy", "idle")}


def numbers(values):
    return ",".join(map(str, values))


def cpu_seconds(process):
    fields = Path(f"/proc/{process.child.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS


def points(count):
    return "".join(f"      p{at}: {{ holding: {at}, type: u16 }}\n" for at in range(count))


def unit_on(line, unit, poll, count):
    return (
        f"  {line}-{unit}:\n    modbus: {{ port: {line}, unit: {unit} }}\n    poll: {poll}\n    retries: 0\n"
        f"    timeout: 200ms\n    publish: {{ retain: false }}\n    points:\n{points(count)}"
    )


def metric(port, name):
    page = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
    lines = (line for line in page.splitlines() if line.startswith(f"tidegate_{name}{{"))
    return {line.split('"')[1]: float(line.rsplit(" ", 1)[1]) for line in lines}


def share(counted):
    return f"{100 * counted['busy'] / (counted['busy'] + counted['idle']):.1f} %"


def pause(counted):
    return f"{1000 * counted['idle'] / max(1, counted['exchanges']):.2f} ms"


def used(what, counted):
    return f"{what}: {counted['exchanges']} exchanges, {share(counted)} of what the wire allows ({pause(counted)} a request unused)"


def check_line(scenario, baud):
    """Polls that are denser than the line: how much of it is used, and that they all are stretched alike."""
    line = Field(scenario, f"line-{baud}", "line", baud, LINE_UNITS, "").start()
    http = free_port()
    units = "".join(unit_on("line", unit, "10ms", LINE_REGISTERS) for unit in range(1, LINE_UNITS + 1))
    sections = f"http: {{ address: 127.0.0.1:{http} }}\nports:\n  line: {{ path: {line.seen()['path']}, baud_rate: {baud} }}\ndevices:\n{units}"
    gateway = Gateway(scenario, sections, name=f"gateway-{baud}")
    gateway.start()
    wait_for("every unit", lambda: len(line.seen()["units"]) == LINE_UNITS, 60)
    client = Client(f"reader-{baud}", gateway.port).connect()
    client.subscribe("devices/+/p3", 0)
    before = line.seen()
    time.sleep(LINE_SECONDS)
    after = line.seen()
    ours = difference(after, before)
    scenario.figure(used(f"{baud} baud, tidegate", ours))
    counts = [after["units"][str(unit)] - before["units"].get(str(unit), 0) for unit in range(1, LINE_UNITS + 1)]
    scenario.figure(f"{baud} baud: reads of a unit from {min(counts)} to {max(counts)}")
    scenario.check(f"{baud} baud: no unit is read much more often than another", max(counts) - min(counts) <= 3, counts)
    skipped = sum(metric(http, "device_skipped_polls_total").values())
    scenario.check(f"{baud} baud: polls that were left out are counted", skipped > 0)
    gateway.end(scenario)

    before = line.seen()
    args = ["-m", "rtu", "-b", baud, "-P", "none", "-a", f"1:{LINE_UNITS}", "-0", "-r", 0, "-c", LINE_REGISTERS, "-l", 11, "-o", 1]
    mbpoll = Process(scenario, f"mbpoll-{baud}", ["mbpoll", *args, line.seen()["path"]])
    mbpoll.start()
    time.sleep(LINE_SECONDS)
    mbpoll.kill()
    theirs = difference(line.seen(), before)
    scenario.figure(used(f"{baud} baud, mbpoll", theirs))
    line.kill()
    rows = [("of the wire", share(ours), share(theirs)), ("unused, a request", pause(ours), pause(theirs))]
    return [(f"{baud} baud, {what}", *values) for what, *values in rows]


def tell_rates(scenario, what, before, after, dead, seconds):
    """Of live devices, each of which is due once a second."""
    rates = {name: (after[name] - before.get(name, 0)) / seconds for name in after if name not in dead}
    slowest = min(rates.values())
    scenario.figure(f"{what}: {len(rates)} live devices, {slowest:.2f} to {max(rates.values()):.2f} reads a second each")


def is_right(device):
    """Of a line's unit, what `field.py` holds; of the crowd, the points of one answer."""
    line, number = device["name"].split("-")
    values = [point["value"] for point in device["points"]]
    if line == "many":
        first = int(number) * 100
    else:
        first = values[0]
    good = all(point["quality"] == "good" for point in device["points"])
    return good and values == [(first + at) & 0xFFFF for at in range(len(values))]


def check_reads(scenario, http, dead):
    """Every live device is read on and rightly, whoever is dead."""
    live = lambda polls: {name: count for name, count in polls.items() if name not in dead}
    began = live(metric(http, "device_polls_total"))
    goes_on = lambda: all(count > began[name] + 1 for name, count in live(metric(http, "device_polls_total")).items())
    wait_for("every live device to be read again", goes_on, 120)
    page = urllib.request.urlopen(f"http://127.0.0.1:{http}/api/v1/devices", timeout=10).read()
    wrong = [device["name"] for device in json.loads(page) if device["name"] not in dead and not is_right(device)]
    scenario.check("every live device is read, and rightly, whoever is dead", not wrong, wrong)


def check_many(scenario):
    line = Field(scenario, "line-many", "line", 115200, MANY_UNITS, numbers(MANY_DEAD)).start()
    crowd_port = free_port()
    crowd = Field(scenario, "crowd", "crowd", crowd_port, numbers(DEVICES_DEAD)).start()
    http = free_port()
    units = "".join(unit_on("many", unit, "1s", 5) for unit in range(1, MANY_UNITS + 1))
    devices = "".join(
        f"  net-{at}:\n    modbus: {{ tcp: 127.0.1.{at}:{crowd_port}, unit: 1 }}\n    poll: 1s\n    timeout: 1s\n"
        f"    publish: {{ retain: false, when: poll }}\n    points:\n{points(POINTS)}"
        for at in range(1, DEVICES + 1)
    )
    sections = f"http: {{ address: 127.0.0.1:{http} }}\nports:\n  many: {{ path: {line.seen()['path']}, baud_rate: 115200 }}\ndevices:\n{units}{devices}"
    gateway = Gateway(scenario, sections, name="gateway-many")
    Process.start(gateway)
    wait_for("10,000 points to be taken in", lambda: is_open(gateway.port), 60)
    dead = {*(f"many-{unit}" for unit in MANY_DEAD), *(f"net-{at}" for at in DEVICES_DEAD)}

    def settled():
        page = urllib.request.urlopen(f"http://127.0.0.1:{http}/api/v1/devices", timeout=10).read()
        states = {device["name"]: device["state"] for device in json.loads(page)}
        is_known = all(state == ("offline" if name in dead else "online") for name, state in states.items())
        return len(states) == MANY_UNITS + DEVICES and is_known

    wait_for("the dead to be known, and the others to be up", settled, 120)
    before, began, cpu = (line.seen()["units"], crowd.seen()["reads"]), time.monotonic(), cpu_seconds(gateway)
    polls, skips = metric(http, "device_polls_total"), metric(http, "device_skipped_polls_total")
    time.sleep(RATE_SECONDS)
    after, polls_after = (line.seen()["units"], crowd.seen()["reads"]), metric(http, "device_polls_total")
    skips_after = metric(http, "device_skipped_polls_total")
    seconds, used_cpu = time.monotonic() - began, cpu_seconds(gateway) - cpu
    tell_rates(scenario, "64 units and 200 devices", polls, polls_after, dead, seconds)
    live = lambda name: name not in dead
    beside = sum(polls_after[name] - polls[name] for name in filter(live, polls_after) if name.startswith("many-"))
    left_out = sum(skips_after[name] - skips[name] for name in filter(live, skips_after) if name.startswith("many-"))
    scenario.figure(f"units on the line with ten dead ones: {beside:.0f} polls, {left_out:.0f} left out")
    scenario.check("units beside dead ones keep 95 % of their polls", beside >= 0.95 * (beside + left_out), (beside, left_out))
    check_reads(scenario, http, dead)
    tags = sum(after[1][at] - before[1].get(at, 0) for at in after[1]) * POINTS / seconds
    probes = sum(after[0].get(str(unit), 0) - before[0].get(str(unit), 0) for unit in MANY_DEAD)
    scenario.figure(f"{tags:.0f} tags/s from devices of Modbus TCP; {probes} requests to 10 dead units in {seconds:.0f} s")
    resident, peak = status_bytes(gateway, "VmRSS"), status_bytes(gateway, "VmHWM")
    scenario.figure(f"CPU {100 * used_cpu / seconds:.0f} % of a core, RSS {resident / 2**20:.1f} MiB, at most {peak / 2**20:.1f} MiB")
    scenario.check("the gateway stays within 40 MiB", peak <= MEMORY_BYTES_MAX, peak)
    gateway.end(scenario)
    return [
        ("10,000 tags/s: CPU of a core", f"{100 * used_cpu / seconds:.0f} %", "-"),
        ("10,000 tags/s: RSS at most", f"{peak / 2**20:.1f} MiB", "-"),
        ("tags/s", f"{tags:.0f}", "-"),
        ("polls beside dead units, left out", f"{beside:.0f}, {left_out:.0f}", "-"),
    ]


def main():
    with Scenario("poll", 300) as scenario:
        rows = [row for baud in (9600, 115200) for row in check_line(scenario, baud)]
        rows += check_many(scenario)
        # mbpoll asks every 10 ms at most.
        for what, ours, theirs in [("", "tidegate", "mbpoll"), *rows]:
            scenario.figure(f"{what:36} {ours:>12} {theirs:>10}")


if __name__ == "__main__":
    main()
