//! WebSocket frames (`proxy::frames`). The first byte says what is allowed.

use wicketgate::config::model::WebSocketLimits;
use wicketgate::proxy::frames::{Boundary, FrameError, Scanner};

use super::{pieces, seed_of};

pub const WORDS: &[&[u8]] = &[
    b"\x81\x80\x01\x02\x03\x04",
    b"\x01\x82\x00\x00\x00\x00hi",
    b"\x80\x81\x00\x00\x00\x00!",
    b"\x89\x80\x00\x00\x00\x00",
    b"\x8a\x80\x00\x00\x00\x00",
    b"\x88\x82\x00\x00\x00\x00\x03\xe8",
    b"\x82\xfe\x00\x7e\x00\x00\x00\x00",
    b"\x82\xff\x00\x00\x00\x00\x00\x01\x00\x00",
    b"\xc1\x80\x00\x00\x00\x00",
    b"\xfe",
    b"\xff",
    b"\x7e",
    b"\x7f",
    b"\x00\x80\x00\x00\x00\x00",
    b"\x00\x00\x00\x00\x01\x00\x00\x01",
];

/// So small that the inputs reach them.
const LIMITS: WebSocketLimits =
    WebSocketLimits { max_frame: 300, max_message: 400, frames_per_second: u32::MAX };

type Outcome = (Vec<u8>, Result<u64, FrameError>, bool, bool);

pub fn run(data: &[u8]) {
    let Some((flags, input)) = data.split_first() else { return };
    let (compression, allowed) = (flags & 1 != 0, flags & 2 == 0);
    let scan = |pieces: &mut dyn Iterator<Item = &[u8]>| -> Outcome {
        let mut scanner = Scanner::new(compression, LIMITS);
        let (mut out, mut dropped) = (Vec::new(), 0);
        for piece in pieces {
            match scanner.scan(piece, &mut out, || allowed) {
                Ok(count) => dropped += count,
                Err(error) => return (out, Err(error), scanner.at_boundary(), scanner.closed()),
            }
        }
        (out, Ok(dropped), scanner.at_boundary(), scanner.closed())
    };
    let whole = scan(&mut std::iter::once(input));
    let cut = scan(&mut pieces(input, seed_of(input)));
    assert_eq!(whole, cut, "the way the bytes arrive changes nothing");

    let (expected, error, dropped) = reference(input, compression, allowed);
    let (out, result, ..) = &whole;
    assert_eq!(*out, expected, "what passes");
    assert_eq!(result.is_err(), error, "{result:?}");
    if let Ok(count) = result {
        assert_eq!(*count, dropped);
        if allowed {
            assert!(input.starts_with(out));
        }
    }

    // The other direction only follows: whatever comes, however cut, it says the same.
    let mut one = Boundary::default();
    one.follow(input);
    let mut many = Boundary::default();
    pieces(input, seed_of(input)).for_each(|piece| many.follow(piece));
    assert_eq!(one.is_between_frames(), many.is_between_frames());
}

/// RFC 6455, section 5, written a second time: what passes, whether it ends in an error, and how
/// many data frames were dropped.
fn reference(input: &[u8], compression: bool, allowed: bool) -> (Vec<u8>, bool, u64) {
    let (mut out, mut dropped, mut at, mut inside) = (Vec::new(), 0, 0, false);
    let mut message = 0_u64;
    loop {
        let rest = &input[at..];
        let [first, second, ..] = rest else { return (out, false, dropped) };
        let (opcode, last) = (first & 15, first & 128 != 0);
        let extended = match second & 127 {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let header = 2 + extended + if second & 128 == 0 { 0 } else { 4 };
        if rest.len() < header {
            return (out, false, dropped);
        }
        let mut length = u64::from(second & 127);
        if extended > 0 {
            length = rest[2..2 + extended].iter().fold(0, |sum, byte| sum * 256 + u64::from(*byte));
            let shortest = if extended == 2 { length > 125 } else { length > 65_535 };
            if !shortest {
                return (out, true, dropped);
            }
        }
        let control = opcode >= 8;
        let reserved = first & 0x70;
        let may_compress = compression && matches!(opcode, 1 | 2);
        let bad = !matches!(opcode, 0 | 1 | 2 | 8 | 9 | 10)
            || second & 128 == 0
            || reserved & !(if may_compress { 0x40 } else { 0 }) != 0
            || control && (!last || length > 125 || opcode == 8 && length == 1)
            || !control && (opcode == 0) != inside;
        if bad {
            return (out, true, dropped);
        }
        if !control {
            message = if opcode == 0 { message.saturating_add(length) } else { length };
            if length > LIMITS.max_frame || message > LIMITS.max_message {
                return (out, true, dropped);
            }
        }
        let passes = control || allowed;
        if !control {
            inside = !last;
            dropped += u64::from(!passes);
        }
        let end = rest.len().min(header + usize::try_from(length).unwrap_or(usize::MAX));
        if passes {
            out.extend_from_slice(&rest[..end]);
        }
        if opcode == 8 || end == rest.len() {
            return (out, false, dropped);
        }
        at += end;
    }
}
