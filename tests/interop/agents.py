"""Peers that are no Python: each speaks to its agent, a small program that drives one library and knows nothing of
what is tested. An agent reads lines and writes lines:

    ID VERB key=value ...              connect, subscribe, unsubscribe, publish, disconnect
    ID done reason=N [present=0|1]     the answer; answers to several publish may come in another order
    - message key=value ...            a message that came

Text and bytes are hexadecimal, numbers decimal; a reason of -1 is one that the library does not tell. `user` is
`KEY:VALUE,...`. An agent ends with its input. MQTT.js's is the same file in node and in Chromium.
"""

import functools
import http.server
import os
import queue
import subprocess
import tempfile
import threading
from pathlib import Path

from harness import WAIT_SECONDS, wait_for
from peers import Message, Peer
from selenium import webdriver

HERE = Path(__file__).parent
HEXADECIMAL = {"client", "username", "password", "will_topic", "will_payload", "filter", "topic", "payload",
               "content_type", "response_topic", "correlation"}  # fmt: skip
TEXT = {"topic", "content_type", "response_topic"}
BYTES = {"payload", "correlation"}
CHROMIUM_FLAGS = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run
    --disable-background-networking --disable-component-update --disable-sync --disable-dev-shm-usage""".split()


def encode(value):
    return (value if isinstance(value, bytes) else value.encode()).hex()


def write_fields(fields):
    written = []
    for key, value in fields.items():
        if key in HEXADECIMAL:
            value = encode(value)
        elif key == "user":
            value = ",".join(f"{encode(name)}:{encode(text)}" for name, text in value)
        written.append(f"{key}={int(value) if isinstance(value, bool) else value}")
    return " ".join(written)


def read_fields(words):
    fields = {}
    for key, _, value in (word.partition("=") for word in words):
        if key in TEXT:
            fields[key] = bytes.fromhex(value).decode()
        elif key in BYTES:
            fields[key] = bytes.fromhex(value)
        elif key == "user":
            pairs = (pair.split(":") for pair in value.split(","))
            fields[key] = [tuple(bytes.fromhex(text).decode() for text in pair) for pair in pairs]
        elif key == "identifier":
            fields[key] = [int(number) for number in value.split(",")]
        else:
            fields[key] = int(value)
    return fields


class Agent(Peer):
    """Of whatever carries the lines: `send_lines` and `take_lines` are a subclass's."""

    def __init__(self, port, version):
        super().__init__(port, version)
        self.last, self.answers = 0, {}

    def ask_all(self, verb, requests):
        lines, ids = [], []
        for fields in requests:
            self.last += 1
            ids.append(self.last)
            lines.append(f"{self.last} {verb} {write_fields(fields)}")
        self.send_lines(lines)

        def all_answered():
            self.pump()
            return all(number in self.answers for number in ids)

        wait_for(f"{self.name} v{self.version} to {verb}", all_answered, WAIT_SECONDS)
        answers = [self.answers.pop(number) for number in ids]
        return [answer | {"reason": None if answer["reason"] < 0 else answer["reason"]} for answer in answers]

    def ask(self, verb, **fields):
        return self.ask_all(verb, [fields])[0]

    def connect(self, client_id, login, *, clean=True, expiry=None, will=None):
        fields = {"version": self.version, "client": client_id, "clean": clean}
        fields |= {"username": login.username, "password": login.password}
        if expiry is not None and self.version == 5:
            fields["expiry"] = expiry
        if will:
            fields |= {"will_topic": will[0], "will_payload": will[1]}
        answer = self.ask("connect", **fields)
        self.session_present = bool(answer["present"]) if "present" in answer else None
        return answer["reason"]

    def subscribe(self, topic_filter, qos, *, no_local=False, identifier=None):
        given = {} if identifier is None else {"identifier": identifier}
        return self.ask("subscribe", filter=topic_filter, qos=qos, no_local=no_local, **given)["reason"]

    def unsubscribe(self, topic_filter):
        return self.ask("unsubscribe", filter=topic_filter)["reason"]

    def publish_all(self, topic, payloads, qos, *, retain=False, **values):
        fields = {"topic": topic, "qos": qos, "retain": retain, **values}
        return [answer["reason"] for answer in self.ask_all("publish", [fields | {"payload": p} for p in payloads])]

    def disconnect(self):
        self.ask("disconnect")

    def pump(self):
        for line in self.take_lines():
            number, word, *words = line.split(" ")
            fields = read_fields(words)
            if word == "done":
                self.answers[int(number)] = fields
            else:
                named = [fields.pop(name) for name in ("topic", "payload", "qos", "retain")]
                self.messages.append(Message(*named[:3], bool(named[3]), fields))


class Program(Agent):
    """An agent that is a process. Cut off, it is killed; the next connect starts it again."""

    def __init__(self, port, version, scenario, command):
        super().__init__(port, version)
        self.command, self.child = [str(word) for word in [*command, port]], None
        self.log = (scenario.folder / f"{Path(self.command[0]).name}-{id(self)}.log").open("ab")
        scenario.cleanups.append(self.end)

    def start(self):
        streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self.log}
        self.child = subprocess.Popen(self.command, text=True, **streams)
        self.lines = queue.SimpleQueue()
        threading.Thread(target=self.read, args=(self.child.stdout, self.lines), daemon=True).start()

    @staticmethod
    def read(stream, lines):
        for line in stream:
            lines.put(line.rstrip("\n"))

    def connect(self, *arguments, **options):
        if self.child is None:
            self.start()
        return super().connect(*arguments, **options)

    def send_lines(self, lines):
        self.child.stdin.write("".join(f"{line}\n" for line in lines))
        self.child.stdin.flush()

    def take_lines(self):
        while self.child is not None and not self.lines.empty():
            yield self.lines.get()

    def cut(self):
        self.pump()
        self.end()

    def end(self):
        if self.child is not None:
            self.child.kill()
            self.child.wait()
            self.child.stdin.close()
            self.child = None


class PahoC(Program):
    name = "Paho C"

    def __init__(self, port, version, scenario):
        super().__init__(port, version, scenario, [os.environ["PAHO_C_AGENT"]])


class Rumqttc(Program):
    name = "rumqttc"

    def __init__(self, port, version, scenario):
        super().__init__(port, version, scenario, [os.environ["RUMQTTC_AGENT"]])


class MqttJs(Program):
    name = "MQTT.js"
    keeps_pair_order = False

    def __init__(self, port, version, scenario):
        super().__init__(port, version, scenario, ["node", HERE / "node" / "agent.js"])


class Chromium:
    """A browser with one page; each peer of it is a frame with an agent of its own."""

    def __init__(self, scenario):
        self.profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Files))
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        options = webdriver.ChromeOptions()
        options.binary_location = "/usr/bin/chromium"
        for flag in [*CHROMIUM_FLAGS, f"--user-data-dir={self.profile.name}"]:
            options.add_argument(flag)
        self.driver = webdriver.Chrome(options, webdriver.ChromeService("/usr/bin/chromedriver"))
        scenario.cleanups.append(self.profile.cleanup)
        scenario.cleanups.append(self.server.shutdown)
        scenario.cleanups.append(self.driver.quit)
        self.driver.set_script_timeout(WAIT_SECONDS)
        self.driver.get(f"http://127.0.0.1:{self.server.server_port}/page.html")

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)


class Files(http.server.BaseHTTPRequestHandler):
    """The page, the agent and MQTT.js's own bundle for browsers."""

    FILES = {
        "/page.html": (HERE / "node" / "page.html", "text/html; charset=utf-8"),
        "/frame.html": (HERE / "node" / "frame.html", "text/html; charset=utf-8"),
        "/agent.js": (HERE / "node" / "agent.js", "text/javascript; charset=utf-8"),
        "/mqtt.js": (Path(os.environ["NODE_PATH"]) / "mqtt" / "dist" / "mqtt.min.js", "text/javascript; charset=utf-8"),
    }

    def do_GET(self):
        path, kind = self.FILES.get(self.path, (None, None))
        if path is None:
            return self.send_error(404)
        body = path.read_bytes()
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class MqttJsInChromium(Agent):
    name = "MQTT.js in Chromium"
    keeps_pair_order = False

    def __init__(self, port, version, chromium):
        super().__init__(port, version)
        self.chromium, self.frame = chromium, None

    def connect(self, *arguments, **options):
        if self.frame is None:
            url = f"ws://127.0.0.1:{self.port}/mqtt"
            self.frame = self.chromium.driver.execute_async_script("open_frame(arguments[0]).then(arguments[1])", url)
        return super().connect(*arguments, **options)

    def send_lines(self, lines):
        self.chromium.run("speak(arguments[0], arguments[1])", self.frame, lines)

    def take_lines(self):
        return self.chromium.run("return hear(arguments[0])", self.frame) if self.frame is not None else []

    def cut(self):
        """The page goes: its WebSocket is closed, and nobody says DISCONNECT."""
        self.pump()
        self.chromium.run("close_frame(arguments[0])", self.frame)
        self.frame = None
