//! `tidegate check`: loads the configuration and says what it holds, or everything that is wrong with it; also that a
//! line cannot carry what it is asked for. Never changes anything.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use crate::app::shares::warning;
use crate::bridge::loops::echo;
use crate::cli::plan::{loads, overload};
use crate::cli::{ConfigArgs, EXIT_USAGE, explain, load_config};
use crate::config::error::Position;
use crate::config::guarded::exposures;
use crate::config::load::position_of;
use crate::config::model::Config;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidegate check                                        the installed configuration
  tidegate check -c tidegate.yaml --explain             and every topic, type and poll that results")]
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

/// `ok: …` on stdout, or a fault a line on stderr and exit code 2.
pub fn run(args: &CheckArgs) -> ExitCode {
    let config = match load_config(&args.config.config) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let overloads = overloads(args, &config);
    if !overloads.is_empty() {
        // Where stderr is closed nobody reads why.
        let _ = std::io::stderr().write_all(overloads.as_bytes());
        return ExitCode::from(EXIT_USAGE);
    }
    let text = match (args.json, args.explain) {
        (true, true) => format!("{}\n", explain::json(&config)),
        (true, false) => format!("{}\n", json!({ "summary": config.summary() })),
        (false, true) => format!("ok: {}\n\n{}", config.summary(), explain::text(&config)),
        (false, false) => format!("ok: {}\n", config.summary()),
    };
    let shares = config.ports.iter().filter_map(|port| {
        let share = port.share?;
        warning(&port.name, share.address, share.writes)
    });
    let echoes = config.bridges.iter().filter_map(|bridge| echo(bridge, &config.gateway.id));
    let exposures = exposures(&config).into_iter().map(|exposure| exposure.to_string());
    for warning in shares.chain(echoes).chain(exposures) {
        // Where stderr is closed nobody reads it.
        let _ = writeln!(std::io::stderr(), "warning: {warning}");
    }
    // A reader that hung up has seen enough.
    if std::io::stdout().write_all(text.as_bytes()).is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A line a port whose polls do not fit.
fn overloads(args: &CheckArgs, config: &Config) -> String {
    let file = &args.config.config;
    let lines = loads(config).into_iter().filter_map(|(endpoint, load)| {
        let problem = overload(&endpoint, &load)?;
        let keys = endpoint.port().map_or(vec!["devices"], |port| vec!["ports", &*port.name]);
        let Position { line, column } = position_of(file, &keys);
        Some(format!("{}:{line}:{column}: {problem}\n", file.display()))
    });
    lines.collect()
}
