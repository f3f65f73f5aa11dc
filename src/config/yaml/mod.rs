//! A small, strict YAML reader: from text to a tree that knows its lines, and from the tree to
//! typed values that report everything that is wrong with them at once.
//!
//! [`read`] and [`parse`] build the [`Node`] tree and refuse what a configuration file has no use
//! for: anchors and aliases (one line can expand to gigabytes), tags, several documents, keys that
//! occur twice, and input past [`MAX_BYTES`] or [`MAX_DEPTH`]. A [`Cursor`] then walks the tree;
//! each accessor that doesn't find what it wants records a finding and yields `None`, and the
//! caller goes on.
//!
//! ```
//! use std::path::Path;
//! use wicketgate::config::yaml::{self, Findings};
//!
//! let node = yaml::parse(Path::new("x.yaml"), "name: door\nopen: maybe\nwdith: 3").unwrap();
//! let findings = Findings::new("x.yaml");
//! let door = node.root(&findings).map(&["name", "open", "width"]).unwrap();
//! assert_eq!(door.required("name").and_then(|name| name.text()), Some("door"));
//! assert_eq!(door.get("open").and_then(|open| open.boolean()), None);
//! let said: Vec<String> = findings.into_vec().iter().map(ToString::to_string).collect();
//! assert_eq!(said, [
//!     "error: x.yaml:2: open: `maybe` is neither `true` nor `false`",
//!     "error: x.yaml:3: wdith: unknown key `wdith`\n  hint: did you mean `width`?",
//! ]);
//! ```
//!
//! INVARIANT: no input makes this panic or recurse deeper than [`MAX_DEPTH`].

mod build;
mod cursor;
mod units;

pub use units::size;

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::finding::Finding;

pub use cursor::{Cursor, Findings, Map};

/// Largest input, in bytes: twenty thousand routes.
pub const MAX_BYTES: usize = 4 * 1024 * 1024;
/// Deepest nesting of lists and maps.
pub const MAX_DEPTH: usize = 32;

/// A value and the line that it starts on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// From 1.
    line: u32,
    value: Value,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    /// `key:` with nothing behind it, `~` or `null`.
    Nothing,
    /// As written; `plain` when it isn't quoted.
    Scalar {
        text: String,
        plain: bool,
    },
    List(Vec<Node>),
    Map(Vec<Entry>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    key: String,
    line: u32,
    value: Node,
}

impl Node {
    /// The cursor at the top of the tree, recording into `findings`.
    pub fn root<'a>(&'a self, findings: &'a Findings) -> Cursor<'a> {
        Cursor::new(self, String::new(), findings)
    }
}

/// Builds the tree from `text`; `file` is only named in the findings.
///
/// # Errors
/// Everything about the text that isn't plain YAML of the kind described in the module.
pub fn parse(file: &Path, text: &str) -> Result<Node, Vec<Finding>> {
    if text.len() > MAX_BYTES {
        return Err(vec![too_big(file)]);
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    build::build(file, text)
}

/// Reads and parses a file.
///
/// # Errors
/// As [`parse`], and when the file can't be read or is not UTF-8.
pub fn read(file: &Path) -> Result<Node, Vec<Finding>> {
    let cannot = |error: std::io::Error| {
        vec![
            Finding::error(file, format!("the file can't be read: {error}"))
                .hint("check the path and that the gate's user may read it"),
        ]
    };
    let opened = File::open(file).map_err(cannot)?;
    let limit = u64::try_from(MAX_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    opened.take(limit).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() > MAX_BYTES {
        return Err(vec![too_big(file)]);
    }
    match std::str::from_utf8(&bytes) {
        Ok(text) => parse(file, text),
        Err(error) => {
            let good = bytes.iter().take(error.valid_up_to());
            let line = good.filter(|byte| **byte == b'\n').count().saturating_add(1);
            Err(vec![
                Finding::error(file, "the file is not UTF-8")
                    .at_line(u32::try_from(line).unwrap_or(u32::MAX))
                    .hint("save it as UTF-8"),
            ])
        }
    }
}

fn too_big(file: &Path) -> Finding {
    Finding::error(file, format!("the file is larger than {} KiB", MAX_BYTES / 1024))
        .hint("is this the right file?")
}

/// User input for a message: in backticks, on one line, of bounded length.
pub fn quote(text: &str) -> String {
    const LONGEST: usize = 80;
    let mut quoted = String::from("`");
    for (index, letter) in text.chars().enumerate() {
        if index == LONGEST {
            quoted.push_str("...");
            break;
        }
        if letter.is_control() {
            quoted.extend(letter.escape_default());
        } else {
            quoted.push(letter);
        }
    }
    quoted.push('`');
    quoted
}

/// The one of `known` that `given` was probably meant to be.
pub fn closest<'k>(given: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    // Long strings are no misspelt keys, and the distance costs the product of both lengths.
    if given.len() > 64 {
        return None;
    }
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(given, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.len() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests;
