"""The clients of other people as one kind of thing: paho-mqtt and aiomqtt in this process, mosquitto_pub and
mosquitto_sub as commands. `agents.py` has those that are no Python.

A peer is one MQTT client that can connect again and again. What its library does not tell is None here. Nothing here
judges: scenarios do.
"""

import asyncio
import dataclasses
import re
import socket
import subprocess
import threading

import aiomqtt
import paho.mqtt.client as paho
from harness import WAIT_SECONDS, Client, Failure, Process, properties, wait_for
from paho.mqtt.subscribeoptions import SubscribeOptions

LISTENER_HOST = "127.0.0.1"
# Where mosquitto's commands go for the sake of a connection.
NOWHERE = "open/nowhere"
# More than are ever under way; aiomqtt warns of more.
PENDING_CALLS = 1000
# Names of PUBLISH properties here, and at paho.
PROPERTY_NAMES = {
    "content_type": "ContentType",
    "response_topic": "ResponseTopic",
    "correlation": "CorrelationData",
    "expiry": "MessageExpiryInterval",
    "alias": "TopicAlias",
    "user": "UserProperty",
    "identifier": "SubscriptionIdentifier",
}


@dataclasses.dataclass(frozen=True)
class Login:
    username: str
    password: str


@dataclasses.dataclass
class Message:
    topic: str
    payload: bytes
    qos: int
    retain: bool
    # As in PROPERTY_NAMES; only those that came with it.
    properties: dict


class Peer:
    """What scenarios use. Its version is 5, or 4 for MQTT 3.1.1."""

    name = "?"
    versions = (5, 4)
    # One connection both ways; mosquitto's commands have one each.
    is_one_client = True
    # MQTT.js puts user properties of one name together.
    keeps_pair_order = True
    # Of a QoS 2 message that is not authorised.
    refused_exactly_once = 0x87
    # DISCONNECT says that the will is wanted all the same.
    leaves_with_will = False

    def __init__(self, port, version):
        self.port, self.version = port, version
        self.messages = []
        self.session_present = None

    def connect(self, client_id, login, *, clean=True, expiry=None, will=None):
        """The reason code, 0 for success. `expiry` is MQTT 5's; `will` a topic and a payload, QoS 1."""
        raise NotImplementedError

    def subscribe(self, topic_filter, qos, *, no_local=False, identifier=None):
        """The granted QoS or the reason code of the refusal."""
        raise NotImplementedError

    def unsubscribe(self, topic_filter):
        """The reason code."""
        raise NotImplementedError

    def publish(self, topic, payload, qos, *, retain=False, **values):
        """The reason code, once it is acknowledged."""
        return self.publish_all(topic, [payload], qos, retain=retain, **values)[0]

    def publish_all(self, topic, payloads, qos, *, retain=False, **values):
        """Without waiting in between; their reason codes."""
        raise NotImplementedError

    def publish_aliased(self, topic, payloads, qos):
        """MQTT 5: the topic stands in the first PUBLISH alone, its alias in all."""
        for number, payload in enumerate(payloads):
            self.publish("" if number else topic, payload, qos, alias=1)

    def disconnect(self):
        raise NotImplementedError

    def cut(self):
        """The connection is gone without DISCONNECT."""
        raise NotImplementedError

    def pump(self):
        """Moves what has come in to `messages`."""

    def received(self, topic_filter="#"):
        self.pump()
        return [m for m in list(self.messages) if paho.topic_matches_sub(topic_filter, m.topic)]

    def wait_count(self, count, topic_filter="#", seconds=WAIT_SECONDS):
        def condition():
            found = self.received(topic_filter)
            return found if len(found) >= count else None

        try:
            return wait_for(f"{count} messages on {topic_filter}", condition, seconds)
        except Failure as error:
            got = [(m.topic, m.payload[:20], m.qos) for m in self.received(topic_filter)]
            raise Failure(f"{self.name} v{self.version}: {error}, got {got}") from None


def found_properties(of):
    """paho's properties under the names that are used here."""
    found = {}
    for name, paho_name in PROPERTY_NAMES.items():
        value = getattr(of, paho_name, None)
        if value is not None:
            found[name] = [tuple(pair) for pair in value] if name == "user" else value
    return found


def made_properties(version, values):
    named = {PROPERTY_NAMES[name]: value for name, value in values.items()}
    return properties("PUBLISH", **named) if version == 5 else None


def subscribe_arguments(version, qos, no_local, identifier):
    """Behind the filter, for paho and aiomqtt alike."""
    if version != 5:
        return {"qos": qos}
    given = properties("SUBSCRIBE", **({} if identifier is None else {"SubscriptionIdentifier": identifier}))
    return {"options": SubscribeOptions(qos=qos, noLocal=no_local), "properties": given}


class Paho(Peer):
    name = "paho-mqtt"
    # It goes on with PUBREL whatever PUBREC says, and tells PUBCOMP's reason: no such packet identifier.
    refused_exactly_once = 0x92

    def __init__(self, port, version):
        super().__init__(port, version)
        self.client, self.taken = None, 0

    def connect(self, client_id, login, *, clean=True, expiry=None, will=None):
        options = {"will": {"topic": will[0], "payload": will[1], "qos": 1}} if will else {}
        self.client = Client(client_id, self.port, version=self.version, clean=clean, expiry=expiry, **options)
        self.client.paho.username_pw_set(login.username, login.password)
        self.taken = 0
        try:
            self.client.connect()
        except Failure:
            reason = self.client.connack and self.client.connack[1]
            self.client.disconnect()
            if reason is None:
                raise
            # paho gives 3.1.1's return codes the values that MQTT 5 has for them.
            return reason.value
        self.session_present = self.client.session_present
        return 0

    def subscribe(self, topic_filter, qos, *, no_local=False, identifier=None):
        arguments = subscribe_arguments(self.version, qos, no_local, identifier)
        _, mid = self.client.paho.subscribe(topic_filter, **arguments)
        return wait_for(f"SUBACK for {topic_filter}", lambda: self.client.granted.get(mid))[0].value

    def unsubscribe(self, topic_filter):
        _, mid = self.client.paho.unsubscribe(topic_filter)
        wait_for(f"UNSUBACK for {topic_filter}", lambda: mid in self.client.granted)
        reasons = self.client.granted[mid]
        return reasons[0].value if reasons else 0

    def publish_all(self, topic, payloads, qos, *, retain=False, **values):
        given = made_properties(self.version, values)
        infos = [self.client.paho.publish(topic, payload, qos, retain, given) for payload in payloads]
        wait_for(f"the acknowledgements of {topic}", lambda: all(info.mid in self.client.done for info in infos))
        return [self.client.done[info.mid].value for info in infos]

    def disconnect(self):
        self.client.disconnect()

    def cut(self):
        self.client.drop()

    def pump(self):
        if self.client is None:
            return
        with self.client.lock:
            new = self.client.messages[self.taken :]
            self.taken += len(new)
        for m in new:
            found = found_properties(m.properties) if self.version == 5 else {}
            self.messages.append(Message(m.topic, m.payload, m.qos, m.retain, found))


class Aiomqtt(Peer):
    """Its loop runs in a thread that all of them share. It does not tell what a PUBACK's or UNSUBACK's reason was, nor
    whether a session was there."""

    name = "aiomqtt"
    loop = None

    def __init__(self, port, version):
        super().__init__(port, version)
        self.client = self.listening = None
        if Aiomqtt.loop is None:
            Aiomqtt.loop = asyncio.new_event_loop()
            threading.Thread(target=Aiomqtt.loop.run_forever, daemon=True).start()

    def run(self, work):
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(WAIT_SECONDS)

    def connect(self, client_id, login, *, clean=True, expiry=None, will=None):
        options = {"will": aiomqtt.Will(will[0], will[1], 1)} if will else {}
        if self.version == 5:
            given = {} if expiry is None else {"SessionExpiryInterval": expiry}
            options |= {"clean_start": clean, "properties": properties("CONNECT", **given)}
            options |= {"protocol": aiomqtt.ProtocolVersion.V5}
        else:
            options |= {"clean_session": clean, "protocol": aiomqtt.ProtocolVersion.V311}

        async def enter():
            named = {"username": login.username, "password": login.password, "identifier": client_id}
            client = aiomqtt.Client(LISTENER_HOST, self.port, **named, **options)
            client.pending_calls_threshold = PENDING_CALLS
            self.client = await client.__aenter__()
            self.listening = asyncio.ensure_future(self.listen())

        try:
            self.run(enter())
        except aiomqtt.exceptions.MqttConnectError as error:
            return error.rc.value if hasattr(error.rc, "value") else error.rc
        return 0

    async def listen(self):
        try:
            async for m in self.client.messages:
                found = found_properties(m.properties) if self.version == 5 else {}
                self.messages.append(Message(str(m.topic), m.payload, m.qos, m.retain, found))
        except aiomqtt.MqttError:
            pass

    def subscribe(self, topic_filter, qos, *, no_local=False, identifier=None):
        arguments = subscribe_arguments(self.version, qos, no_local, identifier)
        granted = self.run(self.client.subscribe(topic_filter, **arguments))[0]
        return granted.value if hasattr(granted, "value") else granted

    def unsubscribe(self, topic_filter):
        self.run(self.client.unsubscribe(topic_filter))

    def publish_all(self, topic, payloads, qos, *, retain=False, **values):
        given = made_properties(self.version, values)

        async def all_of_them():
            sent = [self.client.publish(topic, payload, qos, retain, given) for payload in payloads]
            return await asyncio.gather(*sent)

        return self.run(all_of_them())

    def disconnect(self):
        async def leave():
            self.listening.cancel()
            await self.client.__aexit__(None, None, None)

        self.run(leave())

    def cut(self):
        self.client._client.socket().shutdown(socket.SHUT_RDWR)


class MosquittoTools(Peer):
    """mosquitto_sub for each filter, and mosquitto_pub for each publication; both are gone between them."""

    name = "mosquitto_pub and _sub"
    is_one_client = False
    # What mosquitto_sub -F says a message is. The payload is hexadecimal, so that it stays on its line.
    FORMAT = "message\t%t\t%x\t%q\t%r\t%C\t%R\t%D\t%E\t%S\t%P"
    RECEIVED = ("content_type", "response_topic", "correlation", "expiry", "identifier", "user")
    OPTIONS = {
        "content_type": "content-type",
        "response_topic": "response-topic",
        "correlation": "correlation-data",
        "expiry": "message-expiry-interval",
        "alias": "topic-alias",
    }

    def __init__(self, port, version, scenario):
        super().__init__(port, version)
        self.scenario = scenario
        self.subscribers, self.read = {}, {}
        self.arguments = self.session = None
        # mosquitto_sub's end at a signal, where the protocol has it.
        self.leaves_with_will = version == 5

    def common(self, login):
        version = "5" if self.version == 5 else "311"
        return ["-h", LISTENER_HOST, "-p", str(self.port), "-V", version, "-u", login.username, "-P", login.password]

    def connect(self, client_id, login, *, clean=True, expiry=None, will=None):
        """They connect when there is something to do; here only whether they may."""
        self.arguments = self.common(login)
        self.session = ["-i", client_id, *([] if clean else ["-c"])]
        if expiry is not None:
            self.session += ["-x", str(expiry)]
        if will:
            self.session += ["--will-topic", will[0], "--will-payload", will[1], "--will-qos", "1"]
        if will or not clean:
            return 0
        code, said = self.run_publisher(["-t", NOWHERE, "-n", "-q", "0"])
        if code == 0:
            return 0
        # Both say it in words: 3.1.1's return codes 4 and 5, MQTT 5's reasons 0x86 and 0x87.
        reasons = {"bad username or password": 0x86, "bad user name or password": 0x86, "not authori": 0x87}
        found = [reason for words, reason in reasons.items() if words in said]
        return found[0] if found else said

    def run_publisher(self, arguments, given=None):
        command = ["mosquitto_pub", *self.arguments, *arguments]
        ended = subprocess.run(command, input=given, capture_output=True, timeout=WAIT_SECONDS, check=False)
        return ended.returncode, (ended.stdout + ended.stderr).decode().lower()

    def subscribe(self, topic_filter, qos, *, no_local=False, identifier=None):
        options = ["-t", topic_filter, "-q", str(qos)]
        if identifier is not None:
            options += ["-D", "subscribe", "subscription-identifier", str(identifier)]
        process = self.start_subscriber(topic_filter, options)
        answer = r"Subscribed \(mid: \d+\): (\d+)"
        return int(wait_for(f"SUBACK for {topic_filter}", lambda: re.search(answer, process.log()))[1])

    def unsubscribe(self, topic_filter):
        """mosquitto_sub -U: of this filter, in a connection that goes on with another."""
        old = self.subscribers.pop(topic_filter)
        old.stop()
        self.pump_process(old)
        process = self.start_subscriber(NOWHERE, ["-U", topic_filter, "-t", NOWHERE])
        wait_for(f"UNSUBACK for {topic_filter}", lambda: "received UNSUBACK" in process.log())

    def start_subscriber(self, topic_filter, options):
        # Else what -d says stays in a buffer.
        command = ["stdbuf", "-oL", "mosquitto_sub", *self.arguments, *self.session, *options, "-F", self.FORMAT, "-d"]
        process = Process(self.scenario, f"mosquitto_sub-{len(self.scenario.processes)}", command)
        self.scenario.quiet.add(process)
        process.start()
        self.subscribers[topic_filter] = process
        self.read[process] = 0
        return process

    def publish_all(self, topic, payloads, qos, *, retain=False, **values):
        arguments = ["-t", topic, "-q", str(qos), *(["-r"] if retain else [])]
        for name, value in values.items():
            pairs = value if name == "user" else [(None, value)]
            for key, each in pairs:
                option = ["user-property", key] if name == "user" else [self.OPTIONS[name]]
                text = each.decode() if isinstance(each, bytes) else str(each)
                arguments += ["-D", "publish", *option, text]
        if len(payloads) > 1:
            code, said = self.run_publisher([*arguments, "-l"], b"".join(payload + b"\n" for payload in payloads))
        elif payloads[0]:
            code, said = self.run_publisher([*arguments, "-s"], payloads[0])
        else:
            code, said = self.run_publisher([*arguments, "-n"])
        if "not authori" in said:
            return [0x87] * len(payloads)
        if code:
            raise Failure(f"mosquitto_pub ended with {code}: {said}")
        return [None] * len(payloads)

    def publish_aliased(self, topic, payloads, qos):
        # mosquitto_pub leaves the topic out by itself behind the first line.
        self.publish_all(topic, payloads, qos, alias=1)

    def disconnect(self):
        for process in self.subscribers.values():
            process.stop()
        self.pump()
        self.subscribers.clear()

    def cut(self):
        for process in self.subscribers.values():
            process.kill()
        self.pump()
        self.subscribers.clear()

    def pump(self):
        for process in self.subscribers.values():
            self.pump_process(process)

    def pump_process(self, process):
        with process.log_path.open("rb") as log:
            log.seek(self.read[process])
            text = log.read()
        whole = text[: text.rfind(b"\n") + 1]
        self.read[process] += len(whole)
        for line in whole.decode().splitlines():
            if line.startswith("message\t"):
                self.messages.append(self.parse(line))

    def parse(self, line):
        _, topic, payload, qos, retain, *values = line.split("\t")
        found = {name: value for name, value in zip(self.RECEIVED, values, strict=True) if value}
        for name in ("expiry", "identifier"):
            if name in found:
                found[name] = int(found[name]) if name == "expiry" else [int(found[name])]
        if "correlation" in found:
            found["correlation"] = found["correlation"].encode()
        if "user" in found:
            found["user"] = [tuple(pair.split(":")) for pair in found["user"].split(" ")]
        return Message(topic, bytes.fromhex(payload), int(qos), retain == "1", found)
