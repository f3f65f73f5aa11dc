//! What the policies said.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::id::PolicySetHash;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Permit,
    Deny,
}

/// The policies' answer to one query, as it is recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    pub verdict: Verdict,
    pub policy_set: PolicySetHash,
    /// The policies that decided: the permits of a permit, the forbids of a denial by `forbid`,
    /// none when nothing allowed it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub determining: Vec<PolicyRef>,
    /// Evaluation errors. Any error denies.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<Arc<str>>,
}

/// A policy and where it stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PolicyRef {
    /// The policy's `@id` annotation, else `<file stem>#<number in the file, from 1>`.
    pub id: Arc<str>,
    pub file: Arc<str>,
    /// From 1.
    pub line: u32,
}
