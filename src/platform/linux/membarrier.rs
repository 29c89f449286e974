//! Serialising every core that runs this process: membarrier(2).
//!
//! A core may hold instructions that it fetched from an address before the
//! address got new code. Before freed addresses are used again, every core
//! that could have run the old code executes a serialising instruction (SDM
//! vol. 3A, "Handling Self- and Cross-Modifying Code") or a context
//! synchronisation event (Arm ARM): MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE,
//! Linux 4.16 and later, does just that.
//!
//! # Where it is missing
//!
//! An older kernel, one built without it, or a filter of system calls. On
//! x86-64 a TLB flush serves: unmapping a page that was touched interrupts
//! every core on which this process's address space is live, and the flush
//! there is INVLPG or a write of CR3, both serialising instructions; a core on
//! which it is not live writes CR3 before it runs the process again. That
//! needs flushes by interrupt, so processors with INVLPGB are excluded. On
//! aarch64 TLB flushes are broadcast in hardware and synchronise no context:
//! there the error is returned, and the caller must not use the addresses
//! again.

use super::{Access, Backing, OsError, OsResult, last_error, memory};
use crate::arch;

/// From <linux/membarrier.h>.
const PRIVATE_EXPEDITED_SYNC_CORE: libc::c_int = 1 << 5;
const REGISTER_PRIVATE_EXPEDITED_SYNC_CORE: libc::c_int = 1 << 6;

fn membarrier(command: libc::c_int, call: &'static str) -> OsResult<()> {
    // SAFETY: membarrier(2) takes three numbers and touches no memory.
    let status = unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) };
    if status == 0 { Ok(()) } else { Err(last_error(call, 0)) }
}

/// Tells the kernel that this process will ask; doing it twice is fine.
pub(super) fn register() -> OsResult<()> {
    membarrier(REGISTER_PRIVATE_EXPEDITED_SYNC_CORE, "membarrier(REGISTER_SYNC_CORE)")
}

pub(super) fn sync_core(system_page: usize) -> OsResult<()> {
    membarrier(PRIVATE_EXPEDITED_SYNC_CORE, "membarrier(SYNC_CORE)")
        .or_else(|error| flush_others(system_page, error))
}

/// The fallback; `missing` is why it is needed, and the answer where it cannot
/// be had.
fn flush_others(system_page: usize, missing: OsError) -> OsResult<()> {
    if arch::flushes_without_interrupts() {
        return Err(missing);
    }
    let page = memory::map_anywhere(Backing::Private, system_page, Access::ReadWrite)?;
    // A page that was never present needs no flush.
    // SAFETY: mapped writable just now, and nobody else knows of it.
    unsafe { arch::copy_in(page, &[1]) };
    // SAFETY: the same page, not used again.
    unsafe { memory::unmap(page, system_page) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::{Platform, linux::Linux};

    #[test]
    fn registering_twice_is_fine_and_syncing_works() {
        let page = Linux::new().system_page();
        match register().and_then(|()| register()) {
            Ok(()) => sync_core(page).unwrap(),
            // A kernel without it: the fallback, or its error, but no panic.
            Err(missing) => {
                assert!(missing.errno != 0);
                assert_eq!(sync_core(page).is_err(), arch::flushes_without_interrupts());
            }
        }
    }

    #[test]
    fn fallback_works_or_gives_the_first_error_back() {
        let missing = OsError { call: "membarrier", bytes: 0, errno: libc::ENOSYS };
        let answer = flush_others(Linux::new().system_page(), missing);
        if arch::flushes_without_interrupts() {
            assert_eq!(answer, Err(missing));
        } else {
            assert_eq!(answer, Ok(()));
        }
    }
}
