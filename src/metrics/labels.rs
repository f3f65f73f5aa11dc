//! The words that labels are made of.

use crate::domain::event::EndReason;

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestOutcome {
    /// The policies said yes, and the upstream answered.
    Permitted,
    /// The policies said no.
    Denied,
    /// A sign-in is needed first.
    Unauthenticated,
    /// The request was malformed, matched no route or broke a limit.
    Refused,
    /// The gate or something that it depends on failed.
    Error,
}

impl RequestOutcome {
    pub const ALL: [Self; 5] =
        [Self::Permitted, Self::Denied, Self::Unauthenticated, Self::Refused, Self::Error];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Permitted => "permitted",
            Self::Denied => "denied",
            Self::Unauthenticated => "unauthenticated",
            Self::Refused => "refused",
            Self::Error => "error",
        }
    }
}

/// The stages of the pipeline, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// With the match of a route, and what is refused without a policy.
    Normalise,
    Authenticate,
    Authorise,
    Record,
    Prepare,
}

impl Stage {
    pub const ALL: [Self; 5] =
        [Self::Normalise, Self::Authenticate, Self::Authorise, Self::Record, Self::Prepare];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Normalise => "normalise",
            Self::Authenticate => "authenticate",
            Self::Authorise => "authorise",
            Self::Record => "record",
            Self::Prepare => "prepare",
        }
    }
}

/// The same words as in audit records.
pub(super) const fn end_reason(reason: EndReason) -> &'static str {
    match reason {
        EndReason::Logout => "logout",
        EndReason::ProviderLogout => "provider-logout",
        EndReason::IdleTimeout => "idle-timeout",
        EndReason::AbsoluteLifetime => "absolute-lifetime",
        EndReason::Revoked => "revoked",
        EndReason::Replaced => "replaced",
        EndReason::Limit => "limit",
        EndReason::Suspended => "suspended",
        EndReason::RefreshRefused => "refresh-refused",
    }
}
