//! One connection that is kept, and calls over it.
//!
//! The connection belongs to the store's own thread, where it is read and written and where it is
//! made anew, with pauses, for as long as it is lost. A worker only hands a command over and waits
//! for the answer, for as long as the timeout at most.
//!
//! INVARIANT: an answer is never another call's. Answers come in the order of the commands, and a
//! connection on which one didn't come in time is given up.

use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::{Cmd, ErrorKind, FromRedisValue, RedisError, ServerErrorKind};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::connect::{Connection, connect};
use crate::config::model::Redis;
use crate::store::StoreError;

/// Between two attempts to connect: first, and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));

/// A connection that was lost sooner than this counts as a failed attempt.
const SHORT_LIFE: Duration = Duration::from_secs(1);

/// Calls under way at once; more wait for their turn, within their timeout.
const IN_FLIGHT: usize = 1024;

/// Whether a command may be sent a second time when the connection was lost under the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Again {
    /// Twice is as once.
    Harmless,
    /// The first may have been carried out, and the second would answer otherwise.
    Never,
}

#[derive(Clone)]
enum State {
    /// Being made; so far nothing speaks against it.
    Connecting,
    Up {
        number: u64,
        connection: Connection,
    },
    Down(Arc<str>),
}

impl State {
    fn is(&self, wanted: u64) -> bool {
        matches!(self, Self::Up { number, .. } if *number == wanted)
    }
}

/// A connection and who keeps it. Dropped, it ends.
pub(super) struct Link {
    state: Arc<watch::Sender<State>>,
    in_flight: Semaphore,
    timeout: Duration,
    ends: CancellationToken,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.ends.cancel();
    }
}

impl Link {
    /// Begins to connect. An answer is waited for as long as `answers`, a call as long as
    /// [`Link::call`] is told.
    pub(super) fn open(config: &Redis, answers: Duration, thread: &Handle) -> Self {
        let state = Arc::new(watch::Sender::new(State::Connecting));
        let ends = CancellationToken::new();
        let keeping = keep(config.clone(), answers, Arc::clone(&state));
        let end = ends.clone();
        thread.spawn(async move {
            tokio::select! {
                () = end.cancelled() => {}
                () = keeping => {}
            }
        });
        Self { state, in_flight: Semaphore::new(IN_FLIGHT), timeout: config.timeout, ends }
    }

    /// Runs a command within the timeout.
    pub(super) async fn call<T: FromRedisValue>(
        &self,
        command: &Cmd,
        again: Again,
    ) -> Result<T, StoreError> {
        self.call_within(self.timeout, command, again).await
    }

    pub(super) async fn call_within<T: FromRedisValue>(
        &self,
        timeout: Duration,
        command: &Cmd,
        again: Again,
    ) -> Result<T, StoreError> {
        let mut used = None;
        let Ok(answer) =
            tokio::time::timeout(timeout, self.attempts(command, again, &mut used)).await
        else {
            if let Some(number) = used {
                self.broke(number);
            }
            return failed(format!("no answer within {timeout:?}"));
        };
        let value = redis::from_redis_value(answer?);
        value.map_err(|error| StoreError::Failed(format!("an answer of another kind: {error}")))
    }

    async fn attempts(
        &self,
        command: &Cmd,
        again: Again,
        used: &mut Option<u64>,
    ) -> Result<redis::Value, StoreError> {
        let _place = self.in_flight.acquire().await.map_err(|error| said(&error))?;
        let (mut once, mut first) = (again == Again::Harmless, true);
        loop {
            let (number, mut connection) = self.up().await?;
            *used = Some(number);
            // One that the other side has closed looks as good as any until it is used. What can't
            // be sent twice isn't sent before that is known.
            if again == Again::Never
                && let Err(error) = connection.run(&redis::cmd("PING")).await
                && severs(&error)
            {
                self.broke(number);
                if !std::mem::take(&mut first) {
                    return Err(said(&error));
                }
                continue;
            }
            match connection.run(command).await {
                Ok(value) => return value.extract_error().map_err(|error| said(&error)),
                Err(error) if severs(&error) => {
                    self.broke(number);
                    if !std::mem::take(&mut once) {
                        return Err(said(&error));
                    }
                }
                Err(error) => return Err(said(&error)),
            }
        }
    }

    /// The connection; waits for one that is being made, not for one that can't be had.
    async fn up(&self) -> Result<(u64, Connection), StoreError> {
        let mut state = self.state.subscribe();
        loop {
            match &*state.borrow_and_update() {
                State::Up { number, connection } => return Ok((*number, connection.clone())),
                State::Down(cause) => return failed(cause.to_string()),
                State::Connecting => {}
            }
            state.changed().await.map_err(|error| said(&error))?;
        }
    }

    /// Waits until there is a connection, through failed attempts, too. Blocks; for the start.
    ///
    /// # Errors
    /// Why there is none after `patience`.
    pub(super) fn ready(&self, patience: Duration, thread: &Handle) -> Result<(), StoreError> {
        let mut state = self.state.subscribe();
        let (done, is_done) = std::sync::mpsc::channel();
        thread.spawn(async move {
            let up = state.wait_for(|state| matches!(state, State::Up { .. }));
            let up = tokio::time::timeout(patience, up).await.is_ok();
            let _ = done.send(up);
        });
        if is_done.recv() == Ok(true) {
            return Ok(());
        }
        match &*self.state.borrow() {
            State::Down(cause) => failed(cause.to_string()),
            _ => failed(format!("it can't be reached: no answer within {patience:?}")),
        }
    }

    fn broke(&self, number: u64) {
        self.state.send_if_modified(|state| {
            let this = state.is(number);
            if this {
                *state = State::Connecting;
            }
            this
        });
    }
}

/// Whether a connection is of no use after this.
fn severs(error: &RedisError) -> bool {
    // One that only reads was the master once: sentinels know who is now.
    let read_only = ErrorKind::Server(ServerErrorKind::ReadOnly);
    error.is_io_error() || error.is_unrecoverable_error() || error.kind() == read_only
}

fn said(error: &dyn std::fmt::Display) -> StoreError {
    StoreError::Failed(error.to_string())
}

fn failed<T>(cause: String) -> Result<T, StoreError> {
    Err(StoreError::Failed(cause))
}

/// Connects, and again whenever the connection breaks.
async fn keep(config: Redis, answers: Duration, state: Arc<watch::Sender<State>>) {
    // Several nodes may have to be asked for the one.
    let patience = config.timeout.max(Duration::from_secs(5));
    let (mut pause, mut attempt) = (PAUSES.0, 0_usize);
    let (mut number, mut short) = (0, false);
    loop {
        let connected = tokio::time::timeout(patience, connect(&config, answers, attempt)).await;
        let cause: Arc<str> = match connected {
            Ok(Ok(connection)) => {
                number += 1;
                let since = Instant::now();
                tracing::info!("connected to the shared store");
                state.send_replace(State::Up { number, connection });
                if state.subscribe().wait_for(|state| !state.is(number)).await.is_err() {
                    return;
                }
                tracing::warn!("the connection to the shared store is lost");
                // One that was lost is made anew at once, and only then with pauses.
                let again = std::mem::replace(&mut short, since.elapsed() < SHORT_LIFE);
                if !(again && short) {
                    pause = PAUSES.0;
                    continue;
                }
                "the connection is lost again and again".into()
            }
            Ok(Err(error)) => format!("it can't be reached: {error}").into(),
            Err(_) => format!("it can't be reached: no answer within {patience:?}").into(),
        };
        tracing::warn!(%cause, "the shared store is not there; the next try is in {pause:?}");
        state.send_replace(State::Down(cause));
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
        attempt = attempt.wrapping_add(1);
    }
}
