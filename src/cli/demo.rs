//! `wicketgate demo`

use std::path::PathBuf;
use std::process::ExitCode;

use super::output::complain;
use crate::{app, demo};

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Play the whole story as a client, print it, and exit non-zero if a step differs
    #[arg(long)]
    tour: bool,
    /// Port of the gate on 127.0.0.1; 8443 if it is free, else one that is
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// Keep the demo's files (certificates, configuration, policies, audit log) in this folder
    #[arg(long, value_name = "FOLDER")]
    keep: Option<PathBuf>,
}

pub fn run(options: Options) -> ExitCode {
    app::logging::start(app::logging::Format::Quiet);
    let options = demo::DemoOptions { tour: options.tour, port: options.port, keep: options.keep };
    match demo::run(&options) {
        Ok(code) => code,
        Err(error) => {
            complain(format_args!("error: {error}"));
            super::FINDINGS
        }
    }
}
