"""Clients on the LAN: paho in both protocol versions, mosquitto_pub and mosquitto_sub, and the gateway's own `pub` and
`sub`, which must do with Mosquitto what they do with the gateway."""

import itertools
import re
import subprocess
import threading
import time

from harness import TIDEGATE, Certificates, Client, Gateway, Mosquitto, Process, Scenario, properties, wait_for

VERSIONS = (5, 4)
QUEUED = 200
TAKEN_OVER = 0x8E
TOOL_SECONDS_MAX = 15
names = (f"client-{number}" for number in itertools.count())


def client(gateway, version=5, **options):
    return Client(options.pop("client_id", None) or next(names), gateway.port, version=version, **options)


def check_delivery(scenario, gateway):
    """Every QoS of publisher and subscriber, between all versions."""
    for from_version, to_version in itertools.product(VERSIONS, VERSIONS):
        wrong = []
        publisher = client(gateway, from_version).connect()
        for granted in (0, 1, 2):
            subscriber = client(gateway, to_version).connect()
            if subscriber.subscribe("qos/+", granted) != granted:
                wrong.append(f"granted is not {granted}")
            for qos in (0, 1, 2):
                publisher.publish(f"qos/{qos}", f"{qos}", qos)
            got = [(m.topic, m.payload, m.qos, m.retain) for m in subscriber.wait_count(3)]
            wanted = {(f"qos/{qos}", f"{qos}".encode(), min(qos, granted), False) for qos in (0, 1, 2)}
            if set(got) != wanted:
                wrong.append((granted, got))
            subscriber.disconnect()
        publisher.disconnect()
        scenario.check(f"QoS 0, 1, 2 from paho v{from_version} to v{to_version}", not wrong, wrong)


def check_wildcards(scenario, gateway):
    topics = ["a", "a/b", "a/b/c", "a//c", "/a", "b/b", "$private/a"]
    cases = {
        "a/+": {"a/b"},
        "a/#": {"a", "a/b", "a/b/c", "a//c"},
        "+/b": {"a/b", "b/b"},
        "+": {"a"},
        "/+": {"/a"},
        "a/+/c": {"a/b/c", "a//c"},
        "#": {"a", "a/b", "a/b/c", "a//c", "/a", "b/b"},
    }
    publisher = client(gateway).connect()
    for version in VERSIONS:
        wrong = []
        for topic_filter, wanted in cases.items():
            subscriber = client(gateway, version).connect()
            subscriber.subscribe(topic_filter, 1)
            subscriber.subscribe("the/end", 1)
            for topic in [*topics, "the/end"]:
                publisher.publish(topic, "x")
            wait_for("the end", lambda: any(m.topic == "the/end" for m in subscriber.messages))  # noqa: B023
            got = [m.topic for m in subscriber.messages if m.topic != "the/end"]
            if topic_filter == "#":
                got = [topic for topic in got if not topic.startswith("devices/")]
            if sorted(got) != sorted(wanted):
                wrong.append((topic_filter, got))
            subscriber.disconnect()
        scenario.check(f"wildcards, paho v{version}", not wrong, wrong)
    publisher.disconnect()


def retained(gateway, version, topic_filter="kept/#"):
    """What a new subscriber is given at once."""
    reader = client(gateway, version).connect()
    reader.subscribe(topic_filter, 1)
    reader.subscribe("the/end", 1)
    reader.publish("the/end", "")
    reader.wait_count(1, "the/end")
    found = [(m.topic, m.payload.decode(), m.retain) for m in reader.messages if m.topic != "the/end"]
    reader.disconnect()
    return sorted(found)


def check_retained(scenario, gateway):
    for version in VERSIONS:
        publisher = client(gateway, version).connect()
        live = client(gateway, version).connect()
        live.subscribe("kept/#", 1)
        publisher.publish("kept/a", "1", retain=True)
        publisher.publish("kept/b", "1", qos=2, retain=True)
        publisher.publish("kept/a", "2", retain=True)
        publisher.publish("kept/a", "not kept")
        wanted = [("kept/a", "2", True), ("kept/b", "1", True)]
        scenario.check_equal(f"retained: set and replaced, v{version}", retained(gateway, version), wanted)
        flags = [m.retain for m in live.wait_count(4)]
        scenario.check_equal(f"retained: not marked for who was there before, v{version}", flags, [False] * 4)
        publisher.publish("kept/a", "", retain=True)
        scenario.check_equal(f"retained: deleted, v{version}", retained(gateway, version), wanted[1:])
        publisher.publish("kept/b", "", retain=True)
        live.disconnect()
        publisher.disconnect()


def check_will(scenario, gateway):
    for version in VERSIONS:
        watcher = client(gateway, version).connect()
        watcher.subscribe("will/#", 1)
        for topic in ("will/clean", "will/broken"):
            will = {"topic": topic, "payload": "gone", "qos": 1, "retain": True}
            mortal = client(gateway, version, will=will).connect()
            if topic == "will/clean":
                mortal.disconnect()
            else:
                mortal.drop()
        watcher.wait_payload("will/broken", "gone")
        got = [m.topic for m in watcher.messages]
        scenario.check_equal(f"a will after a broken connection alone, v{version}", got, ["will/broken"])
        wanted = [("will/broken", "gone", True)]
        scenario.check_equal(f"a retained will, v{version}", retained(gateway, version, "will/#"), wanted)
        watcher.publish("will/broken", "", retain=True)
        watcher.disconnect()


def check_sessions(scenario, gateway):
    """Messages for clients that are away outlast a SIGKILL; so do retained messages and subscriptions."""
    sleepers = {version: client(gateway, version, clean=False, expiry=3600) for version in VERSIONS}
    for sleeper in sleepers.values():
        sleeper.connect()
        sleeper.subscribe("queue/one", 1)
        sleeper.subscribe("queue/two/#", 2)
        sleeper.disconnect()
    publisher = client(gateway).connect()
    for number in range(QUEUED):
        topic, qos = ("queue/two/x", 2) if number % 4 == 0 else ("queue/one", 1)
        publisher.publish(topic, str(number), qos)
    publisher.publish("kept/here", "still", retain=True)
    gateway.kill()
    gateway.start()
    for version, sleeper in sleepers.items():
        sleeper.connect()
        scenario.check(f"the session is there after SIGKILL, v{version}", sleeper.session_present)
        sleeper.wait_count(QUEUED)
        for topic, is_its in (("queue/two/x", lambda n: n % 4 == 0), ("queue/one", lambda n: n % 4)):
            wanted = [str(number) for number in range(QUEUED) if is_its(number)]
            got = [payload for payload in sleeper.payloads(topic) if payload.isdigit()]
            scenario.check_equal(f"{topic}: each once and in order after SIGKILL, v{version}", got, wanted)
        after = client(gateway).connect()
        after.publish("queue/one", f"after {version}")
        sleeper.wait_payload("queue/one", f"after {version}")
        scenario.check(f"the subscription is there after SIGKILL, v{version}", True)
        after.disconnect()
        sleeper.unsubscribe("queue/one")
        sleeper.disconnect()
    wanted = [("kept/here", "still", True)]
    scenario.check_equal("retained messages are there after SIGKILL", retained(gateway, 5), wanted)
    wait_for("paho to be back", lambda: publisher.paho.is_connected())
    publisher.publish("kept/here", "", retain=True)
    publisher.disconnect()
    for version, sleeper in sleepers.items():
        clean = client(gateway, version, client_id=sleeper.paho._client_id.decode()).connect()
        scenario.check(f"a clean start ends the session, v{version}", not clean.session_present)
        clean.disconnect()


def check_take_over(scenario, gateway):
    for version in VERSIONS:
        first = client(gateway, version, client_id="twin", clean=False, expiry=60).connect()
        first.subscribe("twin/#", 1)
        first.paho.reconnect_delay_set(3600, 3600)
        second = client(gateway, version, client_id="twin", clean=False, expiry=60).connect()
        reason = wait_for("the first to be thrown out", lambda: first.disconnects)[0]
        if version == 5:
            scenario.check_equal("take-over: the first is told so, v5", reason.value, TAKEN_OVER)
        scenario.check(f"take-over: the second has the session, v{version}", second.session_present)
        second.publish("twin/a", "here")
        second.wait_payload("twin/a", "here")
        scenario.check_equal(f"take-over: the first hears nothing more, v{version}", first.payloads(), [])
        second.disconnect()


def check_properties(scenario, gateway):
    """MQTT 5 end to end; an MQTT 3.1.1 subscriber gets the message without them."""
    subscriber, old = client(gateway).connect(), client(gateway, 4).connect()
    subscriber.subscribe("props/#", 2, properties=properties("SUBSCRIBE", SubscriptionIdentifier=7))
    old.subscribe("props/#", 2)
    publisher = client(gateway).connect()
    pairs = [("b", "1"), ("a", "2"), ("b", "3")]
    sent = properties(
        "PUBLISH",
        ContentType="application/json",
        ResponseTopic="answers/here",
        CorrelationData=b"\x00\x01\xff",
        PayloadFormatIndicator=1,
        MessageExpiryInterval=300,
        UserProperty=pairs,
    )
    publisher.publish("props/a", "{}", 2, properties=sent)
    got = subscriber.wait_count(1)[0].properties
    for name in ("ContentType", "ResponseTopic", "CorrelationData", "PayloadFormatIndicator"):
        scenario.check_equal(f"{name} passes", getattr(got, name, None), getattr(sent, name))
    scenario.check_equal("user properties pass in their order", [tuple(p) for p in got.UserProperty], pairs)
    expiry = getattr(got, "MessageExpiryInterval", None)
    scenario.check("MessageExpiryInterval passes", expiry is not None and 290 <= expiry <= 300, expiry)
    scenario.check_equal("the subscription's identifier comes with it", got.SubscriptionIdentifier, [7])
    scenario.check_equal("MQTT 3.1.1 gets it too", [m.payload for m in old.wait_count(1)], [b"{}"])
    expired = client(gateway, clean=False, expiry=60).connect()
    expired.subscribe("short/#", 1)
    expired.disconnect()
    publisher.publish("short/a", "old", properties=properties("PUBLISH", MessageExpiryInterval=1))
    publisher.publish("short/a", "young")
    began = time.monotonic()
    wait_for("the message to be too old", lambda: time.monotonic() - began > 1.5)
    expired.connect()
    expired.wait_payload("short/a", "young")
    scenario.check_equal("an expired message is not delivered", expired.payloads(), ["young"])
    for each in (subscriber, old, publisher, expired):
        each.disconnect()


def check_sys(scenario, gateway):
    reader = client(gateway).connect()
    reader.subscribe("$SYS/#", 0)
    reader.wait_count(1, "$SYS/broker/uptime")
    reader.wait_count(1, "$SYS/broker/clients/connected")
    connected = reader.payloads("$SYS/broker/clients/connected")[-1]
    scenario.check("$SYS/broker/clients/connected counts", int(connected) >= 1, connected)
    topics = sorted({message.topic for message in reader.messages})
    scenario.figure(f"{len(topics)} $SYS topics")
    reader.disconnect()


def check_bounds(scenario):
    """A session that is away holds no more than its limit; what that costs is counted and logged."""
    limit, sent = 100, 150
    gateway = Gateway(scenario, limits=f"  limits: {{ queued_messages: {limit} }}\n", name="bounded")
    gateway.start()
    sleeper = client(gateway, clean=False, expiry=3600).connect()
    sleeper.subscribe("bound/#", 1)
    sleeper.disconnect()
    publisher = client(gateway).connect()
    for number in range(sent):
        publisher.publish("bound/a", str(number))
    sleeper.connect()
    sleeper.wait_count(limit, "bound/a")
    publisher.publish("bound/end", "")
    sleeper.wait_count(1, "bound/end")
    wanted = [str(number) for number in range(limit)]
    scenario.check_equal("a session that is away keeps as many as its limit", sleeper.payloads("bound/a"), wanted)
    sleeper.subscribe("$SYS/broker/publish/messages/dropped", 0)
    sleeper.wait_payload("$SYS/broker/publish/messages/dropped", str(sent - limit))
    scenario.check("$SYS counts the others", True)
    # Told once a minute, so perhaps while only a part of them is lost.
    told = re.compile(r"limits cost messages .* deliveries=(\d+) ")
    found = wait_for("the log to say so", lambda: told.search(gateway.log()))
    scenario.check("the log says so", 0 < int(found[1]) <= sent - limit, found[0])
    publisher.disconnect()
    sleeper.disconnect()
    gateway.end(scenario)


class Sub:
    """A subscribing command. It has subscribed once a probe has come through."""

    probes = itertools.count()

    def __init__(self, scenario, program, port, args, probe_client):
        number = next(self.probes)
        self.probe = f"probe/{number}"
        command = [*program, "-h", "127.0.0.1", "-p", port, "-t", self.probe, *args]
        self.process = Process(scenario, f"sub-{number}", command)
        scenario.quiet.add(self.process)
        self.process.start()

        def is_heard():
            probe_client.publish(self.probe, "probe", 0)
            return "probe" in self.process.log()

        wait_for(f"{command[0]} to subscribe", is_heard)

    def lines(self):
        return [line for line in self.process.log().splitlines() if "probe" not in line]

    def wait_lines(self, count):
        wait_for(f"{count} lines", lambda: len(self.lines()) >= count, TOOL_SECONDS_MAX)
        self.process.stop()
        return self.lines()


def tool(args, given=None):
    """Runs a publishing or subscribing command to its end: exit code, stdout, stderr."""
    ended = subprocess.run(
        [str(arg) for arg in args], input=given, capture_output=True, text=True, timeout=TOOL_SECONDS_MAX, check=False
    )
    return ended.returncode, ended.stdout, ended.stderr


MOSQUITTO = (["mosquitto_pub"], ["mosquitto_sub"])
OWN = ([TIDEGATE, "pub"], [TIDEGATE, "sub"])


def check_tools(scenario, name, port, pub, sub):
    """A pair of commands against a broker: the same lines come out, whichever they are."""
    probe = Client(next(names), port).connect()
    at = ["-h", "127.0.0.1", "-p", port]
    for version in ("311", "5"):
        wrong = []
        for qos in ("0", "1", "2"):
            listener = Sub(scenario, sub, port, ["-t", "tool/#", "-q", "2", "-V", version, "-F", "%t %q %r %p"], probe)
            results = [
                tool([*pub, *at, "-V", version, "-q", qos, "-t", "tool/m", "-m", "one"]),
                tool([*pub, *at, "-V", version, "-q", qos, "-t", "tool/n", "-n"]),
                tool([*pub, *at, "-V", version, "-q", qos, "-t", "tool/l", "-l"], given="two\nthree\n"),
                tool([*pub, *at, "-V", version, "-q", qos, "-t", "tool/s", "-s"], given="all of\nit"),
            ]
            lines = listener.wait_lines(6)
            wanted = [f"tool/m {qos} 0 one", f"tool/n {qos} 0 ", f"tool/l {qos} 0 two", f"tool/l {qos} 0 three"]
            wanted += [f"tool/s {qos} 0 all of", "it"]
            if any(code for code, _, _ in results) or lines != wanted:
                wrong.append((qos, results, lines))
        scenario.check(f"{name}: pub and sub, version {version}", not wrong, wrong)
    tool([*pub, *at, "-t", "tool/kept", "-m", "kept", "-r", "-q", "1"])
    got = tool([*sub, *at, "-t", "tool/kept", "-C", "1", "-v", "-W", "10"])
    scenario.check_equal(f"{name}: sub -v -C 1 of a retained message", got[:2], (0, "tool/kept kept\n"))
    tool([*pub, *at, "-t", "tool/kept", "-n", "-r", "-q", "1"])
    code, output, _ = tool([*sub, *at, "-t", "tool/kept", "-C", "1", "-W", "1"])
    scenario.check_equal(f"{name}: sub -W 1 ends with 27 without a message", (code, output), (27, ""))
    sent = [*pub, *at, "-V", "5", "-t", "tool/props", "-m", "p", "-q", "1", "-r"]
    sent += ["-D", "publish", "user-property", "k", "v", "-D", "publish", "content-type", "text/plain"]
    code = tool(sent)[0]
    got = tool([*sub, *at, "-V", "5", "-t", "tool/props", "-C", "1", "-W", "10", "-F", "%C %P %p"])
    scenario.check_equal(f"{name}: properties", (code, *got[:2]), (0, 0, "text/plain k:v p\n"))
    tool([*pub, *at, "-t", "tool/props", "-n", "-r", "-q", "1"])
    session = [*sub, *at, "-t", "tool/away", "-q", "1", "-c", "-i", f"keeper-{name.replace(' ', '-')}"]
    tool([*session, "-W", "1"])
    tool([*pub, *at, "-t", "tool/away", "-m", "waited", "-q", "1"])
    got = tool([*session, "-C", "1", "-W", "10"])
    scenario.check_equal(f"{name}: sub -c -i is given what it missed", got[:2], (0, "waited\n"))
    probe.disconnect()


def check_tls(scenario):
    """`tidegate pub` and `sub` over TLS with a client certificate, and the refusal of a server that nobody vouches for."""
    certificates = Certificates(scenario.folder / "tls")
    mosquitto = Mosquitto(scenario, "mosquitto-tls", certificates)
    mosquitto.start()
    at = ["-h", "localhost", "-p", mosquitto.port]
    identity = ["--cert", certificates.crt("gateway"), "--key", certificates.key("gateway")]
    trust = ["--cafile", certificates.ca]
    for name, (pub, sub) in (("mosquitto's", MOSQUITTO), ("tidegate's", OWN)):
        code, _, error = tool([*pub, *at, *trust, *identity, "-t", "tls/a", "-m", name, "-q", "1", "-r"])
        scenario.check_equal(f"{name} pub over TLS", (code, error), (0, ""))
        got = tool([*sub, *at, *trust, *identity, "-t", "tls/a", "-C", "1", "-W", "10"])
        scenario.check_equal(f"{name} sub over TLS", got[:2], (0, f"{name}\n"))
        code = tool([*pub, *at, *trust, "-t", "tls/a", "-m", "x", "-q", "1"])[0]
        scenario.check(f"{name} pub fails without the client certificate", code != 0)
        strange = ["--cafile", certificates.crt("observer")]
        code, _, error = tool([*pub, *at, *strange, *identity, "-t", "tls/a", "-m", "x", "-q", "1"])
        scenario.check(f"{name} pub refuses a server that its CA did not sign", code != 0 and error)
    mosquitto.stop()


def check_tool_will(scenario, gateway):
    """mosquitto_sub's will, as devices set it."""
    watcher = client(gateway).connect()
    watcher.subscribe("last/words", 1)
    args = ["-t", "nothing", "--will-topic", "last/words", "--will-payload", "gone", "--will-qos", "1"]
    for name, program in (("mosquitto_sub", MOSQUITTO[1]), ("tidegate sub", OWN[1])):
        watcher.clear()
        mortal = Sub(scenario, program, gateway.port, args, watcher)
        mortal.process.kill()
        watcher.wait_payload("last/words", "gone")
        scenario.check(f"the will of a {name} that is killed", True)
    watcher.disconnect()


def check_busy(scenario, gateway):
    """Several publishers at once into one subscriber: nothing is lost, each one's order is kept."""
    subscriber = client(gateway).connect()
    subscriber.subscribe("busy/#", 2)
    publishers = [client(gateway, version).connect() for version in VERSIONS * 2]

    def publish(number):
        infos = [publishers[number].paho.publish(f"busy/{number}", str(n), 1 + n % 2) for n in range(QUEUED)]
        for info in infos:
            info.wait_for_publish(TOOL_SECONDS_MAX)

    threads = [threading.Thread(target=publish, args=(number,), daemon=True) for number in range(len(publishers))]
    for thread in threads:
        thread.start()
    subscriber.wait_count(QUEUED * len(publishers), "busy/#", 30)
    wrong = []
    for number in range(len(publishers)):
        for qos in (1, 2):
            # Between QoS 1 and 2 the protocol keeps no order: paho hands QoS 2 over when it is released.
            got = [int(m.payload) for m in subscriber.received(f"busy/{number}") if m.qos == qos]
            if got != list(range(qos - 1, QUEUED, 2)):
                wrong.append((number, qos, got))
    scenario.check(f"{len(publishers)} publishers at once: all once and in order", not wrong, wrong)
    for each in [subscriber, *publishers]:
        each.disconnect()


def main():
    with Scenario("lan", 180) as scenario:
        gateway, mosquitto = Gateway(scenario), Mosquitto(scenario, "mosquitto")
        gateway.start()
        mosquitto.start()
        check_delivery(scenario, gateway)
        check_wildcards(scenario, gateway)
        check_retained(scenario, gateway)
        check_will(scenario, gateway)
        check_sessions(scenario, gateway)
        check_take_over(scenario, gateway)
        check_properties(scenario, gateway)
        check_sys(scenario, gateway)
        check_busy(scenario, gateway)
        check_bounds(scenario)
        check_tools(scenario, "mosquitto's at the gateway", gateway.port, *MOSQUITTO)
        check_tools(scenario, "tidegate's at the gateway", gateway.port, *OWN)
        check_tools(scenario, "tidegate's at Mosquitto", mosquitto.port, *OWN)
        check_tools(scenario, "mosquitto_pub to tidegate sub", gateway.port, MOSQUITTO[0], OWN[1])
        check_tools(scenario, "tidegate pub to mosquitto_sub", gateway.port, OWN[0], MOSQUITTO[1])
        check_tool_will(scenario, gateway)
        check_tls(scenario)
        gateway.end(scenario)


if __name__ == "__main__":
    main()
