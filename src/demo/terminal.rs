//! What a person sees: what to open and to try, and then every decision as it is made.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write};
use std::sync::Arc;

use tokio::sync::broadcast::{self, error::RecvError};
use tokio_util::sync::CancellationToken;

use super::DemoError;
use super::authority::Authority;
use super::config::Addresses;
use super::users::USERS;
use crate::domain::decision::Verdict;
use crate::domain::event::{Event, Occasion};

/// Colours, or none where the output isn't a terminal or `NO_COLOR` is set (no-color.org).
#[derive(Clone, Copy, Debug)]
pub struct Style {
    colour: bool,
}

impl Style {
    pub fn detect() -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { colour: wanted && std::io::stdout().is_terminal() }
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.colour { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    pub fn good(self, text: &str) -> String {
        self.paint("32", text)
    }

    pub fn bad(self, text: &str) -> String {
        self.paint("31", text)
    }

    pub fn notice(self, text: &str) -> String {
        self.paint("33", text)
    }

    pub fn strong(self, text: &str) -> String {
        self.paint("1", text)
    }

    pub fn faint(self, text: &str) -> String {
        self.paint("2", text)
    }
}

/// Writes a text to standard output, whole.
pub fn show(text: &str) -> Result<(), DemoError> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(DemoError::Terminal)
}

/// What to open, who there is, and what to try.
pub fn banner(style: Style, at: &Addresses, authority: &Authority) -> String {
    let port = at.gate.port();
    let (admin, ca) = (at.admin, authority.ca_file.display());
    let at = |host: &str, path: &str| format!("https://{host}.localhost:{port}{path}");
    let mut text = String::new();
    let mut line = |parts: std::fmt::Arguments<'_>| {
        let _ = text.write_fmt(parts);
        text.push('\n');
    };
    line(format_args!("\n{}\n", style.strong("Wicketgate is running.")));
    line(format_args!("{}", style.strong("Open")));
    for (what, host) in [
        ("customer portal", "portal"),
        ("pumping station, live", "ics"),
        ("archive of 1997, HTTP/1.0", "legacy"),
        ("what the gate says", "gate"),
    ] {
        line(format_args!("  {:<28}{}", what, at(host, "/")));
    }
    let warning = "The browser warns once for each name: the certificate is from the demo's own CA (path below).";
    line(format_args!("  {}\n", style.faint(warning)));
    line(format_args!("{}", style.strong("Sign in as (one click, no password)")));
    for user in &USERS {
        line(format_args!("  {:<8}{}", user.subject, user.role));
    }
    line(format_args!("\n{}", style.strong("Try")));
    for (who, what) in [
        (
            "ada",
            format!(
                "open {}, then {}: refused, with the reason",
                at("portal", "/acme/orders"),
                at("portal", "/globex/orders")
            ),
        ),
        ("vera", format!("watch {}, then move the set-point: refused both ways", at("ics", "/"))),
        (
            "otto",
            "move the set-point; stop the pump, which takes a second factor (one more click); then \
             sign out in another tab and watch the chart stop"
                .to_owned(),
        ),
        ("sam", format!("open {} and see what applications are told", at("gate", "/"))),
    ] {
        line(format_args!("  {who:<8}{what}"));
    }
    line(format_args!("\n{}", style.strong("By hand")));
    line(format_args!(
        "  curl --cacert {} --resolve portal.localhost:{port}:127.0.0.1 -i {}",
        ca,
        at("portal", "/acme/orders")
    ));
    line(format_args!(
        "  ... --cert {} --key {}   comes from a known device",
        authority.device_certificate_file.display(),
        authority.device_key_file.display()
    ));
    line(format_args!("  curl http://{admin}/metrics"));
    line(format_args!("\n{}", style.strong("Decisions, as they are made (Ctrl-C ends the demo)")));
    text
}

/// Writes every record as it comes, until `stop`.
pub async fn tail(
    style: Style,
    mut records: broadcast::Receiver<Arc<str>>,
    stop: CancellationToken,
) -> Result<(), DemoError> {
    loop {
        let record = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            record = records.recv() => record,
        };
        match record {
            Ok(record) => {
                if let Some(line) = line(style, &record) {
                    show(&line)?;
                }
            }
            Err(RecvError::Lagged(missed)) => {
                show(&style.notice(&format!("  {missed} records are only in the audit log\n")))?;
            }
            Err(RecvError::Closed) => return Ok(()),
        }
    }
}

/// One record for people: time, verdict, who, what, why.
///
/// INVARIANT: what a client sent is written without control characters (CVE-2024-45808).
pub fn line(style: Style, record: &str) -> Option<String> {
    let event: Event = serde_json::from_str(record).ok()?;
    let raw: serde_json::Value = serde_json::from_str(record).ok()?;
    let time = raw.get("at").and_then(|at| at.as_str()).and_then(|at| at.get(11..19));
    let (word, who, what, why) = match &event {
        Event::Decision { id, occasion, query, decision, .. } => {
            let (context, principal) = (&query.context, &query.principal);
            let word = match decision.verdict {
                Verdict::Permit => style.good("permit "),
                Verdict::Deny => style.bad("deny   "),
            };
            let again = match occasion {
                Occasion::Request => "",
                Occasion::Reauthorisation => " (still open)",
            };
            let names: Vec<&str> = decision.determining.iter().map(|policy| &*policy.id).collect();
            let why = match (decision.verdict, names.is_empty()) {
                (Verdict::Permit, _) => style.faint(&names.join(", ")),
                (Verdict::Deny, true) => format!("no policy allows it  {id}"),
                (Verdict::Deny, false) => format!("{}  {id}", names.join(", ")),
            };
            let what = format!("{} {}{}{again}", query.action.name(), context.host, context.path);
            (word, principal.id.to_string(), what, why)
        }
        Event::Refused { id, reason, host, path, method, status, .. } => {
            let part = |part: &Option<String>| part.clone().unwrap_or_default();
            let what = format!("{} {}{}", part(method), part(host), part(path));
            let why = format!("{status} {reason}  {id}");
            (style.notice("refuse "), "-".to_owned(), what, why)
        }
        Event::SessionStarted { principal, host, .. } => {
            (style.good("sign-in"), principal.to_string(), host.clone(), String::new())
        }
        Event::SessionEnded { principal, reason, .. } => {
            let why = serde_json::to_value(reason).ok();
            let why = why.as_ref().and_then(|why| why.as_str()).unwrap_or_default().to_owned();
            (style.notice("ended  "), principal.to_string(), "session".to_owned(), why)
        }
        Event::LoginFailed { reason, host, .. } => {
            (style.bad("no sign-in"), "-".to_owned(), host.clone(), reason.clone())
        }
        Event::ConnectionCut { principal, route, reason, .. } => {
            (style.bad("cut    "), principal.to_string(), format!("live: {route}"), reason.clone())
        }
        Event::FramesDropped { principal, route, .. } => {
            let why = "may look, not operate".to_owned();
            (style.bad("drop   "), principal.to_string(), format!("message: {route}"), why)
        }
        _ => return None,
    };
    let time = style.faint(time.unwrap_or("        "));
    Some(format!("{time}  {word}  {:<12} {:<58} {}\n", clean(&who), clean(&what), why_clean(&why)))
}

/// Keeps what prints; a control or invisible character becomes its code.
fn clean(text: &str) -> String {
    text.chars()
        .flat_map(|letter| {
            let prints = letter.is_alphanumeric() || letter.is_ascii_graphic() || letter == ' ';
            let (kept, escaped) = match prints {
                true => (Some(letter), None),
                false => (None, Some(letter.escape_unicode())),
            };
            kept.into_iter().chain(escaped.into_iter().flatten())
        })
        .collect()
}

/// As [`clean`], but our own colours stay: they were added after the text was cleaned.
fn why_clean(text: &str) -> String {
    match text.strip_prefix("\u{1b}[2m").and_then(|rest| rest.strip_suffix("\u{1b}[0m")) {
        Some(inside) => format!("\u{1b}[2m{}\u{1b}[0m", clean(inside)),
        None => clean(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(path: &str) -> String {
        let record = serde_json::json!({
            "seq": 7, "at": "2026-11-21T22:06:10.123Z", "event": "refused",
            "id": "01KB5Q8GJ3ZC4S9T2XW7VY6MHD", "reason": "bad-request", "detail": "",
            "status": 400, "source": "127.0.0.1", "host": "portal.localhost", "path": path,
            "method": "GET",
        });
        line(Style { colour: false }, &record.to_string()).unwrap()
    }

    #[test]
    fn a_record_says_when_what_and_why_in_one_line() {
        let line = refused("/acme/orders");
        assert!(line.starts_with("22:06:10  refuse "), "{line}");
        assert!(line.contains("GET portal.localhost/acme/orders"), "{line}");
        assert!(line.contains("400 bad-request  01KB5Q8GJ3ZC4S9T2XW7VY6MHD"), "{line}");
    }

    #[test]
    fn what_a_client_sent_can_neither_colour_nor_break_the_line() {
        let line = refused("/a\r\n22:06:11  permit\u{1b}[2K\u{9b}1m\u{202e}x");
        let text = line.strip_suffix('\n').unwrap();
        assert!(!text.chars().any(char::is_control) && !text.contains('\u{202e}'), "{text:?}");
        assert!(text.contains("\\u{1b}[2K"), "{text}");
    }

    #[test]
    fn a_plain_style_adds_no_escapes() {
        let plain = Style { colour: false };
        assert_eq!(plain.good("yes") + &plain.bad("no"), "yesno");
        assert_eq!(Style { colour: true }.good("yes"), "\u{1b}[32myes\u{1b}[0m");
    }
}
