//! `wicketgate run`

use std::process::ExitCode;

use super::output::{complain, findings};
use crate::app::{self, StartError};

#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    config: super::ConfigFile,
    /// How log lines are written to standard error
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
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
    match app::run(&options.config.path) {
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
