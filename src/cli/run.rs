//! `tidegate run`: the gateway in the foreground. Leaves all of it to `app`; owns the runtime, the log and the
//! signals.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::app::reload::reload;
use crate::app::watchdog::Watchdog;
use crate::app::{Gateway, systemd};
use crate::base::time::Clock;
use crate::cli::{ConfigArgs, fail, load_config, wrong_usage};
use crate::config::expand::ProcessEnvironment;
use crate::config::load::load;
use crate::config::log::LogFormat;
use crate::config::model::Config;
use crate::observe::log;

#[derive(Debug, Args)]
#[command(
    after_help = "SIGHUP reloads the configuration; SIGTERM and SIGINT end the gateway with everything on disk.

Examples:
  tidegate run                                          as the installed service does
  tidegate run -c tidegate.yaml"
)]
pub struct RunArgs {
    #[command(flatten)]
    config: ConfigArgs,
}

pub fn run(args: &RunArgs) -> ExitCode {
    let file = args.config.config.as_path();
    let config = match load_config(file) {
        Ok(config) => Arc::new(config),
        Err(code) => return code,
    };
    let _log = match log::init(&config.log.filter.to_string(), format_of(&config)) {
        Ok(guard) => guard,
        Err(error) => return wrong_usage(error),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(error),
    };
    let code = runtime.block_on(serve(config, file));
    // What has not ended by now holds nothing that is to be kept, and must not hold up the end.
    runtime.shutdown_background();
    code
}

async fn serve(config: Arc<Config>, file: &Path) -> ExitCode {
    let mut signals = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => return fail(error),
    };
    // Before the database is opened: what takes long from here on asks systemd for time.
    let watchdog = match Watchdog::start() {
        Ok(watchdog) => watchdog,
        Err(error) => return fail(error),
    };
    systemd::notify_status("opening the database");
    let started = match Gateway::prepare(config, Clock::start()) {
        Ok(prepared) => prepared.start(),
        Err(error) => return fail(error),
    };
    let gateway = match started {
        Ok(gateway) => gateway,
        Err(error) => return fail(error),
    };
    watchdog.handle_ready(gateway.vitals().clone());
    announce(&gateway);
    loop {
        match signals.next().await {
            Told::Reload => {
                let file = file.to_owned();
                reload(&gateway, move || load(&file, &ProcessEnvironment)).await;
            }
            Told::End(signal) => {
                tracing::info!(signal, "ending");
                break;
            }
        }
    }
    systemd::notify_stopping("ends: what only memory holds is written");
    watchdog.handle_ending();
    match gateway.stop().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(error),
    }
}

fn format_of(config: &Config) -> log::Format {
    match config.log.format {
        LogFormat::Auto => log::Format::Auto,
        LogFormat::Text => log::Format::Text,
        LogFormat::Json => log::Format::Json,
        LogFormat::Journal => log::Format::Journal,
    }
}

/// Caught from before the start on, so that none of them cuts it off.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        Ok(Self { terminate, interrupt, hangup: signal(SignalKind::hangup())? })
    }

    async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.terminate.recv() => Told::End("SIGTERM"),
            _ = self.interrupt.recv() => Told::End("SIGINT"),
            _ = self.hangup.recv() => Told::Reload,
        }
    }
}

/// What a signal asks for.
enum Told {
    Reload,
    End(&'static str),
}

fn announce(gateway: &Gateway) {
    let config = gateway.config();
    for address in gateway.addresses() {
        tracing::info!(%address, "listening");
    }
    tracing::info!(gateway = %config.gateway.id, version = env!("CARGO_PKG_VERSION"), "ready: {}", config.summary());
    systemd::notify_ready(&gateway.status_line());
}
