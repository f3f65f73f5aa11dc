//! Child processes that never outlive their test and whose output is shown when it fails.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::wait::eventually;

pub struct Process {
    name: String,
    child: Child,
    /// Some children stop when it is closed.
    _stdin: Option<ChildStdin>,
    lines: Arc<Mutex<Vec<String>>>,
    /// Its children are in its process group, and end with it.
    with_children: bool,
}

impl Process {
    /// One that starts others, which must not outlive the test either.
    pub fn spawn_with_children(name: &str, command: &mut Command) -> Self {
        let mut process = Self::spawn(name, command.process_group(0));
        process.with_children = true;
        process
    }

    pub fn spawn(name: &str, command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{name} can't be started ({error}): run ./test once"));
        let lines = Arc::new(Mutex::new(Vec::new()));
        collect(child.stdout.take().unwrap(), Arc::clone(&lines));
        collect(child.stderr.take().unwrap(), Arc::clone(&lines));
        let stdin = child.stdin.take();
        Self { name: name.to_owned(), child, _stdin: stdin, lines, with_children: false }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn output(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    /// The first line that `pick` finds something in.
    pub async fn line<T>(&mut self, what: &str, pick: impl Fn(&str) -> Option<T>) -> T {
        let name = self.name.clone();
        eventually(&format!("{what} from {name}"), async || {
            let found = self.output().iter().find_map(|line| pick(line));
            let gone = if found.is_none() { self.exited() } else { None };
            assert!(gone.is_none(), "{name} ended early ({gone:?}):\n{}", self.output().join("\n"));
            found
        })
        .await
    }

    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// A signal by its name, as `kill` knows it.
    pub fn signal(&self, signal: &str) {
        let id = self.id().to_string();
        let status = Command::new("kill").args(["-s", signal, &id]).status().unwrap();
        assert!(status.success(), "no signal reached {}", self.name);
    }

    /// How long a file may get, in bytes: past it every write fails, as on a full disk. Nothing
    /// lifts the limit. The process has to ignore SIGXFSZ.
    pub fn limit_files(&self, bytes: Option<u64>) {
        let limit = bytes.map_or_else(|| "unlimited".to_owned(), |bytes| bytes.to_string());
        let status = Command::new("prlimit")
            .arg(format!("--pid={}", self.id()))
            .arg(format!("--fsize={limit}:"))
            .status()
            .unwrap();
        assert!(status.success(), "no limit for {}", self.name);
    }

    /// What its threads have used of the processors so far (proc_pid_stat(5)).
    pub fn processor_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id())).unwrap();
        let (_, fields) = stat.rsplit_once(") ").unwrap();
        // In the user's code and in the kernel, in hundredths of a second on Linux.
        let ticks = fields.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().unwrap());
        Duration::from_millis(ticks.sum::<u64>() * 10)
    }

    /// What of the machine's memory is its own alone, in bytes.
    pub fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// How many files it has open.
    pub fn descriptors(&self) -> u64 {
        let open = std::fs::read_dir(format!("/proc/{}/fd", self.id())).unwrap();
        u64::try_from(open.count()).unwrap()
    }

    /// How many files it may have open from now on; those that are stay.
    pub fn limit_descriptors(&self, most: u64) {
        let status = Command::new("prlimit")
            .arg(format!("--pid={}", self.id()))
            .arg(format!("--nofile={most}:"))
            .status()
            .unwrap();
        assert!(status.success(), "no limit for {}", self.name);
    }

    /// SIGKILL: nothing is flushed, nothing is closed in order.
    pub fn kill(&mut self) {
        if self.with_children {
            let group = format!("-{}", self.id());
            let _ = Command::new("kill")
                .args(["-s", "KILL", "--", &group])
                .stderr(Stdio::null())
                .status();
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let lines = self.output();
            let from = lines.len().saturating_sub(60);
            eprintln!("---- {} said:\n{}", self.name, lines[from..].join("\n"));
        }
    }
}

fn collect(stream: impl Read + Send + 'static, lines: Arc<Mutex<Vec<String>>>) {
    std::thread::spawn(move || {
        for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
            lines.lock().unwrap().push(String::from_utf8_lossy(&line).into_owned());
        }
    });
}
