//! Line tables: which line of which file each instruction comes from, as
//! debuggers read it.
//!
//! A compilation unit for each piece of code whose client gave lines, with one
//! function in it, and a line program of one sequence.
//!
//! Source: the DWARF standard, version 4, sections 3.1, 3.3 and 6.2.

use gimli::write::{
    Address, AttributeValue, Dwarf, EndianVec, LineProgram, LineString, Result, Sections, Unit,
};
use gimli::{Encoding, Format, LineEncoding, NativeEndian, SectionId, constants};

use jit_arena::Line;

use crate::elf::Piece;

/// From where on in a piece of code a line holds.
#[derive(Clone, Debug)]
pub(crate) struct SourceLine {
    offset: usize,
    file: String,
    line: u32,
}

/// The lines of a client's that lie within code of `len` bytes, by rising
/// offset.
pub(crate) fn lines_of(lines: &[Line<'_>], len: usize) -> Vec<SourceLine> {
    let own = |line: &Line<'_>| SourceLine {
        offset: line.offset,
        file: without_zeros(if line.file.is_empty() { "?" } else { line.file }),
        line: line.line,
    };
    let mut all: Vec<_> = lines.iter().filter(|line| line.offset < len).map(own).collect();
    all.sort_by_key(|line| line.offset);
    all
}

/// What ends with a zero byte has none inside.
pub(crate) fn without_zeros(text: &str) -> String {
    text.replace('\0', " ")
}

/// `.debug_line` and what it takes to find it, by name, of those pieces that
/// have lines; none if none has.
pub(crate) fn sections_of(pieces: &[&Piece]) -> Result<Vec<(&'static str, Vec<u8>)>> {
    let mut dwarf = Dwarf::new();
    for piece in pieces.iter().filter(|piece| !piece.lines.is_empty()) {
        dwarf.units.add(unit_of(piece));
    }
    let mut sections = Sections::new(EndianVec::new(NativeEndian));
    dwarf.write(&mut sections)?;
    let mut all = Vec::new();
    sections.for_each_mut(|id: SectionId, section| {
        let bytes = section.take();
        if !bytes.is_empty() {
            all.push((id.name(), bytes));
        }
        Result::Ok(())
    })?;
    Ok(all)
}

fn unit_of(piece: &Piece) -> Unit {
    let encoding = Encoding { format: Format::Dwarf32, version: 4, address_size: 8 };
    let text = |text: &str| AttributeValue::String(text.as_bytes().to_vec());
    let start = Address::Constant(piece.code.start as u64);
    let len = piece.code.len as u64;

    let mut program = LineProgram::new(
        encoding,
        LineEncoding::default(),
        // What relative paths are relative to, for want of anything better.
        LineString::String(b".".to_vec()),
        None,
        LineString::String(piece.lines[0].file.as_bytes().to_vec()),
        None,
    );
    program.begin_sequence(Some(start));
    let directory = program.default_directory();
    for line in &piece.lines {
        let file = LineString::String(line.file.as_bytes().to_vec());
        let file = program.add_file(file, directory, None);
        let row = program.row();
        (row.file, row.line, row.address_offset) = (file, line.line.into(), line.offset as u64);
        program.generate_row();
    }
    program.end_sequence(len);

    let mut unit = Unit::new(encoding, program);
    let root = unit.root();
    let whole = unit.get_mut(root);
    whole.set(constants::DW_AT_producer, text("jit-arena"));
    // Debuggers want one; in this one names are taken as they are.
    whole.set(constants::DW_AT_language, AttributeValue::Language(constants::DW_LANG_C));
    whole.set(constants::DW_AT_name, text(&piece.lines[0].file));
    whole.set(constants::DW_AT_low_pc, AttributeValue::Address(start));
    whole.set(constants::DW_AT_high_pc, AttributeValue::Udata(len));
    let function = unit.add(root, constants::DW_TAG_subprogram);
    let function = unit.get_mut(function);
    function.set(constants::DW_AT_external, AttributeValue::Flag(true));
    function.set(constants::DW_AT_name, text(&piece.name));
    function.set(constants::DW_AT_low_pc, AttributeValue::Address(start));
    function.set(constants::DW_AT_high_pc, AttributeValue::Udata(len));
    unit
}
