//! System calls that rivals share: mappings, a second view, a key.

use std::io;
use std::ptr;

/// A system page here, in bytes.
pub const PAGE: usize = 4096;

/// A mapping that goes away with its owner.
#[derive(Debug)]
pub struct Mapping {
    /// First address.
    pub start: usize,
    /// Length in bytes.
    pub len: usize,
}

impl Mapping {
    /// Maps private anonymous memory.
    pub fn private(len: usize, rights: i32) -> io::Result<Self> {
        Self::new(len, rights, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE, -1)
    }

    fn new(len: usize, rights: i32, flags: i32, fd: i32) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choosing.
        let start = unsafe { libc::mmap(ptr::null_mut(), len, rights, flags, fd, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { start: start as usize, len })
    }

    /// Changes the rights of a part.
    pub fn protect(&self, offset: usize, len: usize, rights: i32) -> io::Result<()> {
        assert!(offset + len <= self.len);
        // SAFETY: inside this mapping.
        check(unsafe { libc::mprotect((self.start + offset) as *mut _, len, rights) })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the whole mapping is ours.
        unsafe { libc::munmap(self.start as *mut _, self.len) };
    }
}

/// One memory file shown twice.
#[derive(Debug)]
pub struct TwoViews {
    /// Readable and executable.
    pub executable: Mapping,
    /// Readable and writable.
    pub writable: Mapping,
}

impl TwoViews {
    /// Maps `len` bytes twice and makes all of them present in both views.
    pub fn new(len: usize) -> io::Result<Self> {
        let file = MemoryFile::new(len)?;
        let executable =
            Mapping::new(len, libc::PROT_READ | libc::PROT_EXEC, libc::MAP_SHARED, file.0)?;
        let writable =
            Mapping::new(len, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, file.0)?;
        for at in (0..len).step_by(PAGE) {
            // SAFETY: inside the writable view.
            unsafe { ptr::write_volatile((writable.start + at) as *mut u8, 0) };
            // SAFETY: inside the executable view.
            unsafe { ptr::read_volatile((executable.start + at) as *const u8) };
        }
        Ok(Self { executable, writable })
    }
}

/// A memory file, to map from.
#[derive(Debug)]
pub struct MemoryFile(i32);

impl MemoryFile {
    /// A file of `len` bytes.
    pub fn new(len: usize) -> io::Result<Self> {
        // SAFETY: the name is a C string.
        let fd = unsafe { libc::memfd_create(c"rival".as_ptr(), libc::MFD_CLOEXEC) };
        check(fd)?;
        let file = Self(fd);
        // SAFETY: a descriptor of ours.
        check(unsafe { libc::ftruncate(fd, len as i64) })?;
        Ok(file)
    }

    /// A view of part of it.
    pub fn map(&self, offset: usize, len: usize, rights: i32) -> io::Result<Mapping> {
        // SAFETY: a new mapping at an address of the kernel's choosing.
        let start = unsafe {
            libc::mmap(ptr::null_mut(), len, rights, libc::MAP_SHARED, self.0, offset as i64)
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Mapping { start: start as usize, len })
    }
}

impl Drop for MemoryFile {
    fn drop(&mut self) {
        // SAFETY: a descriptor of ours.
        unsafe { libc::close(self.0) };
    }
}

fn check(status: i32) -> io::Result<()> {
    if status < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Copies code to where it is to be written.
///
/// # Safety
///
/// `[to, to + code.len())` is mapped writable, and nobody else uses it.
#[inline]
pub unsafe fn copy(to: usize, code: &[u8]) {
    // SAFETY: from the caller; the source cannot lie in memory of the caller's
    // own allocation.
    unsafe { ptr::copy_nonoverlapping(code.as_ptr(), to as *mut u8, code.len()) };
}

/// A protection key on one mapping, with the calling thread's rights.
#[derive(Clone, Copy, Debug)]
pub struct Key(u32);

impl Key {
    /// Allocates a key and puts it on `mapping`, with rights of `rights`.
    pub fn on(mapping: &Mapping, rights: i32) -> io::Result<Self> {
        // SAFETY: pkey_alloc(2) takes two numbers.
        let key = unsafe { libc::syscall(libc::SYS_pkey_alloc, 0, 0) };
        check(key as i32)?;
        // SAFETY: the mapping is the caller's.
        check(unsafe {
            libc::syscall(libc::SYS_pkey_mprotect, mapping.start, mapping.len, rights, key)
        } as i32)?;
        Ok(Self(key as u32))
    }

    /// Takes all rights under the key from the calling thread, or gives them.
    #[cfg(target_arch = "x86_64")]
    #[inline]
    pub fn set(self, open: bool) {
        let pkru: u32;
        // SAFETY: a key was allocated, so the instruction exists.
        unsafe {
            core::arch::asm!("rdpkru", in("ecx") 0, out("eax") pkru, out("edx") _, options(nostack));
        }
        let bits = 3 << (2 * self.0);
        let pkru = if open { pkru & !bits } else { pkru | bits };
        // SAFETY: as above; changes rights under a key of ours only. Clobbers
        // memory, so that no access moves across it.
        unsafe {
            core::arch::asm!("wrpkru", in("ecx") 0, in("eax") pkru, in("edx") 0, options(nostack));
        }
    }

    /// No key can be had on this processor.
    #[cfg(not(target_arch = "x86_64"))]
    pub fn set(self, _open: bool) {}
}
