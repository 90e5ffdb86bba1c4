"""Starts on storage that is not as it should be. What cannot be read for a reason that may pass is never touched: the
gateway refuses to start and says what to do. What is damaged is set aside under a dated name and said in the log, in
status and in metrics; then a new database is begun."""

import os
import shutil
import sqlite3
import subprocess

import disk
from bad_start import FAILED, check
from failing_disk import Web
from harness import Gateway, Scenario, free_port, wait_for
from mqtt import PUBACK, Consumer, Mqtt

MESSAGES = 300
# As root, so that the owner's own mode counts.
PLAIN_USER = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all"] if os.getuid() == 0 else []


def make_original(scenario):
    """A data_dir with a session's messages, as a crash leaves it."""
    gateway = Gateway(scenario, name="original")
    gateway.start()
    away = Mqtt("away", gateway.port)
    away.subscribe("kept/#", 1)
    away.part()
    client = Mqtt("writer", gateway.port)
    for number in range(1, MESSAGES + 1):
        client.publish(number, "kept/a", f"{number} ".encode().ljust(500, b"."), 1)
    for _ in range(MESSAGES):
        if client.read()[0] != PUBACK:
            raise AssertionError("no PUBACK")
    client.close()
    scenario.check_equal("the first gateway ends with 0", gateway.stop(), 0)
    return gateway.data_dir


class Start:
    """A start on a copy of the original that something was done to."""

    def __init__(self, scenario, original, name):
        self.scenario, self.name = scenario, name
        self.http_port = free_port()
        folder = scenario.folder / f"{name}-data"
        shutil.copytree(original, folder)
        self.gateway = Gateway(
            scenario, f"http: {{ address: 127.0.0.1:{self.http_port} }}\n", name=name, data_dir=folder
        )
        self.database = folder / "tidegate.db"

    def is_refused(self, *words):
        before = contents(self.gateway.data_dir)
        check(self.scenario, self.name, self.gateway.config, FAILED, "error: ", *words)
        untouched = {name: content for name, content in contents(self.gateway.data_dir).items() if name in before}
        self.scenario.check(f"{self.name}: nothing was touched", untouched == before)

    def is_set_aside(self):
        damaged = self.database.read_bytes()
        self.gateway.start()
        self.gateway.wait_port(self.http_port)
        folder = self.gateway.data_dir
        aside = [path for path in folder.iterdir() if ".corrupt-" in path.name and path.suffix.startswith(".corrupt")]
        found = [path for path in aside if path.read_bytes()[:100] == damaged[:100] and path.stat().st_size == len(damaged)]
        self.scenario.check_equal(f"{self.name}: the database is set aside as it was", len(found), 1)
        if found:
            web = Web(self.http_port)
            is_logged = f"path={found[0]}" in self.gateway.log()
            self.scenario.check(f"{self.name}: the log says where", is_logged, self.gateway.log())
            self.scenario.check_equal(f"{self.name}: so does status", web.store()["set_aside"], str(found[0]))
            self.scenario.check_equal(f"{self.name}: metrics show it", web.metric("store_set_aside"), 1)
        self.serves()

    def serves(self):
        client = Mqtt("somebody", self.gateway.port, clean=True)
        client.publish(1, "kept/a", b"new", 1)
        self.scenario.check(f"{self.name}: the gateway serves", client.read()[0] == PUBACK)
        client.close()
        self.gateway.end(self.scenario)

    def damage(self, at, data=None):
        """Other bytes at a place, or nothing from there on."""
        with self.database.open("r+b") as file:
            file.seek(at)
            if data is None:
                file.truncate()
            else:
                file.write(data)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.endswith(("-shm", ".lock"))}


def check_damage(scenario, original):
    size = (original / "tidegate.db").stat().st_size
    for name, at, data in (
        ("garbage-header", 0, b"this is no database " * 10),
        ("cut-in-header", 50, None),
        ("cut-in-half", size // 2, None),
        ("cut-in-page", size - 700, None),
        ("garbage-schema", 100, os.urandom(900)),
    ):
        damaged = Start(scenario, original, name)
        damaged.damage(at, data)
        damaged.is_set_aside()


def check_damage_behind(scenario, original):
    """Met when it is read: the gateway ends, is started again by systemd, and sets the database aside."""
    damaged = Start(scenario, original, "garbage-behind")
    size = damaged.database.stat().st_size
    damaged.damage(size // 2, os.urandom(size // 4))
    (damaged.gateway.data_dir / "tidegate.db-suspect").write_bytes(b"")
    damaged.is_set_aside()


def check_version(scenario, original):
    newer = Start(scenario, original, "newer")
    with sqlite3.connect(newer.database) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    newer.is_refused("schema 99", "newer tidegate")


def check_permissions(scenario, original):
    for name, part, mode, words in (
        ("closed-folder", ".", 0o000, ("permission denied", "data_dir")),
        ("closed-database", "tidegate.db", 0o000, ("permission", "data_dir")),
        ("unwritable-database", "tidegate.db", 0o400, ("cannot be written",)),
    ):
        closed = Start(scenario, original, name)
        (closed.gateway.data_dir / part).chmod(mode)
        lines = refused_lines(closed)
        fits = len(lines) == 1 and lines[0].startswith("error: ") and all(word in lines[0] for word in words)
        if scenario.check(f"{name}: one line that says why", fits, lines):
            scenario.figure(f"   {lines[0]}")
        (closed.gateway.data_dir / part).chmod(0o700)
        aside = [path for path in closed.gateway.data_dir.iterdir() if ".corrupt-" in path.name]
        scenario.check_equal(f"{name}: nothing is set aside", aside, [])


def refused_lines(closed):
    ended = subprocess.run(
        [*PLAIN_USER, *closed.gateway.args], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=15
    )
    closed.scenario.check_equal(f"{closed.name}: exit code {FAILED}", ended.returncode, FAILED)
    return [line for line in ended.stderr.splitlines() if " INFO " not in line and " WARN " not in line]


def check_faults(scenario, original, library):
    for name, fault, words in (
        ("bad-reads", disk.BAD_READ, ("reading or writing the database failed",)),
        ("read-only", disk.READ_ONLY, ("cannot be written",)),
    ):
        failing = Start(scenario, original, name)
        layer = disk.Disk(library, failing.gateway)
        layer.order(fault)
        os.environ.update(failing.gateway.environment)
        try:
            failing.is_refused(*words)
        finally:
            for variable in failing.gateway.environment:
                del os.environ[variable]
        layer.lift()
        failing.gateway.start()
        consumer = Consumer(Mqtt("away", failing.gateway.port))
        consumer.take_until(f"{MESSAGES} ".encode().ljust(500, b"."))
        scenario.check_equal(f"{name}: with the fault gone, everything is there", len(consumer.payloads), MESSAGES)
        failing.gateway.end(scenario)


def check_second(scenario, original):
    first = Start(scenario, original, "first")
    first.gateway.start()
    second = Gateway(scenario, name="second", data_dir=first.gateway.data_dir)
    check(scenario, "second gateway", second.config, FAILED, "error: ", "another tidegate holds", str(first.gateway.data_dir))
    first.serves()
    second.start()
    wait_for("the second gateway, once the first has ended", second.is_running)
    second.end(scenario)


def main():
    with Scenario("starts", 240) as scenario:
        library = disk.build(scenario.folder)
        original = make_original(scenario)
        check_version(scenario, original)
        check_permissions(scenario, original)
        check_second(scenario, original)
        check_faults(scenario, original, library)
        check_damage(scenario, original)
        check_damage_behind(scenario, original)


if __name__ == "__main__":
    main()
