//! `wicketgate check`

use std::process::ExitCode;

use super::output::{count, findings, say};
use crate::app;
use crate::config::finding::has_errors;

#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    config: super::ConfigFile,
    /// Also connect to the store, where it is at servers
    #[arg(long)]
    connect: bool,
}

pub fn run(options: &Options) -> ExitCode {
    let report = app::check(&options.config.path, options.connect);
    findings(&report.findings);
    if has_errors(&report.findings) {
        return super::FINDINGS;
    }
    say(format_args!(
        "{}: good ({}, {}, {})",
        options.config.path.display(),
        count(report.listeners, "listener"),
        count(report.routes, "route"),
        report.policies.map_or_else(String::new, |number| {
            if number == 1 { "1 policy".to_owned() } else { format!("{number} policies") }
        }),
    ));
    super::GOOD
}
