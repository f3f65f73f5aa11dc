//! `wicketgate policy check`, `policy test` and `policy explain`

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;

use super::audit::Log;
use super::output::{complain, findings, say};
use crate::audit;
use crate::config::model::Policies;
use crate::domain::event::Event;
use crate::domain::id::DecisionId;
use crate::policy::{self, Archive, Engine};

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
    match explanation(directory, id, json) {
        Ok(text) => {
            say(text);
            super::GOOD
        }
        Err(error) => {
            complain(format_args!("error: {error}"));
            super::FINDINGS
        }
    }
}

fn explanation(directory: &Path, id: DecisionId, json: bool) -> Result<String, String> {
    let record = audit::find_decision(directory, id)
        .map_err(|error| format!("{}: {error}", directory.display()))?
        .ok_or_else(|| {
            format!("no decision `{id}` in {}; is it another gate's?", directory.display())
        })?;
    let (query, decision) = match &record.event {
        Event::Decision { query, decision, .. } => (query, decision),
        Event::Refused { reason, detail, status, .. } => {
            return Ok(format!(
                "{id} at {}: refused with {status} before the policies were asked\n\
                 reason: {reason}: {detail}",
                record.at
            ));
        }
        _ => return Ok(format!("{id} is no decision of the policies:\n{}", record.line)),
    };
    let archived = audit::load_policy_set(directory, &decision.policy_set)
        .map_err(|error| format!("{}: {error}", directory.display()))?
        .ok_or_else(|| format!("the policy set {} is no longer kept", decision.policy_set))?;
    let archive: Archive = serde_json::from_slice(&archived)
        .map_err(|error| format!("the kept policy set {}: {error}", decision.policy_set))?;
    if archive.hash() != decision.policy_set {
        return Err(format!("the kept policy set {} was changed", decision.policy_set));
    }
    let engine = Engine::from_archive(archive).map_err(|found| {
        found.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    })?;
    let explained = policy::explain(&engine, query);
    if explained.decision != *decision {
        return Err("decided again, the outcome is another one than recorded".to_owned());
    }
    if json {
        return serde_json::to_string_pretty(&explained).map_err(|error| error.to_string());
    }
    Ok(format!("{id} at {}\n{explained}", record.at))
}
