//! Who is shut out for now.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::clock::Timestamp;

/// What can be suspended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Subject {
    /// A principal, by its id: `PROVIDER/SUBJECT`.
    User,
    /// A device, by its id in the registry.
    Device,
    /// A customer organisation with all its users.
    Tenant,
}

impl Subject {
    pub const fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Device => "device",
            Self::Tenant => "tenant",
        }
    }
}

/// One that is in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspension {
    pub subject: Subject,
    pub name: Arc<str>,
    pub since: Timestamp,
    /// Who did it, as records name him.
    pub by: Arc<str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Arc<str>>,
}
