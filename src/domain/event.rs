//! What the audit log keeps: one event per decision and per change of a session.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::clock::Timestamp;
use super::decision::Decision;
use super::id::DecisionId;
use super::query::AccessQuery;

/// One thing that happened. Everything a client sent stays data: it is only ever written as an
/// escaped JSON string.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// The policies were asked.
    Decision {
        id: DecisionId,
        /// What the decision was made for.
        occasion: Occasion,
        #[serde(flatten)]
        query: Box<AccessQuery>,
        #[serde(flatten)]
        decision: Decision,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        session: Option<String>,
    },
    /// The gate refused a request before the policies were asked.
    Refused {
        id: DecisionId,
        /// A stable word of the refusal: `bad-request`, `no-route`, `unauthenticated`, ...
        reason: Arc<str>,
        detail: String,
        status: u16,
        source: IpAddr,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        path: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        method: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        principal: Option<Arc<str>>,
    },
    /// Refusals of strangers that have no record of their own, because they came faster than such
    /// records are kept.
    RefusalsCounted {
        /// The word that [`Refused`](Self::Refused) would have carried.
        reason: Arc<str>,
        count: u64,
        /// The first and the last that are counted here.
        first: Timestamp,
        last: Timestamp,
        /// Where most of them came from, those with the most first. The rest of the count came
        /// from elsewhere.
        networks: Vec<FromNetwork>,
    },
    SessionStarted {
        id: DecisionId,
        session: String,
        principal: Arc<str>,
        host: String,
        source: IpAddr,
    },
    SessionEnded {
        id: DecisionId,
        session: String,
        principal: Arc<str>,
        reason: EndReason,
    },
    LoginFailed {
        id: DecisionId,
        /// What was wrong, without tokens or codes.
        reason: String,
        host: String,
        source: IpAddr,
    },
    /// An identity provider asked for sessions to end (OpenID Connect Back-Channel Logout 1.0);
    /// each has a record of its own.
    ProviderLogout {
        id: DecisionId,
        provider: Arc<str>,
        /// The provider's name for the user, where it said whose sessions.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        subject: Option<Arc<str>>,
        /// How many ended.
        sessions: usize,
        source: IpAddr,
    },
    /// A live connection was cut because it is no longer allowed.
    ConnectionCut {
        id: DecisionId,
        /// The decision that had opened it.
        opened_by: DecisionId,
        session: Option<String>,
        principal: Arc<str>,
        route: Arc<str>,
        reason: String,
    },
    /// Client data frames on a WebSocket were dropped for want of `websocket:send`.
    FramesDropped {
        id: DecisionId,
        opened_by: DecisionId,
        principal: Arc<str>,
        route: Arc<str>,
    },
    /// An operator asked the running gate for something: to show or end sessions, to suspend or
    /// restore.
    Administered {
        /// Who, as the kernel says: `uid:0`.
        by: Arc<str>,
        /// `list-sessions`, `revoke-sessions`, `suspend-user`, ...
        action: Arc<str>,
        /// Whom or what it is about: the id of a user, device or session, the name of a tenant.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        target: Option<Arc<str>>,
        /// In the operator's words.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<Arc<str>>,
    },
    ConfigurationLoaded {
        generation: u64,
        policy_set: String,
    },
    ConfigurationRefused {
        reason: String,
    },
    /// A renewed certificate is out of date, so the one before it, which isn't, is served on. All
    /// else of the reload is in force.
    CertificateRefused {
        listener: Arc<str>,
        file: Arc<str>,
        reason: String,
    },
    /// A certificate that clients are served has expired, and no other one that is in date covers
    /// what it covers.
    CertificateExpired {
        listener: Arc<str>,
        file: Arc<str>,
        expired_at: Timestamp,
    },
    Started {
        version: String,
    },
    Stopped,
    /// A newer process had taken this one's place, and the last connection here has ended.
    Replaced,
}

/// How much of a count came from one network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FromNetwork {
    /// An IPv4 address, or an IPv6 network: `192.0.2.1`, `2001:db8:1:2::/64`.
    pub network: Arc<str>,
    pub count: u64,
}

/// What a decision was made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Occasion {
    Request,
    /// A live connection was looked at again.
    Reauthorisation,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndReason {
    Logout,
    /// The provider asked for it.
    ProviderLogout,
    IdleTimeout,
    AbsoluteLifetime,
    Revoked,
    /// A new login on the same browser took its place.
    Replaced,
    /// Its user began more sessions than one may have, and it was the oldest.
    Limit,
    /// Its user, or its user's tenant, was suspended.
    Suspended,
    /// Its provider no longer vouches for it: it refused to refresh it, or spoke of somebody else.
    RefreshRefused,
}
