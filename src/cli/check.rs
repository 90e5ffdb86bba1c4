//! `tidegate check`: loads the configuration and says what it holds, or everything that is wrong with it.
//! Never changes anything.
// The output of a command is what it is for.
#![allow(clippy::print_stdout)]

use std::path::Path;
use std::process::ExitCode;

use crate::config::expand::ProcessEnvironment;
use crate::config::load::load;

/// `ok: …` on stdout, or a fault a line on stderr and exit code 2.
pub fn run(config_path: &Path) -> ExitCode {
    match load(config_path, &ProcessEnvironment) {
        Ok(config) => {
            println!("ok: {}", config.summary());
            ExitCode::SUCCESS
        }
        Err(faults) => {
            eprintln!("{faults}");
            ExitCode::from(2)
        }
    }
}
