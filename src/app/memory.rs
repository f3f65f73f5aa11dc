//! Turns requests away before the kernel kills the process.
//!
//! The out-of-memory killer ends every session at once and leaves no record of why; a 503 costs
//! one client one try. So resident memory is held against a budget: above it new requests are
//! refused (what is under way goes on), an eighth above it new connections are closed before their
//! handshake and nothing more is read for what is under way, and below nine tenths of it all is
//! taken again. The admin listener answers always.
//!
//! During an upgrade two processes live of one budget, so each counts what the other has for itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::pipeline::gate::Gate;
use crate::pipeline::pressure::Level;

/// Between two samples, far from the budget and past half of it: clients that fill what they are
/// allowed to all at once do so in parts of a second. Reading one takes a few microseconds.
const FAR: Duration = Duration::from_millis(100);
const NEAR: Duration = Duration::from_millis(10);

/// What this process may take, together with another that it shares with.
#[derive(Clone, Debug, Default)]
pub struct Budget {
    /// 0 stands for no budget.
    bytes: Arc<AtomicU64>,
    /// 0 stands for no other process.
    beside: Arc<AtomicU32>,
}

impl Budget {
    /// `configured`, or three quarters of what there is.
    pub fn set(&self, configured: Option<u64>) {
        let budget = configured.or_else(|| Some(available()? / 4 * 3)).unwrap_or(0);
        self.bytes.store(budget, Ordering::Relaxed);
    }

    /// The process that takes the place of this one, or whose place this one takes.
    pub fn share_with(&self, process: Option<u32>) {
        self.beside.store(process.unwrap_or(0), Ordering::Relaxed);
    }

    /// What the other process has for itself, in bytes; nothing once it has ended.
    fn beside(&self) -> u64 {
        match self.beside.load(Ordering::Relaxed) {
            0 => 0,
            process => unshared(process).unwrap_or(0),
        }
    }

    /// Samples for as long as it is polled. The disk of the audit log is looked at by the way.
    pub async fn watch(self, gate: Arc<Gate>) {
        let mut pause = Duration::ZERO;
        loop {
            tokio::time::sleep(pause).await;
            gate.audit.look(Instant::now());
            pause = FAR;
            let Some(resident) = resident() else { continue };
            let budget = self.bytes.load(Ordering::Relaxed);
            let beside = self.beside();
            let taken = resident.saturating_add(beside);
            if budget > 0 && taken > budget / 2 {
                pause = NEAR;
            }
            let before = gate.pressure.level();
            let level = level(before, taken, budget);
            let gauge = |bytes| i64::try_from(bytes).unwrap_or(i64::MAX);
            gate.metrics.memory_resident.set(gauge(resident));
            gate.metrics.memory_budget.set(gauge(budget));
            if level == before {
                continue;
            }
            gate.pressure.set(level);
            if level > before {
                tracing::error!(
                    resident,
                    beside,
                    budget,
                    ?level,
                    "memory is short: turning requests away"
                );
            } else {
                tracing::info!(resident, beside, budget, ?level, "memory is free again");
            }
        }
    }
}

/// Where a sample leads. Each level is left a tenth below where it is entered, so that a gate on
/// the edge doesn't open and close with every sample.
fn level(now: Level, taken: u64, budget: u64) -> Level {
    if budget == 0 {
        return Level::Normal;
    }
    let critical = budget.saturating_add(budget / 8);
    let above = |mark: u64, level: Level| {
        let mark = if now >= level { mark - mark / 10 } else { mark };
        taken >= mark
    };
    if above(critical, Level::Critical) {
        Level::Critical
    } else if above(budget, Level::High) {
        Level::High
    } else {
        Level::Normal
    }
}

/// Resident memory of this process, in bytes (proc_pid_statm(5)).
fn resident() -> Option<u64> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    pages(&statm).map(|(resident, _)| resident.saturating_mul(page_size()))
}

/// Resident memory of another process, less what is backed by files: the program's code, for one,
/// is there once for both.
fn unshared(process: u32) -> Option<u64> {
    let statm = fs::read_to_string(format!("/proc/{process}/statm")).ok()?;
    let (resident, shared) = pages(&statm)?;
    Some(resident.saturating_sub(shared).saturating_mul(page_size()))
}

/// Resident, and shared of it.
fn pages(statm: &str) -> Option<(u64, u64)> {
    let mut fields = statm.split_ascii_whitespace().skip(1).map(str::parse);
    Some((fields.next()?.ok()?, fields.next()?.ok()?))
}

/// Told by the kernel for this process's own mappings (proc_pid_smaps(5)); nearly always 4 KiB.
fn page_size() -> u64 {
    static SIZE: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
    *SIZE.get_or_init(|| {
        let smaps = fs::read_to_string("/proc/self/smaps").unwrap_or_default();
        smaps.lines().find_map(|line| kib(line.strip_prefix("KernelPageSize:")?)).unwrap_or(4096)
    })
}

/// What the machine has or the control group grants, whichever is less, in bytes.
fn available() -> Option<u64> {
    // Not from /proc/meminfo, which a service that sees only processes there doesn't have.
    let system = rustix::system::sysinfo();
    let machine = system.totalram.checked_mul(u64::from(system.mem_unit));
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let granted = limit_files(&groups)
        .into_iter()
        .filter_map(|file| fs::read_to_string(file).ok()?.trim().parse().ok());
    granted.chain(machine).min()
}

/// ` 16384 kB`, in bytes.
fn kib(text: &str) -> Option<u64> {
    text.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

/// Where a limit on this control group, or on one above it, would be: version 2 (`0::/path`), and
/// the memory controller of version 1. `max`, or an absent file, is no limit.
fn limit_files(groups: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (root, names): (_, &[&str]) = if controllers.is_empty() {
            ("/sys/fs/cgroup", &["memory.max", "memory.high"])
        } else if controllers.split(',').any(|controller| controller == "memory") {
            ("/sys/fs/cgroup/memory", &["memory.limit_in_bytes"])
        } else {
            continue;
        };
        for group in Path::new(path.trim_start_matches('/')).ancestors() {
            files.extend(names.iter().map(|name| Path::new(root).join(group).join(name)));
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn the_levels_are_left_below_where_they_are_entered() {
        use Level::{Critical, High, Normal};
        for (now, resident, then) in [
            (Normal, 799, Normal),
            (Normal, 800, High),
            (High, 720, High),
            (High, 719, Normal),
            (High, 899, High),
            (Normal, 900, Critical),
            (Critical, 810, Critical),
            (Critical, 809, High),
            (Critical, 719, Normal),
        ] {
            assert_eq!(level(now, resident, 800), then, "{now:?} at {resident}");
        }
        assert_eq!(level(High, u64::MAX, 0), Normal, "no budget is known");
        assert_eq!(level(Normal, 5, u64::MAX), Normal);
    }

    #[test]
    fn the_limit_of_any_group_above_counts() {
        let text = |groups: &str| -> Vec<String> {
            limit_files(groups).iter().map(|file| file.display().to_string()).collect()
        };
        assert_eq!(
            text("0::/a/b\n"),
            [
                "/sys/fs/cgroup/a/b/memory.max",
                "/sys/fs/cgroup/a/b/memory.high",
                "/sys/fs/cgroup/a/memory.max",
                "/sys/fs/cgroup/a/memory.high",
                "/sys/fs/cgroup/memory.max",
                "/sys/fs/cgroup/memory.high",
            ]
        );
        assert_eq!(
            text("5:cpu,cpuacct:/x\n4:memory:/\n"),
            ["/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        );
    }

    #[test]
    fn what_another_process_has_counts_until_it_has_ended() {
        let budget = Budget::default();
        assert_eq!(budget.beside(), 0);
        let mut other = Command::new("sleep").arg("60").spawn().unwrap();
        budget.share_with(Some(other.id()));
        assert!((1..resident().unwrap()).contains(&budget.beside()));
        other.kill().unwrap();
        other.wait().unwrap();
        assert_eq!(budget.beside(), 0);
        budget.share_with(Some(std::process::id()));
        assert!((1..=resident().unwrap()).contains(&budget.beside()));
        budget.share_with(None);
        assert_eq!(budget.beside(), 0);
    }

    #[test]
    fn what_the_kernel_tells_is_read() {
        assert_eq!(pages("1000 250 10 1 0 2 0\n"), Some((250, 10)));
        assert_eq!(pages("1000\n"), None);
        assert_eq!(kib("       16384 kB"), Some(16 << 20));
        assert!(resident().unwrap() > 1 << 20);
        assert!(available().unwrap() > resident().unwrap());
        assert!(page_size().is_power_of_two());
    }
}
