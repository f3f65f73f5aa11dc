use super::*;

#[test]
fn a_torn_last_line_is_moved_aside_and_the_chain_goes_on() {
    let site = Site::new();
    site.write(0, 3);
    let path = site.segments()[0].clone();
    let whole = std::fs::read(&path).unwrap();
    for cut in [1, 30, 200] {
        let torn = &whole[..whole.len() - cut];
        std::fs::write(&path, torn).unwrap();
        let bad = verify(site.directory()).unwrap().bad.unwrap();
        assert_eq!((bad.line, bad.flaw), (3, Flaw::Unfinished));
        site.open().close().unwrap();
        assert_eq!(verify(site.directory()).unwrap().records, 2);
        let kept = std::fs::read(&path).unwrap();
        let beside = path.with_file_name(format!(
            "{}.{}.torn",
            path.file_name().unwrap().to_str().unwrap(),
            kept.len()
        ));
        assert_eq!([kept, std::fs::read(beside).unwrap()].concat(), torn);
    }
    site.write(10, 1);
    let report = verify(site.directory()).unwrap();
    assert_eq!((report.records, report.bad), (3, None));
}

#[test]
fn an_empty_last_file_is_continued() {
    let site = Site::new().with_segments_of(1);
    site.write(0, 3);
    let (_, file) = segment::Segment::create(site.directory(), 4).unwrap();
    drop(file);
    site.write(3, 2);
    let report = verify(site.directory()).unwrap();
    assert_eq!((report.records, report.bad), (5, None));
}

#[test]
fn a_log_that_is_being_written_verifies() {
    let site = Site::new();
    let log = site.open();
    let ticket = log.append(second(1), decision(1)).unwrap();
    runtime().block_on(ticket.durable()).unwrap();
    let path = &site.segments()[0];
    let mut half = std::fs::read(path).unwrap();
    half.extend_from_slice(b"{\"seq\":2,\"at\"");
    std::fs::write(path, &half).unwrap();
    let report = verify(site.directory()).unwrap();
    assert_eq!((report.records, report.bad), (1, None));
    drop(log);
    assert_eq!(verify(site.directory()).unwrap().bad.unwrap().flaw, Flaw::Unfinished);
}

#[test]
fn a_decision_is_found_by_its_id_in_any_segment() {
    let site = Site::new().with_segments_of(1500);
    site.write(0, 20);
    for number in [0, 7, 19] {
        let record = find_decision(site.directory(), id(number)).unwrap().unwrap();
        assert_eq!(record.event, decision(number));
    }
    assert_eq!(find_decision(site.directory(), id(20)).unwrap(), None);
}

#[test]
fn a_decision_recorded_while_the_clock_was_wrong_is_found_too() {
    let site = Site::new().with_segments_of(1);
    site.write(0, 2);
    let log = site.open();
    // Its id is weeks ahead of the records around it.
    let ticket = log.append(second(3), decision(5_000_000)).unwrap();
    runtime().block_on(ticket.durable()).unwrap();
    log.close().unwrap();
    site.write(100_000, 2);
    let record = find_decision(site.directory(), id(5_000_000)).unwrap().unwrap();
    assert_eq!(record.sequence, 3);
}

#[test]
fn an_id_that_a_client_put_into_a_path_finds_nothing() {
    let site = Site::new();
    let log = site.open();
    let path = format!("/{}", id(5));
    let _ticket = log.append(second(6), decision_on(6, &path, Verdict::Deny)).unwrap();
    log.close().unwrap();
    assert_eq!(find_decision(site.directory(), id(5)).unwrap(), None);
}

#[test]
fn the_id_of_a_refusal_finds_it() {
    let site = Site::new();
    let log = site.open();
    let event = Event::Refused {
        id: id(1),
        reason: "no-route".into(),
        detail: "no route has this host".to_owned(),
        status: 404,
        source: "::1".parse().unwrap(),
        host: Some("elsewhere".to_owned()),
        path: None,
        method: None,
        principal: None,
    };
    let _ticket = log.append(second(1), event.clone()).unwrap();
    log.close().unwrap();
    assert_eq!(find_decision(site.directory(), id(1)).unwrap().unwrap().event, event);
}

#[test]
fn a_query_gives_what_every_part_of_its_filter_wants() {
    let site = Site::new().with_segments_of(3000);
    site.write(0, 30);
    let log = site.open();
    let _ticket = log.append(second(30), Event::Stopped).unwrap();
    log.close().unwrap();
    let numbers = |filter: Filter| -> Vec<u64> {
        query(site.directory(), filter)
            .unwrap()
            .map(|record| record.unwrap().sequence - 1)
            .collect()
    };
    let every = |condition: fn(u64) -> bool| (0..30).filter(|n| condition(*n)).collect::<Vec<_>>();
    let principal = Filter { principal: Some("demo/ada".to_owned()), ..Filter::default() };
    assert_eq!(numbers(principal), every(|n| n % 3 == 0));
    let verdict = Filter { verdict: Some(Verdict::Deny), ..Filter::default() };
    assert_eq!(numbers(verdict), every(|n| n % 2 == 1));
    let route = Filter { route: Some("ics".to_owned()), ..Filter::default() };
    assert_eq!(numbers(route), every(|n| n % 5 == 0));
    let event = Filter { event: Some("stopped".to_owned()), ..Filter::default() };
    assert_eq!(numbers(event), [30]);
    let time = Filter { since: Some(second(10)), until: Some(second(13)), ..Filter::default() };
    assert_eq!(numbers(time), [10, 11, 12]);
    let all = Filter {
        principal: Some("demo/ada".to_owned()),
        verdict: Some(Verdict::Permit),
        route: Some("ics".to_owned()),
        ..Filter::default()
    };
    assert_eq!(numbers(all), [0]);
}

#[test]
fn a_policy_set_is_kept_under_its_hash() {
    let site = Site::new();
    site.write(0, 1);
    let hash = PolicySetHash("ab12".into());
    assert_eq!(load_policy_set(site.directory(), &hash).unwrap(), None);
    archive_policy_set(site.directory(), &hash, b"{}").unwrap();
    archive_policy_set(site.directory(), &hash, b"another").unwrap();
    assert_eq!(load_policy_set(site.directory(), &hash).unwrap().unwrap(), b"{}");
    assert!(verify(site.directory()).unwrap().is_good());
    assert!(site.folder.path().join("audit/policy-sets/ab12.json").exists());
}

#[test]
fn a_hash_that_is_a_path_is_refused() {
    let site = Site::new();
    for hash in ["../../secret", "", "a/b", "a.b", &"a".repeat(129)] {
        let hash = PolicySetHash(hash.into());
        assert!(load_policy_set(site.directory(), &hash).is_err());
        assert!(archive_policy_set(site.directory(), &hash, b"").is_err());
    }
}
