//! `wicketgate run`

use std::process::ExitCode;
use std::time::Duration;

use super::output::{complain, findings};
use crate::app::{self, Patience, StartError};

#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    config: super::ConfigFile,
    /// How log lines are written to standard error
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    /// Seconds that running requests may take after SIGTERM
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(..=86_400))]
    drain_timeout: u64,
    /// Seconds that clients may stay on this process after a newer one took its place (SIGUSR2)
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(..=86_400))]
    replaced_timeout: u64,
    /// Take the place of the gate that started this process; only a gate itself says so
    #[arg(long, hide = true)]
    take_over: bool,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

pub fn run(options: &Options) -> ExitCode {
    app::logging::start(match options.log_format {
        LogFormat::Text => app::logging::Format::Text,
        LogFormat::Json => app::logging::Format::Json,
    });
    let patience = Patience {
        stop: Duration::from_secs(options.drain_timeout),
        replaced: Duration::from_secs(options.replaced_timeout),
    };
    match app::run(&options.config.path, options.take_over, patience) {
        Ok(()) => super::GOOD,
        Err(StartError::Findings(found)) => {
            findings(&found);
            super::FINDINGS
        }
        Err(error) => {
            complain(format_args!("error: {error}"));
            super::FINDINGS
        }
    }
}
