//! Notices when the configuration, or a file that it names, has changed on the disk.
//!
//! Watched are folders, never files: editors and deployment tools put a new file in the old one's
//! place, and Kubernetes swaps a symbolic link two levels up; both leave a watch on the file
//! itself behind on what nobody reads any more. An event only says that it is time to look. What
//! counts is the [`Fingerprint`], so that a busy neighbour in the same folder reloads nothing, and
//! nothing is missed between two looks.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;

use super::model::{Config, ListenerRole};

/// A change is reported once nothing has happened for this long: most are several writes.
const QUIET: Duration = Duration::from_millis(500);
/// But a folder that is never quiet is looked at this often.
const LONGEST: Duration = Duration::from_secs(5);
/// Links followed from one path; more are a loop.
const MAX_LINKS: usize = 16;

#[derive(Debug, thiserror::Error)]
#[error("files can't be watched for changes: {0}")]
pub struct WatchError(#[from] notify::Error);

/// Watches files and directories. Needs a tokio runtime with timers.
#[derive(Debug)]
pub struct Watcher {
    system: RecommendedWatcher,
    stirred: Arc<Notify>,
    paths: Vec<PathBuf>,
    seen: Fingerprint,
    quiet: Duration,
}

impl Watcher {
    /// Notices what differs from `seen`, which was looked at before the files were read: nothing
    /// that changed between that and here is missed. A directory stands for the files directly in
    /// it; a path need not exist yet, but its folder must.
    ///
    /// # Errors
    /// When the system can't watch at all, for example because its limit of watches is reached.
    pub fn new(paths: Vec<PathBuf>, seen: Fingerprint) -> Result<Self, WatchError> {
        let stirred = Arc::new(Notify::new());
        let waker = Arc::clone(&stirred);
        let system = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Our own reading makes access events. An error may mean that events were lost.
            if !matches!(event, Ok(notify::Event { kind: EventKind::Access(_), .. })) {
                waker.notify_one();
            }
        })?;
        let mut watcher = Self { system, stirred, paths, seen, quiet: QUIET };
        watcher.arm();
        watcher.stirred.notify_one();
        Ok(watcher)
    }

    /// Watches other paths from now on, after a reload that looked at them before it read them.
    pub fn set_paths(&mut self, paths: Vec<PathBuf>, seen: Fingerprint) {
        (self.paths, self.seen) = (paths, seen);
        self.arm();
        // A change may have come between the reload's reading and here.
        self.stirred.notify_one();
    }

    /// Waits for a change: resolves once the files differ from when this last resolved, half a
    /// second after the last event. Dropping the future loses nothing.
    pub async fn changed(&mut self) {
        loop {
            self.stirred.notified().await;
            // From here to the end of the settling a dropped future must leave its wake-up.
            let wake = WakeAgain(Some(Arc::clone(&self.stirred)));
            settle(&self.stirred, self.quiet).await;
            wake.done();
            // Folders may be new ones under their old names. First watch, then look: what comes
            // after the look makes an event.
            self.arm();
            let now = Fingerprint::of(&self.paths);
            if now != self.seen {
                self.seen = now;
                return;
            }
        }
    }

    fn arm(&mut self) {
        for folder in folders(&self.paths) {
            // A folder that isn't there is seen by the watch on the one above it.
            if let Err(error) = self.system.watch(&folder, RecursiveMode::NonRecursive) {
                tracing::debug!(folder = %folder.display(), %error, "can't be watched");
            }
        }
    }
}

struct WakeAgain(Option<Arc<Notify>>);

impl WakeAgain {
    fn done(mut self) {
        self.0 = None;
    }
}

impl Drop for WakeAgain {
    fn drop(&mut self) {
        if let Some(stirred) = self.0.take() {
            stirred.notify_one();
        }
    }
}

/// Returns when no event has come for `quiet`, or after [`LONGEST`].
async fn settle(stirred: &Notify, quiet: Duration) {
    let latest = tokio::time::sleep(LONGEST);
    tokio::pin!(latest);
    loop {
        tokio::select! {
            () = &mut latest => return,
            () = tokio::time::sleep(quiet) => return,
            () = stirred.notified() => {}
        }
    }
}

/// The folders in which a change of what the paths lead to can be seen: each path's own folder,
/// that of every link on its way, and a directory itself.
fn folders(paths: &[PathBuf]) -> BTreeSet<PathBuf> {
    let mut folders = BTreeSet::new();
    for path in paths {
        let mut at = path.clone();
        for _ in 0..MAX_LINKS {
            for prefix in at.ancestors() {
                let link = std::fs::symlink_metadata(prefix).is_ok_and(|found| found.is_symlink());
                if link || prefix == at.as_path() {
                    folders.insert(folder_of(prefix));
                }
            }
            let Some(next) = follow_one(&at) else { break };
            at = next;
        }
        if path.is_dir() {
            folders.insert(path.clone());
        }
    }
    folders
}

fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if folder.as_os_str().is_empty() => PathBuf::from("."),
        Some(folder) => folder.to_owned(),
        None => path.to_owned(),
    }
}

/// The path with the deepest link in it replaced by what the link says.
fn follow_one(path: &Path) -> Option<PathBuf> {
    path.ancestors().find_map(|prefix| {
        let target = std::fs::read_link(prefix).ok()?;
        let rest = path.strip_prefix(prefix).ok()?;
        let replaced = folder_of(prefix).join(target);
        Some(if rest.as_os_str().is_empty() { replaced } else { replaced.join(rest) })
    })
}

/// What the watched paths led to at one moment. A file that is written anew has another time of
/// change, one that is put in its place another number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fingerprint(Vec<(PathBuf, Option<Stamp>)>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    /// Of the last change, permissions included: seconds and nanoseconds.
    changed: (i64, i64),
}

impl Fingerprint {
    /// Looks at the configuration file, before it is read.
    pub fn of_file(path: &Path) -> Self {
        Self::of(&[path.to_owned()])
    }

    /// Looks at everything else that the configuration names, before that is read.
    #[must_use]
    pub fn and_all_of(self, config: &Config) -> Self {
        let Self(mut all) = Self::of(&paths(config));
        for (path, before) in &mut all {
            // What has changed since the file was read differs from this.
            if let Some((_, stamp)) = self.0.iter().find(|(earlier, _)| earlier == path) {
                before.clone_from(stamp);
            }
        }
        Self(all)
    }

    fn of(paths: &[PathBuf]) -> Self {
        let mut list = Vec::new();
        for path in paths {
            match std::fs::read_dir(path) {
                Ok(entries) => {
                    let mut inside: Vec<PathBuf> =
                        entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
                    inside.sort();
                    list.push((path.clone(), None));
                    list.extend(inside.into_iter().map(|path| {
                        let stamp = Stamp::of(&path);
                        (path, stamp)
                    }));
                }
                Err(_) => list.push((path.clone(), Stamp::of(path))),
            }
        }
        Self(list)
    }
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let found = std::fs::metadata(path).ok()?;
        Some(Self {
            device: found.dev(),
            inode: found.ino(),
            length: found.len(),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }
}

/// Every path that a configuration was made from: itself, policies, schema, device registry,
/// certificates and keys. Secret files are not among them.
pub fn paths(config: &Config) -> Vec<PathBuf> {
    let mut paths = BTreeSet::new();
    paths.insert(config.source.clone());
    paths.insert(config.policies.directory.clone());
    paths.insert(config.policies.schema.clone());
    paths.extend(config.devices.iter().map(|devices| devices.registry.clone()));
    paths.extend(config.identity_providers.iter().filter_map(|provider| provider.ca.clone()));
    for listener in &config.listeners {
        let ListenerRole::Tls(tls) = &listener.role else { continue };
        paths.extend(tls.client_ca.clone());
        paths.extend(tls.client_crl.clone());
        paths.extend(tls.ticket_keys.clone());
        for files in &tls.certificates {
            paths.extend([files.certificate.clone(), files.key.clone()]);
        }
    }
    for tls in config.routes.iter().filter_map(|route| route.upstream.tls.as_ref()) {
        paths.extend(tls.ca.clone());
        if let Some(files) = &tls.client_certificate {
            paths.extend([files.certificate.clone(), files.key.clone()]);
        }
    }
    paths.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn poll<T>(future: Pin<&mut impl Future<Output = T>>) -> Poll<T> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    fn watch(paths: &[&Path]) -> Watcher {
        let paths: Vec<_> = paths.iter().map(|path| path.to_path_buf()).collect();
        let seen = Fingerprint::of(&paths);
        let mut watcher = Watcher::new(paths, seen).unwrap();
        watcher.quiet = Duration::from_millis(1);
        watcher
    }

    #[tokio::test]
    async fn a_file_written_in_place_and_one_renamed_over_it_are_seen() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.yaml");
        fs::write(&file, "1").unwrap();
        let mut watcher = watch(&[&file]);
        fs::write(&file, "22").unwrap();
        watcher.changed().await;
        for round in 0..3 {
            let new = folder.path().join("new");
            fs::write(&new, format!("{round}")).unwrap();
            fs::rename(&new, &file).unwrap();
            watcher.changed().await;
        }
    }

    #[tokio::test]
    async fn a_symlink_swapped_two_levels_up_is_seen_again_and_again() {
        // As Kubernetes lays out a ConfigMap.
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let version = |name: &str| {
            fs::create_dir(at(name)).unwrap();
            fs::write(at(name).join("x.yaml"), "same").unwrap();
        };
        version("..1");
        symlink("..1", at("..data")).unwrap();
        symlink("..data/x.yaml", at("x.yaml")).unwrap();
        let mut watcher = watch(&[&at("x.yaml")]);
        for (old, new) in [("..1", "..2"), ("..2", "..3")] {
            version(new);
            symlink(new, at("..data_tmp")).unwrap();
            fs::rename(at("..data_tmp"), at("..data")).unwrap();
            watcher.changed().await;
            fs::remove_dir_all(at(old)).unwrap();
        }
    }

    #[tokio::test]
    async fn files_added_to_and_removed_from_a_directory_are_seen() {
        let folder = tempfile::tempdir().unwrap();
        let policies = folder.path().join("policies");
        fs::create_dir(&policies).unwrap();
        let mut watcher = watch(&[&policies]);
        fs::write(policies.join("a.cedar"), "").unwrap();
        watcher.changed().await;
        fs::remove_file(policies.join("a.cedar")).unwrap();
        watcher.changed().await;
        // The whole directory put in the old one's place.
        let new = folder.path().join("new");
        fs::create_dir(&new).unwrap();
        fs::write(new.join("b.cedar"), "").unwrap();
        fs::remove_dir(&policies).unwrap();
        fs::rename(&new, &policies).unwrap();
        watcher.changed().await;
        fs::write(policies.join("c.cedar"), "").unwrap();
        watcher.changed().await;
    }

    #[tokio::test]
    async fn what_changed_before_the_watch_began_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let (file, other) = (folder.path().join("x.yaml"), folder.path().join("y.yaml"));
        fs::write(&file, "1").unwrap();
        let seen = Fingerprint::of_file(&file);
        fs::write(&file, "22").unwrap();
        let mut watcher = Watcher::new(vec![file.clone()], seen).unwrap();
        watcher.quiet = Duration::from_millis(1);
        watcher.changed().await;
        // The same when a reload names another file.
        fs::write(&other, "1").unwrap();
        let seen = Fingerprint::of(&[file.clone(), other.clone()]);
        fs::write(&other, "22").unwrap();
        watcher.set_paths(vec![file, other], seen);
        watcher.changed().await;
    }

    #[tokio::test]
    async fn a_dropped_wait_loses_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.yaml");
        fs::write(&file, "1").unwrap();
        let mut watcher = watch(&[&file]);
        watcher.quiet = Duration::from_secs(3600);
        fs::write(&file, "22").unwrap();
        // Dropped at its first wait, and once more in the middle of settling.
        watcher.stirred.notify_one();
        {
            let mut wait = std::pin::pin!(watcher.changed());
            assert!(poll(wait.as_mut()).is_pending());
        }
        watcher.quiet = Duration::from_millis(1);
        watcher.changed().await;
    }

    #[test]
    fn a_neighbour_in_the_same_folder_changes_no_fingerprint() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.yaml");
        fs::write(&file, "1").unwrap();
        let paths = [file.clone()];
        let before = Fingerprint::of(&paths);
        fs::write(folder.path().join("audit.log"), "busy").unwrap();
        fs::read(&file).unwrap();
        assert_eq!(Fingerprint::of(&paths), before);
        fs::write(&file, "2").unwrap();
        fs::write(&file, "3 and more").unwrap();
        assert_ne!(Fingerprint::of(&paths), before);
    }

    #[tokio::test]
    async fn many_events_settle_into_one() {
        let stirred = Notify::new();
        stirred.notify_one();
        settle(&stirred, Duration::from_millis(1)).await;
        let mut next = std::pin::pin!(stirred.notified());
        assert!(poll(next.as_mut()).is_pending());
    }

    #[test]
    fn links_that_lead_in_a_circle_end() {
        let folder = tempfile::tempdir().unwrap();
        symlink("b", folder.path().join("a")).unwrap();
        symlink("a", folder.path().join("b")).unwrap();
        assert_eq!(folders(&[folder.path().join("a")]), BTreeSet::from([folder.path().to_owned()]));
    }
}
