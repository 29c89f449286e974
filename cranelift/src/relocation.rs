//! Relocations: what is patched into a function once its address is known.
//!
//! The code is patched in ordinary memory, for the address that it will run at, and
//! then written in one piece. What a relocation refers to may be too far away for it:
//! a call then goes to a trampoline, which [`Installer`](crate::Installer) asks the
//! arena for, and an address that position-independent code loads lies in a word
//! behind the code, which [`needs_word`] tells.
//!
//! Sources: the ELF psABI supplements of both processors; the documentation of
//! Cranelift's `Reloc`.

use cranelift_codegen::binemit::Reloc;

use crate::error::Error;

/// Whether the relocation refers to a word that holds the address, and not to the
/// address.
#[must_use]
pub const fn needs_word(kind: Reloc) -> bool {
    matches!(kind, Reloc::X86GOTPCRel4 | Reloc::Aarch64AdrGotPage21 | Reloc::Aarch64Ld64GotLo12Nc)
}

/// Whether the relocation at `offset` of `code` is of a direct branch, which may go to
/// a trampoline. Cranelift has the kind of calls for near addresses that are loaded,
/// too, and what is loaded must not be a trampoline's: so the instruction decides.
#[must_use]
pub fn is_branch(kind: Reloc, code: &[u8], offset: usize) -> bool {
    match kind {
        Reloc::Arm64Call => true,
        Reloc::X86CallPCRel4 | Reloc::X86CallPLTRel4 => {
            // call rel32, jmp rel32. Before the operand of a lea is its ModRM byte,
            // which is neither.
            let before = offset.checked_sub(1).and_then(|at| code.get(at));
            matches!(before, Some(0xE8 | 0xE9))
        }
        _ => false,
    }
}

/// Patches `code`, which will run at `entry`, at `offset`, so that it refers to `to`.
///
/// # Errors
///
/// A kind that is not known, or a distance that does not fit.
pub fn apply(
    kind: Reloc,
    code: &mut [u8],
    entry: usize,
    offset: usize,
    to: usize,
    addend: i64,
) -> Result<(), Error> {
    let from = entry + offset;
    let far = || Error::OutOfReach { kind, from, to };
    let target = to.wrapping_add_signed(addend as isize);
    let distance = target.wrapping_sub(from).cast_signed();
    let mut put = |bytes: &[u8]| code[offset..offset + bytes.len()].copy_from_slice(bytes);
    match kind {
        Reloc::Abs4 => put(&u32::try_from(target).map_err(|_| far())?.to_le_bytes()),
        Reloc::Abs8 => put(&(target as u64).to_le_bytes()),
        Reloc::X86PCRel4 | Reloc::X86CallPCRel4 | Reloc::X86CallPLTRel4 | Reloc::X86GOTPCRel4 => {
            put(&i32::try_from(distance).map_err(|_| far())?.to_le_bytes());
        }
        Reloc::Arm64Call => {
            let words = distance >> 2;
            if distance & 3 != 0 || !(-(1 << 25)..1 << 25).contains(&words) {
                return Err(far());
            }
            modify(code, offset, 0x03FF_FFFF, words as u32);
        }
        Reloc::Aarch64AdrGotPage21 | Reloc::Aarch64AdrPrelPgHi21 => {
            let pages = ((target & !0xFFF).wrapping_sub(from & !0xFFF).cast_signed()) >> 12;
            if !(-(1 << 20)..1 << 20).contains(&pages) {
                return Err(far());
            }
            let pages = pages as u32;
            // The lowest two bits stand apart from the others.
            modify(code, offset, 0x6000_0000 | 0x00FF_FFE0, pages << 29 | (pages >> 2) << 5);
        }
        Reloc::Aarch64AddAbsLo12Nc => {
            modify(code, offset, 0xFFF << 10, (target as u32 & 0xFFF) << 10);
        }
        Reloc::Aarch64Ld64GotLo12Nc => {
            if !target.is_multiple_of(8) {
                return Err(far());
            }
            // Counted in words of eight bytes.
            modify(code, offset, 0xFFF << 10, ((target as u32 & 0xFFF) / 8) << 10);
        }
        _ => return Err(Error::Unsupported(kind)),
    }
    Ok(())
}

/// Replaces the bits of an instruction that `mask` names.
fn modify(code: &mut [u8], offset: usize, mask: u32, bits: u32) {
    let mut word = [0; 4];
    word.copy_from_slice(&code[offset..offset + 4]);
    let word = u32::from_le_bytes(word) & !mask | bits & mask;
    code[offset..offset + 4].copy_from_slice(&word.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patched(kind: Reloc, before: u32, entry: usize, to: usize) -> Result<u32, Error> {
        let mut code = [[0; 4], before.to_le_bytes()].concat();
        apply(kind, &mut code, entry, 4, to, 0)?;
        assert_eq!(code[..4], [0; 4]);
        Ok(u32::from_le_bytes([code[4], code[5], code[6], code[7]]))
    }

    #[test]
    fn branches_and_addresses_of_aarch64_are_encoded() {
        let entry = 0x10_0000;
        let from = entry + 4;
        let branch = |to| patched(Reloc::Arm64Call, 0x9400_0000, entry, to);
        assert_eq!(branch(from + 4).unwrap(), 0x9400_0001, "bl .+4");
        assert_eq!(branch(from - 4).unwrap(), 0x97FF_FFFF, "bl .-4");
        assert_eq!(branch(from + (128 << 20) - 4).unwrap(), 0x95FF_FFFF);
        assert!(matches!(branch(from + (128 << 20)), Err(Error::OutOfReach { .. })));
        assert!(matches!(branch(from + 2), Err(Error::OutOfReach { .. })));

        let page = |to| patched(Reloc::Aarch64AdrPrelPgHi21, 0x9000_0000, entry, to).unwrap();
        assert_eq!(page(entry + 0xFFF), 0x9000_0000, "adrp x0, .");
        assert_eq!(page(entry + 0x1000), 0xB000_0000, "adrp x0, .+0x1000");
        assert_eq!(page(entry + 0x4008), 0x9000_0020, "adrp x0, .+0x4000");
        assert_eq!(page(entry - 1), 0xF0FF_FFE0, "adrp x0, .-0x1000");
        let add = patched(Reloc::Aarch64AddAbsLo12Nc, 0x9100_0000, entry, 0x5_0ABC).unwrap();
        assert_eq!(add, 0x912A_F000, "add x0, x0, 0xABC");
        let load = patched(Reloc::Aarch64Ld64GotLo12Nc, 0xF940_0000, entry, 0x5_0AB8).unwrap();
        assert_eq!(load, 0xF945_5C00, "ldr x0, [x0, 0xAB8]");
    }

    #[test]
    fn distances_of_x86_64_are_checked() {
        let near = patched(Reloc::X86CallPCRel4, 0, 0x1000, 0x2004).unwrap();
        assert_eq!(near, 0x1000);
        let far = patched(Reloc::X86PCRel4, 0, 0x1000, 0x1004 + (1 << 31));
        assert!(matches!(far, Err(Error::OutOfReach { from: 0x1004, .. })));
        let back = patched(Reloc::X86PCRel4, 0, 1 << 32, (1 << 32) + 4 - (1 << 31)).unwrap();
        assert_eq!(back, 1 << 31);
        assert!(matches!(
            patched(Reloc::Abs4, 0, 0, 1 << 32),
            Err(Error::OutOfReach { to: 0x1_0000_0000, .. })
        ));
        assert!(matches!(
            patched(Reloc::ElfX86_64TlsGd, 0, 0, 0),
            Err(Error::Unsupported(Reloc::ElfX86_64TlsGd))
        ));
    }
}
