//! The command line: one file a command, its arguments, output and exit code. Decides nothing that outlives it.

pub mod buffer;
pub mod buffer_move;
pub mod buffer_show;
pub mod check;
pub mod completions;
pub mod demo;
pub mod explain;
pub mod gateway;
pub mod machine;
pub mod man;
pub mod message_format;
pub mod modbus;
pub mod mqtt_args;
pub mod mqtt_client;
pub mod mqtt_properties;
pub mod mqtt_stream;
pub mod mqtt_wire;
pub mod passwd;
pub mod pcapng;
pub mod plan;
pub mod profiles;
pub mod progress;
pub mod publish;
pub mod reach;
pub mod run;
pub mod simulate;
pub mod status;
pub mod subscribe;
pub mod support;
pub mod table;
pub mod tar;
pub mod topic;
pub mod trace;

use std::fmt::Display;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind as ErrorKindOfUsage};
use clap::{Args, CommandFactory as _, Parser, Subcommand};

use crate::app::socket_path;
use crate::cli::reach::running_socket;
use crate::config::error::{Fault, Faults, Problem};
use crate::config::expand::ProcessEnvironment;
use crate::config::load::load;
use crate::config::model::Config;

/// Wrong usage, or a configuration that does not load.
pub const EXIT_USAGE: u8 = 2;

#[derive(Debug, Parser)]
#[command(
    name = "tidegate",
    version,
    about = "An IoT gateway that loses nothing",
    after_help = "Exit codes: 0 done, 1 it failed, 2 wrong usage or a configuration that does not load.

Examples:
  tidegate demo --outage 10s --for 40s                  see it lose nothing, with nothing to install
  tidegate check -c tidegate.yaml                       every fault of a configuration at once
  tidegate run -c tidegate.yaml                         the gateway
  tidegate sub -t 'devices/#' -v                        what it publishes"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway in the foreground; SIGTERM and SIGINT end it cleanly
    Run(run::RunArgs),
    /// Load the configuration and report every fault at once
    Check(check::CheckArgs),
    /// Show the whole product in one process, with nothing to install
    Demo(demo::args::DemoArgs),
    /// Play the configured devices, so that the cloud side can be built before they are there
    Simulate(simulate::SimulateArgs),
    /// List serial ports; with --port or --tcp find the Modbus units that answer, and print YAML to paste
    Scan(modbus::scan::ScanArgs),
    /// Read registers, coils or points by hand, also beside a running gateway
    Read(Box<modbus::read::ReadArgs>),
    /// Write registers, coils or a point by hand, also beside a running gateway
    Write(Box<modbus::write::WriteArgs>),
    /// Find out what a register means: a value that is known gives type, order, scale and address
    Find(Box<modbus::find::FindArgs>),
    /// The requests that the configuration makes on each line, the time that they take, and what does not fit
    Plan(plan::PlanArgs),
    /// The profiles of devices that a configuration can name
    Profiles(profiles::ProfilesArgs),
    /// Where a message on a topic goes: rules, names, QoS, buffer, who may publish and subscribe, what is retained
    Explain(topic::ExplainArgs),
    /// The last raw frames of a line with their times, live, or as pcapng for Wireshark
    Trace(trace::TraceArgs),
    /// See, save, fill and empty what waits for each bridge, beside a running gateway or on a stopped one
    Buffer(buffer::BufferArgs),
    /// Ask the running gateway how its devices, bridges and clients are
    Status(status::StatusArgs),
    /// Gather what somebody needs to help from afar in one archive, without secrets and payloads
    Support(support::SupportArgs),
    /// Add, change or delete a user of a password file
    Passwd(passwd::PasswdArgs),
    #[command(about = "Publish over MQTT, with the flags of mosquitto_pub")]
    Pub(Box<publish::PublishArgs>),
    #[command(about = "Subscribe over MQTT, with the flags of mosquitto_sub")]
    Sub(Box<subscribe::SubscribeArgs>),
    /// Print what a shell needs to complete the command line; for packages
    Completions(completions::CompletionsArgs),
    /// Print the manual's main page, or write all of its pages; for packages
    Man(man::ManArgs),
}

#[derive(Debug, Args)]
struct ConfigArgs {
    /// The configuration
    #[arg(short, long, value_name = "FILE", default_value = "/etc/tidegate/tidegate.yaml")]
    config: PathBuf,
}

/// The commands and their arguments, for those who show or check them.
pub fn command_line() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

/// 0 done, 1 it failed, 2 wrong usage or a configuration that does not load.
pub fn main() -> ExitCode {
    // clap prints help and version with 0, wrong usage with 2.
    let cli = Cli::try_parse().unwrap_or_else(|error| with_tip(error).exit());
    match cli.command {
        Command::Run(args) => run::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Simulate(args) => simulate::run(&args),
        Command::Scan(args) => modbus::scan::run(&args),
        Command::Read(args) => modbus::read::run(&args),
        Command::Write(args) => modbus::write::run(&args),
        Command::Find(args) => modbus::find::run(&args),
        Command::Plan(args) => plan::run(&args),
        Command::Profiles(args) => profiles::run(&args),
        Command::Explain(args) => topic::run(&args),
        Command::Trace(args) => trace::run(&args),
        Command::Buffer(args) => buffer::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Support(args) => support::run(&args),
        Command::Passwd(args) => passwd::run(&args),
        Command::Pub(args) => publish::run(&args),
        Command::Sub(args) => subscribe::run(&args),
        Command::Completions(args) => completions::run(&args, Cli::command()),
        Command::Man(args) => man::run(&args, Cli::command()),
    }
}

/// The configuration; else its faults are on stderr, and the exit code says so.
fn load_config(path: &Path) -> Result<Config, ExitCode> {
    load(path, &ProcessEnvironment).map_err(|faults| {
        // Where stderr is closed nobody reads why.
        let _ = writeln!(std::io::stderr(), "{faults}{}", way_out(&faults));
        ExitCode::from(EXIT_USAGE)
    })
}

/// Where the gateway listens for commands, or would; faults of a configuration count only where none runs.
fn find_socket(path: &Path) -> Result<PathBuf, ExitCode> {
    running_socket(path).map_or_else(|| load_config(path).map(|config| socket_path(&config)), Ok)
}

/// Of a configuration that cannot even be read.
fn way_out(faults: &Faults) -> &'static str {
    match faults.0.as_slice() {
        [Fault { problem: Problem::FileUnreadable(ErrorKind::PermissionDenied), .. }] => {
            " (be root or of the group tidegate, or name another with -c FILE)"
        }
        [Fault { problem: Problem::FileUnreadable(_), .. }] => " (name another with -c FILE)",
        _ => "",
    }
}

/// What is meant by a file that no command asks for.
fn with_tip(mut error: clap::Error) -> clap::Error {
    let argument = error.get(ContextKind::InvalidArg).map(ToString::to_string).unwrap_or_default();
    let is_file = [".yaml", ".yml"].iter().any(|end| argument.ends_with(end));
    if error.kind() == ErrorKindOfUsage::UnknownArgument && is_file && !argument.starts_with('-') {
        let tip = vec![format!("`-c {argument}` names a configuration").into()];
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(tip));
    }
    error
}

/// Says why on stderr, in one line.
fn fail(error: impl Display) -> ExitCode {
    say_error(error);
    ExitCode::FAILURE
}

fn wrong_usage(error: impl Display) -> ExitCode {
    say_error(error);
    ExitCode::from(EXIT_USAGE)
}

fn say_error(error: impl Display) {
    // Where stderr is closed nobody reads why.
    let _ = writeln!(std::io::stderr(), "error: {error}");
}

/// Until SIGINT or SIGTERM.
async fn stop_signal() -> std::io::Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted,
        _ = terminate.recv() => Ok(()),
    }
}

/// Runs a client's future on one thread.
fn block_on<T>(future: impl Future<Output = T>) -> std::io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map(|runtime| runtime.block_on(future))
}

#[cfg(test)]
mod tests {
    use super::{Cli, man, with_tip};
    use clap::{Command, CommandFactory, Parser};

    #[test]
    fn the_arguments_are_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_examples_that_work() {
        fn each(command: &Command, visit: &dyn Fn(&Command)) {
            visit(command);
            command.get_subcommands().for_each(|below| each(below, visit));
        }
        let mut command = Cli::command().disable_help_subcommand(true);
        command.build();
        each(&command, &|command| {
            let name = command.get_bin_name().unwrap_or("tidegate");
            let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(after.lines().any(|line| line == man::EXAMPLES), "{name} has no examples");
            let mut examples = after.lines().filter_map(|line| line.strip_prefix("  tidegate ")).peekable();
            assert!(examples.peek().is_some(), "{name} has no examples");
            for example in examples {
                let parsed = Cli::try_parse_from(std::iter::once("tidegate".into()).chain(words(example)));
                assert!(parsed.is_ok(), "{name}: {example}: {}", parsed.expect_err("an error"));
            }
        });
    }

    /// As a shell takes them, up to a pipe, a redirection, or the remark that stands apart.
    fn words(line: &str) -> Vec<String> {
        let mut words = vec![String::new()];
        let mut quote = false;
        for c in line.chars() {
            let is_between = words.last().is_some_and(String::is_empty);
            match c {
                '\'' => quote = !quote,
                '|' | '<' | '>' | ' ' if !quote && is_between => break,
                ' ' if !quote => words.push(String::new()),
                c => words.last_mut().expect("a word").push(c),
            }
        }
        words.retain(|word| !word.is_empty());
        words
    }

    #[test]
    fn what_mosquitto_takes_is_taken() {
        let lines = [
            "pub -h localhost -p 1883 -t a -m -5 -q 1 -r -i id -u me -P secret -V mqttv5 -k 30",
            "pub -t a -l --will-topic w --will-payload gone --will-qos 1 --will-retain",
            "pub -t a -n -V 5 -D publish user-property k v -D publish content-type text/plain -D connect session-expiry-interval 60",
            "pub -t a -s --cafile ca.crt --cert me.crt --key me.key",
            "sub -t a/# -t b/+ -q 2 -c -i id -C 3 -W 10 -v",
            "sub -t a -F %t:%p -V 311",
            "sub -t a --json -N",
        ];
        for line in lines {
            let parsed = Cli::try_parse_from(std::iter::once("tidegate").chain(line.split(' ')));
            assert!(parsed.is_ok(), "{line}: {}", parsed.expect_err("an error"));
        }
    }

    #[test]
    fn a_configuration_without_its_flag_is_told_where_it_belongs() {
        let parsed = |line: &str| Cli::try_parse_from(line.split(' ')).expect_err(line);
        let told = with_tip(parsed("tidegate check plant.yaml")).to_string();
        assert!(told.contains("tip: `-c plant.yaml` names a configuration"), "{told}");
        let told = with_tip(parsed("tidegate check plant")).to_string();
        assert!(!told.contains("tip"), "{told}");
    }

    #[test]
    fn wrong_usage_ends_with_2() {
        let lines = [
            "",
            "pub -t a",
            "pub -t a -m x -n",
            "pub -t a/# -m x",
            "pub -t a -m x -q 3",
            "pub -t a -m x -P secret",
            "pub -t a -m x --cert me.crt",
            "pub -t a -m x -D publish colour red",
            "pub -t a -m x -V 4",
            "sub",
            "sub -t a/#/b",
            "sub -t a -c",
            "sub -t a -C 0",
            "sub -t a -F %y",
            "passwd file",
            "passwd file ann --stdin --delete",
        ];
        for line in lines {
            let parsed = Cli::try_parse_from(std::iter::once("tidegate").chain(line.split_whitespace()));
            assert_eq!(parsed.expect_err(line).exit_code(), 2, "{line}");
        }
    }
}
