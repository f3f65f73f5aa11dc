//! How deep a policy may go, found out before anything recursive sees it.
//!
//! Policies are untrusted input: a generated file with thousands of `||` is valid Cedar, and its
//! parser and validator go one level deeper for each. A stack that runs out can't be caught; it
//! ends the process, and every connection with it.
//!
//! INVARIANT: an expression is never deeper than its brackets and its chaining operators
//! together, and both are counted here, over plain text, in one pass and without recursion.

/// Most brackets open at a time.
const MAX_NESTING: usize = 32;
/// Most operators that chain (`&&`, `||`, `+`, `-`, `*`, `!`, `if`, `.f().g()`) in one policy.
/// Measured with Cedar 4.14 unoptimised: 500 fit into 2 MiB of stack, and 100 brackets do.
const MAX_OPERATORS: usize = 256;
/// Longest `a.b.c`.
const MAX_MEMBERS: usize = 32;
/// The stack for parsing and validating, in bytes.
pub(super) const STACK: usize = 32 * 1024 * 1024;

/// What is too deep, and where it was noticed or where its policy starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Excess {
    #[error("more than {MAX_NESTING} brackets are nested")]
    Nesting { line: u32 },
    #[error("the policy has more than {MAX_OPERATORS} operators")]
    Operators { line: u32 },
    #[error("more than {MAX_MEMBERS} names are chained with `.`")]
    Members { line: u32 },
}

impl Excess {
    pub(super) fn line(&self) -> u32 {
        match self {
            Self::Nesting { line } | Self::Operators { line } | Self::Members { line } => *line,
        }
    }
}

pub(super) fn check_policies(text: &str) -> Result<(), Excess> {
    Scan::default().run(text, false)
}

/// A schema nests with `<` and `>` too, and has no operators.
pub(super) fn check_schema(text: &str) -> Result<(), Excess> {
    Scan::default().run(text, true)
}

/// What Cedar's lexer skips. Outside texts and comments, a character past ASCII is a space to it,
/// or an error.
fn is_space(byte: u8) -> bool {
    byte.is_ascii_whitespace() || byte == 0x0b || !byte.is_ascii()
}

#[derive(Default)]
struct Scan {
    line: u32,
    nesting: usize,
    operators: usize,
    members: usize,
    /// The last byte that was neither space nor comment.
    previous: u8,
    /// The letters of the word that is being read are `i`, `if`, or others.
    word: Word,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Word {
    #[default]
    None,
    I,
    If,
    Other,
}

impl Scan {
    fn run(mut self, text: &str, angles: bool) -> Result<(), Excess> {
        self.line = 1;
        let mut bytes = text.bytes().peekable();
        while let Some(byte) = bytes.next() {
            match byte {
                b'\n' => self.line = self.line.saturating_add(1),
                b'/' if bytes.peek() == Some(&b'/') => {
                    // As in Cedar's lexer, a carriage return ends a comment too.
                    while bytes.peek().is_some_and(|next| !matches!(next, b'\n' | b'\r')) {
                        bytes.next();
                    }
                    continue;
                }
                b'"' => {
                    while let Some(inner) = bytes.next() {
                        match inner {
                            b'\\' => {
                                bytes.next();
                            }
                            b'\n' => self.line = self.line.saturating_add(1),
                            b'"' => break,
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
            self.step(byte, angles)?;
        }
        Ok(())
    }

    fn step(&mut self, byte: u8, angles: bool) -> Result<(), Excess> {
        let is_word = byte.is_ascii_alphanumeric() || byte == b'_';
        if !is_word && std::mem::take(&mut self.word) == Word::If {
            self.operators += 1;
        }
        let after_call = matches!(self.previous, b')' | b']');
        match byte {
            b'(' | b'{' => self.nesting += 1,
            b'[' => {
                self.nesting += 1;
                self.operators += usize::from(after_call);
            }
            b'<' if angles => self.nesting += 1,
            b')' | b'}' | b']' => self.nesting = self.nesting.saturating_sub(1),
            b'>' if angles => self.nesting = self.nesting.saturating_sub(1),
            b'.' if after_call => self.operators += 1,
            b'.' => self.members += 1,
            b'&' | b'|' if self.previous == byte => self.operators += 1,
            b'+' | b'-' | b'*' | b'!' => self.operators += 1,
            b';' => self.operators = 0,
            _ if is_word => {
                self.word = match (self.word, byte) {
                    (Word::None, b'i') => Word::I,
                    (Word::I, b'f') => Word::If,
                    _ => Word::Other,
                };
            }
            _ => {}
        }
        if !is_word && byte != b'.' && !is_space(byte) {
            self.members = 0;
        }
        if !is_space(byte) {
            self.previous = byte;
        }
        let line = self.line;
        if self.nesting > MAX_NESTING {
            return Err(Excess::Nesting { line });
        }
        if self.operators > MAX_OPERATORS && !angles {
            return Err(Excess::Operators { line });
        }
        if self.members > MAX_MEMBERS {
            return Err(Excess::Members { line });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_in_texts_and_comments_does_not_count() {
        let many = "(&&".repeat(1000);
        let text =
            format!("// {many}\npermit(principal, action, resource) when {{ \"\\\"{many}\" }};");
        assert_eq!(check_policies(&text), Ok(()));
    }

    #[test]
    fn a_comment_ends_where_cedar_ends_it() {
        let text = format!("// so\r{}", "(".repeat(1000));
        assert_eq!(check_policies(&text), Err(Excess::Nesting { line: 1 }));
    }

    #[test]
    fn each_policy_of_a_file_has_its_own_count() {
        let policy = format!("permit(p, a, r) when {{ {} }};\n", vec!["a"; 200].join(" && "));
        assert_eq!(check_policies(&policy.repeat(50)), Ok(()));
    }

    #[test]
    fn every_way_to_go_deep_is_seen() {
        let deep: [(&str, &str); 11] = [
            ("a || ", "operators"),
            ("1 + ", "operators"),
            ("!", "operators"),
            ("if a then b else ", "operators"),
            ("f(x).", "operators"),
            ("f(x)\u{a0}.", "operators"),
            ("f(x)\u{b} // so\n.", "operators"),
            ("a[\"b\"][\"c\"]", "operators"),
            ("[", "nested"),
            ("{a: ", "nested"),
            ("a.", "chained"),
        ];
        for (part, said) in deep {
            let excess = check_policies(&format!("\n{}", part.repeat(1000))).unwrap_err();
            assert!(excess.to_string().contains(said), "{part}: {excess}");
            assert!(excess.line() >= 2);
        }
        assert!(check_schema(&"Set<".repeat(100)).is_err());
    }
}
