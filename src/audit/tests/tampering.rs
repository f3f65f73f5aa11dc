//! Every way to change a log that `verify` promises to find.

use proptest::prelude::*;

use super::*;

/// A file and its lines.
type Lines = (PathBuf, Vec<Vec<u8>>);

/// A log of three segments with three records each, as lines.
fn whole() -> (Site, Vec<Lines>) {
    let site = Site::new().with_segments_of(1500);
    site.write(0, 9);
    let files = site.segments().into_iter().map(|path| {
        let bytes = std::fs::read(&path).unwrap();
        let lines = bytes.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
        (path, lines)
    });
    let files: Vec<Lines> = files.collect();
    assert!(files.len() >= 3, "{}", files.len());
    (site, files)
}

fn put(path: &Path, lines: &[Vec<u8>]) {
    std::fs::write(path, lines.concat()).unwrap();
}

fn found(site: &Site) -> BadRecord {
    verify(site.directory()).unwrap().bad.expect("it was found")
}

#[test]
fn a_changed_record_is_named_with_its_place() {
    let (site, files) = whole();
    let (path, lines) = &files[1];
    let mut lines = lines.clone();
    let text = String::from_utf8(lines[1].clone()).unwrap();
    lines[1] = text.replace("\"/documents\"", "\"/nothing\"").into_bytes();
    put(path, &lines);
    let sequence = u64::try_from(files[0].1.len()).unwrap() + 2;
    let bad = BadRecord { file: path.clone(), line: 2, sequence, flaw: Flaw::Changed };
    assert_eq!(found(&site), bad);
    assert_eq!(verify(site.directory()).unwrap().records, sequence - 1);
}

#[test]
fn a_removed_record_is_named_by_the_sequence_that_is_missing() {
    let (site, files) = whole();
    let (path, lines) = &files[0];
    put(path, &lines[1..]);
    let flaw = Flaw::Sequence { expected: 1, found: 2 };
    assert_eq!(found(&site), BadRecord { file: path.clone(), line: 1, sequence: 1, flaw });
}

#[test]
fn a_record_forged_with_a_hash_of_its_own_does_not_fit_the_chain() {
    let (site, files) = whole();
    let (path, lines) = &files[0];
    let mut chain = chain::Chain {
        next: 2,
        previous: *b"00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff",
    };
    let mut forged = Vec::new();
    chain.append(second(1), br#"{"event":"stopped"}"#, &mut forged);
    put(path, &[lines[0].clone(), forged]);
    assert_eq!(found(&site).flaw, Flaw::Previous);
}

#[test]
fn a_missing_file_is_found() {
    for missing in [0, 1] {
        let (site, files) = whole();
        std::fs::remove_file(&files[missing].0).unwrap();
        assert!(matches!(found(&site).flaw, Flaw::FileName { .. }));
    }
}

#[test]
fn a_file_cut_in_the_middle_is_found() {
    let (site, files) = whole();
    let (path, lines) = &files[1];
    put(path, &lines[..lines.len() - 1]);
    assert!(matches!(found(&site).flaw, Flaw::FileName { .. }));
    let mut cut = lines.concat();
    cut.truncate(cut.len() - 10);
    std::fs::write(path, cut).unwrap();
    assert_eq!(found(&site).flaw, Flaw::Unfinished);
}

#[test]
fn a_damaged_log_is_not_continued() {
    let (site, files) = whole();
    let (path, lines) = files.last().unwrap();
    let mut lines = lines.clone();
    lines[0][40] ^= 1;
    put(path, &lines);
    let error = AuditLog::open(&site.config, Metrics::new()).unwrap_err();
    assert!(matches!(error, AuditError::Damaged(_)), "{error}");
    std::fs::remove_file(path).unwrap();
    std::fs::remove_file(&files[files.len() - 2].0).unwrap();
    put(path, &files.last().unwrap().1);
    let error = AuditLog::open(&site.config, Metrics::new()).unwrap_err();
    assert!(matches!(error, AuditError::Damaged(_)), "{error}");
}

#[test]
fn a_log_whose_last_file_is_empty_and_misnamed_is_not_continued() {
    let site = Site::new();
    site.write(0, 3);
    drop(segment::Segment::create(site.directory(), 9).unwrap());
    let error = AuditLog::open(&site.config, Metrics::new()).unwrap_err();
    assert!(matches!(error, AuditError::Damaged(_)), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_tampering_but_a_cut_tail_is_found(
        kind in 0..6_u8,
        file in any::<prop::sample::Index>(),
        line in any::<prop::sample::Index>(),
        other in any::<prop::sample::Index>(),
        byte in any::<prop::sample::Index>(),
        value in 1..=255_u8,
    ) {
        thread_local! {
            static WHOLE: (Site, Vec<Lines>) = whole();
        }
        WHOLE.with(|(site, files)| {
            let (path, good) = file.get(files);
            let last_file = path == &files.last().unwrap().0;
            let mut lines = good.clone();
            let (at, to) = (line.index(lines.len()), other.index(lines.len()));
            let expected = match kind {
                // one byte changed, the line feed included
                0 => {
                    let byte = byte.index(lines[at].len());
                    lines[at][byte] ^= value;
                    Some(at)
                }
                1 if !(last_file && at + 1 == lines.len()) => {
                    lines.remove(at);
                    Some(at)
                }
                2 => {
                    let copy = lines[at].clone();
                    lines.insert(to, copy);
                    Some(if to == at { at + 1 } else { to })
                }
                3 if at != to => {
                    lines.swap(at, to);
                    Some(at.min(to))
                }
                // bytes put in or taken out
                4 => {
                    let byte = byte.index(lines[at].len());
                    lines[at].insert(byte, value);
                    Some(at)
                }
                5 => {
                    let byte = byte.index(lines[at].len());
                    lines[at].remove(byte);
                    Some(at)
                }
                _ => None,
            };
            let Some(expected) = expected else { return };
            put(path, &lines);
            let report = verify(site.directory()).unwrap();
            put(path, good);
            let bad = report.bad.expect("found");
            let moved_on = expected == lines.len() && !last_file;
            assert!(&bad.file == path || moved_on, "{bad}");
            assert!(bad.line <= u64::try_from(expected).unwrap() + 1, "{bad} for {expected}");
            assert!(verify(site.directory()).unwrap().is_good());
        });
    }
}
