"""Every way to a cloud, with other people's parts: Mosquitto behind TLS and WebSockets, tinyproxy and microsocks with a
login, two Mosquittos of which one goes away, certificates that change under load, and a link that swallows all packets.

What is lost or doubled is counted by the payloads that reach the cloud; times are printed, their bounds are generous.
"""

import asyncio
import contextlib
import ctypes
import json
import shutil
import socket
import struct
import subprocess
import threading
import time

from harness import Certificates, Client, Gateway, Mosquitto, Process, Scenario, free_port, wait_for
from strict_client import Message, StrictPublisher

USER, PASSWORD = "plant@corp", "p:ss/w%rd"
LOGIN = "plant%40corp:p%3Ass%2Fw%25rd"
# tinyproxy takes no other characters.
HTTP_USER, HTTP_PASSWORD = "plant", "passw0rd"
NAMES = ("gateway", "second", "third")
COUNT = 100
RATE = 200
MESSAGES_MAX = 300 * RATE
KEEP_ALIVE_SECONDS = 20
IN_FLIGHT_SECONDS_MAX = 25
IDLE_SECONDS_MAX = KEEP_ALIVE_SECONDS * 1.5 + 5
FAIL_BACK_SECONDS_MAX = 120
TINYPROXY = "/usr/bin/tinyproxy"


class Ways(Mosquitto):
    """Mosquitto with TCP, TLS, WebSockets, and WebSockets with TLS; the last three ask for no client certificate."""

    def __init__(self, scenario, name, certificates):
        super().__init__(scenario, name)
        self.ports = {"mqtt": self.port, "mqtts": free_port(), "ws": free_port(), "wss": free_port(), "v6": free_port()}
        files = f"certfile {certificates.crt('server')}\nkeyfile {certificates.key('server')}\n"
        more = (
            f"listener {self.ports['mqtts']} 127.0.0.1\n{files}"
            f"listener {self.ports['ws']} 127.0.0.1\nprotocol websockets\n"
            f"listener {self.ports['wss']} 127.0.0.1\nprotocol websockets\n{files}"
            f"listener {self.ports['v6']} ::1\n"
        )
        config = scenario.folder / f"{name}.conf"
        config.write_text(config.read_text() + more)


class Tinyproxy(Process):
    def __init__(self, scenario):
        self.port = free_port()
        config = scenario.folder / "tinyproxy.conf"
        config.write_text(
            f"Port {self.port}\nListen 127.0.0.1\nTimeout 600\nMaxClients 50\nLogLevel Connect\n"
            f'PidFile "{scenario.folder}/tinyproxy.pid"\nBasicAuth {HTTP_USER} {HTTP_PASSWORD}\n'
        )
        super().__init__(scenario, "tinyproxy", [TINYPROXY, "-d", "-c", config])

    def start(self):
        super().start()
        self.wait_port(self.port)


class Microsocks(Process):
    def __init__(self, scenario):
        self.port = free_port()
        program = shutil.which("microsocks")
        super().__init__(
            scenario, "microsocks", [program, "-i", "127.0.0.1", "-p", self.port, "-u", USER, "-P", PASSWORD]
        )

    def start(self):
        super().start()
        self.wait_port(self.port)


def bridge(url, *, more="", rules=True):
    text = f"bridges:\n  cloud:\n    url: {url}\n    reconnect: {{ min: 100ms, max: 1s }}\n{more}"
    if rules:
        text += '    forward:\n      - { topic: "load/#", to: "up/{rest}" }\n'
        text += '    receive:\n      - { topic: "down/#", to: "{topic}", qos: 2 }\n'
    return text


def statements(gateway):
    """What `tidegate status` says of the bridge."""
    done = subprocess.run([gateway.args[0], "status", "-c", str(gateway.config), "--json"], capture_output=True)
    if done.returncode != 0:
        return {}
    return json.loads(done.stdout)["bridges"][0]


def wait_up(gateway, url=None, seconds=30):
    def condition():
        status = statements(gateway)
        return status.get("state") == "up" and (url is None or status.get("url") == url)

    wait_for(f"{gateway.name} at {url or 'its server'}", condition, seconds)


def exchange(scenario, what, cloud, config):
    """Messages both ways; each once."""
    gateway = Gateway(scenario, config, name=f"gateway-{what.replace(' ', '-')}")
    gateway.start()
    wait_up(gateway)
    observer = Client(f"observer-{gateway.name}", cloud.port).connect()
    observer.subscribe("up/#")
    inside = Client("inside", gateway.port).connect()
    inside.subscribe("down/#")
    for number in range(COUNT):
        inside.publish("load/a", str(number), 1 + number % 2)
        observer.publish("down/a", str(number), 2)
    large = "x" * 300_000
    inside.publish("load/large", large, 2)
    # Of one topic a message of QoS 2 may be overtaken by one of QoS 1 behind it.
    numbers = [[str(number) for number in range(COUNT) if number % 2 == half] for half in (0, 1)]
    observer.wait_count(COUNT + 1, "up/#")
    inside.wait_count(COUNT, "down/#")
    arrived = [[payload for payload in observer.payloads("up/a") if int(payload) % 2 == half] for half in (0, 1)]
    scenario.check(f"{what}: all arrives once at the cloud", arrived == numbers, arrived)
    scenario.check(f"{what}: a large message too", observer.payloads("up/large") == [large])
    scenario.check(f"{what}: and here", inside.payloads("down/#") == [str(number) for number in range(COUNT)])
    log = gateway.log()
    scenario.check(f"{what}: no password in the log", all(secret not in log for secret in (PASSWORD, "p%3Ass", HTTP_PASSWORD)))
    inside.disconnect()
    observer.disconnect()
    gateway.end(scenario)


def all_ways(scenario, certificates):
    cloud, http, socks = Ways(scenario, "cloud", certificates), Tinyproxy(scenario), Microsocks(scenario)
    for process in (cloud, http, socks):
        process.start()
    ports = cloud.ports
    tls = f"    tls: {{ ca: {certificates.ca} }}\n"
    by_http = f"    proxy: http://{HTTP_USER}:{HTTP_PASSWORD}@127.0.0.1:{http.port}\n"
    by_socks = f"    proxy: socks5://{LOGIN}@127.0.0.1:{socks.port}\n"
    exchange(scenario, "ws", cloud, bridge(f"ws://127.0.0.1:{ports['ws']}"))
    exchange(scenario, "wss", cloud, bridge(f"wss://127.0.0.1:{ports['wss']}/mqtt?x=1", more=tls))
    exchange(scenario, "ws 3.1.1", cloud, bridge(f"ws://127.0.0.1:{ports['ws']}", more="    protocol: 3.1.1\n"))
    exchange(scenario, "IPv6", cloud, bridge(f"mqtt://[::1]:{ports['v6']}"))
    # The name has both families, and only one of them answers.
    exchange(scenario, "a name", cloud, bridge(f"mqtt://localhost:{ports['mqtt']}"))
    exchange(scenario, "http proxy", cloud, bridge(f"mqtts://127.0.0.1:{ports['mqtts']}", more=tls + by_http))
    exchange(scenario, "http proxy and wss", cloud, bridge(f"wss://localhost:{ports['wss']}", more=tls + by_http))
    exchange(scenario, "socks proxy", cloud, bridge(f"mqtts://localhost:{ports['mqtts']}", more=tls + by_socks))
    exchange(scenario, "socks proxy and ws", cloud, bridge(f"ws://127.0.0.1:{ports['ws']}", more=by_socks))
    refusals = [
        (f"http://plant:geheim@127.0.0.1:{http.port}", "refused: HTTP/1.0 401", "http"),
        (f"http://127.0.0.1:{http.port}", "refused: HTTP/1.0 407", "http"),
        (f"socks5://plant:geheim@127.0.0.1:{socks.port}", "refused: wrong user or password", "socks5"),
        (f"socks5://127.0.0.1:{socks.port}", "refused: it wants a login", "socks5"),
        (f"http://127.0.0.1:{socks.port}", "", "http"),
        (f"socks5://127.0.0.1:{http.port}", "", "socks5"),
        (f"http://127.0.0.1:{free_port()}", "Connection refused", "http"),
    ]
    for number, (proxy, words, scheme) in enumerate(refusals):
        refused(scenario, number, (proxy, words, scheme), ports["mqtt"])
    for process in (http, socks, cloud):
        process.stop()


def refused(scenario, number, expected, port):
    proxy, words, scheme = expected
    config = bridge(f"mqtt://127.0.0.1:{port}", more=f"    proxy: {proxy}\n")
    gateway = Gateway(scenario, config, name=f"refused-{number}")
    gateway.start()
    error = wait_for("a fault of the proxy", lambda: statements(gateway).get("last_error"), 40)
    is_named = error.startswith(f"proxy {scheme}://127.0.0.1:") and words in error
    scenario.check(f"a proxy's no is told: {error}", is_named and "geheim" not in error + gateway.log(), proxy)
    gateway.end(scenario)


class Load:
    """QoS 1 and 2 in turns, at a steady rate, from a publisher that keeps its session, until it is to end."""

    def __init__(self, gateway, name):
        self.name, self.count = name, 0
        messages = (Message(n, f"load/{1 + n % 2}", f"{name} {n}".encode(), 1 + n % 2) for n in range(MESSAGES_MAX))
        self.publisher = StrictPublisher(name, gateway.port, 5, messages, RATE)
        self.thread = threading.Thread(target=lambda: asyncio.run(self.publisher.run()), daemon=True)

    def expected(self, qos):
        return {f"{self.name} {number}" for number in range(self.count) if 1 + number % 2 == qos}

    def start(self):
        self.thread.start()

    def acknowledged(self):
        return len(self.publisher.acknowledged)

    def wait(self, count):
        wait_for(f"{count} acknowledgements", lambda: self.acknowledged() >= count, 60)

    def end(self):
        self.publisher.waiting.clear()
        wait_for("the publisher's end", lambda: not self.thread.is_alive(), 60)
        self.count = self.publisher.sent


def judge(scenario, what, load, arrived, doubled_max):
    """`arrived`: payloads by QoS, of all servers together."""
    for qos in (1, 2):
        lost = load.expected(qos) - set(arrived[qos])
        scenario.check(f"{what}: nothing of QoS {qos} is lost", not lost, f"{len(lost)}: {sorted(lost)[:10]}")
        doubled = len(arrived[qos]) - len(set(arrived[qos]))
        limit = doubled_max[qos]
        scenario.check(f"{what}: QoS {qos} is doubled at most {limit} times", doubled <= limit, doubled)
        scenario.figure(f"{what}: {len(load.expected(qos))} of QoS {qos}, {doubled} twice")


def rotation(scenario, certificates):
    cloud = Mosquitto(scenario, "rotating", certificates)
    config = scenario.folder / "rotating.conf"
    config.write_text(config.read_text() + "use_identity_as_username true\n")
    cloud.start()
    folder = scenario.folder / "pair"
    folder.mkdir()
    crt, key = folder / "gateway.crt", folder / "gateway.key"

    def install(name):
        shutil.copy(certificates.crt(name), crt)
        shutil.copy(certificates.key(name), key)

    for name in NAMES[1:]:
        certificates.sign(name)
    install("gateway")
    tls = f"    tls: {{ ca: {certificates.ca}, certificate: {crt}, private_key: {key} }}\n"
    relay = Relay(cloud.port)
    gateway = Gateway(scenario, bridge(f"mqtts://127.0.0.1:{relay.port}", more=tls), name="gateway-rotating")
    observer = Client("observer", cloud.port, tls=(certificates, "observer")).connect()
    observer.subscribe("up/#")
    gateway.start()
    wait_up(gateway)
    load = Load(gateway, "meter")
    load.start()

    def renewed(times):
        renewals = gateway.log().count("a new connection with the new certificates")
        return renewals == times and statements(gateway).get("state") == "up"

    load.wait(400)
    install("second")
    wait_for("a connection with the second certificate", lambda: renewed(1), 30)
    load.wait(900)
    ends = gateway.log().count("link is down")
    crt.write_text("junk")
    wait_for("a word about the faulty file", lambda: "gateway.crt: holds no certificate" in gateway.log(), 30)
    scenario.check_equal("a faulty file leaves the link alone", gateway.log().count("link is down"), ends)
    # A reconnect with the faulty file there: what was good last still serves.
    ups = gateway.log().count("link is up")
    relay.cut()
    wait_for("a connection with what was good last", lambda: gateway.log().count("link is up") > ups, 30)
    install("third")
    wait_for("a connection with the third certificate", lambda: renewed(2), 30)
    load.wait(load.acknowledged() + 400)
    load.end()
    wait_for(
        "all arrivals",
        lambda: len(set(observer.payloads("up/1")) | set(observer.payloads("up/2"))) >= load.count,
        60,
    )
    arrived = {1: observer.payloads("up/1"), 2: observer.payloads("up/2")}
    # The one cut was ours: a window of QoS 1 may come twice, and QoS 2 never.
    judge(scenario, "certificates change", load, arrived, {1: 128, 2: 0})
    observer.disconnect()
    gateway.end(scenario)
    # Its log is complete only now.
    cloud.stop()
    seen = [name for line in cloud.log().splitlines() for name in NAMES if f"as plant-7 (p5, c0, k30, u'{name}')" in line]
    scenario.check_equal("whom the cloud saw", seen, ["gateway", "second", "second", "third"])


def servers(scenario):
    first, second = Mosquitto(scenario, "first"), Mosquitto(scenario, "second")
    urls = [f"mqtt://127.0.0.1:{cloud.port}" for cloud in (first, second)]
    gateway = Gateway(scenario, bridge(f"[{', '.join(urls)}]"), name="gateway-servers")
    first.start()
    second.start()
    observers = {}
    for cloud in (first, second):
        observer = Client("observer", cloud.port, clean=False, expiry=3600).connect()
        observer.subscribe("up/#")
        observers[cloud] = observer
    gateway.start()
    wait_up(gateway, urls[0])
    load = Load(gateway, "meter")
    load.start()
    load.wait(5 * RATE)
    # In a way that keeps its sessions: killed it forgets messages that it has acknowledged.
    first.stop()
    began = time.monotonic()
    wait_up(gateway, urls[1])
    scenario.figure(f"with the second server {time.monotonic() - began:.1f} s after the first ended")
    load.wait(10 * RATE)
    gateway.kill()
    gateway.start()
    wait_up(gateway, urls[1])
    scenario.check("after a crash it goes on with the server that has its session", True)
    duplicates = statements(gateway).get("duplicates_possible", 0)
    first.start()
    began = time.monotonic()
    wait_up(gateway, urls[0], FAIL_BACK_SECONDS_MAX)
    scenario.figure(f"back with the first {time.monotonic() - began:.0f} s after it was there again")
    scenario.check("the way back is told", "back to a server that stands before" in gateway.log())
    scenario.check_equal(
        "and doubles nothing", statements(gateway).get("duplicates_possible", 0), duplicates
    )
    # The second goes away while nobody needs it.
    second.stop()
    acknowledged = load.acknowledged()
    load.wait(acknowledged + 5 * RATE)
    scenario.check_equal("a server that is not used may go", statements(gateway).get("url"), urls[0])
    second.start()
    # Both have a session of ours now, and each takes up its own: what one still holds must not cost a message.
    first.stop()
    wait_up(gateway, urls[1])
    load.wait(load.acknowledged() + 5 * RATE)
    load.end()
    first.start()

    def arrived(qos):
        return [payload for observer in observers.values() for payload in observer.payloads(f"up/{qos}")]

    wait_for("all arrivals", lambda: len(set(arrived(1)) | set(arrived(2))) >= load.count, 60)
    # Across servers it is at least once: what was in flight to the one that died, a window at most; and to the
    # crash of the gateway, of QoS 1 alone.
    judge(scenario, "servers", load, {1: arrived(1), 2: arrived(2)}, {1: 4 * 128, 2: 3 * 128})
    for observer in observers.values():
        observer.disconnect()
    gateway.end(scenario)
    first.stop()
    second.stop()


class Relay:
    """Passes everything on until it is told to cut, or to swallow what comes: then not even TCP answers, as behind a
    router that lost its state."""

    def __init__(self, port):
        self.to = port
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.sockets = []
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            with contextlib.suppress(OSError):
                near, _ = self.listener.accept()
                far = socket.create_connection(("127.0.0.1", self.to))
                self.sockets.append(near)
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self.carry, args=(source, sink), daemon=True).start()

    @staticmethod
    def carry(source, sink):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def cut(self):
        for near in self.sockets:
            with contextlib.suppress(OSError):
                near.shutdown(socket.SHUT_RDWR)
        self.sockets = []

    def swallow(self):
        """A filter of one instruction, `return 0`, drops each packet before TCP sees it."""
        code = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))
        program = struct.pack("HL", 1, ctypes.addressof(code))
        for near in self.sockets:
            near.setsockopt(socket.SOL_SOCKET, 26, program)  # SO_ATTACH_FILTER
        self.sockets = []


def black_hole(scenario):
    cloud = Mosquitto(scenario, "behind")
    cloud.start()
    relay = Relay(cloud.port)
    more = f"    keep_alive: {KEEP_ALIVE_SECONDS}s\n"
    gateway = Gateway(scenario, bridge(f"mqtt://127.0.0.1:{relay.port}", more=more), name="gateway-hole")
    observer = Client("observer", cloud.port).connect()
    observer.subscribe("up/#")
    gateway.start()
    wait_up(gateway)
    inside = Client("inside", gateway.port).connect()
    inside.publish("load/a", "before", 2)
    observer.wait_payload("up/a", "before")
    for what, payload, limit in (("with data in flight", "meanwhile", IN_FLIGHT_SECONDS_MAX), ("idle", None, IDLE_SECONDS_MAX)):
        ends = gateway.log().count("link is down")
        relay.swallow()
        began = time.monotonic()
        if payload:
            inside.publish("load/a", payload, 2)
        wait_for("the end of a dead link", lambda: gateway.log().count("link is down") > ends, limit + 30)
        took = time.monotonic() - began
        scenario.check(f"a dead link is seen within {limit:.0f} s {what}", took <= limit, f"{took:.1f} s")
        scenario.figure(f"{what}: seen after {took:.1f} s")
        wait_up(gateway)
    inside.publish("load/a", "after", 2)
    observer.wait_payload("up/a", "after", 30)
    scenario.check_equal("each message once", observer.payloads("up/a"), ["before", "meanwhile", "after"])
    gateway.end(scenario)
    cloud.stop()


def main():
    with Scenario("transport", 390) as scenario:
        certificates = Certificates(scenario.folder / "certificates")
        all_ways(scenario, certificates)
        black_hole(scenario)
        rotation(scenario, certificates)
        servers(scenario)


if __name__ == "__main__":
    main()
