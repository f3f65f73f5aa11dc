//! The store of a gate that stands alone: one file, transactional, pure Rust (redb).
//!
//! Every write is part of one transaction, committed durably (fsync) before it is answered
//! ([`commit`]), and runs on the runtime's blocking pool: the workers never wait for the disk. The
//! file holds sessions and private keys, so it belongs to the gate's user alone.
//!
//! After an I/O error, a full disk for one, redb refuses everything until the file is opened
//! again; so that is done with the next call, and the gate recovers without a restart.
//!
//! INVARIANT: `expiry` holds exactly one entry for each value, under the same time that the value
//! itself carries. Purging reads nothing but what it removes.

mod commit;

use std::fs::{DirBuilder, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use parking_lot::RwLock;
use redb::backends::FileBackend;
use redb::{
    Database, DatabaseError, ReadableDatabase, ReadableTable, Table, TableDefinition,
    WriteTransaction,
};

use super::{Entry, Space, Store, StoreError};
use crate::domain::clock::Timestamp;

/// Space and key.
type Key = (u8, &'static [u8]);
/// When it expires, in milliseconds, and the value.
type Value = (i64, &'static [u8]);
/// When it expires, space and key.
type Due = (i64, u8, &'static [u8]);

const VALUES: TableDefinition<Key, Value> = TableDefinition::new("values");

/// What to purge, oldest first.
const EXPIRY: TableDefinition<Due, ()> = TableDefinition::new("expiry");

/// Page cache. Sessions are cached above the store already.
const CACHE_BYTES: usize = 16 * 1024 * 1024;

/// Most values purged in one transaction: others who write wait for its end.
const PURGED_AT_ONCE: usize = 1000;

/// Values in one file. Clones share it.
#[derive(Clone)]
pub struct EmbeddedStore {
    file: Arc<StoreFile>,
}

struct StoreFile {
    path: PathBuf,
    /// None when it was closed to be opened again, and that failed.
    database: RwLock<Option<Database>>,
    /// An I/O error came up: to be opened again before it is used.
    failed: AtomicBool,
    changes: commit::Queue,
}

impl std::fmt::Debug for EmbeddedStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmbeddedStore").finish_non_exhaustive()
    }
}

impl EmbeddedStore {
    /// Opens the file, or creates it with mode 0600. Repairs it after a crash. Blocks; for the
    /// start.
    ///
    /// # Errors
    /// When the directory is missing, the file is open in another process, others than its owner
    /// may read or write it, or it is no intact store.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let file = StoreFile {
            path: path.to_owned(),
            database: RwLock::new(Some(open(path, true)?)),
            failed: AtomicBool::new(false),
            changes: commit::Queue::default(),
        };
        Ok(Self { file: Arc::new(file) })
    }

    /// Closes the file when what runs has ended. Every later operation fails. Blocks.
    pub(super) fn close(&self) {
        let mut database = self.file.database.write();
        // Nobody opens it again either.
        self.file.failed.store(false, Ordering::Release);
        *database = None;
    }

    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Database) -> Result<T, redb::Error> + Send + 'static,
    ) -> Result<T, StoreError> {
        let file = Arc::clone(&self.file);
        match tokio::task::spawn_blocking(move || file.with(work)).await {
            Ok(result) => result,
            Err(error) => Err(StoreError::Failed(error.to_string())),
        }
    }

    async fn write<T: Send + 'static>(
        &self,
        change: impl FnOnce(&WriteTransaction) -> Result<T, redb::Error> + Send + 'static,
    ) -> Result<T, StoreError> {
        let mut answer = self.file.changes.add(change);
        let file = Arc::clone(&self.file);
        let committed = move || file.changes.commit(|work| file.with(work));
        let failed = |error: &dyn std::fmt::Display| StoreError::Failed(error.to_string());
        tokio::task::spawn_blocking(committed).await.map_err(|error| failed(&error))?;
        answer.try_recv().map_err(|error| failed(&error))?
    }
}

impl StoreFile {
    fn with<T>(
        &self,
        work: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        if self.failed.load(Ordering::Acquire) {
            self.reopen()?;
        }
        let database = self.database.read();
        let Some(database) = database.as_ref() else {
            return Err(StoreError::Failed("it could not be opened again".to_owned()));
        };
        work(database).map_err(|error| {
            if matches!(error, redb::Error::Io(_) | redb::Error::PreviousIo) {
                self.failed.store(true, Ordering::Release);
            }
            StoreError::Failed(error.to_string())
        })
    }

    fn reopen(&self) -> Result<(), StoreError> {
        let mut database = self.database.write();
        if self.failed.load(Ordering::Acquire) {
            // Closed first: it holds the file's lock. And never made anew: what is in it is needed.
            *database = None;
            *database = Some(open(&self.path, false)?);
            self.failed.store(false, Ordering::Release);
            tracing::warn!(path = %self.path.display(), "the store was opened again");
        }
        Ok(())
    }
}

fn open(path: &Path, create: bool) -> Result<Database, StoreError> {
    let refused =
        |cause: String| StoreError::Open { path: path.to_owned(), cause: cause.to_lowercase() };
    if let Some(folder) = path.parent().filter(|folder| create && !folder.as_os_str().is_empty()) {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(|error| refused(error.to_string()))?;
    }
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(create)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|error| refused(error.to_string()))?;
    let metadata = file.metadata().map_err(|error| refused(error.to_string()))?;
    if metadata.permissions().mode() & 0o077 != 0 {
        return Err(StoreError::Permissions(path.to_owned()));
    }
    let backend = FileBackend::new(file).map_err(|error| translate(path, &error))?;
    let database = Database::builder()
        .set_cache_size(CACHE_BYTES)
        // A damaged file is then refused here, where without it a later read may panic.
        .set_check_integrity_on_open(true)
        .create_with_backend(backend)
        .map_err(|error| translate(path, &error))?;
    // Reads then never meet a table that is not there.
    write(&database, |transaction| {
        transaction.open_table(VALUES)?;
        transaction.open_table(EXPIRY)?;
        Ok(())
    })
    .map_err(|error| refused(error.to_string()))?;
    Ok(database)
}

fn write<T>(
    database: &Database,
    change: impl FnOnce(&WriteTransaction) -> Result<T, redb::Error>,
) -> Result<T, redb::Error> {
    // Durable by default: commit returns after an fsync.
    let transaction = database.begin_write()?;
    let result = change(&transaction)?;
    transaction.commit()?;
    Ok(result)
}

fn translate(path: &Path, error: &DatabaseError) -> StoreError {
    match error {
        DatabaseError::DatabaseAlreadyOpen => StoreError::InUse(path.to_owned()),
        other => StoreError::Open { path: path.to_owned(), cause: other.to_string() },
    }
}

const fn number(space: Space) -> u8 {
    match space {
        Space::Sessions => 1,
        Space::Keys => 2,
        Space::Logins => 3,
        Space::SessionsOfLogins => 4,
        Space::KeptForms => 5,
        Space::SessionsOfUsers => 6,
        Space::Refreshes => 8,
        Space::Suspensions => 7,
    }
}

/// The two tables of a write, changed together.
struct Tables<'t> {
    values: Table<'t, Key, Value>,
    expiry: Table<'t, Due, ()>,
}

impl<'t> Tables<'t> {
    fn open(transaction: &'t WriteTransaction) -> Result<Self, redb::Error> {
        Ok(Self {
            values: transaction.open_table(VALUES)?,
            expiry: transaction.open_table(EXPIRY)?,
        })
    }

    fn expires(&self, space: u8, key: &[u8]) -> Result<Option<i64>, redb::Error> {
        Ok(self.values.get((space, key))?.map(|entry| entry.value().0))
    }

    fn put(
        &mut self,
        space: u8,
        key: &[u8],
        value: &[u8],
        expires: i64,
    ) -> Result<(), redb::Error> {
        let earlier =
            self.values.insert((space, key), (expires, value))?.map(|entry| entry.value().0);
        if let Some(earlier) = earlier {
            self.expiry.remove((earlier, space, key))?;
        }
        self.expiry.insert((expires, space, key), ())?;
        Ok(())
    }

    fn remove(&mut self, space: u8, key: &[u8]) -> Result<bool, redb::Error> {
        let earlier = self.values.remove((space, key))?.map(|entry| entry.value().0);
        if let Some(earlier) = earlier {
            self.expiry.remove((earlier, space, key))?;
        }
        Ok(earlier.is_some())
    }

    /// At most `most` of them.
    fn purge(&mut self, space: u8, now: i64, most: usize) -> Result<usize, redb::Error> {
        let none: &[u8] = &[];
        let mut due = Vec::new();
        // Of other spaces it meets only what is due by this clock and not yet by theirs.
        for entry in self.expiry.range(..(now.saturating_add(1), 0, none))? {
            let (entry, _) = entry?;
            let (expires, of, key) = entry.value();
            if of == space {
                due.push((expires, key.to_vec()));
            }
            if due.len() == most {
                break;
            }
        }
        for (expires, key) in &due {
            self.remove(space, key)?;
            // Also where the value is gone already: the entry then goes whatever the file holds.
            self.expiry.remove((*expires, space, key.as_slice()))?;
        }
        Ok(due.len())
    }
}

#[async_trait]
impl Store for EmbeddedStore {
    async fn get(&self, space: Space, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let key = key.to_vec();
        self.read(move |database| {
            let values = database.begin_read()?.open_table(VALUES)?;
            let found = values.get((number(space), key.as_slice()))?;
            Ok(found.map(|entry| entry.value().1.to_vec()))
        })
        .await
    }

    async fn put(
        &self,
        space: Space,
        key: &[u8],
        value: &[u8],
        expires: Timestamp,
    ) -> Result<(), StoreError> {
        let (key, value) = (key.to_vec(), value.to_vec());
        self.write(move |transaction| {
            Tables::open(transaction)?.put(number(space), &key, &value, expires.as_millis())
        })
        .await
    }

    async fn put_all(&self, space: Space, entries: Vec<Entry>) -> Result<(), StoreError> {
        self.write(move |transaction| {
            let mut tables = Tables::open(transaction)?;
            for Entry { key, value, expires } in &entries {
                tables.put(number(space), key, value, expires.as_millis())?;
            }
            Ok(())
        })
        .await
    }

    async fn replace_all(&self, space: Space, entries: Vec<Entry>) -> Result<(), StoreError> {
        self.write(move |transaction| {
            let mut tables = Tables::open(transaction)?;
            for Entry { key, value, expires } in &entries {
                if tables.expires(number(space), key)?.is_some() {
                    tables.put(number(space), key, value, expires.as_millis())?;
                }
            }
            Ok(())
        })
        .await
    }

    async fn put_if_absent(
        &self,
        space: Space,
        key: &[u8],
        value: &[u8],
        expires: Timestamp,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let (key, value) = (key.to_vec(), value.to_vec());
        self.write(move |transaction| {
            let mut tables = Tables::open(transaction)?;
            let there = tables.expires(number(space), &key)?;
            if there.is_some_and(|until| until > now.as_millis()) {
                return Ok(false);
            }
            tables.put(number(space), &key, &value, expires.as_millis())?;
            Ok(true)
        })
        .await
    }

    async fn remove(&self, space: Space, key: &[u8]) -> Result<bool, StoreError> {
        let key = key.to_vec();
        self.write(move |transaction| Tables::open(transaction)?.remove(number(space), &key)).await
    }

    async fn scan(
        &self,
        space: Space,
        prefix: &[u8],
    ) -> Result<Vec<(Vec<u8>, Vec<u8>)>, StoreError> {
        let prefix = prefix.to_vec();
        self.read(move |database| {
            let values = database.begin_read()?.open_table(VALUES)?;
            let none: &[u8] = &[];
            let mut found = Vec::new();
            let from = (number(space), prefix.as_slice());
            for entry in values.range(from..(number(space) + 1, none))? {
                let (key, value) = entry?;
                if !key.value().1.starts_with(&prefix) {
                    break;
                }
                found.push((key.value().1.to_vec(), value.value().1.to_vec()));
            }
            Ok(found)
        })
        .await
    }

    async fn purge(&self, space: Space, now: Timestamp) -> Result<usize, StoreError> {
        let due = self
            .read(move |database| {
                let expiry = database.begin_read()?.open_table(EXPIRY)?;
                let first = expiry.first()?.map(|(oldest, _)| oldest.value().0);
                Ok(first.is_some_and(|oldest| oldest <= now.as_millis()))
            })
            .await?;
        if !due {
            // Most of the time: no write, no fsync.
            return Ok(0);
        }
        let mut purged = 0;
        loop {
            let count = self
                .write(move |transaction| {
                    Tables::open(transaction)?.purge(number(space), now.as_millis(), PURGED_AT_ONCE)
                })
                .await?;
            purged += count;
            if count < PURGED_AT_ONCE {
                return Ok(purged);
            }
        }
    }
}

#[cfg(test)]
mod tests;
