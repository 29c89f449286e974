//! The machine behind one trait: what the arena asks of an operating system
//! and a processor, and nothing else.
//!
//! Each file is one machine: [`linux`] and `macos` are real; `model` simulates
//! page tables, per-thread rights and per-thread instruction caches so that
//! loom and shuttle can check the code that ships; `faulty` wraps any of them
//! and fails the n-th call of a kind. Callers hold a `dyn Platform` and never
//! write `cfg(target_os)`.
//!
//! Calls that make a system call say so; the others are a few instructions and
//! may sit on the install path.

use core::fmt;
use std::sync::Arc;

#[cfg(feature = "model")]
pub mod faulty;
#[cfg(target_os = "linux")]
pub mod linux;
#[cfg(target_os = "macos")]
pub mod macos;
#[cfg(feature = "model")]
pub mod model;
mod signals;

pub(crate) use signals::SignalsHeldBack;

/// A failed system call: which one, on how many bytes, with which errno.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct OsError {
    /// Name of the call as in section 2 of the manual, for example `"mmap"`.
    pub call: &'static str,
    /// Bytes the call was about; 0 where it has no length.
    pub bytes: usize,
    /// The platform's error number.
    pub errno: i32,
}

impl fmt::Debug for OsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for OsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = std::io::Error::from_raw_os_error(self.errno);
        if self.bytes == 0 {
            write!(f, "{}: {why}", self.call)
        } else {
            write!(f, "{} of {} bytes: {why}", self.call, self.bytes)
        }
    }
}

impl std::error::Error for OsError {}

/// Result of a platform call.
pub type OsResult<T> = Result<T, OsError>;

/// Page-table rights of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reserved: every access faults.
    None,
    /// Readable and executable, never writable.
    ReadExecute,
    /// Readable and writable, never executable.
    ReadWrite,
    /// Readable, writable and executable. Only the single-view strategies that
    /// say so ask for it.
    ReadWriteExecute,
}

/// A memory object that several mappings can show (a memfd on Linux).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryFile(pub i32);

/// A protection key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key(pub u32);

/// What a thread may do with memory under a key.
///
/// Of a width that is read whole: a scope reads it when its code has just been
/// written, and a load wider than the store it follows waits for all of that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum KeyAccess {
    /// Neither read nor write.
    Closed,
    /// Read, but not write.
    ReadOnly,
    /// Read and write.
    Open,
}

/// What backs a new mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// This part of a memory file, shared.
    File(MemoryFile, usize),
    /// New anonymous memory that [`Platform::duplicate`] can show again.
    SharedAnonymous,
    /// New anonymous memory private to this process.
    Private,
    /// New anonymous memory that the operating system knows to be JIT code
    /// (`MAP_JIT`).
    Jit,
}

/// Where a new mapping is to lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Wherever the system likes.
    Anywhere,
    /// Wherever the system likes, at a multiple of this power of two; at any
    /// place if no such one is found. A wish: the caller looks at what it got.
    Aligned(usize),
    /// In a free range as near to this address as can be had; anywhere if none
    /// is found. A wish: the caller looks at what it got.
    Near(usize),
    /// In a free range at a multiple of `align`, a power of two, that nobody can
    /// foretell who does not know `seed`; if there is a `near`, one of which
    /// every byte is within a branch's reach of it. As [`Near`](Self::Near) or
    /// [`Aligned`](Self::Aligned) if none is found. A wish: the caller looks at
    /// what it got.
    Random {
        /// Address to be within reach of.
        near: Option<usize>,
        /// What the address is to be a multiple of.
        align: usize,
        /// From [`Platform::random`].
        seed: u64,
    },
}

/// What is to be called around a fork, all on the thread that forks.
#[derive(Clone, Copy, Debug)]
pub struct ForkHandlers {
    /// Before it.
    pub prepare: extern "C" fn(),
    /// After it, in the parent; also if it failed.
    pub parent: extern "C" fn(),
    /// After it, in the child, whose only thread that is.
    pub child: extern "C" fn(),
}

/// The machine.
///
/// # Safety
///
/// - A mapping returned by [`map`](Self::map) or
///   [`duplicate`](Self::duplicate) has the stated length and rights, overlaps
///   no other mapping, and stays until [`unmap`](Self::unmap).
/// - Two mappings of one memory show the same bytes.
/// - [`set_key_access`](Self::set_key_access) changes the calling thread's
///   rights only, and no load or store moves across it.
pub unsafe trait Platform: fmt::Debug + Send + Sync {
    /// Size of a system page in bytes, a power of two.
    fn system_page(&self) -> usize;

    /// A new memory file of `len` bytes, all zero, none of it committed.
    /// System calls.
    ///
    /// # Errors
    ///
    /// The call that failed. A length beyond the process's file-size limit is
    /// reported as an error, never as a signal.
    fn create_file(&self, name: &str, len: usize) -> OsResult<MemoryFile>;

    /// Forbids all later changes of the file's size. System call.
    fn seal_file(&self, file: MemoryFile) -> OsResult<()>;

    /// Closes the descriptor; mappings of the file stay. System call.
    fn close_file(&self, file: MemoryFile);

    /// A number that nobody can foretell. System call.
    ///
    /// # Errors
    ///
    /// The call that failed, or `ENOTSUP` on a machine that leaves nothing to
    /// chance.
    fn random(&self) -> OsResult<u64> {
        Err(OsError { call: "getrandom", bytes: 0, errno: libc::ENOTSUP })
    }

    /// Whether the system makes whatever this process maps as readable executable,
    /// too, so that nothing writable is not. May make a system call.
    fn adds_execute(&self) -> bool {
        false
    }

    /// Bytes to leave inaccessible on either side of a view that lasts, whole
    /// system pages; 0 on a machine without [`map_over`](Self::map_over).
    fn guard(&self) -> usize {
        0
    }

    /// Maps `len` bytes. System call.
    fn map(&self, backing: Backing, place: Place, len: usize, access: Access) -> OsResult<usize>;

    /// Maps the memory that shared mapping `[addr, addr + len)` shows a second
    /// time, elsewhere, with the same rights (`mremap` with an old size of 0).
    /// System call.
    ///
    /// # Safety
    ///
    /// The range lies inside one mapping of [`Backing::SharedAnonymous`] or
    /// [`Backing::File`].
    unsafe fn duplicate(&self, addr: usize, len: usize) -> OsResult<usize>;

    /// Removes mappings. System call.
    ///
    /// # Safety
    ///
    /// The caller owns the whole range and nothing uses it any more.
    unsafe fn unmap(&self, addr: usize, len: usize) -> OsResult<()>;

    /// Changes page-table rights, and tags the pages with `key` if one is
    /// given. System call.
    ///
    /// # Safety
    ///
    /// The caller owns the range, and no thread relies on a right that goes.
    unsafe fn protect(
        &self,
        addr: usize,
        len: usize,
        access: Access,
        key: Option<Key>,
    ) -> OsResult<()>;

    /// Makes writable pages present, so that no later store faults or finds
    /// memory exhausted; changes no byte. System call. Under a key, the calling
    /// thread's rights are [`KeyAccess::Open`]: the system faults the pages in
    /// on its behalf.
    ///
    /// # Safety
    ///
    /// The range lies inside one writable mapping that the caller owns.
    unsafe fn populate(&self, addr: usize, len: usize) -> OsResult<()>;

    /// Gives whole system pages back; they read as zeros until written again,
    /// in every view. System call; needs no key rights.
    ///
    /// User-mode emulators ignore such calls and report success: the bytes stay.
    /// Nothing but memory use may rest on a discard.
    ///
    /// # Safety
    ///
    /// The range lies inside one writable mapping, is whole system pages, and
    /// holds nothing that anyone still needs, in any view.
    unsafe fn discard(&self, addr: usize, len: usize) -> OsResult<()>;

    /// Size of a huge page in bytes, a power of two; `None` if the system has
    /// none for such memory. May read a file.
    fn huge_page(&self) -> Option<usize> {
        None
    }

    /// Moves the memory that `[addr, addr + len)` shows into huge pages, and
    /// maps it by them there. What is not present of it comes as zeros; no
    /// byte changes, and threads that run or write it meanwhile wait. A later
    /// discard of a part splits a huge page again. `is_private` tells whether the
    /// mapping is of private memory. System calls; needs no key rights.
    ///
    /// # Errors
    ///
    /// The call that failed, and then nothing has changed but what is present.
    ///
    /// # Safety
    ///
    /// The range is whole huge pages inside one mapping that the caller owns.
    unsafe fn collapse(&self, _addr: usize, len: usize, _is_private: bool) -> OsResult<()> {
        Err(OsError { call: "huge pages", bytes: len, errno: libc::ENOTSUP })
    }

    /// Keeps a mapping out of forked children. System call.
    ///
    /// # Safety
    ///
    /// The caller owns the whole range.
    unsafe fn hide_from_children(&self, addr: usize, len: usize) -> OsResult<()>;

    /// Forbids for good to unmap, move or replace a mapping or to change its
    /// rights, in this process. System call.
    ///
    /// # Errors
    ///
    /// The call that failed: `ENOSYS` on kernels before 6.10.
    ///
    /// # Safety
    ///
    /// The caller owns the whole range and never does any of that.
    unsafe fn seal_mapping(&self, _addr: usize, len: usize) -> OsResult<()> {
        Err(OsError { call: "mseal", bytes: len, errno: libc::ENOTSUP })
    }

    /// Whether its processes fork: others are never asked for what comes around
    /// that.
    fn forks(&self) -> bool {
        false
    }

    /// Has handlers called around each fork of this process from now on. Asked
    /// once a process. System call, perhaps.
    ///
    /// # Errors
    ///
    /// There is no memory for it.
    fn on_fork(&self, _handlers: ForkHandlers) -> OsResult<()> {
        Err(OsError { call: "pthread_atfork", bytes: 0, errno: libc::ENOTSUP })
    }

    /// Number of this process and of its parent, which changes when the parent
    /// ends. System calls.
    fn process_and_parent(&self) -> (i32, i32) {
        (0, 0)
    }

    /// Maps `len` bytes at `addr` in place of whatever is mapped there. System
    /// call.
    ///
    /// # Errors
    ///
    /// The call that failed; the range shows what it showed.
    ///
    /// # Safety
    ///
    /// The caller owns the range, and nothing needs what it shows.
    unsafe fn map_over(
        &self,
        _backing: Backing,
        _addr: usize,
        len: usize,
        _access: Access,
    ) -> OsResult<()> {
        Err(OsError { call: "mmap(MAP_FIXED)", bytes: len, errno: libc::ENOTSUP })
    }

    /// As [`duplicate`](Self::duplicate), at `to` in place of whatever is mapped
    /// there. System call.
    ///
    /// # Safety
    ///
    /// As there, and as for [`map_over`](Self::map_over).
    unsafe fn duplicate_over(&self, _addr: usize, len: usize, _to: usize) -> OsResult<()> {
        Err(OsError { call: "mremap(MREMAP_FIXED)", bytes: len, errno: libc::ENOTSUP })
    }

    /// Every mapping of the process that shows the memory that is mapped at
    /// `addr`: address and length. Reads a file.
    fn mappings_of(&self, _addr: usize) -> Vec<(usize, usize)> {
        Vec::new()
    }

    /// Copies `len` bytes, some of which other threads may be writing meanwhile:
    /// of those the copy is anything. No system call.
    ///
    /// # Safety
    ///
    /// Both ranges are mapped and do not overlap, the first is readable and the
    /// second writable and owned by the caller; all are multiples of 8.
    unsafe fn copy_racing(&self, from: usize, to: usize, len: usize) {
        for at in (0..len).step_by(8) {
            // SAFETY: aligned and readable (caller).
            let word = unsafe { self.peek_word(from + at) };
            // SAFETY: writable and the caller's.
            unsafe { self.copy_in(to + at, &word.to_ne_bytes()) };
        }
    }

    /// Gives anonymous memory a name, where the system shows one. A wish: memory
    /// that cannot have one stays as it is. System call.
    fn name_memory(&self, _addr: usize, _len: usize, _name: &str) {}

    /// A new protection key, closed for the calling thread. System call.
    fn key_alloc(&self) -> OsResult<Key>;

    /// Gives a key back. System call.
    ///
    /// # Safety
    ///
    /// No mapping carries the key any more.
    unsafe fn key_free(&self, key: Key);

    /// What the calling thread may do under `key`. No system call.
    fn key_access(&self, key: Key) -> KeyAccess;

    /// Sets what the calling thread may do under `key` and orders all memory
    /// accesses around the change. No system call.
    fn set_key_access(&self, key: Key, access: KeyAccess);

    /// Makes [`Backing::Jit`] memory writable (and not executable) for the
    /// calling thread, or executable (and not writable) again. No system call.
    fn set_jit_writable(&self, writable: bool);

    /// Announces that [`sync_core`](Self::sync_core) will be used. System call.
    fn register_sync_core(&self) -> OsResult<()>;

    /// Returns after every core that runs this process has executed a
    /// core-serialising instruction (`membarrier` SYNC_CORE). System call.
    fn sync_core(&self) -> OsResult<()>;

    /// Copies `bytes` to `to`. No system call.
    ///
    /// # Safety
    ///
    /// `[to, to + bytes.len())` is mapped, writable to the calling thread now,
    /// and owned by the caller.
    unsafe fn copy_in(&self, to: usize, bytes: &[u8]);

    /// Stores two words at `to`, each as one. No system call.
    ///
    /// Not as bytes: to copy what was just put together the processor loads more
    /// at once than it has stored at once, and such a load waits until all earlier
    /// stores are done, those of the code written last among them.
    ///
    /// # Safety
    ///
    /// As [`copy_in`](Self::copy_in), and `to` is a multiple of 8.
    unsafe fn store_words(&self, to: usize, words: [u64; 2]) {
        for (at, word) in words.into_iter().enumerate() {
            // SAFETY: from the caller.
            unsafe { self.copy_in(to + 8 * at, &word.to_ne_bytes()) };
        }
    }

    /// Fills `len` bytes at `to` with an instruction that traps. No system call.
    ///
    /// # Safety
    ///
    /// As for [`copy_in`](Self::copy_in); `to` and `len` are multiples of 4.
    unsafe fn fill_traps(&self, to: usize, len: usize);

    /// Reads an aligned word. No system call.
    ///
    /// # Safety
    ///
    /// `addr` is a multiple of 8 and readable to the calling thread.
    unsafe fn load_word(&self, addr: usize) -> u64;

    /// As [`load_word`](Self::load_word), of a word that other threads may be
    /// writing through another mapping: what it returns then may be neither the
    /// old nor the new one. No system call.
    ///
    /// # Safety
    ///
    /// As there.
    unsafe fn peek_word(&self, addr: usize) -> u64 {
        // SAFETY: from the caller.
        unsafe { self.load_word(addr) }
    }

    /// Writes back the data cache of a range just written, through the view it
    /// was written by. No system call; nothing on x86.
    ///
    /// # Safety
    ///
    /// The range is mapped and readable to the calling thread.
    unsafe fn clean_data_cache(&self, addr: usize, len: usize);

    /// Drops stale instructions of a range, named by the address it will be
    /// executed at. No system call; nothing on x86.
    ///
    /// # Safety
    ///
    /// The range is mapped and executable.
    unsafe fn invalidate_instruction_cache(&self, addr: usize, len: usize);

    /// The machine code of a function that returns at once, at most 8 bytes.
    /// Empty on a machine that does not run code.
    fn return_stub(&self) -> &'static [u8] {
        &[]
    }

    /// Calls the function at `addr`. No system call; does nothing on a machine
    /// that does not run code.
    ///
    /// # Safety
    ///
    /// [`return_stub`](Self::return_stub) was written there, caches are
    /// coherent, and the range is executable.
    unsafe fn call_stub(&self, _addr: usize) {}
}

/// The platform of the machine this code was compiled for.
#[must_use]
pub fn native() -> Arc<dyn Platform> {
    #[cfg(target_os = "linux")]
    {
        Arc::new(linux::Linux::new())
    }
    #[cfg(target_os = "macos")]
    {
        Arc::new(macos::Macos::new())
    }
}
