//! Plays one case in one version: sends what its clients send and compares what they get, word for word.

use std::collections::BTreeMap;

use bytes::Buf;
use tidegate::base::time::Duration;

use super::case::{Action, Bytes, Case};
use super::decode::{decode, show_hex};
use super::encode::encode;
use super::gateway::{Client, Gateway};
use super::words::{Value, Version, Words, code_text};

/// How long `<` and `closed` wait: longer than a message for an online client stays off the disk.
const PATIENCE: Duration = Duration::from_secs(1);

struct Play {
    gateway: Gateway,
    version: Version,
    /// What `$name` stands for.
    names: BTreeMap<String, Vec<u8>>,
}

/// An error names the line, what was wanted and what came.
pub fn play(case: &Case, version: Version) -> Result<(), String> {
    let at = |line: usize| format!("{}:{line}", case.file);
    let gateway = Gateway::start(&case.settings).map_err(|why| format!("{}: {why}", at(case.line)))?;
    let mut play = Play { gateway, version, names: BTreeMap::new() };
    let steps = case.steps.iter().filter(|step| step.versions.contains(&version));
    for step in steps {
        play.step(&step.action).map_err(|why| format!("{}: {why}", at(step.line)))?;
    }
    let last = case.steps.last().map_or(case.line, |step| step.line);
    play.end().map_err(|why| format!("{}: at the end of the case: {why}", at(last)))
}

impl Play {
    fn step(&mut self, action: &Action) -> Result<(), String> {
        match action {
            Action::Open { client, loopback } => self.open(client, self.version, *loopback),
            Action::Send(client, bytes) => self.send(client, bytes),
            Action::Expect(client, bytes) => self.expect(client, bytes),
            Action::Nothing(client) => self.nothing(client),
            Action::IsOpen(client) if self.client(client)?.closed => Err(format!("{client} was closed")),
            Action::IsOpen(_) => Ok(()),
            Action::Closed(client) => self.closed(client),
            Action::Ended(client, code) => self.ended(client, *code),
            Action::Cut(client) => {
                self.leave(client)?;
                self.gateway.cut(client);
                Ok(())
            }
            Action::After(time) => {
                self.gateway.after(*time);
                Ok(())
            }
            Action::DiskHolds => {
                self.gateway.disk_held = true;
                Ok(())
            }
            Action::DiskCommits => {
                self.gateway.commit();
                Ok(())
            }
            Action::DiskRuns => {
                self.gateway.disk_held = false;
                self.gateway.commit();
                Ok(())
            }
            Action::Crash => {
                self.leave_all()?;
                self.gateway.crash();
                Ok(())
            }
            Action::Stop => {
                self.gateway.stop();
                Ok(())
            }
            Action::Differ(names) => self.differ(names),
        }
    }

    fn client(&mut self, name: &str) -> Result<&mut Client, String> {
        self.gateway.clients.get_mut(name).ok_or(format!("{name} has no connection"))
    }

    fn open(&mut self, name: &str, version: Version, loopback: bool) -> Result<(), String> {
        if self.gateway.clients.contains_key(name) {
            self.leave(name)?;
            if !self.client(name)?.closed {
                return Err(format!("{name} has a connection; cut it first"));
            }
            self.gateway.cut(name);
        }
        self.gateway.open(name, version, loopback)
    }

    fn send(&mut self, name: &str, bytes: &Bytes) -> Result<(), String> {
        let words = match bytes {
            Bytes::Packet(words) => Some(words.resolve(&self.names)?),
            Bytes::Raw(_) => None,
        };
        let own = words.as_ref().and_then(|words| words.get("version")).map(String::from_utf8_lossy);
        let own = match own {
            Some(text) => Some(Version::parse(&text).ok_or(format!("{text} is no version"))?),
            None => None,
        };
        let is_away = self.gateway.clients.get(name).is_none_or(|client| client.closed);
        let begins = words.as_ref().is_none_or(|words| words.number == 1);
        if is_away && begins {
            self.open(name, own.unwrap_or(self.version), true)?;
        }
        let client = self.client(name)?;
        if client.closed {
            return Err(format!("{name} was closed"));
        }
        client.version = own.unwrap_or(client.version);
        let sent = match (bytes, words) {
            (Bytes::Raw(bytes), _) => bytes.clone(),
            (Bytes::Packet(_), Some(words)) => {
                client.end_expected |= words.number == 14;
                encode(&words, client.version)?
            }
            (Bytes::Packet(_), None) => Vec::new(),
        };
        self.gateway.receive(name, &sent);
        Ok(())
    }

    /// Lets time pass until `ready`, but not beyond the patience of a client.
    fn wait(&mut self, name: &str, ready: impl Fn(&Client) -> bool) {
        let end = self.gateway.instant() + PATIENCE;
        while self.gateway.clients.get(name).is_some_and(|client| !ready(client)) && self.gateway.step(end) {}
    }

    /// The next packet that the client got.
    fn next(&mut self, name: &str) -> Result<Option<Words>, String> {
        let client = self.client(name)?;
        let Some((words, length)) = decode(&client.output, client.version)? else {
            let left = client.output.is_empty();
            return if left { Ok(None) } else { Err(format!("half a packet: {}", show_hex(&client.output))) };
        };
        client.output.advance(length);
        Ok(Some(words))
    }

    fn expect(&mut self, name: &str, wanted: &Bytes) -> Result<(), String> {
        self.client(name)?;
        self.wait(name, |client| !client.output.is_empty() || client.closed);
        let words = match wanted {
            Bytes::Packet(words) => words,
            Bytes::Raw(raw) => return self.expect_raw(name, raw),
        };
        let Some(got) = self.next(name)? else {
            let end = if self.client(name)?.closed { "it was closed" } else { "nothing" };
            return Err(format!("wanted: {wanted}\n     got: {end}"));
        };
        let mut words = words.clone();
        if words.number == 11 && self.client(name)?.version != Version::V5 {
            words.fields.retain(|(field, _)| field != "code");
        }
        if words.matches(&got, &mut self.names) {
            return Ok(());
        }
        Err(format!("wanted: {wanted}\n     got: {got}"))
    }

    fn expect_raw(&mut self, name: &str, raw: &[u8]) -> Result<(), String> {
        let client = self.client(name)?;
        if client.output.starts_with(raw) {
            client.output.advance(raw.len());
            return Ok(());
        }
        Err(format!("wanted: {}\n     got: {}", show_hex(raw), show_hex(&client.output)))
    }

    fn nothing(&mut self, name: &str) -> Result<(), String> {
        match self.next(name)? {
            None if self.client(name)?.closed => Err("wanted: nothing\n     got: it was closed".into()),
            None => Ok(()),
            Some(got) => Err(format!("wanted: nothing\n     got: {got}")),
        }
    }

    fn closed(&mut self, name: &str) -> Result<(), String> {
        self.client(name)?;
        self.wait(name, |client| client.closed);
        if let Some(got) = self.next(name)? {
            return Err(format!("wanted: closed\n     got: {got}"));
        }
        let client = self.client(name)?;
        client.end_expected = true;
        if client.closed { Ok(()) } else { Err(format!("{name} was not closed")) }
    }

    fn ended(&mut self, name: &str, code: u8) -> Result<(), String> {
        if self.client(name)?.version == Version::V5 {
            let mut words = Words::new(14);
            words.fields.push(("code".into(), Value::Bytes(code_text(code.into()))));
            self.expect(name, &Bytes::Packet(words))?;
        }
        self.closed(name)
    }

    fn differ(&self, names: &[String]) -> Result<(), String> {
        let mut values = Vec::new();
        for name in names {
            let value = self.names.get(name).ok_or(format!("${name} stands for nothing yet"))?;
            if values.contains(&value) {
                return Err(format!("${name} is not another: {}", String::from_utf8_lossy(value)));
            }
            values.push(value);
        }
        Ok(())
    }

    /// Nothing came that the case has not looked at, and no end.
    fn leave(&mut self, name: &str) -> Result<(), String> {
        if let Some(got) = self.next(name)? {
            return Err(format!("{name} got what the case does not name: {got}"));
        }
        let client = self.client(name)?;
        if client.closed && !client.end_expected {
            return Err(format!("{name} was closed, which the case does not name"));
        }
        Ok(())
    }

    fn leave_all(&mut self) -> Result<(), String> {
        let names: Vec<String> = self.gateway.clients.keys().cloned().collect();
        names.iter().try_for_each(|name| self.leave(name))
    }

    fn end(&mut self) -> Result<(), String> {
        self.gateway.after(PATIENCE);
        self.leave_all()
    }
}
