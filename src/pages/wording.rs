//! The pages' own sentences.

use super::{Denial, ErrorPage, Me, OwnSession};
use crate::domain::clock::Timestamp;
use crate::domain::device::DeviceIdentity;

impl Denial<'_> {
    pub(super) fn heading(&self) -> String {
        match self.method {
            "GET" | "HEAD" | "OPTIONS" => "You may not see this".to_owned(),
            _ => "You may not do this".to_owned(),
        }
    }
}

impl Me<'_> {
    pub(super) fn heading(&self) -> &str {
        let principal = self.principal;
        principal.name.as_deref().or(principal.email.as_deref()).unwrap_or(&principal.id)
    }

    pub(super) fn others(&self) -> impl Iterator<Item = &OwnSession> {
        self.sessions.iter().filter(|session| !session.current)
    }

    pub(super) fn device_line(&self) -> String {
        match self.device {
            DeviceIdentity::NotPresented => {
                "not known: your browser sent no device certificate".to_owned()
            }
            DeviceIdentity::Unregistered => {
                "has a device certificate, but is not in the register".to_owned()
            }
            DeviceIdentity::Known(device) => match &device.posture {
                Some(posture) => {
                    format!("{}, last checked {}", device.id, show(&posture.observed_at))
                }
                None => format!("{}, never checked", device.id),
            },
        }
    }
}

impl OwnSession {
    pub(super) fn place(&self) -> &str {
        self.host.as_deref().unwrap_or("an unknown host")
    }
}

impl<'a> ErrorPage<'a> {
    /// The page for a status, in words that fit it.
    pub fn of_status(status: u16, host: Option<&'a str>, decision_id: Option<&'a str>) -> Self {
        let (title, text) = words(status);
        Self { status, host, title, text, decision_id, link: None }
    }
}

fn words(status: u16) -> (&'static str, &'static str) {
    match status {
        400 => (
            "This request can't be understood",
            "Something in it could be read in more than one way, so it was refused instead of guessed at. \
             If you typed the address, check it; if you followed a link, tell whoever made it.",
        ),
        401 => ("You need to sign in", "This can only be reached by someone who is signed in."),
        404 => (
            "There is nothing here",
            "The gateway knows no application at this address. Check the address, or start from the application's first page.",
        ),
        405 => ("This can't be done here", "The address exists, but not for this kind of request."),
        408 => (
            "That took too long",
            "Your request did not arrive completely in time. Check your connection and try again.",
        ),
        413 => (
            "This is too large",
            "What you sent is larger than this application accepts. Send less at once, or ask for the limit to be raised.",
        ),
        421 => (
            "Wrong door",
            "Your browser reached the gateway under another name than the one it asks for. Open the address in a new tab.",
        ),
        429 => ("Too many requests", "Wait a moment, then try again."),
        431 => (
            "The request's headers are too large",
            "This is most often caused by too many cookies. Delete the cookies of this site and try again.",
        ),
        502 => (
            "The application can't be reached",
            "You are allowed in, but the application behind the gateway does not answer as it should. Try again in a minute.",
        ),
        503 => (
            "Not available just now",
            "Something that the gateway needs in order to decide is not available, so nothing is let through. Try again in a minute.",
        ),
        504 => (
            "The application did not answer in time",
            "You are allowed in, but the application behind the gateway took too long. Try again in a minute.",
        ),
        refused if (400..500).contains(&refused) => {
            ("This can't be done", "The gateway refused this request.")
        }
        _ => (
            "Something went wrong",
            "The gateway could not answer this request. Try again in a minute.",
        ),
    }
}

/// A time as people read it, to the minute: `2026-11-21 22:06 UTC`.
pub(super) fn show(at: &Timestamp) -> String {
    let full = at.to_string();
    match (full.get(..10), full.get(11..16)) {
        (Some(day), Some(minute)) => format!("{day} {minute} UTC"),
        _ => full,
    }
}
