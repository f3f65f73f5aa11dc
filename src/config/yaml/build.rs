//! From parser events to the tree, without recursion.

use std::collections::HashMap;
use std::path::Path;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span};

use super::{Entry, MAX_DEPTH, Node, Value, quote};
use crate::config::finding::Finding;

/// A list or map that hasn't ended yet.
enum Open {
    List {
        line: u32,
        items: Vec<Node>,
    },
    Map {
        line: u32,
        entries: Vec<Entry>,
        key: Option<(String, u32)>,
        /// The line of each key so far.
        keys: HashMap<String, u32>,
    },
}

struct Builder<'a> {
    file: &'a Path,
    stack: Vec<Open>,
    root: Option<Node>,
    documents: usize,
    findings: Vec<Finding>,
}

/// What follows can't be read any more.
struct Stop;

pub(super) fn build(file: &Path, text: &str) -> Result<Node, Vec<Finding>> {
    let mut builder =
        Builder { file, stack: Vec::new(), root: None, documents: 0, findings: Vec::new() };
    let mut parser = Parser::new_from_str(text);
    while let Some(event) = parser.next_event() {
        match event {
            Ok((event, span)) => {
                if builder.take(event, span).is_err() {
                    break;
                }
            }
            Err(error) => {
                let finding = Finding::error(file, format!("not valid YAML: {}", error.info()))
                    .at_line(line(*error.marker()))
                    .hint("the mistake is on this line or just above it; check the indentation, quotes and brackets");
                builder.findings.push(finding);
                break;
            }
        }
    }
    if builder.findings.is_empty() {
        match builder.root {
            Some(Node { value: Value::Nothing, .. }) | None => {
                builder.findings.push(Finding::error(file, "the file is empty"));
            }
            Some(root) => return Ok(root),
        }
    }
    Err(builder.findings)
}

fn line(marker: Marker) -> u32 {
    u32::try_from(marker.line()).unwrap_or(u32::MAX).max(1)
}

impl Builder<'_> {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), Stop> {
        let line = line(span.start);
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    self.refuse(
                        line,
                        "a second document starts here (`---`)",
                        "keep one document in the file",
                    );
                    return Err(Stop);
                }
            }
            Event::Alias(_) => {
                self.refuse(line, "aliases (`*name`) are not supported", "write the value out");
                self.finish(Node { line, value: Value::Nothing });
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.refuse_decoration(line, anchor, tag.is_some());
                let plain = style == ScalarStyle::Plain;
                let value = match &*text {
                    "" | "~" | "null" if plain => Value::Nothing,
                    text => Value::Scalar { text: text.to_owned(), plain },
                };
                self.scalar(line, &text, value);
            }
            Event::SequenceStart(anchor, tag) => {
                self.refuse_decoration(line, anchor, tag.is_some());
                self.open(line, Open::List { line, items: Vec::new() })?;
            }
            Event::MappingStart(anchor, tag) => {
                self.refuse_decoration(line, anchor, tag.is_some());
                let (entries, keys) = (Vec::new(), HashMap::new());
                self.open(line, Open::Map { line, entries, key: None, keys })?;
            }
            Event::SequenceEnd | Event::MappingEnd => match self.stack.pop() {
                Some(Open::List { line, items }) => {
                    self.finish(Node { line, value: Value::List(items) });
                }
                Some(Open::Map { line, entries, .. }) => {
                    self.finish(Node { line, value: Value::Map(entries) });
                }
                None => return Err(Stop),
            },
        }
        Ok(())
    }

    fn refuse(&mut self, line: u32, cause: &str, hint: &str) {
        self.findings.push(Finding::error(self.file, cause).at_line(line).hint(hint));
    }

    fn refuse_decoration(&mut self, line: u32, anchor: usize, tagged: bool) {
        if anchor != 0 {
            self.refuse(line, "anchors (`&name`) are not supported", "write the value out");
        }
        if tagged {
            self.refuse(line, "tags (`!name`) are not supported", "leave the tag out");
        }
    }

    fn open(&mut self, line: u32, open: Open) -> Result<(), Stop> {
        if let Some(Open::Map { key: None, .. }) = self.stack.last() {
            self.refuse(line, "a list or map can't be a key", "write a plain word before the `:`");
            return Err(Stop);
        }
        if self.stack.len() == MAX_DEPTH {
            let cause = format!("lists and maps are nested deeper than {MAX_DEPTH} levels");
            self.refuse(line, &cause, "is this the right file?");
            return Err(Stop);
        }
        self.stack.push(open);
        Ok(())
    }

    /// A scalar is a key where a map waits for one, and a value everywhere else.
    fn scalar(&mut self, line: u32, text: &str, value: Value) {
        match self.stack.last_mut() {
            Some(Open::Map { key: key @ None, keys, .. }) => {
                *key = Some((text.to_owned(), line));
                let first = keys.get(text).copied();
                keys.entry(text.to_owned()).or_insert(line);
                if let Some(first) = first {
                    let cause = format!("the key {} occurs twice", quote(text));
                    let hint = format!("it was first set on line {first}; keep one of the two");
                    self.refuse(line, &cause, &hint);
                }
            }
            _ => self.finish(Node { line, value }),
        }
    }

    fn finish(&mut self, node: Node) {
        match self.stack.last_mut() {
            Some(Open::List { items, .. }) => items.push(node),
            Some(Open::Map { entries, key, .. }) => {
                // Without a key this was an alias in a key's place, which is refused already.
                let (key, line) = key.take().unwrap_or_else(|| ("*".to_owned(), node.line));
                entries.push(Entry { key, line, value: node });
            }
            None => self.root = Some(node),
        }
    }
}
