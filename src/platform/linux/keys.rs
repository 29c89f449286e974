//! Protection keys: pkeys(7), pkey_alloc(2), pkey_mprotect(2).
//!
//! Raw system calls, so that neither a glibc that knows them nor one at all is
//! wanted. Only x86-64 so far; elsewhere allocation refuses, so no key exists.

#[cfg(not(target_arch = "x86_64"))]
use super::OsError;
use super::{Access, Key, KeyAccess, OsResult};

#[cfg(target_arch = "x86_64")]
mod imp {
    use super::super::{last_error, memory};
    use super::{Access, Key, KeyAccess, OsResult};
    use crate::arch;

    /// From <asm-generic/mman-common.h>.
    const PKEY_DISABLE_ACCESS: libc::c_ulong = 0x1;
    const PKEY_DISABLE_WRITE: libc::c_ulong = 0x2;

    pub(crate) fn alloc() -> OsResult<Key> {
        let closed = PKEY_DISABLE_ACCESS | PKEY_DISABLE_WRITE;
        // SAFETY: pkey_alloc(2) takes two numbers; it sets the calling thread's
        // rights under a key that no mapping carries yet.
        let key = unsafe { libc::syscall(libc::SYS_pkey_alloc, 0_usize, closed) };
        u32::try_from(key).map(Key).map_err(|_| last_error("pkey_alloc", 0))
    }

    /// # Safety
    ///
    /// No mapping carries the key.
    pub(crate) unsafe fn free(key: Key) {
        // SAFETY: the key is ours and unused (caller). EINVAL, the only error,
        // would mean that somebody freed it already; nothing is left to do.
        let _ = unsafe { libc::syscall(libc::SYS_pkey_free, libc::c_long::from(key.0)) };
    }

    /// # Safety
    ///
    /// The caller owns the range, and no thread relies on a right that goes.
    pub(crate) unsafe fn protect(
        addr: usize,
        len: usize,
        access: Access,
        key: Key,
    ) -> OsResult<()> {
        let bits = libc::c_long::from(memory::protection_bits(access));
        let key = libc::c_long::from(key.0);
        // SAFETY: from the caller; the four arguments are numbers of register
        // width.
        let status = unsafe { libc::syscall(libc::SYS_pkey_mprotect, addr, len, bits, key) };
        if status == 0 { Ok(()) } else { Err(last_error("pkey_mprotect", len)) }
    }

    pub(crate) fn access(key: Key) -> KeyAccess {
        // SAFETY: the kernel handed out `key`, so it has enabled keys.
        match arch::key_bits(unsafe { arch::read_pkru() }, key.0) {
            (true, _) => KeyAccess::Closed,
            (false, true) => KeyAccess::ReadOnly,
            (false, false) => KeyAccess::Open,
        }
    }

    pub(crate) fn set_access(key: Key, access: KeyAccess) {
        let (no_access, no_write) = match access {
            KeyAccess::Closed => (true, true),
            KeyAccess::ReadOnly => (false, true),
            KeyAccess::Open => (false, false),
        };
        // A signal between the two instructions does no harm: its return
        // restores the whole register of this thread, which nobody else sets.
        // SAFETY: the kernel handed out `key`, so it has enabled keys.
        let before = unsafe { arch::read_pkru() };
        let after = arch::with_key_bits(before, key.0, no_access, no_write);
        // SAFETY: as above; other keys' bits stay.
        unsafe { arch::write_pkru(after) };
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod imp {
    use super::{Access, Key, KeyAccess, OsError, OsResult};

    const NO_KEYS: OsError = OsError { call: "pkey_alloc", bytes: 0, errno: libc::ENOSYS };

    pub(crate) fn alloc() -> OsResult<Key> {
        Err(NO_KEYS)
    }

    /// # Safety
    ///
    /// None: there is no key.
    pub(crate) unsafe fn free(_key: Key) {}

    /// # Safety
    ///
    /// None: there is no key.
    pub(crate) unsafe fn protect(
        _addr: usize,
        _len: usize,
        _access: Access,
        _key: Key,
    ) -> OsResult<()> {
        Err(NO_KEYS)
    }

    pub(crate) fn access(_key: Key) -> KeyAccess {
        KeyAccess::Closed
    }

    pub(crate) fn set_access(_key: Key, _access: KeyAccess) {}
}

pub(super) use imp::{access, alloc, free, protect, set_access};
