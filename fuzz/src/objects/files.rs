//! The files that gdb is told of: found in its list, read as it would.

use std::collections::BTreeMap;
use std::ptr;

use gimli::read::{AttributeValue, Dwarf, DwarfSections, Unit};
use gimli::{DW_AT_high_pc, DW_AT_low_pc, DW_AT_name, DW_TAG_subprogram, NativeEndian};
use jit_arena::Span;
use object::elf::FileHeader64;
use object::read::elf::ElfFile;
use object::{Endianness, Object as _, ObjectSection as _, ObjectSymbol as _};

use super::Expected;
use super::frames::{self, Bytes};

/// An entry of the list: names, order and types are gdb's.
#[repr(C)]
struct Listed {
    next: *const Listed,
    prev: *const Listed,
    file: *const u8,
    file_len: u64,
}

#[repr(C)]
struct Descriptor {
    version: u32,
    action: u32,
    relevant: *const Listed,
    first: *const Listed,
}

unsafe extern "C" {
    /// The list, which the tools change and debuggers read.
    static __jit_debug_descriptor: Descriptor;
}

type Elf<'a> = ElfFile<'a, FileHeader64<Endianness>>;

fn parse(bytes: &[u8]) -> Elf<'_> {
    Elf::parse(bytes).expect("an ELF file")
}

/// Where a file says that its code lies.
fn text_of(file: &Elf<'_>) -> Span {
    let text = file.section_by_name(".text").expect("a text section");
    Span::new(text.address() as usize, text.size() as usize)
}

/// Copies of the files of code in a region.
///
/// # Panics
///
/// If the list is not well-formed.
#[must_use]
pub fn registered(region: Span) -> Vec<Vec<u8>> {
    // SAFETY: nobody changes the list meanwhile: tools are used on this thread alone.
    let descriptor = unsafe { ptr::read_volatile(&raw const __jit_debug_descriptor) };
    assert_eq!(descriptor.version, 1);
    let mut files = Vec::new();
    let (mut at, mut before) = (descriptor.first, ptr::null());
    // SAFETY: entries in the list are alive.
    while let Some(entry) = unsafe { at.as_ref() } {
        assert_eq!(entry.prev, before, "the list is one in both directions");
        // SAFETY: as are their files.
        let bytes = unsafe { core::slice::from_raw_parts(entry.file, entry.file_len as usize) };
        if region.contains(Span::new(text_of(&parse(bytes)).start, 1)) {
            files.push(bytes.to_vec());
        }
        (at, before) = (entry.next, at);
    }
    files
}

/// Text that ends with a zero has none inside.
fn without_zeros(text: &str) -> String {
    text.replace('\0', " ")
}

/// Compares the files with the code they are to tell of, by entry.
///
/// # Panics
///
/// If they tell something else.
pub fn check(files: &[Vec<u8>], pieces: &BTreeMap<usize, Expected>) {
    let mut told = 0;
    for bytes in files {
        let file = parse(bytes);
        let text = text_of(&file);
        let inside: BTreeMap<usize, &Expected> = pieces
            .iter()
            .map(|(at, piece)| (*at, piece))
            .filter(|it| text.contains(Span::new(it.0, it.1.len)))
            .collect();
        let first = inside.first_key_value().expect("a file of no code");
        let last = inside.last_key_value().expect("a file of no code");
        let end = last.0 + last.1.len;
        assert_eq!(text, Span::new(*first.0, end - first.0));
        check_symbols(&file, &inside);
        check_lines(&file, &inside);
        let section = file.section_by_name(".eh_frame");
        let found = section.map_or(Vec::new(), |it| frames::entries(it.data().expect("bytes")));
        let found: Vec<_> = found.iter().map(frames::Entry::meaning).collect();
        let expected: Vec<_> =
            inside.values().flat_map(|it| &it.frames).map(frames::Entry::meaning).collect();
        assert_eq!(found, expected, "unwind information");
        told += inside.len();
    }
    assert_eq!(told, pieces.len(), "code that no file tells of, or two");
}

fn check_symbols(file: &Elf<'_>, pieces: &BTreeMap<usize, &Expected>) {
    let found: Vec<_> = file
        .symbols()
        .map(|symbol| {
            let name = symbol.name().expect("UTF-8").to_owned();
            (symbol.address() as usize, symbol.size() as usize, name)
        })
        .collect();
    let of = |(entry, piece): (&usize, &&Expected)| (*entry, piece.len, without_zeros(&piece.name));
    let expected: Vec<_> = pieces.iter().map(of).collect();
    assert_eq!(found, expected, "symbols");
}

/// Address, file and line, or the end.
type Row = (usize, Option<(String, u64)>);

/// What a unit says of its code: start, name, rows.
type Told = (usize, usize, String, Vec<Row>);

fn check_lines(file: &Elf<'_>, pieces: &BTreeMap<usize, &Expected>) {
    let sections = DwarfSections::load(|id| {
        let section = file.section_by_name(id.name());
        let bytes = section.map(|section| section.data().expect("bytes"));
        Ok::<_, gimli::Error>(bytes.unwrap_or_default())
    });
    let sections = sections.expect("sections");
    let dwarf = sections.borrow(|bytes| Bytes::new(bytes, NativeEndian));
    let mut units = dwarf.units();
    let mut found = Vec::new();
    while let Some(header) = units.next().expect("a unit") {
        found.push(told_by(&dwarf, &dwarf.unit(header).expect("a whole unit")));
    }
    let of = |(entry, piece): (&usize, &&Expected)| -> Told {
        let row = |(offset, file, line): &(usize, String, u32)| {
            let file = if file.is_empty() { "?".to_owned() } else { without_zeros(file) };
            (entry + offset, Some((file, u64::from(*line))))
        };
        let mut rows: Vec<Row> = piece.lines.iter().map(row).collect();
        rows.push((entry + piece.len, None));
        (*entry, piece.len, without_zeros(&piece.name), rows)
    };
    let with_lines = pieces.iter().filter(|(_, piece)| !piece.lines.is_empty());
    let expected: Vec<Told> = with_lines.map(of).collect();
    assert_eq!(found, expected, "lines");
}

fn text(bytes: Bytes<'_>) -> String {
    std::str::from_utf8(bytes.slice()).expect("UTF-8").to_owned()
}

fn told_by(dwarf: &Dwarf<Bytes<'_>>, unit: &Unit<Bytes<'_>>) -> Told {
    let program = unit.line_program.clone().expect("a line program");
    let mut rows = Vec::new();
    let mut program = program.rows();
    while let Some((header, row)) = program.next_row().expect("a row") {
        let line = row.line().map_or(0, |line| line.get());
        let file = || {
            let file = row.file(header).expect("a file");
            let name = dwarf.attr_string(unit, file.path_name()).expect("a string");
            (text(name), line)
        };
        rows.push((row.address() as usize, (!row.end_sequence()).then(file)));
    }
    // One function, as long as the unit.
    let mut ranges = Vec::new();
    let mut names = Vec::new();
    let mut entries = unit.entries();
    while let Some((_, entry)) = entries.next_dfs().expect("an entry") {
        let value = |name| entry.attr_value(name).expect("attributes");
        let Some(AttributeValue::Addr(start)) = value(DW_AT_low_pc) else { panic!("no start") };
        let len = value(DW_AT_high_pc).and_then(|len| len.udata_value()).expect("a length");
        let name = value(DW_AT_name).expect("a name");
        let name = text(dwarf.attr_string(unit, name).expect("a string"));
        ranges.push((start as usize, len as usize));
        if entry.tag() == DW_TAG_subprogram {
            names.push(name);
        } else {
            assert_eq!(rows[0].1.as_ref().map(|(file, _)| file), Some(&name), "the unit's name");
        }
    }
    assert_eq!((ranges.len(), ranges[0]), (2, ranges[1]));
    assert_eq!(names.len(), 1, "functions");
    (ranges[0].0, ranges[0].1, names.remove(0), rows)
}
