//! Every policy set that ever decided, kept beside the log, so that a decision can be made again.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::domain::id::PolicySetHash;

/// Keeps a policy set under its hash; does nothing when it is there already.
///
/// # Errors
/// When it can't be written.
pub fn archive_policy_set(directory: &Path, hash: &PolicySetHash, set: &[u8]) -> io::Result<()> {
    let path = path(directory, hash)?;
    if path.exists() {
        return Ok(());
    }
    let folder = directory.join("policy-sets");
    DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
    // Written whole, then renamed: a file under its final name is never a part of a set.
    let partial = path.with_extension("partial");
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
    file.write_all(set)?;
    file.sync_all()?;
    fs::rename(&partial, &path)?;
    File::open(&folder)?.sync_all()
}

/// The policy set with this hash, if it was kept.
///
/// # Errors
/// When it can't be read.
pub fn load_policy_set(directory: &Path, hash: &PolicySetHash) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path(directory, hash)?) {
        Ok(set) => Ok(Some(set)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Hashes come out of records as well, so one is never taken for a path before it was looked at.
fn path(directory: &Path, hash: &PolicySetHash) -> io::Result<PathBuf> {
    let name = &hash.0;
    if name.is_empty() || name.len() > 128 || !name.bytes().all(|byte| byte.is_ascii_alphanumeric())
    {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("`{name}` is no hash of a policy set"),
        ));
    }
    Ok(directory.join("policy-sets").join(format!("{name}.json")))
}
