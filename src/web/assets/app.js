// The page: asks for the whole state every few seconds and follows events in between.

import { bytes, clock, count, duration, plural, rate } from "./format.js";
import { BridgeCard, ClientRow, DeviceCard, Figure, Keyed, Row, eventLine, gatewayNow, mark, setGatewayClock, write } from "./view.js";

const POLL_MS = 3000;
const SOON_MS = 300;
const POLL_TIME_MAX_MS = 10000;
/** Longer than the gateway gives a device. */
const WRITE_TIME_MAX_MS = 15000;
const STREAM_RETRY_MS = 10000;
const EVENTS_MAX = 100;
const CLIENTS_MAX = 50;

const byId = (id) => document.getElementById(id);
const figures = new Keyed(byId("figures"), (figure) => new Figure(figure));
const bridges = new Keyed(byId("bridges"), (bridge) => new BridgeCard(bridge));
const devices = new Keyed(byId("devices"), (device) => new DeviceCard(device, writePoint));
const clients = new Keyed(byId("clients"), (client) => new ClientRow(client));
const machine = new Keyed(byId("machine"), (row) => new Row(row));

let last = null;
let polling = false;
let soon = false;
let pollTimer = 0;
let stream = null;
let waitingEvents = [];

async function fetchJson(path) {
  const response = await fetch(path, { signal: AbortSignal.timeout(POLL_TIME_MAX_MS) });
  if (!response.ok) throw new Error(`${path} answers ${response.status}`);
  const date = Date.parse(response.headers.get("date") ?? "");
  // The header counts whole seconds; only a clock that is really off is corrected.
  if (!Number.isNaN(date)) setGatewayClock(Math.abs(date - Date.now()) > 2000 ? date : Date.now());
  return response.json();
}

/** What the point holds then; an error says why it does not hold it. */
async function writePoint(device, point, text) {
  // Named bits are an object; everything else is understood as it is typed.
  const value = text.startsWith("{") ? JSON.parse(text) : text;
  const path = `/api/v1/devices/${encodeURIComponent(device)}/points/${encodeURIComponent(point)}`;
  const response = await fetch(path, {
    method: "PUT",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ value }),
    signal: AbortSignal.timeout(WRITE_TIME_MAX_MS),
  });
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error ?? `the gateway answers ${response.status}`);
  pollSoon();
  return answer.value;
}

async function poll() {
  if (polling) return;
  polling = true;
  clearTimeout(pollTimer);
  try {
    const [status, clientList] = await Promise.all([fetchJson("/api/v1/status"), fetchJson(`/api/v1/clients?max=${CLIENTS_MAX}`)]);
    showStatus(status);
    showClients(clientList, status.broker.connections);
    byId("notice").hidden = true;
    byId("main").classList.remove("past");
  } catch (error) {
    showLost(error);
  } finally {
    polling = false;
    if (!document.hidden) pollTimer = setTimeout(poll, POLL_MS);
  }
}

function showLost(error) {
  const since = last ? ` What is shown is from ${clock(last.at)}.` : "";
  write(byId("notice"), `The gateway does not answer.${since}`);
  byId("notice").title = String(error);
  byId("notice").hidden = false;
  byId("main").classList.add("past");
  mark(byId("ready"), "bad", "no answer");
}

function showStatus(status) {
  document.title = `${status.gateway} \u2013 Tidegate`;
  write(byId("gateway"), status.gateway);
  write(byId("version"), `version ${status.version}`);
  write(byId("uptime"), `up ${duration(status.uptime_seconds)}`);
  mark(byId("clock"), status.clock_synchronised ? "" : "warn", status.clock_synchronised ? "" : "clock not set");
  mark(byId("ready"), status.ready ? "good" : "bad", status.ready ? "ready" : `not ready${status.reason ? `: ${status.reason}` : ""}`);
  showFigures(status);
  showList("bridges", bridges, status.bridges, (bridge) => bridge.state === "up");
  showList("devices", devices, status.devices, (device) => device.state === "online");
  for (const card of devices.views.values()) card.tick();
  showMachine(status);
  last = { status, at: Date.now() };
}

function showList(id, list, items, isWell) {
  list.update(items);
  const well = items.filter(isWell).length;
  write(byId(`${id}-count`), items.length === 0 ? "" : `${well} of ${items.length} ${id === "bridges" ? "up" : "online"}`);
  byId(`${id}-none`).hidden = items.length > 0;
}

/** Counts since the start become rates between two looks. */
function perSecond(now, field) {
  if (!last || last.status.started !== now.started) return 0;
  const seconds = (Date.now() - last.at) / 1000;
  return seconds > 0 ? Math.max(0, (now.broker[field] - last.status.broker[field]) / seconds) : 0;
}

function showFigures(status) {
  const { broker } = status;
  const [received, sent] = [perSecond(status, "messages_received"), perSecond(status, "messages_sent")];
  const queued = status.bridges.reduce((sum, bridge) => sum + bridge.queued_messages, 0);
  const queuedBytes = status.bridges.reduce((sum, bridge) => sum + bridge.queued_bytes, 0);
  const lost = status.bridges.flatMap((b) => Object.values(b.dropped)).reduce((sum, { messages }) => sum + messages, 0);
  const dropped = broker.messages_dropped + lost;
  const isFirst = last === null;
  const speed = (value) => (isFirst ? "\u2013" : `${rate(value)}/s`);
  figures.update([
    { name: "Clients", text: count(broker.connections), note: plural(broker.sessions, "session") },
    { name: "Messages in", text: speed(received), note: count(broker.messages_received), sample: isFirst ? null : received },
    { name: "Messages out", text: speed(sent), note: count(broker.messages_sent), sample: isFirst ? null : sent },
    { name: "Waiting for the cloud", text: count(queued), note: bytes(queuedBytes), sample: queued },
    { name: "Dropped", text: count(dropped), note: dropped > 0 ? "since the start" : "nothing lost", kind: dropped > 0 ? "bad" : "" },
    { name: "Subscriptions", text: count(broker.subscriptions), note: `${count(broker.retained)} retained` },
  ]);
}

function showMachine({ store, process, broker }) {
  machine.update([
    { name: "memory", text: bytes(process.rss_bytes) },
    { name: "processor time", text: duration(process.cpu_seconds) },
    { name: "database", text: bytes(store.database_bytes) },
    { name: "written to disk", text: bytes(store.bytes_written) },
    { name: "commits", text: count(store.commits) },
    { name: "rows", text: count(store.rows) },
    { name: "records waiting", text: count(store.records_waiting) },
    { name: "from clients", text: bytes(broker.bytes_received) },
    { name: "to clients", text: bytes(broker.bytes_sent) },
    { name: "clients refused", text: count(broker.connections_refused), kind: broker.connections_refused > 0 ? "warn" : "" },
  ]);
}

function showClients(list, connected) {
  clients.update(list, (client) => client.client_id);
  const more = list.length < CLIENTS_MAX ? count(list.length) : `first ${CLIENTS_MAX} of ${count(connected)}`;
  write(byId("clients-count"), list.length === 0 ? "" : more);
  byId("clients-none").hidden = list.length > 0;
}

// ---- Events: gathered, and shown once a frame. ----

function takeEvent(message) {
  const event = JSON.parse(message.data);
  if (waitingEvents.length === 0) requestAnimationFrame(showEvents);
  waitingEvents.push(event);
  // A hidden page draws no frames.
  if (waitingEvents.length > EVENTS_MAX) waitingEvents.shift();
  if (event.kind === "state") pollSoon();
}

/** Many states may change at once: that is one look. */
function pollSoon() {
  if (soon) return;
  soon = true;
  setTimeout(() => {
    soon = false;
    poll();
  }, SOON_MS);
}

function showEvents() {
  const events = waitingEvents;
  waitingEvents = [];
  const lines = [];
  for (const event of events) {
    if (event.kind === "reading") devices.views.get(event.device)?.reading(event);
    lines.unshift(eventLine(event, clock(event.time)));
  }
  const list = byId("events");
  list.prepend(...lines);
  // Each kind has room of its own: readings are many and must not push out the rest.
  for (const kind of [".reading", ":not(.reading)"]) {
    for (const line of [...list.querySelectorAll(`:scope > ${kind}`)].slice(EVENTS_MAX)) line.remove();
  }
  byId("events-none").hidden = list.childElementCount > 0;
}

function showLostEvents(message) {
  const { events } = JSON.parse(message.data);
  const line = { kind: "log", level: "warn", message: `${plural(events, "event")} came too fast to be shown`, time: gatewayNow() };
  takeEvent({ data: JSON.stringify(line) });
}

function follow() {
  stream?.close();
  stream = new EventSource("/api/v1/events");
  stream.addEventListener("hello", () => mark(byId("live"), "good", "live"));
  for (const kind of ["reading", "state", "log"]) stream.addEventListener(kind, takeEvent);
  stream.addEventListener("lost", showLostEvents);
  stream.addEventListener("error", () => {
    mark(byId("live"), "warn", "not live");
    // A browser tries again by itself, except after a refusal.
    if (stream.readyState === EventSource.CLOSED) setTimeout(() => document.hidden || follow(), STREAM_RETRY_MS);
  });
}

/** A page that nobody looks at asks for nothing. */
function handleVisibility() {
  if (document.hidden) {
    clearTimeout(pollTimer);
    stream?.close();
  } else {
    poll();
    follow();
  }
}

byId("readings").addEventListener("change", (change) => byId("events").classList.toggle("quiet", !change.target.checked));
document.addEventListener("visibilitychange", handleVisibility);
setInterval(() => devices.views.forEach((card) => card.tick()), 1000);
handleVisibility();
