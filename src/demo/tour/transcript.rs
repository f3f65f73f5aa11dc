//! The tour, written down while it is played.

use std::fmt::Write as _;

use super::Checked;
use crate::demo::DemoError;
use crate::demo::terminal::{self, Style};

#[derive(Debug)]
pub(super) struct Transcript {
    style: Style,
    good: usize,
    bad: usize,
}

impl Transcript {
    pub(super) const fn new(style: Style) -> Self {
        Self { style, good: 0, bad: 0 }
    }

    pub(super) fn chapter(&self, title: &str) -> Result<(), DemoError> {
        terminal::show(&format!("\n{}\n", self.style.strong(title)))
    }

    pub(super) fn step(&mut self, what: &str, result: Checked) -> Result<(), DemoError> {
        let (mark, told) = match &result {
            Ok(told) => {
                self.good += 1;
                (self.style.good("✓"), told)
            }
            Err(told) => {
                self.bad += 1;
                (self.style.bad("✗"), told)
            }
        };
        let mut text = format!("  {mark} {what}\n");
        for line in told.lines() {
            let _ = writeln!(text, "      {}", self.style.faint(line));
        }
        terminal::show(&text)
    }

    /// The last line. True when nothing differed.
    pub(super) fn end(&self) -> Result<bool, DemoError> {
        let all = self.good + self.bad;
        let text = match self.bad {
            0 => self.style.good(&format!("All {all} steps went as told.")),
            bad => self.style.bad(&format!("{bad} of {all} steps differ.")),
        };
        terminal::show(&format!("\n{text}\n"))?;
        Ok(self.bad == 0)
    }
}
