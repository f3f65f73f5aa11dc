//! What the service manager is told (`sd_notify(3)`), and what it passes (`sd_listen_fds(3)`).
//! Without one, as in a terminal, all of this does nothing.

use std::time::Duration;

use sd_notify::NotifyState;

use crate::proxy::sockets::{SocketError, Sockets};

use super::StartError;

/// The listening sockets of a socket unit, by the names that it gives them.
///
/// # Errors
/// The environment contradicts itself, or what was passed is no listening TCP socket.
pub fn sockets() -> Result<Sockets, StartError> {
    let passed =
        sd_listen_fds::get().map_err(|error| StartError::Io(std::io::Error::other(error)))?;
    let named = passed
        .into_iter()
        .map(|(name, socket)| (name.unwrap_or_else(|| "unnamed".to_owned()), socket.into_std()));
    Sockets::passed(named.collect()).map_err(|error: SocketError| error.into())
}

/// Clients can connect; also the end of a reload, whatever came of it.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// The configuration is read again. With the time, without which newer managers don't accept it
/// (`Type=notify-reload`).
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "the service manager is not told of the reload"),
    }
}

pub fn stopping(status: &str) {
    tell(&[NotifyState::Stopping, NotifyState::Status(status)]);
}

pub fn status(status: &str) {
    tell(&[NotifyState::Status(status)]);
}

/// Another process is the service from here on.
pub fn succeeded_by(process: u32) {
    tell(&[NotifyState::MainPid(process)]);
}

/// The gate is alive: its workers and its control have just answered.
pub fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// How often the manager wants to hear that: twice as often as it would give up.
pub fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 2).filter(|half| !half.is_zero())
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager can't be told how the gate is");
    }
}
