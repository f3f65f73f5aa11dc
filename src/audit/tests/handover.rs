//! Two processes, one log: here two logs of one test on the same directory.

use std::os::unix::net::UnixStream;
use std::thread;

use super::*;

/// A log that was released and opened by a second one, which takes in what the first records.
fn handed_over(site: &Site) -> (AuditLog, Arc<AuditLog>, thread::JoinHandle<()>) {
    let old = site.open();
    append(&old, 1);
    let moving = old.release().unwrap();
    let new = Arc::new(site.open());
    append(&new, 2);
    let (here, there) = UnixStream::pair().unwrap();
    let taking = thread::spawn({
        let new = Arc::clone(&new);
        move || new.take_in(&there).unwrap()
    });
    moving.there(here);
    (old, new, taking)
}

fn append(log: &AuditLog, number: i64) {
    let ticket = log.append(second(number), decision(number)).unwrap();
    runtime().block_on(ticket.durable()).unwrap();
}

fn times(site: &Site) -> Vec<i64> {
    site.records().iter().map(|record| record.at.as_seconds() - DAY).collect()
}

#[test]
fn records_of_both_processes_are_one_chain_and_acknowledged_when_they_are_on_the_disk() {
    let site = Site::new();
    let (old, new, taking) = handed_over(&site);
    for number in 3..40 {
        append(if number % 2 == 0 { &new } else { &old }, number);
        assert!(times(&site).contains(&number), "{number} was acknowledged");
    }
    let _buffered = old.append(second(40), decision(40)).unwrap();
    old.close().unwrap();
    drop(old);
    taking.join().unwrap();
    append(&new, 41);
    new.close().unwrap();
    assert_eq!(times(&site), (1..=41).collect::<Vec<_>>());
    assert_eq!(verify(site.directory()).unwrap().bad, None);
}

#[test]
fn what_is_recorded_in_the_middle_of_a_move_is_kept() {
    let site = Site::new();
    let old = site.open();
    let moving = old.release().unwrap();
    let waiting = old.append(second(1), decision(1)).unwrap();
    let new = Arc::new(site.open());
    let (here, there) = UnixStream::pair().unwrap();
    let taking = thread::spawn({
        let new = Arc::clone(&new);
        move || new.take_in(&there).unwrap()
    });
    assert_eq!(times(&site), [0; 0], "nobody may write it yet");
    moving.there(here);
    runtime().block_on(waiting.durable()).unwrap();
    assert_eq!(times(&site), [1]);
    drop(old);
    taking.join().unwrap();
}

#[test]
fn a_log_that_comes_back_goes_on_after_what_the_other_wrote() {
    let site = Site::new();
    let old = site.open();
    append(&old, 1);
    let moving = old.release().unwrap();
    let waiting = old.append(second(4), decision(4)).unwrap();
    let new = site.open();
    append(&new, 2);
    append(&new, 3);
    drop(new);
    moving.back().unwrap();
    runtime().block_on(waiting.durable()).unwrap();
    assert_eq!(times(&site), [1, 2, 3, 4], "acknowledged no sooner than it is there");
    append(&old, 5);
    old.close().unwrap();
    assert_eq!(times(&site), [1, 2, 3, 4, 5]);
    assert_eq!(verify(site.directory()).unwrap().bad, None);
}

#[test]
fn when_the_process_that_has_the_log_is_gone_nothing_is_acknowledged() {
    let site = Site::new();
    let old = site.open();
    let moving = old.release().unwrap();
    let (here, there) = UnixStream::pair().unwrap();
    moving.there(here);
    drop(there);
    let ticket = old.append(second(1), decision(1)).unwrap();
    assert!(runtime().block_on(ticket.durable()).is_err());
    assert!(!old.healthy());
    while old.append(second(2), decision(2)).is_ok() {
        thread::yield_now();
    }
    assert!(old.release().is_none());
    assert!(old.close().is_err());
}

#[test]
fn a_queue_longer_than_a_frame_is_sent_in_pieces() {
    let site = Site::new();
    let old = site.open();
    let moving = old.release().unwrap();
    // Half of it quotation marks, which are escaped once more on the way.
    let long = format!("\"{}\"", "\\\"".repeat(200 * 1024));
    let number = 100;
    for _ in 0..number {
        let _ = old.enqueue(second(1), long.as_bytes(), u64::MAX).unwrap();
    }
    let last = old.enqueue(second(1), long.as_bytes(), u64::MAX).unwrap();
    let new = Arc::new(site.open());
    let (here, there) = UnixStream::pair().unwrap();
    let taking = thread::spawn({
        let new = Arc::clone(&new);
        move || new.take_in(&there)
    });
    moving.there(here);
    runtime().block_on(last.durable()).unwrap();
    assert!(old.healthy());
    old.close().unwrap();
    drop(old);
    taking.join().unwrap().unwrap();
    new.close().unwrap();
    let verified = verify(site.directory()).unwrap();
    assert_eq!((verified.records, verified.bad), (number + 1, None));
}
