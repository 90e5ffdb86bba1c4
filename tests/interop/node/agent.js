// An agent (see agents.py) for MQTT.js: in node over TCP, its lines are standard input and output; in a page over
// WebSocket, the page carries them. Drives the library, judges nothing.
"use strict";

const library = globalThis.mqtt ?? require("mqtt");
const KEEP_ALIVE_SECONDS = 60;
const UNTOLD = -1;

const toHex = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
const textToHex = (text) => toHex(new TextEncoder().encode(text));
const fromHex = (text) => Uint8Array.from(text.match(/../g) ?? [], (pair) => parseInt(pair, 16));
const hexToText = (text) => new TextDecoder().decode(fromHex(text));

function fieldsOf(words) {
  return Object.fromEntries(words.map((word) => [word.slice(0, word.indexOf("=")), word.slice(word.indexOf("=") + 1)]));
}

// A property that comes several times is an array, and one that has a name is an object.
function userPairs(given) {
  return Object.entries(given).flatMap(([key, values]) => [values].flat().map((value) => [key, value]));
}

function publishProperties(fields) {
  const properties = {};
  if (fields.content_type !== undefined) properties.contentType = hexToText(fields.content_type);
  if (fields.response_topic !== undefined) properties.responseTopic = hexToText(fields.response_topic);
  if (fields.correlation !== undefined) properties.correlationData = fromHex(fields.correlation);
  if (fields.expiry !== undefined) properties.messageExpiryInterval = Number(fields.expiry);
  if (fields.alias !== undefined) properties.topicAlias = Number(fields.alias);
  if (fields.user !== undefined) {
    properties.userProperties = {};
    for (const [key, value] of fields.user.split(",").map((pair) => pair.split(":").map(hexToText))) {
      (properties.userProperties[key] ??= []).push(value);
    }
  }
  return properties;
}

function messageLine(topic, payload, packet) {
  const words = [`topic=${textToHex(topic)}`, `payload=${toHex(payload)}`, `qos=${packet.qos}`, `retain=${Number(packet.retain)}`];
  const given = packet.properties ?? {};
  if (given.contentType !== undefined) words.push(`content_type=${textToHex(given.contentType)}`);
  if (given.responseTopic !== undefined) words.push(`response_topic=${textToHex(given.responseTopic)}`);
  if (given.correlationData !== undefined) words.push(`correlation=${toHex(given.correlationData)}`);
  if (given.messageExpiryInterval !== undefined) words.push(`expiry=${given.messageExpiryInterval}`);
  if (given.subscriptionIdentifier !== undefined) words.push(`identifier=${[given.subscriptionIdentifier].flat().join(",")}`);
  if (given.userProperties !== undefined) {
    words.push(`user=${userPairs(given.userProperties).map((pair) => pair.map(textToHex).join(":")).join(",")}`);
  }
  return `- message ${words.join(" ")}`;
}

class Agent {
  constructor(url, say) {
    this.url = url;
    this.say = say;
    this.client = null;
  }

  handle(line) {
    const [id, verb, ...words] = line.split(" ");
    const done = (reason, more = "") => this.say(`${id} done reason=${reason ?? UNTOLD}${more}`);
    this[verb](fieldsOf(words), done);
  }

  connect(fields, done) {
    const options = {
      protocolVersion: Number(fields.version),
      clientId: hexToText(fields.client),
      username: hexToText(fields.username),
      password: hexToText(fields.password),
      clean: fields.clean === "1",
      keepalive: KEEP_ALIVE_SECONDS,
      reconnectPeriod: 0,
    };
    if (fields.expiry !== undefined) options.properties = { sessionExpiryInterval: Number(fields.expiry) };
    if (fields.will_topic !== undefined) {
      options.will = { topic: hexToText(fields.will_topic), payload: hexToText(fields.will_payload), qos: 1, retain: false };
    }
    const client = library.connect(this.url, options);
    this.client = client;
    client.on("connect", (connack) => done(0, ` present=${Number(connack.sessionPresent)}`));
    client.on("error", (error) => {
      if (!client.connected) done(error.code);
    });
    client.on("message", (topic, payload, packet) => this.say(messageLine(topic, payload, packet)));
  }

  subscribe(fields, done) {
    const options = { qos: Number(fields.qos), nl: fields.no_local === "1" };
    if (fields.identifier !== undefined) options.properties = { subscriptionIdentifier: Number(fields.identifier) };
    this.client.subscribe(hexToText(fields.filter), options, (error, _granted, packet) => {
      done((packet ?? error?.packet)?.granted[0]);
    });
  }

  unsubscribe(fields, done) {
    this.client.unsubscribe(hexToText(fields.filter), (error, packet) => done(error?.code ?? packet?.granted?.[0]));
  }

  publish(fields, done) {
    const options = { qos: Number(fields.qos), retain: fields.retain === "1" };
    const properties = publishProperties(fields);
    if (Object.keys(properties).length > 0) options.properties = properties;
    this.client.publish(hexToText(fields.topic), fromHex(fields.payload), options, (error, packet) => {
      // Of what was taken it gives the PUBLISH back, not the acknowledgement.
      done(error ? error.code : packet?.reasonCode);
    });
  }

  disconnect(_fields, done) {
    this.client.end(false, {}, () => done(0));
  }
}

if (globalThis.window === undefined) {
  const agent = new Agent(`mqtt://127.0.0.1:${process.argv[2]}`, (line) => process.stdout.write(`${line}\n`));
  const lines = require("node:readline").createInterface({ input: process.stdin });
  lines.on("line", (line) => agent.handle(line));
  lines.on("close", () => process.exit(0));
}
