//! Changes seeds a little, again and again, always in the same way for the same seed.

/// Longest input, in bytes.
pub const LONGEST: usize = 8192;

pub struct Mutator {
    state: u64,
    words: &'static [&'static [u8]],
    input: Vec<u8>,
}

impl Mutator {
    pub fn new(seed: u64, words: &'static [&'static [u8]]) -> Self {
        Self { state: seed | 1, words, input: Vec::new() }
    }

    /// xorshift64*: any spread-out numbers do.
    fn random(&mut self) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn below(&mut self, limit: usize) -> usize {
        if limit == 0 { 0 } else { (self.random() % limit as u64) as usize }
    }

    /// The next input: a seed with one to eight changes, or the last input with more of them.
    pub fn next(&mut self, seeds: &[Vec<u8>]) -> &[u8] {
        if self.input.is_empty() || self.below(3) > 0 {
            let seed = self.below(seeds.len());
            self.input.clone_from(&seeds[seed]);
        }
        for _ in 0..=self.below(8) {
            self.change(seeds);
        }
        self.input.truncate(LONGEST);
        &self.input
    }

    fn change(&mut self, seeds: &[Vec<u8>]) {
        let length = self.input.len();
        let at = self.below(length + 1);
        let end = (at + 1 + self.below(24)).min(length).max(at);
        let byte = self.random() as u8;
        match self.below(10) {
            0 if at < length => self.input[at] ^= 1 << (byte & 7),
            1 if at < length => self.input[at] = byte,
            2 => self.input.insert(at, byte),
            3 => drop(self.input.drain(at..end)),
            4 => {
                let copy = self.input[at..end].to_vec();
                let to = self.below(length + 1);
                self.input.splice(to..to, copy);
            }
            5 => {
                // The end of another seed behind this one's beginning.
                let other = &seeds[self.below(seeds.len())];
                let from = self.below(other.len() + 1);
                self.input.truncate(at);
                self.input.extend_from_slice(&other[from..]);
            }
            6 if self.below(4) == 0 => self.input.truncate(at),
            _ if !self.words.is_empty() => {
                let word = self.words[self.below(self.words.len())];
                let replaced = if self.below(2) == 0 { at..at } else { at..end };
                self.input.splice(replaced, word.iter().copied());
            }
            _ => self.input.insert(at, byte),
        }
    }
}
