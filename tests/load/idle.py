"""What an idle client costs in memory: 10,000 of them, each connected once, then each with one subscription. Prints the
same for clients with TLS."""

import contextlib
import resource
import socket
import ssl

import wire
from harness import Certificates, Gateway, Scenario
from memory import status_bytes

CLIENTS = 10_000
CLIENTS_TLS = 1_000
# In memory that is resident; what the system keeps for a socket is not counted.
CLIENT_BYTES_MAX = 3 * 1024
# What only the first clients cost: buffers that all of them share.
WARM_UP_CLIENTS = 100
# Beside the clients' sockets.
SPARE_DESCRIPTORS = 200
# What a shell gives. The gateway is started with it and has to take what its limits need.
SHELL_DESCRIPTORS = 1024
FEW_DESCRIPTORS = 500
KEEP_ALIVE_SECONDS = 3600


def set_descriptors(soft):
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, hard), hard))


def check_few_descriptors(scenario):
    gateway = Gateway(scenario, name="few-descriptors")
    gateway.args = ["prlimit", f"--nofile={FEW_DESCRIPTORS}", *gateway.args]
    gateway.start()
    warning = f"needed=10321 allowed={FEW_DESCRIPTORS}"
    scenario.check("a limit of the system that is too low is said in the log", warning in gateway.log(), gateway.log())
    gateway.end(scenario)


def start_gateway(scenario, **options):
    gateway = Gateway(scenario, **options)
    set_descriptors(SHELL_DESCRIPTORS)
    gateway.start()
    set_descriptors(CLIENTS + SPARE_DESCRIPTORS)
    return gateway


def client_ids(count):
    return [f"device-{number:05}" for number in range(count)]


def come_in(open_one, ids):
    """Connected, and idle: each has had an answer to a ping."""
    socks = []
    for name in ids:
        socks.append(open_one())
        # At once: the gateway waits ten seconds for it, and all of them may take longer to come.
        socks[-1].sendall(wire.connect(name, keep_alive=KEEP_ALIVE_SECONDS))
    for sock in socks:
        wire.expect(sock, wire.CONNACK)
    wire.ask_all(socks, [wire.PINGREQ] * len(ids), wire.PINGRESP)
    return socks


def talk(gateway, socks, ids):
    """Each says something and is told something, acknowledged both ways; then it is idle again."""
    wire.ask_all(socks, [wire.publish_1(f"readings/{name}", b"21.5") for name in ids], wire.puback())
    operator = wire.open_socket(gateway.port)
    wire.ask(operator, wire.connect("operator"), wire.CONNACK)
    for name, sock in zip(ids, socks, strict=True):
        command = wire.publish_1(f"commands/{name}/set", b"20")
        wire.ask(operator, command, wire.puback())
        wire.expect(sock, command)
        sock.sendall(wire.puback())
    operator.sendall(wire.DISCONNECT)
    operator.close()
    wire.ask_all(socks, [wire.PINGREQ] * len(socks), wire.PINGRESP)


def leave(socks):
    for sock in socks:
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
        sock.close()


class Meter:
    """What each of some clients costs, beside what the gateway had before they came."""

    def __init__(self, gateway, open_one):
        self.gateway = gateway
        leave(come_in(open_one, client_ids(WARM_UP_CLIENTS)))
        self.before = status_bytes(gateway, "VmRSS")

    def client_bytes(self, clients):
        return (status_bytes(self.gateway, "VmRSS") - self.before) // clients


def measure_tcp(scenario):
    # One more talks to them.
    gateway = start_gateway(scenario, limits=f"  limits: {{ connections: {CLIENTS + 1} }}\n")
    open_one = lambda: wire.open_socket(gateway.port)  # noqa: E731
    meter = Meter(gateway, open_one)
    ids = client_ids(CLIENTS)
    socks = come_in(open_one, ids)
    connected = meter.client_bytes(CLIENTS)
    wire.ask_all(socks, [wire.subscribe(f"commands/{name}/#") for name in ids], wire.SUBACK_QOS_1)
    wire.ask_all(socks, [wire.PINGREQ] * len(ids), wire.PINGRESP)
    subscribed = meter.client_bytes(CLIENTS)
    talk(gateway, socks, ids)
    talked = meter.client_bytes(CLIENTS)
    scenario.figure(f"{CLIENTS} idle clients: {connected} bytes each; with a subscription each: {subscribed}; when each")
    scenario.figure(f"has published and received a message at QoS 1: {talked}")
    for what, taken in (("", connected), (" with a subscription", subscribed), (" that was used", talked)):
        most = f"a connection{what} takes at most {CLIENT_BYTES_MAX} bytes"
        scenario.check(most, taken <= CLIENT_BYTES_MAX, taken)
    leave(socks)
    gateway.end(scenario)


def measure_tls(scenario):
    certificates = Certificates(scenario.folder / "tls")
    gateway = start_gateway(
        scenario,
        name="gateway-tls",
        listener=f"tls: {{ certificate: {certificates.crt('server')}, private_key: {certificates.key('server')} }}",
    )
    context = ssl.create_default_context(cafile=certificates.ca)

    def open_one():
        return context.wrap_socket(wire.open_socket(gateway.port), server_hostname="127.0.0.1")

    meter = Meter(gateway, open_one)
    socks = come_in(open_one, client_ids(CLIENTS_TLS))
    scenario.figure(f"{CLIENTS_TLS} idle clients with TLS: {meter.client_bytes(CLIENTS_TLS)} bytes each")
    leave(socks)
    gateway.end(scenario)


def main():
    with Scenario("idle", seconds_max=120) as scenario:
        check_few_descriptors(scenario)
        measure_tcp(scenario)
        measure_tls(scenario)


if __name__ == "__main__":
    main()
