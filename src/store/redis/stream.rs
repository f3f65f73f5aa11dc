//! The stream of revocations, as a Redis stream whose events form a chain.
//!
//! Each event has a link of random bytes and names the link of the one before it; beside the
//! stream stands the link of the last. So whoever reads on finds out whether anything is missing,
//! whatever has happened to the servers: trimmed, emptied, or taken over by a replica that lagged
//! behind and gave the same names to other events.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use aws_lc_rs::rand;
use redis::Cmd;
use tokio::runtime::Handle;

use super::link::{Again, Link};
use super::script;
use crate::config::model::Redis;
use crate::store::StoreError;
use crate::store::stream::{Position, Read, Stream};

/// Events read at once.
const AT_ONCE: usize = 1000;

/// Longest time that [`Stream::wait`] has the server hold its answer back.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

pub(super) struct RedisStream {
    link: Link,
    /// Its server answers when there is something to say, so nothing else goes over it.
    waiting: Link,
    stream: String,
    about: String,
}

impl fmt::Debug for RedisStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStream").finish_non_exhaustive()
    }
}

/// An event as the server has it: its name, and fields with their values in turn.
type Raw = (String, Vec<Vec<u8>>);

impl RedisStream {
    pub(super) fn open(config: &Redis, (stream, about): (String, String), thread: &Handle) -> Self {
        let timeout = config.timeout;
        Self {
            link: Link::open(config, timeout, thread),
            waiting: Link::open(config, LONGEST_WAIT + timeout, thread),
            stream,
            about,
        }
    }

    fn script(&self, text: &str) -> Cmd {
        let mut command = redis::cmd("EVAL");
        command.arg(text).arg(2).arg(&self.stream).arg(&self.about);
        command
    }
}

fn fresh_link() -> Result<[u8; 16], StoreError> {
    let mut link = [0; 16];
    rand::fill(&mut link).map_err(|_| StoreError::Failed("no randomness".to_owned()))?;
    Ok(link)
}

fn field<'a>(fields: &'a [Vec<u8>], name: &str) -> Option<&'a [u8]> {
    let mut pairs = fields.chunks_exact(2);
    pairs.find_map(|pair| match pair {
        [key, value] if key == name.as_bytes() => Some(value.as_slice()),
        _ => None,
    })
}

/// Follows the chain. `None`: it isn't whole.
fn chained(after: &Position, last: &[u8], raw: Vec<Raw>) -> Option<Read> {
    let more = raw.len() >= AT_ONCE;
    let mut position = after.clone();
    let mut events = Vec::with_capacity(raw.len());
    for (id, fields) in raw {
        if field(&fields, "before")? != position.link {
            return None;
        }
        position = Position { id, link: field(&fields, "link")?.to_vec() };
        events.push(field(&fields, "event")?.to_vec());
    }
    (more || position.link == last).then_some(Read::Events { events, position, more })
}

#[async_trait]
impl Stream for RedisStream {
    async fn append(&self, events: Vec<Vec<u8>>) -> Result<(), StoreError> {
        for events in events.chunks(AT_ONCE) {
            let mut command = self.script(script::APPEND);
            for event in events {
                command.arg(&fresh_link()?).arg(event);
            }
            // Twice would be heard twice.
            self.link.call::<()>(&command, Again::Harmless).await?;
        }
        Ok(())
    }

    async fn end(&self) -> Result<Position, StoreError> {
        let mut command = self.script(script::END);
        command.arg(&fresh_link()?);
        let (link, id) = self.link.call(&command, Again::Harmless).await?;
        Ok(Position { id, link })
    }

    async fn read(&self, after: &Position) -> Result<Read, StoreError> {
        let mut command = self.script(script::FOLLOW);
        command.arg(&after.id).arg(AT_ONCE);
        let (last, raw): (Vec<u8>, Vec<Raw>) = self.link.call(&command, Again::Harmless).await?;
        Ok(chained(after, &last, raw).unwrap_or(Read::Gap))
    }

    async fn wait(&self, after: &Position, patience: Duration) {
        let patience = patience.min(LONGEST_WAIT);
        let mut command = redis::cmd("XREAD");
        let millis = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX).max(1);
        command.arg("COUNT").arg(1).arg("BLOCK").arg(millis);
        command.arg("STREAMS").arg(&self.stream).arg(&after.id);
        let until = tokio::time::Instant::now() + patience;
        // A server that doesn't answer is found out soon, so that the next wait has another.
        let within = patience + patience / 2;
        let waited = self.waiting.call_within::<redis::Value>(within, &command, Again::Never);
        if waited.await.is_err() {
            // A pause, then: whether the server is there, the next reading finds out.
            tokio::time::sleep_until(until).await;
        }
    }

    async fn trim(&self, older_than: Duration) -> Result<(), StoreError> {
        let mut command = redis::cmd("EVAL");
        let millis = u64::try_from(older_than.as_millis()).unwrap_or(u64::MAX);
        command.arg(script::TRIM).arg(1).arg(&self.stream).arg(millis);
        self.link.call::<redis::Value>(&command, Again::Harmless).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(before: &str, link: &str) -> Raw {
        let fields = ["before", before, "link", link, "event", link];
        (link.to_owned(), fields.map(|text| text.as_bytes().to_vec()).into())
    }

    fn read(after: &str, last: &str, raw: Vec<Raw>) -> Option<Read> {
        let after = Position { id: after.to_owned(), link: after.as_bytes().to_vec() };
        chained(&after, last.as_bytes(), raw)
    }

    #[test]
    fn a_chain_that_is_whole_is_read_in_order() {
        let Some(Read::Events { events, position, more }) =
            read("a", "c", vec![raw("a", "b"), raw("b", "c")])
        else {
            panic!("a gap");
        };
        assert_eq!(events, [b"b".to_vec(), b"c".to_vec()]);
        assert_eq!((position.id.as_str(), more), ("c", false));
        assert!(read("a", "a", vec![]).is_some());
    }

    #[test]
    fn whatever_is_missing_is_a_gap() {
        for (case, raw) in [
            ("the first was trimmed", vec![raw("b", "c")]),
            ("one in the middle was deleted", vec![raw("a", "b"), raw("x", "c")]),
            ("the last are missing", vec![raw("a", "b")]),
            ("all are missing", vec![]),
            ("an event without fields", vec![("1-0".to_owned(), vec![]), raw("a", "c")]),
        ] {
            assert_eq!(read("a", "c", raw), None, "{case}");
        }
        assert_eq!(read("a", "", vec![]), None, "the server was emptied");
    }
}
