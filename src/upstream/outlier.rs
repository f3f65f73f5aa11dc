//! What failed requests say about an endpoint.
//!
//! Failures are counted in two ways: those in a row, and their share of the requests in a window,
//! which begins with a failure. Both are judged anew with each failure and with nothing else, so a
//! request that goes well has nothing to do here.
//!
//! Not every failure says as much. What can't be reached is down, whoever asks. A missing answer
//! may be the fault of what one user asks for, so two users must have seen it before it counts in
//! full. And a 503 in the endpoint's own words is an answer: a reason to prefer another endpoint,
//! but none to keep it from the user where there is no other. Where users would notice that they
//! are moved, what one of them alone complains of is no reason either ([`Verdict::Lone`]).
//!
//! INVARIANT: no user alone can bring about [`Verdict::Strong`] by what an endpoint does with
//! their requests.

use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;

use super::error::UpstreamError;
use crate::config::model::OutlierDetection;

/// What one request saw of an endpoint that failed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// There was no connection, or no TLS on it.
    Unreachable,
    /// No answer came, or none that is HTTP.
    Unanswered,
    /// 502, 503 or 504: the endpoint says itself that it isn't well.
    Unavailable,
}

impl Failure {
    /// `None` where the endpoint isn't to blame.
    pub(super) fn of(error: &UpstreamError) -> Option<Self> {
        match error {
            // The gate itself has run out of something.
            UpstreamError::Connect { cause, .. } if is_ours(cause) => None,
            UpstreamError::Connect { .. }
            | UpstreamError::ConnectTimeout { .. }
            | UpstreamError::Tls { .. } => Some(Self::Unreachable),
            UpstreamError::Timeout { .. }
            | UpstreamError::Protocol { .. }
            | UpstreamError::Closed { .. } => Some(Self::Unanswered),
            UpstreamError::NoHealthyEndpoint
            | UpstreamError::BreakerOpen { .. }
            | UpstreamError::ConnectQueue { .. }
            | UpstreamError::RequestBody { .. }
            | UpstreamError::Request { .. } => None,
        }
    }

    pub(super) fn in_status(status: StatusCode) -> Option<Self> {
        matches!(
            status,
            StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT
        )
        .then_some(Self::Unavailable)
    }
}

/// Whether connecting failed for want of descriptors, memory or ports on this side.
fn is_ours(error: &std::io::Error) -> bool {
    // ENOMEM, ENFILE, EMFILE, EADDRNOTAVAIL and ENOBUFS on Linux.
    matches!(error.raw_os_error(), Some(12 | 23 | 24 | 99 | 105))
}

/// How bad it looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Verdict {
    Well,
    /// As bad as [`Self::Weak`], by the word of one user alone.
    Lone,
    /// Bad enough to use another endpoint, where there is one.
    Weak,
    /// Bad enough to use none at all.
    Strong,
}

#[derive(Debug, Default)]
pub(super) struct Evidence {
    row: Count,
    window: Option<Window>,
}

#[derive(Debug)]
struct Window {
    since: Instant,
    /// Requests that the endpoint had answered well before.
    answered: u64,
    count: Count,
}

#[derive(Debug, Default)]
struct Count {
    failures: u32,
    unreachable: u32,
    unanswered: u32,
    /// Whose requests failed in whatever way.
    failed: Witnesses,
    /// Who was left without an answer.
    silent: Witnesses,
}

#[derive(Debug, Default)]
struct Witnesses {
    first: Option<u64>,
    /// Whether there was anybody else.
    several: bool,
}

impl Witnesses {
    fn add(&mut self, witness: u64) {
        self.several |= *self.first.get_or_insert(witness) != witness;
    }
}

impl Evidence {
    /// Takes a failure down. `answered` is how many requests the endpoint has answered well up to
    /// now, `witness` a hash of whose request it was.
    pub(super) fn add(
        &mut self,
        rules: &OutlierDetection,
        failure: Failure,
        witness: u64,
        answered: u64,
        now: Instant,
    ) -> Verdict {
        self.row.add(failure, witness);
        let in_row = self.row.verdict(rules.consecutive_failures);
        let window = match &mut self.window {
            Some(window) if now.saturating_duration_since(window.since) < rules.window => window,
            _ => self.window.insert(Window { since: now, answered, count: Count::default() }),
        };
        window.count.add(failure, witness);
        let well = answered.saturating_sub(window.answered);
        let total = well.saturating_add(u64::from(window.count.failures));
        if total < u64::from(rules.minimum_requests) {
            return in_row;
        }
        let enough = total.saturating_mul(u64::from(rules.failure_percent)).div_ceil(100).max(1);
        in_row.max(window.count.verdict(u32::try_from(enough).unwrap_or(u32::MAX)))
    }

    /// Takes down that a trial failed, and says what it shows.
    pub(super) fn add_trial(&mut self, failure: Failure, witness: u64) -> Verdict {
        self.row.add(failure, witness);
        match failure {
            Failure::Unreachable => Verdict::Strong,
            Failure::Unanswered if self.row.silent.several => Verdict::Strong,
            // By now at least it answers, or it does so for others, as far as anybody knows.
            Failure::Unanswered | Failure::Unavailable => Verdict::Weak,
        }
    }

    /// A request went well: what failed before it was not in a row.
    pub(super) fn well(&mut self) {
        self.row = Count::default();
    }

    /// Nothing of what was before counts any more.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }
}

impl Count {
    fn add(&mut self, failure: Failure, witness: u64) {
        self.failures = self.failures.saturating_add(1);
        self.failed.add(witness);
        match failure {
            Failure::Unreachable => self.unreachable = self.unreachable.saturating_add(1),
            Failure::Unanswered => {
                self.unanswered = self.unanswered.saturating_add(1);
                self.silent.add(witness);
            }
            Failure::Unavailable => {}
        }
    }

    fn verdict(&self, enough: u32) -> Verdict {
        let silent = if self.silent.several { self.unanswered } else { 0 };
        if self.unreachable.saturating_add(silent) >= enough {
            Verdict::Strong
        } else if self.failures < enough {
            Verdict::Well
        } else if self.failed.several {
            Verdict::Weak
        } else {
            Verdict::Lone
        }
    }
}

/// How long an endpoint stays out that was out `before` times already.
pub(super) fn ejection_time(rules: &OutlierDetection, before: u32) -> Duration {
    let factor = 1_u32.checked_shl(before).unwrap_or(u32::MAX);
    rules.ejection_time.saturating_mul(factor).min(rules.max_ejection_time)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: OutlierDetection = OutlierDetection {
        consecutive_failures: 3,
        failure_percent: 50,
        minimum_requests: 10,
        window: Duration::from_secs(10),
        ejection_time: Duration::from_secs(5),
        max_ejection_time: Duration::from_secs(30),
        max_ejection_percent: 50,
    };

    fn after(failures: &[(Failure, u64)]) -> Verdict {
        let now = Instant::now();
        let mut evidence = Evidence::default();
        let mut verdict = Verdict::Well;
        for (failure, witness) in failures {
            verdict = evidence.add(&RULES, *failure, *witness, 0, now);
        }
        verdict
    }

    #[test]
    fn failures_in_a_row_count_by_what_they_say() {
        use Failure::{Unanswered, Unavailable, Unreachable};
        assert_eq!(after(&[(Unreachable, 1); 2]), Verdict::Well);
        assert_eq!(after(&[(Unreachable, 1); 3]), Verdict::Strong, "down is down");
        assert_eq!(after(&[(Unanswered, 1); 3]), Verdict::Lone, "one user's requests");
        assert_eq!(after(&[(Unavailable, 1); 3]), Verdict::Lone);
        assert_eq!(after(&[(Unanswered, 1), (Unanswered, 2), (Unanswered, 1)]), Verdict::Strong);
        assert_eq!(after(&[(Unanswered, 1), (Unanswered, 1), (Unreachable, 2)]), Verdict::Weak);
        assert_eq!(
            after(&[(Unavailable, 1), (Unavailable, 2), (Unavailable, 3)]),
            Verdict::Weak,
            "it answers"
        );
    }

    #[test]
    fn a_trial_without_an_answer_needs_a_second_witness() {
        use Failure::{Unanswered, Unavailable, Unreachable};
        let mut evidence = Evidence::default();
        assert_eq!(evidence.add_trial(Unanswered, 1), Verdict::Weak);
        assert_eq!(evidence.add_trial(Unavailable, 2), Verdict::Weak);
        assert_eq!(evidence.add_trial(Unanswered, 1), Verdict::Weak);
        assert_eq!(evidence.add_trial(Unreachable, 1), Verdict::Strong);
        assert_eq!(evidence.add_trial(Unanswered, 2), Verdict::Strong);
        evidence.well();
        assert_eq!(evidence.add_trial(Unanswered, 2), Verdict::Weak);
    }

    #[test]
    fn a_success_ends_a_row_but_not_the_window() {
        let now = Instant::now();
        let mut evidence = Evidence::default();
        let fail = |evidence: &mut Evidence, answered| {
            evidence.add(&RULES, Failure::Unreachable, 1, answered, now)
        };
        for answered in 0..4 {
            assert_eq!(fail(&mut evidence, answered), Verdict::Well);
            evidence.well();
        }
        // 5 failures and 5 successes since the first of them.
        assert_eq!(fail(&mut evidence, 5), Verdict::Strong);
    }

    #[test]
    fn the_share_is_judged_by_requests_of_the_window_alone() {
        let mut now = Instant::now();
        let mut evidence = Evidence::default();
        let mut fail = |now, answered| {
            let verdict = evidence.add(&RULES, Failure::Unreachable, 1, answered, now);
            evidence.well();
            verdict
        };
        // What went well before doesn't dilute it.
        for _ in 0..9 {
            assert_eq!(fail(now, 1_000_000), Verdict::Well, "fewer than the minimum");
        }
        assert_eq!(fail(now, 1_000_000), Verdict::Strong);
        now += RULES.window;
        assert_eq!(fail(now, 1_000_000), Verdict::Well, "a new window");
        assert_eq!(fail(now, 1_000_100), Verdict::Well, "2 of 102");
    }

    #[test]
    fn each_further_ejection_is_twice_as_long_up_to_the_longest() {
        let seconds: Vec<u64> =
            [0, 1, 2, 3, 31, 32, 400].map(|n| ejection_time(&RULES, n).as_secs()).to_vec();
        assert_eq!(seconds, [5, 10, 20, 30, 30, 30, 30]);
    }

    #[test]
    fn a_gate_out_of_descriptors_blames_no_endpoint() {
        let address = "127.0.0.1:1".parse().unwrap();
        let connect = |code| {
            let cause = std::io::Error::from_raw_os_error(code);
            Failure::of(&UpstreamError::Connect { address, cause })
        };
        assert_eq!(connect(24), None, "EMFILE");
        assert_eq!(connect(111), Some(Failure::Unreachable), "ECONNREFUSED");
        let body = UpstreamError::RequestBody { cause: String::new() };
        assert_eq!(Failure::of(&body), None, "the client's own");
    }
}
