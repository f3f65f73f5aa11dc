//! What hyper does not tell of the bytes that it read.
//!
//! hyper reads HTTP/1 a little more kindly than a gate may: it takes a lone LF for a line's end,
//! cuts a fragment off the target and believes one of two body lengths. What reads in two ways
//! must not be decided on (SECURITY.md, "Framing" and "Bypass"), but once hyper hands a request
//! over, the other reading is gone. So an [`Observer`] follows the same bytes on their way to
//! hyper, and says when they were ambiguous.
//!
//! It changes nothing, allocates nothing and looks only at heads, chunk sizes and trailers; the
//! bytes of bodies are skipped by their count. What hyper refuses by itself needs no verdict here.
//!
//! INVARIANT: for messages that read in one way only, its place in the stream is hyper's. After
//! the first that doesn't, the connection has no further request, so that it follows no more.

/// Why bytes on a connection read in more than one way. RFC 9112, sections 2.2, 3, 5 and 6.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ambiguity {
    LineFeed,
    CarriageReturn,
    Control,
    Fragment,
    Folding,
    SpaceInName,
    NoColon,
    TwoLengths,
    Length,
    Coding,
    Chunk,
}

impl Ambiguity {
    /// The sentence for whoever sent it.
    pub const fn text(self) -> &'static str {
        match self {
            Self::LineFeed => "a line ends with LF alone",
            Self::CarriageReturn => "a line has a CR in it",
            Self::Control => "a line has a control character in it",
            Self::Fragment => "the request target has a fragment",
            Self::Folding => "a header line starts with white space",
            Self::SpaceInName => "a header name has white space in it",
            Self::NoColon => "a header line has no colon",
            Self::TwoLengths => "the length of the body is given twice",
            Self::Length => "Content-Length is not a number",
            Self::Coding => "the only transfer coding is `chunked`",
            Self::Chunk => "a chunk does not have the form that it must have",
        }
    }
}

const CONTENT_LENGTH: &[u8] = b"content-length";
const TRANSFER_ENCODING: &[u8] = b"transfer-encoding";
const CHUNKED: &[u8] = b"chunked";

/// Follows the requests of one HTTP/1 connection.
#[derive(Debug)]
pub struct Observer {
    step: Step,
    name: Name,
    framing: Framing,
    in_trailers: bool,
}

/// Where in a message the next byte stands.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Before a request. Empty lines are skipped (RFC 9112, section 2.2).
    Start,
    RequestLine,
    LineStart,
    Name,
    Value(Value),
    /// After a CR: only LF may follow.
    Feed(After),
    Body(u64),
    ChunkSize {
        digits: u8,
        size: u64,
    },
    ChunkExtension(u64),
    Chunk(u64),
    ChunkEnd,
    /// Nothing is followed any more.
    Blind,
}

/// What comes after a line.
#[derive(Clone, Copy, Debug)]
enum After {
    Start,
    Line,
    HeadEnd,
    Chunk(u64),
    ChunkSize,
}

/// A field's value, as far as its field matters here.
#[derive(Clone, Copy, Debug)]
enum Value {
    Other,
    Length { digits: u8, number: u64, ended: bool },
    Coding { matched: u8, ended: bool },
}

/// The start of a header name, in lower case: enough to tell the two that matter.
#[derive(Debug, Default)]
struct Name {
    bytes: [u8; TRANSFER_ENCODING.len() + 1],
    length: usize,
}

impl Name {
    fn push(&mut self, more: &[u8]) {
        for byte in more {
            let Some(place) = self.bytes.get_mut(self.length) else { return };
            *place = byte.to_ascii_lowercase();
            self.length += 1;
        }
    }

    /// Whether it is `name` once it ends with `last`. Nearly always that is all of it.
    fn ends_as(&self, last: &[u8], name: &[u8]) -> bool {
        self.length + last.len() == name.len()
            && name.split_at_checked(self.length).is_some_and(|(start, end)| {
                self.bytes.get(..self.length) == Some(start) && last.eq_ignore_ascii_case(end)
            })
    }
}

/// What the head says of its body.
#[derive(Debug, Default)]
struct Framing {
    length: Option<u64>,
    chunked: bool,
}

impl Default for Observer {
    fn default() -> Self {
        Self {
            step: Step::Start,
            name: Name::default(),
            framing: Framing::default(),
            in_trailers: false,
        }
    }
}

impl Observer {
    /// Takes the next bytes that the client sent. An ambiguity is told once.
    pub fn observe(&mut self, bytes: &[u8]) -> Option<Ambiguity> {
        let mut rest = bytes;
        while let Some(byte) = rest.first() {
            if matches!(self.step, Step::Blind) {
                return None;
            }
            match self.advance(*byte, rest) {
                Ok(used) => rest = rest.get(used..).unwrap_or_default(),
                Err(ambiguity) => {
                    self.step = Step::Blind;
                    return Some(ambiguity);
                }
            }
        }
        None
    }

    /// Whether what was taken so far ends where a request ends, or between two.
    pub fn is_between(&self) -> bool {
        matches!(self.step, Step::Start)
    }

    /// Moves on by at least one byte, of which `byte` is the first, and tells by how many.
    fn advance(&mut self, byte: u8, rest: &[u8]) -> Result<usize, Ambiguity> {
        match self.step {
            Step::Start => {
                match byte {
                    b'\r' => self.step = Step::Feed(After::Start),
                    b'\n' => return Err(Ambiguity::LineFeed),
                    _ => {
                        self.framing = Framing::default();
                        self.in_trailers = false;
                        self.step = Step::RequestLine;
                        return Ok(0);
                    }
                }
                Ok(1)
            }
            Step::RequestLine => {
                let suspects = |word| below(word, b' ') | equal(word, b'#');
                self.line(first(rest, suspects, |byte| byte < b' ' || byte == b'#'), rest)
            }
            Step::LineStart => {
                match byte {
                    b'\r' => self.step = Step::Feed(After::HeadEnd),
                    b' ' | b'\t' => return Err(Ambiguity::Folding),
                    _ => {
                        self.name.length = 0;
                        self.step = Step::Name;
                        return Ok(0);
                    }
                }
                Ok(1)
            }
            Step::Name => self.name(rest),
            Step::Value(Value::Other) => {
                let suspects = |word| below(word, b' ');
                self.line(first(rest, suspects, |byte| byte < b' ' && byte != b'\t'), rest)
            }
            Step::Value(value) => self.value(value, byte),
            Step::Feed(after) => {
                if byte != b'\n' {
                    return Err(Ambiguity::CarriageReturn);
                }
                self.after(after);
                Ok(1)
            }
            Step::Body(left) => Ok(self.skip(left, rest, Step::Body, Step::Start)),
            Step::Chunk(left) => Ok(self.skip(left, rest, Step::Chunk, Step::ChunkEnd)),
            Step::ChunkSize { digits, size } => self.chunk_size(byte, digits, size),
            Step::ChunkExtension(size) => {
                self.step = match byte {
                    b'\r' => Step::Feed(After::Chunk(size)),
                    b'\t' | b' '.. => Step::ChunkExtension(size),
                    _ => return Err(Ambiguity::Chunk),
                };
                Ok(1)
            }
            Step::ChunkEnd if byte == b'\r' => {
                self.step = Step::Feed(After::ChunkSize);
                Ok(1)
            }
            Step::ChunkEnd => Err(Ambiguity::Chunk),
            Step::Blind => Ok(rest.len()),
        }
    }

    /// Goes on behind the end of a line, or what must not stand in it, if that is in sight.
    fn line(&mut self, end: Option<usize>, rest: &[u8]) -> Result<usize, Ambiguity> {
        let Some(at) = end else { return Ok(rest.len()) };
        self.step = end_of_line(rest.get(at).copied().unwrap_or_default())?;
        Ok(at + 1)
    }

    fn name(&mut self, rest: &[u8]) -> Result<usize, Ambiguity> {
        let suspects = |word| below(word, b' ' + 1) | equal(word, b':');
        let Some(at) = first(rest, suspects, |byte| byte <= b' ' || byte == b':') else {
            self.name.push(rest);
            return Ok(rest.len());
        };
        let name = rest.get(..at).unwrap_or_default();
        match rest.get(at) {
            Some(b':') => {}
            Some(b' ' | b'\t') => return Err(Ambiguity::SpaceInName),
            Some(b'\r') => return Err(Ambiguity::NoColon),
            Some(b'\n') => return Err(Ambiguity::LineFeed),
            _ => return Err(Ambiguity::Control),
        }
        self.step = Step::Value(if self.in_trailers {
            // There is nothing left to frame; the gate drops such fields.
            Value::Other
        } else if self.name.ends_as(name, CONTENT_LENGTH) {
            Value::Length { digits: 0, number: 0, ended: false }
        } else if self.name.ends_as(name, TRANSFER_ENCODING) {
            Value::Coding { matched: 0, ended: false }
        } else {
            Value::Other
        });
        Ok(at + 1)
    }

    /// A byte of one of the two values that say how long the body is.
    fn value(&mut self, value: Value, byte: u8) -> Result<usize, Ambiguity> {
        if byte < b' ' && byte != b'\t' {
            self.step = end_of_line(byte)?;
            self.framing.settle(value)?;
            return Ok(1);
        }
        let space = byte == b' ' || byte == b'\t';
        self.step = Step::Value(match value {
            Value::Length { digits, number, .. } if space => {
                Value::Length { digits, number, ended: digits > 0 }
            }
            Value::Length { digits, number, ended: false } if byte.is_ascii_digit() => {
                let number = number
                    .checked_mul(10)
                    .and_then(|number| number.checked_add(u64::from(byte - b'0')))
                    .ok_or(Ambiguity::Length)?;
                Value::Length { digits: digits.saturating_add(1), number, ended: false }
            }
            Value::Length { .. } => return Err(Ambiguity::Length),
            Value::Coding { matched, .. } if space => Value::Coding { matched, ended: matched > 0 },
            Value::Coding { matched, ended: false }
                if CHUNKED.get(usize::from(matched)) == Some(&byte.to_ascii_lowercase()) =>
            {
                Value::Coding { matched: matched + 1, ended: false }
            }
            Value::Coding { .. } => return Err(Ambiguity::Coding),
            Value::Other => Value::Other,
        });
        Ok(1)
    }

    fn after(&mut self, after: After) {
        self.step = match after {
            After::Start => Step::Start,
            After::Line => Step::LineStart,
            After::ChunkSize => Step::ChunkSize { digits: 0, size: 0 },
            After::Chunk(0) => {
                self.in_trailers = true;
                Step::LineStart
            }
            After::Chunk(size) => Step::Chunk(size),
            After::HeadEnd if self.in_trailers => Step::Start,
            After::HeadEnd if self.framing.chunked => Step::ChunkSize { digits: 0, size: 0 },
            After::HeadEnd => match self.framing.length {
                Some(length) if length > 0 => Step::Body(length),
                _ => Step::Start,
            },
        };
    }

    fn skip(&mut self, left: u64, rest: &[u8], within: fn(u64) -> Step, then: Step) -> usize {
        let here = u64::try_from(rest.len()).unwrap_or(u64::MAX);
        if left > here {
            self.step = within(left - here);
            return rest.len();
        }
        self.step = then;
        usize::try_from(left).unwrap_or(rest.len())
    }

    fn chunk_size(&mut self, byte: u8, digits: u8, size: u64) -> Result<usize, Ambiguity> {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'A'..=b'F' => byte - b'A' + 10,
            _ if digits == 0 => return Err(Ambiguity::Chunk),
            b'\r' => {
                self.step = Step::Feed(After::Chunk(size));
                return Ok(1);
            }
            b';' | b' ' | b'\t' => {
                self.step = Step::ChunkExtension(size);
                return Ok(1);
            }
            _ => return Err(Ambiguity::Chunk),
        };
        // CVE-2021-32714: a size that wraps around.
        let size = size.checked_mul(16).ok_or(Ambiguity::Chunk)? | u64::from(digit);
        self.step = Step::ChunkSize { digits: digits.saturating_add(1), size };
        Ok(1)
    }
}

impl Framing {
    /// Takes what a whole line said of the body's length.
    fn settle(&mut self, value: Value) -> Result<(), Ambiguity> {
        if self.chunked || self.length.is_some() {
            return Err(Ambiguity::TwoLengths);
        }
        match value {
            Value::Length { digits: 0, .. } => return Err(Ambiguity::Length),
            Value::Length { number, .. } => self.length = Some(number),
            Value::Coding { matched, .. } if usize::from(matched) == CHUNKED.len() => {
                self.chunked = true;
            }
            Value::Coding { .. } => return Err(Ambiguity::Coding),
            Value::Other => {}
        }
        Ok(())
    }
}

/// Where the first byte is that `stops`. Lines are long and mostly without one, so eight are looked
/// at together: `suspects` has the high bit of every byte that could be one, and of none before it.
fn first(bytes: &[u8], suspects: impl Fn(u64) -> u64, stops: impl Fn(u8) -> bool) -> Option<usize> {
    let mut at = 0;
    while let Some((word, _)) = bytes.get(at..).and_then(|rest| rest.split_first_chunk::<8>()) {
        let hits = suspects(u64::from_le_bytes(*word));
        if hits == 0 {
            at += 8;
            continue;
        }
        at += hits.trailing_zeros() as usize / 8;
        if bytes.get(at).is_some_and(|byte| stops(*byte)) {
            return Some(at);
        }
        at += 1;
    }
    let rest = bytes.get(at..).unwrap_or_default();
    rest.iter().position(|byte| stops(*byte)).map(|further| at + further)
}

const EACH: u64 = 0x0101_0101_0101_0101;

/// The high bits of bytes below `limit`, which is at most 128. Above the lowest that is one, others
/// may be set that are not.
fn below(word: u64, limit: u8) -> u64 {
    word.wrapping_sub(EACH * u64::from(limit)) & !word & (EACH << 7)
}

/// The same for bytes that are `byte`.
fn equal(word: u64, byte: u8) -> u64 {
    below(word ^ (EACH * u64::from(byte)), 1)
}

/// What a byte that may not stand in a line makes of it.
fn end_of_line(byte: u8) -> Result<Step, Ambiguity> {
    match byte {
        b'\r' => Ok(Step::Feed(After::Line)),
        b'\n' => Err(Ambiguity::LineFeed),
        b'#' => Err(Ambiguity::Fragment),
        _ => Err(Ambiguity::Control),
    }
}

#[cfg(test)]
mod tests;
