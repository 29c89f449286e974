//! gdb's JIT interface: code as ELF files in memory, one for each 64 KiB.
//!
//! A debugger puts a breakpoint on `__jit_debug_register_code`, and when it is
//! hit reads a list, `__jit_debug_descriptor`, whose entries point to files. It
//! keeps an object for each, and grows slow with thousands of them; so there is
//! one a *chunk*, a stretch of addresses as long as a code page, that is taken
//! out and put back as code comes and goes in it. A debugger that attaches
//! later reads the whole list.
//!
//! Names, lines and unwind information are those of each piece's
//! [`Symbol`]. Breakpoints in such code are `hbreak`, hardware's: a software one
//! is an instruction written over another, and memory that is shared and not
//! writable is not even a debugger's to write. Under
//! [`Strategy::Mprotect`](jit_arena::Strategy::Mprotect), whose memory is private,
//! `break` works as well.
//!
//! The list is the process's, so it has one lock for all arenas. The symbols
//! must be there once: another JIT in the process that defines them (LLVM's)
//! clashes when it is linked.
//!
//! Source: gdb's manual, "JIT Compilation Interface".

use std::collections::BTreeMap;
use std::ptr;
use std::sync::{Arc, Mutex};

use jit_arena::{CodeInfo, Span, Symbol, Tool};

use crate::elf::{Piece, file_of};
use crate::lines::{lines_of, without_zeros};
use crate::lock;

/// Bits of an address within a chunk.
const CHUNK: u32 = 16;

/// Registers code with debuggers.
#[derive(Debug)]
pub struct Gdb {
    /// Changes of a chunk before debuggers hear of them.
    batch: usize,
    chunks: Mutex<BTreeMap<usize, Chunk>>,
}

#[derive(Debug, Default)]
struct Chunk {
    /// By entry.
    pieces: BTreeMap<usize, Piece>,
    /// Changes since it was registered.
    changes: usize,
    registered: Option<Registered>,
}

impl Gdb {
    /// A tool that tells debuggers of each change at once.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Self::batched(1)
    }

    /// A tool that tells them of a chunk after so many changes in it, and in
    /// [`flush`](Self::flush): for runtimes that compile much while a debugger
    /// is attached, which stops the process each time.
    #[must_use]
    pub fn batched(changes: usize) -> Arc<Self> {
        Arc::new(Self { batch: changes.max(1), chunks: Mutex::default() })
    }

    /// Tells debuggers of everything they have not heard of.
    pub fn flush(&self) {
        for chunk in lock(&self.chunks).values_mut().filter(|chunk| chunk.changes > 0) {
            chunk.register();
        }
    }

    /// Files that debuggers are told of by this tool.
    #[must_use]
    pub fn files(&self) -> usize {
        lock(&self.chunks).values().filter(|chunk| chunk.registered.is_some()).count()
    }

    fn changed(&self, chunk: &mut Chunk) {
        chunk.changes += 1;
        if chunk.changes >= self.batch {
            chunk.register();
        }
    }
}

impl Chunk {
    fn register(&mut self) {
        self.changes = 0;
        // The old one first: no two files say something of one address.
        self.registered = None;
        let pieces: Vec<&Piece> = self.pieces.values().collect();
        if pieces.is_empty() {
            return;
        }
        self.registered = file_of(&pieces).map(Registered::new);
    }
}

impl Tool for Gdb {
    fn published(&self, code: &CodeInfo, _: &[u8], symbol: &Symbol<'_>) {
        let piece = Piece {
            code: code.code,
            name: without_zeros(symbol.name()),
            lines: lines_of(symbol.source_lines(), code.code.len),
            eh_frame: symbol.unwind_information().to_vec(),
        };
        let mut chunks = lock(&self.chunks);
        let chunk = chunks.entry(code.entry() >> CHUNK).or_default();
        chunk.pieces.insert(code.entry(), piece);
        self.changed(chunk);
    }

    fn recycled(&self, entry: usize) {
        let mut chunks = lock(&self.chunks);
        let Some(chunk) = chunks.get_mut(&(entry >> CHUNK)) else { return };
        if chunk.pieces.remove(&entry).is_some() {
            self.changed(chunk);
        }
    }

    fn unmapped(&self, region: Span) {
        let mut chunks = lock(&self.chunks);
        for chunk in chunks.values_mut() {
            let before = chunk.pieces.len();
            chunk.pieces.retain(|entry, _| !region.contains(Span::new(*entry, 1)));
            if chunk.pieces.len() < before {
                chunk.register();
            }
        }
        chunks.retain(|_, chunk| !chunk.pieces.is_empty());
    }
}

/// What debuggers read: names, order and types are gdb's.
#[repr(C)]
struct Entry {
    next: *mut Entry,
    prev: *mut Entry,
    file: *const u8,
    file_len: u64,
}

#[repr(C)]
struct Descriptor {
    version: u32,
    action: u32,
    relevant: *mut Entry,
    first: *mut Entry,
}

const REGISTER: u32 = 1;
const UNREGISTER: u32 = 2;

/// Who has it may change the list.
static LIST: Mutex<()> = Mutex::new(());

// Used: debuggers read it, the program only writes it.
#[used]
#[unsafe(no_mangle)]
static mut __jit_debug_descriptor: Descriptor =
    Descriptor { version: 1, action: 0, relevant: ptr::null_mut(), first: ptr::null_mut() };

/// Where debuggers stop the process.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn __jit_debug_register_code() {
    // SAFETY: does nothing; to the compiler it reads all memory, so the call and
    // what was stored before it stay.
    unsafe { core::arch::asm!("", options(nostack)) };
}

/// A file that debuggers know of, until this is dropped.
#[derive(Debug)]
struct Registered {
    entry: *mut Entry,
    _file: Box<[u8]>,
}

// SAFETY: the entry is owned, and used under the list's lock.
unsafe impl Send for Registered {}

impl Registered {
    fn new(file: Vec<u8>) -> Self {
        let file = file.into_boxed_slice();
        let _list = lock(&LIST);
        let descriptor = &raw mut __jit_debug_descriptor;
        // SAFETY: the list is locked, and nobody else in the process changes it.
        let first = unsafe { (*descriptor).first };
        let entry = Box::into_raw(Box::new(Entry {
            next: first,
            prev: ptr::null_mut(),
            file: file.as_ptr(),
            file_len: file.len() as u64,
        }));
        // SAFETY: entries in the list are alive.
        if let Some(first) = unsafe { first.as_mut() } {
            first.prev = entry;
        }
        // SAFETY: as for reading it.
        unsafe { (*descriptor).first = entry };
        tell(REGISTER, entry);
        Self { entry, _file: file }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let _list = lock(&LIST);
        // SAFETY: in the list, and so alive, until here.
        let Entry { next, prev, .. } = *unsafe { &*self.entry };
        // SAFETY: its neighbours in the list are alive.
        match unsafe { prev.as_mut() } {
            Some(prev) => prev.next = next,
            None => {
                let descriptor = &raw mut __jit_debug_descriptor;
                // SAFETY: the list is locked.
                unsafe { (*descriptor).first = next };
            }
        }
        // SAFETY: as above.
        if let Some(next) = unsafe { next.as_mut() } {
            next.prev = prev;
        }
        tell(UNREGISTER, self.entry);
        // SAFETY: made by `new`, and out of the list.
        drop(unsafe { Box::from_raw(self.entry) });
    }
}

/// Has debuggers look. The list is locked.
fn tell(action: u32, entry: *mut Entry) {
    let descriptor = &raw mut __jit_debug_descriptor;
    // SAFETY: the list is locked.
    unsafe { (*descriptor).action = action };
    // SAFETY: as above.
    unsafe { (*descriptor).relevant = entry };
    __jit_debug_register_code();
}
