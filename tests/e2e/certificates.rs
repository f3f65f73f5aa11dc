//! The gate's own certificates: renewed well and badly, too early and too late.

use std::fs;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustls::client::Resumption;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::json;

use crate::harness::gate::{HOST, SECOND_HOST, mentions};
use crate::harness::pki::{Identity, write_secret};
use crate::harness::{Browser, Gate, Recorder, eventually};

const HOUR: i64 = 60 * 60;
const DAY: i64 = 24 * HOUR;

/// How long a certificate lasts that is put in force and then waited for: several times what a
/// reload takes.
const SECONDS: i64 = 10;

/// What the gate shows a new client of this host, whether it is good or not.
fn shown(gate: &Gate, host: &str) -> CertificateDer<'static> {
    let address = gate.address().to_string();
    let output = Command::new("openssl")
        .args(["s_client", "-connect", &address, "-servername", host])
        .stdin(Stdio::null())
        .output()
        .expect("openssl: run ./test once");
    CertificateDer::from_pem_slice(&output.stdout).expect("a handshake")
}

async fn shows(gate: &Gate, host: &str, identity: &Identity) {
    let expected = identity.chain().remove(0);
    eventually("the certificate", async || (shown(gate, host) == expected).then_some(())).await;
}

/// Puts a pair in the place of `NAME.pem` and `NAME.key`; the gate is left to notice by itself.
fn put(gate: &Gate, name: &str, certificate: &str, key: &str) {
    let path = |end: &str| gate.folder().join(format!("{name}.{end}"));
    fs::write(path("pem.new"), certificate).unwrap();
    write_secret(&path("key.new"), key);
    fs::rename(path("pem.new"), path("pem")).unwrap();
    fs::rename(path("key.new"), path("key")).unwrap();
}

/// Waits for a line of the gate's log.
async fn says(gate: &Gate, words: &str) {
    eventually(words, async || gate.process.output().join("\n").contains(words).then_some(()))
        .await;
}

async fn refused(gate: &Gate) -> f64 {
    gate.metric("wicketgate_reloads_total", "refused").await
}

#[tokio::test]
async fn a_bad_renewal_is_not_served_whatever_is_bad_and_no_handshake_fails() {
    let gate = Gate::with_upstream(&Recorder::start().await).start().await;
    let first = |end: &str| fs::read_to_string(gate.folder().join(format!("first.{end}"))).unwrap();
    let good = Identity { certificate: first("pem"), key: first("key") };
    let (names, authority) = ([HOST, "other.localhost"], &gate.authority);
    let fresh = authority.server(&names);
    let expired = authority.expired_server(&names);
    let early = authority.server_between(&names, DAY, 2 * DAY);
    let half = &fresh.certificate[..fresh.certificate.len() / 2];

    let mut tls = (*gate.client_tls()).clone();
    tls.resumption = Resumption::disabled();
    let browser = Browser::new(&gate.url("/"), Arc::new(tls)).as_program();
    let over = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..3)
        .map(|_| {
            let (mut browser, over) = (browser.clone(), Arc::clone(&over));
            tokio::spawn(async move {
                let mut handshakes = 0;
                // Each comes at least once after the last renewal.
                loop {
                    let last = over.load(Ordering::Relaxed);
                    browser.get("/").await.expect(401);
                    handshakes += 1;
                    if last {
                        return handshakes;
                    }
                }
            })
        })
        .collect();

    let gauge = "wicketgate_certificate_expiry_timestamp_seconds";
    let ends = gate.metric(gauge, "first.pem").await;
    let (whole, one) = ("configuration-refused", "certificate-refused");
    for (event, certificate, key, why) in [
        (whole, half, &fresh.key, "has no END line"),
        (whole, &fresh.certificate, &good.key, "does not belong to the certificate"),
        (one, &expired.certificate, &expired.key, "expired at 2021"),
        (one, &early.certificate, &early.key, "is not valid before"),
    ] {
        put(&gate, "first", certificate, key);
        gate.audited(why, |record| mentions(record, &[event, "first.", why])).await;
        let number = f64::from(u8::from(event == one));
        eventually("the metric", async || {
            (gate.metric("wicketgate_certificates_refused", "").await == number).then_some(())
        })
        .await;
        assert_eq!(shown(&gate, HOST), good.chain()[0], "{why}");
        assert_eq!(gate.metric(gauge, "first.pem").await, ends, "{why}");
        eventually("readiness that tells it", async || {
            let (status, told) = gate.admin("/readyz").await.unwrap();
            (status == 200 && told.contains(why)).then_some(())
        })
        .await;
    }
    says(&gate, "the one in force is valid until 4096").await;
    assert!(refused(&gate).await >= 2.0);

    put(&gate, "first", &fresh.certificate, &fresh.key);
    shows(&gate, HOST, &fresh).await;
    over.store(true, Ordering::Relaxed);
    for client in clients {
        assert!(client.await.unwrap() > 1);
    }
    assert_eq!(gate.metric("wicketgate_certificates_refused", "").await, 0.0);
    let (_, told) = gate.admin("/readyz").await.unwrap();
    assert!(!told.contains("is not valid before"), "{told}");
    assert_eq!(
        gate.audit().iter().filter(|one| mentions(one, &["certificate-expired"])).count(),
        0
    );
    assert_eq!(shown(&gate, SECOND_HOST), second(&gate).chain()[0], "the other was never touched");
}

fn second(gate: &Gate) -> Identity {
    let read = |end: &str| fs::read_to_string(gate.folder().join(format!("second.{end}"))).unwrap();
    Identity { certificate: read("pem"), key: read("key") }
}

#[tokio::test]
async fn a_certificate_out_of_date_keeps_no_other_change_back() {
    let mut gate = Gate::with_upstream(&Recorder::start().await).start().await;
    let first = gate.folder().join("first.pem");
    let good = CertificateDer::from_pem_file(&first).unwrap();
    let mut browser = gate.login("vera").await.as_program();
    browser.get("/").await.expect(200);
    let expired = gate.authority.expired_server(&[HOST, "other.localhost"]);
    put(&gate, "first", &expired.certificate, &expired.key);
    gate.audited("it", |record| mentions(record, &["certificate-refused", "first.pem"])).await;
    gate.rewrite_policies("@id(\"nobody\") forbid (principal, action, resource);");
    eventually("the new set", async || (browser.get("/").await.status == 403).then_some(())).await;
    assert_eq!(shown(&gate, HOST), good, "also after a second reload");
    // A newer process would have nothing but the files.
    gate.process.signal("USR2");
    says(&gate, "upgrade refused, this process serves on: the newer process would serve").await;
    assert_eq!(shown(&gate, HOST), good);
    // Whoever starts is left with what is there.
    gate.process.kill();
    gate.restart().await;
    assert_eq!(shown(&gate, HOST), expired.chain()[0]);
}

/// It is refused first, unless this test stands still for longer than that takes.
#[tokio::test]
async fn a_renewal_that_comes_too_early_is_served_when_its_time_has_come() {
    let gate = Gate::with_upstream(&Recorder::start().await).start().await;
    let early = gate.authority.server_between(&[HOST, "other.localhost"], 4, DAY);
    put(&gate, "first", &early.certificate, &early.key);
    shows(&gate, HOST, &early).await;
}

#[tokio::test]
async fn a_certificate_that_expires_while_the_gate_runs_is_told_and_another_takes_over() {
    let mut gate = Gate::with_upstream(&Recorder::start().await).start().await;
    let names = [HOST, "other.localhost"];
    let good = gate.authority.server(&names);
    let [brief, brief_second] = [&names[..], &[SECOND_HOST][..]]
        .map(|names| gate.authority.server_between(names, -HOUR, SECONDS));
    let spare = gate.authority.server(&[SECOND_HOST]);
    put(&gate, "spare", &spare.certificate, &spare.key);
    put(&gate, "first", &brief.certificate, &brief.key);
    put(&gate, "second", &brief_second.certificate, &brief_second.key);
    let [certificate, key] = ["pem", "key"].map(|end| gate.folder().join(format!("spare.{end}")));
    gate.rewrite(|config| {
        let certificates = config["listeners"][0]["tls"]["certificates"].as_array_mut().unwrap();
        certificates.push(json!({ "certificate": certificate, "key": key }));
    });
    shows(&gate, HOST, &brief).await;
    shows(&gate, SECOND_HOST, &spare).await;
    let expired = ["certificate-expired", "public", "first.pem"];
    let record = gate.audited("the end", |record| mentions(record, &expired)).await;
    let ends = gate.metric("wicketgate_certificate_expiry_timestamp_seconds", "first.pem").await;
    assert_eq!(record["expired_at"].as_f64().unwrap(), ends * 1000.0);
    says(&gate, "a certificate is in its last hours").await;
    says(&gate, "a certificate has expired and no other covers its names").await;
    assert_eq!(shown(&gate, HOST), brief.chain()[0], "an alert would help nobody");

    // Nothing good is lost any more, so what is out of date, too, keeps no change back.
    let worse = gate.authority.expired_server(&names);
    let before = refused(&gate).await;
    put(&gate, "first", &worse.certificate, &worse.key);
    shows(&gate, HOST, &worse).await;
    assert_eq!(refused(&gate).await, before);
    put(&gate, "first", &good.certificate, &good.key);
    shows(&gate, HOST, &good).await;
    gate.browser().as_program().get("/").await.expect(401);
    let missed = gate.audit().iter().filter(|one| mentions(one, &["certificate-expired"])).count();
    assert_eq!(missed, 2, "the two that were served, and not the one that has a successor");
}

#[tokio::test]
async fn a_gate_starts_with_a_certificate_that_has_expired_and_says_so() {
    let mut gate = Gate::with_upstream(&Recorder::start().await).start().await;
    gate.process.kill();
    let expired = gate.authority.expired_server(&[HOST, "other.localhost"]);
    put(&gate, "first", &expired.certificate, &expired.key);
    let check = gate.command(&["check"]);
    let said = String::from_utf8_lossy(&check.stdout).into_owned()
        + &String::from_utf8_lossy(&check.stderr);
    assert!(check.status.success() && said.contains("expired at 2021"), "{said}");
    gate.restart().await;
    assert_eq!(shown(&gate, HOST), expired.chain()[0]);
    gate.audited("it", |record| mentions(record, &["certificate-expired", "first.pem"])).await;
    says(&gate, "a certificate has expired and no other covers its names").await;
}
