//! The gate itself, as the demo runs it: the same one that `wicketgate run` starts.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::{broadcast, oneshot};

use super::DemoError;
use crate::app::{self, StartError, Stop};
use crate::audit;

/// The running gate, in threads of its own.
#[derive(Debug)]
pub struct Gate {
    lines: broadcast::Receiver<Arc<str>>,
    audit: PathBuf,
    stop: Stop,
    thread: JoinHandle<Result<(), StartError>>,
}

impl Gate {
    /// Starts the gate with this configuration file.
    ///
    /// # Errors
    /// What was wrong with the configuration, or with an address.
    pub async fn start(config: &Path) -> Result<Self, DemoError> {
        let path = config.to_owned();
        let stop = Stop::on_request();
        let stops = stop.clone();
        let (opened, is_open) = oneshot::channel();
        let run = move || {
            let prepared = app::prepare(&path)?;
            let records = prepared.records();
            let audit = prepared.audit_directory().to_owned();
            prepared.run_with(stops, |_| {
                let _ = opened.send((records, audit));
            })
        };
        let thread = std::thread::Builder::new()
            .name("gate".to_owned())
            .spawn(run)
            .map_err(|error| DemoError::Gate(error.to_string()))?;
        match is_open.await {
            Ok((lines, audit)) => Ok(Self { lines, audit, stop, thread }),
            Err(_) => Err(failure(thread)),
        }
    }

    /// The audit records as they are written, a line each.
    pub fn records(&self) -> broadcast::Receiver<Arc<str>> {
        self.lines.resubscribe()
    }

    /// What `wicketgate policy explain` prints for a decision.
    ///
    /// # Errors
    /// When the decision is not in the audit log.
    pub fn explain(&self, decision: &str) -> Result<String, DemoError> {
        let id = decision.parse().map_err(|_| DemoError::Gate(format!("`{decision}` is no id")))?;
        app::explain::explain(&self.audit, id)
            .map(|explained| explained.to_string())
            .map_err(|error| DemoError::Gate(error.to_string()))
    }

    /// Verifies the audit log: how many records there are.
    ///
    /// # Errors
    /// The first bad record.
    pub fn verify(&self) -> Result<u64, DemoError> {
        let report =
            audit::verify(&self.audit).map_err(|error| DemoError::Gate(error.to_string()))?;
        match report.bad {
            None => Ok(report.records),
            Some(bad) => Err(DemoError::Gate(bad.to_string())),
        }
    }

    /// Where the audit log is.
    pub fn audit_directory(&self) -> &Path {
        &self.audit
    }

    pub async fn stop(self) {
        self.stop.stop();
        let ended = tokio::task::spawn_blocking(move || self.thread.join()).await;
        if !matches!(ended, Ok(Ok(Ok(())))) {
            tracing::error!("the gate did not end cleanly");
        }
    }
}

fn failure(thread: JoinHandle<Result<(), StartError>>) -> DemoError {
    DemoError::Gate(match thread.join() {
        Ok(Ok(())) => "it ended at once".to_owned(),
        Ok(Err(StartError::Findings(found))) => {
            found.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => "its thread panicked".to_owned(),
    })
}
