//! Memory for `cranelift-jit`: a whole module in an arena.
//!
//! # What can serve it
//!
//! The module asks for memory, writes code to it, resolves relocations through the
//! same pointer and by its value, possibly much later and on another thread, and then
//! has it finalized. So the address for writing is the one that code runs at, which
//! rules two views out. Of the strategies with one view, `single-pkey` and `map-jit`
//! give the right to write to one thread, and the trait does not say which thread
//! writes; so it is `mprotect`, whose rights are the pages', on every machine.
//!
//! A page is writable from the request that it is given out for to the module's
//! `finalize_definitions`, executable from there on, and never both.
//!
//! # How
//!
//! A write scope belongs to a thread and lasts as long as a borrow; requests come one
//! by one from anywhere. So each provider has a thread of its own that answers them,
//! with the scope on its stack. Functions share *chunks*, each an executor of up to
//! 4 MiB; a chunk has a handle and a scope of its own, since a scope has one window at
//! a time, and all of them stay open until they are finalized. Data that is read only
//! lies in the same chunks; data that stays writable is ordinary memory nearby.

use core::fmt;
use std::io;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::{self, JoinHandle};

use cranelift_jit::{BranchProtection, JITMemoryProvider};
use cranelift_module::{ModuleError, ModuleResult};
use jit_arena::{Arena, CodeLayout, Executor, MAX_ALIGN, MAX_EXECUTOR, Strategy};

use crate::near::Pages;

/// Bytes of a chunk, unless what is asked for is longer.
const CHUNK: usize = 64 << 10;

/// Bytes of a mapping for data that stays writable, at least.
const DATA: usize = 64 << 10;

/// A `JITMemoryProvider` that takes a module's memory from an arena.
///
/// Dropping the module leaves its code in place, as `cranelift-jit` has it: function
/// pointers stay valid as long as the arena. `JITModule::free_memory` retires the
/// code, which goes once no thread that is pinned can be running it.
pub struct ArenaMemory {
    arena: Arena,
    requests: Option<Sender<Request>>,
    worker: Option<JoinHandle<()>>,
    /// Code that was finalized.
    code: Vec<Executor>,
    /// Data that stays writable, and the bytes of the last mapping that are used.
    data: Vec<Pages>,
    used: usize,
}

impl ArenaMemory {
    /// Memory from `arena`, which has the strategy `mprotect`. Starts a thread.
    ///
    /// # Errors
    ///
    /// Another strategy, or a system that refuses the thread.
    pub fn new(arena: &Arena) -> io::Result<Self> {
        let strategy = arena.report().strategy;
        if strategy != Strategy::Mprotect {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!("an arena with {strategy} cannot serve cranelift-jit: build with mprotect"),
            ));
        }
        let (requests, received) = channel();
        let served = arena.clone();
        let worker = thread::Builder::new()
            .name("jit-arena-memory".to_owned())
            .spawn(move || serve(&served, &received))?;
        Ok(Self {
            arena: arena.clone(),
            requests: Some(requests),
            worker: Some(worker),
            code: Vec::new(),
            data: Vec::new(),
            used: 0,
        })
    }

    /// Asks the thread, and waits for its answer.
    fn ask<T>(&self, request: impl FnOnce(SyncSender<io::Result<T>>) -> Request) -> io::Result<T> {
        let gone = || io::Error::other("the thread that serves the module has ended");
        let (reply, answer) = sync_channel(1);
        let requests = self.requests.as_ref().ok_or_else(gone)?;
        requests.send(request(reply)).map_err(|_| gone())?;
        answer.recv().map_err(|_| gone())?
    }

    /// Memory that nobody writes any more once it is finalized.
    fn allocate(&mut self, size: usize, align: u64) -> io::Result<*mut u8> {
        let align = check(size, align)?;
        let at = self.ask(|reply| Request::Allocate { size, align, reply })?;
        Ok(core::ptr::with_exposed_provenance_mut(at))
    }

    fn allocate_data(&mut self, size: usize, align: usize) -> io::Result<usize> {
        if let Some(pages) = self.data.last()
            && let Some(at) = fit(pages.span().start, pages.span().len, self.used, size, align)
        {
            self.used = at + size - pages.span().start;
            return Ok(at);
        }
        let len = size.max(DATA).checked_next_multiple_of(DATA).ok_or_else(too_large)?;
        let pages = Pages::map(self.arena.span(), len)?;
        let at = fit(pages.span().start, len, 0, size, align).ok_or_else(too_large)?;
        self.used = at + size - pages.span().start;
        self.data.push(pages);
        Ok(at)
    }

    fn end(&mut self) {
        self.requests = None;
        if let Some(worker) = self.worker.take() {
            // It ends with the last request; a panic in it has been told.
            let _ = worker.join();
        }
    }
}

impl JITMemoryProvider for ArenaMemory {
    fn allocate_readexec(&mut self, size: usize, align: u64) -> io::Result<*mut u8> {
        self.allocate(size, align)
    }

    fn allocate_readonly(&mut self, size: usize, align: u64) -> io::Result<*mut u8> {
        self.allocate(size, align)
    }

    fn allocate_readwrite(&mut self, size: usize, align: u64) -> io::Result<*mut u8> {
        let at = self.allocate_data(size, check(size, align)?)?;
        Ok(core::ptr::with_exposed_provenance_mut(at))
    }

    unsafe fn free_memory(&mut self) {
        // What was not finalized goes with the thread.
        self.end();
        self.code.clear();
        self.data.clear();
    }

    /// Publishes all that was allocated. Branch target identification is not asked of
    /// the system: its instructions do nothing there.
    fn finalize(&mut self, _: BranchProtection) -> ModuleResult<()> {
        let finalized = self.ask(|reply| Request::Finalize { reply });
        let code =
            finalized.map_err(|err| ModuleError::Allocation { message: "code memory", err })?;
        self.code.extend(code);
        Ok(())
    }
}

impl Drop for ArenaMemory {
    fn drop(&mut self) {
        self.end();
        for executor in self.code.drain(..) {
            // Pointers to it stay valid.
            let _ = executor.into_addr();
        }
        for pages in self.data.drain(..) {
            core::mem::forget(pages);
        }
    }
}

impl fmt::Debug for ArenaMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ArenaMemory")
            .field("arena", &self.arena)
            .field("code", &self.code.len())
            .finish_non_exhaustive()
    }
}

/// The alignment, if so much and so aligned can be had.
fn check(size: usize, align: u64) -> io::Result<usize> {
    let align = usize::try_from(align).map_err(|_| too_large())?.max(1);
    let can_be = align.is_power_of_two() && align <= MAX_ALIGN && size <= MAX_EXECUTOR;
    can_be.then_some(align).ok_or_else(too_large)
}

fn too_large() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        format!(
            "no place for so much or so aligned: {MAX_EXECUTOR} bytes aligned to {MAX_ALIGN} at most"
        ),
    )
}

/// Where `size` bytes fit behind the first `used` of `len` from `start`.
fn fit(start: usize, len: usize, used: usize, size: usize, align: usize) -> Option<usize> {
    let at = (start + used).checked_next_multiple_of(align)?;
    (at.checked_add(size)? <= start + len).then_some(at)
}

/// What the thread is asked for.
enum Request {
    Allocate { size: usize, align: usize, reply: SyncSender<io::Result<usize>> },
    Finalize { reply: SyncSender<io::Result<Vec<Executor>>> },
}

/// Why a chunk has ended.
enum End {
    Finalized(SyncSender<io::Result<Vec<Executor>>>),
    /// The provider is gone.
    Gone,
}

/// Answers requests until the provider is gone.
fn serve(arena: &Arena, requests: &Receiver<Request>) {
    while let Ok(request) = requests.recv() {
        let mut code = Vec::new();
        let (end, result) = match request {
            Request::Finalize { reply } => (End::Finalized(reply), Ok(())),
            Request::Allocate { size, align, reply } => {
                chunk(arena, requests, size, align, reply, &mut code)
            }
        };
        match end {
            End::Gone => return,
            // What was published of a module that could not all be is retired.
            End::Finalized(reply) => drop(reply.send(result.map(|()| code))),
        }
    }
}

/// Answers out of one chunk, and a further one when it is full, until all is
/// finalized. Adds what was published to `code`.
fn chunk(
    arena: &Arena,
    requests: &Receiver<Request>,
    size: usize,
    align: usize,
    reply: SyncSender<io::Result<usize>>,
    code: &mut Vec<Executor>,
) -> (End, io::Result<()>) {
    let next = |requests: &Receiver<Request>, code: &mut Vec<Executor>| match requests.recv() {
        Ok(Request::Allocate { size, align, reply }) => {
            chunk(arena, requests, size, align, reply, code)
        }
        Ok(Request::Finalize { reply }) => (End::Finalized(reply), Ok(())),
        Err(_) => (End::Gone, Ok(())),
    };
    let mut thread = match arena.attach() {
        Ok(thread) => thread,
        Err(error) => {
            drop(reply.send(Err(io::Error::other(error))));
            return next(requests, code);
        }
    };
    let mut scope = thread.write();
    // The least alignment that functions have, so that few bytes are skipped.
    let layout = CodeLayout::new(size.max(CHUNK)).align(align.max(64));
    let opened = scope.reserve(layout).map_err(io::Error::other).and_then(|mut place| {
        scope.bytes(&mut place).map_err(io::Error::other)?.as_mut_ptr().expose_provenance();
        Ok(place)
    });
    let mut place = match opened {
        Ok(place) => place,
        Err(error) => {
            drop(scope);
            drop(reply.send(Err(error)));
            return next(requests, code);
        }
    };
    let (start, len) = (place.entry(), place.len());
    let mut used = size;
    drop(reply.send(Ok(start)));
    let (end, mut result) = loop {
        match requests.recv() {
            Ok(Request::Finalize { reply }) => break (End::Finalized(reply), Ok(())),
            Err(_) => break (End::Gone, Ok(())),
            Ok(Request::Allocate { size, align, reply }) => {
                match fit(start, len, used, size, align) {
                    Some(at) => {
                        used = at + size - start;
                        drop(reply.send(Ok(at)));
                    }
                    None => break chunk(arena, requests, size, align, reply, code),
                }
            }
        }
    };
    if used < len && used > 0 {
        // Gives the rest back. If that is refused it is just not given back.
        let _ = scope.shrink(&mut place, used, 0);
    }
    drop(scope);
    if matches!(end, End::Finalized(_)) {
        match thread.publish(place) {
            Ok(executor) => code.push(executor),
            Err(error) => result = Err(io::Error::other(error.to_string())),
        }
    }
    (end, result)
}
