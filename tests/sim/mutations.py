#!/usr/bin/env python3
"""Breaks the gateway's own code in known ways, one at a time, and shows that the simulator sees each.

Run on a clean tree: `tests/sim/mutations.py [NAME ...]`. Each file is put back afterwards. Exit code 0: all caught.
"""

import os
import pathlib
import re
import subprocess
import sys

SEEDS = 1000
ROOT = pathlib.Path(__file__).resolve().parents[2]

# Name, file, what stands there, what is to stand there.
MUTATIONS = [
    ("acknowledge-before-commit", "src/broker/barrier.rs",
     "if ticket.count == 0 {", "if ticket.count < u32::MAX {"),
    ("forget-a-release", "src/spool/window.rs",
     "let after = self.record_awaited(record, ledger);\n        self.releases",
     "let after = self.record_awaited(Record::InflightDrop { spool, packet_id }, ledger);\n"
     "        let _ = (record, seq);\n        self.releases"),
    ("resend-with-a-new-identifier", "src/spool/queue.rs",
     "Phase::Published => self.recover_published(packet_id, seq),", "Phase::Published => {}"),
    ("forget-identifiers-of-what-is-loaded", "src/spool/memory.rs",
     "if let Some(packet_id) = self.unloaded.remove(&slot.entry.seq) {",
     "if let Some(packet_id) = self.unloaded.remove(&slot.entry.seq).filter(|_| false) {"),
    ("pubrel-before-durable", "src/spool/window.rs",
     "if release.after > self.durable {", "if release.after > self.durable && self.head.len() > 1_000_000 {"),
    ("publish-before-its-identifier-is-durable", "src/spool/window.rs",
     "if after > self.durable || self.on_wire", "if self.on_wire"),
    ("forget-the-inbound-identifier", "src/spool/inbound.rs",
     "Arrival::New { after: self.record(log, record) }", "{ let _ = (record, log); Arrival::New { after: Lsn(0) } }"),
    ("qos-2-not-recorded-in-its-visit", "src/broker/publish.rs",
     "let urgent = session.durable;", "let urgent = false;"),
    ("qos-2-of-the-cloud-not-recorded-in-its-visit", "src/hub/core.rs",
     "let urgent = received.message.qos == QoS::ExactlyOnce;", "let urgent = false;"),
    ("pubcomp-before-durable", "src/broker/publish.rs",
     "if after > self.durable {", "if after > self.durable && after < Lsn(0) {"),
    ("safe-once-it-is-in-memory", "src/spool/queue.rs",
     "self.settle(&mut slot, urgent, now, ledger);",
     "self.settle(&mut slot, urgent, now, ledger);\n        ledger.released.extend(slot.hold.take());"),
    ("bridge-acknowledges-before-durable", "src/bridge/inlet.rs",
     "if front.outcome == Outcome::Waiting || after > self.durable {", "if front.outcome == Outcome::Waiting {"),
    ("bridge-takes-a-repeat-for-new", "src/bridge/inlet.rs",
     "match self.inbound.handle_publish(packet_id, log) {",
     "self.inbound.handle_release(packet_id, log);\n        match self.inbound.handle_publish(packet_id, log) {"),
    ("sequence-begins-anew", "src/spool/queue.rs",
     "self.next_seq = found.last_seq.0.saturating_add(1);", "self.next_seq = 1 + found.messages;"),
    ("retained-is-not-waited-for", "src/broker/retained.rs",
     "self.barrier.wait_for(ticket, lsn);", "let _ = (ticket, lsn);"),
    ("queue-loses-its-order-on-reconnect", "src/spool/window.rs",
     "        self.releases.rewind();\n        self.sent = 0;",
     "        self.releases.rewind();\n        if self.sent < 2 {\n            self.sent = 0;\n        }"),
    ("acknowledge-a-command-before-it-is-safe", "src/device/inbox.rs",
     "self.spool.offer(offer, commanded.urgent, now, ledger) == Offered::Accepted",
     "ledger.released.extend(commanded.hold);\n"
     "        self.spool.offer(Offer { hold: None, ..offer }, commanded.urgent, now, ledger) == Offered::Accepted"),
    ("forget-commands-at-a-start", "src/device/inbox.rs",
     "queue.recover(recovered.unwrap_or_default())", "queue.recover(RecoveredSpool::default())"),
    ("begin-commands-before-the-end-of-the-first", "src/device/inbox.rs",
     "COMMANDS_BEGUN_MAX: usize = 1;", "COMMANDS_BEGUN_MAX: usize = 4;"),
    ("repeat-a-command-unseen-after-a-crash", "src/device/write.rs",
     "in_doubt: order.repeated,", "in_doubt: false,"),
    ("repeat-a-write-unseen-after-a-lost-answer", "src/device/write.rs",
     "self.step = Step::Check;\n            self.in_doubt = true;", "self.step = Step::Write;"),
    ("forget-a-command-before-its-answer-is-safe", "src/device/inbox.rs",
     "urgent: recorded || exactly })", "urgent: (recorded || exactly) && hold.is_some() })"),
    ("connack-before-its-record", "src/broker/connect.rs",
     "(recorded && self.outage.is_none()).then(", "(recorded && self.outage.is_some()).then("),
    ("forget-wills-at-a-start", "src/broker/recover.rs",
     "session.will = Some(Arc::new(will));", "let _ = (session, Arc::new(will));"),
    ("publish-a-will-after-disconnect", "src/broker/close.rs",
     "if disconnect.reason == ReasonCode::Success\n", "if disconnect.reason != ReasonCode::Success\n"),
    ("publish-a-will-without-its-delay", "src/broker/session.rs",
     "now + delay.min(self.expiry()).saturating_sub(away)", "now + delay.min(Duration::ZERO).saturating_sub(away)"),
    ("unsuback-before-durable", "src/broker/subscribe.rs",
     "last = Some(visit.out.ledger.log.push(Record::SubscriptionDrop { spool, filter }));",
     "last = Some(visit.out.ledger.log.push(Record::SubscriptionDrop { spool, filter })).filter(|_| false);"),
    ("go-on-after-unsubscribe", "src/broker/subscribe.rs",
     "self.router.unsubscribe(session_key, filter);", ""),
    ("a-member-takes-its-messages-along", "src/broker/subscribe.rs",
     "self.deliver_orphan(orphan, group, visit);",
     "visit.out.ledger.released.extend(orphan.hold.filter(|_| self.router.members(group).count() < 99));"),
    ("aliases-are-mixed-up", "src/broker/publish.rs",
     "link.set_alias(alias, topic.clone());", "link.set_alias(alias.min(1), topic.clone());"),
    ("more-aliases-than-the-client-takes", "src/broker/connect.rs",
     "topic_alias_max: connect.properties.topic_alias_maximum.unwrap_or(0),",
     "topic_alias_max: connect.properties.topic_alias_maximum.unwrap_or(0) + 1,"),
    ("send-what-has-expired", "src/spool/window.rs", "expired || aged\n", "aged\n"),
    ("take-a-new-session-for-the-old", "src/spool/inbound.rs",
     "if !self.recovered.contains(&id) {", "if self.recovered.len() < 1000 || !self.recovered.contains(&id) {"),
    ("keep-nothing-free", "src/bridge/mod.rs",
     "let spare = bytes.saturating_sub(buffer.keep_free_bytes);", "let spare = bytes;"),
    ("publish-as-fast-as-you-like", "src/broker/throttle.rs",
     "let fits = until <= now + BURST;", "let fits = until <= now + BURST * 1000;"),
    ("losses-are-not-counted", "src/spool/shares.rs",
     "self.tally.get_or_insert_default().add(loss, bytes as u64);", "let _ = self.tally.get_or_insert_default();"),
    ("the-second-bridge-is-not-waited-for", "src/broker/deliver.rs",
     "hold: publication.ticket.as_mut().filter(|_| waits).map(Ticket::hold),",
     "hold: publication.ticket.as_mut().filter(|_| waits && bridge == 0).map(Ticket::hold),"),
    ("a-stop-forgets-what-gathers", "src/device/publish.rs",
     "self.outlet.close_all(now, out);", "let _ = (now, out);"),
    ("a-batch-loses-a-member", "src/device/outlet.rs",
     "for entry in self.entries.drain(..) {", "for entry in self.entries.drain(..).take(2) {"),
    ("a-batch-is-said-twice", "src/device/outlet.rs",
     "for entry in self.entries.drain(..) {",
     "for entry in self.entries.iter().map(|entry| Entry { payload: entry.payload.clone(), at: entry.at }) {"),
    ("part-before-all-is-told", "src/broker/close.rs",
     "link.parting = !link.owes_nothing();", "link.parting = false;"),
]


def play():
    """Whether the simulator fails, and by which seed; None where the mutation does not even build."""
    environment = dict(os.environ, TIDEGATE_SIM_SEEDS=str(SEEDS), TIDEGATE_SIM_FAILURES="1", RUST_BACKTRACE="0")
    environment.pop("TIDEGATE_SIM_SEED", None)
    build = ["cargo", "test", "-q", "--test", "sim", "--no-run"]
    if subprocess.run(build, cwd=ROOT, env=environment, capture_output=True).returncode != 0:
        return None
    command = ["cargo", "test", "-q", "--test", "sim", "--", "--nocapture", "what_was_promised"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, errors="replace")
    text = done.stdout + done.stderr
    seed = re.search(r"seed (\d+) failed", text)
    said = re.search(r"panicked at [^\n]*\n([^\n]*)", text)
    return (done.returncode != 0 and seed is not None, seed and seed[1], said and said[1][:100])


def main():
    missed = []
    for name, path, before, after in MUTATIONS:
        if len(sys.argv) > 1 and name not in sys.argv[1:]:
            continue
        file = ROOT / path
        text = file.read_text()
        if text.count(before) != 1:
            print(f"{name}: {path} has changed: {text.count(before)} places")
            missed.append(name)
            continue
        try:
            file.write_text(text.replace(before, after))
            result = play()
        finally:
            file.write_text(text)
        if result is None:
            print(f"{name}: does not build")
        elif result[0]:
            print(f"{name}: caught by seed {result[1]}: {result[2]}", flush=True)
            continue
        else:
            print(f"{name}: MISSED in {SEEDS} seeds")
        sys.stdout.flush()
        missed.append(name)
    print(f"{len(missed)} missed: {missed}" if missed else "all caught")
    sys.exit(bool(missed))


main()
