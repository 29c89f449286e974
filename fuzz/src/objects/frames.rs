//! Unwind information: made at random, read back, and asked of the unwinder.

use arbitrary::Arbitrary;
use gimli::read::{BaseAddresses, CieOrFde, EndianSlice, UnwindSection};
use gimli::write::{
    Address, CallFrameInstruction, CommonInformationEntry, EndianVec, FrameDescriptionEntry,
    FrameTable,
};
use gimli::{Encoding, Format, NativeEndian, Register};

/// How to unwind through code, in parts.
#[derive(Arbitrary, Debug)]
pub struct Frames {
    parts: Vec<Part>,
    /// In its low bits: whether a zero length ends it, whether entries are of 64 bits,
    /// and by how many bytes less than they might the last entry is padded.
    form: u8,
}

/// A part of the code, and whether it says anything of a part.
#[derive(Arbitrary, Debug)]
struct Part {
    len: u16,
    says: bool,
    rules: Vec<(u8, Rule)>,
}

/// What a frame says from some place on.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Rule {
    Cfa(u8, i16),
    CfaRegister(u8),
    CfaOffset(i16),
    Offset(u8, i16),
    Restore(u8),
    Undefined(u8),
    SameValue(u8),
    Register(u8, u8),
    Remember,
    Return,
    Arguments(u32),
}

impl Rule {
    fn instruction(self) -> CallFrameInstruction {
        let register = |number: u8| Register(u16::from(number % 17));
        let words = |count: i16| i32::from(count) * 8;
        match self {
            Self::Cfa(of, by) => CallFrameInstruction::Cfa(register(of), words(by)),
            Self::CfaRegister(of) => CallFrameInstruction::CfaRegister(register(of)),
            Self::CfaOffset(by) => CallFrameInstruction::CfaOffset(words(by)),
            Self::Offset(of, by) => CallFrameInstruction::Offset(register(of), words(by)),
            Self::Restore(of) => CallFrameInstruction::Restore(register(of)),
            Self::Undefined(of) => CallFrameInstruction::Undefined(register(of)),
            Self::SameValue(of) => CallFrameInstruction::SameValue(register(of)),
            Self::Register(of, to) => CallFrameInstruction::Register(register(of), register(to)),
            Self::Remember => CallFrameInstruction::RememberState,
            Self::Return => CallFrameInstruction::RestoreState,
            Self::Arguments(bytes) => CallFrameInstruction::ArgsSize(bytes),
        }
    }
}

impl Frames {
    /// The entries of code of `len` bytes at `entry`, as a section has them;
    /// for an unwinder that knows what compilers make, if it is `common`.
    #[must_use]
    pub fn bytes(&self, entry: usize, len: usize, common: bool) -> Vec<u8> {
        let format = if self.form & 2 != 0 && !common { Format::Dwarf64 } else { Format::Dwarf32 };
        let mut table = FrameTable::default();
        let encoding = Encoding { format, version: 1, address_size: 8 };
        let mut common_part = CommonInformationEntry::new(encoding, 1, -8, Register(16));
        common_part.add_instruction(CallFrameInstruction::Cfa(Register(7), 8));
        let id = table.add_cie(common_part);
        let mut start = entry;
        let end = entry + len;
        for part in &self.parts {
            let stop = end.min(start + 1 + usize::from(part.len) % 300);
            if start == stop {
                break;
            }
            let mut frame =
                FrameDescriptionEntry::new(Address::Constant(start as u64), (stop - start) as u32);
            let mut at = 0;
            for (by, rule) in &part.rules {
                at += u32::from(*by);
                frame.add_instruction(at, rule.instruction());
            }
            if part.says {
                table.add_fde(id, frame);
            }
            start = stop;
        }
        let mut section = gimli::write::EhFrame(EndianVec::new(NativeEndian));
        table.write_eh_frame(&mut section).expect("what can be said");
        let mut bytes = section.0.into_vec();
        trim(&mut bytes, usize::from(self.form >> 2 & 3));
        if self.form & 1 != 0 {
            bytes.extend([0; 4]);
        }
        bytes
    }
}

/// Takes as many of the last entry's padding bytes away, if it has so many.
fn trim(bytes: &mut Vec<u8>, count: usize) {
    let Some(last) = starts(bytes).pop() else { return };
    // An instruction's operands may be zero, too: those must stay.
    let Some(entry) = entries(bytes).pop() else { return };
    let word = |at: usize| u32::from_ne_bytes([0, 1, 2, 3].map(|by| bytes[at + by]));
    if word(last) == u32::MAX || entry.padding < count {
        return;
    }
    let len = word(last) - count as u32;
    bytes[last..last + 4].copy_from_slice(&len.to_ne_bytes());
    bytes.truncate(bytes.len() - count);
}

/// Where entries start.
fn starts(bytes: &[u8]) -> Vec<usize> {
    let mut starts = Vec::new();
    let mut at = 0;
    while at + 4 <= bytes.len() {
        let word = u32::from_ne_bytes([0, 1, 2, 3].map(|by| bytes[at + by]));
        starts.push(at);
        at += 4 + word as usize;
        if word == u32::MAX {
            break;
        }
    }
    starts
}

/// What an entry says of a part of the code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its first address.
    pub start: usize,
    /// Its bytes.
    pub len: usize,
    /// Its rules, as text.
    rules: Vec<String>,
    /// No-operations at its end.
    padding: usize,
}

impl Entry {
    /// The same without what says nothing.
    #[must_use]
    pub fn meaning(&self) -> (usize, usize, &[String]) {
        (self.start, self.len, &self.rules)
    }
}

/// The entries of an `.eh_frame` section, by another reader.
///
/// # Panics
///
/// If they are none.
#[must_use]
pub fn entries(bytes: &[u8]) -> Vec<Entry> {
    let mut section = gimli::read::EhFrame::new(bytes, NativeEndian);
    section.set_address_size(8);
    let bases = BaseAddresses::default().set_eh_frame(0);
    let mut found = Vec::new();
    let mut entries = section.entries(&bases);
    while let Some(entry) = entries.next().expect("an entry") {
        let CieOrFde::Fde(partial) = entry else { continue };
        let frame = partial
            .parse(|section, bases, offset| section.cie_from_offset(bases, offset))
            .expect("an entry of code");
        let mut rules = Vec::new();
        // First those that all entries have in common.
        let both =
            [frame.cie().instructions(&section, &bases), frame.instructions(&section, &bases)];
        let mut padding = 0;
        for mut instructions in both {
            padding = 0;
            while let Some(rule) = instructions.next().expect("an instruction") {
                let rule: gimli::CallFrameInstruction<usize> = rule;
                padding = if rule == gimli::CallFrameInstruction::Nop { padding + 1 } else { 0 };
                if padding == 0 {
                    rules.push(format!("{rule:?}"));
                }
            }
        }
        let (start, len) = (frame.initial_address() as usize, frame.len() as usize);
        found.push(Entry { start, len, rules, padding });
    }
    found
}

/// A section's bytes, for the reader.
pub type Bytes<'a> = EndianSlice<'a, NativeEndian>;

/// What the unwinder has of an address: the start and the length of the part that
/// its entry is of.
#[must_use]
pub fn found(address: usize) -> Option<(usize, usize)> {
    /// What the unwinder tells beside an entry.
    #[repr(C)]
    struct Bases {
        text: *const u8,
        data: *const u8,
        function: *const u8,
    }
    unsafe extern "C" {
        /// The entry of an address, or null; see libgcc's unwind-dw2-fde.h.
        fn _Unwind_Find_FDE(address: *const u8, bases: *mut Bases) -> *const u32;
    }
    let nothing = core::ptr::null();
    let mut bases = Bases { text: nothing, data: nothing, function: nothing };
    let address = core::ptr::without_provenance(address);
    // SAFETY: any address may be asked for; the place is this function's.
    let entry = unsafe { _Unwind_Find_FDE(address, &raw mut bases) };
    if entry.is_null() {
        return None;
    }
    // Behind its length and the way to what it has in common with others: two absolute
    // addresses.
    let parts = entry.wrapping_add(2).cast::<usize>();
    // SAFETY: such an entry, which is registered as long as its code.
    let start = unsafe { parts.read_unaligned() };
    // SAFETY: as above.
    let len = unsafe { parts.wrapping_add(1).read_unaligned() };
    assert_eq!(start, bases.function.addr());
    Some((start, len))
}
