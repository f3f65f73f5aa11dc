//! Paths, and whether what they name is there. Relative paths start at the configuration file.

use std::path::{Path, PathBuf};

use crate::config::model::CertificateFiles;
use crate::config::secret::{self, HOW_TO_REFER, Secret};
use crate::config::yaml::Cursor;

use super::keys;

/// About a path that leads nowhere.
const RELATIVE: &str = "relative paths start at the folder of this configuration file";

/// The folder that relative paths start at.
#[derive(Debug)]
pub(super) struct Base(PathBuf);

impl Base {
    pub(super) fn of(file: &Path) -> Self {
        Self(file.parent().unwrap_or(Path::new("")).to_owned())
    }

    /// A path that need not exist yet.
    pub(super) fn path(&self, at: &Cursor<'_>) -> Option<PathBuf> {
        let text = at.text()?;
        if text.chars().any(char::is_control) {
            at.error("the path holds a control character");
            return None;
        }
        Some(self.0.join(text))
    }

    /// A file that exists.
    pub(super) fn file(&self, at: &Cursor<'_>) -> Option<PathBuf> {
        let path = self.path(at)?;
        is_file(at, &path).then_some(path)
    }

    /// A file that exists and isn't open to every user of the machine.
    pub(super) fn private_file(&self, at: &Cursor<'_>) -> Option<PathBuf> {
        let path = self.file(at)?;
        match secret::open_private(&path) {
            Ok(_) => Some(path),
            Err(cause) => {
                at.error(cause);
                None
            }
        }
    }

    /// A directory that exists.
    pub(super) fn directory(&self, at: &Cursor<'_>) -> Option<PathBuf> {
        let path = self.path(at)?;
        match std::fs::metadata(&path) {
            Ok(found) if found.is_dir() => Some(path),
            Ok(_) => {
                at.error(format!("`{}` is not a directory", path.display()));
                None
            }
            Err(error) => {
                unreachable_file(at, &path, &error);
                None
            }
        }
    }

    pub(super) fn secret(&self, at: &Cursor<'_>) -> Option<Secret> {
        let reference = at.text()?;
        match secret::read(reference, &self.0) {
            Ok(secret) => Some(secret),
            Err(cause) if reference.starts_with("file:") || reference.starts_with("env:") => {
                let path = reference.strip_prefix("file:");
                if path.is_some_and(|path| !self.0.join(path).exists()) {
                    at.error_with(cause, RELATIVE);
                } else {
                    at.error(cause);
                }
                None
            }
            Err(cause) => {
                at.error_with(cause, HOW_TO_REFER);
                None
            }
        }
    }

    /// `{certificate, key}`.
    pub(super) fn certificate(&self, at: &Cursor<'_>) -> Option<CertificateFiles> {
        let map = keys(at)?;
        let certificate = map.required("certificate").and_then(|at| self.file(&at));
        let key = map.required("key").and_then(|at| self.private_file(&at));
        Some(CertificateFiles { certificate: certificate?, key: key? })
    }
}

/// Records a finding unless `path` is a file.
pub(super) fn is_file(at: &Cursor<'_>, path: &Path) -> bool {
    match std::fs::metadata(path) {
        Ok(found) if found.is_file() => return true,
        Ok(_) => at.error(format!("`{}` is not a file", path.display())),
        Err(error) => unreachable_file(at, path, &error),
    }
    false
}

fn unreachable_file(at: &Cursor<'_>, path: &Path, error: &std::io::Error) {
    let cause = format!("`{}` can't be read: {error}", path.display());
    if error.kind() == std::io::ErrorKind::NotFound {
        at.error_with(cause, RELATIVE);
    } else {
        at.error(cause);
    }
}
