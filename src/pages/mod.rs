//! The pages that the gate itself shows: sign-in, denial, error, signed-out and "who am I".
//!
//! Pure data becomes HTML: no script, no inline style, nothing from another host, so that
//! [`CONTENT_SECURITY_POLICY`] can forbid everything else. Many sites have no Internet.
//!
//! INVARIANT: every value is HTML-escaped by the template engine; no template marks a value safe.
//! Links that lead elsewhere (`choices`, `cancel`, `sign_in`) are made by the gate, never by
//! a client.

pub mod asset;
mod wording;

use std::sync::Arc;

use askama::Template;

use crate::domain::clock::Timestamp;
use crate::domain::device::DeviceIdentity;
use crate::domain::principal::{Authentication, Principal};

pub use asset::find as asset;
use wording::show;

/// Sent with every page. `form-action` names the host itself; the page with the sign-out form
/// needs [`sign_out_policy`].
pub const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src 'self'; img-src 'self'; \
     form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// The policy of the pages with a sign-out form ([`SignOut`], [`Me`]): Chromium holds
/// `form-action` against the redirects that answer a form, and those may lead to the identity
/// provider's end-session endpoint, and on to where the user wished to go. Without any, or when
/// they are no http(s) addresses, it is [`CONTENT_SECURITY_POLICY`].
pub fn sign_out_policy<'a>(onwards: impl IntoIterator<Item = &'a str>) -> String {
    let origins = onwards
        .into_iter()
        .filter_map(|address| url::Url::parse(address).ok())
        .map(|address| address.origin())
        .filter(url::Origin::is_tuple);
    let allowed = origins.fold("form-action 'self'".to_owned(), |allowed, origin| {
        format!("{allowed} {}", origin.ascii_serialization())
    });
    CONTENT_SECURITY_POLICY.replace("form-action 'self'", &allowed)
}

/// The policy of a page that pages of these origins may show in a frame.
pub fn framed_by(origins: &[String]) -> String {
    let allowed = format!("frame-ancestors {}", origins.join(" "));
    CONTENT_SECURITY_POLICY.replace("frame-ancestors 'none'", &allowed)
}

/// Asks for a click before the browser is sent to the identity provider, and with which one where
/// there are several.
#[derive(Clone, Copy, Debug, Template)]
#[template(path = "sign_in.html")]
pub struct SignIn<'a> {
    pub host: &'a str,
    /// Path (and query) that the user asked for, for reading only.
    pub return_to: &'a str,
    /// The providers' display names, and where their buttons lead: `/.wicketgate/login?...`.
    pub choices: &'a [Link<'a>],
}

/// A refusal by policy.
#[derive(Clone, Copy, Debug, Template)]
#[template(path = "denial.html")]
pub struct Denial<'a> {
    pub method: &'a str,
    pub host: &'a str,
    pub path: &'a str,
    /// The application's display name.
    pub application: Option<&'a str>,
    /// Name, address or id of the signed-in user.
    pub principal: Option<&'a str>,
    /// One sentence: why, as far as the user may know.
    pub why: &'a str,
    /// Ids of the policies that decided, where the user may know them.
    pub policies: &'a [&'a str],
    /// What may help in this case; what always helps is added.
    pub advice: &'a [&'a str],
    /// Where to sign in again, where a stronger or more recent sign-in would be allowed.
    pub sign_in: Option<&'a str>,
    pub decision_id: &'a str,
    pub at: Timestamp,
}

/// Anything that went wrong short of a policy's refusal.
#[derive(Clone, Copy, Debug, Template)]
#[template(path = "error.html")]
pub struct ErrorPage<'a> {
    pub status: u16,
    pub host: Option<&'a str>,
    pub title: &'a str,
    pub text: &'a str,
    pub decision_id: Option<&'a str>,
    pub link: Option<Link<'a>>,
}

/// Something to click.
#[derive(Clone, Copy, Debug)]
pub struct Link<'a> {
    pub href: &'a str,
    pub label: &'a str,
}

/// Asks before signing out: a link must not be able to end a session.
#[derive(Clone, Copy, Debug, Template)]
#[template(path = "sign_out.html")]
pub struct SignOut<'a> {
    pub host: &'a str,
    /// Name, address or id of the signed-in user.
    pub principal: &'a str,
    /// Ties the form to this session; sent in the query, because no form of people has its body read.
    pub csrf: &'a str,
    /// Where to go afterwards, as the forms carry it on.
    pub return_to: Option<&'a str>,
    /// How many other sessions the user has.
    pub others: usize,
    /// Where "stay signed in" leads.
    pub cancel: &'a str,
}

/// After the session has ended.
#[derive(Clone, Copy, Debug, Template)]
#[template(path = "signed_out.html")]
pub struct SignedOut<'a> {
    pub host: &'a str,
    /// Display name of the provider, when its own session was not ended as well.
    pub still_signed_in_at: Option<&'a str>,
    /// Where "sign in again" leads.
    pub sign_in: &'a str,
}

/// Asks whether to send a form that was kept while its sender signed in. No values: people type
/// passwords into forms.
#[derive(Clone, Copy, Debug, Template)]
#[template(path = "kept_form.html")]
pub struct KeptForm<'a> {
    pub host: &'a str,
    /// Path and query that it goes to.
    pub target: &'a str,
    /// Names of its fields.
    pub fields: &'a [String],
    pub bytes: usize,
    /// What names the form in the page's own address.
    pub form: &'a str,
    /// Ties the buttons to this session and form.
    pub csrf: &'a str,
}

/// The policy of [`KeptForm`]: the application's answer to the form may lead to another site, and
/// Chromium holds `form-action` against that, too. The page has no forms but the gate's own.
pub fn kept_form_policy() -> String {
    CONTENT_SECURITY_POLICY.replace("form-action 'self'", "form-action 'self' https:")
}

/// What the gate knows of the signed-in user. No tokens (CVE-2024-39315).
#[derive(Clone, Copy, Debug, Template)]
#[template(path = "me.html")]
pub struct Me<'a> {
    pub host: &'a str,
    pub principal: &'a Principal,
    pub authentication: &'a Authentication,
    pub device: &'a DeviceIdentity,
    /// The provider's display name.
    pub provider: &'a str,
    pub started: Timestamp,
    pub expires: Timestamp,
    /// All that the user has, this one among them.
    pub sessions: &'a [OwnSession],
    /// As in [`SignOut`].
    pub csrf: &'a str,
}

/// One of the sessions of the user who looks at [`Me`].
#[derive(Clone, Debug)]
pub struct OwnSession {
    /// The first half of its id: it names the session in a form and is no credential.
    pub id: String,
    /// The one that asked for the page.
    pub current: bool,
    pub started: Timestamp,
    pub last_seen: Timestamp,
    pub host: Option<Arc<str>>,
    /// The provider's display name.
    pub provider: Arc<str>,
}

/// What is sent when a template fails, which only running out of memory could make it do.
const PLAIN: &str = "<!doctype html><html lang=\"en\"><title>Wicketgate</title>\
     <p>The page could not be shown. Try again, or ask your administrator.</p></html>";

fn html(page: &impl Template) -> String {
    Template::render(page).unwrap_or_else(|_| PLAIN.to_owned())
}

macro_rules! renders {
    ($($page:ident),*) => {$(
        impl $page<'_> {
            /// The whole page, as UTF-8 HTML.
            pub fn render(&self) -> String {
                html(self)
            }
        }
    )*};
}
renders!(KeptForm, SignIn, Denial, ErrorPage, SignOut, SignedOut, Me);

#[cfg(test)]
mod tests;
