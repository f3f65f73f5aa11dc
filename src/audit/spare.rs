//! The next file of the log, opened ahead of its need.
//!
//! A new file needs a descriptor, and the process may have none left just then (EMFILE, ENFILE).
//! So the file after this one is open already, under another name, and so is the directory: to
//! begin a new segment is a rename. A descriptor that was merely given up when it is needed could
//! be taken by another thread first.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::segment;

/// What the file is called until it is needed. No segment's name, so that no reader looks at it.
const NAME: &str = "next";

#[derive(Debug)]
pub(super) struct Spare {
    folder: PathBuf,
    directory: Option<File>,
    file: Option<File>,
    /// The file has its name already; that the name survives a power cut is not certain.
    named: Option<u64>,
}

impl Spare {
    /// What can't be opened now is opened when it is needed.
    pub(super) fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            directory: File::open(folder).ok(),
            file: open(folder).ok(),
            named: None,
        }
    }

    /// The spare file as the segment that begins with this record, and another spare one in its
    /// place. May be called again with the same number after an error.
    ///
    /// # Errors
    /// When the file can't be named or its name not synced, or there is a segment of that name
    /// with records in it.
    pub(super) fn segment(&mut self, first: u64) -> io::Result<File> {
        let path = segment::path(&self.folder, first);
        if self.named != Some(first) {
            // Another process may have had the log meanwhile, and made a segment of this file.
            if !self.file.as_ref().is_some_and(|file| is_there(file, &self.folder.join(NAME))) {
                self.file = Some(open(&self.folder)?);
            }
            if fs::metadata(&path).is_ok_and(|there| there.len() != 0) {
                return Err(io::Error::from(io::ErrorKind::AlreadyExists));
            }
            fs::rename(self.folder.join(NAME), &path)?;
            self.named = Some(first);
        }
        match &self.directory {
            Some(directory) => directory.sync_all()?,
            None => File::open(&self.folder)?.sync_all()?,
        }
        let file = self.file.take().ok_or(io::ErrorKind::NotFound)?;
        self.named = None;
        self.file = open(&self.folder).ok();
        Ok(file)
    }
}

/// Whether this path leads to that open file.
fn is_there(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(file), Ok(there)) => (file.dev(), file.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

/// An empty file; whatever a killed process left of one is taken over.
fn open(folder: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(folder.join(NAME))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn every_segment_is_a_file_of_its_own_and_the_next_is_there_already() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(NAME), "left by a process that was killed").unwrap();
        let mut spare = Spare::new(folder.path());
        for (first, text) in [(7, "seven"), (8, "eight")] {
            assert!(spare.file.is_some());
            spare.segment(first).unwrap().write_all(text.as_bytes()).unwrap();
            let path = folder.path().join(format!("audit-{first:020}.jsonl"));
            assert_eq!(fs::read_to_string(path).unwrap(), text);
        }
        assert_eq!(segment::list(folder.path()).unwrap().len(), 2, "the spare one is none");
    }

    #[test]
    fn a_segment_that_has_records_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let mut spare = Spare::new(folder.path());
        spare.segment(7).unwrap().write_all(b"seven").unwrap();
        assert_eq!(spare.segment(7).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        spare.segment(8).unwrap();
        // An empty one is what an attempt before has left.
        spare.segment(8).unwrap();
    }

    #[test]
    fn a_file_that_another_process_made_a_segment_of_is_not_written_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut before = Spare::new(folder.path());
        let mut other = Spare::new(folder.path());
        other.segment(7).unwrap().write_all(b"seven").unwrap();
        before.segment(8).unwrap().write_all(b"eight").unwrap();
        assert_eq!(fs::read(segment::path(folder.path(), 7)).unwrap(), b"seven");
        assert_eq!(fs::read(segment::path(folder.path(), 8)).unwrap(), b"eight");
    }

    #[test]
    fn an_attempt_that_came_half_way_is_finished_by_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let mut spare = Spare::new(folder.path());
        fs::rename(folder.path().join(NAME), segment::path(folder.path(), 7)).unwrap();
        spare.named = Some(7);
        spare.segment(7).unwrap().write_all(b"seven").unwrap();
        assert_eq!(fs::read(segment::path(folder.path(), 7)).unwrap(), b"seven");
    }
}
