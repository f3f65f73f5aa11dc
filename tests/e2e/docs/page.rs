//! A document as the tests see it: its fenced blocks, each with the marker above it.

use std::fs;
use std::path::Path;

/// A fenced block, or a marker that stands alone and tells of something that a person does.
#[derive(Clone, Debug)]
pub struct Block {
    /// `README.md:31`: where it begins.
    pub at: String,
    pub language: String,
    /// The text of the HTML comment on the line above; empty without one.
    pub marker: String,
    pub text: String,
    /// The `text` block right behind it: what it prints.
    pub shows: Option<String>,
}

#[derive(Debug)]
pub struct Page {
    pub name: String,
    pub text: String,
    pub blocks: Vec<Block>,
}

impl Page {
    pub fn read(root: &Path, name: &str) -> Self {
        let text = fs::read_to_string(root.join(name)).unwrap();
        let blocks = blocks(name, &text);
        Self { name: name.to_owned(), text, blocks }
    }
}

fn blocks(name: &str, text: &str) -> Vec<Block> {
    let mut found: Vec<Block> = Vec::new();
    let mut marker = String::new();
    let mut lines = text.lines().enumerate();
    // Where a block ended, as long as nothing but blank lines followed.
    let mut just_ended = false;
    while let Some((number, line)) = lines.next() {
        let at = format!("{name}:{}", number + 1);
        if let Some(language) = line.trim_start().strip_prefix("```") {
            let indent = line.len() - line.trim_start().len();
            let body: Vec<&str> = lines
                .by_ref()
                .map(|(_, line)| line.get(indent..).unwrap_or(line.trim_start()))
                .take_while(|line| *line != "```")
                .collect();
            let body = body.join("\n");
            let marker = std::mem::take(&mut marker);
            match found.last_mut() {
                Some(command) if language == "text" && just_ended && marker.is_empty() => {
                    command.shows = Some(body);
                }
                _ => {
                    just_ended = language == "sh";
                    let language = language.to_owned();
                    found.push(Block { at, language, marker, text: body, shows: None });
                    continue;
                }
            }
            just_ended = false;
        } else if let Some(comment) = line.trim().strip_prefix("<!-- ") {
            let comment = comment.trim_end_matches("-->").trim().to_owned();
            if comment.starts_with("act:") {
                let (language, text) = ("act".to_owned(), String::new());
                found.push(Block { at, language, marker: comment, text, shows: None });
            } else {
                marker = comment;
            }
            just_ended = false;
        } else if !line.trim().is_empty() {
            marker.clear();
            just_ended = false;
        }
    }
    found
}

/// Whether `said` is what `shown` shows: line by line, where `…` stands for any text in a line and
/// a line of `...` for any lines.
pub fn fits(shown: &str, said: &str) -> bool {
    let said: Vec<&str> = said.trim_end().lines().map(str::trim_end).collect();
    let shown: Vec<&str> = shown.trim_end().lines().map(str::trim_end).collect();
    lines_fit(&shown, &said)
}

fn lines_fit(shown: &[&str], said: &[&str]) -> bool {
    match (shown.split_first(), said.split_first()) {
        (None, None) => true,
        (Some((first, rest)), _) if *first == "..." => {
            (0..=said.len()).any(|skipped| lines_fit(rest, &said[skipped..]))
        }
        (Some((wanted, shown)), Some((line, said))) => {
            line_fits(wanted, line) && lines_fit(shown, said)
        }
        _ => false,
    }
}

fn line_fits(wanted: &str, line: &str) -> bool {
    let parts: Vec<&str> = wanted.split('…').collect();
    let [first, middle @ .., last] = parts.as_slice() else { return wanted == line };
    let Some(mut rest) = line.strip_prefix(first) else { return false };
    for part in middle {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}
