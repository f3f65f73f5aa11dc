//! The folder that the demo writes into, and to nowhere else.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use super::DemoError;
use super::serve;

/// A folder of its owner's only. A temporary one is removed at the end.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    temporary: bool,
}

impl Folder {
    /// Makes `keep`, which must not hold anything yet, or a temporary folder.
    pub fn create(keep: Option<&Path>) -> Result<Self, DemoError> {
        let temporary = keep.is_none();
        let path = match keep {
            Some(keep) => keep.to_owned(),
            None => {
                let name = serve::random_token().ok_or(DemoError::Random)?;
                let name: String =
                    name.chars().filter(char::is_ascii_alphanumeric).take(12).collect();
                std::env::temp_dir().join(format!("wicketgate-demo-{name}"))
            }
        };
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && !temporary => {
                let mut entries = std::fs::read_dir(&path).map_err(DemoError::Folder)?;
                if entries.next().is_some() {
                    return Err(DemoError::NotEmpty(path));
                }
            }
            Err(error) => return Err(DemoError::Folder(error)),
        }
        let path = path.canonicalize().map_err(DemoError::Folder)?;
        Ok(Self { path, temporary })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.temporary {
            // What stays behind lies in the temporary folder, and its certificates end in a week.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temporary_folder_leaves_nothing_behind() {
        let folder = Folder::create(None).unwrap();
        let path = folder.path().to_owned();
        std::fs::write(path.join("file"), "x").unwrap();
        drop(folder);
        assert!(!path.exists());
    }

    #[test]
    fn a_folder_with_somebodys_files_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("file"), "x").unwrap();
        assert!(matches!(Folder::create(Some(folder.path())), Err(DemoError::NotEmpty(_))));
        std::fs::remove_file(folder.path().join("file")).unwrap();
        drop(Folder::create(Some(folder.path())).unwrap());
        assert!(folder.path().is_dir());
    }
}
