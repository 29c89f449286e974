//! What the programs write: patterns that no other block has, led by machine
//! code that can be run.

use jit_arena::Entry;

/// Bytes of [`constant`].
#[cfg(target_arch = "x86_64")]
pub const FUNCTION: usize = 6;
/// Bytes of [`constant`].
#[cfg(target_arch = "aarch64")]
pub const FUNCTION: usize = 12;

/// Machine code of a function that takes nothing and returns `value`.
#[cfg(target_arch = "x86_64")]
#[must_use]
pub fn constant(value: u32) -> [u8; FUNCTION] {
    let [a, b, c, d] = value.to_le_bytes();
    [0xB8, a, b, c, d, 0xC3]
}

/// Machine code of a function that takes nothing and returns `value`.
#[cfg(target_arch = "aarch64")]
#[must_use]
pub fn constant(value: u32) -> [u8; FUNCTION] {
    let low = 0x5280_0000 | (value & 0xFFFF) << 5;
    let high = 0x72A0_0000 | (value >> 16) << 5;
    let mut code = [0; FUNCTION];
    for (to, word) in code.chunks_exact_mut(4).zip([low, high, 0xD65F_03C0_u32]) {
        to.copy_from_slice(&word.to_le_bytes());
    }
    code
}

/// What the function at the start of `bytes` returns, if there is one.
#[must_use]
pub fn returns(bytes: &[u8]) -> Option<u32> {
    let function = bytes.get(..FUNCTION)?;
    #[cfg(target_arch = "x86_64")]
    let value = u32::from_le_bytes(function[1..5].try_into().ok()?);
    #[cfg(target_arch = "aarch64")]
    let value = {
        let word = |at: usize| {
            let bytes: [u8; 4] =
                [function[at], function[at + 1], function[at + 2], function[at + 3]];
            u32::from_le_bytes(bytes) >> 5 & 0xFFFF
        };
        word(0) | word(4) << 16
    };
    (constant(value) == *function).then_some(value)
}

/// Fills `bytes` with a pattern of `seed`'s (SplitMix64), led by a function if
/// `code_len` has room for one.
pub fn fill(seed: u64, bytes: &mut [u8], code_len: usize) {
    let mut state = seed;
    for eight in bytes.chunks_mut(8) {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = state;
        word = (word ^ word >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ word >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        eight.copy_from_slice(&(word ^ word >> 31).to_le_bytes()[..eight.len()]);
    }
    if code_len.min(bytes.len()) >= FUNCTION {
        bytes[..FUNCTION].copy_from_slice(&constant(seed as u32));
    }
}

/// A block of `len` bytes as [`fill`] makes it.
#[must_use]
pub fn block(seed: u64, len: usize, code_len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fill(seed, &mut bytes, code_len);
    bytes
}

/// Reads code memory through the executable view.
///
/// # Safety
///
/// The bytes lie in a mapped region, in committed granules that somebody owns
/// and nobody writes meanwhile.
#[must_use]
pub unsafe fn read(addr: usize, len: usize) -> &'static [u8] {
    let start = core::ptr::with_exposed_provenance(addr);
    // SAFETY: mapped and unchanging (caller). The lifetime is as long as the
    // caller keeps that up; all callers compare and let go.
    unsafe { core::slice::from_raw_parts(start, len) }
}

/// Calls code that begins with a function of [`constant`].
///
/// # Safety
///
/// The code at the entry is such a function.
#[must_use]
pub unsafe fn call(entry: Entry<'_>) -> u32 {
    // SAFETY: such a function (caller), and the entry lives during the call.
    let function: extern "C" fn() -> u32 = unsafe { entry.cast() };
    function()
}

/// Whether the page at `addr` is mapped.
#[must_use]
pub fn is_mapped(addr: usize) -> bool {
    let mut resident = 0_u8;
    let at = core::ptr::with_exposed_provenance_mut::<libc::c_void>(addr);
    // SAFETY: asks about one page, and writes the one byte passed; an address
    // that is not mapped gives ENOMEM (mincore(2)).
    #[cfg(target_os = "linux")]
    let answer = unsafe { libc::mincore(at, 1, &raw mut resident) };
    // SAFETY: as above; the vector is of signed characters here.
    #[cfg(target_os = "macos")]
    let answer = unsafe { libc::mincore(at, 1, (&raw mut resident).cast()) };
    answer == 0
}

/// Size of a system page in bytes.
#[must_use]
pub fn system_page() -> usize {
    // SAFETY: a plain query.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).unwrap_or(4096)
}
