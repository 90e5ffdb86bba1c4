"""Home Assistant without its frontend, run by a Python that has `homeassistant` 2025.4 and `paho-mqtt` installed:
homeassistant_core.py PORT DEVICE... connects its MQTT integration to PORT, waits for the devices, commands their
entities, and prints all states as one line of JSON."""

import asyncio
import datetime
import json
import os
import sys
import tempfile
import types
from pathlib import Path

from homeassistant import bootstrap, runner

WAIT_SECONDS = 60
SERVICES = [("number", "set_value", "setpoint", {"value": 21.5}), ("switch", "turn_on", "relay", {})]
SERVICES += [("select", "select_option", "mode", {"option": "manual"}), ("text", "set_value", "text", {"value": "hello"})]
SERVICES += [("switch", "turn_on", "state_alarm", {}), ("number", "set_value", "state_gear", {"value": 5})]


def prepare(folder, port):
    """What a person would have clicked together; and an empty frontend."""
    (folder / "configuration.yaml").write_text("homeassistant:\n  name: test\n")
    (folder / ".storage").mkdir()
    now = datetime.datetime.now(datetime.UTC).isoformat()
    entry = {"domain": "mqtt", "entry_id": "mqtt", "title": "mqtt", "source": "user", "version": 1, "minor_version": 2}
    entry |= {"data": {"broker": "127.0.0.1", "port": port}, "options": {"discovery": True}, "created_at": now}
    entry |= {"modified_at": now, "discovery_keys": {}, "subentries": [], "unique_id": None, "disabled_by": None}
    entry |= {"pref_disable_new_entities": False, "pref_disable_polling": False}
    stored = {"version": 1, "minor_version": 5, "key": "core.config_entries", "data": {"entries": [entry]}}
    (folder / ".storage/core.config_entries").write_text(json.dumps(stored))
    frontend = types.ModuleType("hass_frontend")
    frontend.where = lambda: folder / "frontend"
    for name in ("static", "frontend_latest", "frontend_es5"):
        (folder / "frontend" / name).mkdir(parents=True)
    for name in ("index.html", "authorize.html", "onboarding.html", "robots.txt", "sw-modern.js", "sw-legacy.js"):
        (folder / "frontend" / name).write_text("")
    sys.modules["hass_frontend"] = frontend


async def wait_for(what, condition):
    for _ in range(WAIT_SECONDS * 10):
        if condition():
            return
        await asyncio.sleep(0.1)
    raise SystemExit(f"waited for {what} in vain")


async def main(port, devices):
    folder = Path(tempfile.mkdtemp())
    prepare(folder, port)
    config = runner.RuntimeConfig(config_dir=str(folder), skip_pip=True)
    hass = await bootstrap.async_setup_hass(config)
    await hass.async_start()
    for device in devices:
        for domain, service, name, data in SERVICES:
            entity = f"{domain}.{device}_{name}"
            is_there = lambda entity=entity: (s := hass.states.get(entity)) and s.state not in ("unavailable", "unknown")
            await wait_for(entity, is_there)
            await hass.services.async_call(domain, service, {"entity_id": entity, **data}, blocking=True)
            wanted = str(next(iter(data.values()), "on"))
            await wait_for(f"{entity} {wanted}", lambda entity=entity, wanted=wanted: hass.states.get(entity).state == wanted)
    print(json.dumps({state.entity_id: state.state for state in hass.states.async_all()}), flush=True)
    # Its own end takes longer than anybody wants to wait for.
    os._exit(0)


asyncio.run(main(int(sys.argv[1]), sys.argv[2:]))
