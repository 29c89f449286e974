//! A simulated machine: what the hardware and the kernel promise about code
//! memory, in a form that loom and shuttle can check the arena against.
//!
//! | file | simulates |
//! |---|---|
//! | [`memory`] | physical pages, their content and its generations |
//! | [`pages`] | page tables |
//! | [`rights`] | PKRU and Apple's toggle, a set a thread |
//! | [`icache`] | what a core may still execute of old bytes |
//!
//! `[M1]` Every write, read and fetch is checked against the rights of the calling
//! thread at that moment; an illegal one panics and prints the last calls on
//! the machine. So does a change after which some thread could both write and
//! execute a page (`[W1]`), unless the machine was told to
//! [allow](Options::allow_wx) it.
//!
//! The machine adds no step to a model and orders nothing: its state is a
//! ghost, and two calls of different threads that touch the same granule or
//! page-table entry, at least one changing it, are an error unless the *program*
//! orders them. That is stricter than running them in every order, and needs
//! no additional schedules.
//!
//! Addresses are numbers that nothing is mapped at. "Running" code is
//! [`Machine::fetch`].

use core::fmt;
use std::sync::Arc;

use self::icache::Caches;
use self::memory::{Memory, TRAP, Watches};
use self::pages::{Mapping, Pages};
use self::rights::{KEYS, ThreadRights};
use self::trace::{Call, Event, Trace};
use super::{Access, Backing, Key, KeyAccess, MemoryFile, OsError, OsResult, Place, Platform};
use crate::sync::ghost::Ghost;
use crate::sync::{AtomicU64, Ordering, Watched, thread};
use crate::units::GRANULE;

mod calls;
mod icache;
mod memory;
mod pages;
mod rights;
mod trace;

#[cfg(test)]
mod tests;

/// What a simulated machine has and allows.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Size of a system page in bytes.
    pub system_page: usize,
    /// Protection keys beside key 0; 0 for a processor without them.
    pub keys: usize,
    /// Whether there are memory files.
    pub files: bool,
    /// Whether shared anonymous memory can be mapped a second time.
    pub duplicates: bool,
    /// Whether there is `MAP_JIT`.
    pub jit: bool,
    /// Whether instruction caches see what data caches hold, as on x86.
    pub coherent: bool,
    /// Whether a page may be writable and executable to one thread.
    pub allow_wx: bool,
    /// Whether words may be read while they are written
    /// ([`Platform::peek_word`]). They are taken for relaxed atomics then, so a
    /// reader may see any word that nothing forbids, and fences order them.
    /// Adds a step to every write.
    pub peeks: bool,
    /// Bytes of memory that can be present at once.
    pub memory: usize,
    /// Granules, pages and page-table entries a model may touch. Each costs a
    /// little in every execution under loom.
    pub watches: usize,
}

impl Default for Options {
    /// An x86 with protection keys under Linux.
    fn default() -> Self {
        Self {
            system_page: 4096,
            keys: KEYS - 1,
            files: true,
            duplicates: true,
            jit: false,
            coherent: true,
            allow_wx: false,
            peeks: false,
            memory: usize::MAX,
            watches: 192,
        }
    }
}

/// The simulated machine.
pub struct Machine {
    options: Options,
    state: Ghost<State>,
    trace: Ghost<Trace>,
    watched: Box<[Watched]>,
    /// Number of the last write, where words are peeked at: stands for the words.
    writes: AtomicU64,
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine").field("options", &self.options).finish_non_exhaustive()
    }
}

/// A thread the machine has met.
struct Thread {
    token: usize,
    rights: ThreadRights,
}

struct State {
    threads: Vec<Thread>,
    pages: Pages,
    memories: Vec<Memory>,
    caches: Caches,
    /// Bit k: key k is allocated.
    keys: u32,
    sync_registered: bool,
    generation: u64,
    /// Number of the last write, for what is remembered of it.
    version: u64,
    next_watch: usize,
}

/// Prints the trace, once, if the step it guards panics.
struct Report<'a>(&'a Ghost<Trace>);

impl Drop for Report<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.with(Trace::tell);
        }
    }
}

impl Machine {
    /// A machine with nothing mapped. Under a checker, call this before any
    /// thread of the model is spawned.
    #[must_use]
    pub fn new(options: Options) -> Arc<Self> {
        assert!(options.system_page.is_power_of_two() && options.system_page >= GRANULE);
        assert!(options.keys < KEYS, "{KEYS} keys are all a register has room for");
        Arc::new(Self {
            options,
            state: Ghost::new(State {
                threads: Vec::new(),
                pages: Pages::new(options.system_page),
                memories: Vec::new(),
                caches: Caches::new(options.coherent),
                keys: 1,
                sync_registered: false,
                generation: 0,
                version: 0,
                next_watch: 0,
            }),
            trace: Ghost::new(Trace::default()),
            watched: (0..options.watches).map(|_| Watched::new()).collect(),
            writes: AtomicU64::new(0),
        })
    }

    /// Runs code: fetches at `addr` and returns the eight bytes there (fewer at
    /// the end of a granule, with zeros above).
    ///
    /// # Panics
    ///
    /// If the calling thread may not execute there or may write code memory
    /// now, if nothing was written there or what was has been replaced by
    /// traps, if the fetch is not ordered after the writing, and if the thread
    /// would execute stale bytes.
    pub fn fetch(&self, addr: usize) -> u64 {
        self.step(Call::Fetch(addr), |step| {
            let mapping = step.mapping(addr);
            let rights = step.rights();
            let effective = rights.effective(&mapping);
            if !effective.execute {
                step.fault("is not executable to it", addr);
            }
            if effective.write {
                step.fault("[W1] is writable to the thread that runs it", addr);
            }
            if rights.may_write() {
                step.fault("[W2] runs inside a write scope", addr);
            }
            let State { pages, memories, caches, next_watch, .. } = step.state;
            let mut watches = Watches { pool: &step.machine.watched, next: next_watch };
            pages.used(addr, &mut watches);
            let offset = mapping.offset + (addr - mapping.start);
            let page = step.machine.options.system_page;
            let frame = memories[mapping.memory].frame(offset, &mut watches);
            let present = frame.present;
            let granule = frame.read(offset % page / GRANULE, &mut watches);
            let seen = caches.fetch(step.thread, addr, granule);
            let (generation, bytes) = (granule.generation, granule.bytes);
            if !present || generation == 0 {
                step.fault("was never written", addr);
            }
            if seen != generation {
                step.fault("[X2] stale: this core executes what was there before", addr);
            }
            let at = addr % GRANULE;
            if bytes[at] == TRAP {
                step.fault("[D3] traps: nothing lives there now", addr);
            }
            let mut word = [0; 8];
            let len = word.len().min(GRANULE - at);
            word[..len].copy_from_slice(&bytes[at..at + len]);
            u64::from_le_bytes(word)
        })
    }

    /// Runs code of `len` bytes: fetches each granule of it.
    ///
    /// # Panics
    ///
    /// As for [`fetch`](Self::fetch).
    pub fn run(&self, addr: usize, len: usize) -> u64 {
        let word = self.fetch(addr);
        let mut at = (addr & !(GRANULE - 1)) + GRANULE;
        while at < addr + len {
            self.fetch(at);
            at += GRANULE;
        }
        word
    }

    /// Whether running `addr` would trap, which is how dead code is left.
    #[must_use]
    pub fn is_trap(&self, addr: usize) -> bool {
        // SAFETY: the simulated machine checks what a real one would rely on.
        let word = unsafe { self.load_word(addr & !7) };
        word.to_le_bytes()[addr % 8] == TRAP
    }

    /// The calling thread's registers.
    #[must_use]
    pub fn rights(&self) -> ThreadRights {
        self.state.with(|state| {
            let thread = state.thread();
            state.threads[thread].rights
        })
    }

    /// Replaces the calling thread's registers, as `clone` does at the birth of
    /// a thread, and a signal handler's entry and return.
    pub fn set_rights(&self, rights: ThreadRights) {
        self.step(Call::SetRights, |step| {
            step.state.threads[step.thread].rights = rights;
            step.check_all();
        });
    }

    /// Bytes of memory present now.
    #[must_use]
    pub fn present(&self) -> usize {
        self.state.with(|state| state.present(self.options.system_page))
    }

    /// Bytes of address space mapped now.
    #[must_use]
    pub fn mapped(&self) -> usize {
        self.state.with(|state| state.pages.all().iter().map(|one| one.len).sum())
    }

    /// Makes what is written in the step after this visible to those who peek,
    /// as a relaxed store would.
    fn announce_write(&self) {
        if self.options.peeks {
            // Relaxed: code memory orders nothing; fences around it do.
            let version = self.writes.fetch_add(1, Ordering::Relaxed) + 1;
            self.state.with(|state| state.version = version);
        }
    }

    fn step<R>(&self, call: Call, body: impl FnOnce(&mut Step<'_>) -> R) -> R {
        self.state.with(|state| {
            let thread = state.thread();
            self.trace.with(|trace| trace.push(Event { thread, call }));
            let _report = Report(&self.trace);
            body(&mut Step { machine: self, state, thread, call })
        })
    }
}

/// Starts a thread that inherits the calling thread's registers, as `clone`
/// has it: born inside a write scope it could write code memory.
pub fn spawn<T: Send + 'static>(
    machine: &Arc<Machine>,
    body: impl FnOnce() -> T + Send + 'static,
) -> thread::JoinHandle<T> {
    let machine = Arc::clone(machine);
    let rights = machine.rights();
    thread::spawn(move || {
        machine.set_rights(rights);
        body()
    })
}

impl State {
    /// Index of the calling thread; one met for the first time has all keys
    /// closed.
    fn thread(&mut self) -> usize {
        let token = thread::here();
        let known = self.threads.iter().position(|one| one.token == token);
        known.unwrap_or_else(|| {
            self.threads.push(Thread { token, rights: ThreadRights::DENY });
            self.threads.len() - 1
        })
    }

    fn present(&self, page: usize) -> usize {
        self.memories.iter().map(|memory| memory.present() * page).sum()
    }
}

/// One call under way.
struct Step<'a> {
    machine: &'a Machine,
    state: &'a mut State,
    thread: usize,
    call: Call,
}

impl Step<'_> {
    fn rights(&self) -> ThreadRights {
        self.state.threads[self.thread].rights
    }

    /// Fails the model.
    fn fault(&self, why: &str, addr: usize) -> ! {
        let Self { thread, call, .. } = self;
        let rights = self.rights();
        match self.state.pages.find(addr) {
            None => panic!("model machine: thread {thread} {call}: {addr:#x} {why}; {rights}"),
            Some(Mapping { start, len, access, key: Key(key), .. }) => panic!(
                "model machine: thread {thread} {call}: {addr:#x} {why}; \
                 mapped {start:#x}+{len:#x} {access:?} key {key}; {rights}"
            ),
        }
    }

    fn mapping(&self, addr: usize) -> Mapping {
        match self.state.pages.find(addr) {
            Some(mapping) => *mapping,
            None => self.fault("is mapped nowhere", addr),
        }
    }

    /// `[W1]`: no page is writable and executable to any thread.
    fn check(&self, mapping: &Mapping) {
        if self.machine.options.allow_wx {
            return;
        }
        for (thread, one) in self.state.threads.iter().enumerate() {
            let effective = one.rights.effective(mapping);
            if effective.write && effective.execute {
                let why = format!("[W1] becomes writable and executable to thread {thread}");
                self.fault(&why, mapping.start);
            }
        }
    }

    fn check_all(&self) {
        for mapping in self.state.pages.all() {
            self.check(mapping);
        }
    }

    /// Checks that a range is whole pages, all of them mapped.
    fn whole_pages(&self, addr: usize, len: usize) {
        let page = self.machine.options.system_page;
        if !addr.is_multiple_of(page) || !len.is_multiple_of(page) || len == 0 {
            self.fault("does not begin or end a range of whole system pages", addr);
        }
        if !self.state.pages.covers(addr, len) {
            self.fault("begins a range that is not mapped throughout", addr);
        }
    }

    fn insert(&mut self, mapping: Mapping) {
        self.state.pages.insert(mapping);
        self.check(&mapping);
    }

    /// Calls `part` for each piece of a range that lies in one granule: with
    /// the mapping, the piece's address, and its length.
    fn granules(
        &mut self,
        addr: usize,
        len: usize,
        mut part: impl FnMut(&mut Self, Mapping, usize, usize),
    ) {
        let mut at = addr;
        while at < addr + len {
            let mapping = self.mapping(at);
            let end = (at & !(GRANULE - 1)) + GRANULE;
            let end = end.min(addr + len);
            part(self, mapping, at, end - at);
            at = end;
        }
    }

    /// Checks that the thread may write at `at`, and counts as its doing so.
    fn writable(&mut self, mapping: &Mapping, at: usize) {
        if !self.rights().effective(mapping).write {
            self.fault("is not writable to it", at);
        }
        let page = self.machine.options.system_page;
        let State { pages, memories, next_watch, .. } = &mut *self.state;
        let mut watches = Watches { pool: &self.machine.watched, next: next_watch };
        pages.used(at, &mut watches);
        let offset = mapping.offset + (at - mapping.start);
        let frame = memories[mapping.memory].frame(offset & !(page - 1), &mut watches);
        if mapping.shared && !frame.present {
            // A file or shared memory that has run full answers with a signal.
            self.fault("[P2] is not present: the write may find memory exhausted", at);
        }
        frame.present = true;
        frame.rely_on_presence(self.thread, &watches);
    }

    fn write_granule(&mut self, mapping: &Mapping, at: usize, bytes: &[u8]) {
        self.writable(mapping, at);
        let page = self.machine.options.system_page;
        let State { memories, next_watch, generation, version, .. } = &mut *self.state;
        let mut watches = Watches { pool: &self.machine.watched, next: next_watch };
        let offset = mapping.offset + (at - mapping.start);
        let frame = memories[mapping.memory].frame(offset, &mut watches);
        *generation += 1;
        let index = offset % page / GRANULE;
        let granule = frame.write(index, *generation, &mut watches);
        granule.bytes[offset % GRANULE..][..bytes.len()].copy_from_slice(bytes);
        if self.machine.options.peeks {
            frame.remember(index, *version);
        }
    }

    /// Makes whole pages of physical memory one byte.
    fn fill_page(&mut self, mapping: &Mapping, at: usize, byte: u8, present: Option<bool>) {
        let State { memories, next_watch, generation, version, .. } = &mut *self.state;
        let mut watches = Watches { pool: &self.machine.watched, next: next_watch };
        let offset = mapping.offset + (at - mapping.start);
        let frame = memories[mapping.memory].frame(offset, &mut watches);
        *generation += 1;
        frame.fill(byte, *generation, &mut watches);
        if self.machine.options.peeks {
            frame.remember_fill(*version);
        }
        frame.present = present.unwrap_or(frame.present);
    }
}

/// Every weakening of an ordering that the program has passed so far, for the
/// mutant runner.
#[cfg(jit_arena_mutants)]
#[must_use]
pub fn weakenings() -> Vec<String> {
    crate::sync::weaken::sites()
}
