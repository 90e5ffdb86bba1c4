//! What commands on this machine may do on the lines of a running gateway: puts together their desks and their
//! frames. Never touches a line itself.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio::time::timeout;

use crate::base::lock::lock;
use crate::base::time::Duration;
use crate::bus::desk::Desk;
use crate::device::request::Request;
use crate::observe::frames::Frames;
use crate::web::lines::{FrameLine, LineAnswer, LineAsk, Lines, LinesError};

/// For a request's turn and its answer: less than a command waits for the gateway.
const ANSWER_WAIT: Duration = Duration::from_secs(50);

/// The lines that are driven, by their names.
#[derive(Debug, Default)]
pub struct Desks {
    pub frames: Arc<Frames>,
    by_line: Mutex<BTreeMap<Arc<str>, Arc<Desk>>>,
}

impl Desks {
    /// The desk of a line that is going to run.
    pub fn open(&self, line: &str) -> Arc<Desk> {
        Arc::clone(lock(&self.by_line).entry(line.into()).or_default())
    }

    /// The line has ended for good.
    pub fn close(&self, line: &str) {
        lock(&self.by_line).remove(line);
    }

    fn desk_of(&self, line: &str) -> Result<Arc<Desk>, LinesError> {
        let by_line = lock(&self.by_line);
        let desk = by_line.get(line).cloned();
        desk.ok_or_else(|| unknown(line, by_line.keys().cloned().collect()))
    }
}

fn unknown(name: &str, known: Vec<Arc<str>>) -> LinesError {
    LinesError::NoLine { name: name.to_owned(), known }
}

impl Lines for Desks {
    async fn ask(&self, ask: LineAsk) -> Result<LineAnswer, LinesError> {
        let desk = self.desk_of(&ask.line)?;
        let request = Request::by_hand(ask.unit, ask.request.clone(), ask.timeout());
        let answer = desk.ask(request).ok_or(LinesError::TooManyWait)?;
        match timeout(ANSWER_WAIT, answer).await {
            Err(_) => Err(LinesError::NoTurn),
            Ok(Err(_)) => Err(LinesError::Gone),
            Ok(Ok(Ok(Ok(response)))) => Ok(LineAnswer::Response(response)),
            Ok(Ok(Ok(Err(exception)))) => Ok(LineAnswer::Exception(exception.0)),
            Ok(Ok(Err(error))) => Ok(LineAnswer::Failed(error.to_string())),
        }
    }

    fn frames(&self, after: u64, line: Option<&str>, count: usize) -> Result<Vec<FrameLine>, LinesError> {
        let known = self.frames.lines();
        if let Some(line) = line.filter(|line| !known.iter().any(|known| **known == **line)) {
            return Err(unknown(line, known));
        }
        Ok(self.frames.behind(after, line, count).iter().map(FrameLine::of).collect())
    }
}
