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
fn what_is_out_of_date_is_refused_where_it_would_take_the_place_of_what_is_not() {
    let ca = TestCa::new();
    let good = ca.issue("good", &["a.example"]);
    let other = ca.issue("other", &["a.example", "b.example"]);
    let expired = ca.issue_valid("expired", &["a.example"], -2, -1);
    let future = ca.issue_valid("future", &["a.example"], 1, 2);
    let elsewhere = ca.issue_valid("elsewhere", &["c.example"], -2, -1);
    let wildcard = ca.issue("wildcard", &["*.example"]);
    let expired_wildcard = ca.issue_valid("expired-wildcard", &["*.example"], -2, -1);
    let expired_bare = ca.issue_valid("expired-bare", &[], -2, -1);
    let now = Clock::System.now();
    let worse = |in_force: &[&CertificateFiles], new: &[&CertificateFiles]| {
        let of = |files: &[&CertificateFiles]| {
            load(files.iter().map(|&files| files.clone()).collect(), None)
        };
        acceptor(of(in_force)).keep_in_date(&mut of(new), now)
    };
    // Place, what is in force, what is new, and what of that is worse.
    for (line, in_force, new, expected) in [
        (line!(), &[&good][..], &[&expired][..], Some(&expired)),
        (line!(), &[&good], &[&future], Some(&future)),
        (line!(), &[&good], &[&other], None),
        (line!(), &[&good], &[&expired, &future], Some(&expired)),
        (line!(), &[&good], &[&expired, &other], None),
        // The wildcard serves nobody who names no host.
        (line!(), &[&good], &[&expired, &wildcard], Some(&expired)),
        (line!(), &[&good], &[&wildcard, &expired], None),
        (line!(), &[&expired], &[&expired], None),
        (line!(), &[&future], &[&expired], None),
        // A name that is new, and one that is gone: that leaves the clients that name no host.
        (line!(), &[&good], &[&good, &elsewhere], None),
        (line!(), &[&good], &[&elsewhere], Some(&elsewhere)),
        (line!(), &[&good, &expired_bare], &[&expired_bare], Some(&expired_bare)),
        // A name that another certificate covered until now.
        (line!(), &[&good, &expired_wildcard], &[&expired_wildcard], Some(&expired_wildcard)),
        (line!(), &[&wildcard], &[&expired], Some(&expired)),
        (line!(), &[&wildcard], &[&wildcard, &expired], None),
    ] {
        let found = worse(in_force, new);
        let files: Vec<_> = found.iter().map(|one| &one.finding.file).collect();
        let expected: Vec<_> = expected.iter().map(|files| &files.certificate).collect();
        assert_eq!(files, expected, "line {line}");
    }

    let [expired, future] = [&expired, &future].map(|new| worse(&[&good], &[new]).remove(0));
    let (day, year) = (now.plus(DAY * 2), now.plus(DAY * 100_000));
    assert!(expired.is_worse(day) && !expired.is_worse(year), "both are out of date then");
    assert!(future.is_worse(now) && !future.is_worse(day));
    for one in [&expired, &future] {
        assert_eq!(one.finding.severity, Severity::Error);
        assert!(one.finding.cause.contains("the one in force is valid until 20"), "{one:?}");
        assert!(one.finding.hint.is_some());
    }
    assert!(expired.finding.cause.contains("expired at 20") && expired.begins.is_none());
    assert!(future.finding.cause.contains("not valid before 20"));
    assert!(future.begins.is_some_and(|begins| begins > now));
}

/// What serves the name after `new` has come, and a reload that changed nothing.
struct Renewed<'a> {
    ca: &'a TestCa,
    clock: Clock,
    acceptor: Acceptor,
}

impl<'a> Renewed<'a> {
    fn new(ca: &'a TestCa, in_force: &[&CertificateFiles], new: &[&CertificateFiles]) -> Self {
        // Clients have the machine's clock.
        let clock = Clock::manual(Clock::System.now().minus(DAY * 20));
        let of = |files: &[&CertificateFiles]| {
            let files = files.iter().map(|&files| files.clone()).collect();
            ServerTls::load(&listener(files, None), &clock).unwrap()
        };
        let acceptor = acceptor(of(in_force));
        for _ in 0..2 {
            let mut tls = of(new);
            assert!(!acceptor.keep_in_date(&mut tls, clock.now()).is_empty());
            acceptor.replace(tls);
        }
        Self { ca, clock, acceptor }
    }

    async fn serves(&self, name: &str, files: &CertificateFiles) {
        let seen = shake(&self.acceptor, &client(self.ca, None), name).await;
        assert_eq!(seen.client.unwrap(), first_of(files), "{name}");
    }

    /// The ends that are told, and whether somebody would miss it.
    fn terms(&self) -> Vec<(&'static str, bool)> {
        let terms = self.acceptor.terms().into_iter();
        let name = |file: &str| match file {
            file if file.contains("old") => "old",
            file if file.contains("other") => "other",
            _ => "new",
        };
        terms.map(|term| (name(&term.file), term.is_succeeded)).collect()
    }
}

#[tokio::test]
async fn the_old_one_goes_on_where_the_new_one_is_out_of_date_and_all_else_is_new() {
    let ca = TestCa::new();
    let old =
        ca.issue_valid("old", &["a.example", "*.b.example", "127.0.0.1", "gone.example"], -30, 10);
    let names = ["a.example", "*.b.example", "127.0.0.1"];
    let expired = ca.issue_valid("new", &names, -25, -24);
    let other = ca.issue("other", &["c.example"]);
    let renewed = Renewed::new(&ca, &[&old], &[&expired, &other]);
    // Who goes to an address names no host.
    for name in ["a.example", "x.b.example", "127.0.0.1"] {
        renewed.serves(name, &old).await;
    }
    renewed.serves("c.example", &other).await;
    let gone = shake(&renewed.acceptor, &client(&ca, None), "gone.example").await;
    assert!(gone.client.is_err(), "no certificate of now is for it");
    assert_eq!(renewed.terms(), [("other", false), ("old", false)]);
}

#[tokio::test]
async fn one_that_comes_too_early_takes_over_by_itself_and_the_end_of_the_old_one_is_not_told() {
    let ca = TestCa::new();
    let names = ["a.example", "127.0.0.1"];
    let (old, early) =
        (ca.issue_valid("old", &names, -30, 10), ca.issue_valid("new", &names, -15, 50));
    let renewed = Renewed::new(&ca, &[&old], &[&early]);
    assert_eq!(renewed.terms(), [("old", true)]);
    for expected in [&old, &old, &early] {
        for name in names {
            renewed.serves(name, expected).await;
        }
        renewed.clock.advance(DAY * 4);
    }
}

#[tokio::test]
async fn what_an_old_one_serves_no_more_is_told_of_in_the_name_of_the_new_one() {
    let ca = TestCa::new();
    let old = ca.issue_valid("old", &["a.example"], -30, 10);
    let expired = ca.issue_valid("new", &["a.example", "d.example"], -25, -24);
    let renewed = Renewed::new(&ca, &[&old], &[&expired]);
    renewed.serves("a.example", &old).await;
    assert_eq!(renewed.terms(), [("new", false), ("old", false)]);
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
    let (all, ours) = (ca.issue("all", &["a.example", "x.b.example"]), [&long, &wildcard, &short]);
    assert_eq!(succeeded(&ours), [false, false, true]);
    assert_eq!(succeeded(&[&short, &long, &wildcard]), [false; 3], "who names no host is left");
    assert_eq!(succeeded(&[&short, &all]), [true, false]);
    assert_eq!(succeeded(&[&short, &shorter]), [false, true]);
    assert_eq!(succeeded(&[&bare]), [false]);
    assert_eq!(succeeded(&[&bare, &long]), [false; 2], "nobody knows whom it is for");
}
