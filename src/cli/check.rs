//! `tidegate check`: loads the configuration and says what it holds, or everything that is wrong with it.
//! Never changes anything.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use crate::cli::EXIT_USAGE;
use crate::config::expand::ProcessEnvironment;
use crate::config::load::load;

/// `ok: …` on stdout, or a fault a line on stderr and exit code 2.
pub fn run(config_path: &Path) -> ExitCode {
    let (written, code) = match load(config_path, &ProcessEnvironment) {
        Ok(config) => (writeln!(std::io::stdout(), "ok: {}", config.summary()), ExitCode::SUCCESS),
        Err(faults) => (writeln!(std::io::stderr(), "{faults}"), ExitCode::from(EXIT_USAGE)),
    };
    // A reader that hung up has seen enough.
    if written.is_ok() { code } else { ExitCode::FAILURE }
}
