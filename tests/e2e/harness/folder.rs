//! Where a gate under test writes.

use std::process::Command;
use std::sync::LazyLock;

use tempfile::TempDir;

const MEMORY: &str = "/dev/shm";
const ENOUGH: u64 = 1 << 30;

/// In memory where there is room. A gate refuses access that it can't record in time, and a machine
/// on which something else is built can keep a disk busy for longer than that.
pub fn temporary() -> TempDir {
    static HAS_ROOM: LazyLock<bool> = LazyLock::new(|| {
        let free = Command::new("df").args(["--output=avail", "--block-size=1", MEMORY]).output();
        let free = free.ok().and_then(|free| String::from_utf8(free.stdout).ok());
        let free = free.and_then(|free| free.lines().nth(1)?.trim().parse::<u64>().ok());
        free.is_some_and(|free| free >= ENOUGH)
    });
    if *HAS_ROOM { tempfile::tempdir_in(MEMORY) } else { tempfile::tempdir() }.unwrap()
}
