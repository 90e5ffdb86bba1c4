"""The same promises of MQTT 3.1.1 and 5 shown to each of other people's clients, then each of them to all others. All of
it passes a recorder, and at the end tshark reads it without one malformed packet. Arguments are names of clients: only
those.
"""

import random
import subprocess
import sys
import time
import traceback

import capture
from agents import Chromium, MqttJs, MqttJsInChromium, PahoC, Rumqttc
from harness import TIDEGATE, Failure, Gateway, Scenario, free_port, wait_for
from peers import NOWHERE, Aiomqtt, Login, MosquittoTools, Paho

SECONDS_MAX = 360
PLANT, WRONG = Login("plant", "a secret"), Login("plant", "no secret")
TOPIC = "Zürich/温度/🌡"
NUMBERS = [b"%d" % number for number in range(20)]
LARGE = random.Random(7).randbytes(256 * 1024)
MIXED = ["Grüße aus 東京 🌡".encode(), b"", LARGE]
PAIRS = [("b", "1"), ("a", "Käse"), ("b", "3")]
# Reason codes, and 3.1.1's return codes.
NO_SUBSCRIBERS, NO_SUBSCRIPTION, BAD_LOGIN, NOT_AUTHORIZED = 0x10, 0x11, 0x86, 0x87
OLD_BAD_LOGIN, OLD_REFUSED = 4, 0x80
SECRET = "private/here"


class Wrong(list):
    """What did not come as promised; each with what came instead."""

    def unless_equal(self, what, value, expected):
        if value != expected:
            self.append(f"{what}: {value!r:.300}, not {expected!r:.300}")

    def unless_told(self, what, value, expected):
        """None: the library does not say."""
        if value is not None:
            self.unless_equal(what, value, expected)


def payloads(messages):
    return [m.payload for m in messages]


class Bench:
    """Two connections of one client in one version, and topics of their own."""

    def __init__(self, make, version):
        self.first, self.second, self.version = make(version), make(version), version
        self.name = self.first.name
        self.root = f"open/{''.join(c for c in self.name if c.isalnum())}/{version}"

    def enter(self, peer, name, **options):
        reason = peer.connect(f"{self.root}/{name}".replace("/", "-"), PLANT, **options)
        if reason != 0:
            raise Failure(f"{self.name} v{self.version}: connection refused: {reason}")

    def both(self, what):
        self.enter(self.first, f"{what}-1")
        self.enter(self.second, f"{what}-2")
        return self.first, self.second, f"{self.root}/{what}"

    def leave(self):
        self.first.disconnect()
        self.second.disconnect()


def login(bench, wrong):
    reason = bench.first.connect("somebody", WRONG)
    wanted = (BAD_LOGIN,) if bench.version == 5 else (BAD_LOGIN, OLD_BAD_LOGIN)
    if reason not in wanted:
        wrong.append(f"the reason for a wrong password: {reason!r}")
    bench.enter(bench.first, "login")
    wrong.unless_told("a session that was there", bench.first.session_present, False)
    bench.first.disconnect()


def delivery(bench, wrong):
    first, second, root = bench.both("delivery")
    wrong.unless_equal("granted", second.subscribe(f"{root}/#", 2), 2)
    for qos in (0, 1, 2):
        first.publish_all(f"{root}/{TOPIC}", NUMBERS, qos)
        for payload in MIXED:
            first.publish(f"{root}/{TOPIC}", payload, qos)
        second.wait_count((len(NUMBERS) + len(MIXED)) * (qos + 1), f"{root}/#")
    got = second.received(f"{root}/#")
    wrong.unless_equal("topics", {m.topic for m in got}, {f"{root}/{TOPIC}"})
    for qos in (0, 1, 2):
        wrong.unless_equal(f"QoS {qos}", payloads(m for m in got if m.qos == qos), [*NUMBERS, *MIXED])
    bench.leave()


def retained(bench, wrong):
    first, second, root = bench.both("retained")
    for number in range(2):
        first.publish(f"{root}/kept", b"%d" % number, 1, retain=True)
    second.subscribe(f"{root}/kept", 1)
    found = second.wait_count(1, f"{root}/kept")
    wrong.unless_equal("a new subscriber", [(m.payload, m.retain) for m in found], [(b"1", True)])
    first.publish(f"{root}/kept", b"", 1, retain=True)
    second.wait_count(2, f"{root}/kept")
    first.subscribe(f"{root}/kept", 1)
    second.publish(f"{root}/kept", b"later", 1)
    found = first.wait_count(1, f"{root}/kept")
    wrong.unless_equal("after it was deleted", [(m.payload, m.retain) for m in found], [(b"later", False)])
    bench.leave()


def will(bench, wrong):
    bench.enter(bench.second, "will-2")
    bench.second.subscribe(f"{bench.root}/will/#", 1)
    for number, end in enumerate((bench.first.disconnect, bench.first.cut)):
        bench.enter(bench.first, f"will-{number}", will=(f"{bench.root}/will/{number}", "gone"))
        bench.first.subscribe(NOWHERE, 0)
        end()
    ends = (0, 1) if bench.first.leaves_with_will else (1,)
    found = bench.second.wait_count(len(ends), f"{bench.root}/will/#")
    wanted = [(f"{bench.root}/will/{number}", b"gone") for number in ends]
    wrong.unless_equal("wills", [(m.topic, m.payload) for m in found], wanted)
    bench.second.disconnect()


def session(bench, wrong):
    first, second, root = bench.first, bench.second, f"{bench.root}/session"
    kept = {"clean": False, "expiry": 600 if bench.version == 5 else None}
    bench.enter(first, "session-1", **kept)
    first.subscribe(f"{root}/#", 2)
    first.disconnect()
    bench.enter(second, "session-2")
    if bench.version == 5:
        second.publish(f"{root}/2", b"too old", 1, expiry=1)
        began = time.monotonic()
        wait_for("a message to be too old", lambda: time.monotonic() - began > 1.2)
    second.publish_all(f"{root}/1", NUMBERS, 1)
    second.publish_all(f"{root}/2", NUMBERS, 2)
    bench.enter(first, "session-1", **kept)
    wrong.unless_told("the session is there", first.session_present, True)
    if not first.is_one_client:
        first.subscribe(f"{root}/#", 2)
    first.wait_count(2 * len(NUMBERS), f"{root}/#")
    second.publish(f"{root}/1", b"end", 1)
    first.wait_count(2 * len(NUMBERS) + 1, f"{root}/#")
    wrong.unless_equal("QoS 1", payloads(first.received(f"{root}/1")), [*NUMBERS, b"end"])
    wrong.unless_equal("QoS 2", payloads(first.received(f"{root}/2")), NUMBERS)
    bench.leave()
    bench.enter(first, "session-1")
    wrong.unless_told("the session after a clean start", first.session_present, False)
    first.disconnect()


def unsubscribe(bench, wrong):
    first, second, root = bench.first, bench.second, f"{bench.root}/unsubscribe"
    bench.enter(first, "unsubscribe-1", clean=False, expiry=60 if bench.version == 5 else None)
    bench.enter(second, "unsubscribe-2")
    first.subscribe(f"{root}/#", 1)
    second.publish(f"{root}/a", b"heard", 1)
    first.wait_count(1, f"{root}/#")
    wrong.unless_told("the reason", first.unsubscribe(f"{root}/#"), 0)
    if first.is_one_client:
        first.subscribe(NOWHERE, 1)
    before = len(first.received(NOWHERE))
    second.publish(f"{root}/a", b"not heard", 1)
    second.publish(NOWHERE, b"end", 1)
    first.wait_count(before + 1, NOWHERE)
    wrong.unless_equal("heard", payloads(first.received(f"{root}/#")), [b"heard"])
    bench.leave()


def property_passing(bench, wrong):
    first, second, root = bench.both("properties")
    second.subscribe(f"{root}/#", 2, identifier=7)
    # mosquitto_pub takes no zeros.
    correlation = b"\x00\x01\xff" if first.is_one_client else b"which-one"
    sent = {"content_type": "text/plain", "response_topic": f"open/{TOPIC}", "correlation": correlation, "user": PAIRS}
    first.publish(f"{root}/a", b"x", 2, expiry=300, **sent)
    got = second.wait_count(1, f"{root}/#")[0].properties
    expiry = got.pop("expiry", None)
    if expiry is None or not 290 <= expiry <= 300:
        wrong.append(f"message expiry: {expiry}")
    wanted = sent | {"identifier": [7]}
    if not first.keeps_pair_order:
        got["user"], wanted["user"] = sorted(got.get("user", [])), sorted(PAIRS)
    wrong.unless_equal("properties", got, wanted)
    bench.leave()


def topic_alias(bench, wrong):
    first, second, root = bench.both("alias")
    second.subscribe(f"{root}/#", 1)
    first.publish_aliased(f"{root}/{TOPIC}", [b"one", b"two"], 1)
    got = [(m.topic, m.payload) for m in second.wait_count(2, f"{root}/#")]
    wrong.unless_equal("messages", got, [(f"{root}/{TOPIC}", b"one"), (f"{root}/{TOPIC}", b"two")])
    bench.leave()


def no_local(bench, wrong):
    first, second, root = bench.both("local")
    first.subscribe(f"{root}/#", 1, no_local=True)
    second.subscribe(f"{root}/#", 1)
    first.publish(f"{root}/a", b"own", 1)
    second.wait_count(1, f"{root}/#")
    second.publish(f"{root}/a", b"other", 1)
    wrong.unless_equal("who asked for it", payloads(first.wait_count(1, f"{root}/#")), [b"other"])
    wrong.unless_equal("who did not", payloads(second.wait_count(2, f"{root}/#")), [b"own", b"other"])
    bench.leave()


def shared(bench, wrong):
    first, second, root = bench.both("shared")
    for peer in (first, second):
        wrong.unless_equal("granted", peer.subscribe(f"$share/group/{root}/#", 1), 1)
    second.publish_all(f"{root}/a", NUMBERS, 1)

    def halves():
        return [payloads(peer.received(f"{root}/#")) for peer in (first, second)]

    wait_for("all messages", lambda: sum(map(len, halves())) >= len(NUMBERS))
    wrong.unless_equal("both together", sorted(sum(halves(), [])), sorted(NUMBERS))
    if not all(halves()):
        wrong.append("one has all of them")
    bench.leave()


def reasons(bench, wrong):
    first = bench.first
    bench.enter(first, "reasons")
    refused = NOT_AUTHORIZED if bench.version == 5 else OLD_REFUSED
    wrong.unless_equal("a subscription that is not allowed", first.subscribe(SECRET, 1), refused)
    if bench.version == 5:
        wrong.unless_told("not allowed, QoS 1", first.publish(SECRET, b"x", 1), NOT_AUTHORIZED)
        wrong.unless_told("not allowed, QoS 2", first.publish(SECRET, b"x", 2), first.refused_exactly_once)
        alone = first.publish(f"{bench.root}/alone", b"x", 1)
        wrong.unless_told("nobody has subscribed", alone, NO_SUBSCRIBERS)
        if first.is_one_client:
            wrong.unless_told("no such subscription", first.unsubscribe(f"{bench.root}/none"), NO_SUBSCRIPTION)
    first.disconnect()


EVERY = {
    "connects, and is refused with a wrong password": login,
    "QoS 0, 1 and 2 in order; Unicode, empty, 256 KiB": delivery,
    "retained messages": retained,
    "a will when the connection is cut, none after DISCONNECT": will,
    "a session gets what it missed": session,
    "unsubscribes": unsubscribe,
    "reasons of refusals": reasons,
}
NEW = {
    "user properties, content type, response topic, correlation data, expiry, identifier": property_passing,
    "a topic alias": topic_alias,
    "No Local": no_local,
    "a shared subscription": shared,
}


def check_promises(scenario, make, version):
    bench = Bench(make, version)
    began = time.monotonic()
    for what, promise in (EVERY | (NEW if version == 5 else {})).items():
        if promise is no_local and not bench.first.is_one_client:
            # mosquitto_sub has no such option, and publishes nothing that it could not hear.
            continue
        wrong = Wrong()
        try:
            promise(bench, wrong)
        except Exception as error:
            wrong.append(f"{type(error).__name__}: {error}")
            if not isinstance(error, Failure):
                traceback.print_exc(file=sys.stdout)
            bench.first, bench.second = make(version), make(version)
        scenario.check(f"{bench.name}, {shown(version)}: {what}", not wrong, "; ".join(wrong))
    scenario.figure(f"{bench.name}, {shown(version)}: {time.monotonic() - began:.1f} s")


def shown(version):
    return "MQTT 5" if version == 5 else "MQTT 3.1.1"


def check_matrix(scenario, makes):
    """Everything that one publishes, all get."""
    began = time.monotonic()
    peers = [make(version) for make in makes for version in (5, 4)]
    for number, peer in enumerate(peers):
        if peer.connect(f"matrix-{number}", PLANT) != 0 or peer.subscribe("open/matrix/#", 2) != 2:
            raise Failure(f"{peer.name} cannot take part")
    for number, publisher in enumerate(peers):
        topic = f"open/matrix/{number}/{TOPIC}"
        for qos in (0, 1, 2):
            publisher.publish_all(topic, NUMBERS, qos)
            given = {"content_type": "text/plain"} if publisher.version == 5 else {}
            publisher.publish(topic, MIXED[qos], qos, **given)
        wrong = Wrong()
        for subscriber in peers:
            to = f"{subscriber.name} {shown(subscriber.version)}"
            got = subscriber.wait_count(3 * (len(NUMBERS) + 1), topic)
            for qos in (0, 1, 2):
                wanted = [*NUMBERS, MIXED[qos]]
                wrong.unless_equal(f"to {to}, QoS {qos}", payloads(m for m in got if m.qos == qos), wanted)
            if publisher.version == 5 and subscriber.version == 5:
                kinds = [m.properties.get("content_type") for m in got if m.payload in MIXED]
                wrong.unless_equal(f"to {to}, content types", kinds, ["text/plain"] * 3)
        what = f"{publisher.name}, {shown(publisher.version)}, to all of {len(peers)}"
        scenario.check(what, not wrong, "; ".join(wrong))
    for peer in peers:
        peer.disconnect()
    scenario.figure(f"{len(peers)} clients to each other: {time.monotonic() - began:.1f} s")


def start_gateway(scenario):
    passwords = scenario.folder / "passwords"
    given = f"{PLANT.password}\n"
    subprocess.run([TIDEGATE, "passwd", passwords, PLANT.username, "--stdin"], input=given, text=True, check=True)
    websocket = free_port()
    gateway = Gateway(
        scenario,
        other_listeners=f"    - address: 127.0.0.1:{websocket}\n      transport: websocket\n      path: /mqtt\n",
        limits=f"  authentication:\n    anonymous: never\n    password_file: {passwords}\n"
        f"  access:\n    - user: {PLANT.username}\n      publish: ['open/#']\n      subscribe: ['open/#']\n",
    )
    gateway.start()
    gateway.wait_port(websocket)
    return gateway, websocket


def main():
    with Scenario("clients", SECONDS_MAX) as scenario:
        gateway, websocket = start_gateway(scenario)
        recording = capture.Recording(scenario, gateway.port, websocket)
        tcp, web = recording.tcp, recording.web
        chromium = Chromium(scenario)
        makes = [
            lambda version: MosquittoTools(tcp, version, scenario),
            lambda version: Paho(tcp, version),
            lambda version: Aiomqtt(tcp, version),
            lambda version: MqttJs(tcp, version, scenario),
            lambda version: MqttJsInChromium(web, version, chromium),
            lambda version: PahoC(tcp, version, scenario),
            lambda version: Rumqttc(tcp, version, scenario),
        ]
        makes = [make for make in makes if not sys.argv[1:] or make(5).name in sys.argv[1:]]
        for make in makes:
            for version in (5, 4):
                check_promises(scenario, make, version)
        check_matrix(scenario, makes)
        gateway.end(scenario)
        recording.check(scenario)


if __name__ == "__main__":
    main()
