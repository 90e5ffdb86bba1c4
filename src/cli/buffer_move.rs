//! `tidegate buffer export`, `import`, `purge`, `pause` and `retry`: messages out of a buffer, into it, gone, and held
//! back. Holds a page of them at a time.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write as _};
use std::path::Path;

use axum::body::Body;
use axum::http::Method;
use serde_json::json;

use crate::cli::buffer::{BufferError, ExportArgs, ImportArgs, PurgeArgs, RetryArgs};
use crate::cli::buffer_show::{json_line, page, path_segment, print, snapshots};
use crate::cli::gateway::request;
use crate::cli::progress::Progress;
use crate::cli::reach::Reach;
use crate::cli::say_error;
use crate::cli::table::size;
use crate::web::control::{
    BufferSnapshot, DeadSnapshot, IMPORT_CHUNK_BYTES_MAX, IMPORT_CHUNK_LINES_MAX, IMPORT_LINE_BYTES_MAX,
    Imported, PurgeStep, ReviveStep,
};

const PAGE_MESSAGES: u64 = 200;
/// The longest line in MiB, to say so.
pub const LINE_MIB_MAX: usize = IMPORT_LINE_BYTES_MAX / 1024 / 1024;
/// Refused lines that are named one by one.
const REFUSED_SHOWN_MAX: u64 = 20;

/// Up to what waited when it began: an export of a buffer that fills all the time has an end, too.
pub async fn export(reach: &Reach, args: &ExportArgs) -> Result<(), BufferError> {
    let buffer = snapshot(reach, &args.bridge).await?;
    let last = if args.dead { u64::MAX } else { buffer.accepted };
    let mut after = 0;
    let mut progress = Progress::beside_output();
    let mut written: u64 = 0;
    let mut out = io::stdout().lock();
    while after < last {
        progress.tell(|| format!("{written} messages written"));
        let found = page(reach, (&args.bridge, args.dead), after, PAGE_MESSAGES).await?;
        written += found.messages.len() as u64;
        for message in found.messages.iter().filter(|message| message.seq.is_none_or(|seq| seq <= last)) {
            out.write_all(json_line(&json!(message)).as_bytes())?;
        }
        let Some(next) = found.next else { break };
        after = next;
    }
    Ok(out.flush()?)
}

pub async fn import(reach: &Reach, args: &ImportArgs, json: bool) -> Result<(), BufferError> {
    let input = |error| BufferError::Input { path: args.file.clone(), error };
    let mut lines = open(&args.file).map_err(input)?;
    let mut import = Import { bridge: &args.bridge, imported: 0, refused: 0, lines: 0 };
    let (mut chunk, mut count) = (Vec::new(), 0);
    let mut full = None;
    let mut progress = Progress::start();
    while full.is_none() {
        progress.tell(|| format!("{} messages imported, {} lines refused", import.imported, import.refused));
        let begin = chunk.len();
        let read = (&mut lines).take(IMPORT_LINE_BYTES_MAX as u64 + 1).read_until(b'\n', &mut chunk);
        let length = read.map_err(input)?;
        if length > IMPORT_LINE_BYTES_MAX {
            chunk.truncate(begin);
            import.send(reach, chunk, count).await?;
            return Err(BufferError::LineTooLong { line: import.lines + 1 });
        }
        let ended = length == 0;
        count += u64::from(!ended);
        if ended || count >= IMPORT_CHUNK_LINES_MAX as u64 || chunk.len() >= IMPORT_CHUNK_BYTES_MAX {
            full = import.send(reach, std::mem::take(&mut chunk), count).await?;
            count = 0;
        }
        if ended {
            break;
        }
    }
    progress.clear();
    import.tell(json)?;
    match (full, import.refused) {
        (Some(line), _) => Err(BufferError::Full { line }),
        (None, 0) => Ok(()),
        (None, lines) => Err(BufferError::Refused { lines }),
    }
}

/// How far an import is.
struct Import<'a> {
    bridge: &'a str,
    imported: u64,
    refused: u64,
    /// Lines that were sent.
    lines: u64,
}

impl Import<'_> {
    /// The line that found the buffer full, if one did.
    async fn send(&mut self, reach: &Reach, chunk: Vec<u8>, count: u64) -> Result<Option<u64>, BufferError> {
        if count == 0 {
            return Ok(None);
        }
        let path = format!("/api/v1/buffers/{}/messages", path_segment(self.bridge));
        let done: Imported = reach.json(request(Method::POST, &path, Body::from(chunk))).await?;
        self.imported += done.imported;
        let mut last = None;
        for refused in done.refused {
            let line = self.lines + refused.line as u64 + 1;
            self.refused += 1;
            if self.refused <= REFUSED_SHOWN_MAX {
                say_error(format_args!("line {line}: {}", refused.error));
            }
            last = Some(line);
        }
        self.lines += count;
        Ok(last.filter(|_| done.full))
    }

    fn tell(&self, json: bool) -> Result<(), BufferError> {
        let (imported, refused) = (self.imported, self.refused);
        if json {
            return print(&json_line(&json!({ "imported": imported, "refused": refused })));
        }
        print(&format!("{imported} messages imported, {refused} lines refused\n"))
    }
}

pub async fn purge(reach: &Reach, args: &PurgeArgs, json: bool) -> Result<(), BufferError> {
    if !args.yes {
        let buffer = snapshot(reach, &args.bridge).await?;
        if args.dead {
            let DeadSnapshot { messages, bytes, .. } = buffer.dead;
            return Err(BufferError::DeadNotConfirmed { messages, size: size(bytes) });
        }
        return Err(BufferError::NotConfirmed {
            messages: buffer.messages,
            in_flight: buffer.in_flight,
            size: size(buffer.bytes),
        });
    }
    let mut total = PurgeStep { unfinished: true, ..PurgeStep::default() };
    let place = format!("/api/v1/buffers/{}/messages?dead={}", path_segment(&args.bridge), args.dead);
    let mut path = place.clone();
    let mut progress = Progress::start();
    while total.unfinished {
        progress.tell(|| format!("{} messages purged", total.messages));
        let step: PurgeStep = reach.json(request(Method::DELETE, &path, Body::empty())).await?;
        path = format!("{place}&up_to={}", step.up_to);
        total.messages += step.messages;
        total.bytes += step.bytes;
        total.in_flight = step.in_flight;
        total.unfinished = step.unfinished;
        // It had its time, and something does not move.
        if step.unfinished && step.messages == 0 {
            return Err(BufferError::Stuck { messages: total.messages });
        }
    }
    progress.clear();
    let PurgeStep { messages, bytes, in_flight, .. } = total;
    if json {
        let value = json!({ "purged": messages, "bytes": bytes, "in_flight": in_flight });
        return print(&json_line(&value));
    }
    if args.dead {
        return print(&format!("{messages} dead letters ({}) purged\n", size(bytes)));
    }
    print(&format!("{messages} messages ({}) purged, {in_flight} in flight stay\n", size(bytes)))
}

/// Up to the last that was dead when it began: what dies again meanwhile is not sent a third time.
pub async fn revive(reach: &Reach, args: &RetryArgs, json: bool) -> Result<(), BufferError> {
    let mut place = format!("/api/v1/buffers/{}/dead/retry?", path_segment(&args.bridge));
    if let Some(topic) = &args.topic {
        place.extend(["topic=", &path_segment(topic), "&"]);
    }
    let mut path = place.clone();
    let (mut messages, mut unroutable) = (0, 0);
    let last = loop {
        let step: ReviveStep = reach.json(request(Method::POST, &path, Body::empty())).await?;
        messages += step.messages;
        unroutable += step.unroutable;
        let stuck = step.unfinished && path == format!("{place}after={}&up_to={}", step.after, step.up_to);
        path = format!("{place}after={}&up_to={}", step.after, step.up_to);
        if !step.unfinished || stuck {
            break step;
        }
    };
    if json {
        let value = json!({ "retried": messages, "unroutable": unroutable, "full": last.full });
        print(&json_line(&value))?;
    } else {
        print(&format!("{messages} dead letters go behind what waits for {}\n", args.bridge))?;
    }
    if last.full || last.unfinished || unroutable > 0 {
        return Err(BufferError::Kept { unroutable, full: last.full || last.unfinished });
    }
    Ok(())
}

pub async fn pause(reach: &Reach, bridge: &str, json: bool) -> Result<(), BufferError> {
    tell_link(reach, bridge, "pause").await?;
    if json {
        return print(&json_line(&json!({ "bridge": bridge, "paused": true })));
    }
    print(&format!(
        "{bridge} is paused: its link is closed and messages wait until `tidegate buffer retry {bridge}`, or until \
         the gateway starts again\n"
    ))
}

pub async fn retry(reach: &Reach, bridge: &str, json: bool) -> Result<(), BufferError> {
    tell_link(reach, bridge, "retry").await?;
    if json {
        return print(&json_line(&json!({ "bridge": bridge, "paused": false })));
    }
    print(&format!("{bridge} connects now\n"))
}

async fn tell_link(reach: &Reach, bridge: &str, verb: &str) -> Result<(), BufferError> {
    let path = format!("/api/v1/buffers/{}/{verb}", path_segment(bridge));
    reach.bytes(request(Method::POST, &path, Body::empty())).await?;
    Ok(())
}

async fn snapshot(reach: &Reach, bridge: &str) -> Result<BufferSnapshot, BufferError> {
    let found = snapshots(reach).await?.into_iter().find(|buffer| buffer.bridge == bridge);
    found.ok_or_else(|| BufferError::NoBridge { name: bridge.to_owned() })
}

fn open(path: &Path) -> io::Result<Box<dyn BufRead>> {
    if path == Path::new("-") {
        return Ok(Box::new(BufReader::new(io::stdin())));
    }
    Ok(Box::new(BufReader::new(File::open(path)?)))
}
