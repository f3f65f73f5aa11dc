//! The provider's pages.

use askama::Template;
use http::StatusCode;
use http::header::{CONTENT_SECURITY_POLICY, HeaderValue, REFERRER_POLICY};

use super::AuthorizeRequest;
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
    /// Whether a click stands for a one-time code, too.
    second_factor: bool,
}

/// Five users, one click each; or `known` alone, who has to show once more who they are.
pub(super) fn choose(request: &str, asked: &AuthorizeRequest, known: Option<&User>) -> Reply {
    let origin = url::Url::parse(&asked.redirect_uri)
        .map(|url| url.origin().ascii_serialization())
        .unwrap_or_default();
    let (title, text) = match (known, asked.second_factor) {
        (None, false) => (
            "Who are you today?",
            "Choose a person to sign in as. This provider is part of the demo, so nobody needs a password.",
        ),
        (Some(_), false) => (
            "Is it still you?",
            "What you are about to do needs a fresh sign-in. A click here stands for the password.",
        ),
        (_, true) => (
            "One-time code",
            "What you are about to do needs a second factor. A click here stands for the code.",
        ),
    };
    show(
        StatusCode::OK,
        &Page {
            title,
            text,
            request: Some(request),
            users: known.map_or(&USERS[..], std::slice::from_ref),
            second_factor: asked.second_factor,
        },
        // Chromium holds `form-action` against the redirect that follows the form.
        &format!("'self' {origin}"),
    )
}

pub(super) fn signed_out() -> Reply {
    let text = "This browser is no longer signed in at the demo's identity provider.";
    let page = Page { title: "Signed out", text, request: None, users: &[], second_factor: false };
    show(StatusCode::OK, &page, "'none'")
}

pub(super) fn front() -> Reply {
    let text = "This is the demo's identity provider. Applications send you here when you have to sign in.";
    let page =
        Page { title: "Demo Identity", text, request: None, users: &[], second_factor: false };
    show(StatusCode::OK, &page, "'none'")
}

pub(super) fn problem(status: StatusCode, why: &str) -> Reply {
    let (title, users) = ("That did not work", &[]);
    let page = Page { title, text: why, request: None, users, second_factor: false };
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
