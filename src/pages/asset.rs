//! What pages load: one style sheet and one picture, compiled in.
//!
//! Their addresses carry a hash of their content, so that browsers may keep them for ever and
//! still never see an old one.

/// A file that the gate serves itself, to anyone.
#[derive(Clone, Copy, Debug)]
pub struct Asset {
    path: [u8; PATH_LENGTH],
    length: usize,
    content_type: &'static str,
    bytes: &'static [u8],
}

const PATH_LENGTH: usize = 64;

/// Every asset's path starts with this.
pub const PREFIX: &str = "/.wicketgate/assets/";

/// What goes with every asset: the address changes when the content does.
pub const CACHE_CONTROL: &str = "public, max-age=31536000, immutable";

pub const STYLESHEET: Asset = Asset::new(
    "/.wicketgate/assets/wicketgate-",
    ".css",
    "text/css; charset=utf-8",
    include_bytes!("../../templates/assets/wicketgate.css"),
);

/// The emblem: a small open door in a big gate.
pub const EMBLEM: Asset = Asset::new(
    "/.wicketgate/assets/gate-",
    ".svg",
    "image/svg+xml",
    include_bytes!("../../templates/assets/gate.svg"),
);

/// The content type and bytes of an asset, by its whole path.
pub fn find(path: &str) -> Option<(&'static str, &'static [u8])> {
    [STYLESHEET, EMBLEM]
        .into_iter()
        .find(|asset| asset.path() == path)
        .map(|asset| (asset.content_type, asset.bytes))
}

impl Asset {
    const fn new(
        stem: &str,
        extension: &str,
        content_type: &'static str,
        bytes: &'static [u8],
    ) -> Self {
        let mut path = [0; PATH_LENGTH];
        let mut length = append(&mut path, 0, stem.as_bytes());
        length = append(&mut path, length, &hexadecimal(fnv1a(bytes)));
        length = append(&mut path, length, extension.as_bytes());
        Self { path, length, content_type, bytes }
    }

    /// Where it is served: `/.wicketgate/assets/<name>-<hash>.<extension>`.
    pub fn path(&self) -> &str {
        let used = self.path.get(..self.length).unwrap_or_default();
        std::str::from_utf8(used).unwrap_or_default()
    }
}

#[expect(
    clippy::indexing_slicing,
    reason = "only evaluated at compile time, where it would not compile"
)]
const fn append(to: &mut [u8; PATH_LENGTH], mut at: usize, text: &[u8]) -> usize {
    let mut index = 0;
    while index < text.len() {
        to[at] = text[index];
        at += 1;
        index += 1;
    }
    at
}

/// FNV-1a, 64 bits: tells versions apart, defends nothing.
#[expect(
    clippy::indexing_slicing,
    reason = "only evaluated at compile time, where it would not compile"
)]
const fn fnv1a(bytes: &[u8]) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let mut index = 0;
    while index < bytes.len() {
        hash ^= bytes[index] as u64;
        hash = hash.wrapping_mul(0x0000_0100_0000_01b3);
        index += 1;
    }
    hash
}

#[expect(
    clippy::indexing_slicing,
    reason = "only evaluated at compile time, where it would not compile"
)]
const fn hexadecimal(value: u64) -> [u8; 16] {
    let digits = b"0123456789abcdef";
    let mut out = [b'0'; 16];
    let mut index = 0;
    while index < 16 {
        out[15 - index] = digits[((value >> (4 * index)) & 15) as usize];
        index += 1;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_asset_is_found_by_its_hashed_path_only() {
        let path = STYLESHEET.path();
        assert!(path.starts_with(PREFIX) && path.ends_with(".css"), "{path}");
        assert_eq!(path.len(), "/.wicketgate/assets/wicketgate-.css".len() + 16);
        assert_eq!(find(path).map(|(kind, _)| kind), Some("text/css; charset=utf-8"));
        assert!(find(EMBLEM.path()).is_some());
        for other in ["", "/.wicketgate/assets/wicketgate-.css", "/.wicketgate/assets/../me"] {
            assert!(find(other).is_none(), "{other}");
        }
    }

    #[test]
    fn the_hash_is_the_published_fnv1a() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
        assert_eq!(&hexadecimal(0x8594_4171_f739_67e8), b"85944171f73967e8");
    }

    #[test]
    fn assets_load_nothing_from_elsewhere() {
        let style = std::str::from_utf8(STYLESHEET.bytes).unwrap();
        assert!(!style.contains("url(") && !style.contains("@import"));
        let emblem = std::str::from_utf8(EMBLEM.bytes).unwrap();
        assert!(!emblem.contains("<script") && !emblem.contains("href"));
    }
}
