//! A control group with a limit of memory, at which the kernel kills: what a container, a service
//! with `MemoryMax=` and a small machine are.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// Removed when it is dropped: after the processes in it.
pub struct MemoryGroup {
    folder: PathBuf,
    /// The file with how often the kernel killed, as `oom_kill NUMBER`.
    kills: &'static str,
}

/// The files of the two versions of control groups (cgroups(7)).
struct Version {
    root: &'static str,
    /// How `/proc/self/cgroup` names it.
    controller: &'static str,
    limit: &'static str,
    /// Swap would only put off what is to be seen; not every kernel counts it.
    swap: (&'static str, bool),
    kills: &'static str,
}

const VERSIONS: [Version; 2] = [
    Version {
        root: "/sys/fs/cgroup",
        controller: "0::",
        limit: "memory.max",
        swap: ("memory.swap.max", false),
        kills: "memory.events",
    },
    Version {
        root: "/sys/fs/cgroup/memory",
        controller: ":memory:",
        limit: "memory.limit_in_bytes",
        swap: ("memory.memsw.limit_in_bytes", true),
        kills: "memory.oom_control",
    },
];

impl MemoryGroup {
    /// A group of its own that may take this many bytes.
    ///
    /// # Errors
    /// This machine has no such groups, or lets nobody make one.
    pub fn limited(bytes: u64) -> Result<Self, String> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("wicketgate-test-{}-{number}", std::process::id());
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let mut causes = Vec::new();
        for version in &VERSIONS {
            let own = groups.lines().find_map(|line| line.split_once(version.controller));
            let Some((_, own)) = own else { continue };
            // Below this process's own group, or beside it or one above: with version 2 a group
            // that has processes can't have limited ones below it.
            for place in Path::new(own.trim_start_matches('/')).ancestors() {
                let folder = Path::new(version.root).join(place).join(&name);
                match make(&folder, version, bytes) {
                    Ok(()) => return Ok(Self { folder, kills: version.kills }),
                    Err(error) => causes.push(format!("{}: {error}", folder.display())),
                }
            }
        }
        causes.dedup();
        Err(causes.pop().unwrap_or_else(|| "no control group limits memory".to_owned()))
    }

    /// A Python program that joins the group and then executes `sys.argv[1:]`.
    pub fn joining(&self) -> String {
        let processes = self.folder.join("cgroup.procs");
        format!(
            "import os, sys\nopen({:?}, 'w').write(str(os.getpid()))\n\
             os.execvp(sys.argv[1], sys.argv[1:])",
            processes.display().to_string()
        )
    }

    /// How many processes the kernel has killed in it for want of memory.
    pub fn kills(&self) -> u64 {
        let text = fs::read_to_string(self.folder.join(self.kills)).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill ")).unwrap();
        line.parse().unwrap()
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.folder);
    }
}

fn make(folder: &Path, version: &Version, bytes: u64) -> std::io::Result<()> {
    fs::create_dir(folder)?;
    // The kernel makes the files. None is made here: the folder may be an ordinary one, or of a
    // group without this controller.
    let write = |name: &str, bytes: u64| {
        let file = fs::OpenOptions::new().write(true).open(folder.join(name));
        file.and_then(|mut file| file.write_all(bytes.to_string().as_bytes()))
    };
    let (swap, with_memory) = version.swap;
    let limited = write(version.limit, bytes).and_then(|()| {
        let swapped = write(swap, if with_memory { bytes } else { 0 });
        swapped.or_else(|error| if folder.join(swap).exists() { Err(error) } else { Ok(()) })
    });
    limited.inspect_err(|_| {
        let _ = fs::remove_dir(folder);
    })
}
