//! Whether a header is on its way on an HTTP/2 connection.
//!
//! A header is a HEADERS frame and the CONTINUATION frames that follow it (RFC 9113, section 6.10),
//! and nothing else may come in between. hyper and h2 wait for the rest of one for ever, so the
//! frames are followed to set a deadline.

use super::h2_frames::{Frame, Step};

const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// What the frames up to now say.
#[derive(Debug, Default)]
pub struct HeaderBlocks {
    /// A header has begun and not ended.
    open: bool,
    /// It ends with the frame that is on its way.
    closing: bool,
}

impl HeaderBlocks {
    /// Whether a header is on its way.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// Takes the next step of the frames. Returns whether a header has ended with it.
    pub fn follow(&mut self, step: Step) -> bool {
        match step {
            Step::Begins(Frame { kind: HEADERS | CONTINUATION, flags, .. }) => {
                (self.open, self.closing) = (true, flags & END_HEADERS != 0);
                false
            }
            Step::Ends if self.closing => {
                (self.open, self.closing) = (false, false);
                true
            }
            Step::Begins(_) | Step::Ends => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::h2_frames::{Frames, written as frame};

    const START: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

    #[derive(Default)]
    struct Observed {
        frames: Frames,
        blocks: HeaderBlocks,
    }

    impl Observed {
        /// Whether a header is on its way, and whether one has ended in these bytes.
        fn observe(&mut self, bytes: &[u8]) -> (bool, bool) {
            let mut ended = false;
            self.frames.observe(bytes, |step| ended |= self.blocks.follow(step));
            (self.blocks.is_open(), ended)
        }
    }

    /// After each frame whether a header is on its way, however the bytes are cut.
    fn follow(frames: &[Vec<u8>]) -> Vec<bool> {
        let mut whole = Observed::default();
        let mut single = Observed::default();
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
        let mut blocks = Observed::default();
        let headers = frame(HEADERS, END_HEADERS, b"abcdef");
        assert_eq!(blocks.observe(&[START, &headers[..12]].concat()), (true, false));
        assert_eq!(blocks.observe(&headers[12..14]), (true, false));
        let two = [&headers[14..], &headers[..], &headers[..10]].concat();
        assert_eq!(blocks.observe(&two), (true, true), "another one began after it");
    }
}
