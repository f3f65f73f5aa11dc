//! A folder with the few files that a configuration may name.

use std::cell::LazyCell;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

thread_local! {
    static FOLDER: LazyCell<tempfile::TempDir> = LazyCell::new(folder);
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder for the fuzzed file");
    for (name, mode) in [("file", 0o644), ("private", 0o600)] {
        let path = folder.path().join(name);
        fs::write(&path, "hunter2\n").expect("a file in it");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("its mode");
    }
    fs::create_dir(folder.path().join("folder")).expect("a folder in it");
    folder
}

/// Calls `with` with a file of these bytes, and its folder around it.
pub fn with_file<T>(bytes: &[u8], with: impl FnOnce(&Path) -> T) -> T {
    FOLDER.with(|folder| {
        let path: PathBuf = folder.path().join("fuzzed.yaml");
        fs::write(&path, bytes).expect("the fuzzed file");
        with(&path)
    })
}
