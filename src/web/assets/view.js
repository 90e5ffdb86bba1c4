// Pieces of the page. Text only ever enters as text, never as markup. Knows no network.

import { bytes, count, duration, plural, value } from "./format.js";

const HISTORY_MAX = 60;
/** Fewer values than these fill no line. */
const HISTORY_MIN = 15;
let clockAhead = 0;

/** The gateway's clock in milliseconds: a browser's own may be off. */
export function gatewayNow() {
  return Date.now() + clockAhead;
}

export function setGatewayClock(time) {
  clockAhead = time - Date.now();
}

export function element(tag, className, ...children) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...children);
  return node;
}

/** Writes only what changed, so that a selection survives. */
export function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function mark(node, kind, text) {
  const className = `state ${kind}`;
  if (node.className !== className) node.className = className;
  write(node, text);
}

/** One view a key: made when it appears, updated while it is there, removed with it. */
export class Keyed {
  constructor(parent, make) {
    this.parent = parent;
    this.make = make;
    this.views = new Map();
  }

  update(items, key = (item) => item.name) {
    const gone = new Set(this.views.keys());
    items.forEach((item, index) => {
      const name = key(item);
      gone.delete(name);
      let view = this.views.get(name);
      if (!view) {
        view = this.make(item);
        this.views.set(name, view);
      }
      if (this.parent.children[index] !== view.node) this.parent.insertBefore(view.node, this.parent.children[index] ?? null);
      view.update(item);
    });
    for (const name of gone) {
      this.views.get(name).node.remove();
      this.views.delete(name);
    }
  }
}

/** The last values as a line; a rate's begins at zero, so that noise stays small. */
export class Spark {
  constructor(label, base = Infinity) {
    this.base = base;
    const space = "http://www.w3.org/2000/svg";
    this.node = document.createElementNS(space, "svg");
    this.line = document.createElementNS(space, "polyline");
    this.node.setAttribute("class", "spark");
    this.node.setAttribute("viewBox", "0 0 100 24");
    this.node.setAttribute("preserveAspectRatio", "none");
    this.node.setAttribute("role", "img");
    this.node.setAttribute("aria-label", label);
    this.node.append(this.line);
    this.values = [];
  }

  push(number) {
    this.values.push(number);
    if (this.values.length > HISTORY_MAX) this.values.shift();
    const low = Math.min(this.base, ...this.values);
    const span = Math.max(...this.values) - low;
    const step = 100 / (Math.max(this.values.length, HISTORY_MIN) - 1);
    const start = 100 - (this.values.length - 1) * step;
    const height = (v) => (span === 0 ? 12 : 22 - ((v - low) / span) * 20);
    this.line.setAttribute("points", this.values.map((v, n) => `${(start + n * step).toFixed(1)},${height(v).toFixed(1)}`).join(" "));
  }
}

export class Figure {
  constructor({ name }) {
    this.number = element("span", "number");
    this.note = element("span", "note");
    this.spark = null;
    this.node = element("div", "figure", element("span", "label", name), this.number, this.note);
  }

  update({ name, text, note = "", sample = null, kind = "" }) {
    write(this.number, text);
    write(this.note, note);
    this.node.className = `figure ${kind}`;
    if (sample === null) return;
    if (!this.spark) {
      this.spark = new Spark(name, 0);
      this.node.append(this.spark.node);
    }
    this.spark.push(sample);
  }
}

/** Names and values; a row is {name, text, kind?, title?}. */
export class Row {
  constructor({ name }) {
    this.text = element("dd", "");
    this.node = element("div", "", element("dt", "", name), this.text);
  }

  update({ text, kind = "", title = "" }) {
    write(this.text, text);
    this.node.className = kind;
    this.node.title = title;
  }
}

const BRIDGE_KINDS = { up: "good", connecting: "warn", down: "bad" };
const DEVICE_KINDS = { online: "good", offline: "bad", unknown: "idle" };
const QUALITY_KINDS = { good: "good", stale: "warn", bad: "bad" };

function fillKind(part) {
  if (part >= 0.95) return "bad";
  return part >= 0.8 ? "warn" : "";
}

export class BridgeCard {
  constructor({ name }) {
    this.state = element("span", "state");
    this.url = element("span", "link");
    this.since = element("span", "since");
    this.fill = element("div", "fill");
    this.meter = element("div", "meter", this.fill);
    this.meter.setAttribute("role", "meter");
    this.meter.setAttribute("aria-label", `Buffer of ${name}`);
    this.meter.setAttribute("aria-valuemin", "0");
    this.meter.setAttribute("aria-valuemax", "100");
    this.waiting = element("span", "waiting");
    this.room = element("span", "room");
    this.rows = element("dl", "rows");
    this.list = new Keyed(this.rows, (row) => new Row(row));
    this.error = element("p", "error");
    this.last = null;
    this.node = element(
      "article", "card",
      element("header", "", element("h3", "", name), this.state, this.since, this.url),
      element("div", "buffer", element("div", "legend", this.waiting, this.room), this.meter),
      this.rows, this.error,
    );
  }

  update(bridge) {
    mark(this.state, BRIDGE_KINDS[bridge.state] ?? "idle", bridge.state);
    write(this.url, bridge.url);
    write(this.since, `for ${duration((gatewayNow() - Date.parse(bridge.since)) / 1000)}`);
    const part = bridge.buffer_bytes_max > 0 ? Math.min(1, bridge.queued_bytes / bridge.buffer_bytes_max) : 0;
    this.fill.style.width = `${part > 0 ? Math.max(0.5, part * 100) : 0}%`;
    this.fill.className = `fill ${fillKind(part)}`;
    this.meter.setAttribute("aria-valuenow", (part * 100).toFixed(1));
    write(this.waiting, bridge.queued_messages === 0 ? "nothing waits" : `${plural(bridge.queued_messages, "message")} waiting${this.trend(bridge)}`);
    write(this.room, `${bytes(bridge.queued_bytes)} of ${bytes(bridge.buffer_bytes_max)}`);
    const lost = Object.entries(bridge.dropped).filter(([, { messages }]) => messages > 0);
    const dropped = lost.reduce((sum, [, { messages }]) => sum + messages, 0);
    const reasons = lost.map(([reason, { messages, bytes: held }]) => `${reason.replaceAll("_", " ")} ${messages} (${bytes(held)})`);
    const died = Object.entries(bridge.died).filter(([, messages]) => messages > 0).map(([reason, messages]) => `${reason.replaceAll("_", " ")} ${messages}`);
    this.list.update([
      { name: "forwarded", text: count(bridge.forwarded) },
      { name: "received", text: count(bridge.received) },
      { name: "bytes", text: `${bytes(bridge.sent_bytes)} up, ${bytes(bridge.received_bytes)} down`, title: perMessage(bridge) },
      { name: "in flight", text: count(bridge.inflight) },
      { name: "dropped", text: count(dropped), kind: dropped > 0 ? "bad" : "", title: reasons.join(", ") || "nothing was lost" },
      { name: "dead letters", text: count(bridge.dead_letters), kind: bridge.dead_letters > 0 ? "warn" : "", title: died.join(", ") || "every message could be delivered" },
      { name: "sent again", text: count(bridge.possible_duplicates), title: "messages that the cloud may have seen twice" },
    ]);
    write(this.error, bridge.last_error ?? bridge.degraded.join("; "));
    this.error.className = bridge.state === "up" ? "error past" : "error";
  }

  /** How the buffer moves since the last look. */
  trend(bridge) {
    const [last, at] = [this.last, performance.now()];
    this.last = { queued: bridge.queued_messages, at };
    if (!last || at - last.at < 500) return this.lastTrend ?? "";
    const speed = ((bridge.queued_messages - last.queued) * 1000) / (at - last.at);
    this.lastTrend = "";
    if (speed < -1) this.lastTrend = `, empty in about ${duration(Math.ceil(bridge.queued_messages / -speed))}`;
    if (speed > 0.2) this.lastTrend = `, ${speed < 10 ? speed.toFixed(1) : count(speed)} more a second`;
    return this.lastTrend;
  }
}

/** What a message costs on its way up: bytes of MQTT, without TLS. */
function perMessage({ sent_bytes_per_message: each, sent_messages: sent }) {
  return each === null ? "no message was sent yet" : `${each} bytes a message (${plural(sent, "message")}), without TLS`;
}

/** A value for a point: opens below its row, and says what came of it. */
class WriteForm {
  constructor(name, command) {
    this.command = command;
    this.input = element("input", "");
    this.input.setAttribute("aria-label", `New value of ${name}`);
    this.input.autocomplete = "off";
    this.input.spellcheck = false;
    this.send = element("button", "", "write");
    this.outcome = element("span", "outcome");
    this.outcome.setAttribute("role", "status");
    this.form = element("form", "", this.input, this.send, this.outcome);
    this.form.hidden = true;
    this.form.addEventListener("submit", (submit) => {
      submit.preventDefault();
      this.submit();
    });
    this.form.addEventListener("keydown", (key) => key.key === "Escape" && this.toggle(""));
    this.opener = element("button", "tag", "set");
    this.opener.type = "button";
    this.opener.title = `write a value to ${name}`;
    this.opener.setAttribute("aria-expanded", "false");
    this.node = element("td", "write", this.form);
  }

  toggle(current) {
    this.form.hidden = !this.form.hidden;
    this.opener.setAttribute("aria-expanded", String(!this.form.hidden));
    if (this.form.hidden) return this.opener.focus();
    this.tell("", "");
    this.input.value = current;
    this.input.select();
    this.input.focus();
  }

  async submit() {
    this.send.disabled = true;
    this.tell("", "writing\u2026");
    try {
      const held = await this.command(this.input.value.trim());
      this.tell("good", `holds ${value(held)}`);
    } catch (error) {
      this.tell("bad", error.message);
    } finally {
      this.send.disabled = false;
    }
  }

  tell(kind, text) {
    this.outcome.className = `outcome ${kind}`;
    write(this.outcome, text);
  }
}

/** As it would be typed. */
function typed(current) {
  if (current === null || current === undefined) return "";
  return typeof current === "object" ? JSON.stringify(current) : String(current);
}

class PointRow {
  constructor({ name, writable }, command) {
    this.value = element("span", "value");
    this.unit = element("td", "unit");
    this.fault = element("td", "fault");
    this.quality = element("span", "state");
    this.age = element("span", "age");
    this.spark = new Spark(name);
    this.time = null;
    this.decimals = 0;
    const title = element("th", "", name);
    title.scope = "row";
    this.current = null;
    this.form = writable ? new WriteForm(name, (text) => command(name, text)) : null;
    this.form?.opener.addEventListener("click", () => this.form.toggle(typed(this.current)));
    if (this.form) title.append(this.form.opener);
    this.node = element(
      "tr", "", title,
      element("td", "trend", this.spark.node),
      element("td", "reading", this.value),
      this.unit,
      element("td", "quality", this.quality),
      element("td", "when", this.age),
      this.fault,
    );
    if (this.form) this.node.append(this.form.node);
  }

  /** A poll may bring an older reading than an event did. */
  update(point) {
    const time = point.time === null ? null : Date.parse(point.time);
    if (this.time !== null && time !== null && time < this.time) return;
    const isNew = time !== null && time !== this.time;
    this.time = time;
    this.current = point.value;
    write(this.fault, point.error ?? "");
    write(this.value, this.aligned(point.value));
    write(this.unit, point.unit ?? "");
    mark(this.quality, QUALITY_KINDS[point.quality] ?? "idle", point.quality ?? "no reading");
    this.node.className = point.quality === "good" ? "" : "dim";
    if (isNew && typeof point.value === "number") this.spark.push(point.value);
    if (isNew && typeof point.value === "boolean") this.spark.push(Number(point.value));
  }

  /** With as many decimals as the point has shown before, so that 228 after 228.5 does not jump. */
  aligned(number) {
    if (typeof number !== "number") return value(number);
    const decimals = /^-?\d+\.(\d{1,4})$/.exec(String(number))?.[1].length ?? 0;
    this.decimals = Math.max(this.decimals, decimals);
    return Number.isInteger(number) || decimals > 0 ? number.toFixed(this.decimals) : String(number);
  }

  tick() {
    write(this.age, this.time === null ? "" : duration((gatewayNow() - this.time) / 1000));
  }
}

export class DeviceCard {
  /** `command(device, point, text)` writes a value, and says what the point holds then. */
  constructor({ name }, command) {
    this.identity = element("p", "identity");
    this.state = element("span", "state");
    this.link = element("span", "link");
    this.polls = element("span", "since");
    this.error = element("p", "error");
    this.body = element("tbody", "");
    this.points = new Keyed(this.body, (point) => new PointRow(point, (of, text) => command(name, of, text)));
    this.node = element(
      "article", "card",
      element("header", "", element("h3", "", name), this.state, this.polls, this.link),
      this.identity,
      element("table", "points", this.body), this.error,
    );
  }

  update(device) {
    mark(this.state, DEVICE_KINDS[device.state] ?? "idle", device.state);
    write(this.link, device.link);
    const revision = device.revision ? `revision ${device.revision}` : null;
    write(this.identity, [device.vendor, device.product, revision].filter(Boolean).join(", "));
    write(this.polls, `${plural(device.polls, "poll")}${device.errors > 0 ? `, ${plural(device.errors, "error")}` : ""}`);
    write(this.error, device.last_error ?? "");
    this.error.className = device.state === "online" ? "error past" : "error";
    this.points.update(device.points);
  }

  reading(event) {
    this.points.views.get(event.point)?.update(event);
  }

  tick() {
    for (const row of this.points.views.values()) row.tick();
  }
}

export class ClientRow {
  constructor({ client_id }) {
    [this.link, this.since] = [element("span", "link"), element("span", "since")];
    this.node = element("li", "", element("span", "client", client_id), this.link, this.since);
  }

  /** One that came again is the same row. */
  update({ user, address, protocol, queued_messages, connected_since }) {
    const who = user === null ? address : `${user} at ${address}`;
    const waiting = queued_messages === 0 ? "" : `, ${count(queued_messages)} waiting`;
    write(this.link, `${who}, MQTT ${protocol}${waiting}`);
    write(this.since, duration((gatewayNow() - Date.parse(connected_since)) / 1000));
  }
}

/** What happened, as a line. */
export function eventLine(event, time) {
  const [what, kind] = eventText(event);
  return element("li", `${event.kind} ${kind}`, element("time", "", time), element("span", "what", ...what));
}

function eventText(event) {
  if (event.kind === "reading") {
    const name = element("span", "subject", `${event.device} ${event.point}`);
    const text = ` ${value(event.value)}${event.unit ? ` ${event.unit}` : ""}`;
    const quality = event.quality === "good" ? "" : ` (${event.quality}${event.error ? `: ${event.error}` : ""})`;
    return [[name, text, quality], QUALITY_KINDS[event.quality] ?? ""];
  }
  if (event.kind === "state") {
    const name = element("span", "subject", event.bridge ?? event.device);
    const kind = BRIDGE_KINDS[event.state] ?? DEVICE_KINDS[event.state] ?? "";
    return [[event.bridge ? "bridge " : "device ", name, ` is ${event.state}`, event.reason ? `: ${event.reason}` : ""], kind];
  }
  return [[event.message], { error: "bad", warn: "warn" }[event.level] ?? ""];
}
