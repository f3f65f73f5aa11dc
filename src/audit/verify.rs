//! Is the log whole? Read offline, from the first record to the last.
//!
//! What is found: a record changed, removed, inserted or moved, a file missing or renamed, a line
//! cut. What can't be found without a checkpoint kept elsewhere: whole records missing at the
//! very end, and a log that was written anew from its first record.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::chain::{Chain, Flaw};
use super::segment::{self, Line, Lines};

/// What `audit verify` has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyReport {
    /// Files read.
    pub segments: usize,
    /// Good records, up to the first bad one.
    pub records: u64,
    /// The hash of the last good record, in hex: what a checkpoint would keep.
    pub head: String,
    pub bad: Option<BadRecord>,
}

/// The first record that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRecord {
    pub file: PathBuf,
    /// From 1.
    pub line: u64,
    /// The sequence that was due there.
    pub sequence: u64,
    pub flaw: Flaw,
}

impl std::fmt::Display for BadRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}: record {}: {}", self.file.display(), self.line, self.sequence, self.flaw)
    }
}

impl VerifyReport {
    pub fn is_good(&self) -> bool {
        self.bad.is_none()
    }
}

/// Verifies the log in a directory, also while a gate is writing it: the line that is being
/// written then is no flaw.
///
/// # Errors
/// When a file or the directory can't be read.
pub fn verify(directory: &Path) -> io::Result<VerifyReport> {
    let mut chain = Chain::genesis();
    let segments = segment::list(directory)?;
    let mut read = 0;
    let mut bad = None;
    for (index, segment) in segments.iter().enumerate() {
        read += 1;
        let at = |line, chain: &Chain, flaw| {
            Some(BadRecord { file: segment.path.clone(), line, sequence: chain.next, flaw })
        };
        if segment.first != chain.next {
            let flaw = Flaw::FileName { expected: chain.next, found: segment.first };
            bad = at(1, &chain, flaw);
            break;
        }
        let last = index + 1 == segments.len();
        let flaw = check(&segment.path, &mut chain)?.flaw;
        bad = match flaw {
            Some((_, Flaw::Unfinished)) if last && is_being_written(directory) => None,
            Some((line, flaw)) => at(line, &chain, flaw),
            None => None,
        };
        if bad.is_some() {
            break;
        }
    }
    let head = String::from_utf8_lossy(&chain.previous).into_owned();
    Ok(VerifyReport { segments: read, records: chain.next - 1, head, bad })
}

/// How far a file is good.
pub(super) struct Checked {
    /// Length of the good lines, in bytes.
    pub length: u64,
    /// The line after them, from 1, when there is something wrong with it.
    pub flaw: Option<(u64, Flaw)>,
}

/// Checks the lines of one file and steps the chain over the good ones.
pub(super) fn check(path: &Path, chain: &mut Chain) -> io::Result<Checked> {
    let mut lines = Lines::open(path)?;
    let mut checked = Checked { length: 0, flaw: None };
    let mut number = 0;
    while let Some(line) = lines.next()? {
        number += 1;
        let result = match line {
            Line::Whole(line) => {
                let length = u64::try_from(line.len()).unwrap_or(u64::MAX);
                chain.check(line).map(|()| length.saturating_add(1))
            }
            Line::Unfinished => Err(Flaw::Unfinished),
        };
        match result {
            Ok(length) => checked.length = checked.length.saturating_add(length),
            Err(flaw) => {
                checked.flaw = Some((number, flaw));
                break;
            }
        }
    }
    Ok(checked)
}

/// Whether a gate holds the log's lock.
fn is_being_written(directory: &Path) -> bool {
    let Ok(lock) = File::open(directory.join(super::LOCK)) else { return false };
    lock.try_lock_shared().is_err()
}
