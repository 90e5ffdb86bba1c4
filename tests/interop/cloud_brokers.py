"""Brokers that a cloud may run, each started as its own documentation says, with everything in the scenario's folder:
RabbitMQ with its MQTT plugin, three NATS servers with JetStream as one cluster, and rumqttd. Mosquitto stands in `harness`.

A cloud has the port that the gateway's link goes to, the port that an observer uses, and `break_down` and `come_back`: one
outage. What an outage is differs: who keeps sessions on disk is killed or stopped, who has them in memory alone is cut off.
"""

import asyncio
import os
import subprocess
import threading
import urllib.request

from harness import Failure, Mosquitto, Process, free_port, is_open, wait_for

START_SECONDS_MAX = 90
CHUNK_BYTES_MAX = 1 << 16


class Uplink:
    """A TCP proxy on a port of 127.0.0.1 that can be cut: connections end at once, and new ones are refused."""

    def __init__(self, target_port):
        self.target_port, self.port = target_port, free_port()
        self.writers = set()
        self.server = None
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self.join()

    def do(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()

    def join(self):
        self.do(self.listen())

    async def listen(self):
        self.server = await asyncio.start_server(self.carry, "127.0.0.1", self.port)

    def cut(self):
        self.do(self.close())

    async def close(self):
        self.server.close()
        for writer in list(self.writers):
            writer.transport.abort()

    async def carry(self, reader, writer):
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
        except OSError:
            writer.transport.abort()
            return
        ends = {writer, far_writer}
        self.writers |= ends
        await asyncio.gather(self.copy(reader, far_writer), self.copy(far_reader, writer), return_exceptions=True)
        self.writers -= ends

    async def copy(self, reader, writer):
        try:
            while chunk := await reader.read(CHUNK_BYTES_MAX):
                writer.write(chunk)
                await writer.drain()
        finally:
            writer.transport.abort()


class MosquittoCloud:
    """Stopped and started: its sessions are written at a stop."""

    name, versions = "mosquitto", ("5", "3.1.1")
    what = "stopped and started"

    def __init__(self, scenario):
        self.broker = Mosquitto(scenario, "cloud-mosquitto")
        self.port = self.observer_port = self.broker.port

    def start(self):
        self.broker.start()

    def break_down(self, _number):
        self.broker.stop()

    come_back = start

    def end(self):
        self.broker.kill()


class RabbitMq(Process):
    """One node: stopped, killed, stopped. The plugin speaks 3.1.1 with QoS 1 at most, and confirms what is on disk."""

    name, versions = "rabbitmq", ("3.1.1",)
    what = "stopped, killed, stopped"

    def __init__(self, scenario):
        folder = scenario.folder / self.name
        folder.mkdir()
        self.port = self.observer_port = free_port()
        self.epmd_port = free_port()
        (folder / "plugins").write_text("[rabbitmq_mqtt].\n")
        (folder / "rabbitmq.conf").write_text(
            "listeners.tcp = none\n"
            f"mqtt.listeners.tcp.1 = 127.0.0.1:{self.port}\n"
            "mqtt.allow_anonymous = true\n"
            "mqtt.prefetch = 200\n"
            # This is a test's own corner of the disk, not a server.
            "disk_free_limit.absolute = 50MB\n"
        )
        super().__init__(scenario, self.name, ["/usr/lib/rabbitmq/bin/rabbitmq-server"])
        self.environment = {
            "HOME": str(folder),
            "RABBITMQ_NODENAME": "tidegate@localhost",
            "RABBITMQ_BASE": str(folder),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "ERL_EPMD_PORT": str(self.epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            # The Erlang machine takes the place of the script, so that a signal goes to it.
            "RABBITMQ_ALLOW_INPUT": "1",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-noinput",
        }
        scenario.cleanups.append(self.end_names)

    def start(self):
        super().start()
        wait_for(f"{self.name} on port {self.port}", self.is_up, START_SECONDS_MAX)

    def is_up(self):
        if not self.is_running():
            raise Failure(f"{self.name} ended with {self.child.returncode} at its start")
        return is_open(self.port)

    def break_down(self, number):
        if number == 1:
            self.kill()
        else:
            self.stop(START_SECONDS_MAX)

    def come_back(self):
        self.start()

    def end(self):
        self.kill()

    def end_names(self):
        """Erlang's directory of names outlives who started it."""
        environment = {**os.environ, "ERL_EPMD_PORT": str(self.epmd_port), "ERL_EPMD_RELAXED_COMMAND_CHECK": "1"}
        subprocess.run(["epmd", "-kill"], env=environment, capture_output=True, check=False, stdin=subprocess.DEVNULL)


class Nats:
    """Three servers, one JetStream cluster with three copies of everything. The one that the gateway talks to is killed
    and started again; the observer has its session at another one. They speak 3.1.1 with QoS 1 at most."""

    name, versions = "nats", ("3.1.1",)
    what = "the gateway's node of three killed and started"

    def __init__(self, scenario):
        self.nodes = []
        ports = [(free_port(), free_port(), free_port()) for _ in range(3)]
        routes = ", ".join(f'"nats://127.0.0.1:{cluster}"' for _, cluster, _ in ports)
        for index, (mqtt, cluster, monitor) in enumerate(ports):
            folder = scenario.folder / f"nats-{index}"
            folder.mkdir()
            config = folder / "nats.conf"
            config.write_text(
                f"server_name: node-{index}\nlisten: 127.0.0.1:{free_port()}\nhttp: 127.0.0.1:{monitor}\n"
                f'jetstream {{ store_dir: "{folder}", max_file_store: 1GB }}\n'
                f"cluster {{ name: tidegate, listen: 127.0.0.1:{cluster}, routes: [{routes}] }}\n"
                f"mqtt {{ listen: 127.0.0.1:{mqtt}, max_ack_pending: 4096 }}\n"
            )
            node = Process(scenario, f"nats-{index}", ["/usr/sbin/nats-server", "-c", config])
            node.port, node.monitor = mqtt, monitor
            self.nodes.append(node)
        self.port, self.observer_port = self.nodes[0].port, self.nodes[1].port

    def start(self):
        for node in self.nodes:
            node.start()
        for node in self.nodes:
            wait_for(f"{node.name} to be ready", lambda node=node: self.is_ready(node), START_SECONDS_MAX)

    @staticmethod
    def is_ready(node):
        """Its JetStream has a leader and is level with the others."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{node.monitor}/healthz", timeout=2) as answer:
                return answer.status == 200 and is_open(node.port)
        except OSError:
            return False

    def break_down(self, _number):
        self.nodes[0].kill()

    def come_back(self):
        self.nodes[0].start()

    def end(self):
        for node in self.nodes:
            node.kill()


class Rumqttd(Process):
    """Keeps sessions in memory: the link to it is cut."""

    name, versions = "rumqttd", ("3.1.1",)
    what = "cut off"

    def __init__(self, scenario):
        self.observer_port = free_port()
        self.uplink = None
        listener = (
            'name = "{name}"\nlisten = "127.0.0.1:{port}"\nnext_connection_delay_ms = 1\n'
            "[{kind}.1.connections]\nconnection_timeout_ms = 60000\nmax_payload_size = 262144\n"
            "max_inflight_count = 500\ndynamic_filters = true\n"
        )
        config = scenario.folder / "rumqttd.toml"
        config.write_text(
            "id = 0\n[router]\nid = 0\nmax_connections = 100\nmax_outgoing_packet_count = 200\n"
            "max_segment_size = 104857600\nmax_segment_count = 10\n"
            "[v4.1]\n" + listener.format(name="v4", kind="v4", port=self.observer_port)
        )
        super().__init__(scenario, self.name, [os.environ.get("RUMQTTD", "rumqttd"), "-c", config])

    def start(self):
        super().start()
        self.wait_port(self.observer_port)
        self.uplink = Uplink(self.observer_port)
        self.port = self.uplink.port

    def break_down(self, _number):
        self.uplink.cut()

    def come_back(self):
        self.uplink.join()

    def end(self):
        self.kill()
