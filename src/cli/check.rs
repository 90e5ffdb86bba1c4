//! `tidegate check`: loads the configuration and reports every fault at once. Starts nothing.

use std::path::Path;
use std::process::ExitCode;

use crate::cli::fail;

pub fn run(_config: &Path) -> ExitCode {
    fail("not built yet")
}
