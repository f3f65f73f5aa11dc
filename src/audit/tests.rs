//! The log as a whole: written, read back, broken on purpose.

mod crash;
mod decided;
mod faults;
mod handover;
mod reading;
mod tampering;
mod writing;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::*;
use crate::config::model;
use crate::domain::clock::Timestamp;
use crate::domain::decision::{Decision, Verdict};
use crate::domain::event::{EndReason, Event, Occasion};
use crate::domain::id::{DecisionId, PolicySetHash};
use crate::domain::principal::{Principal, PrincipalKind};
use crate::domain::query::{AccessQuery, Action, RequestContext, Resource};
use crate::metrics::Metrics;

/// A directory with a log in it.
struct Site {
    folder: tempfile::TempDir,
    config: model::Audit,
    metrics: Arc<Metrics>,
}

impl Site {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = config(&folder.path().join("audit"));
        Self { folder, config, metrics: Metrics::new() }
    }

    fn with_segments_of(mut self, bytes: u64) -> Self {
        self.config.segment_bytes = bytes;
        self
    }

    fn with_queue_of(mut self, records: usize) -> Self {
        self.config.queue = records;
        self
    }

    fn open(&self) -> AuditLog {
        AuditLog::open(&self.config, Arc::clone(&self.metrics)).unwrap()
    }

    fn directory(&self) -> &Path {
        &self.config.directory
    }

    /// Opens the log, appends that many decisions, one a second, and closes it. Each record gets
    /// to the disk before the next, so that small segments are as small as they can be.
    fn write(&self, from: i64, count: i64) {
        let log = self.open();
        for number in from..from + count {
            let ticket = log.append(second(number), decision(number)).unwrap();
            runtime().block_on(ticket.durable()).unwrap();
        }
        log.close().unwrap();
    }

    fn segments(&self) -> Vec<PathBuf> {
        segment::list(self.directory()).unwrap().into_iter().map(|found| found.path).collect()
    }

    fn records(&self) -> Vec<Record> {
        query(self.directory(), Filter::default()).unwrap().map(Result::unwrap).collect()
    }
}

fn config(directory: &Path) -> model::Audit {
    model::Audit { directory: directory.to_owned(), queue: 8192, segment_bytes: 1 << 28 }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().unwrap()
}

const DAY: i64 = 1_795_219_200;

fn second(number: i64) -> Timestamp {
    Timestamp::from_seconds(DAY + number)
}

fn id(number: i64) -> DecisionId {
    DecisionId::new(second(number), u128::try_from(number).unwrap())
}

fn decision(number: i64) -> Event {
    decision_on(number, "/documents", if number % 2 == 0 { Verdict::Permit } else { Verdict::Deny })
}

fn decision_on(number: i64, path: &str, verdict: Verdict) -> Event {
    let principal = Principal {
        kind: PrincipalKind::User,
        id: if number % 3 == 0 { "demo/ada" } else { "demo/vera" }.into(),
        email: Some("someone@example.com".into()),
        name: None,
        groups: ["customers".into()].into(),
        tenant: Some("acme".into()),
    };
    Event::Decision {
        id: id(number),
        occasion: Occasion::Request,
        query: Box::new(AccessQuery {
            principal: principal.into(),
            authentication: Arc::default(),
            action: Action::HttpGet,
            resource: Arc::new(Resource {
                route: if number % 5 == 0 { "ics" } else { "portal" }.into(),
                application: "customer-portal".into(),
                zone: Some("enterprise".into()),
                tenant: None,
            }),
            context: RequestContext {
                host: "portal.localhost".into(),
                path: path.into(),
                method: "GET".into(),
                source: "192.0.2.7".parse().unwrap(),
                time: second(number),
                device: None,
            },
        }),
        decision: Decision {
            verdict,
            policy_set: PolicySetHash("ab12".into()),
            determining: vec![],
            errors: vec![],
        },
        session: Some("0123456789abcdef".to_owned()),
    }
}
