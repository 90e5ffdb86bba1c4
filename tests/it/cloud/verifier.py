"""A cloud that takes nobody at his word: an MQTT 3.1.1 server that verifies a credential as its vendor says, with an
implementation that shares nothing with the gateway's (Python's hmac, openssl's RSA). It says on stdout, a JSON object a
line, who came and what was published; a line `now SECONDS` on stdin tells it the time.

    verifier.py azure HOST DEVICE KEY       verifier.py google PROJECT PUBLIC_KEY_FILE
    verifier.py onenet PRODUCT DEVICE KEY   verifier.py tencent CLIENT_ID KEY      verifier.py aliyun PRODUCT DEVICE SECRET
"""

import base64
import hashlib
import hmac
import json
import re
import socket
import subprocess
import sys
import tempfile
import threading
from urllib.parse import quote, unquote

CONNACK_BAD_CREDENTIAL = 4
LIFETIME_MAX = 24 * 3600
now = 0
output = threading.Lock()


def say(**event):
    with output:
        print(json.dumps(event), flush=True)


def signed(key, text):
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


def same(one, other):
    return hmac.compare_digest(one.encode(), other.encode())


def require(holds, what):
    if not holds:
        raise ValueError(what)


def azure(client_id, username, password, host, device, key):
    require(client_id == device, "client id")
    require(username == f"{host}/{device}/?api-version=2021-04-12", "user name")
    require(password.startswith("SharedAccessSignature "), "no token")
    said = dict(part.split("=", 1) for part in password.split(" ", 1)[1].split("&"))
    require(said["sr"] == quote(f"{host}/devices/{device}", safe=""), "resource")
    expected = base64.b64encode(signed(base64.b64decode(key), f"{said['sr']}\n{said['se']}")).decode()
    require(same(unquote(said["sig"]), expected), "signature")
    return int(said["se"])


def google(client_id, _username, password, project, public_key):
    require(client_id.startswith(f"projects/{project}/locations/"), "client id")
    header, claims, signature = password.split(".")
    part = lambda text: base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    require(json.loads(part(header)) == {"alg": "RS256", "typ": "JWT"}, "header")
    with tempfile.NamedTemporaryFile() as file:
        file.write(part(signature))
        file.flush()
        command = ["openssl", "dgst", "-sha256", "-verify", public_key, "-signature", file.name]
        verified = subprocess.run(command, input=f"{header}.{claims}".encode(), capture_output=True)
    require(verified.returncode == 0, "signature")
    said = json.loads(part(claims))
    require(said["aud"] == project, "audience")
    require(abs(said["iat"] - now) < 600, "issued at another time")
    return said["exp"]


def onenet(client_id, username, password, product, device, key):
    require((client_id, username) == (device, product), "names")
    said = dict(part.split("=", 1) for part in password.split("&"))
    require(unquote(said["res"]) == f"products/{product}/devices/{device}", "resource")
    text = "\n".join([said["et"], said["method"], unquote(said["res"]), said["version"]])
    expected = base64.b64encode(signed(base64.b64decode(key), text)).decode()
    require(said["method"] == "sha256" and same(unquote(said["sign"]), expected), "signature")
    return int(said["et"])


def tencent(client_id, username, password, expected_id, key):
    own, sdk, connection, expiry = username.split(";")
    require(client_id == own == expected_id and sdk == "12010126", "names")
    require(re.fullmatch("[0-9A-Z]{5}", connection), "connection")
    require(same(password, signed(base64.b64decode(key), username).hex() + ";hmacsha256"), "signature")
    return int(expiry)


def aliyun(client_id, username, password, product, device, secret):
    require(username == f"{device}&{product}", "user name")
    own, said = re.fullmatch(r"([^|]+)\|([^|]+)\|", client_id).groups()
    said = dict(part.split("=", 1) for part in said.split(","))
    require(said == {"securemode": "3", "signmethod": "hmacsha256"}, "parameters")
    require(same(password, signed(secret.encode(), f"clientId{own}deviceName{device}productKey{product}").hex()), "signature")
    return None


VERIFIERS = {name: globals()[name] for name in ["azure", "google", "onenet", "tencent", "aliyun"]}


class Connection:
    sessions = {}

    def __init__(self, sock, verify):
        self.file, self.sock, self.verify = sock.makefile("rb"), sock, verify

    def packet(self):
        first, length, shift = self.file.read(1), 0, 0
        if not first:
            return None
        while True:
            byte = self.file.read(1)[0]
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return first[0], self.file.read(length)

    def connect(self, body):
        require(body[:7] == b"\x00\x04MQTT\x04", "not MQTT 3.1.1")
        flags, fields, at = body[7], [], 10
        while at < len(body):
            length = int.from_bytes(body[at : at + 2], "big")
            fields.append(body[at + 2 : at + 2 + length].decode())
            at += 2 + length
        require(flags & 0x04 == 0, "a will")
        require(flags & 0xC0 == 0xC0 and len(fields) == 3, "no credential")
        expires = self.verify(*fields)
        if expires is not None:
            require(now < expires <= now + LIFETIME_MAX, f"expires at {expires}, now it is {now}")
        return fields, expires

    def serve(self):
        _, body = self.packet()
        try:
            (client_id, username, password), expires = self.connect(body)
        except (ValueError, KeyError, AttributeError) as why:
            say(event="refused", why=str(why))
            self.sock.sendall(bytes([0x20, 2, 0, CONNACK_BAD_CREDENTIAL]))
            return
        present = client_id in self.sessions
        self.sessions[client_id] = True
        say(event="connected", username=username, password=password, expires=expires, present=present)
        self.sock.sendall(bytes([0x20, 2, present, 0]))
        while packet := self.packet():
            kind, body = packet
            if kind >> 4 == 3:
                self.publish(kind, body)
            elif kind >> 4 == 8:
                self.sock.sendall(bytes([0x90, 3]) + body[:2] + b"\x01")
            elif kind >> 4 == 12:
                self.sock.sendall(b"\xd0\x00")
            elif kind >> 4 == 14:
                say(event="disconnected")
                return

    def publish(self, kind, body):
        qos, length = kind >> 1 & 3, int.from_bytes(body[:2], "big")
        topic, rest = body[2 : 2 + length].decode(), body[2 + length :]
        if qos:
            self.sock.sendall(b"\x40\x02" + rest[:2])
            rest = rest[2:]
        flags = {"qos": qos, "dup": bool(kind & 8), "retain": bool(kind & 1)}
        say(event="published", topic=topic, payload=rest.decode(), **flags)


def serve(listener, verify):
    while True:
        sock, _ = listener.accept()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            Connection(sock, verify).serve()
        except (OSError, IndexError):
            pass
        sock.close()


def main():
    global now
    name, *facts = sys.argv[1:]
    listener = socket.create_server(("127.0.0.1", 0))
    verify = lambda *fields: VERIFIERS[name](*fields, *facts)
    threading.Thread(target=serve, args=(listener, verify), daemon=True).start()
    say(event="listening", port=listener.getsockname()[1])
    for line in sys.stdin:
        now = int(line.split()[1])
        say(event="now", now=now)


main()
