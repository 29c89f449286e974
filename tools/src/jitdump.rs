//! Jitdump: `jit-PID.dump`, from which `perf inject --jit` makes an ELF file for
//! each piece of code, with its bytes, name, lines and the time it came to be.
//!
//! perf learns of the file from a mapping of its first page, executable, which
//! it sees in the recording; record with the same clock: `perf record -k
//! mono`. There is no record for code that is gone: a later one at its address
//! takes its place from its own time on.
//!
//! A forked child has a file of its own, from the first code on that it publishes.
//! perf knows what was published before the fork from the parent's.
//!
//! Source: tools/perf/Documentation/jitdump-specification.txt in the kernel's
//! sources.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::ptr::{self, NonNull};
use std::sync::{Arc, Mutex};

use jit_arena::{CodeInfo, Span, Symbol, Tool};

use crate::elf::MACHINE;
use crate::lock;
use crate::place::{OwnFile, Place};

/// `JiTD`, in the byte order of the machine.
const MAGIC: u32 = 0x4A69_5444;
const VERSION: u32 = 1;
const HEADER: u32 = 40;

/// Kinds of records, and bytes in front of each.
const CODE_LOAD: u32 = 0;
const CODE_DEBUG_INFO: u32 = 2;
const CODE_CLOSE: u32 = 3;
const PREFIX: usize = 16;

/// Writes a jitdump.
#[derive(Debug)]
pub struct Jitdump {
    place: Place,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    dump: Dump,
    error: Option<io::Error>,
}

/// The file of one process.
#[derive(Debug)]
struct Dump {
    own: OwnFile,
    /// Code written so far: numbers each piece.
    count: u64,
    _marker: Marker,
}

impl Jitdump {
    /// Starts `jit-PID.dump` in a directory, for the user alone to read, and lets
    /// perf see it. Arenas of a process share it.
    ///
    /// # Errors
    ///
    /// The file cannot be made, or not be put in the place of one that lies there;
    /// or the process has a jitdump in that directory already
    /// ([`AlreadyExists`](io::ErrorKind::AlreadyExists)); or it cannot be mapped: the
    /// file system forbids executing.
    pub fn create_in(directory: &Path) -> io::Result<Arc<Self>> {
        let place = Place::take(directory, "jit", "dump")?;
        let state = State { dump: Dump::create(&place)?, error: None };
        Ok(Arc::new(Self { place, state: Mutex::new(state) }))
    }

    /// The file of the calling process. In a forked child it is there once something
    /// was published in the child.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.place.path()
    }

    /// The first error since the last call: the file may end in half a record.
    pub fn take_error(&self) -> Option<io::Error> {
        lock(&self.state).error.take()
    }
}

impl State {
    /// What the calling process writes to.
    fn dump(&mut self, place: &Place) -> io::Result<&mut Dump> {
        if self.dump.own.is_inherited() {
            self.dump = Dump::create(place)?;
        }
        Ok(&mut self.dump)
    }
}

impl Dump {
    fn create(place: &Place) -> io::Result<Self> {
        let mut own = OwnFile::create(&place.path())?;
        let marker = Marker::new(&own.file)?;
        let mut header = Record::default();
        for word in [MAGIC, VERSION, HEADER, u32::from(MACHINE), 0, own.of] {
            header.u32(word);
        }
        header.u64(now());
        header.u64(0);
        own.file.write_all(&header.0)?;
        Ok(Self { own, count: 0, _marker: marker })
    }

    fn write(&mut self, code: &CodeInfo, bytes: &[u8], symbol: &Symbol<'_>) -> io::Result<()> {
        // The caller has the lock: times rise in the file.
        let time = now();
        let mut records = Vec::new();
        if !symbol.source_lines().is_empty() {
            let mut lines = Record::default();
            lines.u64(code.entry() as u64);
            lines.u64(symbol.source_lines().len() as u64);
            for line in symbol.source_lines() {
                lines.u64((code.entry() + line.offset) as u64);
                lines.u32(line.line);
                lines.u32(0);
                lines.text(line.file);
            }
            // In front of the code they are of.
            records.extend(lines.finish(CODE_DEBUG_INFO, time));
        }
        let mut load = Record::default();
        load.u32(self.own.of);
        load.u32(thread_id());
        load.u64(code.entry() as u64);
        load.u64(code.entry() as u64);
        load.u64(bytes.len() as u64);
        load.u64(self.count);
        load.text(symbol.name());
        load.0.extend(bytes);
        records.extend(load.finish(CODE_LOAD, time));
        self.count += 1;
        self.own.file.write_all(&records)
    }
}

impl Drop for Dump {
    fn drop(&mut self) {
        if self.own.is_inherited() {
            return;
        }
        let close = Record::default().finish(CODE_CLOSE, now());
        // Nobody is left to tell; readers take the end of the file as well.
        let _ = self.own.file.write_all(&close);
    }
}

/// Bytes of a record, in the byte order of the machine.
#[derive(Default)]
struct Record(Vec<u8>);

impl Record {
    fn u32(&mut self, word: u32) {
        self.0.extend(word.to_ne_bytes());
    }

    fn u64(&mut self, word: u64) {
        self.0.extend(word.to_ne_bytes());
    }

    /// A string that ends with a zero, and so has none inside.
    fn text(&mut self, text: &str) {
        self.0.extend(text.bytes().filter(|byte| *byte != 0));
        self.0.push(0);
    }

    /// The record with what goes in front of it.
    fn finish(self, kind: u32, time: u64) -> Vec<u8> {
        let mut whole = Self(Vec::with_capacity(PREFIX + self.0.len()));
        whole.u32(kind);
        whole.u32((PREFIX + self.0.len()) as u32);
        whole.u64(time);
        whole.0.extend(self.0);
        whole.0
    }
}

/// The clock that `perf record -k mono` uses, in nanoseconds.
fn now() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the structure is local; this clock exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn thread_id() -> u32 {
    // SAFETY: gettid(2) has no preconditions.
    let id = unsafe { libc::syscall(libc::SYS_gettid) };
    id as u32
}

impl Tool for Jitdump {
    fn published(&self, code: &CodeInfo, bytes: &[u8], symbol: &Symbol<'_>) {
        let mut state = lock(&self.state);
        let written = state.dump(&self.place).and_then(|dump| dump.write(code, bytes, symbol));
        if let Err(error) = written {
            state.error.get_or_insert(error);
        }
    }

    fn recycled(&self, _: usize) {
        // What comes to lie there says so, with its time.
    }

    fn unmapped(&self, _: Span) {}
}

/// A mapping of the file's first page, which perf finds in the recording.
#[derive(Debug)]
struct Marker {
    page: NonNull<libc::c_void>,
    len: usize,
}

// SAFETY: nobody reads or writes through the mapping; it only exists.
unsafe impl Send for Marker {}
// SAFETY: as above.
unsafe impl Sync for Marker {}

impl Marker {
    fn new(file: &File) -> io::Result<Self> {
        // SAFETY: sysconf(3) has no preconditions.
        let len = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
        let rights = libc::PROT_READ | libc::PROT_EXEC;
        let file = file.as_raw_fd();
        // SAFETY: a new mapping, at an address of the kernel's choice.
        let page = unsafe { libc::mmap(ptr::null_mut(), len, rights, libc::MAP_PRIVATE, file, 0) };
        match NonNull::new(page) {
            Some(page) if page.as_ptr() != libc::MAP_FAILED => Ok(Self { page, len }),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for Marker {
    fn drop(&mut self) {
        // SAFETY: ours since `new`, and nobody uses it.
        unsafe { libc::munmap(self.page.as_ptr(), self.len) };
    }
}
