//! Where a tool keeps its file: under the number of the process it is in, which
//! others can foresee, in a directory that may be everybody's.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crate::lock;

/// Places that are taken in this process.
static TAKEN: Mutex<BTreeSet<(PathBuf, &str)>> = Mutex::new(BTreeSet::new());

/// Files `KIND-PID.EXTENSION` of a directory. One tool at a time has the place, in
/// a process: a second would write over the first one's file.
#[derive(Debug)]
pub(crate) struct Place {
    directory: PathBuf,
    kind: &'static str,
    extension: &'static str,
}

impl Place {
    pub(crate) fn take(
        directory: &Path,
        kind: &'static str,
        extension: &'static str,
    ) -> io::Result<Self> {
        let directory = fs::canonicalize(directory)?;
        if !lock(&TAKEN).insert((directory.clone(), kind)) {
            let what = format!("this process writes a {kind} file to {}", directory.display());
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                what + " already: give the tool that does to this arena as well",
            ));
        }
        Ok(Self { directory, kind, extension })
    }

    /// The file of the calling process: a forked child has its own.
    pub(crate) fn path(&self) -> PathBuf {
        self.directory.join(format!("{}-{}.{}", self.kind, std::process::id(), self.extension))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&TAKEN).remove(&(std::mem::take(&mut self.directory), self.kind));
    }
}

/// A file, and the process that made it: a forked child leaves it alone.
#[derive(Debug)]
pub(crate) struct OwnFile {
    pub(crate) file: File,
    /// The process, by number.
    pub(crate) of: u32,
}

impl OwnFile {
    /// What lies at `path` is of a process of the same number that has ended, or
    /// nothing of ours: it goes, and a link is not followed. Only the user reads the
    /// new file, as perf does.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).mode(0o600).open(path)?;
        Ok(Self { file, of: std::process::id() })
    }

    pub(crate) fn is_inherited(&self) -> bool {
        self.of != std::process::id()
    }
}
