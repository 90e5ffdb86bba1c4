//! Where devices answer, and which of them share a line.

use crate::config::model::Link;

impl Link {
    pub fn unit(&self) -> u8 {
        match self {
            Self::Tcp { unit, .. }
            | Self::RtuOverTcp { unit, .. }
            | Self::Rtu { unit, .. }
            | Self::Ascii { unit, .. } => *unit,
        }
    }

    /// The line that the device shares with others: the same for all of them.
    #[must_use]
    pub fn place(&self) -> Self {
        match self.clone() {
            Self::Tcp { address, .. } => Self::Tcp { address, unit: 0 },
            Self::RtuOverTcp { address, .. } => Self::RtuOverTcp { address, unit: 0 },
            Self::Rtu { port, .. } => Self::Rtu { port, unit: 0 },
            Self::Ascii { port, .. } => Self::Ascii { port, unit: 0 },
        }
    }

    /// Whether an answer says which request it belongs to.
    pub fn numbers_requests(&self) -> bool {
        matches!(self, Self::Tcp { .. })
    }
}
