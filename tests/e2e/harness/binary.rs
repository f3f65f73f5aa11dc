//! The binary under test.

use std::env;
use std::path::PathBuf;

/// The one that Cargo built with the tests, or what `WICKETGATE_BINARY` names: `packaging/test`
/// tries the one that is packaged.
pub fn binary() -> PathBuf {
    let built = env!("CARGO_BIN_EXE_wicketgate");
    env::var_os("WICKETGATE_BINARY").map_or_else(|| built.into(), PathBuf::from)
}
