//! x86-64: protection-key rights, `int3` fill, coherent caches.
//!
//! Sources: Intel SDM vol. 2, RDPKRU, WRPKRU and INT3; vol. 3A, "Protection
//! Keys" (the chapter on paging), "Handling Self- and Cross-Modifying Code"
//! and "Serializing Instructions" (the chapter on multiple-processor
//! management); Linux Documentation/core-api/protection-keys.rst.
//!
//! Owns the half of `[W2]` that is instructions: no load or store moves across a
//! change of rights.

use core::arch::asm;

/// Four bytes that trap wherever execution enters them: `int3`, four times.
pub(crate) const TRAP: [u8; 4] = [0xCC; 4];

/// A function that returns at once: `ret`.
pub(crate) const RETURN: &[u8] = &[0xC3];

/// Whether a core that fetched instructions ahead drops them when another one
/// writes there. It does (SDM vol. 3A, "Self-Modifying Code": checked by
/// physical address, for every processor's stores).
pub(crate) const DROPS_STALE_FETCHES: bool = true;

/// Bytes a direct branch spans (SDM vol. 2, JMP and CALL, rel32): any two
/// places of a region no longer than this reach each other.
pub(crate) const BRANCH_REACH: usize = 1 << 31;

/// Whether a direct branch at `from` reaches `to`, however long the instruction:
/// the distance counts from its end, 5 bytes on for a jump or call and 6 for a
/// conditional jump.
pub(crate) fn reaches(from: usize, to: usize) -> bool {
    let from_end = |len: usize| to.wrapping_sub(from.wrapping_add(len)) as isize;
    i32::try_from(from_end(5)).is_ok() && i32::try_from(from_end(6)).is_ok()
}

/// A jump to `target`, anywhere. It changes no register and no flag, so code may
/// come through it under any calling convention.
pub(crate) fn far_jump(target: usize) -> [u8; 16] {
    // jmp [rip + 2]; a two-byte nop; the address, aligned.
    let mut code = [0xFF, 0x25, 0x02, 0, 0, 0, 0x66, 0x90, 0, 0, 0, 0, 0, 0, 0, 0];
    code[8..].copy_from_slice(&target.to_le_bytes());
    code
}

/// Fills a range with [`TRAP`].
///
/// # Safety
///
/// - `[to, to + len)` is mapped, writable to the calling thread and ours.
/// - `len` is a multiple of 4.
pub(crate) unsafe fn fill_traps(to: usize, len: usize) {
    let to = core::ptr::with_exposed_provenance_mut::<u8>(to);
    // SAFETY: the caller gave a writable range of `len` bytes.
    unsafe { core::ptr::write_bytes(to, TRAP[0], len) };
}

/// Writes back a range just written. Nothing to do: instruction fetches snoop
/// the data caches, by physical address.
///
/// # Safety
///
/// None here; the signature is that of processors that touch the range.
pub(crate) unsafe fn clean_data_cache(_addr: usize, _len: usize) {}

/// Drops stale instructions of a range. Nothing to do on this core: the jump
/// through which new code is entered is enough for code that was never run
/// before, and *re*used addresses get a serialising instruction on every core
/// (`Platform::sync_core`).
///
/// # Safety
///
/// None here; the signature is that of processors that touch the range.
pub(crate) unsafe fn invalidate_instruction_cache(_addr: usize, _len: usize) {}

/// Whether this processor has INVLPGB, with which a kernel can flush other
/// cores' TLBs without interrupting them (AMD APM vol. 3, CPUID Fn8000_0008
/// EBX bit 3).
pub(crate) fn flushes_without_interrupts() -> bool {
    // Every x86-64 processor has CPUID and this leaf or a smaller maximum,
    // which the first query tells.
    #[allow(unused_unsafe, reason = "a safe function from Rust 1.94 on")]
    // SAFETY: CPUID exists on all x86-64 processors.
    let max = unsafe { core::arch::x86_64::__cpuid(0x8000_0000) }.eax;
    if max < 0x8000_0008 {
        return false;
    }
    #[allow(unused_unsafe, reason = "a safe function from Rust 1.94 on")]
    // SAFETY: as above, and the leaf exists.
    let features = unsafe { core::arch::x86_64::__cpuid(0x8000_0008) }.ebx;
    features & (1 << 3) != 0
}

/// Access-disable bit of `key` in PKRU: neither loads nor stores.
const fn access_disable(key: u32) -> u32 {
    1 << (2 * key)
}

/// Write-disable bit of `key` in PKRU.
const fn write_disable(key: u32) -> u32 {
    1 << (2 * key + 1)
}

/// The two rights bits of `key` out of a PKRU value: (access disabled, write
/// disabled).
pub(crate) const fn key_bits(pkru: u32, key: u32) -> (bool, bool) {
    (pkru & access_disable(key) != 0, pkru & write_disable(key) != 0)
}

/// `pkru` with the two rights bits of `key` replaced.
pub(crate) const fn with_key_bits(pkru: u32, key: u32, no_access: bool, no_write: bool) -> u32 {
    let mut value = pkru & !(access_disable(key) | write_disable(key));
    if no_access {
        value |= access_disable(key);
    }
    if no_write {
        value |= write_disable(key);
    }
    value
}

/// Reads the calling thread's rights under all keys.
///
/// # Safety
///
/// The kernel has enabled protection keys (CR4.PKE): it has handed out a key.
/// Otherwise the instruction is undefined.
pub(crate) unsafe fn read_pkru() -> u32 {
    let pkru: u32;
    // SAFETY: RDPKRU is enabled (caller), wants ECX = 0 and zeroes EDX. It
    // is not marked `nomem`, so that it keeps its place among memory accesses.
    unsafe {
        asm!(
            "rdpkru",
            in("ecx") 0,
            out("eax") pkru,
            out("edx") _,
            options(nostack, preserves_flags)
        );
    }
    pkru
}

/// Sets the calling thread's rights under all keys.
///
/// The asm block clobbers memory, and must: marked `nomem`, the compiler lets
/// stores made while the key is open sink below the instruction that closes
/// it. The processor itself orders memory accesses around WRPKRU, speculative
/// ones included, so no fence is wanted.
///
/// # Safety
///
/// As for [`read_pkru`].
pub(crate) unsafe fn write_pkru(pkru: u32) {
    // SAFETY: WRPKRU is enabled (caller) and wants ECX = EDX = 0. It changes
    // no memory, but which memory may be accessed: hence no `nomem`.
    unsafe {
        asm!(
            "wrpkru",
            in("eax") pkru,
            in("ecx") 0,
            in("edx") 0,
            options(nostack, preserves_flags)
        );
    }
}

/// Copies memory that others may be writing meanwhile, behind the compiler's
/// back.
///
/// # Safety
///
/// Both ranges are mapped and do not overlap, the first is readable and the
/// second writable to the calling thread, and `len` is a multiple of 8.
pub(crate) unsafe fn copy_racing(from: usize, to: usize, len: usize) {
    // SAFETY: reads and writes what the caller vouches for; the calling
    // convention has the direction flag clear.
    unsafe {
        core::arch::asm!(
            "rep movsq",
            inout("rcx") len / 8 => _,
            inout("rsi") from => _,
            inout("rdi") to => _,
            options(nostack, preserves_flags),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t3_branches_reach_two_gibibytes_either_way() {
        let from = 0x7000_0000_0000_usize;
        assert!(reaches(from, from + (1 << 31)) && reaches(from, from - (1 << 31) + 6));
        assert!(!reaches(from, from + (1 << 31) + 5) && !reaches(from, from - (1 << 31) + 5));
        assert!(reaches(0, usize::MAX) && !reaches(0, usize::MAX / 2));
    }

    #[test]
    fn rights_bits_of_a_key_are_its_own() {
        // The kernel's initial value: access disabled under all keys but 0.
        let init = 0x5555_5554;
        assert_eq!(key_bits(init, 0), (false, false));
        for key in 1..16 {
            assert_eq!(key_bits(init, key), (true, false));
        }
        for key in 0..16 {
            for (no_access, no_write) in
                [(false, false), (false, true), (true, false), (true, true)]
            {
                let value = with_key_bits(init, key, no_access, no_write);
                assert_eq!(key_bits(value, key), (no_access, no_write));
                let others = !(0b11 << (2 * key));
                assert_eq!(value & others, init & others, "key {key} alone may change");
            }
        }
    }
}
