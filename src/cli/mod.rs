//! The command line: one file a command.

mod audit;
mod check;
#[cfg(feature = "demo")]
mod demo;
mod manage;
mod output;
mod policy;
mod run;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::domain::suspension::Subject;

/// Good, findings or a denial to tell of, and wrong usage (clap's own).
const GOOD: ExitCode = ExitCode::SUCCESS;
const FINDINGS: ExitCode = ExitCode::FAILURE;

/// Zero-trust secure access gateway: TLS, OIDC, device posture and Cedar policies on every request.
#[derive(Debug, Parser)]
#[command(name = "wicketgate", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the gate
    Run(run::Options),
    /// Validate a configuration, with its certificates, policies and devices, without starting
    Check(check::Options),
    /// Check, test and explain policies
    #[command(subcommand)]
    Policy(policy::Command),
    /// Verify and search the audit log
    #[command(subcommand)]
    Audit(audit::Command),
    /// List, show and revoke sessions of the running gate
    #[command(subcommand)]
    Sessions(manage::Sessions),
    /// Suspend and restore users of the running gate
    #[command(subcommand)]
    Users(manage::Exclusion),
    /// Suspend and restore devices of the running gate
    #[command(subcommand)]
    Devices(manage::Exclusion),
    /// Suspend and restore tenants of the running gate
    #[command(subcommand)]
    Tenants(manage::Exclusion),
    /// Start a gate with an identity provider and three back ends: offline, nothing to edit
    #[cfg(feature = "demo")]
    Demo(demo::Options),
}

#[derive(Debug, clap::Args)]
struct ConfigFile {
    /// The configuration file
    #[arg(long = "config", short, value_name = "FILE", default_value = "config/wicketgate.yaml")]
    path: PathBuf,
}

/// Reads the command line and does what it says.
pub fn run() -> ExitCode {
    match Arguments::parse().command {
        Command::Run(options) => run::run(&options),
        Command::Check(options) => check::run(&options),
        Command::Policy(command) => policy::run(&command),
        Command::Audit(command) => audit::run(&command),
        Command::Sessions(command) => manage::sessions(&command),
        Command::Users(command) => manage::suspend(&command, Subject::User),
        Command::Devices(command) => manage::suspend(&command, Subject::Device),
        Command::Tenants(command) => manage::suspend(&command, Subject::Tenant),
        #[cfg(feature = "demo")]
        Command::Demo(options) => demo::run(options),
    }
}
