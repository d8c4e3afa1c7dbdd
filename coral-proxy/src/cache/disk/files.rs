//! The file system as far as the store uses it, so that tests can make it fail; and the names of our files.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// What the store asks of a file system. All of it blocks.
///
/// The default of each method is the real thing: a test overrides what is to fail.
pub(crate) trait Files: fmt::Debug + Send + Sync {
    /// A new file, which must not be there yet.
    fn create(&self, path: &Path) -> io::Result<File> {
        File::options().read(true).write(true).create_new(true).open(path)
    }

    /// A file that is there, to read and to mend.
    fn open(&self, path: &Path) -> io::Result<File> {
        File::options().read(true).write(true).open(path)
    }

    /// Writes all of `bytes` at `offset`.
    fn write_all_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        file.write_all_at(bytes, offset)
    }

    /// Fills `bytes` from `offset` on.
    fn read_exact_at(&self, file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        file.read_exact_at(bytes, offset)
    }

    /// Cuts the file off behind `length` bytes.
    fn truncate(&self, file: &File, length: u64) -> io::Result<()> {
        file.set_len(length)
    }

    /// Gives a file another name, in place of a file that has it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    /// Removes a file; that there is none is no error.
    fn remove(&self, path: &Path) -> io::Result<()> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// The file system of this machine.
#[derive(Debug)]
pub(crate) struct RealFiles;

impl Files for RealFiles {}

/// The name of one of our files. Whatever else lies in the directory is left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Name {
    /// Many records, one after another. The higher the number, the newer.
    Segment(u32),
    /// The whole body of one large object, of which a record tells.
    Body(u64),
    /// One that is still arriving: nothing tells of it yet.
    Incoming(u64),
}

/// Held locked by the one process that uses the directory.
pub(super) const LOCK: &str = "coral-lock";

impl Name {
    pub(super) fn in_dir(self, dir: &Path) -> PathBuf {
        dir.join(self.to_string())
    }

    /// `None` for a file that is not ours.
    pub(super) fn parse(name: &str) -> Option<Self> {
        let (kind, number) = name.strip_prefix("coral-")?.split_once('-')?;
        let parsed = match kind {
            "segment" => Self::Segment(u32::from_str_radix(number, 16).ok()?),
            "body" => Self::Body(u64::from_str_radix(number, 16).ok()?),
            "incoming" => Self::Incoming(u64::from_str_radix(number, 16).ok()?),
            _ => return None,
        };
        // One spelling for each: `+1` is a number to the parser as well.
        (parsed.to_string() == name).then_some(parsed)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Segment(id) => write!(f, "coral-segment-{id:08x}"),
            Self::Body(id) => write!(f, "coral-body-{id:016x}"),
            Self::Incoming(id) => write!(f, "coral-incoming-{id:016x}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_back_and_others_are_not_ours() {
        for name in [Name::Segment(0xab), Name::Body(u64::MAX), Name::Incoming(0)] {
            assert_eq!(Name::parse(&name.to_string()), Some(name));
        }
        for other in ["coral-lock", "coral-segment-1", "coral-segment-+0000001", "coral-body-g", "segment-00000001", ""]
        {
            assert_eq!(Name::parse(other), None, "{other}");
        }
    }
}
