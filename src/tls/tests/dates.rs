//! Certificates that have expired, are not valid yet, or will be neither.

use super::*;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

#[test]
fn a_certificate_out_of_date_is_served_with_a_warning() {
    let ca = TestCa::new();
    let expired = ca.issue_valid("expired", &["a.example"], -2, -1);
    let future = ca.issue_valid("future", &["b.example"], 1, 2);
    let good = ca.issue("good", &["c.example"]);
    let tls = load(vec![expired, future, good], None);
    let warnings = tls.warnings();
    assert_eq!(warnings.len(), 2);
    assert!(warnings.iter().all(|finding| finding.severity == Severity::Warning));
    assert!(warnings[0].cause.contains("expired at"));
    assert!(warnings[1].cause.contains("not valid before"));
    assert_eq!(tls.terms().len(), 3);
    assert!(tls.covers(&Host::parse("b.example").unwrap()));
    assert!(!tls.covers(&Host::parse("d.example").unwrap()));
}

/// The pair that is served for each name, by its place in the list, now and eleven days later.
async fn served(ca: &TestCa, pairs: &[CertificateFiles], names: &[&str]) -> Vec<(usize, usize)> {
    let clock = Clock::manual(Clock::System.now());
    let tls = ServerTls::load(&listener(pairs.to_vec(), None), &clock).unwrap();
    let acceptor = acceptor(tls);
    let mut places = Vec::new();
    for _ in 0..2 {
        for name in names {
            // A client of its own: one that resumes is shown nothing anew.
            let certificate = shake(&acceptor, &client(ca, None), name).await.client.unwrap();
            let place = pairs.iter().position(|files| first_of(files) == certificate);
            places.push(place.unwrap());
        }
        clock.advance(DAY * 11);
    }
    let (now, later) = places.split_at(names.len());
    now.iter().copied().zip(later.iter().copied()).collect()
}

#[tokio::test]
async fn of_several_for_a_name_the_first_that_is_in_date_at_the_handshake_serves_it() {
    let ca = TestCa::new();
    let short = ca.issue_valid("short", &["a.example", "127.0.0.1"], -1, 10);
    let (long, longer) = (["a.example", "127.0.0.1"], ["a.example"]);
    let (long, longer) = (ca.issue("long", &long), ca.issue("longer", &longer));
    let names = ["a.example", "127.0.0.1"];
    let all = [short.clone(), long.clone(), longer.clone()];
    assert_eq!(served(&ca, &all, &names).await, [(0, 1), (0, 1)]);
    // Who names no host is served nothing that doesn't cover all that the first one covers.
    assert_eq!(served(&ca, &[short.clone(), longer, long], &names).await, [(0, 1), (0, 2)]);
    // Without another one it is served all the same.
    assert_eq!(served(&ca, &[short], &names).await, [(0, 0), (0, 0)]);
}

#[tokio::test]
async fn a_wildcard_in_date_goes_before_an_exact_name_that_is_not() {
    let ca = TestCa::new();
    let exact = ca.issue_valid("exact", &["x.b.example"], -1, 10);
    let wildcard = ca.issue("wildcard", &["*.b.example"]);
    let names = ["x.b.example", "y.b.example"];
    assert_eq!(served(&ca, &[wildcard, exact], &names).await, [(1, 0), (0, 0)]);
}

#[test]
fn what_is_out_of_date_is_worse_than_what_is_not_and_served_in_its_place() {
    let ca = TestCa::new();
    let good = ca.issue("good", &["a.example"]);
    let other = ca.issue("other", &["a.example", "b.example"]);
    let expired = ca.issue_valid("expired", &["a.example"], -2, -1);
    let future = ca.issue_valid("future", &["a.example"], 1, 2);
    let elsewhere = ca.issue_valid("elsewhere", &["c.example"], -2, -1);
    let wildcard = ca.issue("wildcard", &["*.example"]);
    let expired_wildcard = ca.issue_valid("expired-wildcard", &["*.example"], -2, -1);
    let now = Clock::System.now();
    let worse = |in_force: &[&CertificateFiles], new: &[&CertificateFiles]| {
        let of = |files: &[&CertificateFiles]| {
            load(files.iter().map(|&files| files.clone()).collect(), None)
        };
        acceptor(of(in_force)).worse(&of(new), now)
    };
    // Place, what is in force, what is new, and what of that is worse.
    for (line, in_force, new, expected) in [
        (line!(), &[&good][..], &[&expired][..], Some(&expired)),
        (line!(), &[&good], &[&future], Some(&future)),
        (line!(), &[&good], &[&other], None),
        (line!(), &[&good], &[&expired, &future], Some(&expired)),
        (line!(), &[&good], &[&expired, &other], None),
        (line!(), &[&good], &[&expired, &wildcard], None),
        (line!(), &[&expired], &[&expired], None),
        (line!(), &[&future], &[&expired], None),
        // A name that is new, and one that is gone.
        (line!(), &[&good], &[&good, &elsewhere], None),
        (line!(), &[&good], &[&elsewhere], None),
        // A name that another certificate covered until now.
        (line!(), &[&good, &expired_wildcard], &[&expired_wildcard], Some(&expired_wildcard)),
        (line!(), &[&wildcard], &[&expired], Some(&expired)),
        (line!(), &[&wildcard], &[&expired, &wildcard], None),
    ] {
        let found = worse(in_force, new);
        let files: Vec<_> = found.iter().map(|one| &one.finding.file).collect();
        let expected: Vec<_> = expected.iter().map(|files| &files.certificate).collect();
        assert_eq!(files, expected, "line {line}");
    }

    let [expired, future] = [&expired, &future].map(|new| worse(&[&good], &[new]).remove(0));
    for one in [&expired, &future] {
        assert_eq!(one.finding.severity, Severity::Error);
        assert!(one.finding.cause.contains("the one in force is valid until 20"), "{one:?}");
        assert!(one.finding.hint.is_some());
    }
    assert!(expired.finding.cause.contains("expired at 20") && expired.begins.is_none());
    assert!(future.finding.cause.contains("not valid before 20"));
    assert!(future.begins.is_some_and(|begins| begins > now));
}

#[test]
fn one_is_succeeded_when_another_covers_all_that_it_covers_after_its_end() {
    let ca = TestCa::new();
    let short = ca.issue_valid("short", &["a.example", "x.b.example"], -1, 10);
    let shorter = ca.issue_valid("shorter", &["a.example", "x.b.example"], -1, 9);
    let (long, wildcard) = (ca.issue("long", &["a.example"]), ca.issue("wild", &["*.b.example"]));
    let bare = ca.issue("bare", &[]);
    let succeeded = |pairs: &[&CertificateFiles]| -> Vec<bool> {
        let tls = load(pairs.iter().map(|&files| files.clone()).collect(), None);
        tls.terms().iter().map(|term| term.is_succeeded).collect()
    };
    assert_eq!(succeeded(&[&short]), [false]);
    assert_eq!(succeeded(&[&short, &long]), [false, false]);
    assert_eq!(succeeded(&[&short, &long, &wildcard]), [true, false, false]);
    assert_eq!(succeeded(&[&short, &shorter]), [false, true]);
    assert_eq!(succeeded(&[&bare, &long]), [true, false], "nobody misses what covers nothing");
}
