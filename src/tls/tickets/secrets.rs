//! The secrets that keys of tickets are derived from: those of a file, which gates share, or the
//! process's own.
//!
//! A secret of the file yields the keys of every period: gates with the same file and about the
//! same time agree without a word between them, and a restart loses nothing. What it costs: who
//! gets the file can open every ticket sealed under it, and make one that says anything.
//!
//! The process's own secret goes one way: each period's is derived from the one before, which is
//! dropped a period later. It goes to the process that takes over, over the pair of sockets between
//! the two, and never to a disk.

use std::fmt;
use std::io::Read as _;
use std::path::Path;

use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use aws_lc_rs::rand;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize as _, Zeroizing};

use crate::config::finding::Finding;
use crate::config::secret;
use crate::domain::clock::Clock;

const SALT: &[u8] = b"wicketgate session tickets";

/// Longest file, in bytes.
const MAX_FILE: u64 = 64 * 1024;

/// Shortest secret, in bytes.
const LEAST: usize = 32;

/// Each costs three keys at every listener.
const MOST: usize = 16;

const HOW_TO_MAKE: &str = "each line is a secret of 32 bytes or more, the newest first: `openssl rand -base64 48` makes one";

/// More periods than a clock goes on by honestly (seven years); not gone through one by one.
const LEAP: i64 = 10_000;

pub(super) struct PeriodSecret {
    pub(super) period: i64,
    pub(super) secret: Prk,
}

/// The secrets of a file, the newest first.
#[derive(Clone)]
pub(crate) struct Secrets(Vec<Prk>);

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl Secrets {
    /// # Errors
    /// What is wrong with the file; its contents are not repeated.
    pub(crate) fn read(path: &Path) -> Result<Self, Vec<Finding>> {
        let error = |cause: String| vec![Finding::error(path, cause).hint(HOW_TO_MAKE)];
        let file = secret::open_private(path).map_err(|cause| vec![Finding::error(path, cause)])?;
        let mut text = Zeroizing::new(Vec::new());
        file.take(MAX_FILE + 1)
            .read_to_end(&mut text)
            .map_err(|cause| error(format!("the file can't be read: {cause}")))?;
        if u64::try_from(text.len()).unwrap_or(u64::MAX) > MAX_FILE {
            return Err(error("the file is larger than 64 KiB".to_owned()));
        }
        let mut findings = Vec::new();
        let mut secrets = Vec::new();
        for (number, line) in (1..).zip(text.split(|byte| *byte == b'\n')) {
            let line = line.trim_ascii();
            if line.is_empty() || line.starts_with(b"#") {
                continue;
            }
            let cause = match BASE64_STANDARD.decode(line).map(Zeroizing::new) {
                Ok(secret) if secret.len() >= LEAST => {
                    secrets.push(Salt::new(HKDF_SHA256, SALT).extract(&secret));
                    continue;
                }
                Ok(secret) => format!("a secret of {} bytes is too short", secret.len()),
                Err(_) => "this line is no base64".to_owned(),
            };
            findings.push(Finding::error(path, cause).at_line(number).hint(HOW_TO_MAKE));
        }
        if secrets.len() > MOST {
            findings.extend(error(format!("more than {MOST} secrets")));
        }
        if secrets.is_empty() && findings.is_empty() {
            findings.extend(error("the file holds no secret".to_owned()));
        }
        if findings.is_empty() { Ok(Self(secrets)) } else { Err(findings) }
    }

    /// Of each secret this period's, the one before, and the next for a gate whose clock is ahead.
    pub(super) fn of(&self, period: i64) -> Option<Vec<PeriodSecret>> {
        let periods = [period, period.saturating_sub(1), period.saturating_add(1)];
        let of = |secret: &Prk, period: i64| {
            let secret = prk(&*expand(secret, &[b"period", &period.to_be_bytes()])?);
            Some(PeriodSecret { period, secret })
        };
        self.0.iter().flat_map(|secret| periods.map(|period| of(secret, period))).collect()
    }
}

/// What the process's own tickets are sealed with, for all of its listeners.
#[derive(Debug)]
pub struct OwnSecret {
    state: Mutex<TicketState>,
    clock: Clock,
}

/// The own secret of a period, and of the one before it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TicketState {
    period: i64,
    current: [u8; 32],
    previous: Option<[u8; 32]>,
}

impl fmt::Debug for TicketState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TicketState").field("period", &self.period).finish_non_exhaustive()
    }
}

impl TicketState {
    fn fresh(period: i64) -> std::io::Result<Self> {
        let mut current = [0; 32];
        rand::fill(&mut current).map_err(|_| std::io::Error::other("no random numbers"))?;
        Ok(Self { period, current, previous: None })
    }
}

impl Drop for TicketState {
    fn drop(&mut self) {
        self.current.zeroize();
        self.previous.zeroize();
    }
}

impl OwnSecret {
    /// A secret that nobody else has.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn new(clock: Clock) -> std::io::Result<Self> {
        Ok(Self::handed_over(TicketState::fresh(super::period(clock.now()))?, clock))
    }

    /// Goes on with that of another process.
    pub fn handed_over(state: TicketState, clock: Clock) -> Self {
        Self { state: Mutex::new(state), clock }
    }

    /// For the process that takes over.
    pub fn state(&self) -> TicketState {
        self.state.lock().clone()
    }

    pub(super) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Goes on to the period if it is a later one; what is before its predecessor is gone then. For
    /// one that is further away it begins anew.
    pub(super) fn of(&self, period: i64) -> Option<Vec<PeriodSecret>> {
        let mut state = self.state.lock();
        // Also back: a clock that had been ahead would else leave one key for as long.
        if period.saturating_sub(state.period) > LEAP || state.period.saturating_sub(period) > 1 {
            *state = TicketState::fresh(period).ok()?;
        }
        while state.period < period {
            let next = expand(&prk(&state.current), &[b"next"])?;
            let (period, current) = (state.period.saturating_add(1), state.current);
            *state = TicketState { period, current: *next, previous: Some(current) };
        }
        let secret = |period, secret: &[u8; 32]| PeriodSecret { period, secret: prk(secret) };
        let before = state.previous.iter().map(|own| secret(state.period.saturating_sub(1), own));
        Some([secret(state.period, &state.current)].into_iter().chain(before).collect())
    }
}

fn prk(secret: &[u8; 32]) -> Prk {
    Prk::new_less_safe(HKDF_SHA256, secret)
}

/// HKDF-Expand (RFC 5869, section 2.3). `None` does not happen for lengths like these.
pub(super) fn expand<const LENGTH: usize>(
    secret: &Prk,
    info: &[&[u8]],
) -> Option<Zeroizing<[u8; LENGTH]>> {
    let mut out = Zeroizing::new([0; LENGTH]);
    secret.expand(info, Length(LENGTH)).ok()?.fill(out.as_mut_slice()).ok()?;
    Some(out)
}

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}
