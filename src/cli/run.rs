//! `tidegate run`: the gateway in the foreground. Leaves all of it to `app`.

use std::path::Path;
use std::process::ExitCode;

use crate::cli::fail;

pub fn run(_config: &Path) -> ExitCode {
    fail("not built yet")
}
