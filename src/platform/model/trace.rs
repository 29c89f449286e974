//! The last things that happened, for the message of a failing model.

use core::fmt;
use std::collections::VecDeque;

use crate::platform::{Access, Key, KeyAccess};

/// Events kept.
const KEPT: usize = 40;

/// One call on the machine.
#[derive(Clone, Copy, Debug)]
pub(super) struct Event {
    pub(super) thread: usize,
    pub(super) call: Call,
}

/// What was called.
#[derive(Clone, Copy, Debug)]
pub(super) enum Call {
    SetRights,
    CreateFile(usize),
    SealFile,
    CloseFile,
    Map(usize, usize, Access),
    Duplicate(usize, usize, usize),
    Unmap(usize, usize),
    Hide(usize, usize),
    Protect(usize, usize, Access, Option<Key>),
    Populate(usize, usize),
    Discard(usize, usize),
    KeyAlloc,
    KeyFree(Key),
    SetKey(Key, KeyAccess),
    SetJitWritable(bool),
    RegisterSyncCore,
    SyncCore,
    Clean(usize, usize),
    Invalidate(usize, usize),
    Write(usize, usize),
    Traps(usize, usize),
    Load(usize),
    Fetch(usize),
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::SetRights => f.write_str("gets registers"),
            Self::CreateFile(len) => write!(f, "creates a file of {len:#x}"),
            Self::SealFile => f.write_str("seals a file"),
            Self::CloseFile => f.write_str("closes a file"),
            Self::Map(at, len, access) => write!(f, "maps {at:#x}+{len:#x} {access:?}"),
            Self::Duplicate(at, len, to) => {
                write!(f, "duplicates {at:#x}+{len:#x} at {to:#x}")
            }
            Self::Hide(at, len) => write!(f, "hides {at:#x}+{len:#x} from children"),
            Self::Unmap(at, len) => write!(f, "unmaps {at:#x}+{len:#x}"),
            Self::Protect(at, len, access, None) => {
                write!(f, "protects {at:#x}+{len:#x} {access:?}")
            }
            Self::Protect(at, len, access, Some(Key(key))) => {
                write!(f, "protects {at:#x}+{len:#x} {access:?} under key {key}")
            }
            Self::Populate(at, len) => write!(f, "populates {at:#x}+{len:#x}"),
            Self::Discard(at, len) => write!(f, "discards {at:#x}+{len:#x}"),
            Self::KeyAlloc => f.write_str("allocates a key"),
            Self::KeyFree(Key(key)) => write!(f, "frees key {key}"),
            Self::SetKey(Key(key), access) => write!(f, "sets key {key} {access:?}"),
            Self::SetJitWritable(on) => write!(f, "sets JIT memory writable: {on}"),
            Self::RegisterSyncCore => f.write_str("registers for core synchronisation"),
            Self::SyncCore => f.write_str("synchronises all cores"),
            Self::Clean(at, len) => write!(f, "cleans the data cache of {at:#x}+{len:#x}"),
            Self::Invalidate(at, len) => {
                write!(f, "invalidates the instruction cache of {at:#x}+{len:#x}")
            }
            Self::Write(at, len) => write!(f, "writes {at:#x}+{len:#x}"),
            Self::Traps(at, len) => write!(f, "fills {at:#x}+{len:#x} with traps"),
            Self::Load(at) => write!(f, "loads the word at {at:#x}"),
            Self::Fetch(at) => write!(f, "fetches {at:#x}"),
        }
    }
}

/// A ring of events.
#[derive(Debug, Default)]
pub(super) struct Trace {
    events: VecDeque<Event>,
    told: bool,
}

impl Trace {
    pub(super) fn push(&mut self, event: Event) {
        if self.events.len() == KEPT {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    /// Prints it; but not what comes after that, which is threads unwinding.
    pub(super) fn tell(&mut self) {
        if !self.told {
            self.told = true;
            eprint!("{self}");
        }
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "the machine's last {} events, oldest first:", self.events.len())?;
        for Event { thread, call } in &self.events {
            writeln!(f, "  thread {thread} {call}")?;
        }
        Ok(())
    }
}
