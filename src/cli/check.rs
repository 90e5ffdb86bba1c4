//! `tidegate check`: loads the configuration and says what it holds, or everything that is wrong with it; also that a
//! line cannot carry what it is asked for. Never changes anything.

use std::fmt;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use serde_json::json;

use crate::app::shares::warning;
use crate::bridge::loops::echo;
use crate::cli::plan::{loads, overload};
use crate::cli::{ConfigArgs, EXIT_USAGE, explain, way_out};
use crate::config::error::{Fault, Position};
use crate::config::expand::ProcessEnvironment;
use crate::config::guarded::exposures;
use crate::config::load::{load, position_of};
use crate::config::model::Config;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidegate check                                        the installed configuration
  tidegate check -c tidegate.yaml --explain             and every topic, type and poll that results
  tidegate check -c tidegate.yaml --json                for a pipeline: faults and warnings on stdout, too")]
pub struct CheckArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Print every topic, type and poll that results
    #[arg(long)]
    explain: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// `ok: …` on stdout, or a fault a line on stderr and exit code 2. With `--json` stdout has all of it.
pub fn run(args: &CheckArgs) -> ExitCode {
    let file = &args.config.config;
    let config = match load(file, &ProcessEnvironment) {
        Ok(config) => config,
        Err(faults) => {
            let found: Vec<Finding> = faults.0.iter().map(Finding::of).collect();
            return refuse(args, &format!("{faults}{}", way_out(&faults)), &found);
        }
    };
    let overloads = overloads(file, &config);
    if !overloads.is_empty() {
        let lines: Vec<String> = overloads.iter().map(ToString::to_string).collect();
        return refuse(args, &lines.join("\n"), &overloads);
    }
    let warnings = warnings(&config);
    let text = match (args.json, args.explain) {
        (true, true) => format!("{}\n", explain::json(&config)),
        (true, false) => format!("{}\n", json!({ "summary": config.summary(), "warnings": warnings })),
        (false, true) => format!("ok: {}\n\n{}", config.summary(), explain::text(&config)),
        (false, false) => format!("ok: {}\n", config.summary()),
    };
    for warning in warnings {
        // Where stderr is closed nobody reads it.
        let _ = writeln!(std::io::stderr(), "warning: {warning}");
    }
    // A reader that hung up has seen enough.
    if std::io::stdout().write_all(text.as_bytes()).is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn refuse(args: &CheckArgs, text: &str, found: &[Finding]) -> ExitCode {
    // Where stderr or stdout is closed nobody reads why.
    let _ = writeln!(std::io::stderr(), "{text}");
    if args.json {
        let _ = writeln!(std::io::stdout(), "{}", json!({ "faults": found }));
    }
    ExitCode::from(EXIT_USAGE)
}

fn warnings(config: &Config) -> Vec<String> {
    let shares = config.ports.iter().filter_map(|port| {
        let share = port.share?;
        warning(&port.name, share.address, share.writes)
    });
    let echoes = config.bridges.iter().filter_map(|bridge| echo(bridge, &config.gateway.id));
    let exposures = exposures(config).into_iter().map(|exposure| exposure.to_string());
    shares.chain(echoes).chain(exposures).collect()
}

/// One for each port whose polls do not fit.
fn overloads(file: &Path, config: &Config) -> Vec<Finding> {
    let found = loads(config).into_iter().filter_map(|(endpoint, load)| {
        let problem = overload(&endpoint, &load)?;
        let keys = endpoint.port().map_or(vec!["devices"], |port| vec!["ports", &*port.name]);
        let Position { line, column } = position_of(file, &keys);
        Some(Finding { file: file.display().to_string(), line, column, path: keys.join("."), problem })
    });
    found.collect()
}

/// What is wrong, and where.
#[derive(Debug, Serialize)]
struct Finding {
    file: String,
    line: usize,
    column: usize,
    /// `devices.meter.unit`; empty where the file as a whole is meant.
    path: String,
    problem: String,
}

impl Finding {
    fn of(fault: &Fault) -> Self {
        let Position { line, column } = fault.position;
        let (file, path) = (fault.file.to_string(), fault.path.clone());
        Self { file, line, column, path, problem: fault.problem.to_string() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.problem)
    }
}
