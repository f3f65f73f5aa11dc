//! Lines of the audit log as `audit query`, `verify` and `policy explain` read them.

use wicketgate::audit::Record;

pub const WORDS: &[&[u8]] = &[
    b"{\"seq\":",
    b"\"at\":\"",
    b"1970-01-01T00:00:00.000Z",
    b"\",\"prev\":\"",
    b",\"hash\":\"",
    b"\"}",
    b"\"event\":\"stopped\"",
    b"\"event\":\"decision\"",
    b"\"event\":\"refused\"",
    b"null",
    b"[]",
    b"{}",
    b"\\u202e",
    b"\\ud800",
    b"\"",
    b"\\",
    b",",
    b":",
    b"18446744073709551615",
    b"-1",
    b"1e400",
    b"0000000000000000000000000000000000000000000000000000000000000000",
];

pub fn run(data: &[u8]) {
    let Ok(line) = std::str::from_utf8(data) else { return };
    let Some(record) = Record::parse(line) else { return };
    assert_eq!(record.line, line);
    assert!(line.starts_with(&format!("{{\"seq\":{},", record.sequence)));
    assert_eq!(Record::parse(line), Some(record), "a line reads the same twice");
}
