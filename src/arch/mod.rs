//! The processor: trap pattern, cache maintenance and protection-key rights.
//!
//! One file per instruction set with the same names in each. Only the files of
//! [`crate::platform`] call them; everything above goes through the
//! [`Platform`](crate::platform::Platform) trait, so that a simulated machine
//! can stand in for all of this.

#![cfg_attr(
    not(target_os = "linux"),
    allow(dead_code, reason = "other systems have calls of their own for some of it")
)]

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "aarch64")]
pub(crate) use aarch64::*;

#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86_64::*;

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("jit-arena knows the caches and trap instructions of x86-64 and aarch64 only");

/// [`TRAP`] twice: what a word of filled memory reads as.
pub(crate) const TRAP_WORD: u64 = {
    let trap = u32::from_ne_bytes(TRAP) as u64;
    trap << 32 | trap
};

/// Copies `bytes` to `to`.
///
/// # Safety
///
/// `[to, to + bytes.len())` is mapped, writable to the calling thread, does not
/// overlap `bytes`, and nobody else accesses it through any view.
pub(crate) unsafe fn copy_in(to: usize, bytes: &[u8]) {
    let to = core::ptr::with_exposed_provenance_mut::<u8>(to);
    // SAFETY: the destination is writable, ours and disjoint from the source
    // (all from the caller); alignment of u8 is 1.
    unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
}

/// Stores two words at `to`.
///
/// Volatile so that each stays one store of eight bytes.
///
/// # Safety
///
/// As [`copy_in`], and `to` is a multiple of 8.
#[inline]
pub(crate) unsafe fn store_words(to: usize, words: [u64; 2]) {
    let to = core::ptr::with_exposed_provenance_mut::<u64>(to);
    for (at, word) in words.into_iter().enumerate() {
        // SAFETY: aligned, writable and the caller's.
        unsafe { core::ptr::write_volatile(to.wrapping_add(at), word) };
    }
}

/// Loads an aligned word of code memory.
///
/// Volatile because the bytes change behind the compiler's back: they are
/// written through another address. One 8-byte load on both processors, so it
/// is never torn.
///
/// # Safety
///
/// `addr` is a multiple of 8 and readable to the calling thread.
pub(crate) unsafe fn load_word(addr: usize) -> u64 {
    let word = core::ptr::with_exposed_provenance::<u64>(addr);
    // SAFETY: aligned and readable (caller); every bit pattern is a u64.
    unsafe { core::ptr::read_volatile(word) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traps_fill_exactly_the_range() {
        let mut bytes = [0x11_u8; 24];
        let start = core::ptr::from_mut(&mut bytes).expose_provenance();
        // SAFETY: bytes 4..20 of a live local array; 4 and 16 are multiples of
        // 4 and `TRAP` is written with no alignment.
        unsafe { fill_traps(start + 4, 16) };
        assert_eq!(bytes[..4], [0x11; 4]);
        assert_eq!(bytes[20..], [0x11; 4]);
        for four in bytes[4..20].chunks(4) {
            assert_eq!(four, TRAP);
        }
    }

    #[test]
    fn words_and_bytes_agree() {
        let mut words = [0_u64; 2];
        let start = core::ptr::from_mut(&mut words).expose_provenance();
        // SAFETY: eight bytes at offset 8 of a live local array of two words.
        unsafe { copy_in(start + 8, &0x1122_3344_5566_7788_u64.to_ne_bytes()) };
        // SAFETY: the second of two aligned words of a live array.
        assert_eq!(unsafe { load_word(start + 8) }, 0x1122_3344_5566_7788);
        assert_eq!(words[0], 0);
        // SAFETY: an aligned live array of two words.
        unsafe { store_words(start, [3, 4]) };
        assert_eq!(words, [3, 4]);
    }
}
