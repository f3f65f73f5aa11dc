//! The log's files: `audit-<sequence of the first record, 20 digits>.jsonl`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::chain::{Chain, Flaw, Frame};
use super::record::MAX_LINE;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Segment {
    /// Sequence of the first record that is, or will be, in the file.
    pub first: u64,
    pub path: PathBuf,
}

/// Where the segment is that begins with this record.
pub(super) fn path(directory: &Path, first: u64) -> PathBuf {
    directory.join(format!("audit-{first:020}.jsonl"))
}

/// The segments of a log, oldest first. Other files are not looked at.
pub(super) fn list(directory: &Path) -> io::Result<Vec<Segment>> {
    let mut segments = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let digits = name.strip_prefix("audit-").and_then(|rest| rest.strip_suffix(".jsonl"));
        let Some(digits) = digits.filter(|digits| digits.len() == 20) else { continue };
        if let Ok(first) = digits.parse() {
            segments.push(Segment { first, path });
        }
    }
    segments.sort();
    Ok(segments)
}

impl Segment {
    /// Makes a new, empty file that survives a power cut.
    pub(super) fn create(directory: &Path, first: u64) -> io::Result<(Self, File)> {
        let path = path(directory, first);
        // Opened and not created anew: an attempt before may have got as far as the file.
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)?;
        if file.metadata()?.len() != 0 {
            return Err(io::Error::from(io::ErrorKind::AlreadyExists));
        }
        File::open(directory)?.sync_all()?;
        Ok((Self { first, path }, file))
    }

    /// The chain after the file's last line; `None` when there is no whole line in it.
    pub(super) fn end(&self) -> io::Result<Option<Result<Chain, Flaw>>> {
        let mut file = File::open(&self.path)?;
        let length = file.metadata()?.len();
        let window = u64::try_from(MAX_LINE).unwrap_or(u64::MAX).saturating_mul(2);
        file.seek(SeekFrom::Start(length.saturating_sub(window)))?;
        let mut bytes = Vec::new();
        file.take(window).read_to_end(&mut bytes)?;
        let Some(stop) = bytes.iter().rposition(|byte| *byte == b'\n') else { return Ok(None) };
        let whole = bytes.get(..stop).unwrap_or_default();
        let line = whole.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
        Ok(Some(match Frame::parse(line) {
            None => Err(Flaw::Malformed),
            Some(frame) if !frame.is_intact() => Err(Flaw::Changed),
            Some(frame) => Ok(Chain { next: frame.sequence + 1, previous: *frame.hash }),
        }))
    }
}

/// The lines of a file, one at a time, without reading more than a record's worth at once.
pub(super) struct Lines {
    reader: BufReader<File>,
    line: Vec<u8>,
}

/// One line, without its line feed.
pub(super) enum Line<'a> {
    Whole(&'a [u8]),
    /// The file ends, or the longest line that there can be, before a line feed.
    Unfinished,
}

impl Lines {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self {
            reader: BufReader::with_capacity(256 * 1024, File::open(path)?),
            line: Vec::with_capacity(2048),
        })
    }

    pub(super) fn skip_to(&mut self, offset: u64) -> io::Result<()> {
        self.reader.seek(SeekFrom::Start(offset)).map(|_| ())
    }

    pub(super) fn next(&mut self) -> io::Result<Option<Line<'_>>> {
        self.line.clear();
        let limit = u64::try_from(MAX_LINE).unwrap_or(u64::MAX);
        let read = self.reader.by_ref().take(limit).read_until(b'\n', &mut self.line)?;
        if read == 0 {
            return Ok(None);
        }
        Ok(Some(match self.line.strip_suffix(b"\n") {
            Some(line) => Line::Whole(line),
            None => Line::Unfinished,
        }))
    }
}
