//! A scanner over the frame headers of a WebSocket (RFC 6455, section 5.2).
//!
//! It understands just enough to stand between a client and a back end: where a frame begins and
//! ends, what kind it is, and whether it keeps the rules that both ends rely on. What it passes,
//! it passes byte for byte; payloads are neither unmasked nor held back.
//!
//! INVARIANT: when a client may not send, not one byte of a data frame reaches the back end, and
//! what does reach it is still a valid stream of frames. Therefore a message is passed or dropped
//! from its first frame on, and one that loses its permission half-way ends the connection.

/// Largest frame payload that a client may send, in bytes.
pub const MAX_FRAME: u64 = 16 * 1024 * 1024;

/// Largest frame header: two bytes, eight of length, four of mask.
const MAX_HEADER: usize = 14;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("a reserved bit is set that no extension was agreed on for")]
    ReservedBit,
    #[error("the frame has a reserved opcode")]
    ReservedOpcode,
    #[error("a client's frame is not masked")]
    Unmasked,
    #[error("a server's frame is masked")]
    Masked,
    #[error("a control frame is fragmented or longer than 125 bytes")]
    BadControl,
    #[error("the length is not written in its shortest form")]
    BadLength,
    #[error("the frame is longer than {MAX_FRAME} bytes")]
    TooLong,
    #[error("a continuation continues nothing, or a message begins inside another")]
    BadSequence,
    #[error("permission to send ended in the middle of a message")]
    Interrupted,
}

impl FrameError {
    /// The close code that tells the client (RFC 6455, section 7.4.1).
    pub fn close_code(self) -> u16 {
        match self {
            Self::TooLong => 1009,
            Self::Interrupted => 1008,
            _ => 1002,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Continuation,
    /// Text or binary.
    Message,
    Close,
    /// Ping or pong.
    Control,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Frame {
    kind: Kind,
    last: bool,
    reserved: u8,
    masked: bool,
    payload: u64,
}

impl Frame {
    /// How long the header is that starts with these bytes, as far as they tell.
    fn header_len(header: &[u8]) -> usize {
        let Some(second) = header.get(1) else { return 2 };
        let length = match second & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        2 + length + if second & 0x80 == 0 { 0 } else { 4 }
    }

    /// Reads a complete header.
    fn parse(header: &[u8]) -> Result<Self, FrameError> {
        let (Some(first), Some(second)) = (header.first(), header.get(1)) else {
            return Err(FrameError::BadLength);
        };
        let kind = match first & 0x0f {
            0x0 => Kind::Continuation,
            0x1 | 0x2 => Kind::Message,
            0x8 => Kind::Close,
            0x9 | 0xa => Kind::Control,
            _ => return Err(FrameError::ReservedOpcode),
        };
        let extended = |range: std::ops::Range<usize>| {
            header.get(range).map(|bytes| {
                bytes.iter().fold(0_u64, |value, byte| (value << 8) | u64::from(*byte))
            })
        };
        let payload = match second & 0x7f {
            126 => extended(2..4).filter(|length| *length > 125),
            127 => extended(2..10).filter(|length| (0x1_0000..1 << 63).contains(length)),
            short => Some(u64::from(short)),
        }
        .ok_or(FrameError::BadLength)?;
        Ok(Self {
            kind,
            last: first & 0x80 != 0,
            reserved: (first >> 4) & 0x07,
            masked: second & 0x80 != 0,
            payload,
        })
    }
}

/// Collects a header that may arrive a byte at a time.
#[derive(Clone, Debug, Default)]
struct Header {
    bytes: [u8; MAX_HEADER],
    have: usize,
}

impl Header {
    /// Takes what it needs from the front of `input`; the complete header, if it is one now.
    fn take<'h>(&'h mut self, input: &mut &[u8]) -> Option<&'h [u8]> {
        loop {
            let need = Frame::header_len(self.bytes.get(..self.have).unwrap_or_default());
            if self.have >= need {
                return self.bytes.get(..self.have);
            }
            let (byte, rest) = input.split_first()?;
            *input = rest;
            *self.bytes.get_mut(self.have)? = *byte;
            self.have += 1;
        }
    }
}

/// The message that the client is in the middle of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Message {
    None,
    Passing,
    Dropping,
}

/// The direction from the client to the back end.
#[derive(Clone, Debug)]
pub struct Scanner {
    /// Whether RSV1 may be set on the first frame of a message (RFC 7692, section 6).
    compression: bool,
    header: Header,
    /// Payload bytes of the current frame still to come.
    remaining: u64,
    passing: bool,
    message: Message,
    closed: bool,
}

impl Scanner {
    /// `compression`: an extension was agreed on.
    pub fn new(compression: bool) -> Self {
        Self {
            compression,
            header: Header::default(),
            remaining: 0,
            passing: false,
            message: Message::None,
            closed: false,
        }
    }

    /// Whether everything appended so far ends on a frame.
    pub fn at_boundary(&self) -> bool {
        // A header is only appended once it is complete.
        self.remaining == 0 || !self.passing
    }

    /// Whether the client has sent its close frame.
    pub fn closed(&self) -> bool {
        self.closed
    }

    /// Looks at the next bytes, in whatever pieces they arrive, and appends to `out` what may be
    /// forwarded. `may_send` is asked once for each data frame. Returns how many data frames were
    /// dropped; after an error `out` holds what came before it.
    pub fn scan(
        &mut self,
        mut input: &[u8],
        out: &mut Vec<u8>,
        mut may_send: impl FnMut() -> bool,
    ) -> Result<u64, FrameError> {
        let mut dropped = 0;
        while !input.is_empty() {
            if self.remaining > 0 {
                let length = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(input.len());
                let (payload, rest) = input.split_at(length);
                input = rest;
                self.remaining -= u64::try_from(length).unwrap_or(0);
                if self.passing {
                    out.extend_from_slice(payload);
                }
                continue;
            }
            if self.closed {
                // Nothing follows a close frame (RFC 6455, section 5.5.1).
                return Ok(dropped);
            }
            let Some(header) = self.header.take(&mut input) else { return Ok(dropped) };
            let frame = Frame::parse(header)?;
            check_client_frame(frame, self.compression)?;
            self.passing = match frame.kind {
                Kind::Close => {
                    self.closed = true;
                    true
                }
                Kind::Control => true,
                Kind::Message | Kind::Continuation => {
                    let pass = self.data_frame(frame, may_send())?;
                    dropped += u64::from(!pass);
                    pass
                }
            };
            if self.passing {
                out.extend_from_slice(
                    self.header.bytes.get(..self.header.have).unwrap_or_default(),
                );
            }
            self.header.have = 0;
            self.remaining = frame.payload;
        }
        Ok(dropped)
    }

    /// Whether this data frame passes.
    fn data_frame(&mut self, frame: Frame, allowed: bool) -> Result<bool, FrameError> {
        let pass = match (frame.kind, self.message) {
            (Kind::Message, Message::None) => allowed,
            (Kind::Continuation, Message::Passing) if allowed => true,
            // The back end has the beginning of the message and can't be given its end.
            (Kind::Continuation, Message::Passing) => return Err(FrameError::Interrupted),
            // Its beginning was dropped, so the rest means nothing, whatever holds now.
            (Kind::Continuation, Message::Dropping) => false,
            _ => return Err(FrameError::BadSequence),
        };
        self.message = match (frame.last, pass) {
            (true, _) => Message::None,
            (false, true) => Message::Passing,
            (false, false) => Message::Dropping,
        };
        Ok(pass)
    }
}

fn check_client_frame(frame: Frame, compression: bool) -> Result<(), FrameError> {
    let allowed = if compression && frame.kind == Kind::Message { 0b100 } else { 0 };
    if frame.reserved & !allowed != 0 {
        return Err(FrameError::ReservedBit);
    }
    if !frame.masked {
        return Err(FrameError::Unmasked);
    }
    if matches!(frame.kind, Kind::Close | Kind::Control) {
        // A close frame's body begins with a code of two bytes, or there is none.
        let short = frame.kind == Kind::Close && frame.payload == 1;
        if !frame.last || frame.payload > 125 || short {
            return Err(FrameError::BadControl);
        }
    }
    if frame.payload > MAX_FRAME {
        return Err(FrameError::TooLong);
    }
    Ok(())
}

/// The direction from the back end to the client, which passes untouched: it only says whether
/// the client stands between two frames, where a close frame of the gate's own may go.
#[derive(Clone, Debug, Default)]
pub struct Boundary {
    header: Header,
    remaining: u64,
    lost: bool,
}

impl Boundary {
    /// Follows bytes that were written to the client.
    pub fn follow(&mut self, mut written: &[u8]) {
        while !self.lost && !written.is_empty() {
            if self.remaining > 0 {
                let length =
                    usize::try_from(self.remaining).unwrap_or(usize::MAX).min(written.len());
                written = written.get(length..).unwrap_or_default();
                self.remaining -= u64::try_from(length).unwrap_or(0);
                continue;
            }
            let Some(header) = self.header.take(&mut written) else { return };
            match Frame::parse(header) {
                Ok(frame) if !frame.masked => self.remaining = frame.payload,
                _ => self.lost = true,
            }
            self.header.have = 0;
        }
    }

    pub fn is_between_frames(&self) -> bool {
        !self.lost && self.remaining == 0 && self.header.have == 0
    }
}

/// A close frame as a server sends it. The reason is cut to what a control frame holds.
pub fn server_close(code: u16, reason: &str) -> Vec<u8> {
    close(code, reason, false)
}

/// A close frame as a client sends it, masked with zeros: the mask guards intermediaries against
/// chosen payloads (RFC 6455, section 10.3), and this payload nobody chooses.
pub fn client_close(code: u16, reason: &str) -> Vec<u8> {
    close(code, reason, true)
}

fn close(code: u16, reason: &str, masked: bool) -> Vec<u8> {
    let mut reason = reason;
    while reason.len() > 123 {
        let mut shorter = reason.chars();
        shorter.next_back();
        reason = shorter.as_str();
    }
    let length = u8::try_from(reason.len() + 2).unwrap_or(2);
    let mut frame = vec![0x88, if masked { length | 0x80 } else { length }];
    if masked {
        frame.extend_from_slice(&[0; 4]);
    }
    frame.extend_from_slice(&code.to_be_bytes());
    frame.extend_from_slice(reason.as_bytes());
    frame
}

#[cfg(test)]
mod tests {
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
        Scanner::new(false).scan(input, &mut out, || true).map(|_| out)
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
        let mut scanner = Scanner::new(false);
        assert_eq!(scanner.scan(&input, &mut out, || false), Ok(4));
        assert_eq!(out, [ping.clone(), ping, close].concat());
        assert!(scanner.closed());
    }

    #[test]
    fn a_message_whose_beginning_was_dropped_is_dropped_to_its_end() {
        let mut scanner = Scanner::new(false);
        let mut out = Vec::new();
        assert_eq!(scanner.scan(&frame(TEXT, b"a"), &mut out, || false), Ok(1));
        assert_eq!(scanner.scan(&frame(FIN, b"b"), &mut out, || true), Ok(1));
        assert!(out.is_empty());
        let next = frame(FIN | TEXT, b"c");
        assert_eq!(scanner.scan(&next, &mut out, || true), Ok(0));
        assert_eq!(out, next);
    }

    #[test]
    fn permission_lost_inside_a_message_ends_the_connection() {
        let mut scanner = Scanner::new(false);
        let mut out = Vec::new();
        scanner.scan(&frame(TEXT, b"a"), &mut out, || true).unwrap();
        let before = out.clone();
        let error = scanner.scan(&frame(FIN, b"b"), &mut out, || false).unwrap_err();
        assert_eq!((error, error.close_code()), (FrameError::Interrupted, 1008));
        assert_eq!(out, before);
    }

    #[test]
    fn malformed_frames_are_refused_with_the_code_that_says_why() {
        use FrameError::{
            BadControl, BadLength, BadSequence, ReservedBit, ReservedOpcode, TooLong, Unmasked,
        };
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
            (
                "too long",
                [&[FIN | TEXT, 0xff, 0, 0, 0, 0, 1, 0, 0, 1][..], &mask].concat(),
                TooLong,
            ),
        ];
        for (name, input, expected) in cases {
            assert_eq!(pass(&input), Err(expected), "{name}");
        }
        assert_eq!((TooLong.close_code(), ReservedBit.close_code()), (1009, 1002));
    }

    #[test]
    fn compression_allows_rsv1_on_the_first_frame_of_a_message_only() {
        let scan = |input: &[u8]| Scanner::new(true).scan(input, &mut Vec::new(), || true);
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
            allowed in proptest::collection::vec(any::<bool>(), 1..6),
        ) {
            let run = |pieces: &[&[u8]]| {
                let mut scanner = Scanner::new(true);
                let mut answers = allowed.iter().copied().cycle();
                let (mut out, mut dropped) = (Vec::new(), 0);
                for piece in pieces {
                    match scanner.scan(piece, &mut out, || answers.next().unwrap()) {
                        Ok(count) => dropped += count,
                        Err(error) => return (out, None, Some(error), scanner.at_boundary()),
                    }
                }
                (out, Some(dropped), None, scanner.at_boundary())
            };
            let mut pieces = Vec::new();
            let mut rest = &input[..];
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break; }
                let (piece, after) = rest.split_at((*cut).min(rest.len()));
                pieces.push(piece);
                rest = after;
            }
            prop_assert_eq!(run(&[&input]), run(&pieces));
        }

        #[test]
        fn what_passes_is_what_came_when_all_is_allowed(input in stream()) {
            let mut out = Vec::new();
            let mut scanner = Scanner::new(true);
            let result = scanner.scan(&input, &mut out, || true);
            prop_assert!(input.starts_with(&out));
            if result.is_ok() && !scanner.closed() {
                prop_assert!(input.len() - out.len() < MAX_HEADER);
            }
        }

        #[test]
        fn no_data_byte_passes_when_nothing_is_allowed(input in stream()) {
            let mut out = Vec::new();
            let _ = Scanner::new(true).scan(&input, &mut out, || false);
            // Scanned again with everything allowed, all that is left are control frames.
            let mut data = 0;
            let mut again = Vec::new();
            let _ = Scanner::new(true).scan(&out, &mut again, || { data += 1; true });
            prop_assert_eq!(data, 0);
        }
    }
}
