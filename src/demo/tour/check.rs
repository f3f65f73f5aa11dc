//! What a step expects, and what it says when it got something else.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use http::StatusCode;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio_tungstenite::tungstenite::Message;

use crate::demo::client::{Answer, Socket};

/// What a step found, or how that differs from what it expected.
pub(super) type Checked = Result<String, String>;

/// How long the plant may take to follow; it speaks five times a second.
const PATIENCE: Duration = Duration::from_millis(1500);

pub(super) fn status(answer: &Answer, expected: StatusCode) -> Result<(), String> {
    if answer.status == expected {
        return Ok(());
    }
    let decision = answer.decision().map(|id| format!(", decision {id}")).unwrap_or_default();
    Err(format!("{} answered {}, not {expected}{decision}", answer.url, answer.status))
}

pub(super) fn says(text: &str, needed: &str) -> Result<(), String> {
    if text.contains(needed) {
        return Ok(());
    }
    let shown: String = text.chars().take(120).collect();
    Err(format!("`{needed}` is missing in `{shown}`"))
}

/// A refusal by policy that says its decision and leaks nothing. Yields the decision id.
pub(super) fn denied(answer: &Answer, secret: &str) -> Checked {
    status(answer, StatusCode::FORBIDDEN)?;
    if answer.body.contains(secret) {
        return Err("the refusal shows what it refuses".to_owned());
    }
    let id = answer.decision().ok_or("the refusal has no decision id")?;
    says(&answer.body, id)?;
    Ok(id.to_owned())
}

/// Reads until the plant reports `wanted` (or anything), and yields the reported set-point.
pub(super) async fn wait_for_setpoint(
    socket: &mut Socket,
    wanted: Option<f64>,
) -> Result<f64, String> {
    let read = async {
        while let Some(message) = socket.next().await {
            let Message::Text(text) = message.map_err(|error| error.to_string())? else { continue };
            let reading: serde_json::Value =
                serde_json::from_str(&text).map_err(|error| error.to_string())?;
            let found = reading.get("setpoint").and_then(serde_json::Value::as_f64);
            match (found, wanted) {
                (Some(found), None) => return Ok(found),
                (Some(found), Some(wanted)) if (found - wanted).abs() < 0.01 => return Ok(found),
                _ => {}
            }
        }
        Err("the connection was closed".to_owned())
    };
    match tokio::time::timeout(PATIENCE, read).await {
        Ok(found) => found,
        Err(_) => Err("the set-point did not change".to_owned()),
    }
}

/// Reads records until the one of this decision: the gate answers before it is written, and who
/// reads the log at once could be too early.
pub(super) async fn wait_for_record(records: &mut broadcast::Receiver<Arc<str>>, decision: &str) {
    let found = async {
        loop {
            match records.recv().await {
                Ok(record) if record.contains(decision) => return,
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            }
        }
    };
    // When it never comes, the step that reads the log says so.
    let _ = tokio::time::timeout(Duration::from_secs(5), found).await;
}

/// Reads until the connection ends.
pub(super) async fn wait_for_end(socket: &mut Socket, limit: Duration) -> Result<(), String> {
    let end = async {
        while let Some(Ok(message)) = socket.next().await {
            if matches!(message, Message::Close(_)) {
                return;
            }
        }
    };
    match tokio::time::timeout(limit, end).await {
        Ok(()) => Ok(()),
        Err(_) => Err(format!("the connection is still open after {} s", limit.as_secs())),
    }
}
