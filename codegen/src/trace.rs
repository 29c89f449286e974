//! What a process does between its marks.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::ops::Range;
use std::path::Path;

use iced_x86::{
    Decoder, DecoderOptions, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, Register,
};

use crate::process::{Process, Stop};
use crate::symbols::Symbols;

/// What the subject's marks say.
const BEGIN: u32 = 1;
const END: u32 = 2;

/// Most instructions between two marks: a limit on what goes wrong.
const MOST: usize = 200_000;

/// A cache line, in bytes.
const LINE: u64 = 64;

/// An access to memory, and who did it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// Addresses in the process.
    pub range: Range<u64>,
    /// The instruction.
    pub mnemonic: Mnemonic,
    /// Its function.
    pub function: String,
}

/// Something that was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The rights under the key changed: to open, or to closed.
    Rights(bool),
    /// A load or store of code memory through its writable view, and whether
    /// the key was open.
    View {
        /// What was accessed.
        access: Access,
        /// Whether it was written.
        store: bool,
        /// Whether the key was open.
        open: bool,
    },
    /// Another store, outside the stack.
    Store(Access),
    /// An atomic read-modify-write: a `lock` prefix, or XCHG with memory.
    Atomic(Access),
    /// A system call.
    System(Access),
}

/// What was done between two marks.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// In order.
    pub events: Vec<Event>,
    /// Instructions executed.
    pub instructions: usize,
    /// Instructions executed by function.
    pub functions: BTreeMap<String, usize>,
}

/// Runs `program` and steps through what lies between its marks.
///
/// # Errors
///
/// It cannot be traced, or failed.
pub fn run(program: &Path, arguments: &[&str]) -> Result<Vec<Trace>, Box<dyn Error>> {
    let symbols = Symbols::of(program)?;
    let mut process = Process::start(program, arguments)?;
    let mut traces = Vec::new();
    loop {
        match process.run()? {
            Stop::Mark(BEGIN) => traces.push(follow(&mut process, program, &symbols)?),
            Stop::Mark(other) => return Err(format!("mark {other} without a beginning").into()),
            Stop::Exit(0) => return Ok(traces),
            Stop::Exit(status) => return Err(format!("the subject ended with {status}").into()),
        }
    }
}

/// Where things are in the process.
struct Places {
    /// Where the program's file is mapped.
    program: u64,
    stack: Range<u64>,
    /// Writable views of code memory.
    views: Vec<Range<u64>>,
}

impl Places {
    fn of(maps: &str, program: &Path) -> Result<Self, Box<dyn Error>> {
        let program = program.canonicalize()?;
        let program = program.to_string_lossy();
        let mut places = Self { program: u64::MAX, stack: 0..0, views: Vec::new() };
        for line in maps.lines() {
            let mut words = line.split_whitespace();
            let range = words.next().and_then(|it| it.split_once('-')).ok_or("maps")?;
            let hex = |digits| u64::from_str_radix(digits, 16);
            let range = hex(range.0)?..hex(range.1)?;
            let rights = words.next().unwrap_or_default();
            if line.ends_with(&*program) {
                places.program = places.program.min(range.start);
            } else if line.ends_with("[stack]") {
                places.stack = range;
            } else if rights.starts_with("rw") && line.contains("jit-arena") {
                places.views.push(range);
            }
        }
        if places.views.is_empty() {
            return Err("no writable view of code memory is mapped".into());
        }
        Ok(places)
    }
}

/// Steps to the end mark.
fn follow(
    process: &mut Process,
    program: &Path,
    symbols: &Symbols,
) -> Result<Trace, Box<dyn Error>> {
    let places = Places::of(&process.maps()?, program)?;
    let mut factory = InstructionInfoFactory::new();
    let mut trace = Trace::default();
    while trace.instructions < MOST {
        let registers = process.registers()?;
        let mut bytes = [0; 15];
        let len = process.read(registers.rip, &mut bytes)?;
        let mut decoder = Decoder::with_ip(64, &bytes[..len], registers.rip, DecoderOptions::NONE);
        let instruction = decoder.decode();
        let function = symbols.name(registers.rip.wrapping_sub(places.program));
        trace.instructions += 1;
        *trace.functions.entry(function.to_owned()).or_default() += 1;
        match instruction.mnemonic() {
            Mnemonic::INVALID => {
                let rip = registers.rip;
                return Err(format!("cannot decode {bytes:x?} at {rip:#x} in {function}").into());
            }
            Mnemonic::Int3 if registers.rdi as u32 == END => {
                // Leaves it as an ordinary mark would: behind the breakpoint.
                process.step()?;
                return Ok(trace);
            }
            Mnemonic::Rdpkru | Mnemonic::Wrpkru => {
                let before = process.is_open();
                process.step_over_rights()?;
                if process.is_open() != before {
                    trace.events.push(Event::Rights(process.is_open()));
                }
                continue;
            }
            _ => {}
        }
        let open = process.is_open();
        trace.note(&mut factory, &instruction, &registers, &places, function, open);
        process.step()?;
    }
    Err("the end mark did not come".into())
}

impl Trace {
    fn note(
        &mut self,
        factory: &mut InstructionInfoFactory,
        instruction: &Instruction,
        registers: &libc::user_regs_struct,
        places: &Places,
        function: &str,
        open: bool,
    ) {
        let access = |range| Access {
            range,
            mnemonic: instruction.mnemonic(),
            function: function.to_owned(),
        };
        if matches!(instruction.mnemonic(), Mnemonic::Syscall | Mnemonic::Sysenter | Mnemonic::Int)
        {
            self.events.push(Event::System(access(0..0)));
        }
        for memory in factory.info(instruction).used_memory() {
            let store = match memory.access() {
                OpAccess::Write
                | OpAccess::CondWrite
                | OpAccess::ReadWrite
                | OpAccess::ReadCondWrite => true,
                OpAccess::Read | OpAccess::CondRead => false,
                _ => continue,
            };
            let start = memory.virtual_address(0, |register, _, _| value(register, registers));
            let Some(start) = start else { continue };
            // String instructions are stepped through element by element.
            let range = start..start + (memory.memory_size().size() as u64).max(1);
            if places.views.iter().any(|view| view.contains(&start)) {
                self.events.push(Event::View { access: access(range), store, open });
                continue;
            }
            let locked =
                instruction.has_lock_prefix() || instruction.mnemonic() == Mnemonic::Xchg && store;
            if locked {
                self.events.push(Event::Atomic(access(range)));
            } else if store && !places.stack.contains(&start) {
                self.events.push(Event::Store(access(range)));
            }
        }
    }

    /// The cache lines written, code memory and the stack aside.
    #[must_use]
    pub fn lines(&self) -> BTreeMap<u64, Vec<&Access>> {
        let mut lines: BTreeMap<u64, Vec<&Access>> = BTreeMap::new();
        for event in &self.events {
            if let Event::Store(access) | Event::Atomic(access) = event {
                for line in access.range.start / LINE..=(access.range.end - 1) / LINE {
                    lines.entry(line).or_default().push(access);
                }
            }
        }
        lines
    }

    /// Who does atomic read-modify-writes, and how many.
    #[must_use]
    pub fn atomics(&self) -> Vec<String> {
        let mut atomics = BTreeMap::new();
        for event in &self.events {
            if let Event::Atomic(access) = event {
                *atomics
                    .entry(format!("{:?} in {}", access.mnemonic, access.function))
                    .or_insert(0) += 1;
            }
        }
        atomics.into_iter().map(|(who, count)| format!("{count} {who}")).collect()
    }
}

/// What both wrote: lines, and who wrote them.
#[must_use]
pub fn shared(one: &Trace, other: &Trace) -> BTreeSet<String> {
    let others = other.lines();
    let both = one.lines().into_iter().filter(|(line, _)| others.contains_key(line));
    both.flat_map(|(line, accesses)| {
        let who =
            move |it: &Access| format!("line {line:#x}: {:?} in {}", it.mnemonic, it.function);
        accesses.into_iter().map(who).collect::<Vec<_>>()
    })
    .collect()
}

/// The value of a register, as addresses need it.
fn value(register: Register, registers: &libc::user_regs_struct) -> Option<u64> {
    let it = registers;
    Some(match register {
        Register::FS => it.fs_base,
        Register::GS => it.gs_base,
        _ if register.is_segment_register() => 0,
        _ => {
            let full = match register.full_register() {
                Register::RAX => it.rax,
                Register::RBX => it.rbx,
                Register::RCX => it.rcx,
                Register::RDX => it.rdx,
                Register::RSI => it.rsi,
                Register::RDI => it.rdi,
                Register::RBP => it.rbp,
                Register::RSP => it.rsp,
                Register::R8 => it.r8,
                Register::R9 => it.r9,
                Register::R10 => it.r10,
                Register::R11 => it.r11,
                Register::R12 => it.r12,
                Register::R13 => it.r13,
                Register::R14 => it.r14,
                Register::R15 => it.r15,
                Register::RIP => it.rip,
                _ => return None,
            };
            if register.size() == 4 { full & 0xFFFF_FFFF } else { full }
        }
    })
}
