//! `wicketgate policy check`, `policy test` and `policy explain`

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;

use super::audit::Log;
use super::output::{complain, findings, say};
use crate::app;
use crate::config::model::Policies;
use crate::domain::id::DecisionId;
use crate::policy::{self, Engine};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Parse the policies and validate them against the schema
    Check {
        #[command(flatten)]
        set: Set,
    },
    /// Run the decision tables of a folder against the policies
    Test {
        #[command(flatten)]
        set: Set,
        /// The tables, `*.yaml`; `tests` in the policies' folder if not given
        #[arg(long, value_name = "FOLDER")]
        tests: Option<PathBuf>,
    },
    /// Make a recorded decision again, with the policies of its time, and say why
    Explain {
        /// The decision id: on the page, or in x-wicketgate-decision
        id: DecisionId,
        #[command(flatten)]
        log: Log,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, clap::Args)]
pub struct Set {
    /// The folder with the `*.cedar` files
    #[arg(long, value_name = "FOLDER", default_value = "policies")]
    policies: PathBuf,
    /// The schema; `wicketgate.cedarschema` in the policies' folder if not given
    #[arg(long, value_name = "FILE")]
    schema: Option<PathBuf>,
}

impl Set {
    fn policies(&self) -> Policies {
        let schema = self.schema.clone();
        Policies {
            directory: self.policies.clone(),
            schema: schema.unwrap_or_else(|| self.policies.join("wicketgate.cedarschema")),
        }
    }
}

pub fn run(command: &Command) -> ExitCode {
    match command {
        Command::Check { set } => check(&set.policies()),
        Command::Test { set, tests } => {
            let policies = set.policies();
            let tests = tests.clone().unwrap_or_else(|| policies.directory.join("tests"));
            test(&policies, &tests)
        }
        Command::Explain { id, log, json } => match log.directory() {
            Some(directory) => explain(&directory, *id, *json),
            None => super::FINDINGS,
        },
    }
}

fn check(policies: &Policies) -> ExitCode {
    match Engine::load(policies) {
        Ok(engine) => {
            findings(engine.warnings());
            let number = engine.policies().count();
            say(format_args!(
                "{}: good ({number} policies, set {})",
                policies.directory.display(),
                engine.hash(),
            ));
            super::GOOD
        }
        Err(found) => {
            findings(&found);
            super::FINDINGS
        }
    }
}

fn test(policies: &Policies, tests: &Path) -> ExitCode {
    match policy::suite::run(policies, tests) {
        Ok(report) if report.passed() => {
            say(report);
            super::GOOD
        }
        Ok(report) => {
            complain(report);
            super::FINDINGS
        }
        Err(found) => {
            findings(&found);
            super::FINDINGS
        }
    }
}

fn explain(directory: &Path, id: DecisionId, json: bool) -> ExitCode {
    match app::explain::explain(directory, id) {
        Ok(explained) if json => match serde_json::to_string_pretty(&explained) {
            Ok(text) => {
                say(text);
                super::GOOD
            }
            Err(error) => {
                complain(format_args!("error: {error}"));
                super::FINDINGS
            }
        },
        Ok(explained) => {
            say(explained);
            super::GOOD
        }
        Err(error) => {
            complain(format_args!("error: {error}"));
            super::FINDINGS
        }
    }
}
