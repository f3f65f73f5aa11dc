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
//! Of empty DATA frames `h2` counts those of open streams only. Once a GOAWAY is on its way it passes
//! those of later streams over uncounted, so they are counted here.

use super::h2_frames::Frame;

/// What a connection may spend at once, and gets back each second. A reset costs four, as it makes
/// a whole request vain; any other frame counted here costs one. That leaves a browser that gives up
/// a page full of pictures, and gRPC with its pings for the bandwidth, far from the bound.
const PURSE: i64 = 4000;
const INCOME: i64 = 2000;
const RESET: i64 = 4;

/// The clock is looked at once for so much spending, not for each frame.
const STEP: i64 = 250;

/// What a connection has left to spend.
#[derive(Debug)]
pub struct Purse {
    left: i64,
    /// Since `left` was last brought up to date.
    spent: i64,
    /// When that was, in milliseconds.
    updated: u64,
}

impl Default for Purse {
    fn default() -> Self {
        Self { left: PURSE, spent: 0, updated: 0 }
    }
}

impl Purse {
    /// Takes a frame's price. True when it is enough; `now` tells the time in milliseconds.
    pub fn pay(&mut self, frame: Frame, now: impl Fn() -> u64) -> bool {
        self.spent += cost(frame);
        self.spent >= STEP && self.is_broke(now())
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
fn cost(Frame { kind, flags, length }: Frame) -> i64 {
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
    use super::*;

    const PING: u8 = 0x6;
    const RST: u8 = 0x3;

    fn frame(kind: u8, flags: u8, length: usize) -> Frame {
        Frame { kind, flags, length }
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
            let (mut purse, flood) = (Purse::default(), frame(kind, 0, length));
            let count = (1..10_000).find(|_| purse.pay(flood, || 0)).unwrap();
            // It is looked at in steps.
            assert!((enough..enough + 250).contains(&count), "{kind}: {count}");
        }
    }

    #[test]
    fn what_is_part_of_a_transfer_is_never_too_much() {
        for (kind, flags, length) in
            [(0x0, 0, 1), (0x0, 1, 0), (0x1, 4, 20), (0x8, 0, 4), (0x9, 4, 1)]
        {
            let mut purse = Purse::default();
            let enough = (0..20_000).any(|_| purse.pay(frame(kind, flags, length), || 0));
            assert!(!enough, "{kind}");
        }
    }

    #[test]
    fn a_steady_pace_below_the_income_goes_on_for_ever() {
        let mut purse = Purse::default();
        let mut paid = |count: usize, of: Frame, second: u64| {
            (0..count).filter(|_| purse.pay(of, || second * 1000)).count() > 0
        };
        for second in 1..100 {
            assert!(!paid(1900, frame(PING, 0, 8), second));
        }
        let over = (100..200).find(|second| paid(750, frame(RST, 0, 4), *second));
        assert!(over.is_some_and(|second| second < 110), "{over:?}");
    }
}
