//! The conformance table: what the standards ask of a server, as cases that an MQTT engineer can read, each played
//! against the gateway's brains and codec (`hub::core::Core`, `mqtt::frame`), bytes in, bytes out, in virtual time.
//! Encoder and reader of packets are this binary's own, so that an error of the gateway's cannot cancel itself out.
//!
//!     cargo test --test conformance                 all of them, and which statements they show
//!     cargo test --test conformance -- PART         those whose name (or file) holds PART
//!
//! A case is a block of lines in a `.txt` file of this folder; `#` begins a comment line:
//!
//!     case a second CONNECT ends the connection
//!     covers 3.1.1: 3.1.0-2  5.0: 3.1.0-2
//!     versions 3.1.1 5.0
//!       a > CONNECT a clean
//!       a < CONNACK 0
//!       a > CONNECT a clean
//!       a ended 0x82
//!
//! Head: `covers` names statements of `statements.txt`; `versions` are 3.1, 3.1.1 and 5.0 (without it: the latter two),
//! and the case is played once in each. `shown by FILE::FUNCTION` stands in place of steps where only sockets can
//! show it; the function has to be there. `each X = a b | c d` plays the case once for each of the values, `{X}` in the
//! steps being replaced (further lines of values begin with `| `).
//!
//! Settings, before the first step: `limits KEY VALUE` (keys of `broker.limits`), `anonymous never|loopback|always`
//! (default always), `user NAME PASSWORD`, `access { … }` (one rule, as in the configuration), `sys 10s`,
//! `buffer FILTER reject|drop-oldest|drop-newest 1MiB` (a bridge whose cloud is away; without the size: the default's).
//!
//! Steps. `a` is any name of a connection; a line may begin with `5.0: `, `3.1.1: `, `3.1: ` or `3.x: `.
//!
//! | step | |
//! |---|---|
//! | `a > PACKET` | the client sends; CONNECT (and `raw`) opens the connection where there is none |
//! | `a > raw 30 03 00 "a" "x"*70` | bytes, whether they are a packet, half of one or three |
//! | `a < PACKET` | the next packet that it gets within 1 s; fields that are not named must not be there |
//! | `a < raw 20 02 00 00` | the same, byte for byte |
//! | `a nothing` | it got nothing (more), and is open |
//! | `a open` | it is open |
//! | `a closed` | it got nothing more and the gateway closed it |
//! | `a ended 0x82` | the same; in 5.0 a DISCONNECT with that code comes first |
//! | `a opens`, `a opens from afar` | a connection without CONNECT yet; from another machine |
//! | `a cut` | its network connection is gone |
//! | `after 90s` | time passes: ms, s, m, h, d |
//! | `disk holds`, `disk commits`, `disk runs` | nothing becomes durable; all that waits does; by itself again (as at first) |
//! | `gateway crashes` | what is not durable is gone, a new process starts from the rest; a disk that holds goes on holding |
//! | `gateway stops` | it ends well; `gateway crashes` starts the next |
//! | `differ $a $b` | two names do not stand for the same |
//!
//! What comes and is not named by a step is an error: at the next connection, at `cut`, at a crash, at the end.
//!
//! Packets: a name, values by position, then switches and `field=value`; all properties of 5.0 are fields (`words.rs`
//! has the table; `user-property=name:value`; in CONNECT those of the will are `will.…`).
//!
//!     CONNECT ID clean|durable keep-alive= username= password=
//!             will=TOPIC will.payload= will.qos= will.retain will.delay=
//!             version=3.1.1 (this client's, whatever the case's) name= level= connect-flags= (wrong ones)
//!     CONNACK CODE present           PUBLISH TOPIC PAYLOAD qos= id= dup retain
//!     PUBACK|PUBREC|PUBREL|PUBCOMP ID CODE
//!     SUBSCRIBE ID FILTER qos= no-local retain-as-published retain-handling= options=0x3f FILTER …
//!     SUBACK ID CODE CODE…           UNSUBSCRIBE ID FILTER…
//!     UNSUBACK ID CODE… (3.x has no codes: they are not compared)
//!     PINGREQ  PINGRESP              DISCONNECT CODE             AUTH CODE
//!     any of them: flags=0x1 sets the lower bits of the first byte
//!
//! The keep alive is 60000 s where a case says nothing. `durable` keeps the session: an expiry of an hour in 5.0, no
//! Clean Session before. The limits that every CONNACK of 5.0 announces are compared only where a case names them.
//! A value is a word, or `"text \x00 \u{feff}"`, `"ab"*100`;
//! `$name` stands for what came there first, `*` for anything; `..` at the end lets other fields be there.

#![allow(clippy::print_stdout)] // it is the runner

mod case;
mod decode;
mod encode;
mod gateway;
mod play;
#[path = "../sim/rows.rs"]
mod rows;
mod settings;
mod statements;
mod words;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use self::case::Case;
use self::statements::{Coverage, Statement};

#[derive(Default)]
struct Tally {
    passed: usize,
    failures: Vec<(String, String)>,
    left_out: usize,
}

fn main() -> ExitCode {
    let started = Instant::now();
    let parts: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let mut tally = Tally::default();
    println!();
    for path in files() {
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        match case::parse(&format!("tests/conformance/{file}"), &text) {
            Ok(cases) => cases.iter().for_each(|case| run(case, &parts, &mut tally)),
            Err(faults) => tally.failures.extend(faults.into_iter().map(|fault| (file.clone(), fault))),
        }
    }
    if parts.is_empty() {
        let coverage = statements::read_project();
        println!("\n{}", report(&coverage, &statements::list(statements::LIST)));
    }
    if !tally.failures.is_empty() {
        println!("\nfailures:");
    }
    for (name, why) in &tally.failures {
        println!("\n---- {name}\n{why}");
    }
    let (passed, failed) = (tally.passed, tally.failures.len());
    let result = if failed == 0 { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {result}. {passed} passed; {failed} failed; 0 ignored; 0 measured; {} filtered out; finished in {:.2}s\n",
        tally.left_out,
        started.elapsed().as_secs_f64()
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(101) }
}

/// Those that hold cases, in order.
fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance");
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_cases = |path: &PathBuf| {
        path.extension().is_some_and(|extension| extension == "txt")
            && path.file_stem().is_some_and(|stem| stem != "statements")
    };
    let mut paths: Vec<PathBuf> = entries.filter(is_cases).collect();
    paths.sort();
    paths
}

fn run(case: &Case, parts: &[String], tally: &mut Tally) {
    let is_wanted = |part: &String| case.name.contains(part) || case.file.contains(part);
    if !parts.is_empty() && !parts.iter().any(is_wanted) {
        tally.left_out += case.versions.len();
        return;
    }
    if let Some((file, function)) = &case.shown_by {
        let text =
            std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap_or_default();
        let is_there = text.contains(&format!("fn {function}("));
        let why = format!("{}:{}: {file} has no test {function}", case.file, case.line);
        note(tally, case.name.clone(), if is_there { Ok(()) } else { Err(why) });
        return;
    }
    for version in &case.versions {
        let name = format!("{} ({version})", case.name);
        let played = catch_unwind(AssertUnwindSafe(|| play::play(case, *version)));
        let panicked = format!("{}:{}: the gateway panicked", case.file, case.line);
        note(tally, name, played.unwrap_or(Err(panicked)));
    }
}

fn note(tally: &mut Tally, name: String, result: Result<(), String>) {
    match result {
        Ok(()) => {
            println!("test {name} ... ok");
            tally.passed += 1;
        }
        Err(why) => {
            println!("test {name} ... FAILED");
            tally.failures.push((name, why));
        }
    }
}

/// One line, and what is missing in further ones.
fn report(coverage: &Coverage, list: &[Statement]) -> String {
    let lacking: Vec<String> = list.iter().filter_map(|statement| coverage.lacks(statement)).collect();
    let is_exempt = |statement: &&Statement| coverage.exempt.contains(*statement);
    let exempt: Vec<String> =
        list.iter().filter(is_exempt).map(|(version, id)| format!("{id} of {version}")).collect();
    let full = list.len() - lacking.len() - exempt.len();
    let head = format!("conformance: {} statements: {full} with code and case", list.len());
    let exempt = format!(", {} do not apply: {}", exempt.len(), exempt.join(", "));
    let open = format!("; {} are open:\n  {}", lacking.len(), lacking.join("\n  "));
    if lacking.is_empty() { head + &exempt } else { head + &exempt + &open }
}
