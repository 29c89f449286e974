//! Rights: what page tables and a thread's registers together allow.

use core::fmt;

use super::pages::Mapping;
use crate::platform::{Access, Key, KeyAccess};

/// Keys a thread's register has room for; 0 is everybody's.
pub(super) const KEYS: usize = 16;

/// A thread's registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadRights {
    /// By key. Key 0 is always open.
    keys: [KeyAccess; KEYS],
    /// Apple's toggle.
    jit_writable: bool,
}

impl ThreadRights {
    /// The registers the kernel starts a process with, and which threads older
    /// than a key keep: all keys but 0 closed. Signal handlers run with these.
    pub(super) const DENY: Self = Self { keys: [KeyAccess::Closed; KEYS], jit_writable: false };

    pub(super) fn key(&self, key: Key) -> KeyAccess {
        if key.0 == 0 { KeyAccess::Open } else { self.keys[key.0 as usize] }
    }

    pub(super) fn set_key(&mut self, key: Key, access: KeyAccess) {
        self.keys[key.0 as usize] = access;
    }

    pub(super) fn set_jit_writable(&mut self, writable: bool) {
        self.jit_writable = writable;
    }

    /// Whether the thread could write some code memory: one of the keys is
    /// open, or the toggle is.
    #[must_use]
    pub fn may_write(&self) -> bool {
        self.jit_writable || self.keys[1..].contains(&KeyAccess::Open)
    }

    /// What this thread may do in `mapping`. Keys govern data accesses only,
    /// never fetches (Intel SDM volume 3, 4.6.2; AMD APM volume 2, 5.6.7).
    pub(super) fn effective(&self, mapping: &Mapping) -> Effective {
        let (mut read, mut write, execute) = match mapping.access {
            Access::None => (false, false, false),
            Access::ReadExecute => (true, false, true),
            Access::ReadWrite => (true, true, false),
            Access::ReadWriteExecute if mapping.jit => {
                (true, self.jit_writable, !self.jit_writable)
            }
            Access::ReadWriteExecute => (true, true, true),
        };
        match self.key(mapping.key) {
            KeyAccess::Closed => (read, write) = (false, false),
            KeyAccess::ReadOnly => write = false,
            KeyAccess::Open => {}
        }
        Effective { read, write, execute }
    }
}

impl fmt::Display for ThreadRights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("keys")?;
        let mut any = false;
        for (key, access) in self.keys.iter().enumerate().skip(1) {
            if *access != KeyAccess::Closed {
                write!(f, " {key}:{access:?}")?;
                any = true;
            }
        }
        if !any {
            f.write_str(" all closed")?;
        }
        if self.jit_writable {
            f.write_str(", JIT memory writable")?;
        }
        Ok(())
    }
}

/// What one thread may do with one page now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Effective {
    pub(super) read: bool,
    pub(super) write: bool,
    pub(super) execute: bool,
}
