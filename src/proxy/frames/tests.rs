//! Frames by hand, and streams of them cut anywhere.

use super::*;
use proptest::prelude::*;

const FIN: u8 = 0x80;
const TEXT: u8 = 0x1;
const PING: u8 = 0x9;
const CLOSE: u8 = 0x8;

fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    match payload.len() {
        short @ 0..=125 => out.push(0x80 | short as u8),
        medium @ 126..=0xffff => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(medium as u16).to_be_bytes());
        }
        long => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&[1, 2, 3, 4]);
    out.extend_from_slice(payload);
    out
}

fn pass(input: &[u8]) -> Result<Vec<u8>, FrameError> {
    let mut out = Vec::new();
    Scanner::new(false, WebSocketLimits::default()).scan(input, &mut out, || true).map(|_| out)
}

#[test]
fn frames_pass_unchanged_while_sending_is_allowed() {
    for length in [0, 1, 125, 126, 127, 0xffff, 0x1_0000] {
        let input = frame(FIN | TEXT, &vec![7; length]);
        assert_eq!(pass(&input).unwrap(), input, "{length}");
    }
}

#[test]
fn data_frames_are_dropped_whole_and_control_frames_pass_when_sending_is_not_allowed() {
    let ping = frame(FIN | PING, b"hi");
    let close = frame(FIN | CLOSE, &[3, 232]);
    let input = [
        frame(FIN | TEXT, b"open the valve"),
        ping.clone(),
        frame(TEXT, &[1; 300]),
        ping.clone(),
        frame(FIN, b"continued"),
        frame(FIN | 0x2, &[0; 70_000]),
        close.clone(),
    ]
    .concat();
    let mut out = Vec::new();
    let mut scanner = Scanner::new(false, WebSocketLimits::default());
    assert_eq!(scanner.scan(&input, &mut out, || false), Ok(4));
    assert_eq!(out, [ping.clone(), ping, close].concat());
    assert!(scanner.closed());
}

#[test]
fn a_message_whose_beginning_was_dropped_is_dropped_to_its_end() {
    let mut scanner = Scanner::new(false, WebSocketLimits::default());
    let mut out = Vec::new();
    assert_eq!(scanner.scan(&frame(TEXT, b"a"), &mut out, || false), Ok(1));
    assert_eq!(scanner.scan(&frame(FIN, b"b"), &mut out, || true), Ok(1));
    assert!(out.is_empty());
    let next = frame(FIN | TEXT, b"c");
    assert_eq!(scanner.scan(&next, &mut out, || true), Ok(0));
    assert_eq!(out, next);
}

/// At most 300 bytes a frame, and 500 a message.
fn tight() -> Scanner {
    let limits = WebSocketLimits { max_frame: 300, max_message: 500, frames_per_second: 9 };
    Scanner::new(false, limits)
}

#[test]
fn a_frame_that_is_too_long_never_begins() {
    let mut out = Vec::new();
    let fits = frame(FIN | TEXT, &[7; 300]);
    assert_eq!(tight().scan(&fits, &mut out, || true), Ok(0));
    assert_eq!(out, fits);
    for input in [
        frame(FIN | TEXT, &[7; 301]),
        // Only its header: what it announces is enough.
        vec![FIN | TEXT, 0xff, 0x7f, 255, 255, 255, 255, 255, 255, 255, 1, 2, 3, 4],
    ] {
        out.clear();
        let error = tight().scan(&input, &mut out, || true).unwrap_err();
        assert_eq!((error, error.close_code()), (FrameError::TooLong(300), 1009));
        assert!(out.is_empty());
    }
}

#[test]
fn a_message_is_measured_over_all_its_fragments_and_nothing_between_them() {
    let mut out = Vec::new();
    let (first, ping) = (frame(TEXT, &[7; 300]), frame(FIN | PING, &[7; 125]));
    let fits = [&*first, &ping, &frame(0, &[7; 100]), &frame(FIN, &[7; 100])].concat();
    // A second message begins from nothing.
    let twice = [&*fits, &fits].concat();
    assert_eq!(tight().scan(&twice, &mut out, || true), Ok(0));
    assert_eq!(out, twice);
    out.clear();
    let begun = [&*first, &ping, &frame(0, &[7; 200])].concat();
    let input = [&*begun, &frame(FIN, &[7; 1])].concat();
    let error = tight().scan(&input, &mut out, || true).unwrap_err();
    assert_eq!((error, error.close_code()), (FrameError::MessageTooLong(500), 1009));
    assert_eq!(out, begun);
}

#[test]
fn an_endless_row_of_empty_fragments_is_counted_as_frames() {
    let mut scanner = tight();
    let row = [frame(TEXT, b""), frame(0, b"").repeat(20), frame(FIN | PING, b"")].concat();
    scanner.scan(&row, &mut Vec::new(), || true).unwrap();
    assert_eq!((scanner.take_begun(), scanner.take_begun()), (22, 0));
    // Nor does it help to have no right to send.
    scanner.scan(&row[..6], &mut Vec::new(), || false).unwrap_err();
    let mut scanner = tight();
    scanner.scan(&row, &mut Vec::new(), || false).unwrap();
    assert_eq!(scanner.take_begun(), 22);
}

#[test]
fn permission_lost_inside_a_message_ends_the_connection() {
    let mut scanner = Scanner::new(false, WebSocketLimits::default());
    let mut out = Vec::new();
    scanner.scan(&frame(TEXT, b"a"), &mut out, || true).unwrap();
    let before = out.clone();
    let error = scanner.scan(&frame(FIN, b"b"), &mut out, || false).unwrap_err();
    assert_eq!((error, error.close_code()), (FrameError::Interrupted, 1008));
    assert_eq!(out, before);
}

#[test]
fn permission_lost_inside_a_frame_stops_it_short_of_its_end() {
    let mut scanner = Scanner::new(false, WebSocketLimits::default());
    let mut out = Vec::new();
    let whole = frame(FIN | TEXT, b"open the valve");
    let (begun, end) = whole.split_at(whole.len() - 1);
    scanner.scan(begun, &mut out, || true).unwrap();
    assert_eq!(out, begun);
    assert_eq!(scanner.scan(end, &mut out, || false), Err(FrameError::Interrupted));
    assert_eq!(out, begun);
    assert!(!scanner.at_boundary());
}

#[test]
fn a_ping_that_has_begun_passes_to_its_end_whatever_the_permission() {
    let mut scanner = Scanner::new(false, WebSocketLimits::default());
    let mut out = Vec::new();
    let whole = [frame(FIN | TEXT, b"data"), frame(FIN | PING, b"hi")].concat();
    let (begun, end) = whole.split_at(whole.len() - 1);
    scanner.scan(begun, &mut out, || true).unwrap();
    assert_eq!(scanner.scan(end, &mut out, || false), Ok(0));
    assert_eq!(out, whole);
}

#[test]
fn malformed_frames_are_refused_with_the_code_that_says_why() {
    use FrameError::{BadControl, BadLength, BadSequence, ReservedBit, ReservedOpcode, Unmasked};
    let mask = [0; 4];
    let cases: Vec<(&str, Vec<u8>, FrameError)> = vec![
        ("unmasked", vec![FIN | TEXT, 0], Unmasked),
        ("rsv1 without an extension", frame(FIN | 0x40 | TEXT, b""), ReservedBit),
        ("rsv2", frame(FIN | 0x20 | TEXT, b""), ReservedBit),
        ("rsv3", frame(FIN | 0x10 | TEXT, b""), ReservedBit),
        ("opcode 3", frame(FIN | 0x3, b""), ReservedOpcode),
        ("opcode 11", frame(FIN | 0xb, b""), ReservedOpcode),
        ("fragmented ping", frame(PING, b""), BadControl),
        ("long ping", frame(FIN | PING, &[0; 126]), BadControl),
        ("close of one byte", frame(FIN | CLOSE, &[3]), BadControl),
        ("continuation of nothing", frame(FIN, b""), BadSequence),
        (
            "message inside a message",
            [frame(TEXT, b""), frame(FIN | TEXT, b"")].concat(),
            BadSequence,
        ),
        (
            "16 bits for a short length",
            [&[FIN | TEXT, 0xfe, 0, 125][..], &mask].concat(),
            BadLength,
        ),
        (
            "64 bits for a medium length",
            [&[FIN | TEXT, 0xff, 0, 0, 0, 0, 0, 0, 255, 255][..], &mask].concat(),
            BadLength,
        ),
        (
            "highest bit of the length",
            [&[FIN | TEXT, 0xff, 128, 0, 0, 0, 0, 1, 0, 0][..], &mask].concat(),
            BadLength,
        ),
    ];
    for (name, input, expected) in cases {
        assert_eq!(pass(&input), Err(expected), "{name}");
    }
    assert_eq!(ReservedBit.close_code(), 1002);
}

#[test]
fn compression_allows_rsv1_on_the_first_frame_of_a_message_only() {
    let scan = |input: &[u8]| {
        Scanner::new(true, WebSocketLimits::default()).scan(input, &mut Vec::new(), || true)
    };
    assert_eq!(scan(&frame(FIN | 0x40 | TEXT, b"x")), Ok(0));
    assert_eq!(scan(&frame(FIN | 0x40 | PING, b"x")), Err(FrameError::ReservedBit));
    let continued = [frame(0x40 | TEXT, b"x"), frame(FIN | 0x40, b"y")].concat();
    assert_eq!(scan(&continued), Err(FrameError::ReservedBit));
}

#[test]
fn nothing_passes_after_a_close_frame() {
    let close = frame(FIN | CLOSE, b"");
    let input = [close.clone(), frame(FIN | TEXT, b"late")].concat();
    assert_eq!(pass(&input).unwrap(), close);
}

#[test]
fn the_gates_own_close_frames_are_valid() {
    let long = "é".repeat(200);
    for reason in ["", "signed out", &long] {
        let client = client_close(1008, reason);
        assert_eq!(pass(&client).unwrap(), client);
        let mut boundary = Boundary::default();
        boundary.follow(&server_close(1008, reason));
        assert!(boundary.is_between_frames());
    }
}

#[test]
fn a_boundary_that_was_lost_stays_lost() {
    let mut boundary = Boundary::default();
    boundary.follow(&frame(FIN | TEXT, b"masked by a server"));
    boundary.follow(&server_close(1000, ""));
    assert!(!boundary.is_between_frames());
}

fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    (any::<u8>(), proptest::collection::vec(any::<u8>(), 0..300))
        .prop_map(|(first, payload)| frame(first & 0x8f, &payload))
}

/// Streams of valid opcodes, so that scanning gets somewhere, with any bytes behind.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    (
        proptest::collection::vec(
            prop_oneof![
                Just(frame(FIN | TEXT, b"whole")),
                Just(frame(FIN | PING, b"ping")),
                Just([frame(TEXT, b"be"), frame(FIN | PING, b""), frame(FIN, b"gin")].concat()),
                Just(frame(FIN | 0x2, &[9; 200])),
                any_frame(),
            ],
            0..8,
        ),
        proptest::collection::vec(any::<u8>(), 0..20),
    )
        .prop_map(|(frames, tail)| [frames.concat(), tail].concat())
}

proptest! {
    #[test]
    fn any_chunking_gives_the_same_result(
        input in stream(),
        cuts in proptest::collection::vec(1_usize..40, 1..20),
        flip in any::<prop::sample::Index>(),
        allowed in any::<(bool, bool)>(),
    ) {
        // Permission changes at one place in the stream, however that is cut.
        let parts = input.split_at(flip.index(input.len() + 1));
        let run = |cut: &dyn Fn(usize) -> usize| {
            let mut scanner = Scanner::new(true, WebSocketLimits::default());
            let (mut out, mut dropped, mut pieces) = (Vec::new(), 0, 0);
            for (mut rest, allowed) in [(parts.0, allowed.0), (parts.1, allowed.1)] {
                while !rest.is_empty() {
                    let (piece, after) = rest.split_at(cut(pieces).min(rest.len()));
                    (rest, pieces) = (after, pieces + 1);
                    match scanner.scan(piece, &mut out, || allowed) {
                        Ok(count) => dropped += count,
                        Err(error) => return (out, None, Some(error), scanner.at_boundary()),
                    }
                }
            }
            (out, Some(dropped), None, scanner.at_boundary())
        };
        prop_assert_eq!(run(&|_| usize::MAX), run(&|piece| cuts[piece % cuts.len()]));
    }

    #[test]
    fn what_passes_is_what_came_when_all_is_allowed(input in stream()) {
        let mut out = Vec::new();
        let mut scanner = Scanner::new(true, WebSocketLimits::default());
        let result = scanner.scan(&input, &mut out, || true);
        prop_assert!(input.starts_with(&out));
        if result.is_ok() && !scanner.closed() {
            prop_assert!(input.len() - out.len() < MAX_HEADER);
        }
    }

    #[test]
    fn no_data_byte_passes_when_nothing_is_allowed(input in stream()) {
        let mut out = Vec::new();
        let _ = Scanner::new(true, WebSocketLimits::default()).scan(&input, &mut out, || false);
        // Scanned again with everything allowed, all that is left are control frames.
        let mut data = 0;
        let mut again = Vec::new();
        let _ = Scanner::new(true, WebSocketLimits::default()).scan(&out, &mut again, || { data += 1; true });
        prop_assert_eq!(data, 0);
    }
}
