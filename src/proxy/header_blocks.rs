//! Whether a header is on its way on an HTTP/2 connection.
//!
//! A header is a HEADERS frame and the CONTINUATION frames that follow it (RFC 9113, section 6.10),
//! and nothing else may come in between. hyper and h2 wait for the rest of one for ever, so these
//! follow the frames' own headers past everything that they carry, to set a deadline.
//!
//! It changes nothing and allocates nothing; frames that h2 will refuse need no verdict here.

/// The client's first bytes (RFC 9113, section 3.4).
const PREFACE: usize = 24;

/// Length, type, flags, stream (RFC 9113, section 4.1).
const FRAME_HEADER: usize = 9;

const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// Follows the frames that a client sends.
#[derive(Debug)]
pub struct HeaderBlocks {
    /// Bytes that are still to come of the preface or of a frame's payload.
    skip: usize,
    /// What is there of the next frame's header.
    header: [u8; FRAME_HEADER],
    filled: usize,
    /// A header has begun and not ended.
    open: bool,
    /// It ends with the payload that is being skipped.
    closing: bool,
}

impl Default for HeaderBlocks {
    fn default() -> Self {
        Self { skip: PREFACE, header: [0; FRAME_HEADER], filled: 0, open: false, closing: false }
    }
}

impl HeaderBlocks {
    /// Takes the next bytes that the client sent. Returns whether a header is on its way, and
    /// whether one has ended in these bytes.
    pub fn observe(&mut self, bytes: &[u8]) -> (bool, bool) {
        let mut rest = bytes;
        let mut ended = false;
        loop {
            let skipped = self.skip.min(rest.len());
            self.skip -= skipped;
            rest = rest.get(skipped..).unwrap_or_default();
            if self.skip == 0 && self.closing {
                (self.open, self.closing, ended) = (false, false, true);
            }
            if rest.is_empty() {
                return (self.open, ended);
            }
            rest = self.frame(rest);
        }
    }

    /// Takes what is there of a frame's header, and leaves the rest.
    fn frame<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let wanted = (FRAME_HEADER - self.filled).min(bytes.len());
        let (taken, rest) = bytes.split_at_checked(wanted).unwrap_or((bytes, &[]));
        for (place, byte) in self.header.iter_mut().skip(self.filled).zip(taken) {
            *place = *byte;
        }
        self.filled += wanted;
        if self.filled == FRAME_HEADER {
            self.filled = 0;
            let [high, middle, low, kind, flags, ..] = self.header;
            self.skip = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
            if kind == HEADERS || kind == CONTINUATION {
                self.open = true;
                self.closing = flags & END_HEADERS != 0;
            }
        }
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    /// After each frame whether a header is on its way, however the bytes are cut.
    fn follow(frames: &[Vec<u8>]) -> Vec<bool> {
        let mut whole = HeaderBlocks::default();
        let mut single = HeaderBlocks::default();
        whole.observe(START);
        for byte in START {
            single.observe(&[*byte]);
        }
        let follow = |frame: &Vec<u8>| {
            let open = whole.observe(frame).0;
            let last = frame.iter().map(|byte| single.observe(&[*byte]).0).last();
            assert_eq!(Some(open), last, "{frame:?}");
            open
        };
        frames.iter().map(follow).collect()
    }

    #[test]
    fn a_header_lasts_from_headers_to_the_end_of_its_last_continuation() {
        let (headers, rest) = (frame(HEADERS, 0, b"abc"), frame(CONTINUATION, 0, b""));
        let last = frame(CONTINUATION, END_HEADERS, b"xyz");
        assert_eq!(follow(&[headers, rest, last]), [true, true, false]);
        assert_eq!(follow(&[frame(HEADERS, END_HEADERS | 1, b"abc")]), [false]);
        assert_eq!(follow(&[frame(HEADERS, END_HEADERS, b"")]), [false]);
    }

    #[test]
    fn other_frames_are_passed_over_by_their_length() {
        // Their payloads look like the beginning of a header.
        let inside = frame(HEADERS, 0, b"");
        let data = frame(0, END_HEADERS, &inside.repeat(2000));
        let ping = frame(6, 0, &inside[..8]);
        assert_eq!(follow(&[frame(4, 0, b""), data, ping, inside]), [false, false, false, true]);
    }

    #[test]
    fn a_header_whose_payload_does_not_come_is_on_its_way() {
        let mut blocks = HeaderBlocks::default();
        let headers = frame(HEADERS, END_HEADERS, b"abcdef");
        assert_eq!(blocks.observe(&[START, &headers[..12]].concat()), (true, false));
        assert_eq!(blocks.observe(&headers[12..14]), (true, false));
        let two = [&headers[14..], &headers[..], &headers[..10]].concat();
        assert_eq!(blocks.observe(&two), (true, true), "another one began after it");
    }
}
