//! A scanner over the frame headers of a WebSocket (RFC 6455, section 5.2).
//!
//! It understands just enough to stand between a client and a back end: where a frame begins and
//! ends, what kind it is, and whether it keeps the rules that both ends rely on. What it passes,
//! it passes byte for byte; payloads are neither unmasked nor held back.
//!
//! INVARIANT: when a client may not send, not one byte of a data frame reaches the back end, and
//! what does reach it is still a valid stream of frames. Therefore a message is passed or dropped
//! from its first frame on, and one that loses its permission half-way, between two frames or
//! inside of one, ends the connection.

use crate::config::model::WebSocketLimits;

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
    #[error("the frame is longer than {0} bytes")]
    TooLong(u64),
    #[error("the message is longer than {0} bytes")]
    MessageTooLong(u64),
    #[error("more than {0} frames came within a second")]
    TooMany(u32),
    #[error("a continuation continues nothing, or a message begins inside another")]
    BadSequence,
    #[error("permission to send ended in the middle of a message")]
    Interrupted,
}

impl FrameError {
    /// The close code that tells the client (RFC 6455, section 7.4.1).
    pub fn close_code(self) -> u16 {
        match self {
            Self::TooLong(_) | Self::MessageTooLong(_) => 1009,
            Self::Interrupted | Self::TooMany(_) => 1008,
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
    limits: WebSocketLimits,
    header: Header,
    /// Payload bytes of the current frame still to come.
    remaining: u64,
    passing: bool,
    /// Whether the current frame is one of data.
    data: bool,
    /// Whether something of a data frame has passed since this was last asked.
    data_passed: bool,
    message: Message,
    /// Payload of the message so far, in bytes, the current frame included.
    length: u64,
    /// Frames begun since this was last asked.
    begun: u32,
    closed: bool,
}

impl Scanner {
    /// `compression`: an extension was agreed on.
    pub fn new(compression: bool, limits: WebSocketLimits) -> Self {
        Self {
            compression,
            limits,
            header: Header::default(),
            remaining: 0,
            passing: false,
            data: false,
            data_passed: false,
            message: Message::None,
            length: 0,
            begun: 0,
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

    /// Whether something of a data frame has passed since the last call: what a person or a program
    /// sends, as against the pings and pongs that go on without them.
    pub fn take_data_passed(&mut self) -> bool {
        std::mem::take(&mut self.data_passed)
    }

    /// Frames of any kind that have begun since the last call.
    pub fn take_begun(&mut self) -> u32 {
        std::mem::take(&mut self.begun)
    }

    /// Looks at the next bytes, in whatever pieces they arrive, and appends to `out` what may be
    /// forwarded. `may_send` is asked for each data frame, and again for each piece of its payload.
    /// Returns how many data frames were dropped; after an error `out` holds what came before it.
    pub fn scan(
        &mut self,
        mut input: &[u8],
        out: &mut Vec<u8>,
        mut may_send: impl FnMut() -> bool,
    ) -> Result<u64, FrameError> {
        let mut dropped = 0;
        while !input.is_empty() {
            if self.remaining > 0 {
                // A frame works on the back end when its last byte arrives, so until then it needs
                // the permission that it began with.
                if self.passing && self.data && !may_send() {
                    return Err(FrameError::Interrupted);
                }
                let length = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(input.len());
                let (payload, rest) = input.split_at(length);
                input = rest;
                self.remaining -= u64::try_from(length).unwrap_or(0);
                if self.passing {
                    out.extend_from_slice(payload);
                    self.data_passed |= self.data;
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
            self.begun = self.begun.saturating_add(1);
            self.check_length(frame)?;
            self.data = matches!(frame.kind, Kind::Message | Kind::Continuation);
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
                self.data_passed |= self.data;
                out.extend_from_slice(
                    self.header.bytes.get(..self.header.have).unwrap_or_default(),
                );
            }
            self.header.have = 0;
            self.remaining = frame.payload;
        }
        Ok(dropped)
    }

    /// Before the frame's header is forwarded: a frame that is too long never begins.
    fn check_length(&mut self, frame: Frame) -> Result<(), FrameError> {
        let WebSocketLimits { max_frame, max_message, .. } = self.limits;
        match frame.kind {
            Kind::Message => self.length = 0,
            Kind::Continuation => {}
            // Between the fragments of a message, and no part of it.
            Kind::Close | Kind::Control => return Ok(()),
        }
        self.length = self.length.saturating_add(frame.payload);
        if frame.payload > max_frame {
            return Err(FrameError::TooLong(max_frame));
        }
        if self.length > max_message {
            return Err(FrameError::MessageTooLong(max_message));
        }
        Ok(())
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
mod tests;
