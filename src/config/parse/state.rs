//! `audit`: what the gate writes.

use crate::config::model::Audit;
use crate::config::yaml::Cursor;

use super::files::Base;
use super::keys;

pub(super) fn audit(at: &Cursor<'_>, base: &Base) -> Option<Audit> {
    let map = keys(at)?;
    let directory = map.required("directory").and_then(|at| {
        let directory = base.path(&at)?;
        if directory.exists() && !directory.is_dir() {
            at.error(format!("`{}` is not a directory", directory.display()));
        }
        Some(directory)
    });
    let queue = map.or("queue", 65_536, |at| at.number(1, 1_000_000));
    let segment = |at: &Cursor<'_>| at.bytes(1 << 20, 1 << 40);
    let segment_bytes = map.or("segment_size", 256 << 20, segment);
    Some(Audit { directory: directory?, queue, segment_bytes })
}
