//! What the principal asks from.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::clock::Timestamp;

/// A device that proved its identity (with a client certificate) and is in the registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    pub id: Arc<str>,
    /// The principal id that the device is issued to, where it is personal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub posture: Option<Posture>,
}

/// Facts about a device's health, and when they were observed. A fact that nobody observed is
/// absent: no default stands in for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Posture {
    pub observed_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub managed: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_encrypted: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firewall: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint_protection: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub screen_lock: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub os: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub os_version: Option<Arc<str>>,
    /// Days since the last security update was installed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patch_age_days: Option<i64>,
}

#[cfg(test)]
impl Posture {
    /// Observed, and nothing found out.
    pub fn unknown(observed_at: Timestamp) -> Self {
        Self {
            observed_at,
            managed: None,
            disk_encrypted: None,
            firewall: None,
            endpoint_protection: None,
            screen_lock: None,
            os: None,
            os_version: None,
            patch_age_days: None,
        }
    }
}

/// What is known about the device of a connection: three different things, never one `None`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceIdentity {
    /// The client sent no certificate.
    NotPresented,
    /// A certificate from the device CA, whose device the registry knows.
    Known(Arc<Device>),
    /// A certificate from the device CA that the registry does not list.
    Unregistered,
}

impl DeviceIdentity {
    pub fn known(&self) -> Option<&Arc<Device>> {
        match self {
            Self::Known(device) => Some(device),
            Self::NotPresented | Self::Unregistered => None,
        }
    }
}
