//! The old process's side: starting a newer one and giving it everything.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command};

use tokio::sync::mpsc;

use crate::tls::TicketState;

use super::{Link, Message, PROTOCOL, RECORDS, STORE};

/// The argument that has a gate take the place of the one that started it.
pub const TAKE_OVER: &str = "--take-over";

/// How this process was started, so that a newer one is started in the same way.
#[derive(Clone, Debug)]
pub struct Launch {
    program: PathBuf,
    arguments: Vec<OsString>,
}

impl Launch {
    /// The path is that of the command line, so that a symbolic link may lead elsewhere by the
    /// time it is needed.
    ///
    /// # Errors
    /// The program can't be found any more.
    pub fn of_this_process() -> io::Result<Self> {
        let mut arguments = std::env::args_os();
        let named = arguments.next().map(PathBuf::from);
        let program = match named.filter(|path| path.components().count() > 1) {
            Some(path) => std::path::absolute(path)?,
            None => std::env::current_exe()?,
        };
        let arguments = arguments.filter(|argument| argument != TAKE_OVER).collect();
        Ok(Self { program, arguments })
    }
}

/// A newer process that was started and doesn't serve yet.
#[derive(Debug)]
pub struct Attempt {
    child: Child,
    link: Link,
    said: mpsc::UnboundedReceiver<Message>,
    store: Option<UnixStream>,
    records: Option<UnixStream>,
}

impl Attempt {
    /// Starts the process. Its output goes where this one's goes.
    ///
    /// # Errors
    /// The program can't be started.
    pub fn start(launch: &Launch) -> io::Result<Self> {
        let (here, there) = UnixStream::pair()?;
        let link = Link::new(here);
        let (say, said) = mpsc::unbounded_channel();
        let reading = link.try_clone()?;
        std::thread::Builder::new().name("successor".to_owned()).spawn(move || {
            while let Ok(message) = reading.receive() {
                if say.send(message).is_err() {
                    return;
                }
            }
        })?;
        let child = Command::new(&launch.program)
            .args(&launch.arguments)
            .arg(TAKE_OVER)
            .stdin(OwnedFd::from(there))
            // They name this process, and the sockets come otherwise.
            .env_remove("WATCHDOG_PID")
            .env_remove("LISTEN_PID")
            .env_remove("LISTEN_FDS")
            .env_remove("LISTEN_FDNAMES")
            .spawn();
        let child = child.inspect_err(|_| link.close())?;
        Ok(Self { child, link, said, store: None, records: None })
    }

    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// What it says next. `None`: it ended. Safe to drop and call again.
    pub async fn says(&mut self) -> Option<Message> {
        self.said.recv().await
    }

    /// Gives it the listening sockets, the streams for what comes after, and what session tickets
    /// are sealed with.
    ///
    /// # Errors
    /// It is gone, or no descriptor is left.
    pub fn offer(
        &mut self,
        listening: &[(String, OwnedFd)],
        tickets: TicketState,
    ) -> io::Result<()> {
        let (store, calls) = UnixStream::pair()?;
        let (records, kept) = UnixStream::pair()?;
        let mut named = vec![(STORE.to_owned(), calls.as_fd()), (RECORDS.to_owned(), kept.as_fd())];
        named.extend(listening.iter().map(|(name, socket)| (name.clone(), socket.as_fd())));
        self.link.send_descriptors(&named, Some(tickets))?;
        (self.store, self.records) = (Some(store), Some(records));
        Ok(())
    }

    /// Whether it can be handed over to.
    pub fn understands(message: &Message) -> bool {
        matches!(message, Message::Hello { protocol, .. } if *protocol == PROTOCOL)
    }

    /// # Errors
    /// It is gone.
    pub fn tell(&self, message: &Message) -> io::Result<()> {
        self.link.send(message)
    }

    /// The streams over which store and log go on, once.
    pub fn streams(&mut self) -> Option<(UnixStream, UnixStream)> {
        self.store.take().zip(self.records.take())
    }

    /// Ends it, if it hasn't ended, and tells how it ended. By then its locks are free. Blocks.
    pub fn abandon(mut self) -> String {
        // Nothing to one that is on its way out already: its status stays what it was.
        let _ = self.child.kill();
        self.link.close();
        match self.child.wait() {
            Ok(status) if status.code().is_none() => "it was killed".to_owned(),
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        }
    }

    /// It serves.
    pub fn succeeded(self) -> Successor {
        Successor { link: self.link, said: self.said }
    }
}

/// The process that serves in this one's place.
#[derive(Debug)]
pub struct Successor {
    link: Link,
    said: mpsc::UnboundedReceiver<Message>,
}

impl Successor {
    /// What it says next. `None`: it is gone. Safe to drop and call again.
    pub async fn says(&mut self) -> Option<Message> {
        self.said.recv().await
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        self.link.close();
    }
}
