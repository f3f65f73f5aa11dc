//! The provider's pages.

use askama::Template;
use http::StatusCode;
use http::header::{CONTENT_SECURITY_POLICY, HeaderValue, REFERRER_POLICY};

use crate::demo::serve::{self, Reply};
use crate::demo::users::{USERS, User};

#[derive(Template)]
#[template(path = "demo/login.html")]
struct Page<'a> {
    title: &'a str,
    text: &'a str,
    /// The request that a click answers; none on pages without the choice.
    request: Option<&'a str>,
    users: &'a [User],
}

/// Five users, one click each.
pub(super) fn choose(request: &str, redirect_uri: &str) -> Reply {
    let origin = url::Url::parse(redirect_uri)
        .map(|url| url.origin().ascii_serialization())
        .unwrap_or_default();
    show(
        StatusCode::OK,
        &Page {
            title: "Who are you today?",
            text: "Choose a person to sign in as. This provider is part of the demo, so nobody needs a password.",
            request: Some(request),
            users: &USERS,
        },
        // Chromium holds `form-action` against the redirect that follows the form.
        &format!("'self' {origin}"),
    )
}

pub(super) fn signed_out() -> Reply {
    let text = "This browser is no longer signed in at the demo's identity provider.";
    let page = Page { title: "Signed out", text, request: None, users: &[] };
    show(StatusCode::OK, &page, "'none'")
}

pub(super) fn front() -> Reply {
    let text = "This is the demo's identity provider. Applications send you here when you have to sign in.";
    let page = Page { title: "Demo Identity", text, request: None, users: &[] };
    show(StatusCode::OK, &page, "'none'")
}

pub(super) fn problem(status: StatusCode, why: &str) -> Reply {
    let page = Page { title: "That did not work", text: why, request: None, users: &[] };
    show(status, &page, "'none'")
}

fn show(status: StatusCode, page: &Page<'_>, form_action: &str) -> Reply {
    let mut reply = serve::html(status, page.render().unwrap_or_default());
    let policy = format!(
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action {form_action}; \
         base-uri 'none'; frame-ancestors 'none'"
    );
    if let Ok(policy) = HeaderValue::try_from(policy) {
        reply.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
    }
    reply.headers_mut().insert(REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    reply
}
