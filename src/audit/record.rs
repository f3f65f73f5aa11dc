//! Events as text, and records read back.
//!
//! INVARIANT: whatever a client sent, a record is one line of printable text. JSON escapes the
//! ASCII control characters; on top of that every other control and invisible formatting
//! character is escaped too (CVE-2024-45808, CVE-2021-42574), so that neither a terminal nor a
//! line tool nor a reader's eye can be fooled.

use std::io::{self, Write};

use serde::{Deserialize, Serialize};

use super::chain::Frame;
use crate::domain::clock::Timestamp;
use crate::domain::decision::Verdict;
use crate::domain::event::Event;
use crate::domain::id::DecisionId;

/// Largest event, serialised, in bytes. What is larger can't be kept, so it is not allowed.
pub(super) const MAX_EVENT: usize = 512 * 1024;

/// Largest line: the event and what the chain puts around it.
pub(super) const MAX_LINE: usize = MAX_EVENT + 1024;

/// Serialises an event as a JSON object.
pub(super) fn encode(event: &Event) -> Result<Vec<u8>, serde_json::Error> {
    let mut out = Vec::with_capacity(1024);
    write(event, &mut out)?;
    Ok(out)
}

/// Appends a value as JSON.
pub(super) fn write(value: &impl Serialize, out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
    value.serialize(&mut serde_json::Serializer::with_formatter(out, Printable))
}

/// Compact JSON in which all that does not print is escaped.
struct Printable;

impl serde_json::ser::Formatter for Printable {
    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        // Nearly every string is ASCII, of which only DEL is left to escape here.
        if fragment.bytes().all(|byte| byte < 0x7f) {
            return writer.write_all(fragment.as_bytes());
        }
        let mut utf8 = [0; 4];
        let mut utf16 = [0; 2];
        for character in fragment.chars() {
            if is_hidden(character) {
                for unit in character.encode_utf16(&mut utf16) {
                    write!(writer, "\\u{unit:04x}")?;
                }
            } else {
                writer.write_all(character.encode_utf8(&mut utf8).as_bytes())?;
            }
        }
        Ok(())
    }
}

/// Control characters, line separators, bidirectional controls and invisible format characters
/// (Unicode categories Cc, Cf, Zl, Zp), and the unassigned tags beside them.
const fn is_hidden(character: char) -> bool {
    matches!(
        character,
        '\u{0}'..='\u{1f}'
            | '\u{7f}'..='\u{9f}'
            | '\u{ad}'
            | '\u{600}'..='\u{605}'
            | '\u{61c}'
            | '\u{6dd}'
            | '\u{70f}'
            | '\u{180e}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e0fff}'
    )
}

/// One record, read back.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    pub sequence: u64,
    pub at: Timestamp,
    pub event: Event,
    /// The whole line, without its line feed.
    pub line: String,
}

impl Record {
    /// Reads a line. It is not checked against the chain: that is [`super::verify`]'s part.
    pub fn parse(line: &str) -> Option<Self> {
        #[derive(Deserialize)]
        struct Tail {
            #[serde(flatten)]
            event: Event,
        }
        let frame = Frame::parse(line.as_bytes())?;
        let at = timestamp(frame.at)?;
        let Tail { event } = serde_json::from_str(line).ok()?;
        Some(Self { sequence: frame.sequence, at, event, line: line.to_owned() })
    }
}

/// The time of a line: RFC 3339.
pub(super) fn timestamp(text: &[u8]) -> Option<Timestamp> {
    Timestamp::parse(std::str::from_utf8(text).ok()?).ok()
}

/// The decision id that an event carries as its own.
pub(super) fn id(event: &Event) -> Option<DecisionId> {
    match event {
        Event::Decision { id, .. }
        | Event::Refused { id, .. }
        | Event::SessionStarted { id, .. }
        | Event::SessionEnded { id, .. }
        | Event::LoginFailed { id, .. }
        | Event::ProviderLogout { id, .. }
        | Event::ConnectionCut { id, .. }
        | Event::FramesDropped { id, .. } => Some(*id),
        Event::RefusalsCounted { .. }
        | Event::Administered { .. }
        | Event::ConfigurationLoaded { .. }
        | Event::ConfigurationRefused { .. }
        | Event::CertificateRefused { .. }
        | Event::CertificateExpired { .. }
        | Event::Started { .. }
        | Event::Stopped
        | Event::Replaced => None,
    }
}

/// Whom an event is about.
pub(super) fn principal(event: &Event) -> Option<&str> {
    match event {
        Event::Decision { query, .. } => Some(&query.principal.id),
        Event::Refused { principal, .. } => principal.as_deref(),
        Event::SessionStarted { principal, .. }
        | Event::SessionEnded { principal, .. }
        | Event::ConnectionCut { principal, .. }
        | Event::FramesDropped { principal, .. } => Some(principal),
        _ => None,
    }
}

/// The route that an event happened on.
pub(super) fn route(event: &Event) -> Option<&str> {
    match event {
        Event::Decision { query, .. } => Some(&query.resource.route),
        Event::ConnectionCut { route, .. } | Event::FramesDropped { route, .. } => Some(route),
        _ => None,
    }
}

pub(super) fn verdict(event: &Event) -> Option<Verdict> {
    match event {
        Event::Decision { decision, .. } => Some(decision.verdict),
        _ => None,
    }
}

/// The word under `event` in a record.
pub fn name(event: &Event) -> &'static str {
    match event {
        Event::Decision { .. } => "decision",
        Event::Refused { .. } => "refused",
        Event::RefusalsCounted { .. } => "refusals-counted",
        Event::SessionStarted { .. } => "session-started",
        Event::SessionEnded { .. } => "session-ended",
        Event::LoginFailed { .. } => "login-failed",
        Event::ProviderLogout { .. } => "provider-logout",
        Event::ConnectionCut { .. } => "connection-cut",
        Event::FramesDropped { .. } => "frames-dropped",
        Event::Administered { .. } => "administered",
        Event::ConfigurationLoaded { .. } => "configuration-loaded",
        Event::ConfigurationRefused { .. } => "configuration-refused",
        Event::CertificateRefused { .. } => "certificate-refused",
        Event::CertificateExpired { .. } => "certificate-expired",
        Event::Started { .. } => "started",
        Event::Stopped => "stopped",
        Event::Replaced => "replaced",
    }
}
