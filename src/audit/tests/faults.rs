//! A disk that is full, or that fails to sync, and then is well again.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::*;
use crate::audit::writer::Medium;
use crate::domain::event::FromNetwork;

/// A disk with faults to switch on.
#[derive(Clone, Default)]
struct Faulty(Arc<Faults>);

#[derive(Default)]
struct Faults {
    /// Set: no byte past this offset fits.
    full_at: AtomicU64,
    full: AtomicBool,
    sync_fails: AtomicBool,
    syncs: AtomicU64,
    /// Locked: a sync takes for as long as that.
    hangs: Mutex<()>,
}

impl Medium for Faulty {
    fn write(&mut self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        if self.0.full.load(Ordering::SeqCst) {
            let room = self.0.full_at.load(Ordering::SeqCst).saturating_sub(offset);
            let room = usize::try_from(room).unwrap();
            if room < bytes.len() {
                file.write_all_at(&bytes[..room], offset)?;
                return Err(io::ErrorKind::StorageFull.into());
            }
        }
        file.write_all_at(bytes, offset)
    }

    fn sync(&mut self, file: &File) -> io::Result<()> {
        drop(self.0.hangs.lock());
        if self.0.sync_fails.load(Ordering::SeqCst) {
            // As after a real one: what was not on the disk yet is gone, and the next sync
            // will succeed.
            let length = file.metadata()?.len();
            file.write_all_at(&vec![0; usize::try_from(length).unwrap()], 0)?;
            return Err(io::Error::other("sync failed"));
        }
        self.0.syncs.fetch_add(1, Ordering::SeqCst);
        file.sync_data()
    }
}

fn open(site: &Site, disk: &Faulty) -> AuditLog {
    AuditLog::open_on(&site.config, Arc::clone(&site.metrics), Box::new(disk.clone())).unwrap()
}

#[tokio::test]
async fn on_a_full_disk_access_is_denied_and_afterwards_nothing_is_missing() {
    let site = Site::new().with_queue_of(4);
    let disk = Faulty::default();
    let log = open(&site, &disk);
    log.append(second(0), decision(0)).unwrap().durable().await.unwrap();
    let whole = std::fs::read(&site.segments()[0]).unwrap();

    // Room for half a record more.
    disk.0.full_at.store(u64::try_from(whole.len()).unwrap() + 300, Ordering::SeqCst);
    disk.0.full.store(true, Ordering::SeqCst);
    let refused = log.append(second(1), decision(1)).unwrap().durable().await;
    assert_eq!(refused, Err(AuditUnavailable));
    assert!(!log.healthy());
    assert!(site.metrics.render().contains("wicketgate_audit_healthy 0"));
    // Three more fit into the queue beside the one that the writer holds.
    for number in 2..5 {
        let _ticket = log.append(second(number), decision(number)).unwrap();
    }
    assert_eq!(log.append(second(5), decision(5)).unwrap_err(), AuditUnavailable);
    assert_eq!(std::fs::read(&site.segments()[0]).unwrap(), whole, "no half a record is left");

    disk.0.full.store(false, Ordering::SeqCst);
    let mut progress = log.shared_for_tests().progress.subscribe();
    progress.wait_for(|now| now.synced == 6).await.unwrap();
    log.append(second(6), decision(6)).unwrap().durable().await.unwrap();
    assert!(log.healthy());
    log.close().unwrap();
    let report = verify(site.directory()).unwrap();
    assert_eq!((report.records, report.bad), (6, None));
    let ids: Vec<_> = site.records().iter().map(|r| super::record::id(&r.event).unwrap()).collect();
    assert_eq!(ids, [0, 1, 2, 3, 4, 6].map(id));
}

#[tokio::test]
async fn refusals_fill_half_of_a_stalled_log_and_leave_the_rest_to_access() {
    let site = Site::new().with_queue_of(8);
    let disk = Faulty::default();
    disk.0.full.store(true, Ordering::SeqCst);
    let log = open(&site, &disk);
    let source = "192.0.2.7".parse().unwrap();
    let refused = Stranger { reason: "cross-site", source, begun: Instant::now() };
    for number in 0..20 {
        log.append_refusal(second(number), &refused, || refusal(number));
    }
    for number in 20..24 {
        let _ticket = log.append(second(number), decision(number)).unwrap();
    }
    assert_eq!(log.append(second(24), decision(24)).unwrap_err(), AuditUnavailable);
    let metrics = site.metrics.render();
    assert!(metrics.contains("wicketgate_audit_summarised_total 16"), "{metrics}");
    assert!(metrics.contains("wicketgate_audit_denied_total 1"), "{metrics}");

    disk.0.full.store(false, Ordering::SeqCst);
    let mut progress = log.shared_for_tests().progress.subscribe();
    progress.wait_for(|now| now.synced == 9).await.unwrap();
    log.summarise_last(second(25));
    log.close().unwrap();
    let records = site.records();
    let ids: Vec<_> =
        records.iter().take(8).map(|r| super::record::id(&r.event).unwrap()).collect();
    assert_eq!(ids, [0, 1, 2, 3, 20, 21, 22, 23].map(id));
    let [last] = &records[8..] else { panic!("{records:?}") };
    assert!(matches!(&last.event, Event::RefusalsCounted { count: 16, .. }), "{last:?}");
}

#[test]
fn refusals_for_which_there_is_no_room_are_counted_until_there_is() {
    let site = Site::new().with_queue_of(8);
    let disk = Faulty::default();
    disk.0.full.store(true, Ordering::SeqCst);
    let log = open(&site, &disk);
    let source = "192.0.2.7".parse().unwrap();
    let stranger = Stranger { reason: "unauthenticated", source, begun: Instant::now() };
    for number in 0..10 {
        log.append_stranger(second(number), &stranger, || refusal(number));
    }
    log.summarise(second(10));
    disk.0.full.store(false, Ordering::SeqCst);
    let mut progress = log.shared_for_tests().progress.subscribe();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        progress.wait_for(|now| now.synced == 5).await.unwrap();
    });
    log.summarise(second(11));
    log.summarise(second(12));
    log.close().unwrap();
    let records = site.records();
    let ids: Vec<_> = records.iter().take(4).map(|r| super::record::id(&r.event)).collect();
    assert_eq!(ids, [0, 1, 2, 3].map(|number| Some(id(number))));
    let [last] = &records[4..] else { panic!("{records:?}") };
    assert_eq!(last.at, second(11));
    let networks = vec![FromNetwork { network: "192.0.2.7".into(), count: 6 }];
    assert_eq!(
        last.event,
        Event::RefusalsCounted {
            reason: "unauthenticated".into(),
            count: 6,
            first: second(4),
            last: second(9),
            networks,
        }
    );
    assert_eq!(event_name(&last.event), "refusals-counted");
    assert!(last.line.contains(r#""event":"refusals-counted","reason""#), "{}", last.line);
    assert!(verify(site.directory()).unwrap().is_good());
}

fn refusal(number: i64) -> Event {
    Event::Refused {
        id: id(number),
        reason: "unauthenticated".into(),
        detail: String::new(),
        status: 401,
        source: "192.0.2.7".parse().unwrap(),
        host: None,
        path: None,
        method: None,
        principal: None,
    }
}

#[tokio::test]
async fn after_a_failed_sync_what_was_not_synced_is_written_again() {
    let site = Site::new();
    let disk = Faulty::default();
    disk.0.sync_fails.store(true, Ordering::SeqCst);
    let log = open(&site, &disk);
    let refused = log.append(second(0), decision(0)).unwrap().durable().await;
    assert_eq!(refused, Err(AuditUnavailable));
    disk.0.sync_fails.store(false, Ordering::SeqCst);
    log.close().unwrap();
    let report = verify(site.directory()).unwrap();
    assert_eq!((report.records, report.bad), (1, None));
}

#[tokio::test]
async fn a_log_closed_on_a_full_disk_says_that_records_are_missing() {
    let site = Site::new();
    let disk = Faulty::default();
    disk.0.full.store(true, Ordering::SeqCst);
    let log = open(&site, &disk);
    let ticket = log.append(second(0), decision(0)).unwrap();
    assert_eq!(log.close(), Err(AuditUnavailable));
    assert_eq!(ticket.durable().await, Err(AuditUnavailable));
    assert!(!log.healthy());
}

#[tokio::test]
async fn records_that_wait_together_share_a_sync() {
    let site = Site::new();
    let disk = Faulty::default();
    let log = open(&site, &disk);
    let tickets: Vec<_> =
        (0..100).map(|number| log.append(second(number), decision(number)).unwrap()).collect();
    // The last one first: all before it are then durable as well, without a sync of their own.
    let before = disk.0.syncs.load(Ordering::SeqCst);
    for ticket in tickets.into_iter().rev() {
        ticket.durable().await.unwrap();
    }
    let syncs = disk.0.syncs.load(Ordering::SeqCst) - before;
    assert!(syncs <= 2, "{syncs} syncs");
}

#[tokio::test]
async fn a_disk_that_hangs_without_an_error_is_an_alarm_and_ends_when_it_wakes() {
    let site = Site::new();
    let disk = Faulty::default();
    let log = open(&site, &disk);
    let begun = Instant::now();
    log.look(begun);
    let hanging = disk.0.hangs.lock();
    let ticket = log.append(second(0), decision(0)).unwrap();
    log.look(begun);
    log.look(begun + Duration::from_millis(4999));
    assert!(log.healthy());
    log.look(begun + Duration::from_secs(5));
    assert!(!log.healthy());
    assert!(site.metrics.render().contains("wicketgate_audit_healthy 0"));
    drop(hanging);
    ticket.durable().await.unwrap();
    log.look(begun + Duration::from_secs(6));
    assert!(log.healthy());
    assert!(site.metrics.render().contains("wicketgate_audit_healthy 1"));
}

#[tokio::test]
async fn a_log_that_cannot_be_written_is_not_given_away() {
    let site = Site::new();
    let disk = Faulty::default();
    let log = Arc::new(open(&site, &disk));
    log.append(second(0), decision(0)).unwrap().durable().await.unwrap();
    disk.0.full.store(true, Ordering::SeqCst);
    assert!(log.append(second(1), decision(1)).unwrap().durable().await.is_err());
    // In the middle of its tries, and after them.
    for _ in 0..2 {
        let releasing = Arc::clone(&log);
        let released = tokio::task::spawn_blocking(move || releasing.release().is_some()).await;
        assert!(!released.unwrap());
    }
    disk.0.full.store(false, Ordering::SeqCst);
    while !log.healthy() {
        std::thread::yield_now();
    }
    drop(log.release().expect("one that is well again is given away"));
    assert_eq!(site.records().len(), 2);
}
