//! A recorded decision, made again.

use std::fmt;
use std::path::Path;

use serde::Serialize;

use crate::audit;
use crate::domain::clock::Timestamp;
use crate::domain::event::Event;
use crate::domain::id::DecisionId;
use crate::policy::{self, Archive, Engine, Explanation};

/// Why a decision can't be explained.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    #[error("the audit log can't be read: {0}")]
    Log(#[from] std::io::Error),
    #[error(
        "no decision `{0}` in this audit log; it is another gate's, or one of the many refusals \
         that are only counted (`audit query --event refusals-counted`)"
    )]
    Unknown(DecisionId),
    #[error("the policy set {0} is no longer kept beside the audit log")]
    SetGone(String),
    #[error("the kept policy set {0} was changed, so it is not the one that decided")]
    SetChanged(String),
    #[error("the kept policy set {set} can't be read: {cause}")]
    SetBroken { set: String, cause: String },
    #[error("decided again, the outcome is another one than recorded")]
    Differs,
}

/// What is known about a decision id. It prints as plain text for people.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Explained {
    Decision {
        id: DecisionId,
        at: String,
        explanation: Box<Explanation>,
    },
    /// The gate refused before the policies were asked.
    Refused {
        id: DecisionId,
        at: String,
        status: u16,
        reason: String,
        detail: String,
    },
    /// The id of something else: the record itself.
    Other {
        record: String,
    },
}

impl fmt::Display for Explained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Decision { id, at, explanation } => write!(f, "{id} at {at}\n{explanation}"),
            Self::Refused { id, at, status, reason, detail } => write!(
                f,
                "{id} at {at}\nrefused with {status} before the policies were asked\n\
                 {reason}: {detail}"
            ),
            Self::Other { record } => write!(f, "not a decision of the policies:\n{record}"),
        }
    }
}

/// Finds a decision, takes the policy set of its time, and decides once more.
///
/// # Errors
/// When the decision or its policy set is not there any more, or does not come out the same.
pub fn explain(directory: &Path, id: DecisionId) -> Result<Explained, ExplainError> {
    let record = audit::find_decision(directory, id)?.ok_or(ExplainError::Unknown(id))?;
    let at = Timestamp::to_string(&record.at);
    let (query, decision) = match record.event {
        Event::Decision { query, decision, .. } => (query, decision),
        Event::Refused { reason, detail, status, .. } => {
            return Ok(Explained::Refused { id, at, status, reason: reason.to_string(), detail });
        }
        _ => return Ok(Explained::Other { record: record.line }),
    };
    let set = decision.policy_set.to_string();
    let kept = audit::load_policy_set(directory, &decision.policy_set)?
        .ok_or_else(|| ExplainError::SetGone(set.clone()))?;
    let archive: Archive = serde_json::from_slice(&kept)
        .map_err(|error| ExplainError::SetBroken { set: set.clone(), cause: error.to_string() })?;
    if archive.hash() != decision.policy_set {
        return Err(ExplainError::SetChanged(set));
    }
    let engine = Engine::from_archive(archive).map_err(|found| ExplainError::SetBroken {
        set,
        cause: found.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"),
    })?;
    let explanation = policy::explain(&engine, &query);
    if explanation.decision != decision {
        return Err(ExplainError::Differs);
    }
    Ok(Explained::Decision { id, at, explanation: Box::new(explanation) })
}
