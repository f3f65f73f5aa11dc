//! Log lines: structured, to standard error; standard output is for what a command answers.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Text,
    Json,
    /// Only what is wrong with the gate itself, for commands with an output of their own.
    Quiet,
}

/// Starts logging. `WICKETGATE_LOG` chooses what is logged (`warn`, `wicketgate=debug`, ...).
pub fn start(format: Format) {
    let default = if format == Format::Quiet { "error" } else { "info" };
    let filter = EnvFilter::try_from_env("WICKETGATE_LOG").unwrap_or_else(|_| default.into());
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let result = match format {
        Format::Json => builder.json().flatten_event(true).try_init(),
        Format::Text | Format::Quiet => builder.with_target(false).try_init(),
    };
    // A second start is a test's; the first one stays.
    drop(result);
}
