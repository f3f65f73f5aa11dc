use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use super::*;
use crate::domain::clock::Clock;

const HOUR: Duration = Duration::from_secs(60 * 60);
const ONE: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\n";
const TWO: &str = "ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA=\n";

/// The beginning of a period.
fn clock() -> Clock {
    Clock::manual(Timestamp::from_seconds(PERIOD * 80_000))
}

fn write(folder: &tempfile::TempDir, text: &[u8], mode: u32) -> PathBuf {
    let path = folder.path().join("ticket.keys");
    let _ = fs::remove_file(&path);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path
}

fn secrets(text: &str) -> Option<Secrets> {
    let folder = tempfile::tempdir().unwrap();
    Some(Secrets::read(&write(&folder, text.as_bytes(), 0o600)).unwrap())
}

fn own(clock: &Clock) -> Arc<OwnSecret> {
    Arc::new(OwnSecret::new(clock.clone()).unwrap())
}

/// A listener `public` without a device CA, at a gate of its own.
fn gate(text: &str, clock: &Clock) -> Arc<Tickets> {
    Arc::new(Tickets::new("public", &[], secrets(text), own(clock)))
}

fn ticket(of: &Arc<Tickets>) -> Vec<u8> {
    of.visit().encrypt(b"state").unwrap()
}

fn opens(at: &Arc<Tickets>, ticket: &[u8]) -> bool {
    let opened = at.visit().decrypt(ticket);
    assert!(opened.is_none() || opened.as_deref() == Some(b"state"));
    opened.is_some()
}

#[test]
fn gates_with_the_same_secret_open_each_others_tickets_and_others_dont() {
    let clock = clock();
    let (one, two) = (gate(ONE, &clock), gate(ONE, &clock));
    assert!(opens(&two, &ticket(&one)) && opens(&one, &ticket(&two)));
    assert!(!opens(&gate(TWO, &clock), &ticket(&one)));
    assert!(!opens(&Arc::new(Tickets::new("public", &[], None, own(&clock))), &ticket(&one)));
}

#[test]
fn a_ticket_opens_until_the_end_of_the_period_after_its_own() {
    let clock = clock();
    for tickets in [gate(ONE, &clock), Arc::new(Tickets::new("public", &[], None, own(&clock)))] {
        clock.advance(HOUR);
        let first = ticket(&tickets);
        assert_eq!(tickets.visit().lifetime(), 11 * 60 * 60);
        clock.advance(10 * HOUR);
        assert!(opens(&tickets, &first), "eleven hours later");
        let second = ticket(&tickets);
        clock.advance(HOUR);
        assert!(!opens(&tickets, &first), "twelve hours later");
        assert!(opens(&tickets, &second));
        clock.advance(100 * HOUR);
        assert!(!opens(&tickets, &second), "after a rest");
        clock.advance(2 * HOUR);
    }
}

#[test]
fn a_session_is_resumed_for_a_day_however_often_its_ticket_is_renewed() {
    let clock = clock();
    let tickets = gate(ONE, &clock);
    let mut last = ticket(&tickets);
    for hours in 1..=25 {
        clock.advance(HOUR);
        let visit = tickets.visit();
        assert_eq!(visit.decrypt(&last).is_some(), hours <= 24, "after {hours} hours");
        if hours <= 24 {
            last = visit.encrypt(b"state").unwrap();
        }
    }
}

#[test]
fn a_ticket_is_bound_to_the_listener_and_its_device_ca() {
    let clock = clock();
    let own = own(&clock);
    let ca = |bytes: &[u8]| CertificateDer::from(bytes.to_vec());
    let (a, b) = (ca(b"a"), ca(b"b"));
    let at = |name: &str, client_ca: &[CertificateDer<'_>], shared: bool| {
        let shared = shared.then(|| secrets(ONE).unwrap());
        Arc::new(Tickets::new(name, client_ca, shared, Arc::clone(&own)))
    };
    for shared in [true, false] {
        let given = ticket(&at("public", &[a.clone(), b.clone()], shared));
        assert!(opens(&at("public", &[b.clone(), a.clone(), a.clone()], shared), &given));
        assert!(!opens(&at("other", &[a.clone(), b.clone()], shared), &given));
        assert!(!opens(&at("public", std::slice::from_ref(&a), shared), &given));
        assert!(!opens(&at("public", &[], shared), &given));
        assert!(!opens(&at("public", &[a.clone(), b.clone(), ca(b"c")], shared), &given));
    }
}

#[test]
fn a_new_secret_seals_and_the_one_below_it_still_opens() {
    let clock = clock();
    let (old, both) = (gate(ONE, &clock), gate(&format!("# new\n{TWO}\n{ONE}"), &clock));
    assert!(opens(&both, &ticket(&old)));
    let new = gate(TWO, &clock);
    assert!(opens(&new, &ticket(&both)), "the newest seals");
    assert!(!opens(&new, &ticket(&old)), "what is gone from the file opens nothing");
}

#[test]
fn a_gate_whose_clock_is_a_little_behind_opens_the_next_periods_tickets() {
    let (here, there) = (clock(), clock());
    let (late, early) = (gate(ONE, &here), gate(ONE, &there));
    let almost = Duration::from_secs(6 * 60 * 60 - 4 * 60);
    here.advance(almost);
    there.advance(almost + Duration::from_secs(4 * 60));
    assert!(opens(&late, &ticket(&early)));
    let far = clock();
    far.advance(6 * HOUR - Duration::from_secs(6 * 60));
    assert!(!opens(&gate(ONE, &far), &ticket(&early)));
}

#[test]
fn a_changed_or_cut_ticket_does_not_open() {
    let clock = clock();
    let tickets = gate(ONE, &clock);
    let whole = ticket(&tickets);
    for length in 0..whole.len() {
        assert!(!opens(&tickets, &whole[..length]), "{length} bytes");
        let mut changed = whole.clone();
        changed[length] ^= 1;
        assert!(!opens(&tickets, &changed), "byte {length}");
    }
    assert!(opens(&tickets, &whole));
}

#[test]
fn the_own_secret_goes_on_in_another_process_and_never_back() {
    let clock = clock();
    let before = own(&clock);
    let old = Arc::new(Tickets::new("public", &[], None, Arc::clone(&before)));
    let first = ticket(&old);
    clock.advance(6 * HOUR);
    let second = ticket(&old);
    let written = serde_json::to_vec(&before.state()).unwrap();
    let state: TicketState = serde_json::from_slice(&written).unwrap();
    assert!(!format!("{state:?}").contains("current"), "{state:?}");
    let after = Arc::new(OwnSecret::handed_over(state, clock.clone()));
    let new = Arc::new(Tickets::new("public", &[], None, Arc::clone(&after)));
    assert!(opens(&new, &first) && opens(&new, &second), "those of the period before, too");
    clock.advance(6 * HOUR);
    assert!(opens(&old, &ticket(&new)) && opens(&new, &ticket(&old)), "both go on alike");
    assert_eq!(after.of(80_001).unwrap().first().unwrap().period, 80_002, "never back");
    // However far the clock leaps.
    assert_eq!(after.of(i64::MAX - 1).unwrap().len(), 1);
}

#[test]
fn what_is_wrong_with_the_file_is_said_line_by_line() {
    let folder = tempfile::tempdir().unwrap();
    let many = ONE.repeat(MOST_LINES);
    type Said<'a> = &'a [(Option<u32>, &'a str)];
    let cases: [(&[u8], u32, Said<'_>); 6] = [
        (b"# none\n\n", 0o600, &[(None, "holds no secret")]),
        (
            b"c2hvcnQ=\nnot base64!\n",
            0o600,
            &[(Some(1), "of 5 bytes is too short"), (Some(2), "no base64")],
        ),
        (b"\xff\xfe\x00", 0o600, &[(Some(1), "no base64")]),
        (ONE.as_bytes(), 0o604, &[(None, "open to every user")]),
        (many.as_bytes(), 0o600, &[(None, "more than 16 secrets")]),
        (&[b'#'; 70_000], 0o600, &[(None, "larger than 64 KiB")]),
    ];
    for (text, mode, expected) in cases {
        let found = Secrets::read(&write(&folder, text, mode)).unwrap_err();
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (finding, (line, cause)) in found.iter().zip(expected) {
            assert!(finding.line == *line && finding.cause.contains(cause), "{finding:?}");
        }
    }
    assert!(Secrets::read(&folder.path().join("gone")).is_err());
}

const MOST_LINES: usize = 17;

#[test]
fn keys_change_on_when_a_clock_that_was_ahead_is_right_again() {
    let own = own(&clock());
    let ahead = own.of(1_000_000).unwrap();
    assert_eq!(ahead.first().unwrap().period, 1_000_000);
    assert_eq!(own.of(999_999).unwrap().first().unwrap().period, 1_000_000, "a little back");
    for period in [80_000, 80_001] {
        assert_eq!(own.of(period).unwrap().first().unwrap().period, period);
    }
}
