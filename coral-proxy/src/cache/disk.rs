//! The directory for large objects.
//!
//! Each file is unlinked as soon as it is made, so that its space returns by itself once its object is dropped, at a
//! kill too. What a restart would keep comes with the issue on the store.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::ProxyError;

/// A directory in which files without a name are made. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Disk {
    path: Arc<Path>,
}

impl Disk {
    /// The directory at `path`, which is not looked at yet.
    pub fn new(path: PathBuf) -> Self {
        Self { path: path.into() }
    }

    /// The directory at `path`, made if it is missing and tried out, so that a wrong path is told at the start.
    pub fn open(path: PathBuf) -> Result<Self, ProxyError> {
        let disk = Self::new(path);
        let failed = |error: io::Error| {
            ProxyError::Setup(format!("the cache directory {} cannot be used: {error}", disk.path.display()).into())
        };
        std::fs::create_dir_all(&disk.path).map_err(failed)?;
        disk.create().map_err(failed)?;
        Ok(disk)
    }

    /// A new file, without a name. Blocks.
    pub fn create(&self) -> io::Result<File> {
        tempfile::tempfile_in(&self.path)
    }
}
