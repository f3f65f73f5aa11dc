//! What is wrong with a configuration, a policy or a certificate, and what to do about it.

use std::fmt;
use std::path::PathBuf;

/// One finding. `check` prints them all; starting and reloading refuse when any is an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub severity: Severity,
    pub file: PathBuf,
    /// From 1.
    pub line: Option<u32>,
    /// Where in a YAML file: `routes[2].upstreams`.
    pub path: Option<String>,
    /// Lower case, no full stop, user input in backticks.
    pub cause: String,
    pub hint: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    Warning,
    Error,
}

impl Finding {
    pub fn error(file: impl Into<PathBuf>, cause: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            file: file.into(),
            line: None,
            path: None,
            cause: cause.into(),
            hint: None,
        }
    }

    pub fn warning(file: impl Into<PathBuf>, cause: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(file, cause) }
    }

    #[must_use]
    pub fn at_line(mut self, line: u32) -> Self {
        self.line = Some(line);
        self
    }

    #[must_use]
    pub fn at_path(mut self, path: impl Into<String>) -> Self {
        self.path = Some(path.into());
        self
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// `error: config/wicketgate.yaml:12: routes[0].upstreem: unknown key ...`, the hint indented below.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        write!(f, "{severity}: {}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if let Some(path) = &self.path {
            write!(f, ": {path}")?;
        }
        write!(f, ": {}", self.cause)?;
        if let Some(hint) = &self.hint {
            write!(f, "\n  hint: {hint}")?;
        }
        Ok(())
    }
}

pub fn has_errors(findings: &[Finding]) -> bool {
    findings.iter().any(|finding| finding.severity == Severity::Error)
}
