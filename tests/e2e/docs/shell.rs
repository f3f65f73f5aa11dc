//! A folder with what a fresh clone and a build give, and a shell in it.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::page::Block;
use crate::harness::{binary, eventually};

pub struct Shell {
    /// Groups of processes that were begun here; a gate may be left running in one.
    children: Vec<Child>,
    folder: TempDir,
}

impl Shell {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let clone = folder.path().join("clone");
        for part in ["certs", "config", "policies"] {
            copy(&root.join(part), &clone.join(part));
        }
        fs::create_dir_all(clone.join("target/release")).unwrap();
        symlink(binary(), clone.join("target/release/wicketgate")).unwrap();
        Self { children: Vec::new(), folder }
    }

    pub fn clone_folder(&self) -> PathBuf {
        self.folder.path().join("clone")
    }

    /// Types a block, and gives back what it printed on standard output. Variables and the working
    /// directory last from block to block. `after` is typed behind it, `input` is what it reads.
    pub async fn run(
        &mut self,
        block: &Block,
        directory: &str,
        after: &str,
        input: &str,
    ) -> String {
        let folder = self.folder.path();
        let state = folder.join("state");
        let (said, complained) = (folder.join("said"), folder.join("complained"));
        fs::write(folder.join("input"), input).unwrap();
        let clone = self.clone_folder();
        let script = format!(
            "set -eu -o pipefail\nset -a\nPATH={}:$PATH\n\
             if [ -f {state} ]; then . {state}; fi\ncd \"${{HERE:-$PWD}}\"\n\
             pushd {directory} >{null}\n{}\n{after}\npopd >{null} 2>&1 || true\n\
             HERE=$PWD\nexport -p >{state}\n",
            clone.join("target/release").display(),
            block.text,
            directory = if directory.is_empty() { "." } else { directory },
            state = state.display(),
            null = "/dev/null",
        );
        let mut child = Command::new("bash")
            .args(["--noprofile", "--norc", "-c", &script])
            .current_dir(&clone)
            .env_remove("CARGO_MANIFEST_DIR")
            .stdin(fs::File::open(folder.join("input")).unwrap())
            .stdout(fs::File::create(&said).unwrap())
            .stderr(fs::File::create(&complained).unwrap())
            .process_group(0)
            .spawn()
            .unwrap();
        let what = format!("the end of the block at {}", block.at);
        let status = eventually(&what, async || child.try_wait().unwrap()).await;
        self.children.push(child);
        let said = fs::read_to_string(&said).unwrap();
        let complained = fs::read_to_string(&complained).unwrap();
        let at = &block.at;
        assert!(status.success(), "the block at {at} failed ({status}):\n{said}\n{complained}");
        said
    }

    /// What a variable of the shell holds.
    pub fn variable(&self, name: &str) -> String {
        let state = fs::read_to_string(self.folder.path().join("state")).unwrap();
        let start = format!("declare -x {name}=\"");
        let line = state.lines().find_map(|line| line.strip_prefix(&start));
        let line = line.unwrap_or_else(|| panic!("the shell has no {name}"));
        line.trim_end_matches('"').to_owned()
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Ok(log) = fs::read_to_string(self.clone_folder().join("first-gate/gate.log"))
        {
            eprintln!("---- the gate said:\n{log}");
        }
        for child in &self.children {
            // The whole group: what the block left running in the background.
            let group = format!("-{}", child.id());
            let mut kill = Command::new("kill");
            kill.args(["-s", "KILL", "--", &group]).stderr(Stdio::null());
            let _ = kill.status();
        }
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
