//! Every reason for which the gate itself answers instead of an upstream.

use std::sync::Arc;

use crate::config::model::LimitPer;
use crate::domain::canonical::{HostError, TargetError};
use crate::domain::step_up::StepUp;
use crate::domain::suspension::Subject;
use crate::identity::bearer::BearerError;
use crate::identity::exchange::ExchangeError;
use crate::identity::oidc::{LoginError, LogoutError};
use crate::policy::Denial;
use crate::upstream::UpstreamError;

use super::live::CutReason;
use super::sign_in_again::SignInAgain;

/// Why a request is not forwarded. Each has a status, a stable word for records and metrics, and
/// a sentence for whoever sent the request.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("{0}")]
    Malformed(&'static str),
    #[error("{0}")]
    Host(#[from] HostError),
    #[error("{0}")]
    Target(#[from] TargetError),
    #[error("the path carries `;parameters`, which this route does not allow")]
    PathParameters,
    #[error("but for upper and lower case the path belongs to another route")]
    AmbiguousCase,
    #[error("this method is not served here")]
    Method { allow: &'static str },
    #[error("this server does not serve the host that was asked for")]
    Misdirected,
    #[error("the TLS connection was opened for another host")]
    ServerNameMismatch,
    #[error("nothing is served at this path")]
    NoRoute,
    #[error("this route does not take WebSockets")]
    NoWebSocket,
    #[error("the request body is larger than the route's limit of {limit} bytes")]
    TooLarge { limit: u64 },
    #[error("the request has more header fields than the {limit} that are taken")]
    TooManyFields { limit: usize },
    #[error("the request's body stopped coming")]
    Stalled,
    #[error("the request's body came too slowly")]
    TooSlow,
    #[error("the gate lost the request")]
    Internal,
    #[error("requests from your address are not served here")]
    Source,
    #[error("the request comes from another site")]
    CrossSite,
    #[error("sign-in is required")]
    Unauthenticated {
        /// The client sent a session cookie that is no longer good.
        stale: bool,
    },
    #[error("you have signed in, and the session did not come back with the request")]
    NoSessionKept,
    /// Over for this application: see [`sign_in_again`](super::sign_in_again).
    #[error("{}", .0.why.detail())]
    SignInAgain(Box<SignInAgain>),
    /// And another sign-in has not changed it.
    #[error("you have signed in, and still {}", .0.why.detail())]
    SignInInVain(Box<SignInAgain>),
    #[error("the form is not kept any more: it was sent or discarded, or ten minutes have passed")]
    FormGone,
    #[error("the form was filled in by another user")]
    FormOfAnother,
    /// The route takes no sessions, so that signing in doesn't help.
    #[error("an access token is required")]
    TokenRequired,
    /// The route takes neither sessions nor tokens.
    #[error("a client certificate that stands for a service is required")]
    CertificateRequired,
    #[error("{0}")]
    Token(#[from] BearerError),
    #[error("{0}")]
    Exchange(#[from] ExchangeError),
    #[error("the policies do not allow this")]
    Denied(Box<Denial>),
    #[error("the policies do not allow this without a stronger sign-in")]
    StepUp {
        denial: Box<Denial>,
        /// Whose session it is.
        provider: Arc<str>,
        asked: Box<StepUp>,
    },
    #[error("sign-in failed: {0}")]
    Login(#[from] LoginError),
    #[error("{0}")]
    Logout(#[from] LogoutError),
    #[error("the {} is suspended", .subject.name())]
    Suspended { subject: Subject, principal: Arc<str> },
    #[error("sessions can't be checked at the moment")]
    SessionsUnavailable,
    #[error("the identity provider can't be asked about you, and was not for too long")]
    IdentityUnconfirmed { principal: Arc<str> },
    #[error("the access can't be recorded, so it is refused")]
    AuditUnavailable,
    #[error("the configuration changed while the request waited to be recorded")]
    Overtaken,
    #[error("access ended while the request ran: {0}")]
    Cut(CutReason),
    #[error("the application did not take the WebSocket handshake")]
    NotUpgraded,
    #[error("{0}")]
    Upstream(UpstreamError),
    #[error("too many requests: the limit `{policy}` is reached")]
    RateLimited {
        per: LimitPer,
        policy: Arc<str>,
        /// Until one more passes, in seconds.
        wait: u64,
    },
    #[error("{}", busy(.0))]
    Busy(&'static str),
    #[error("the gate is short of memory")]
    Overloaded,
}

/// What there is too much of, from what was full.
fn busy(full: &str) -> &'static str {
    match full {
        "websockets" => "too many WebSockets are open on this route",
        "upstream" => "too many requests to this application are under way",
        "caller" => "most of what is under way on this route is yours, and the rest is for others",
        _ => "too many requests are under way on this route",
    }
}

impl Refusal {
    /// A method that is never forwarded.
    pub const METHOD: Self = Self::Method { allow: "GET, HEAD, OPTIONS, POST, PUT, PATCH, DELETE" };

    /// A trusted proxy's `X-Forwarded-For` can't be read as far as the client.
    pub const UNKNOWN_CLIENT: Self =
        Self::Malformed("the `X-Forwarded-For` field of a trusted proxy can't be read");

    pub fn status(&self) -> http::StatusCode {
        use http::StatusCode;
        match self {
            Self::Malformed(_)
            | Self::Host(_)
            | Self::Target(_)
            | Self::PathParameters
            | Self::AmbiguousCase => StatusCode::BAD_REQUEST,
            Self::Method { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::Misdirected | Self::ServerNameMismatch => StatusCode::MISDIRECTED_REQUEST,
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooManyFields { .. } => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Stalled | Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::NoWebSocket
            | Self::Source
            | Self::CrossSite
            | Self::Suspended { .. }
            | Self::Denied(_)
            | Self::Cut(_) => StatusCode::FORBIDDEN,
            Self::NotUpgraded => StatusCode::BAD_GATEWAY,
            Self::FormGone => StatusCode::GONE,
            // 401 would have to name a way that HTTP knows (RFC 9110, section 15.5.2).
            Self::FormOfAnother | Self::CertificateRequired => StatusCode::FORBIDDEN,
            Self::Exchange(error) if error.is_unavailable() => StatusCode::SERVICE_UNAVAILABLE,
            Self::Exchange(_) => StatusCode::BAD_GATEWAY,
            Self::Token(error) if error.is_unavailable() => StatusCode::SERVICE_UNAVAILABLE,
            Self::Unauthenticated { .. }
            | Self::NoSessionKept
            | Self::SignInAgain(_)
            | Self::SignInInVain(_)
            | Self::StepUp { .. }
            | Self::TokenRequired
            | Self::Token(_) => StatusCode::UNAUTHORIZED,
            Self::Login(error) => {
                StatusCode::from_u16(error.status()).unwrap_or(StatusCode::SERVICE_UNAVAILABLE)
            }
            Self::Logout(error) => {
                StatusCode::from_u16(error.status()).unwrap_or(StatusCode::SERVICE_UNAVAILABLE)
            }
            Self::SessionsUnavailable
            | Self::IdentityUnconfirmed { .. }
            | Self::AuditUnavailable
            | Self::Overtaken
            | Self::Busy(_)
            | Self::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
            Self::RateLimited { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Upstream(error) => error.status(),
        }
    }

    /// When another try may have a better end, in seconds (RFC 9110, section 10.2.3).
    pub fn retry_after(&self) -> Option<u64> {
        match self {
            Self::RateLimited { wait, .. } => Some((*wait).max(1)),
            Self::Busy(_) => Some(1),
            Self::Upstream(error) if error.retry_after().is_some() => error.retry_after(),
            _ => (self.status() == http::StatusCode::SERVICE_UNAVAILABLE).then_some(5),
        }
    }

    /// What the client is told. Names and addresses behind the gate stay behind it.
    pub fn public_detail(&self) -> String {
        let status = self.status();
        match self {
            Self::Upstream(UpstreamError::ConnectQueue { .. }) => {
                "too many requests wait for a connection to the application".to_owned()
            }
            Self::Upstream(_) if status == http::StatusCode::SERVICE_UNAVAILABLE => {
                "no instance of the application is available".to_owned()
            }
            Self::Upstream(_) if status == http::StatusCode::GATEWAY_TIMEOUT => {
                "the application did not answer in time".to_owned()
            }
            Self::Upstream(_) if status.is_server_error() => {
                "the application could not be reached, or its answer could not be used".to_owned()
            }
            Self::Upstream(_) => "the request ended early".to_owned(),
            Self::Logout(LogoutError::ProviderUnavailable(_)) => {
                "the identity provider's keys can't be had, so the token can't be checked"
                    .to_owned()
            }
            Self::Token(error) if error.is_unavailable() => {
                "access tokens can't be checked at the moment".to_owned()
            }
            Self::Exchange(_) => {
                "the identity provider gave no token for the application".to_owned()
            }
            Self::Login(LoginError::ProviderUnavailable(_)) => {
                "the identity provider can't be reached, so nobody can sign in right now".to_owned()
            }
            Self::Login(_) if status.is_server_error() => {
                "logins can't be kept at the moment".to_owned()
            }
            other => other.to_string(),
        }
    }

    /// Whom it is about, where the stage that refuses knows better than the arrival.
    pub fn principal(&self) -> Option<&Arc<str>> {
        match self {
            Self::Suspended { principal, .. } | Self::IdentityUnconfirmed { principal } => {
                Some(principal)
            }
            Self::SignInAgain(wanted) | Self::SignInInVain(wanted) => Some(&wanted.principal),
            _ => None,
        }
    }

    /// A stable word for the audit log, metrics and the problem type.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed-request",
            Self::Host(_) => "bad-host",
            Self::Target(_) => "bad-target",
            Self::PathParameters => "path-parameters",
            Self::AmbiguousCase => "ambiguous-case",
            Self::Overtaken => "overtaken",
            Self::Cut(_) => "cut",
            Self::NotUpgraded => "not-upgraded",
            Self::Method { .. } => "method-not-allowed",
            Self::Misdirected => "unknown-host",
            Self::ServerNameMismatch => "server-name-mismatch",
            Self::NoRoute => "no-route",
            Self::NoWebSocket => "websocket-not-allowed",
            Self::TooLarge { .. } => "body-too-large",
            Self::TooManyFields { .. } => "too-many-fields",
            Self::Stalled => "body-stalled",
            Self::TooSlow => "body-too-slow",
            Self::Internal => "internal",
            Self::Source => "source-not-allowed",
            Self::CrossSite => "cross-site",
            Self::Unauthenticated { .. } => "unauthenticated",
            Self::NoSessionKept => "no-session-kept",
            Self::SignInAgain(wanted) | Self::SignInInVain(wanted) => wanted.why.reason(),
            Self::FormGone => "form-gone",
            Self::FormOfAnother => "form-of-another",
            Self::Exchange(_) => "token-exchange",
            Self::TokenRequired => "token-required",
            Self::CertificateRequired => "certificate-required",
            Self::Token(error) if error.is_unavailable() => "keys-unavailable",
            Self::Token(_) => "invalid-token",
            Self::Denied(_) => "denied",
            Self::StepUp { .. } => "step-up-required",
            Self::Suspended { .. } => "suspended",
            Self::Login(_) => "login-failed",
            Self::Logout(_) => "logout-refused",
            Self::SessionsUnavailable => "sessions-unavailable",
            Self::IdentityUnconfirmed { .. } => "identity-unconfirmed",
            Self::AuditUnavailable => "audit-unavailable",
            Self::Upstream(_) => "upstream",
            Self::RateLimited { .. } => "rate-limited",
            Self::Busy(_) => "busy",
            Self::Overloaded => "overloaded",
        }
    }

    pub fn title(&self) -> &'static str {
        match self {
            Self::Malformed(_)
            | Self::Host(_)
            | Self::Target(_)
            | Self::PathParameters
            | Self::AmbiguousCase => "The request could not be understood",
            Self::Method { .. } => "Method not allowed",
            Self::Misdirected | Self::ServerNameMismatch => "Wrong address",
            Self::NoRoute => "Nothing here",
            Self::TooLarge { .. } | Self::TooManyFields { .. } => "Too large",
            Self::Stalled | Self::TooSlow => "Too slow",
            Self::Internal => "Something went wrong here",
            Self::NoWebSocket
            | Self::Source
            | Self::CrossSite
            | Self::Suspended { .. }
            | Self::Denied(_)
            | Self::Cut(_) => "Access denied",
            Self::Unauthenticated { .. } | Self::SignInAgain(_) => "Sign-in required",
            Self::NoSessionKept | Self::SignInInVain(_) => "Signed in, but not for long",
            Self::FormGone => "This form is gone",
            Self::FormOfAnother => "Not your form",
            Self::StepUp { .. } => "A stronger sign-in is required",
            Self::Token(error) if error.is_unavailable() => "Not available at the moment",
            Self::Exchange(_) => "Not available at the moment",
            Self::TokenRequired => "Access token required",
            Self::CertificateRequired => "Client certificate required",
            Self::Token(_) => "Access token refused",
            Self::Login(_) => "Sign-in failed",
            Self::Logout(_) => "Logout refused",
            Self::SessionsUnavailable
            | Self::IdentityUnconfirmed { .. }
            | Self::AuditUnavailable
            | Self::Overtaken
            | Self::Busy(_)
            | Self::Overloaded => "Not available at the moment",
            Self::RateLimited { .. } => "Too many requests",
            Self::Upstream(_) | Self::NotUpgraded => "The application did not answer",
        }
    }

    /// What the person in front of the page can do.
    pub fn advice(&self) -> &'static str {
        match self {
            Self::Malformed(_)
            | Self::Host(_)
            | Self::Target(_)
            | Self::PathParameters
            | Self::AmbiguousCase => {
                "Check the address. If a link led here, its owner has to correct it."
            }
            Self::Method { .. } | Self::NoWebSocket => {
                "If the application needs this, its operator can look the decision up by its id."
            }
            Self::Misdirected | Self::ServerNameMismatch => {
                "Open the address in a new window, or check its spelling."
            }
            Self::Source => {
                "Try from the network that you are meant to use. If this is it, give the id to \
                 your administrator."
            }
            Self::NoRoute => "Check the address.",
            Self::TooLarge { .. } => "Send less at once.",
            Self::TooManyFields { .. } => "Deleting this site's cookies may help.",
            Self::Stalled | Self::TooSlow => "Check the connection and send it again.",
            Self::CrossSite => {
                "If you followed a link or submitted a form on another site, open the application \
                 itself and try there."
            }
            Self::Unauthenticated { .. }
            | Self::SignInAgain(_)
            | Self::StepUp { .. }
            | Self::Cut(_) => "Sign in and try again.",
            Self::SignInInVain(_) => {
                "Sign out and in again. If it stays, give the id to your administrator."
            }
            Self::FormGone => {
                "If it was sent, its effect is in the application. Else go back to its page and fill it in \
                 again."
            }
            Self::FormOfAnother => "Sign in as the user who filled it in.",
            Self::NoSessionKept => {
                "Allow this site to keep cookies, and see that the clock of this device is right. If \
                 it happens again, give the id to your administrator."
            }
            Self::CertificateRequired => {
                "Connect with the certificate of a service that the device registry lists."
            }
            Self::TokenRequired | Self::Token(_) => {
                "Programs get an access token from the identity provider and send it as \
                 `Authorization: Bearer`."
            }
            Self::Denied(_) => {
                "If you should have access, give the decision id to your administrator: it says \
                 exactly what was decided and why."
            }
            Self::Suspended { .. } => {
                "Signing in again does not help. Ask your administrator, and give the id."
            }
            Self::RateLimited { .. } => "Wait a moment, then try again.",
            Self::Logout(_) => "Look the decision up by its id: the audit log has the reason.",
            Self::Login(LoginError::ProviderUnavailable(_)) => {
                "Try again in a few minutes. If it stays, give the id to your administrator."
            }
            Self::Login(_) => "Start again. If it fails again, give the id to your administrator.",
            Self::SessionsUnavailable
            | Self::IdentityUnconfirmed { .. }
            | Self::AuditUnavailable
            | Self::Overtaken
            | Self::Internal
            | Self::NotUpgraded
            | Self::Busy(_)
            | Self::Overloaded
            | Self::Exchange(_)
            | Self::Upstream(_) => {
                "Try again in a moment. If it stays, give the id to your administrator."
            }
        }
    }
}
