//! Writing to the terminal. A reader that went away (`| head`) is no error.

use std::fmt::Display;
use std::io::{self, Write};

use crate::config::finding::{Finding, Severity};

/// One line on standard output.
pub fn say(line: impl Display) {
    let _ = writeln!(io::stdout().lock(), "{line}");
}

/// One line on standard error.
pub fn complain(line: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// All findings and, in a last line, how many there are.
pub fn findings(findings: &[Finding]) {
    let mut out = io::stderr().lock();
    for finding in findings {
        let _ = writeln!(out, "{finding}");
    }
    let errors = findings.iter().filter(|finding| finding.severity == Severity::Error).count();
    let warnings = findings.len() - errors;
    if !findings.is_empty() {
        let _ = writeln!(out, "{} and {}", count(errors, "error"), count(warnings, "warning"));
    }
}

pub fn count(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}
