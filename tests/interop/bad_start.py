"""What the gateway says when it cannot start: one line that begins with `error: ` (a fault of the configuration: its
place), and the exit code of the kind."""

import socket
import subprocess

from harness import TIDEGATE, Gateway, Scenario, free_port

FAILED, CONFIGURATION = 1, 2
RUN_SECONDS_MAX = 15


def start(config):
    """Exit code and the lines of stderr that are no log lines."""
    ended = subprocess.run(
        [TIDEGATE, "run", "--config", str(config)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS_MAX,
    )
    is_log = (" INFO ", " WARN ", " DEBUG ")
    lines = [line for line in ended.stderr.splitlines() if not any(mark in line for mark in is_log)]
    return ended.returncode, lines


def check(scenario, what, config, code, *words):
    """Refused with `code` and one line that names `words`."""
    try:
        returned, lines = start(config)
    except subprocess.TimeoutExpired:
        scenario.check(f"{what}: does not start", False, f"it still runs after {RUN_SECONDS_MAX} s")
        return
    scenario.check_equal(f"{what}: exit code {code}", returned, code)
    is_one_line = len(lines) == 1 and all(word in lines[0] for word in words)
    if scenario.check(f"{what}: one line that says why", is_one_line, lines):
        scenario.figure(f"   {lines[0]}")


def check_damage(scenario):
    """No reason to stay away: the gateway sets a damaged database aside, says where, and begins a new one."""
    gateway = Gateway(scenario, name="damaged")
    garbage = b"this is no database, but longer than the header of one. " * 50
    (gateway.data_dir / "tidegate.db").write_bytes(garbage)
    gateway.start()
    aside = [path for path in gateway.data_dir.iterdir() if path.is_file() and path.read_bytes() == garbage]
    scenario.check_equal("a damaged database is set aside", len(aside), 1)
    is_said = aside and f"path={aside[0]}" in gateway.log()
    scenario.check("the log says where it is", is_said, gateway.log())
    scenario.check_equal("the gateway runs and ends with 0", gateway.stop(), 0)


def main():
    with Scenario("bad_start", 120) as scenario:
        folder = scenario.folder
        running = Gateway(scenario, name="running")
        running.start()

        second = Gateway(scenario, name="second", data_dir=running.data_dir)
        check(scenario, "data_dir in use", second.config, FAILED, "error: ", str(running.data_dir))
        scenario.check("the first gateway goes on", running.is_running())

        taken = Gateway(scenario, name="taken", port=running.port)
        check(scenario, "port in use", taken.config, FAILED, "error: ", str(running.port))

        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = other.getsockname()[1]
            sections = f"http: {{ address: 127.0.0.1:{port} }}\n"
            web = Gateway(scenario, sections, name="web")
            check(scenario, "http port in use", web.config, FAILED, "error: ", str(port))

        missing = folder / "missing.yaml"
        check(scenario, "no configuration", missing, CONFIGURATION, str(missing))
        check(scenario, "configuration is a folder", folder, CONFIGURATION, str(folder))
        faulty = folder / "faulty.yaml"
        faulty.write_text(f"gateway:\n  data_dir: {folder}\n  colour: red\n")
        check(scenario, "faulty configuration", faulty, CONFIGURATION, f"{faulty}:3:3: ", "gateway.colour")
        binary = folder / "binary.yaml"
        binary.write_bytes(b"\x00\xff\xfe")
        check(scenario, "configuration is no text", binary, CONFIGURATION, str(binary))

        blocked = folder / "a-file"
        blocked.write_text("")
        config = folder / "blocked.yaml"
        listener = f"broker:\n  listeners:\n    - address: 127.0.0.1:{free_port()}\n"
        config.write_text(f"gateway:\n  id: plant-7\n  data_dir: {blocked}\n{listener}")
        check(scenario, "data_dir is a file", config, FAILED, "error: ", str(blocked))
        check_damage(scenario)
        scenario.check_equal("the first gateway ends with 0", running.stop(), 0)


if __name__ == "__main__":
    main()
