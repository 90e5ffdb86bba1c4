//! What came of other masters' requests, counted. Decides nothing.

/// What came of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// By the unit.
    Answered,
    /// By the unit, with an exception.
    Exception,
    /// From what was read before.
    Cached,
    /// Along with the same request of somebody else.
    Joined,
    /// Asked, and no answer came.
    NoAnswer,
    /// Not asked: the unit is known to be dead.
    Dead,
    /// The line is not there.
    NoLine,
    /// No room, or no turn in time.
    Busy,
    /// Not allowed, or no request that can be passed on.
    Refused,
}

impl Outcome {
    pub const ALL: [Self; 9] = [
        Self::Answered,
        Self::Exception,
        Self::Cached,
        Self::Joined,
        Self::NoAnswer,
        Self::Dead,
        Self::NoLine,
        Self::Busy,
        Self::Refused,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Exception => "exception",
            Self::Cached => "cached",
            Self::Joined => "joined",
            Self::NoAnswer => "no_answer",
            Self::Dead => "dead",
            Self::NoLine => "no_line",
            Self::Busy => "busy",
            Self::Refused => "refused",
        }
    }
}

/// Since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts([u64; Outcome::ALL.len()]);

impl Counts {
    pub(super) fn add(&mut self, outcome: Outcome) {
        if let Some(count) = self.0.get_mut(outcome as usize) {
            *count += 1;
        }
    }

    pub fn of(&self, outcome: Outcome) -> u64 {
        self.0.get(outcome as usize).copied().unwrap_or(0)
    }
}
