//! What is measured: one trait, one file a kind of allocator.

use std::fmt;

pub mod alias;
pub mod arena;
#[cfg(feature = "asmjit")]
pub mod asmjit;
pub mod cranelift;
pub mod flip;
pub mod free;
pub mod jit_allocator;
pub mod mapping;
pub mod probe;
pub mod rwx;
pub mod spin;
pub mod view;

/// An allocator of executable memory that threads share.
pub trait Rival: Send + Sync + 'static {
    /// One thread's part of it.
    type Thread: RivalThread;

    /// The name in tables.
    fn name(&self) -> String;

    /// Gives the calling thread its part.
    fn attach(&self) -> Self::Thread;

    /// What it holds, at a quiescent moment.
    fn usage(&self) -> Usage;

    /// Whether it is a limit that keeps no promise to its clients, not an
    /// allocator.
    fn is_probe(&self) -> bool {
        false
    }

    /// Whether the system brings its pages in the call that commits them, and
    /// not one by one as they are touched.
    fn populates(&self) -> bool {
        false
    }

    /// What else is worth a line in a table.
    fn note(&self) -> String {
        String::new()
    }
}

/// A thread's part of an allocator.
pub trait RivalThread: 'static {
    /// A handle on one installed piece of code.
    type Code: Send + 'static;

    /// Allocates, writes `code` there, and makes it executable. Panics where
    /// that fails: a measurement of something else is worth nothing.
    fn install(&mut self, code: &[u8]) -> Self::Code;

    /// Frees it, on whatever thread this is.
    fn free(&mut self, code: Self::Code);

    /// Where it can be run and read.
    fn addr(code: &Self::Code) -> usize;

    /// Gives as much memory back to the system as it can.
    fn collect(&mut self) {}
}

/// Bytes of an allocator's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Asked for and not freed. 0 where the allocator keeps no count.
    pub live: usize,
    /// Held from the system, in whole system pages.
    pub committed: usize,
    /// Freed and not yet fit for use again.
    pub retired: usize,
    /// Held and free.
    pub holes: usize,
}

/// Why a rival is not measured here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotHere(pub String);

impl fmt::Display for NotHere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Something to be done with rivals of different types.
pub trait Visit {
    /// Meets one rival.
    fn rival<R: Rival + Clone>(&mut self, rival: R);

    /// Hears of one that cannot run here.
    fn missing(&mut self, name: &str, why: NotHere);
}

/// The most executors a rival can keep live here.
#[must_use]
pub fn most_live(name: &str) -> usize {
    // Linux allows a process 65,530 mappings by default (vm.max_map_count), and
    // cranelift's provider holds two an executor and more.
    match name {
        "mapping" => 60_000,
        "cranelift" => 20_000,
        _ => usize::MAX,
    }
}

/// The names of all rivals, the limit first.
pub const ALL: &[&str] = &[
    "probe",
    "probe-pkey",
    "probe-scattered",
    "probe-scattered-pkey",
    "dual-pkey",
    "dual-open",
    "dual-transient",
    "mprotect",
    "single-pkey",
    "jit-allocator",
    "talc-rwx",
    "alias",
    "flip",
    "mapping",
    "cranelift",
    "asmjit",
];

/// How much a rival is to hold.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Live bytes, about.
    pub bytes: usize,
    /// Threads that share them.
    pub threads: usize,
}

/// Makes the rival called `name` and shows it to `visit`.
pub fn visit(name: &str, room: Room, visit: &mut impl Visit) {
    fn show<R: Rival + Clone>(name: &str, made: Result<R, NotHere>, visit: &mut impl Visit) {
        match made {
            Ok(rival) => visit.rival(rival),
            Err(why) => visit.missing(name, why),
        }
    }
    use probe::Order::{InTurn, Scattered};
    let live = room.bytes;
    match name {
        "probe" => show(name, probe::Probe::new(room, false, InTurn), visit),
        "probe-pkey" => show(name, probe::Probe::new(room, true, InTurn), visit),
        "probe-scattered" => show(name, probe::Probe::new(room, false, Scattered), visit),
        "probe-scattered-pkey" => show(name, probe::Probe::new(room, true, Scattered), visit),
        "spin" => show(name, Ok(spin::Spin), visit),
        "mapping" => show(name, Ok(mapping::Mappings::new()), visit),
        "flip" => show(name, flip::Flip::new(live), visit),
        "alias" => show(name, alias::Alias::new(live), visit),
        "talc-rwx" => show(name, rwx::TalcRwx::new(live), visit),
        "cranelift" => show(name, Ok(cranelift::Cranelift::default()), visit),
        #[cfg(feature = "asmjit")]
        "asmjit" => show(name, asmjit::AsmJit::new(), visit),
        #[cfg(not(feature = "asmjit"))]
        "asmjit" => {
            visit.missing(name, NotHere("built without the feature `asmjit`".to_owned()));
        }
        "jit-allocator" => show(name, Ok(jit_allocator::Port::new()), visit),
        _ => show(name, arena::Ours::new(name, room), visit),
    }
}
