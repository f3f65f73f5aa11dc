//! What this machine doesn't let a test check. `cargo test` shows nothing that a test which passes
//! says, so `./test` asks for it in a file and repeats it at its end.

use std::io::Write as _;

pub fn not_checked(why: &str) {
    eprintln!("NOT CHECKED: {why}");
    if let Some(path) = std::env::var_os("WICKETGATE_NOT_CHECKED") {
        let file = std::fs::OpenOptions::new().append(true).create(true).open(path);
        writeln!(file.unwrap(), "NOT CHECKED: {why}").unwrap();
    }
}
