//! A policy set as text: what is read from disk, hashed, and kept to decide again later.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};

use crate::config::finding::Finding;
use crate::config::model::Policies;
use crate::domain::id::PolicySetHash;

/// Largest policy or schema file, in bytes.
pub const MAX_FILE: u64 = 1024 * 1024;
/// Most policy files in a directory.
pub const MAX_FILES: usize = 1000;
/// Largest policy set, in bytes over all files.
pub const MAX_TOTAL: usize = 8 * 1024 * 1024;

/// The schema and the policy files of a set, whole, in the order of their names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Archive {
    pub schema: SourceText,
    pub policies: Vec<SourceText>,
}

/// A file's name, without its directory, and its text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceText {
    pub name: Arc<str>,
    pub text: Arc<str>,
}

impl Archive {
    /// Reads the schema and every `*.cedar` file of the directory, as a shell would list them:
    /// hidden files are not policies. Every finding is an error; all of them are reported.
    pub fn read(policies: &Policies) -> Result<Self, Vec<Finding>> {
        let mut findings = Vec::new();
        let schema = read_text(&policies.schema).map_err(|finding| findings.push(*finding)).ok();
        let mut texts = Vec::new();
        match list(&policies.directory) {
            Ok(paths) => {
                for path in paths {
                    match read_text(&path) {
                        Ok(text) => texts.push(text),
                        Err(finding) => findings.push(*finding),
                    }
                }
            }
            Err(finding) => findings.push(*finding),
        }
        if texts.iter().map(|text| text.text.len()).sum::<usize>() > MAX_TOTAL {
            findings.push(Finding::error(
                &policies.directory,
                format!("the policy files are larger than {MAX_TOTAL} bytes together"),
            ));
        }
        match schema {
            Some(schema) if findings.is_empty() => Ok(Self { schema, policies: texts }),
            _ => Err(findings),
        }
    }

    /// SHA-256 over the names and texts, each preceded by its length so that no two sets can run
    /// together into the same bytes; in hex.
    pub fn hash(&self) -> PolicySetHash {
        let mut hasher = digest::Context::new(&digest::SHA256);
        for source in std::iter::once(&self.schema).chain(&self.policies) {
            for part in [&source.name, &source.text] {
                hasher.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
                hasher.update(part.as_bytes());
            }
        }
        let mut hex = String::with_capacity(64);
        for byte in hasher.finish().as_ref() {
            let _ = write!(hex, "{byte:02x}");
        }
        PolicySetHash(hex.into())
    }
}

fn list(directory: &Path) -> Result<Vec<PathBuf>, Box<Finding>> {
    let unreadable = |error: std::io::Error| {
        let cause = format!("the policy directory can't be read: {error}");
        let hint = "`policies.directory` names the directory with the `*.cedar` files";
        Box::new(Finding::error(directory, cause).hint(hint))
    };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden && path.extension().is_some_and(|extension| extension == "cedar") {
            paths.push(path);
        }
    }
    if paths.len() > MAX_FILES {
        return Err(Box::new(Finding::error(
            directory,
            format!("there are {} policy files, more than {MAX_FILES}", paths.len()),
        )));
    }
    paths.sort();
    Ok(paths)
}

fn read_text(path: &Path) -> Result<SourceText, Box<Finding>> {
    let unreadable = |error: std::io::Error| {
        Box::new(Finding::error(path, format!("the file can't be read: {error}")))
    };
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
        return Err(Box::new(Finding::error(path, "the file's name is not UTF-8")));
    };
    // A pipe or a device would block or never end.
    if !std::fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(Box::new(Finding::error(path, "this is not a regular file")));
    }
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes))
        .map_err(unreadable)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > MAX_FILE {
        let cause = format!("the file is larger than {MAX_FILE} bytes");
        return Err(Box::new(Finding::error(path, cause)));
    }
    let text = String::from_utf8(bytes)
        .map_err(|_| Box::new(Finding::error(path, "the file is not UTF-8 text")))?;
    Ok(SourceText { name: name.into(), text: text.into() })
}
