"""The plug is pulled, again and again: whatever the disk had not synced is lost, kept or torn, and the gateway starts on it.

One run under QoS 1 and QoS 2 load is written down, then power is lost at TIDEGATE_CUTS random moments of it (50). On
what is left of the folder a gateway starts, its publishers go on with their sessions, and everything arrives at the
session of a client and at the cloud: what was acknowledged by that moment in any case, QoS 2 once. Then the same for a
disk whose syncs fail now and then. With `durability: process` the loss is measured and held against its bound, with
`none` the gateway starts. TIDEGATE_CUT_SEED repeats a run's moments.
"""

import random
import threading
from collections import Counter
from pathlib import Path

import disk
from harness import Client, Failure, Gateway, Mosquitto, Scenario, free_port, wait_for
from mqtt import PUBACK, PUBCOMP, PUBREC, PUBREL, Closed, Consumer, Mqtt

CUTS = disk.environment_count("TIDEGATE_CUTS", 50)
CUTS_SYNC_FAILS, CUTS_PROCESS, CUTS_NONE = CUTS * 2 // 5, CUTS * 2 // 5, CUTS // 10
SEED = disk.environment_count("TIDEGATE_CUT_SEED", random.randrange(1_000_000))
SECONDS_MAX = 390 if CUTS <= 50 else CUTS * 10
MESSAGES, MESSAGES_PROCESS = 400, 2500
WINDOW = 30
# The packet identifier of what a publisher sends last.
END = 65000
PAYLOAD_BYTES = (20, 1500)
# README: with `durability: process`, the log's last 4 MiB, and what one commit puts behind them.
UNSYNCED_BYTES_MAX = (4 << 20) + (1 << 20)
PUBLISHERS = {"meter-4": 4, "meter-5": 5}
TOPIC_OF = {1: "load/{}/one", 2: "load/{}/two"}


def payload_of(name, number):
    """Says who and which, and is as long as its number wants; the same whenever it is asked for."""
    size = random.Random(f"{name} {number}").randint(*PAYLOAD_BYTES)
    return f"{name} {number} ".encode().ljust(size, b".")


def qos_of(number):
    return 1 + number % 2


class Publisher:
    """Publishes messages 1 to `count`, each under its own number, and remembers what it was told."""

    def __init__(self, name, version):
        self.name, self.version = name, version
        self.acknowledged, self.ports = set(), []
        self.error = None

    def connect(self, port):
        client = Mqtt(self.name, port, self.version)
        self.ports.append(client.port)
        return client

    def publish(self, client, number, dup=False):
        topic = TOPIC_OF[qos_of(number)].format(self.name)
        client.publish(number, topic, payload_of(self.name, number), qos_of(number), dup)

    def run(self, port, count):
        try:
            self.load(port, count)
        except (Closed, OSError) as error:
            self.error = error

    def load(self, port, count):
        client, number, open_ = self.connect(port), 0, set()
        while number < count or open_:
            while number < count and len(open_) < WINDOW:
                number += 1
                open_.add(number)
                self.publish(client, number)
            self.take(client, open_)
        client.close()

    def take(self, client, open_):
        kind, _, body = client.read()
        number = int.from_bytes(body[:2], "big")
        if kind == PUBREC:
            client.answer(PUBREL, number)
        elif kind in (PUBACK, PUBCOMP):
            open_.discard(number)

    def resume(self, port, received, done, last):
        """As one who had got those PUBRECs and those last answers: the rest goes again, up to `last`, and then an end."""
        client, open_ = self.connect(port), set()
        for number in range(1, last + 1):
            if number in done:
                continue
            open_.add(number)
            if number in received:
                client.answer(PUBREL, number)
            else:
                self.publish(client, number, dup=True)
            while len(open_) >= WINDOW:
                self.take(client, open_)
        while open_:
            self.take(client, open_)
        # QoS 2: at the cloud, one of QoS 1 would overtake those of QoS 2 that are not released yet.
        client.publish(END, f"load/{self.name}/end", f"{self.name} end".encode(), 2)
        open_.add(END)
        while open_:
            self.take(client, open_)
        client.close()


class Recording:
    """A gateway under load with its journal."""

    def __init__(self, scenario, library, durability, messages):
        self.name = f"recorded-{durability[0]}-{durability[1]}"
        self.durability = durability[1]
        # Nobody listens there: everything waits for the cloud.
        self.gateway = SavingGateway(scenario, self.name, self.durability, free_port(), "never")
        self.disk = disk.Disk(library, self.gateway, has_journal=True)
        self.publishers = [Publisher(name, version) for name, version in PUBLISHERS.items()]
        self.messages = messages

    def run(self, during=lambda disk, publishers: None):
        self.gateway.start()
        away = Mqtt("away", self.gateway.port)
        away.subscribe("load/#", 2)
        away.part()
        threads = [
            threading.Thread(target=publisher.run, args=(self.gateway.port, self.messages), daemon=True)
            for publisher in self.publishers
        ]
        self.first = self.disk.journal_entries
        for thread in threads:
            thread.start()
        during(self.disk, threads)
        for thread in threads:
            thread.join(120)
        self.gateway.kill()
        errors = [f"{publisher.name}: {publisher.error!r}" for publisher in self.publishers if publisher.error]
        if errors or any(thread.is_alive() for thread in threads):
            raise Failure(f"{self.name}: the load did not get through: {errors}")


class SavingGateway(Gateway):
    def __init__(self, scenario, name, durability, cloud_port, prefix, data_dir=None):
        sections = f"""
bridges:
  cloud:
    url: mqtt://127.0.0.1:{cloud_port}
    client_id: {prefix}
    reconnect: {{ min: 100ms, max: 500ms }}
    forward:
      - {{ topic: "load/#", to: "{prefix}/{{topic}}" }}
"""
        super().__init__(scenario, sections, name=name, data_dir=data_dir)
        text = self.config.read_text()
        self.config.write_text(text.replace("durability: power-loss", f"durability: {durability}"))


class Cut:
    """What had been promised at one moment."""

    def __init__(self, recording, answers, number):
        self.number, self.done, self.received = number, {}, {}
        for publisher in recording.publishers:
            sent = {}
            for port in publisher.ports[:1]:
                sent = answers.sent.get(port, {})
            name = publisher.name
            self.done[name] = {key: at for (kind, key), at in sent.items() if kind != "PUBREC"}
            self.received[name] = {key: at for (kind, key), at in sent.items() if kind == "PUBREC"}

    def last(self, name, messages):
        """A publisher may have sent so many by then."""
        known = [0, *self.done[name], *self.received[name]]
        return min(messages, max(known) + WINDOW)


class Trial:
    """The gateway on what one cut left."""

    def __init__(self, run, recording, cut, folder):
        self.run, self.recording, self.cut = run, recording, cut
        self.prefix = f"{recording.name}-{cut.number}"
        self.gateway = SavingGateway(
            run.scenario, self.prefix, recording.durability, run.cloud.port, self.prefix, folder
        )

    def go(self):
        self.gateway.start()
        for publisher in self.recording.publishers:
            name = publisher.name
            again = Publisher(name, publisher.version)
            last = self.cut.last(name, self.recording.messages)
            again.resume(self.gateway.port, self.cut.received[name], self.cut.done[name], last)
        self.kept = self.take_session()
        wait_for("the last messages at the cloud", lambda: len(self.at_cloud("load/+/end")) >= len(PUBLISHERS), 30)
        self.bridged = self.at_cloud("#")
        self.gateway.kill()

    def take_session(self):
        consumer = Consumer(Mqtt("away", self.gateway.port))
        if not consumer.client.session_present:
            if self.recording.durability == "power-loss":
                raise Failure("the session is lost")
            return []
        consumer.take_until(f"{list(PUBLISHERS)[-1]} end".encode())
        consumer.client.close()
        return consumer.payloads

    def at_cloud(self, topic):
        return [message.payload for message in self.run.observer.received(f"{self.prefix}/{topic}")]

    def faults(self):
        """In words: what is missing, doubled, out of order, damaged."""
        found = []
        for place, payloads in (("session", self.kept), ("cloud", self.bridged)):
            counts = Counter(payloads)
            for name in PUBLISHERS:
                last = self.cut.last(name, self.recording.messages)
                expected = {number: payload_of(name, number) for number in range(1, last + 1)}
                lost = [number for number, payload in expected.items() if not counts[payload]]
                twice = [n for n, payload in expected.items() if qos_of(n) == 2 and counts[payload] > 1]
                found += [f"{place}: {name}: lost {lost}"] if lost else []
                found += [f"{place}: {name}: QoS 2 twice {twice}"] if twice else []
                found += self.disorder(place, name, payloads)
            ends = {f"{name} end".encode() for name in PUBLISHERS}
            known = {payload_of(name, n) for name in PUBLISHERS for n in range(1, self.recording.messages + 1)}
            strange = [payload for payload in counts if payload not in known | ends]
            found += [f"{place}: what nobody published: {strange[:3]}"] if strange else []
        return found

    def disorder(self, place, name, payloads):
        numbers = [int(payload.split()[1]) for payload in payloads if payload.split()[0].decode() == name and b" end" not in payload]
        for qos in (1, 2):
            firsts = list(dict.fromkeys(number for number in numbers if qos_of(number) == qos))
            if firsts != sorted(firsts):
                return [f"{place}: {name}: QoS {qos} out of order"]
        return []

    def lost_bytes(self):
        """Acknowledged, and neither in the session nor at the cloud."""
        there = set(self.kept) & set(self.bridged)
        gone = [
            (at, payload_of(name, number))
            for name, done in self.cut.done.items()
            for number, at in done.items()
            if payload_of(name, number) not in there
        ]
        return [at for at, _ in gone], sum(len(payload) for _, payload in gone)


class Run:
    def __init__(self, scenario):
        self.scenario, self.random = scenario, random.Random(SEED)
        self.library = disk.build(scenario.folder)
        self.cloud = Mosquitto(scenario, "cloud")
        scenario.quiet.add(self.cloud)
        self.cloud.start()
        self.observer = Client("observer", self.cloud.port, clean=False, expiry=3600).connect()
        self.observer.subscribe("#", 2)

    def record(self, kind, durability, messages, during=lambda disk, threads: None):
        recording = Recording(self.scenario, self.library, (kind, durability), messages)
        recording.run(during)
        return recording

    def cuts(self, recording, count):
        """Folders as power losses leave them, each with its cut and the replay at that moment."""
        points = disk.cut_points(recording.disk, recording.first, count, self.random)
        replay, answers = disk.Replay(), disk.Answers()
        for entry in recording.disk.entries():
            if entry[0] == "S":
                replay.number += 1
                answers.take(replay.number, entry[2], entry[4])
            else:
                replay.play(*entry)
            if points and replay.number == points[0]:
                points.pop(0)
                folder = self.scenario.folder / f"{recording.name}-{replay.number}-data"
                replay.make(folder, self.random.choice(disk.MOODS), self.random)
                yield folder, Cut(recording, answers, replay.number), replay

    def lose_nothing(self, what, recording, count):
        faults, tried, promised = [], 0, 0
        for folder, cut, _ in self.cuts(recording, count):
            tried += 1
            promised += sum(len(done) for done in cut.done.values())
            trial = Trial(self, recording, cut, folder)
            try:
                trial.go()
                found = trial.faults()
            except (Failure, Closed, OSError) as error:
                found = [repr(error)]
            self.forget(trial, folder, found)
            faults += [f"entry {cut.number}: {text}" for text in found]
        self.scenario.figure(f"{what}: {tried} losses of power, {promised} acknowledged messages looked for after them")
        self.scenario.check(f"{what}: {count} losses of power, nothing acknowledged is lost, QoS 2 comes once", not faults, "\n    ".join(faults[:20]))
        self.scenario.check_equal(f"{what}: every loss was tried", tried, count)

    def forget(self, trial, folder, found):
        trial.gateway.kill()
        if not found:
            self.scenario.processes.remove(trial.gateway)
            for path in (*folder.iterdir(), trial.gateway.log_path, trial.gateway.config):
                path.unlink()
        self.observer.clear()

    def measure_process(self, recording):
        """What is lost was acknowledged after the log had been synced for the last time."""
        lost_most = unsynced_most = 0
        faults = []
        for folder, cut, replay in self.cuts(recording, CUTS_PROCESS):
            unsynced = replay.unsynced_bytes("tidegate.db-wal")
            synced_at = replay.names["tidegate.db-wal"].sync_began
            trial = Trial(self, recording, cut, folder)
            try:
                trial.go()
            except (Failure, Closed, OSError) as error:
                faults.append(f"entry {cut.number}: {error!r}")
                self.forget(trial, folder, faults)
                continue
            lost, lost_bytes = trial.lost_bytes()
            early = [at for at in lost if at <= synced_at]
            faults += [f"entry {cut.number}: {len(early)} lost that were synced at {synced_at}"] if early else []
            lost_most, unsynced_most = max(lost_most, lost_bytes), max(unsynced_most, unsynced)
            self.forget(trial, folder, early)
        self.scenario.figure(
            f"process: at most {lost_most} bytes of acknowledged payloads lost, {unsynced_most} bytes of log not synced"
        )
        self.scenario.check("process: what was acknowledged before the log was synced is never lost", not faults, "\n    ".join(faults[:20]))
        self.scenario.check(
            f"process: no more than {UNSYNCED_BYTES_MAX} bytes of the log are in danger",
            0 < unsynced_most <= UNSYNCED_BYTES_MAX,
            unsynced_most,
        )

    def start_with_none(self, recording):
        started = 0
        for folder, cut, _ in self.cuts(recording, CUTS_NONE):
            gateway = SavingGateway(self.scenario, f"none-{cut.number}", "none", free_port(), "none", folder)
            gateway.start()
            client = Mqtt("somebody", gateway.port, clean=True)
            client.publish(1, "a/b", b"c", 1)
            started += client.read()[0] == PUBACK
            client.close()
            gateway.end(self.scenario)
        self.scenario.check_equal("none: the gateway starts on whatever is left", started, CUTS_NONE)


def fail_syncs(random_):
    """A sync fails, once or a few times in a row, again and again while the load runs."""

    def during(failing, threads):
        while any(thread.is_alive() for thread in threads):
            failing.order(disk.BAD_SYNC, after=random_.randint(1, 12), times=random_.randint(1, 3))
            hits = failing.hits
            wait_for(
                "syncs to fail",
                lambda hits=hits: failing.hits > hits or not any(thread.is_alive() for thread in threads),
                30,
            )
        failing.lift()

    return during


def main():
    with Scenario("power_loss", SECONDS_MAX) as scenario:
        run = Run(scenario)
        scenario.figure(f"seed {SEED}")
        recording = run.record("whole", "power-loss", MESSAGES)
        run.lose_nothing("power-loss", recording, CUTS)
        recording = run.record("failing", "power-loss", MESSAGES, fail_syncs(run.random))
        run.lose_nothing("syncs that fail", recording, CUTS_SYNC_FAILS)
        run.measure_process(run.record("whole", "process", MESSAGES_PROCESS))
        run.start_with_none(run.record("whole", "none", MESSAGES))
        run.observer.disconnect()


if __name__ == "__main__":
    main()
