//! Dumps as text: live executors, disassembled, with names.

use std::fmt::Write;

use jit_arena::Dump;

/// Name of the code or function that an address lies in.
pub(crate) type Naming<'a> = &'a dyn Fn(usize) -> Option<String>;

/// Disassembles a [dump](jit_arena::Arena::dump). `name` knows the client's
/// code ([`Names::name_of`](crate::Names::name_of)) and, if it likes, the
/// helpers that trampolines lead to.
///
/// # Examples
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # #[cfg(target_arch = "x86_64")] {
/// let arena = jit_arena::Arena::new()?;
/// let mut thread = arena.attach()?;
/// let executor = thread.install(&[0xB8, 42, 0, 0, 0, 0xC3], &[])?;
/// let text = jit_arena_tools::disassemble(&arena.dump()?, &|_| None);
/// assert!(text.contains("mov $0x2a,%eax"), "{text}");
/// # }
/// # Ok(())
/// # }
/// ```
#[must_use]
pub fn disassemble(dump: &Dump, name: &dyn Fn(usize) -> Option<String>) -> String {
    let mut text = String::new();
    let resolve = |address: usize| {
        let jump = dump.trampolines.binary_search_by_key(&address, |it| it.address);
        if let Ok(at) = jump {
            let jump = dump.trampolines[at];
            let target = name(jump.target).unwrap_or_else(|| format!("{:#x}", jump.target));
            return Some(format!("trampoline:{target}"));
        }
        name(address)
    };
    // Writing to a string does not fail.
    for code in &dump.executors {
        let info = &code.info;
        let title = name(info.entry()).unwrap_or_else(|| "(no name)".to_owned());
        let _ = writeln!(
            text,
            "{:#x} {title}: {} bytes of code, {} of data, tag {:#x}",
            info.entry(),
            info.code.len,
            info.data.len,
            info.tag,
        );
        instructions(&mut text, info.entry(), &code.code, &resolve);
        for (row, bytes) in code.data.chunks(16).enumerate() {
            let _ = write!(text, "  {:x}:", info.data.start + row * 16);
            for byte in bytes {
                let _ = write!(text, " {byte:02x}");
            }
            text.push('\n');
        }
    }
    for jump in &dump.trampolines {
        let target = name(jump.target).unwrap_or_else(|| "(no name)".to_owned());
        let _ = writeln!(text, "{:#x} trampoline to {:#x} {target}", jump.address, jump.target);
    }
    text
}

#[cfg(target_arch = "x86_64")]
fn instructions(text: &mut String, entry: usize, code: &[u8], name: Naming<'_>) {
    use iced_x86::{Decoder, DecoderOptions, Formatter, GasFormatter, Instruction};
    let mut formatter = GasFormatter::new();
    formatter.options_mut().set_branch_leading_zeros(false);
    formatter.options_mut().set_uppercase_hex(false);
    formatter.options_mut().set_small_hex_numbers_in_decimal(false);
    let decoder = Decoder::with_ip(64, code, entry as u64, DecoderOptions::NONE);
    for instruction in decoder {
        let instruction: Instruction = instruction;
        let _ = write!(text, "  {:x}: ", instruction.ip());
        formatter.format(&instruction, text);
        let target = instruction.near_branch_target() as usize;
        if target != 0
            && !(entry..entry + code.len()).contains(&target)
            && let Some(name) = name(target)
        {
            let _ = write!(text, " <{name}>");
        }
        text.push('\n');
    }
}

/// Words: iced knows x86 alone.
#[cfg(not(target_arch = "x86_64"))]
fn instructions(text: &mut String, entry: usize, code: &[u8], _: Naming<'_>) {
    for (row, word) in code.chunks(4).enumerate() {
        let _ = write!(text, "  {:x}:", entry + row * 4);
        for byte in word.iter().rev() {
            let _ = write!(text, "{byte:02x}");
        }
        text.push('\n');
    }
}
