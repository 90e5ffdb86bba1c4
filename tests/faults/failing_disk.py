"""A disk that breaks while the gateway runs, and is mended: I/O errors on write, sync and read, a full disk, a file
system that becomes read-only. The same is asked of each: nothing in doubt is acknowledged, publishers are told or
let go, QoS 0 and online subscribers go on, the log says it once, status and metrics show it, and when the disk works
again the gateway does, without a restart and with everything that was acknowledged."""

import http.client
import json
import re
import time

import disk
from harness import Gateway, Scenario, free_port, wait_for
from mqtt import PUBACK, PUBLISH, PUBREC, Closed, Consumer, Mqtt

QUOTA_EXCEEDED, UNSPECIFIED_ERROR = 0x97, 0x80
# README: a broken disk is given five seconds, and who waits is let go after ten more at most; all looks take a second.
REFUSED_SECONDS_MAX, LET_GO_SECONDS_MAX = 30, 30
KINDS = {
    "full": (disk.FULL, QUOTA_EXCEEDED, "no space is left"),
    "bad-write": (disk.BAD_WRITE, UNSPECIFIED_ERROR, "reading or writing the database failed"),
    "bad-sync": (disk.BAD_SYNC, UNSPECIFIED_ERROR, "reading or writing the database failed"),
    "read-only": (disk.READ_ONLY, UNSPECIFIED_ERROR, "cannot be written"),
}


class Web:
    def __init__(self, port):
        self.port = port

    def get(self, path):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()

    def metric(self, name):
        found = re.search(rf"^tidegate_{name} (\S+)$", self.get("/metrics")[1], re.MULTILINE)
        return float(found[1])

    def store(self):
        return json.loads(self.get("/api/v1/status")[1])["store"]


class Broken:
    """One kind of failure, from its beginning to its end."""

    def __init__(self, scenario, library, kind):
        self.scenario, self.kind = scenario, kind
        self.fault, self.reason, self.words = KINDS[kind]
        http_port = free_port()
        self.gateway = Gateway(scenario, f"http: {{ address: 127.0.0.1:{http_port} }}\n", name=kind)
        self.disk = disk.Disk(library, self.gateway)
        self.http_port, self.web = http_port, Web(http_port)
        self.acknowledged = []

    def check(self, what, is_true, detail=""):
        return self.scenario.check(f"{self.kind}: {what}", is_true, detail)

    def run(self):
        self.gateway.start()
        self.gateway.wait_port(self.http_port)
        for name, topic in (("away", "kept/#"), ("online", "live/#")):
            client = Mqtt(name, self.gateway.port)
            client.subscribe(topic, 1)
            client.close() if name == "away" else setattr(self, "online", client)
        self.before()
        self.disk.order(self.fault)
        self.waits_and_is_let_go()
        self.is_refused()
        self.goes_on()
        self.shows_it()
        self.disk.lift()
        self.recovers()

    def before(self):
        client = Mqtt("before", self.gateway.port, 5)
        client.publish(1, "kept/before", b"before", 1)
        self.check("a healthy disk is acknowledged", client.read()[0] == PUBACK)
        self.acknowledged.append(b"before")
        client.close()
        self.check("/readyz says 200", self.web.get("/readyz")[0] == 200)

    def waits_and_is_let_go(self):
        """Published as the disk breaks: in doubt, so never answered; the connection ends, and the message is kept."""
        clients = {version: Mqtt(f"waiting-{version}", self.gateway.port, version) for version in (4, 5)}
        began = time.monotonic()
        for client in clients.values():
            for packet_id, qos in ((1, 1), (2, 2)):
                # Large enough that a full disk cannot take it into the room that the log has already.
                client.publish(packet_id, "kept/doubt", f"doubt {client.version} {qos} ".encode().ljust(4000, b"."), qos)
        for version, client in clients.items():
            try:
                kind, _, body = client.read(LET_GO_SECONDS_MAX)
                told = body[2] if len(body) > 2 else 0
                # Where the failure shows before the message is taken, it may be refused at once.
                self.check(f"MQTT {version}: nothing in doubt is acknowledged", kind in (PUBACK, PUBREC) and told == self.reason, (kind, body))
            except Closed as closed:
                expected = self.reason if version == 5 else None
                self.check(f"MQTT {version}: who waits is let go, unanswered", closed.reason == expected, closed.reason)
        self.scenario.figure(f"  after {time.monotonic() - began:.1f} s")

    def is_refused(self):
        def refused():
            client = Mqtt("refused", self.gateway.port, 5, clean=True)
            try:
                client.publish(1, "kept/refused", b"refused", 1)
                kind, _, body = client.read(REFUSED_SECONDS_MAX)
                return (kind, body[2] if len(body) > 2 else 0)
            except Closed:
                return None
            finally:
                client.close()

        answer = wait_for("an answer", refused, REFUSED_SECONDS_MAX)
        self.scenario.check_equal(f"{self.kind}: a new message is refused with 0x{self.reason:x}", answer, (PUBACK, self.reason))
        client = Mqtt("refused-4", self.gateway.port, 4, clean=True)
        client.publish(1, "kept/refused", b"refused", 1)
        try:
            self.check("3.1.1: no acknowledgement", False, client.read(LET_GO_SECONDS_MAX))
        except Closed:
            self.check("3.1.1: the connection closes without an acknowledgement", True)

    def goes_on(self):
        client = Mqtt("live", self.gateway.port, 5, clean=True)
        client.publish(0, "live/zero", b"zero", 0)
        client.publish(1, "live/one", b"one", 1)
        payloads = []
        while len(payloads) < 2:
            kind, flags, body = self.online.read()
            if kind == PUBLISH:
                packet_id, _, payload = self.online.received(body, flags >> 1 & 3)
                payloads.append(payload)
                if packet_id:
                    self.online.answer(PUBACK, packet_id)
        self.scenario.check_equal(f"{self.kind}: QoS 0 and 1 reach who is online", payloads, [b"zero", b"one"])
        kind, _, body = client.read()
        self.check("QoS 1 that an online session has acknowledged is acknowledged", kind == PUBACK and len(body) == 2, body)
        client.close()

    def shows_it(self):
        status, text = self.web.get("/readyz")
        self.check("/readyz says 503 and why", status == 503 and self.words in text, (status, text))
        self.check("status says why", self.words in (self.web.store()["trouble"] or ""), self.web.store())
        self.check("metrics count it", self.web.metric("store_up") == 0 and self.web.metric("store_failures_total") > 0)
        self.check("what was refused is counted", self.web.metric("broker_messages_refused_total") > 0)
        errors = [line for line in self.gateway.log().splitlines() if " ERROR " in line]
        self.check("the log says it once for each kind of error", 1 <= len(errors) <= 2 and len(set(errors)) == len(errors), errors)
        self.check("the disk has failed often", self.disk.hits >= 3, self.disk.hits)

    def recovers(self):
        wait_for("/readyz to say 200", lambda: self.web.get("/readyz")[0] == 200, 30)
        self.check("it is ready again without a restart", self.gateway.is_running())

        def taken():
            client = Mqtt("after", self.gateway.port, 5, clean=True)
            client.publish(1, "kept/after", b"after", 1)
            _, _, body = client.read()
            client.close()
            return len(body) == 2 or body[2] == 0

        wait_for("a message to be taken", taken)
        self.acknowledged.append(b"after")
        self.gateway.kill()
        self.gateway.start()
        consumer = Consumer(Mqtt("away", self.gateway.port))
        consumer.take_until(b"after")
        payloads = consumer.payloads
        self.check("everything acknowledged is there after a restart", all(p in payloads for p in self.acknowledged), payloads)
        self.check("nothing that was refused is there", b"refused" not in payloads, payloads)
        self.gateway.end(self.scenario)


def main():
    with Scenario("failing_disk", 390) as scenario:
        library = disk.build(scenario.folder)
        for kind in KINDS:
            Broken(scenario, library, kind).run()


if __name__ == "__main__":
    main()
