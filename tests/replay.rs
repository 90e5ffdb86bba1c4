//! What fuzzing starts from and what it found, without a fuzzer: the seeds and regressions of fuzz/ through the same
//! checks, and some sessions made by chance from a fixed seed. Finds nothing new by itself; `fuzz/run` does.

#[path = "../fuzz/checks/expression.rs"]
mod expression;
#[path = "../fuzz/checks/frame.rs"]
mod frame;
#[path = "../fuzz/checks/framing.rs"]
mod framing;
#[path = "../fuzz/checks/packet.rs"]
mod packet;
#[path = "../fuzz/checks/session/mod.rs"]
mod session;
#[path = "../fuzz/checks/sparkplug.rs"]
mod sparkplug;
#[path = "../fuzz/checks/topic.rs"]
mod topic;

use std::fs;
use std::path::Path;

const EXPRESSIONS: usize = 20_000;
const EXPRESSION_BYTES: usize = 200;
const SESSIONS: usize = 200;
const STEPS: usize = 80;
const FRAMINGS: usize = 5_000;
/// Of each kind of framing, so that what holds holds of something.
const FRAMES_MIN: usize = 100;

/// Two digits are a byte, what stands in quotation marks is text without blanks, `#` begins a comment.
fn read(text: &str) -> Vec<u8> {
    let words = text.lines().filter(|line| !line.starts_with('#')).flat_map(str::split_whitespace);
    let bytes = words.map(|word| match word.strip_prefix('"') {
        Some(text) => text.strip_suffix('"').expect("a closing mark").as_bytes().to_vec(),
        None => vec![u8::from_str_radix(word, 16).expect("two digits")],
    });
    bytes.flatten().collect()
}

/// Says which input it was where a check fails.
struct Named(String);

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the input was {}", self.0);
        }
    }
}

fn replay(target: &str, check: fn(&[u8])) {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let mut inputs = 0;
    for folder in ["seeds", "regressions"] {
        for file in fs::read_dir(fuzz.join(folder).join(target)).into_iter().flatten() {
            let path = file.expect("a file").path();
            let _named = Named(path.display().to_string());
            check(&read(&fs::read_to_string(&path).expect("a text")));
            inputs += 1;
        }
    }
    assert!(inputs > 0, "no seed of {target}");
}

#[test]
fn seeds_and_regressions_hold() {
    replay("expression", expression::check);
    replay("frame", frame::check);
    replay("framing", framing::check);
    replay("packet", packet::check);
    replay("session", session::check);
    replay("sparkplug", sparkplug::check);
    replay("topic", topic::check);
}

#[test]
fn expressions_by_chance_hold() {
    let mut random = fastrand::Rng::with_seed(1);
    for _ in 0..EXPRESSIONS {
        let bytes = (0..EXPRESSION_BYTES).map(|_| random.u8(..));
        // A tree.
        let input: Vec<u8> = std::iter::once(1).chain(bytes).collect();
        expression::check(&input);
    }
}

#[test]
fn framings_by_chance_hold() {
    let letters = [b'<', b'<', b'>', b'>', b'-', b'a', 0, 3, 5, 9, 0xF0, 0xF1, 0xF2];
    // By the first byte, which says how frames end.
    let mut frames = [0; 4];
    for seed in 0..FRAMINGS {
        let _named = Named(format!("the framing of seed {seed}"));
        let mut random = fastrand::Rng::with_seed(seed as u64);
        let mut input: Vec<u8> = (0..16).map(|_| random.u8(..)).collect();
        let mut letter =
            || if random.u8(..8) == 0 { random.u8(..) } else { letters[random.usize(..letters.len())] };
        input.extend((0..200).map(|_| letter()));
        frames[usize::from(input[0] % 4)] += framing::frames_in(&input);
    }
    assert!(frames.iter().all(|frames| *frames > FRAMES_MIN), "{frames:?}");
}

#[test]
fn sessions_by_chance_hold() {
    for seed in 0..SESSIONS {
        let _named = Named(format!("the session of seed {seed}"));
        let mut random = fastrand::Rng::with_seed(seed as u64);
        let mut input: Vec<u8> = (0..session::RECORD_BYTES).map(|_| random.u8(..)).collect();
        for _ in 0..STEPS {
            input.push(session::LETTERS[random.usize(..session::LETTERS.len())]);
            // Mostly few clients, few topics, no flags.
            let numbers = 1..session::RECORD_BYTES;
            input.extend(numbers.map(|_| if random.bool() { random.u8(..8) } else { random.u8(..) }));
        }
        session::check(&input);
    }
}
