//! Machine code that tests install.

use jit_arena::{CodeInfo, CodeLayout, Executor, ReserveError, ThreadHandle};

/// A function that takes nothing and returns `value`.
pub(crate) fn constant(value: u32) -> Vec<u8> {
    let mut code = imp::load_constant(value);
    code.extend_from_slice(imp::RETURN);
    code
}

/// A function `f(x: u32) -> u32` that returns `x` plus `value`.
pub(crate) fn add(value: u32) -> Vec<u8> {
    imp::add(value)
}

/// A function that takes nothing and returns the word `data_offset` bytes
/// behind its entry.
pub(crate) fn load_data(data_offset: usize) -> Vec<u8> {
    imp::load_data(data_offset)
}

/// Bytes of [`load_data`].
pub(crate) const LOAD_DATA_LEN: usize = imp::LOAD_DATA_LEN;

/// A function `f(n: u32)` that counts down from `n`, which is not 0.
pub(crate) fn count_down() -> Vec<u8> {
    imp::count_down()
}

/// A direct branch at `from` to `to`, which it reaches.
pub(crate) fn branch(from: usize, to: usize) -> Vec<u8> {
    imp::branch(from, to)
}

/// Bytes of [`branch`].
pub(crate) const BRANCH_LEN: usize = imp::BRANCH_LEN;

/// Code that goes on at `target`, anywhere.
pub(crate) fn jump(target: usize) -> Vec<u8> {
    imp::jump(target)
}

/// Code that goes on `distance` bytes behind its first.
pub(crate) fn jump_ahead(distance: usize) -> Vec<u8> {
    imp::jump_ahead(distance)
}

/// A function `f(helper: extern "C" fn(usize), argument: usize) -> u32` that
/// calls the helper and then returns `value`.
pub(crate) fn call_helper(value: u32) -> Vec<u8> {
    imp::call_helper(value)
}

/// The type of [`call_helper`]'s functions.
pub(crate) type CallsHelper = extern "C" fn(extern "C" fn(usize), usize) -> u32;

/// The instruction that free code memory is filled with, as a word.
pub(crate) const TRAPS: u32 = imp::TRAPS;

/// A tag that only code of these lengths has, so that parts of two headers show.
fn tag_of(code: usize, data: usize) -> u64 {
    let mut tag = 0x9e37_79b9_7f4a_7c15_u64;
    for part in [code, data] {
        tag = (tag ^ part as u64).wrapping_mul(0xd6e8_feb8_6659_fd93);
        tag ^= tag >> 32;
    }
    tag
}

/// Whether the parts belong together, as [`place`] made them.
pub(crate) fn is_whole(found: &CodeInfo) -> bool {
    found.tag == tag_of(found.code.len, found.data.len)
}

/// Installs `code` in a place of its own layout.
pub(crate) fn place(thread: &mut ThreadHandle, code: &[u8], layout: CodeLayout) -> Executor {
    try_place(thread, code, layout).unwrap()
}

/// As [`place`], where there may be no room.
pub(crate) fn try_place(
    thread: &mut ThreadHandle,
    code: &[u8],
    layout: CodeLayout,
) -> Result<Executor, ReserveError> {
    let layout = layout.tag(tag_of(layout.code_len(), layout.data_len()));
    let mut reservation = thread.reserve(layout)?;
    thread.write().write_at(&mut reservation, 0, code).unwrap();
    Ok(thread.publish(reservation).unwrap())
}

#[cfg(target_arch = "x86_64")]
mod imp {
    pub(super) const RETURN: &[u8] = &[0xC3];
    pub(super) const LOAD_DATA_LEN: usize = 7;
    pub(super) const TRAPS: u32 = 0xCCCC_CCCC;

    pub(super) fn load_constant(value: u32) -> Vec<u8> {
        // mov eax, value
        [&[0xB8][..], &value.to_le_bytes()].concat()
    }

    pub(super) fn add(value: u32) -> Vec<u8> {
        // lea eax, [rdi + value]; ret
        [&[0x8D, 0x87][..], &value.to_le_bytes(), RETURN].concat()
    }

    pub(super) fn load_data(data_offset: usize) -> Vec<u8> {
        // mov eax, [rip + distance]; ret
        let distance = data_offset as u32 - 6;
        [&[0x8B, 0x05][..], &distance.to_le_bytes(), RETURN].concat()
    }

    pub(super) const BRANCH_LEN: usize = 5;

    pub(super) fn branch(from: usize, to: usize) -> Vec<u8> {
        // jmp to
        let distance = i32::try_from(to as i64 - (from + BRANCH_LEN) as i64).unwrap();
        [&[0xE9][..], &distance.to_le_bytes()].concat()
    }

    pub(super) fn count_down() -> Vec<u8> {
        // dec edi; jnz -4; ret
        [&[0xFF, 0xCF, 0x75, 0xFC][..], RETURN].concat()
    }

    pub(super) fn jump(target: usize) -> Vec<u8> {
        // mov rax, target; jmp rax
        [&[0x48, 0xB8][..], &target.to_le_bytes(), &[0xFF, 0xE0]].concat()
    }

    pub(super) fn jump_ahead(distance: usize) -> Vec<u8> {
        // jmp distance
        [&[0xE9][..], &(distance as u32 - 5).to_le_bytes()].concat()
    }

    pub(super) fn call_helper(value: u32) -> Vec<u8> {
        let mut code = Vec::new();
        code.extend_from_slice(&[0x48, 0x83, 0xEC, 0x08]); // sub rsp, 8
        code.extend_from_slice(&[0x48, 0x89, 0xF8]); // mov rax, rdi
        code.extend_from_slice(&[0x48, 0x89, 0xF7]); // mov rdi, rsi
        code.extend_from_slice(&[0xFF, 0xD0]); // call rax
        code.extend_from_slice(&[0x48, 0x83, 0xC4, 0x08]); // add rsp, 8
        code.extend(load_constant(value));
        code.extend_from_slice(RETURN);
        code
    }
}

#[cfg(target_arch = "aarch64")]
mod imp {
    pub(super) const RETURN: &[u8] = &0xD65F_03C0_u32.to_le_bytes();
    pub(super) const LOAD_DATA_LEN: usize = 8;
    pub(super) const TRAPS: u32 = 0xD420_0020;

    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    /// movz and movk of a word's halves into register `to`.
    fn load_into(to: u32, value: u32) -> [u32; 2] {
        [0x5280_0000 | (value & 0xFFFF) << 5 | to, 0x72A0_0000 | (value >> 16) << 5 | to]
    }

    pub(super) fn load_constant(value: u32) -> Vec<u8> {
        words(&load_into(0, value))
    }

    pub(super) fn add(value: u32) -> Vec<u8> {
        let [low, high] = load_into(1, value);
        // add w0, w0, w1
        [&words(&[low, high, 0x0B01_0000])[..], RETURN].concat()
    }

    pub(super) fn load_data(data_offset: usize) -> Vec<u8> {
        assert!(data_offset.is_multiple_of(4));
        // ldr w0, data_offset
        [&words(&[0x1800_0000 | (data_offset as u32 / 4) << 5])[..], RETURN].concat()
    }

    pub(super) const BRANCH_LEN: usize = 4;

    pub(super) fn branch(from: usize, to: usize) -> Vec<u8> {
        // b to
        let distance = to as i64 - from as i64;
        assert!((-(1 << 27)..1 << 27).contains(&distance) && distance % 4 == 0);
        words(&[0x1400_0000 | (distance / 4) as u32 & 0x03FF_FFFF])
    }

    pub(super) fn count_down() -> Vec<u8> {
        // subs w0, w0, #1; b.ne -4
        [&words(&[0x7100_0400, 0x54FF_FFE1])[..], RETURN].concat()
    }

    pub(super) fn jump(target: usize) -> Vec<u8> {
        // ldr x16, 8; br x16; the address
        [&words(&[0x5800_0050, 0xD61F_0200])[..], &target.to_le_bytes()].concat()
    }

    pub(super) fn jump_ahead(distance: usize) -> Vec<u8> {
        assert!(distance.is_multiple_of(4));
        // b distance
        words(&[0x1400_0000 | (distance as u32 / 4)])
    }

    pub(super) fn call_helper(value: u32) -> Vec<u8> {
        let mut code = words(&[
            0xA9BF_7BFD, // stp x29, x30, [sp, #-16]!
            0xAA00_03E8, // mov x8, x0
            0xAA01_03E0, // mov x0, x1
            0xD63F_0100, // blr x8
            0xA8C1_7BFD, // ldp x29, x30, [sp], #16
        ]);
        code.extend(load_constant(value));
        code.extend_from_slice(RETURN);
        code
    }
}
