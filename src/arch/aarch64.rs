//! aarch64: `brk` fill and explicit cache maintenance.
//!
//! New instructions become visible in four steps (Arm ARM, DDI 0487, the
//! section "Synchronization and coherency issues between data and instruction
//! accesses", and the instruction pages DC CVAU, IC IVAU, DSB, ISB): clean the
//! data cache to the point of unification, DSB, invalidate the instruction
//! cache, DSB, and an ISB on every core that will run them. Caches are named
//! by virtual address and checked against *that address's* rights, so with two
//! views the clean names the writable address (some kernels and hypervisors
//! fault it on the other one) and the invalidation the executable one (the
//! instruction cache may be virtually indexed). The ISB of other cores is
//! `Platform::sync_core`'s.
//!
//! Line sizes come from CTR_EL0 (Arm ARM, "CTR_EL0, Cache Type Register"), not
//! from a constant; its IDC and DIC bits say that a step is not needed, in
//! which case its barrier still is.
//!
//! Permission overlays (FEAT_S1POE), this processor's protection keys, are not
//! used: `Platform::key_alloc` refuses.

use core::arch::asm;

/// Four bytes that trap wherever execution enters them: `brk #1`, which the
/// kernel turns into SIGTRAP like `int3` (an all-zero word, `udf #0`, traps
/// too, but looks like memory nobody ever filled).
pub(crate) const TRAP: [u8; 4] = 0xD420_0020_u32.to_le_bytes();

/// A function that returns at once: `ret`.
pub(crate) const RETURN: &[u8] = &0xD65F_03C0_u32.to_le_bytes();

/// Whether a core that fetched instructions ahead drops them when another one
/// writes there. It may go on with them until it synchronises, so recycled
/// memory holds traps from before that on: stale ones stop it.
pub(crate) const DROPS_STALE_FETCHES: bool = false;

/// Bytes a direct branch spans (Arm ARM, B and BL, imm26): any two places of a
/// region no longer than this reach each other.
pub(crate) const BRANCH_REACH: usize = 1 << 27;

/// Whether a direct branch at `from` reaches `to`.
pub(crate) fn reaches(from: usize, to: usize) -> bool {
    let distance = to.wrapping_sub(from) as isize;
    let reach = BRANCH_REACH as isize;
    (-reach..reach).contains(&distance) && distance % 4 == 0
}

/// A jump to `target`, anywhere. Changes x16, which the procedure call standard
/// gives to whoever lies between a branch and its target (AAPCS64, "IP0").
pub(crate) fn far_jump(target: usize) -> [u8; 16] {
    // ldr x16, 8; br x16; the address, aligned.
    let mut code = [0; 16];
    code[..4].copy_from_slice(&0x5800_0050_u32.to_le_bytes());
    code[4..8].copy_from_slice(&0xD61F_0200_u32.to_le_bytes());
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
    debug_assert!(len.is_multiple_of(TRAP.len()));
    let to = core::ptr::with_exposed_provenance_mut::<[u8; 4]>(to);
    for i in 0..len / TRAP.len() {
        // SAFETY: `i` is below the number of whole fours in the caller's range.
        let four = unsafe { to.add(i) };
        // SAFETY: inside the caller's writable range; byte arrays have no
        // alignment.
        unsafe { four.write(TRAP) };
    }
}

/// What CTR_EL0 says of the caches.
#[derive(Clone, Copy, Debug)]
struct CacheType(u64);

impl CacheType {
    /// Reads the register. Kernels that must correct it for mixed cores trap
    /// the read and answer with values that hold for all of them.
    fn read() -> Self {
        let ctr: u64;
        // SAFETY: CTR_EL0 is readable from user mode under every supported
        // system; the read touches neither memory nor flags.
        unsafe { asm!("mrs {}, ctr_el0", out(reg) ctr, options(nomem, nostack, preserves_flags)) };
        Self(ctr)
    }

    /// Bytes in the smallest data cache line (DminLine, log2 of words).
    const fn data_line(self) -> usize {
        4 << ((self.0 >> 16) & 0xF)
    }

    /// Bytes in the smallest instruction cache line (IminLine).
    const fn instruction_line(self) -> usize {
        4 << (self.0 & 0xF)
    }

    /// IDC: instruction fetches see the data cache, no clean is needed.
    const fn data_clean_needless(self) -> bool {
        self.0 & (1 << 28) != 0
    }

    /// DIC: the instruction cache follows the data cache, no invalidation is
    /// needed.
    const fn instruction_invalidate_needless(self) -> bool {
        self.0 & (1 << 29) != 0
    }
}

/// First addresses of the lines of `line` bytes that `[addr, addr + len)`
/// touches.
fn lines(addr: usize, len: usize, line: usize) -> impl Iterator<Item = usize> {
    let first = if len == 0 { addr } else { addr & !(line - 1) };
    (first..addr + len).step_by(line)
}

/// Cleans the data cache of a range to the point of unification, and waits.
///
/// # Safety
///
/// The range is mapped and readable to the calling thread: through the view it
/// was written by.
pub(crate) unsafe fn clean_data_cache(addr: usize, len: usize) {
    let cache = CacheType::read();
    if !cache.data_clean_needless() {
        for line in lines(addr, len, cache.data_line()) {
            // SAFETY: the line holds a byte of the caller's readable range, and
            // no line crosses a page. Clobbers memory, so it follows the stores.
            unsafe { asm!("dc cvau, {}", in(reg) line, options(nostack, preserves_flags)) };
        }
    }
    // SAFETY: a barrier; clobbers memory.
    unsafe { asm!("dsb ish", options(nostack, preserves_flags)) };
}

/// Invalidates the instruction cache of a range on all cores, waits, and
/// refetches on this one.
///
/// # Safety
///
/// The range is mapped and executable: it is the address the code runs at.
pub(crate) unsafe fn invalidate_instruction_cache(addr: usize, len: usize) {
    let cache = CacheType::read();
    if !cache.instruction_invalidate_needless() {
        for line in lines(addr, len, cache.instruction_line()) {
            // SAFETY: the line holds a byte of the caller's mapped range, and
            // no line crosses a page. Clobbers memory: stays between barriers.
            unsafe { asm!("ic ivau, {}", in(reg) line, options(nostack, preserves_flags)) };
        }
    }
    // SAFETY: barriers; clobber memory.
    unsafe { asm!("dsb ish", "isb", options(nostack, preserves_flags)) };
}

/// Whether TLB flushes reach other cores without interrupting them: always
/// (TLBI ... IS), so a flush never serialises them.
pub(crate) const fn flushes_without_interrupts() -> bool {
    true
}

/// Copies memory that others may be writing meanwhile, behind the compiler's
/// back.
///
/// # Safety
///
/// Both ranges are mapped and do not overlap, the first is readable and the
/// second writable to the calling thread, and all are multiples of 8.
pub(crate) unsafe fn copy_racing(from: usize, to: usize, len: usize) {
    for at in (0..len).step_by(8) {
        // SAFETY: aligned and readable (caller).
        let word = unsafe { super::load_word(from + at) };
        let to = core::ptr::with_exposed_provenance_mut::<u64>(to + at);
        // SAFETY: aligned and writable (caller).
        unsafe { to.write_volatile(word) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t3_branches_reach_128_mebibytes_either_way() {
        let from = 0x7000_0000_0000_usize;
        assert!(reaches(from, from + (1 << 27) - 4) && reaches(from, from - (1 << 27)));
        assert!(!reaches(from, from + (1 << 27)) && !reaches(from, from - (1 << 27) - 4));
        assert!(!reaches(from, from + 2));
    }

    #[test]
    fn every_line_of_a_range_is_named_once() {
        assert_eq!(lines(0x1000, 1, 64).collect::<Vec<_>>(), [0x1000]);
        assert_eq!(lines(0x103F, 2, 64).collect::<Vec<_>>(), [0x1000, 0x1040]);
        assert_eq!(lines(0x1000, 128, 64).collect::<Vec<_>>(), [0x1000, 0x1040]);
        assert_eq!(lines(0x1010, 0, 64).count(), 0);
    }

    #[test]
    fn line_sizes_are_those_of_a_cache() {
        let cache = CacheType::read();
        assert!((16..=2048).contains(&cache.data_line()));
        assert!((16..=2048).contains(&cache.instruction_line()));
    }
}
