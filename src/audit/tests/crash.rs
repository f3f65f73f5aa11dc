//! SIGKILL in the middle of writing, many times, over one log.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use super::*;

const DIRECTORY: &str = "WICKETGATE_TEST_AUDIT_DIRECTORY";
const ROUNDS: usize = 100;

/// The process that is killed: appends without end and says which records are acknowledged.
#[test]
#[ignore = "runs as a child of the next test"]
fn child() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    let mut config = config(Path::new(&directory));
    config.segment_bytes = 40_000;
    let log = AuditLog::open(&config, Metrics::new()).unwrap();
    let runtime = runtime();
    let mut out = std::io::stdout();
    for number in 0.. {
        // A few that nobody waits for, so that a batch is on its way when the end comes.
        for _ in 0..number % 7 {
            let _ = log.append(second(number), decision(number));
        }
        let ticket = log.append(second(number), decision(number)).unwrap();
        let sequence = ticket.sequence();
        runtime.block_on(ticket.durable()).unwrap();
        writeln!(out, "\nkept {sequence} {}", id(number)).unwrap();
        out.flush().unwrap();
    }
}

#[test]
fn what_was_acknowledged_survives_a_hundred_kills() {
    let site = Site::new();
    let mut kept: Vec<(u64, String)> = Vec::new();
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "audit::tests::crash::child", "--ignored", "--nocapture"])
            .env(DIRECTORY, site.directory())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut take = |kept: &mut Vec<_>| {
            let line = lines.by_ref().map_while(Result::ok).find(|line| line.starts_with("kept "));
            let line = line?;
            let mut words = line.split(' ').skip(1);
            let sequence = words.next()?.parse().ok()?;
            kept.push((sequence, words.next()?.to_owned()));
            Some(())
        };
        // Killed after a different number of records each time, wherever the writer is then.
        for _ in 0..=round % 13 {
            take(&mut kept).expect("the child went on");
        }
        child.kill().unwrap();
        while take(&mut kept).is_some() {}
        child.wait().unwrap();
    }
    site.open().close().unwrap();
    let report = verify(site.directory()).unwrap();
    assert_eq!(report.bad, None);
    assert!(site.segments().len() > 1);
    let records = site.records();
    assert_eq!(u64::try_from(records.len()).unwrap(), report.records);
    for (sequence, id) in kept {
        let record = &records[usize::try_from(sequence).unwrap() - 1];
        assert_eq!(record.sequence, sequence);
        assert_eq!(super::record::id(&record.event).unwrap().to_string(), id);
    }
}
