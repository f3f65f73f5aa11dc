//! `wicketgate audit verify` and `audit query`

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;

use super::output::{complain, count, say};
use crate::audit::{self, Filter};
use crate::config;
use crate::domain::clock::Timestamp;
use crate::domain::decision::Verdict;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check that no record was changed, removed, inserted or moved; names the first bad one
    Verify {
        #[command(flatten)]
        log: Log,
    },
    /// Print the records that match, oldest first, as JSON lines
    Query {
        #[command(flatten)]
        log: Log,
        /// A principal's id: PROVIDER/SUBJECT
        #[arg(long)]
        principal: Option<String>,
        #[arg(long)]
        route: Option<String>,
        /// The kind of record: decision, refused, refusals-counted, ...
        #[arg(long)]
        event: Option<String>,
        /// Only decisions that came out so
        #[arg(long, value_enum)]
        verdict: Option<Outcome>,
        /// The first moment wanted, as RFC 3339: 2026-11-21T08:00:00Z
        #[arg(long, value_parser = moment)]
        since: Option<Timestamp>,
        /// The first moment no longer wanted, as RFC 3339
        #[arg(long, value_parser = moment)]
        until: Option<Timestamp>,
    },
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum Outcome {
    Permit,
    Deny,
}

/// Where the audit log is.
#[derive(Debug, clap::Args)]
pub struct Log {
    /// The configuration file that names the log's folder
    #[arg(long, value_name = "FILE", default_value = "config/wicketgate.yaml")]
    config: PathBuf,
    /// The log's folder itself, instead of a configuration
    #[arg(long, value_name = "FOLDER")]
    audit: Option<PathBuf>,
}

impl Log {
    /// The folder; when the configuration can't be read, its findings have been printed.
    pub fn directory(&self) -> Option<PathBuf> {
        if let Some(directory) = &self.audit {
            return Some(directory.clone());
        }
        match config::load(&self.config) {
            Ok((config, _)) => Some(config.audit.directory),
            Err(found) => {
                super::output::findings(&found);
                None
            }
        }
    }
}

pub fn run(command: &Command) -> ExitCode {
    let (Command::Verify { log } | Command::Query { log, .. }) = command;
    let Some(directory) = log.directory() else {
        return super::FINDINGS;
    };
    let result = match command {
        Command::Verify { .. } => verify(&directory),
        Command::Query { principal, route, event, verdict, since, until, .. } => {
            let filter = Filter {
                principal: principal.clone(),
                verdict: verdict.map(|outcome| match outcome {
                    Outcome::Permit => Verdict::Permit,
                    Outcome::Deny => Verdict::Deny,
                }),
                route: route.clone(),
                event: event.clone(),
                since: *since,
                until: *until,
            };
            query(&directory, filter)
        }
    };
    result.unwrap_or_else(|error| {
        complain(format_args!("error: {}: {error}", directory.display()));
        super::FINDINGS
    })
}

fn verify(directory: &std::path::Path) -> std::io::Result<ExitCode> {
    let report = audit::verify(directory)?;
    let records = usize::try_from(report.records).unwrap_or(usize::MAX);
    if let Some(bad) = &report.bad {
        complain(format_args!("error: {bad}"));
        complain(format_args!("{} before it are good", count(records, "record")));
        return Ok(super::FINDINGS);
    }
    say(format_args!(
        "{}: good ({} in {}, head {})",
        directory.display(),
        count(records, "record"),
        count(report.segments, "file"),
        report.head,
    ));
    Ok(super::GOOD)
}

fn query(directory: &std::path::Path, filter: Filter) -> std::io::Result<ExitCode> {
    for record in audit::query(directory, filter)? {
        say(record?.line);
    }
    Ok(super::GOOD)
}

fn moment(text: &str) -> Result<Timestamp, String> {
    Timestamp::parse(text)
        .map_err(|error| format!("not a moment as in 2026-11-21T08:00:00Z: {error}"))
}
