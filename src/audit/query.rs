//! Finding records again.
//!
//! Records are ordered by sequence, and by time as well as the clock was; ids carry their time.
//! So a search begins where the time says and then, for a clock that was wrong, looks everywhere.

use std::io;
use std::path::Path;
use std::time::Duration;

use super::chain::Frame;
use super::record::{self, Record};
use super::segment::{self, Line, Lines, Segment};
use crate::domain::clock::Timestamp;
use crate::domain::decision::Verdict;
use crate::domain::event::Event;
use crate::domain::id::DecisionId;

/// How far a record may lie from the time in its id before the second, full pass is needed.
const LEEWAY: Duration = Duration::from_secs(600);

/// Which records are wanted. An empty filter wants them all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// A principal id: `<provider>/<subject>`.
    pub principal: Option<String>,
    pub verdict: Option<Verdict>,
    /// A route's name.
    pub route: Option<String>,
    /// The word under `event`: `decision`, `session-started`, ...
    pub event: Option<String>,
    /// The first moment that is wanted.
    pub since: Option<Timestamp>,
    /// The first moment that no longer is.
    pub until: Option<Timestamp>,
}

impl Filter {
    fn wants(&self, record: &Record) -> bool {
        let event = &record.event;
        let same = |wanted: &Option<String>, has: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| has == Some(wanted))
        };
        same(&self.principal, record::principal(event))
            && same(&self.route, record::route(event))
            && same(&self.event, Some(record::name(event)))
            && self.verdict.is_none_or(|wanted| record::verdict(event) == Some(wanted))
            && self.since.is_none_or(|since| record.at >= since)
            && self.until.is_none_or(|until| record.at < until)
    }
}

/// The records of a log that a filter wants, oldest first. Lines that are no records (what
/// `verify` is there to name) are passed over.
///
/// # Errors
/// When the directory can't be read; each item, when a file can't.
pub fn query(directory: &Path, filter: Filter) -> io::Result<Query> {
    let segments = segment::list(directory)?.into_iter();
    Ok(Query { filter, segments, lines: None })
}

/// See [`query`].
pub struct Query {
    filter: Filter,
    segments: std::vec::IntoIter<Segment>,
    lines: Option<Lines>,
}

impl std::fmt::Debug for Query {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Query").field("filter", &self.filter).finish_non_exhaustive()
    }
}

impl Query {
    fn step(&mut self) -> io::Result<Option<Record>> {
        loop {
            let lines = match &mut self.lines {
                Some(lines) => lines,
                None => match self.segments.next() {
                    Some(segment) => self.lines.insert(Lines::open(&segment.path)?),
                    None => return Ok(None),
                },
            };
            match lines.next()? {
                None => self.lines = None,
                Some(Line::Unfinished) => {}
                Some(Line::Whole(line)) => {
                    let record = std::str::from_utf8(line).ok().and_then(Record::parse);
                    if let Some(record) = record.filter(|record| self.filter.wants(record)) {
                        return Ok(Some(record));
                    }
                }
            }
        }
    }
}

impl Iterator for Query {
    type Item = io::Result<Record>;

    fn next(&mut self) -> Option<io::Result<Record>> {
        self.step().transpose()
    }
}

/// The record of a decision; where the id belongs to something else (a refusal, a login), that.
///
/// # Errors
/// When a file or the directory can't be read.
pub fn find_decision(directory: &Path, id: DecisionId) -> io::Result<Option<Record>> {
    let segments = segment::list(directory)?;
    let mut later = Vec::new();
    let mut following: Option<Timestamp> = None;
    for segment in segments.iter().rev() {
        let begins = first_time(segment)?;
        let too_new = begins.is_some_and(|at| at > id.timestamp().plus(LEEWAY));
        let too_old = following.is_some_and(|at| at < id.timestamp().minus(LEEWAY));
        following = begins.or(following);
        if too_new || too_old {
            later.push(segment);
        } else if let Some(record) = search(segment, id)? {
            return Ok(Some(record));
        }
    }
    for segment in later {
        if let Some(record) = search(segment, id)? {
            return Ok(Some(record));
        }
    }
    Ok(None)
}

fn first_time(segment: &Segment) -> io::Result<Option<Timestamp>> {
    let mut lines = Lines::open(&segment.path)?;
    let Some(Line::Whole(line)) = lines.next()? else { return Ok(None) };
    Ok(Frame::parse(line).and_then(|frame| record::timestamp(frame.at)))
}

fn search(segment: &Segment, id: DecisionId) -> io::Result<Option<Record>> {
    let encoded = id.to_string();
    let mut lines = Lines::open(&segment.path)?;
    let mut other = None;
    while let Some(line) = lines.next()? {
        let Line::Whole(line) = line else { continue };
        // A plain search first: parsing each line would take fifty times as long.
        let text = std::str::from_utf8(line).ok().filter(|text| text.contains(&encoded));
        let Some(record) = text.and_then(Record::parse) else { continue };
        // The text alone proves nothing: a client may have sent it as a path.
        if record::id(&record.event) != Some(id) {
            continue;
        }
        if matches!(record.event, Event::Decision { .. }) {
            return Ok(Some(record));
        }
        other.get_or_insert(record);
    }
    Ok(other)
}
