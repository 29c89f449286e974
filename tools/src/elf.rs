//! ELF files in memory: what a debugger is told of a chunk of code.
//!
//! An executable file without segments whose only text section has no bytes (the
//! code is in the process) and lies where the code does, with a symbol for each
//! piece and, of those clients who gave them, unwind information as its
//! `.eh_frame` and [line tables](crate::lines).
//!
//! Source: the System V ABI, generic part, chapters 4 and 5.

use jit_arena::Span;
use object::Endianness;
use object::elf;
use object::write::elf::{FileHeader, SectionHeader, Sym, Writer};

use crate::lines::{self, SourceLine};

/// `e_machine` of code on this processor.
#[cfg(target_arch = "x86_64")]
pub(crate) const MACHINE: u16 = elf::EM_X86_64;
/// `e_machine` of code on this processor.
#[cfg(target_arch = "aarch64")]
pub(crate) const MACHINE: u16 = elf::EM_AARCH64;

/// Alignment of sections' bytes in the file.
const ALIGN: usize = 8;

/// A piece of code with its name.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    pub(crate) code: Span,
    pub(crate) name: String,
    pub(crate) lines: Vec<SourceLine>,
    pub(crate) eh_frame: Vec<u8>,
}

/// The ELF file of `pieces`, by rising address and at least one; `None` if it
/// would be beyond what its fields can tell, 4 GiB.
pub(crate) fn file_of(pieces: &[&Piece]) -> Option<Vec<u8>> {
    let start = pieces.iter().map(|piece| piece.code.start).min().unwrap_or(0);
    let end = pieces.iter().map(|piece| piece.code.end()).max().unwrap_or(0);
    let mut sections = lines::sections_of(pieces).ok()?;
    let frames = frames_of(pieces);
    if !frames.is_empty() {
        sections.push((".eh_frame", frames));
    }

    let mut file = Vec::new();
    let mut writer = Writer::new(Endianness::default(), true, &mut file);
    writer.reserve_file_header();
    writer.reserve_null_section_index();
    let text_name = writer.add_section_name(b".text");
    let text = writer.reserve_section_index();
    let mut places = Vec::new();
    for (name, bytes) in &sections {
        let name = writer.add_section_name(name.as_bytes());
        writer.reserve_section_index();
        places.push((name, writer.reserve(bytes.len(), ALIGN)));
    }
    writer.reserve_null_symbol_index();
    let mut names = Vec::new();
    for piece in pieces {
        names.push(writer.add_string(piece.name.as_bytes()));
        writer.reserve_symbol_index(Some(text));
    }
    writer.reserve_symtab_section_index();
    writer.reserve_symtab();
    writer.reserve_strtab_section_index();
    writer.reserve_strtab();
    writer.reserve_shstrtab_section_index();
    writer.reserve_shstrtab();
    writer.reserve_section_headers();

    let header = writer.write_file_header(&FileHeader {
        os_abi: elf::ELFOSABI_NONE,
        abi_version: 0,
        e_type: elf::ET_EXEC,
        e_machine: MACHINE,
        e_entry: 0,
        e_flags: 0,
    });
    header.ok()?;
    for (_, bytes) in &sections {
        writer.write_align(ALIGN);
        writer.write(bytes);
    }
    writer.write_null_symbol();
    for (piece, name) in pieces.iter().zip(names) {
        writer.write_symbol(&Sym {
            name: Some(name),
            section: Some(text),
            st_info: elf::STB_GLOBAL << 4 | elf::STT_FUNC,
            st_other: elf::STV_DEFAULT,
            st_shndx: 0,
            st_value: piece.code.start as u64,
            st_size: piece.code.len as u64,
        });
    }
    writer.write_strtab();
    writer.write_shstrtab();
    writer.write_null_section_header();
    writer.write_section_header(&SectionHeader {
        name: Some(text_name),
        sh_type: elf::SHT_NOBITS,
        sh_flags: u64::from(elf::SHF_ALLOC | elf::SHF_EXECINSTR),
        sh_addr: start as u64,
        sh_offset: 0,
        sh_size: (end - start) as u64,
        sh_link: 0,
        sh_info: 0,
        sh_addralign: 16,
        sh_entsize: 0,
    });
    for ((section, bytes), (name, at)) in sections.iter().zip(places) {
        // Debuggers read the file's bytes; nothing lies at an address. gdb
        // takes frames only from a section that says it does.
        let flags = if *section == ".eh_frame" { elf::SHF_ALLOC } else { 0 };
        writer.write_section_header(&SectionHeader {
            name: Some(name),
            sh_type: elf::SHT_PROGBITS,
            sh_flags: u64::from(flags),
            sh_addr: 0,
            sh_offset: at as u64,
            sh_size: bytes.len() as u64,
            sh_link: 0,
            sh_info: 0,
            sh_addralign: ALIGN as u64,
            sh_entsize: 0,
        });
    }
    writer.write_symtab_section_header(1);
    writer.write_strtab_section_header();
    writer.write_shstrtab_section_header();
    Some(file)
}

/// The unwind information of all pieces, one behind the other.
fn frames_of(pieces: &[&Piece]) -> Vec<u8> {
    // Nothing between them: zeros would be the length that ends the section, and
    // what entries are padded to is in their lengths.
    let mut frames: Vec<u8> = Vec::new();
    for piece in pieces {
        frames.extend(without_end(&piece.eh_frame));
    }
    if !frames.is_empty() {
        frames.extend([0; 4]);
    }
    frames
}

/// The entries of `.eh_frame` bytes, up to the zero length that ends them.
fn without_end(eh_frame: &[u8]) -> &[u8] {
    let mut rest = eh_frame;
    while let Some((length, behind)) = rest.split_first_chunk() {
        let length = u32::from_ne_bytes(*length);
        // A length of all ones stands for the one of 64 bits behind it.
        let (length, behind) = match (length, behind.split_first_chunk()) {
            (0, _) => return &eh_frame[..eh_frame.len() - rest.len()],
            (u32::MAX, Some((length, behind))) => (u64::from_ne_bytes(*length), behind),
            _ => (length.into(), behind),
        };
        rest = usize::try_from(length).ok().and_then(|len| behind.get(len..)).unwrap_or_default();
    }
    eh_frame
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(eh_frame: &[u8]) -> Piece {
        let code = Span::new(0x1000, 16);
        Piece { code, name: String::new(), lines: Vec::new(), eh_frame: eh_frame.to_vec() }
    }

    fn entry(len: u32) -> Vec<u8> {
        [&len.to_ne_bytes()[..], &vec![0; len as usize]].concat()
    }

    #[test]
    fn entries_follow_each_other_whatever_their_lengths() {
        let (odd, even) = (entry(13), entry(16));
        let ended = [&even[..], &[0; 4]].concat();
        let frames = frames_of(&[&piece(&odd), &piece(&ended), &piece(&[]), &piece(&even)]);
        assert_eq!(frames, [&odd[..], &even, &even, &[0; 4]].concat());
        assert_eq!(frames_of(&[&piece(&[]), &piece(&[0; 4])]), []);
    }

    #[test]
    fn the_end_behind_an_entry_of_64_bits_is_not_taken_along() {
        let long = [&u32::MAX.to_ne_bytes()[..], &13_u64.to_ne_bytes(), &[0; 13]].concat();
        let ended = [&long[..], &[0; 4]].concat();
        let frames = frames_of(&[&piece(&ended), &piece(&entry(8))]);
        assert_eq!(frames, [&long[..], &entry(8), &[0; 4]].concat());
        // What breaks off is kept as it is.
        assert_eq!(without_end(&long[..20]), &long[..20]);
        assert_eq!(without_end(&long[..6]), &long[..6]);
    }
}
