//! Frames of HTTP/2 that cost the gate work and the client nothing, counted as they arrive.
//!
//! `h2` answers a ping or a SETTINGS frame without holding on to it, so such a flood takes no
//! memory; but it takes a core for as long as it lasts (CVE-2019-9512, -9515, -9513, -9518). And of
//! resets it counts only those that overtake their own request: a client that waits a moment
//! between request and reset makes the gate begin and give up any number (CVE-2023-44487). So the
//! frames are counted here, on their way in, and a connection that goes on with them is closed.
//!
//! Window updates aren't counted: a fast download brings thousands a second, and they cost little.
//! Header blocks without end, tiny DATA frames and stream errors have bounds inside `h2`.
//!
//! INVARIANT: not a byte is changed or held back; this only says when enough is enough.

/// RFC 9113, section 3.4: what a client sends first.
const PREFACE: usize = 24;
const HEADER: usize = 9;

/// What a connection may spend at once, and gets back each second. A reset costs four, as it makes
/// a whole request vain; any other frame counted here costs one. That leaves a browser that gives up
/// a page full of pictures, and gRPC with its pings for the bandwidth, far from the bound.
const PURSE: i64 = 4000;
const INCOME: i64 = 2000;
const RESET: i64 = 4;

/// The clock is looked at once for so much spending, not for each frame.
const STEP: i64 = 250;

/// Follows the frames that a client sends.
#[derive(Debug)]
pub struct Frames {
    /// Bytes to pass over: the preface, then each frame's payload.
    skip: usize,
    header: [u8; HEADER],
    have: usize,
    left: i64,
    /// Since `left` was last brought up to date.
    spent: i64,
    /// When that was, in milliseconds.
    updated: u64,
}

impl Default for Frames {
    fn default() -> Self {
        Self { skip: PREFACE, header: [0; HEADER], have: 0, left: PURSE, spent: 0, updated: 0 }
    }
}

impl Frames {
    /// Looks at the next bytes, in whatever pieces they come. True when it is enough; `now` tells
    /// the time in milliseconds.
    pub fn observe(&mut self, mut bytes: &[u8], now: impl Fn() -> u64) -> bool {
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = bytes.get(skipped..).unwrap_or_default();
            let Some((byte, rest)) = bytes.split_first() else { return false };
            bytes = rest;
            if let Some(place) = self.header.get_mut(self.have) {
                *place = *byte;
            }
            self.have += 1;
            if self.have == HEADER {
                self.have = 0;
                let [high, middle, low, kind, flags, ..] = self.header;
                self.skip = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
                self.spent += cost(kind, flags, self.skip);
                if self.spent >= STEP && self.is_broke(now()) {
                    return true;
                }
            }
        }
    }

    fn is_broke(&mut self, now: u64) -> bool {
        let since = i64::try_from(now.saturating_sub(self.updated)).unwrap_or(i64::MAX);
        let income = since.saturating_mul(INCOME) / 1000;
        self.left = self.left.saturating_add(income).min(PURSE) - self.spent;
        (self.spent, self.updated) = (0, now);
        self.left < 0
    }
}

/// RFC 9113, section 6.
fn cost(kind: u8, flags: u8, length: usize) -> i64 {
    const END_STREAM: u8 = 0x1;
    match kind {
        // DATA that is empty ends the request, or is for nothing.
        0x0 => i64::from(length == 0 && flags & END_STREAM == 0),
        // HEADERS, WINDOW_UPDATE, CONTINUATION.
        0x1 | 0x8 | 0x9 => 0,
        0x3 => RESET,
        // PRIORITY, SETTINGS, PUSH_PROMISE, PING, GOAWAY, and what nobody knows.
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PING: u8 = 0x6;
    const RST: u8 = 0x3;

    fn frame(kind: u8, flags: u8, length: usize) -> Vec<u8> {
        let [_, high, middle, low] = u32::try_from(length).unwrap().to_be_bytes();
        let mut frame = vec![high, middle, low, kind, flags, 0, 0, 0, 1];
        frame.resize(HEADER + length, PING);
        frame
    }

    /// A connection at rest since its preface.
    fn begun() -> Frames {
        let mut frames = Frames::default();
        // It would be read as any number of frames.
        assert!(!frames.observe(&[0; PREFACE], || 0));
        frames
    }

    #[test]
    fn a_flood_ends_when_the_purse_is_empty() {
        for (kind, length, enough) in [
            (PING, 8, 4001),
            (0x4, 0, 4001),
            (0x2, 5, 4001),
            (0xbe, 3, 4001),
            (0x0, 0, 4001),
            (RST, 4, 1001),
        ] {
            let mut frames = begun();
            let flood = frame(kind, 0, length);
            let count = (1..10_000).find(|_| frames.observe(&flood, || 0)).unwrap();
            // It is looked at in steps.
            assert!((enough..enough + 250).contains(&count), "{kind}: {count}");
        }
    }

    #[test]
    fn what_is_part_of_a_transfer_is_never_too_much() {
        for (kind, flags, length) in
            [(0x0, 0, 1), (0x0, 1, 0), (0x1, 4, 20), (0x8, 0, 4), (0x9, 4, 1)]
        {
            let mut frames = begun();
            assert!(!frames.observe(&frame(kind, flags, length).repeat(20_000), || 0), "{kind}");
        }
    }

    #[test]
    fn a_steady_pace_below_the_income_goes_on_for_ever() {
        let mut frames = begun();
        for second in 1..100 {
            assert!(!frames.observe(&frame(PING, 0, 8).repeat(1900), || second * 1000));
        }
        let over = (100..200_u64)
            .find(|second| frames.observe(&frame(RST, 0, 4).repeat(750), || second * 1000));
        assert!(over.is_some_and(|second| second < 110), "{over:?}");
    }

    proptest! {
        #[test]
        fn frames_are_told_apart_however_they_are_cut(
            kinds in prop::collection::vec((0_u8..12, 0_usize..40), 0..400),
            cuts in prop::collection::vec(1_usize..100, 1..50),
        ) {
            let bytes: Vec<u8> =
                kinds.iter().flat_map(|(kind, length)| frame(*kind, 0, *length)).collect();
            let spent: i64 = kinds.iter().map(|(kind, length)| cost(*kind, 0, *length)).sum();
            let mut frames = begun();
            let mut rest = &*bytes;
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (now, later) = rest.split_at((*cut).min(rest.len()));
                prop_assert!(!frames.observe(now, || 0));
                rest = later;
            }
            prop_assert_eq!(PURSE - frames.left + frames.spent, spent);
        }
    }
}
