//! The four tables of Modbus by name. Never knows what is in them.

use crate::config::model::Table;

impl Table {
    /// As the configuration names it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Coil => "coil",
            Self::Discrete => "discrete",
            Self::Holding => "holding",
            Self::Input => "input",
        }
    }
}
