//! Values that must not be seen, and the two places that they may come from.
//!
//! INVARIANT: a configuration file never holds a secret, only a reference to one, and no message
//! made here repeats what was written where a reference belongs.

use std::fmt;
use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

/// Longest secret file, in bytes.
const MAX_SECRET: u64 = 64 * 1024;

/// How a secret is to be written in a configuration file.
pub const HOW_TO_REFER: &str = "write `file:PATH` (a file that only the gate's user and group may read) or `env:NAME` (an environment variable)";

/// A secret text. It prints as `[redacted]`; the one way to read it is [`Secret::expose`].
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<str>);

impl Secret {
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Fetches the secret that `reference` (`file:PATH` or `env:NAME`) points at. A relative path
/// starts at `base`. One newline at the end of a file is not part of the secret.
///
/// # Errors
/// The cause, for a finding: the reference is none, the file is missing, empty, too long, not
/// UTF-8, or open to every user of the machine, or the variable isn't set.
pub fn read(reference: &str, base: &Path) -> Result<Secret, String> {
    if reference.chars().any(char::is_control) {
        return Err("the reference to a secret holds a control character".to_owned());
    }
    let text = if let Some(path) = reference.strip_prefix("file:") {
        read_file(&base.join(path))?
    } else if let Some(name) = reference.strip_prefix("env:") {
        std::env::var(name)
            .map_err(|_| format!("the environment variable `{name}` is not set, or not UTF-8"))?
    } else {
        return Err("a secret must not be written here itself".to_owned());
    };
    if text.is_empty() {
        return Err("the secret that this refers to is empty".to_owned());
    }
    Ok(Secret::new(text))
}

fn read_file(path: &Path) -> Result<String, String> {
    let shown = path.display();
    let cannot =
        |error: std::io::Error| format!("the secret file `{shown}` can't be read: {error}");
    let file = open_private(path)?;
    let mut text = String::new();
    let read = file.take(MAX_SECRET + 1).read_to_string(&mut text).map_err(cannot)?;
    if u64::try_from(read).unwrap_or(u64::MAX) > MAX_SECRET {
        return Err(format!("the secret file `{shown}` is larger than 64 KiB"));
    }
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}

/// Opens a file that must not be open to every user of the machine. The opened file itself is
/// looked at, so that it can't be exchanged between the check and the reading.
///
/// # Errors
/// The cause, for a finding.
pub fn open_private(path: &Path) -> Result<File, String> {
    let shown = path.display();
    let cannot =
        |error: std::io::Error| format!("the secret file `{shown}` can't be read: {error}");
    // A pipe would hold up the start until somebody writes to it.
    if !std::fs::metadata(path).map_err(cannot)?.is_file() {
        return Err(format!("the secret file `{shown}` is not a regular file"));
    }
    let file = File::open(path).map_err(cannot)?;
    if let Some(mode) = open_to_all(&file.metadata().map_err(cannot)?) {
        return Err(format!(
            "the secret file `{shown}` is open to every user of this machine (mode {mode:04o}); run `chmod o= {shown}`",
        ));
    }
    Ok(file)
}

/// The mode of a file that every user of the machine may read or write: one with a secret must not
/// have it.
pub fn open_to_all(file: &Metadata) -> Option<u32> {
    let mode = file.permissions().mode() & 0o7777;
    (mode & 0o007 != 0).then_some(mode)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, name: &str, bytes: &[u8], mode: u32) {
        let path = folder.join(name);
        std::fs::write(&path, bytes).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_secret_file_is_read_without_its_last_newline() {
        let folder = tempfile::tempdir().unwrap();
        for (bytes, secret) in [("a b\n", "a b"), ("a\r\n", "a"), ("a\n\n", "a\n"), ("a", "a")] {
            write(folder.path(), "s", bytes.as_bytes(), 0o640);
            assert_eq!(read("file:s", folder.path()).unwrap().expose(), secret);
        }
    }

    #[test]
    fn a_secret_that_others_can_see_or_that_is_not_there_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "open", b"hunter2", 0o644);
        write(folder.path(), "empty", b"\n", 0o600);
        write(folder.path(), "bytes", b"\xff", 0o600);
        write(folder.path(), "long", &[b'a'; 70_000], 0o600);
        for (reference, cause) in [
            ("file:open", "is open to every user"),
            ("file:empty", "is empty"),
            ("file:bytes", "can't be read"),
            ("file:long", "larger than 64 KiB"),
            ("file:gone", "can't be read"),
            ("file:.", "not a regular file"),
            ("env:WICKETGATE_NO_SUCH_VARIABLE", "is not set"),
        ] {
            let error = read(reference, folder.path()).unwrap_err();
            assert!(error.contains(cause), "{reference}: {error}");
        }
    }

    #[test]
    fn an_inline_secret_is_refused_and_not_repeated() {
        let error = read("hunter2", Path::new(".")).unwrap_err();
        assert!(!error.contains("hunter2"), "{error}");
    }

    #[test]
    fn a_secret_prints_as_nothing() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "[redacted]");
    }
}
