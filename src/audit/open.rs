//! Taking up a log where it ended: lock, repair, verify.
//!
//! A crash may leave an unfinished last line. Nobody was told that it is kept, so it is cut off;
//! its bytes are saved beside the log first. Anything else that is wrong is not repaired but
//! refused: that is evidence.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::chain::{Chain, Flaw};
use super::segment::{self, Line, Lines, Segment};
use super::verify::{self, BadRecord};

/// How long to wait for a gate that is just stopping, or a verification that is just looking.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    #[error(
        "the audit log `{}` is being written by another process; stop that one, or give this one an `audit.directory` of its own",
        .0.display()
    )]
    InUse(PathBuf),
    #[error(
        "the audit directory `{}` is open to others than its owner; run `chmod 700` on it",
        .0.display()
    )]
    Permissions(PathBuf),
    #[error("the audit log `{}` can't be opened: {cause}", path.display())]
    Io { path: PathBuf, cause: io::Error },
    #[error(
        "the audit log is damaged: {0}; run `wicketgate audit verify`, keep the directory as evidence, and set `audit.directory` to a new one"
    )]
    Damaged(BadRecord),
}

/// A log that is ready to be continued.
#[derive(Debug)]
pub(super) struct Opened {
    pub lock: File,
    pub chain: Chain,
    pub file: File,
    pub length: u64,
}

pub(super) fn open(directory: &Path) -> Result<Opened, AuditError> {
    let failed = |cause: io::Error| AuditError::Io { path: directory.to_owned(), cause };
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
    let metadata = fs::metadata(directory).map_err(failed)?;
    if metadata.permissions().mode() & 0o077 != 0 {
        return Err(AuditError::Permissions(directory.to_owned()));
    }
    let lock = lock(directory)?;
    let mut segments = segment::list(directory).map_err(failed)?;
    let Some(last) = segments.pop() else {
        let chain = Chain::genesis();
        let (_, file) = Segment::create(directory, chain.next).map_err(failed)?;
        return Ok(Opened { lock, chain, file, length: 0 });
    };
    let io = |cause: io::Error| AuditError::Io { path: last.path.clone(), cause };
    let damaged = |line, sequence, flaw| {
        AuditError::Damaged(BadRecord { file: last.path.clone(), line, sequence, flaw })
    };
    let mut chain = match segments.last() {
        None => Chain::genesis(),
        Some(before) => match before.end().map_err(failed)? {
            Some(Ok(chain)) => chain,
            Some(Err(flaw)) => return Err(damaged(1, last.first, flaw)),
            None => return Err(damaged(1, last.first, Flaw::Unfinished)),
        },
    };
    if chain.next != last.first {
        let flaw = Flaw::FileName { expected: chain.next, found: last.first };
        return Err(damaged(1, chain.next, flaw));
    }
    let checked = verify::check(&last.path, &mut chain).map_err(io)?;
    match checked.flaw {
        None => {}
        // Only the very last line: what comes after one that is too long is no torn tail.
        Some((_, Flaw::Unfinished))
            if ends_unfinished(&last.path, checked.length).map_err(io)? =>
        {
            cut(&last, checked.length).map_err(io)?;
        }
        Some((line, flaw)) => return Err(damaged(line, chain.next, flaw)),
    }
    let file = OpenOptions::new().read(true).write(true).open(&last.path).map_err(io)?;
    // What a crash left in the page cache counts as written from here on.
    file.sync_all().map_err(io)?;
    Ok(Opened { lock, chain, file, length: checked.length })
}

/// Whether one unfinished line is all that follows.
fn ends_unfinished(path: &Path, from: u64) -> io::Result<bool> {
    let mut lines = Lines::open(path)?;
    lines.skip_to(from)?;
    Ok(matches!(lines.next()?, Some(Line::Unfinished)) && lines.next()?.is_none())
}

/// Saves the bytes of a torn last line beside the log, then cuts them off.
fn cut(segment: &Segment, length: u64) -> io::Result<()> {
    let mut file = OpenOptions::new().read(true).write(true).open(&segment.path)?;
    let mut torn = Vec::new();
    file.seek(SeekFrom::Start(length))?;
    file.read_to_end(&mut torn)?;
    let mut beside = segment.path.clone().into_os_string();
    beside.push(format!(".{length}.torn"));
    let mut saved =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    io::Write::write_all(&mut saved, &torn)?;
    saved.sync_all()?;
    tracing::warn!(
        file = %segment.path.display(),
        bytes = torn.len(),
        "the audit log ended in an unfinished record, which was moved aside"
    );
    file.set_len(length)?;
    file.sync_all()
}

fn lock(directory: &Path) -> Result<File, AuditError> {
    let failed = |cause: io::Error| AuditError::Io { path: directory.to_owned(), cause };
    let lock = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(directory.join(super::LOCK))
        .map_err(failed)?;
    let began = Instant::now();
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(lock),
            Err(TryLockError::WouldBlock) if began.elapsed() < LOCK_PATIENCE => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(TryLockError::WouldBlock) => return Err(AuditError::InUse(directory.to_owned())),
            Err(TryLockError::Error(cause)) => return Err(failed(cause)),
        }
    }
}
