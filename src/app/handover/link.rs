//! Messages and descriptors over a pair of connected sockets.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use super::{Message, Named};
use crate::store::{read_frame, write_frame};
use crate::tls::TicketState;

/// Descriptors in one message; Linux takes up to 253 (`SCM_MAX_FD`, unix(7)).
const AT_ONCE: usize = 64;

/// More descriptors than listeners and workers could ask for.
const MOST: usize = 16 * 1024;

/// One end of the conversation. Both directions block.
#[derive(Debug)]
pub struct Link(UnixStream);

impl Link {
    pub fn new(stream: UnixStream) -> Self {
        Self(stream)
    }

    /// The end that was given to this process as its standard input.
    ///
    /// # Errors
    /// Standard input is something else: nobody hands over to this process.
    pub fn from_stdin() -> io::Result<Self> {
        let stream = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        // Fails on what is no socket of this kind.
        stream.peer_addr()?;
        Ok(Self(stream))
    }

    /// The process that made the pair of sockets (`SO_PEERCRED`, unix(7)).
    pub fn maker(&self) -> Option<u32> {
        let maker = rustix::net::sockopt::socket_peercred(&self.0).ok()?;
        u32::try_from(maker.pid.as_raw_nonzero().get()).ok()
    }

    /// Another handle on the same end, for one that reads while this one writes.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// # Errors
    /// The other process is gone.
    pub fn send(&self, message: &Message) -> io::Result<()> {
        write_frame(&self.0, message)
    }

    /// # Errors
    /// The other process is gone, or says what isn't understood.
    pub fn receive(&self) -> io::Result<Message> {
        read_frame(&self.0)
    }

    /// Fails a message that the other process doesn't take for so long, which breaks the
    /// conversation off in its middle: it is to be closed then.
    ///
    /// # Errors
    /// It is closed.
    pub fn give_up_sending_after(&self, patience: Duration) -> io::Result<()> {
        self.0.set_write_timeout(Some(patience))
    }

    /// Wakes whoever reads, on either side, with the end of the conversation.
    pub fn close(&self) {
        let _ = self.0.shutdown(std::net::Shutdown::Both);
    }

    /// Sends descriptors with their names. They stay open here.
    ///
    /// # Errors
    /// The other process is gone.
    pub fn send_descriptors(
        &self,
        named: &[(String, BorrowedFd<'_>)],
        tickets: Option<TicketState>,
    ) -> io::Result<()> {
        let names = named.iter().map(|(name, _)| name.clone()).collect();
        self.send(&Message::Sockets { names, tickets })?;
        for some in named.chunks(AT_ONCE) {
            let descriptors: Vec<BorrowedFd<'_>> = some.iter().map(|(_, one)| *one).collect();
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(AT_ONCE))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            sendmsg(&self.0, &[IoSlice::new(&[0])], &mut control, SendFlags::NOSIGNAL)?;
        }
        Ok(())
    }

    /// Receives what [`send_descriptors`](Self::send_descriptors) sent. No child inherits them.
    ///
    /// # Errors
    /// The other process is gone, or this one may not open so many.
    pub fn receive_descriptors(&self) -> io::Result<(Named, Option<TicketState>)> {
        let Message::Sockets { names, tickets } = self.receive()? else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        if names.len() > MOST {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut received = Vec::with_capacity(names.len());
        while received.len() < names.len() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(AT_ONCE))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut byte = [0];
            let mut bytes = [IoSliceMut::new(&mut byte)];
            let got = recvmsg(&self.0, &mut bytes, &mut control, RecvFlags::CMSG_CLOEXEC)?;
            let before = received.len();
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                    received.extend(descriptors);
                }
            }
            if got.bytes == 0 || received.len() == before {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok((names.into_iter().zip(received).collect(), tickets))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn descriptors_arrive_with_their_names_however_many() {
        let (here, there) = UnixStream::pair().unwrap();
        let (here, there) = (Link::new(here), Link::new(there));
        let pairs: Vec<_> = (0..150).map(|_| UnixStream::pair().unwrap()).collect();
        let named: Vec<_> =
            pairs.iter().enumerate().map(|(n, (one, _))| (format!("s{n}"), one.as_fd())).collect();
        let receiving = std::thread::spawn(move || {
            let (received, _) = there.receive_descriptors().unwrap();
            assert_eq!(there.receive().unwrap(), Message::Released, "nothing was read past them");
            received
        });
        here.send_descriptors(&named, None).unwrap();
        here.send(&Message::Released).unwrap();
        let received = receiving.join().unwrap();
        drop(named);
        for (n, ((name, received), (one, mut other))) in received.into_iter().zip(pairs).enumerate()
        {
            drop(one);
            assert_eq!(name, format!("s{n}"));
            UnixStream::from(received).write_all(b"here").unwrap();
            let mut said = String::new();
            other.read_to_string(&mut said).unwrap();
            assert_eq!(said, "here");
        }
    }
}
