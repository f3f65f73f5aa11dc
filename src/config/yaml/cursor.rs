//! Typed access to the tree. Whatever isn't as wanted becomes a finding with line and path.

use std::cell::RefCell;
use std::fmt::Display;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::{Entry, Node, Value, closest, quote, units};
use crate::config::finding::{Finding, has_errors};

/// Collects what is wrong with one file.
#[derive(Debug)]
pub struct Findings {
    file: PathBuf,
    list: RefCell<Vec<Finding>>,
}

impl Findings {
    pub fn new(file: impl Into<PathBuf>) -> Self {
        Self { file: file.into(), list: RefCell::new(Vec::new()) }
    }

    pub fn push(&self, finding: Finding) {
        self.list.borrow_mut().push(finding);
    }

    pub fn has_errors(&self) -> bool {
        has_errors(&self.list.borrow())
    }

    /// All findings in the order of their lines.
    pub fn into_vec(self) -> Vec<Finding> {
        let mut list = self.list.into_inner();
        list.sort_by_key(|finding| finding.line);
        list
    }
}

/// A place in the tree, and the YAML path that leads there (`routes[2].upstreams`).
#[derive(Clone, Debug)]
pub struct Cursor<'a> {
    node: &'a Node,
    /// Of the key, where the value has one: a list may begin further down.
    line: u32,
    path: String,
    findings: &'a Findings,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(node: &'a Node, path: String, findings: &'a Findings) -> Self {
        Self { node, line: node.line, path, findings }
    }

    pub fn path(&self) -> &str {
        &self.path
    }

    /// From 1.
    pub fn line(&self) -> u32 {
        self.line
    }

    /// Records an error here.
    pub fn error(&self, cause: impl Into<String>) {
        self.record(Finding::error(&self.findings.file, cause), None);
    }

    /// Records an error here, with what to do about it.
    pub fn error_with(&self, cause: impl Into<String>, hint: impl Into<String>) {
        self.record(Finding::error(&self.findings.file, cause), Some(hint.into()));
    }

    /// Records a warning here, with what to do about it.
    pub fn warn_with(&self, cause: impl Into<String>, hint: impl Into<String>) {
        self.record(Finding::warning(&self.findings.file, cause), Some(hint.into()));
    }

    fn record(&self, finding: Finding, hint: Option<String>) {
        let mut finding = finding.at_line(self.line);
        if !self.path.is_empty() {
            finding = finding.at_path(&self.path);
        }
        finding.hint = hint;
        self.findings.push(finding);
    }

    fn child(&self, node: &'a Node, line: u32, path: String) -> Self {
        Self { node, line, path, findings: self.findings }
    }

    /// A map that may hold the `known` keys; any other is an error.
    pub fn map(&self, known: &[&str]) -> Option<Map<'a>> {
        let Value::Map(entries) = &self.node.value else {
            let hint = format!("it takes the keys {}", listed(known));
            self.unexpected("a map of keys and values", Some(hint));
            return None;
        };
        for entry in entries.iter().filter(|entry| !known.contains(&entry.key.as_str())) {
            let hint = match closest(&entry.key, known.iter().copied()) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("the keys here are {}", listed(known)),
            };
            let key = quote(&entry.key);
            let finding = Finding::error(&self.findings.file, format!("unknown key {key}"))
                .at_line(entry.line)
                .at_path(join(&self.path, key.trim_matches('`')))
                .hint(hint);
            self.findings.push(finding);
        }
        Some(Map { entries, at: self.clone() })
    }

    /// The entries of a map whose keys are names that the file's author chose.
    pub fn named(&self) -> Vec<(&'a str, Self)> {
        let Value::Map(entries) = &self.node.value else {
            self.unexpected("a map from names to values", None);
            return Vec::new();
        };
        let named = |entry: &'a Entry| {
            let path = join(&self.path, quote(&entry.key).trim_matches('`'));
            (entry.key.as_str(), self.child(&entry.value, entry.line, path))
        };
        entries.iter().map(named).collect()
    }

    /// Whether a map stands here, for values with a short and a long form.
    pub fn is_map(&self) -> bool {
        matches!(self.node.value, Value::Map(_))
    }

    /// Whether a list stands here, for values of which there can be one or more.
    pub fn is_list(&self) -> bool {
        matches!(self.node.value, Value::List(_))
    }

    /// The entries of a list; none, with a finding, when it isn't one.
    pub fn list(&self) -> Vec<Self> {
        let Value::List(items) = &self.node.value else {
            self.unexpected("a list", Some("start each entry with `- `".to_owned()));
            return Vec::new();
        };
        let entry = |(index, item)| self.child(item, item.line, format!("{}[{index}]", self.path));
        items.iter().enumerate().map(entry).collect()
    }

    /// As [`Cursor::list`]; an empty list is an error.
    pub fn non_empty_list(&self) -> Vec<Self> {
        if matches!(&self.node.value, Value::List(items) if items.is_empty()) {
            self.error("the list is empty; at least one entry is needed");
        }
        self.list()
    }

    /// Text, quoted or not. Not empty.
    pub fn text(&self) -> Option<&'a str> {
        let Value::Scalar { text, .. } = &self.node.value else {
            self.unexpected("a text", None);
            return None;
        };
        if text.is_empty() {
            self.error("the text is empty");
            return None;
        }
        Some(text)
    }

    /// `true` or `false`, not quoted.
    pub fn boolean(&self) -> Option<bool> {
        match &self.node.value {
            Value::Scalar { text, plain: true } if text == "true" => Some(true),
            Value::Scalar { text, plain: true } if text == "false" => Some(false),
            Value::Scalar { text, .. } => {
                self.error(format!("{} is neither `true` nor `false`", quote(text)));
                None
            }
            _ => {
                self.unexpected("`true` or `false`", None);
                None
            }
        }
    }

    /// A whole number within the bounds, both included.
    pub fn number<T>(&self, least: T, most: T) -> Option<T>
    where
        T: FromStr + PartialOrd + Display,
    {
        let text = self.text()?;
        match text.parse::<T>() {
            Ok(number) if least <= number && number <= most => Some(number),
            _ => {
                self.error(format!("{} is not a number from {least} to {most}", quote(text)));
                None
            }
        }
    }

    /// A duration longer than zero, as `30s`.
    pub fn duration(&self) -> Option<Duration> {
        let text = self.text()?;
        match units::duration(text) {
            Some(Duration::ZERO) => {
                self.error("the duration must be longer than zero");
                None
            }
            Some(duration) => Some(duration),
            None => {
                let hint = "write a whole number and a unit: `250ms`, `30s`, `15m`, `8h` or `2d`";
                self.error_with(format!("{} is not a duration", quote(text)), hint);
                None
            }
        }
    }

    /// A size in bytes within the bounds, both included, as `10MiB`.
    pub fn bytes(&self, least: u64, most: u64) -> Option<u64> {
        let text = self.text()?;
        let Some(bytes) = units::bytes(text) else {
            let hint = "write a whole number and a unit: `512B`, `512KiB`, `10MiB` or `1GiB`";
            self.error_with(format!("{} is not a size", quote(text)), hint);
            return None;
        };
        if bytes < least || bytes > most {
            let (least, most) = (units::size(least), units::size(most));
            self.error(format!("{} is not from `{least}` to `{most}`", quote(text)));
            return None;
        }
        Some(bytes)
    }

    /// One of several words.
    pub fn choice<T: Clone>(&self, choices: &[(&str, T)]) -> Option<T> {
        let text = self.text()?;
        if let Some((_, value)) = choices.iter().find(|(word, _)| *word == text) {
            return Some(value.clone());
        }
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        let cause = format!("{} is not one of {}", quote(text), listed(&words));
        match closest(text, words) {
            Some(meant) => self.error_with(cause, format!("did you mean `{meant}`?")),
            None => self.error(cause),
        }
        None
    }

    /// Anything that is parsed from a text; the parser's error becomes the cause.
    pub fn parsed<T, E: Display>(
        &self,
        parse: impl FnOnce(&str) -> Result<T, E>,
        hint: &str,
    ) -> Option<T> {
        let text = self.text()?;
        match parse(text) {
            Ok(value) => Some(value),
            Err(error) => {
                self.error_with(format!("{}: {error}", quote(text)), hint);
                None
            }
        }
    }

    fn unexpected(&self, wanted: &str, hint: Option<String>) {
        let cause = match &self.node.value {
            Value::Nothing => format!("there is no value; {wanted} is needed"),
            // The text itself isn't shown: it might be a secret in the wrong place.
            Value::Scalar { .. } => format!("a single value stands where {wanted} is needed"),
            Value::List(_) => format!("a list stands where {wanted} is needed"),
            Value::Map(_) => format!("a map stands where {wanted} is needed"),
        };
        self.record(Finding::error(&self.findings.file, cause), hint);
    }
}

/// The entries of a map whose keys were checked.
#[derive(Clone, Debug)]
pub struct Map<'a> {
    entries: &'a [Entry],
    at: Cursor<'a>,
}

impl<'a> Map<'a> {
    /// Where the map itself stands.
    pub fn cursor(&self) -> &Cursor<'a> {
        &self.at
    }

    pub fn get(&self, key: &str) -> Option<Cursor<'a>> {
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        Some(self.at.child(&entry.value, entry.line, join(&self.at.path, key)))
    }

    /// The key's value; a finding when there is none.
    pub fn required(&self, key: &str) -> Option<Cursor<'a>> {
        let found = self.get(key);
        if found.is_none() {
            self.at.error(format!("the key `{key}` is missing"));
        }
        found
    }

    /// The key's value as `read` sees it, or `default` when the key isn't there. Also `default`
    /// when it can't be read: the finding that `read` recorded then keeps the file from loading.
    pub fn or<T>(&self, key: &str, default: T, read: impl FnOnce(&Cursor<'a>) -> Option<T>) -> T {
        self.get(key).and_then(|cursor| read(&cursor)).unwrap_or(default)
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn listed(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    quoted.join(", ")
}
