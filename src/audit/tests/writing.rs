use std::os::unix::fs::PermissionsExt;

use super::*;

#[test]
fn a_record_is_read_back_as_it_was_appended() {
    let site = Site::new();
    let events = [
        decision(7),
        Event::SessionEnded {
            id: id(8),
            session: "0011".to_owned(),
            principal: "demo/ada".into(),
            reason: EndReason::Logout,
        },
        Event::Stopped,
    ];
    let log = site.open();
    for (event, number) in events.iter().zip(7..) {
        let _ticket = log.append(second(number), event.clone()).unwrap();
    }
    log.close().unwrap();
    let records = site.records();
    assert_eq!(records.iter().map(|record| record.event.clone()).collect::<Vec<_>>(), events);
    assert_eq!(records.iter().map(|record| record.sequence).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(records[1].at, second(8));
    assert!(verify(site.directory()).unwrap().is_good());
}

#[test]
fn every_event_is_called_in_queries_as_in_its_record() {
    let source = "192.0.2.7".parse().unwrap();
    let (session, principal, host) = (String::from("s"), Arc::from("p"), String::from("h"));
    let (reason, route) = (String::from("r"), Arc::from("portal"));
    let events = [
        decision(1),
        Event::Refused {
            id: id(1),
            reason: "bad-request".into(),
            detail: String::new(),
            status: 400,
            source,
            host: None,
            path: None,
            method: None,
            principal: None,
        },
        Event::RefusalsCounted {
            reason: "bad-request".into(),
            count: 2,
            first: second(1),
            last: second(2),
            networks: Vec::new(),
        },
        Event::SessionStarted {
            id: id(1),
            session: session.clone(),
            principal: Arc::clone(&principal),
            host: host.clone(),
            source,
        },
        Event::SessionEnded {
            id: id(1),
            session,
            principal: Arc::clone(&principal),
            reason: EndReason::Logout,
        },
        Event::LoginFailed { id: id(1), reason: reason.clone(), host, source },
        Event::ConnectionCut {
            id: id(1),
            opened_by: id(0),
            session: None,
            principal: Arc::clone(&principal),
            route: Arc::clone(&route),
            reason: reason.clone(),
        },
        Event::FramesDropped { id: id(1), opened_by: id(0), principal, route },
        Event::ConfigurationLoaded { generation: 1, policy_set: String::new() },
        Event::ConfigurationRefused { reason },
        Event::CertificateRefused {
            listener: Arc::from("public"),
            file: Arc::from("a.pem"),
            reason: String::new(),
        },
        Event::CertificateExpired {
            listener: Arc::from("public"),
            file: Arc::from("a.pem"),
            expired_at: second(1),
        },
        Event::Started { version: String::new() },
        Event::Stopped,
    ];
    for event in events {
        let value: serde_json::Value =
            serde_json::from_slice(&record::encode(&event).unwrap()).unwrap();
        assert_eq!(value["event"], event_name(&event));
    }
}

#[test]
fn what_a_client_sends_can_t_break_out_of_its_string_or_hide() {
    let hidden = "\r\n{\"seq\":9}\n\u{1b}[2J\u{7f}\u{9b}31m\u{85}\u{2028}\u{2029}\u{202e}\u{2066}\u{200b}\u{feff}\u{e0041}\0\"\\é漢";
    let site = Site::new();
    let log = site.open();
    let event = decision_on(1, hidden, Verdict::Deny);
    let _ticket = log.append(second(1), event.clone()).unwrap();
    log.close().unwrap();
    let text = std::fs::read_to_string(&site.segments()[0]).unwrap();
    assert_eq!(text.lines().count(), 1);
    let line = text.strip_suffix('\n').unwrap();
    assert!(line.chars().all(|c| c.is_ascii_graphic() || "é漢 ".contains(c)), "{line}");
    assert_eq!(site.records()[0].event, event, "nothing of it is lost");
    assert!(verify(site.directory()).unwrap().is_good());
}

#[test]
fn the_chain_goes_on_over_segments_and_restarts() {
    let site = Site::new().with_segments_of(2000);
    site.write(0, 10);
    site.write(10, 10);
    site.write(20, 1);
    assert!(site.segments().len() > 3, "{:?}", site.segments());
    let report = verify(site.directory()).unwrap();
    assert_eq!((report.records, report.bad), (21, None));
    assert_eq!(report.segments, site.segments().len());
}

#[test]
fn files_and_directory_belong_to_their_owner_alone() {
    let site = Site::new();
    site.write(0, 1);
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(site.directory()), 0o700);
    assert_eq!(mode(&site.segments()[0]), 0o600);
    std::fs::set_permissions(site.directory(), std::fs::Permissions::from_mode(0o750)).unwrap();
    let error = AuditLog::open(&site.config, Metrics::new()).unwrap_err();
    assert!(matches!(error, AuditError::Permissions(_)), "{error}");
}

#[test]
fn a_second_writer_is_refused() {
    let site = Site::new();
    let _log = site.open();
    let error = AuditLog::open(&site.config, Metrics::new()).unwrap_err();
    assert!(matches!(error, AuditError::InUse(_)), "{error}");
}

#[test]
fn a_closed_log_takes_no_more_records() {
    let site = Site::new();
    let log = site.open();
    log.close().unwrap();
    assert_eq!(log.append(second(1), Event::Stopped).unwrap_err(), AuditUnavailable);
}

#[test]
fn an_event_that_is_too_large_to_keep_is_refused() {
    let site = Site::new();
    let log = site.open();
    let huge = decision_on(1, &"a".repeat(record::MAX_EVENT), Verdict::Permit);
    assert_eq!(log.append(second(1), huge).unwrap_err(), AuditUnavailable);
    let large = decision_on(1, &"a".repeat(record::MAX_EVENT - 2000), Verdict::Permit);
    assert!(log.append(second(1), large).is_ok());
    log.close().unwrap();
    site.write(2, 1);
    assert_eq!(verify(site.directory()).unwrap().records, 2);
}

#[test]
fn records_of_many_threads_and_runtimes_are_all_kept_in_order() {
    let site = Site::new().with_segments_of(50_000);
    let log = Arc::new(site.open());
    let threads: Vec<_> = (0..8)
        .map(|thread| {
            let log = Arc::clone(&log);
            std::thread::spawn(move || {
                let mut last = 0;
                for number in 0..100 {
                    let ticket = log.append(second(number), decision(number)).unwrap();
                    assert!(ticket.sequence() > last);
                    last = ticket.sequence();
                    if number % 10 == thread {
                        runtime().block_on(ticket.durable()).unwrap();
                    }
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    log.close().unwrap();
    let report = verify(site.directory()).unwrap();
    assert_eq!((report.records, report.bad), (800, None));
    assert!(site.metrics.render().contains("wicketgate_audit_records_total 800"));
}

#[tokio::test]
async fn a_subscriber_sees_the_lines_as_they_are_in_the_file() {
    let site = Site::new();
    let log = site.open();
    let mut lines = log.subscribe();
    log.append(second(1), decision(1)).unwrap().durable().await.unwrap();
    log.append(second(2), decision(2)).unwrap().durable().await.unwrap();
    let (first, second) = (lines.recv().await.unwrap(), lines.recv().await.unwrap());
    let text = std::fs::read_to_string(&site.segments()[0]).unwrap();
    assert_eq!(text, format!("{first}\n{second}\n"));
}

#[tokio::test]
async fn buffered_records_are_all_there_after_a_change_of_files() {
    let site = Site::new().with_segments_of(1);
    let log = site.open();
    let mut lines = log.subscribe();
    for number in 0..20 {
        let _ticket = log.append(second(number), decision(number)).unwrap();
        lines.recv().await.unwrap();
    }
    log.close().unwrap();
    let report = verify(site.directory()).unwrap();
    assert_eq!((report.segments, report.records, report.bad), (20, 20, None));
}
