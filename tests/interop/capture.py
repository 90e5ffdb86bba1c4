"""A recording of what clients and gateway said, and tshark's judgement of it."""

import collections
import subprocess
import sys
import time
from pathlib import Path

from harness import Process, free_port

TSHARK_SECONDS_MAX = 120
TYPES = ("CONNECT", "CONNACK", "PUBLISH", "PUBACK", "PUBREC", "PUBREL", "PUBCOMP", "SUBSCRIBE", "SUBACK",
         "UNSUBSCRIBE", "UNSUBACK", "PINGREQ", "PINGRESP", "DISCONNECT", "AUTH")  # fmt: skip
# Keep alives are longer than the scenario, and nobody authenticates in several steps.
UNUSED = {"PINGREQ", "PINGRESP", "AUTH"}
# What the dissectors say of a packet that is not right.
FAULTS = (
    "_ws.malformed || ((mqtt || websocket) && _ws.expert) || mqtt.prop_unknown || mqtt.illegal_topic_length"
    " || mqtt.unknown_version || mqtt.unknown_topic_alias"
)
# A dissector that lost its place would find the one without the other.
ANSWERS = {"CONNECT": "CONNACK", "SUBSCRIBE": "SUBACK", "UNSUBSCRIBE": "UNSUBACK", "PINGREQ": "PINGRESP"}
# Correlation data is binary; the dissector takes it for text and wonders about what stands behind a zero.
ZERO_IN_BINARY_DATA = "Trailing stray characters"


class Recording(Process):
    """The recorder before the gateway's ports. `tcp` and `web`: where clients go."""

    def __init__(self, scenario, tcp_target, web_target):
        self.file = scenario.folder / "clients.pcap"
        self.tcp, self.web, self.web_unwrapped = free_port(), free_port(), web_target
        ports = [f"{self.tcp}:{tcp_target}", f"{self.web}:{web_target}:ws"]
        program = Path(__file__).parent / "recorder.py"
        super().__init__(scenario, "recorder", [sys.executable, program, self.file, *ports])
        self.start()
        for port in (self.tcp, self.web):
            self.wait_port(port)

    def read(self, display_filter, *fields):
        """What tshark says of each packet that passes the filter: its fields, each a list."""
        # tshark 4.0 reads no MQTT in WebSockets: it reads the WebSocket, and its MQTT unwrapped.
        dissectors = {self.tcp: "mqtt", self.web: "http", self.web_unwrapped: "mqtt"}
        decode = [word for port, dissector in dissectors.items() for word in ("-d", f"tcp.port=={port},{dissector}")]
        wanted = [word for field in fields for word in ("-e", field)]
        command = ["tshark", "-r", self.file, *decode, "-Y", display_filter, "-T", "fields", *wanted]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=TSHARK_SECONDS_MAX, check=True)
        return [[value.split(",") for value in line.split("\t")] for line in ended.stdout.splitlines()]

    def check(self, scenario):
        self.stop()
        began = time.monotonic()
        found = self.read(FAULTS, "frame.number", "_ws.expert.message")
        bad = [(number, words) for number, words in found if set(words) != {ZERO_IN_BINARY_DATA}]
        scenario.check("tshark finds no malformed packet", not bad, bad[:10])
        for name, port in (("TCP", self.tcp), ("WebSocket", self.web_unwrapped)):
            rows = self.read(f"mqtt && tcp.port == {port}", "mqtt.msgtype")
            seen = collections.Counter(TYPES[int(kind) - 1] for (kinds,) in rows for kind in kinds)
            scenario.figure(f"over {name}: " + ", ".join(f"{seen[kind]} {kind}" for kind in TYPES if seen[kind]))
            missing = [kind for kind in TYPES if kind not in UNUSED and not seen[kind]]
            scenario.check(f"tshark reads every type of packet over {name}", not missing, missing)
            unlike = {kind: seen[kind] - seen[answer] for kind, answer in ANSWERS.items() if seen[kind] != seen[answer]}
            scenario.check(f"tshark reads an answer to every question over {name}", not unlike, unlike)
        scenario.figure(f"tshark: {self.file.stat().st_size / 2**20:.0f} MiB in {time.monotonic() - began:.1f} s")
