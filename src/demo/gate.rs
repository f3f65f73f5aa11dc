//! The gate itself, as the demo runs it: the same one that `wicketgate run` starts.

use std::path::Path;
use std::sync::Arc;

use tokio::sync::broadcast;

use super::DemoError;

/// The running gate.
#[derive(Debug)]
pub struct Gate {
    lines: broadcast::Sender<Arc<str>>,
}

impl Gate {
    /// Starts the gate with this configuration file.
    ///
    /// # Errors
    /// What was wrong with the configuration, or with an address.
    pub async fn start(config: &Path) -> Result<Self, DemoError> {
        Err(DemoError::Gate(format!("`{}`: this build has no gate yet", config.display())))
    }

    /// The audit records as they are written, a line each.
    pub fn records(&self) -> broadcast::Receiver<Arc<str>> {
        self.lines.subscribe()
    }

    /// What `wicketgate policy explain` prints for a decision.
    pub async fn explain(&self, _decision: &str) -> Result<String, DemoError> {
        Err(DemoError::Gate("this build can't explain yet".to_owned()))
    }

    /// Verifies the audit log: how many records there are.
    ///
    /// # Errors
    /// The first bad record.
    pub async fn verify(&self) -> Result<u64, DemoError> {
        Err(DemoError::Gate("this build has no audit log yet".to_owned()))
    }

    pub async fn stop(self) {}
}
