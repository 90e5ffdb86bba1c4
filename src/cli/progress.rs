//! How far a command is, for whoever waits at a terminal: one line on stderr that is written over, and gone at the end.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

/// What is done sooner needs no such line.
const QUIET: Duration = Duration::from_secs(1);
/// Between two lines: a terminal on a serial console is slow.
const PAUSE: Duration = Duration::from_millis(200);
/// A line that is longer would leave its beginning behind.
const CHARS_MAX: usize = 78;

pub struct Progress {
    /// None: nobody looks.
    shown: Option<Shown>,
}

struct Shown {
    next: Instant,
    /// Characters that stand there.
    chars: usize,
}

impl Progress {
    /// On a terminal alone.
    pub fn start() -> Self {
        let is_seen = std::io::stderr().is_terminal();
        Self { shown: is_seen.then(|| Shown { next: Instant::now() + QUIET, chars: 0 }) }
    }

    /// Beside output that goes to stdout: not where both would stand on one terminal.
    pub fn beside_output() -> Self {
        if std::io::stdout().is_terminal() { Self { shown: None } } else { Self::start() }
    }

    /// The text is asked for only where it is shown.
    pub fn tell(&mut self, text: impl FnOnce() -> String) {
        let Some(shown) = &mut self.shown else { return };
        let now = Instant::now();
        if now < shown.next {
            return;
        }
        shown.next = now + PAUSE;
        let text: String = text().chars().take(CHARS_MAX).collect();
        let width = shown.chars;
        shown.chars = text.chars().count();
        let mut err = std::io::stderr();
        // A terminal that went away needs none.
        let _ = write!(err, "\r{text:<width$}");
        let _ = err.flush();
    }

    /// Takes the line away.
    pub fn clear(&mut self) {
        let Some(shown) = &mut self.shown else { return };
        if shown.chars > 0 {
            let width = std::mem::take(&mut shown.chars);
            let _ = write!(std::io::stderr(), "\r{:width$}\r", "");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}
