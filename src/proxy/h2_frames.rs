//! Follows the frames that an HTTP/2 client sends, past everything that they carry.
//!
//! INVARIANT: not a byte is changed or held back, and nothing is allocated. Frames that `h2` will
//! refuse need no verdict here.

/// The client's first bytes (RFC 9113, section 3.4).
const PREFACE: usize = 24;

/// Length, type, flags, stream (RFC 9113, section 4.1).
pub const FRAME_HEADER: usize = 9;

/// What a frame's header says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    /// Of the payload, in bytes.
    pub length: usize,
}

/// What is seen of the frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A frame's header is there.
    Begins(Frame),
    /// So is all that it carries.
    Ends,
}

/// Where in the client's bytes the last ones ended.
#[derive(Debug)]
pub struct Frames {
    /// Bytes that are still to come of the preface or of a frame's payload.
    skip: usize,
    /// What is there of the next frame's header.
    header: [u8; FRAME_HEADER],
    filled: usize,
    /// The payload that is being passed over is a frame's.
    inside: bool,
}

impl Default for Frames {
    fn default() -> Self {
        Self { skip: PREFACE, header: [0; FRAME_HEADER], filled: 0, inside: false }
    }
}

impl Frames {
    /// Takes the next bytes that the client sent, in whatever pieces they come.
    pub fn observe(&mut self, bytes: &[u8], mut seen: impl FnMut(Step)) {
        let mut rest = bytes;
        loop {
            let skipped = self.skip.min(rest.len());
            self.skip -= skipped;
            rest = rest.get(skipped..).unwrap_or_default();
            if self.skip == 0 && self.inside {
                self.inside = false;
                seen(Step::Ends);
            }
            if rest.is_empty() {
                return;
            }
            rest = self.header(rest, &mut seen);
        }
    }

    /// Takes what is there of a frame's header, and leaves the rest.
    fn header<'a>(&mut self, bytes: &'a [u8], seen: &mut impl FnMut(Step)) -> &'a [u8] {
        let wanted = (FRAME_HEADER - self.filled).min(bytes.len());
        let (taken, rest) = bytes.split_at_checked(wanted).unwrap_or((bytes, &[]));
        for (place, byte) in self.header.iter_mut().skip(self.filled).zip(taken) {
            *place = *byte;
        }
        self.filled += wanted;
        if self.filled == FRAME_HEADER {
            self.filled = 0;
            let [high, middle, low, kind, flags, ..] = self.header;
            let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
            (self.skip, self.inside) = (length, true);
            seen(Step::Begins(Frame { kind, flags, length }));
        }
        rest
    }
}

/// A frame's bytes, for tests.
#[cfg(test)]
pub fn written(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn frames_are_told_apart_however_they_are_cut(
            frames in prop::collection::vec((0_u8..12, any::<u8>(), 0_usize..40), 0..400),
            cuts in prop::collection::vec(1_usize..100, 1..50),
        ) {
            // Payloads that look like the headers of others.
            let payload = |length| written(1, 4, b"").into_iter().cycle().take(length);
            let mut bytes = vec![0; PREFACE];
            let mut expected = Vec::new();
            for (kind, flags, length) in frames {
                bytes.extend(written(kind, flags, &payload(length).collect::<Vec<_>>()));
                expected.extend([Step::Begins(Frame { kind, flags, length }), Step::Ends]);
            }
            let (mut walk, mut seen, mut rest) = (Frames::default(), Vec::new(), &*bytes);
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (now, later) = rest.split_at((*cut).min(rest.len()));
                walk.observe(now, |step| seen.push(step));
                rest = later;
            }
            prop_assert_eq!(seen, expected);
        }
    }

    #[test]
    fn a_frame_without_payload_ends_with_its_header_and_one_with_some_when_it_is_there() {
        let mut frames = Frames::default();
        let mut steps = |bytes: &[u8]| {
            let mut seen = Vec::new();
            frames.observe(bytes, |step| seen.push(step));
            seen
        };
        assert_eq!(steps(&[0; PREFACE]), []);
        let begins = |kind, length| Step::Begins(Frame { kind, flags: 0, length });
        assert_eq!(steps(&written(4, 0, b"")), [begins(4, 0), Step::Ends]);
        let data = written(0, 0, b"abc");
        assert_eq!(steps(&data[..10]), [begins(0, 3)]);
        assert_eq!(steps(&data[10..]), [Step::Ends]);
    }
}
