"""What the scenarios share: processes with logs and an end, certificates, Mosquitto, the gateway, paho as a client.

Everything runs on 127.0.0.1 on free ports, in a folder that is removed. Nothing here judges the gateway: scenarios do,
through `Scenario.check`.
"""

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

TIDEGATE = os.environ.get("TIDEGATE", "target/release/tidegate")
WAIT_SECONDS = 15
POLL_SECONDS = 0.02
LOG_LINES_SHOWN = 40
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None)


class Failure(Exception):
    """Something that the rest of a scenario needs did not happen."""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def is_open(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def wait_for(what, condition, seconds=WAIT_SECONDS):
    """The condition's first value that is true; Failure when it does not come in time."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise Failure(f"waited {seconds} s for {what}")
        time.sleep(POLL_SECONDS)


class Scenario:
    """Counts checks, bounds the time, ends every process, and prints the logs when anything failed."""

    def __init__(self, name, seconds_max):
        self.name, self.seconds_max = name, seconds_max
        self.passed = self.failed = 0
        self.processes, self.cleanups = [], []
        # Whose logs say nothing that a check does not say.
        self.quiet = set()

    def __enter__(self):
        def give_up(number, _frame):
            raise Failure(f"not done after {self.seconds_max} s" if number == signal.SIGALRM else "was told to end")

        signal.signal(signal.SIGALRM, give_up)
        signal.signal(signal.SIGTERM, give_up)
        signal.alarm(self.seconds_max)
        self.temporary = tempfile.TemporaryDirectory(prefix=f"tidegate-{self.name}-")
        self.folder = Path(self.temporary.name)
        return self

    def __exit__(self, kind, error, _traceback):
        signal.alarm(0)
        if kind is not None:
            text = str(error) if kind is Failure else f"{kind.__name__}: {error}"
            self.check("runs to its end", False, text)
        for cleanup in reversed(self.cleanups):
            with contextlib.suppress(Exception):
                cleanup()
        for process in reversed(self.processes):
            process.kill()
        if self.failed:
            for process in self.processes:
                if process not in self.quiet:
                    process.print_log()
        self.temporary.cleanup()
        if kind is not None and kind is not Failure:
            sys.excepthook(kind, error, _traceback)
        sys.stderr.flush()
        print(f"{self.name}: {self.passed} passed, {self.failed} failed", flush=True)
        # Threads of a client that hangs must not keep the process.
        os._exit(1 if self.failed else 0)

    def check(self, what, is_true, detail=""):
        if is_true:
            self.passed += 1
            print(f"  ok: {what}", flush=True)
        else:
            self.failed += 1
            print(f"  FAILED: {what}" + (f": {detail}" if detail != "" else ""), flush=True)
        return bool(is_true)

    def check_equal(self, what, value, expected):
        return self.check(what, value == expected, f"{value!r}, not {expected!r}")

    def figure(self, text):
        print(f"  {text}", flush=True)


class Process:
    """One program; its output goes to a log. Ends with the thread that started it at the latest: the main one."""

    def __init__(self, scenario, name, args):
        self.name, self.args = name, [str(arg) for arg in args]
        self.log_path = scenario.folder / f"{name}.log"
        self.child = None
        # More of the environment than it inherits.
        self.environment = {}
        scenario.processes.append(self)

    def start(self):
        with self.log_path.open("ab") as log:
            self.child = subprocess.Popen(
                self.args,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.environment},
                preexec_fn=lambda: LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL),
            )

    def is_running(self):
        return self.child is not None and self.child.poll() is None

    def kill(self):
        if self.is_running():
            self.child.kill()
            self.child.wait()

    def stop(self, seconds=WAIT_SECONDS):
        """SIGTERM; the exit code, or Failure."""
        self.child.terminate()
        try:
            return self.child.wait(seconds)
        except subprocess.TimeoutExpired as error:
            raise Failure(f"{self.name} does not end {seconds} s after SIGTERM") from error

    def wait_port(self, port):
        def condition():
            if not self.is_running():
                raise Failure(f"{self.name} ended with {self.child.returncode} at its start")
            return is_open(port)

        wait_for(f"{self.name} on port {port}", condition)

    def log(self):
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def print_log(self):
        print(f"--- the end of {self.name}'s log")
        for line in self.log().splitlines()[-LOG_LINES_SHOWN:]:
            print(f"    {line}")


class Certificates:
    """A CA, a server's certificate for 127.0.0.1 and localhost, and two clients'."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        self.ca = folder / "ca.crt"
        self.openssl("req", "-x509", *self.new_key("ca"), "-out", self.ca, "-days", 2, "-subj", "/CN=Test CA")
        for name in ("server", "gateway", "observer"):
            self.sign(name)

    def openssl(self, *args):
        subprocess.run(["openssl", *map(str, args)], check=True, capture_output=True, stdin=subprocess.DEVNULL)

    def new_key(self, name):
        return "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", self.key(name)

    def sign(self, name):
        request, extensions = self.folder / f"{name}.csr", self.folder / f"{name}.ext"
        usage = "serverAuth" if name == "server" else "clientAuth"
        extensions.write_text(
            f"basicConstraints=CA:FALSE\nextendedKeyUsage={usage}\nsubjectAltName=IP:127.0.0.1,DNS:localhost\n"
        )
        self.openssl("req", *self.new_key(name), "-out", request, "-subj", f"/CN={name}")
        authority = "-CA", self.ca, "-CAkey", self.key("ca"), "-CAcreateserial"
        self.openssl(
            "x509", "-req", "-in", request, "-out", self.crt(name), "-days", 2, "-extfile", extensions, *authority
        )

    def crt(self, name):
        return self.folder / f"{name}.crt"

    def key(self, name):
        return self.folder / f"{name}.key"


class Mosquitto(Process):
    """Debian's broker with a database on disk. With certificates: TLS, and a client certificate is required."""

    def __init__(self, scenario, name, certificates=None):
        self.port = free_port()
        data = scenario.folder / name
        data.mkdir()
        lines = [
            f"listener {self.port} 127.0.0.1",
            "allow_anonymous true",
            "persistence true",
            f"persistence_location {data}/",
            "max_queued_messages 0",
            # With a window, 2.0.11 lets new messages to a subscriber overtake those that wait for the window.
            "max_inflight_messages 0",
            # Else its side adds 40 ms where two small packets follow each other.
            "set_tcp_nodelay true",
            "log_type error",
            "log_type warning",
            "log_type notice",
            "log_dest stdout",
        ]
        if os.getuid() == 0:
            lines.insert(0, "user root")
        if certificates:
            lines += [
                f"cafile {certificates.ca}",
                f"certfile {certificates.crt('server')}",
                f"keyfile {certificates.key('server')}",
                "require_certificate true",
            ]
        config = scenario.folder / f"{name}.conf"
        config.write_text("\n".join(lines) + "\n")
        super().__init__(scenario, name, ["/usr/sbin/mosquitto", "-c", config])

    def start(self):
        super().start()
        self.wait_port(self.port)


class Gateway(Process):
    """`tidegate run`. `sections` is YAML behind the gateway's and the broker's own, `gateway` more of the first, `listener` more of its listener,
    `other_listeners` and `limits` go into the broker's."""

    def __init__(
        self,
        scenario,
        sections="",
        *,
        gateway="",
        listener="",
        other_listeners="",
        limits="",
        name="gateway",
        data_dir=None,
        port=None,
    ):
        self.port = port or free_port()
        self.data_dir = data_dir or scenario.folder / f"{name}-data"
        self.data_dir.mkdir(exist_ok=True)
        self.config = scenario.folder / f"{name}.yaml"
        self.config.write_text(
            f"gateway:\n  id: plant-7\n  data_dir: {self.data_dir}\n  durability: power-loss\n{gateway}"
            f"log: {{ level: info, format: text }}\n"
            f"broker:\n  listeners:\n    - address: 127.0.0.1:{self.port}\n"
            f"{f'      {listener}' if listener else ''}\n{other_listeners}  sys_interval: 1s\n{limits}{sections}"
        )
        super().__init__(scenario, name, [TIDEGATE, "run", "--config", self.config])

    def start(self):
        super().start()
        self.wait_port(self.port)

    def end(self, scenario):
        """SIGTERM, for a scenario that is about something else: it must still end well."""
        scenario.check_equal(f"{self.name} ends with 0 after SIGTERM", self.stop(), 0)


class Client:
    """paho in a thread of its own. Keeps every message in the order of arrival; waits for each acknowledgement."""

    def __init__(self, client_id, port, *, version=5, clean=True, expiry=None, tls=None, will=None):
        self.version, self.port, self.clean, self.expiry = version, port, clean, expiry
        self.lock = threading.Lock()
        self.messages, self.done, self.granted = [], {}, {}
        self.connack = None
        self.disconnects = []
        protocol = paho.MQTTv5 if version == 5 else paho.MQTTv311
        options = {} if version == 5 else {"clean_session": clean}
        self.paho = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id, protocol=protocol, **options)
        self.paho.reconnect_delay_set(1, 1)
        # Else a message behind an acknowledgement waits 40 ms for the other end's.
        self.paho.on_socket_open = lambda _c, _u, sock: sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.paho.on_connect = self.on_connect
        self.paho.on_disconnect = lambda _c, _u, _flags, reason, _p: self.disconnects.append(reason)
        self.paho.on_message = self.on_message
        self.paho.on_publish = lambda _c, _u, mid, reason, _p: self.done.__setitem__(mid, reason)
        self.paho.on_subscribe = lambda _c, _u, mid, reasons, _p: self.granted.__setitem__(mid, reasons)
        self.paho.on_unsubscribe = lambda _c, _u, mid, reasons, _p: self.granted.__setitem__(mid, reasons)
        if tls:
            certificates, name = tls
            self.paho.tls_set(str(certificates.ca), str(certificates.crt(name)), str(certificates.key(name)))
        if will:
            self.paho.will_set(**will)

    def on_connect(self, _client, _userdata, flags, reason, properties):
        self.connack = (flags, reason, properties)

    def on_message(self, _client, _userdata, message):
        with self.lock:
            self.messages.append(message)

    def connect(self):
        options = {}
        if self.version == 5:
            properties = Properties(PacketTypes.CONNECT)
            if self.expiry is not None:
                properties.SessionExpiryInterval = self.expiry
            options = {"clean_start": self.clean, "properties": properties}
        self.connack = None
        self.paho.connect("127.0.0.1", self.port, keepalive=30, **options)
        self.paho.loop_start()
        _, reason, _ = wait_for("CONNACK", lambda: self.connack)
        if reason.is_failure:
            raise Failure(f"connection refused: {reason}")
        return self

    @property
    def session_present(self):
        return self.connack[0].session_present

    def subscribe(self, topic, qos=2, options=None, properties=None):
        """The granted QoS, or the reason code of a refusal."""
        if options is not None:
            _, mid = self.paho.subscribe(topic, options=options, properties=properties)
        else:
            _, mid = self.paho.subscribe(topic, qos, properties=properties)
        return wait_for(f"SUBACK for {topic}", lambda: self.granted.get(mid))[0].value

    def unsubscribe(self, topic):
        _, mid = self.paho.unsubscribe(topic)
        wait_for(f"UNSUBACK for {topic}", lambda: mid in self.granted)

    def publish(self, topic, payload, qos=1, retain=False, properties=None):
        """Waits until QoS 1 and 2 are acknowledged (QoS 0: sent); the reason code's number."""
        info = self.paho.publish(topic, payload, qos, retain, properties)
        wait_for(f"the acknowledgement of {topic}", lambda: info.mid in self.done)
        return self.done[info.mid].value

    def received(self, topic_filter="#"):
        with self.lock:
            messages = list(self.messages)
        return [message for message in messages if paho.topic_matches_sub(topic_filter, message.topic)]

    def payloads(self, topic_filter="#"):
        return [message.payload.decode() for message in self.received(topic_filter)]

    def wait_count(self, count, topic_filter="#", seconds=WAIT_SECONDS):
        def condition():
            messages = self.received(topic_filter)
            return messages if len(messages) >= count else None

        return wait_for(f"{count} messages on {topic_filter}", condition, seconds)

    def wait_payload(self, topic, payload, seconds=WAIT_SECONDS):
        wait_for(f"{payload!r} on {topic}", lambda: payload in self.payloads(topic), seconds)

    def clear(self):
        with self.lock:
            self.messages.clear()

    def disconnect(self):
        self.paho.disconnect()
        self.paho.loop_stop()

    def drop(self):
        """The connection is gone without DISCONNECT, and paho does not come back."""
        sock = self.paho.socket()
        self.paho.reconnect_delay_set(3600, 3600)
        sock.shutdown(socket.SHUT_RDWR)


def properties(packet, **values):
    """MQTT 5 properties for one packet: `properties("PUBLISH", ContentType="text")`."""
    made = Properties(getattr(PacketTypes, packet))
    for name, value in values.items():
        setattr(made, name, value)
    return made
