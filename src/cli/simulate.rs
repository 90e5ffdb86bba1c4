//! `tidegate simulate`: plays the configured devices. Never talks to a real one.

use std::path::Path;
use std::process::ExitCode;

use crate::cli::fail;

pub fn run(_config: &Path) -> ExitCode {
    fail("not built yet")
}
