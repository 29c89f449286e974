//! What models start from: an arena on a simulated machine.

use std::sync::Arc;

use jit_arena::platform::Platform;
use jit_arena::platform::model::{Machine, Options, spawn};
use jit_arena::{Arena, Builder, CodeLayout, Executor, GRANULE, Strategy, ThreadHandle};

use crate::thread::JoinHandle;

/// A simulated machine and an arena on it, made before any thread is.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The machine.
    pub machine: Arc<Machine>,
    /// The arena.
    pub arena: Arena,
    /// Bytes mapped by an arena at rest.
    mapped: usize,
}

/// Length of the code that models install: with its header, one granule.
pub(crate) const CODE: usize = 40;

impl Setup {
    /// An arena of one code page under a strategy.
    #[must_use]
    pub fn new(strategy: Strategy) -> Self {
        Self::with(strategy, 8192, 1)
    }

    /// An arena of `pages` code pages of `code_page` bytes.
    ///
    /// # Panics
    ///
    /// If the simulated machine does not take the strategy.
    #[must_use]
    pub fn with(strategy: Strategy, code_page: usize, pages: usize) -> Self {
        Self::on(strategy, code_page, pages, Options::default(), |builder| builder)
    }

    /// As [`new`](Self::new), on a machine whose words may be read while they
    /// are written.
    #[must_use]
    pub fn peeking(strategy: Strategy) -> Self {
        let options = Options { peeks: true, ..Options::default() };
        Self::on(strategy, 8192, 1, options, |builder| builder)
    }

    /// As [`peeking`](Self::peeking); lookups announce themselves at once.
    #[must_use]
    pub fn announcing(strategy: Strategy) -> Self {
        let options = Options { peeks: true, ..Options::default() };
        Self::on(strategy, 8192, 1, options, |builder| builder.lookup_looks(0))
    }

    /// An arena on a machine like this.
    ///
    /// # Panics
    ///
    /// If the simulated machine does not take the strategy.
    #[must_use]
    pub fn on(
        strategy: Strategy,
        code_page: usize,
        pages: usize,
        options: Options,
        configure: impl FnOnce(Builder) -> Builder,
    ) -> Self {
        let machine = Machine::new(Options {
            jit: strategy == Strategy::MapJit,
            allow_wx: strategy == Strategy::SinglePkey,
            coherent: strategy != Strategy::MapJit,
            ..options
        });
        let platform: Arc<dyn Platform> = machine.clone();
        let builder = Arena::builder();
        let builder = builder.reserve(code_page * pages).code_page(code_page).strategy(strategy);
        let arena = configure(builder)
            .build_on(platform)
            .expect("the simulated machine has what every strategy needs");
        let mapped = machine.mapped();
        Self { machine, arena, mapped }
    }

    /// Attaches the calling thread.
    ///
    /// # Panics
    ///
    /// If it cannot be.
    #[must_use]
    pub fn attach(&self) -> ThreadHandle {
        self.arena.attach().expect("no thread is exiting")
    }

    /// Starts a thread that inherits the caller's rights.
    pub fn spawn<T: Send + 'static>(
        &self,
        body: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let setup = self.clone();
        spawn(&self.machine, move || body(&setup))
    }

    /// Runs the code at `addr`, which [`install`] put there, and returns what
    /// it is.
    #[must_use]
    pub fn run(&self, addr: usize) -> u64 {
        self.machine.run(addr, CODE)
    }

    /// Checks every invariant of the arena; nobody uses it.
    ///
    /// # Panics
    ///
    /// If one is broken.
    pub fn verify(&self) {
        if let Err(broken) = self.arena.verify() {
            panic!("{broken}");
        }
        assert_eq!(self.machine.mapped(), self.mapped, "[W1] a window was left mapped");
        assert!(!self.machine.rights().may_write(), "[W2] a scope left its rights open");
    }
}

/// Installs code that runs as `id`.
///
/// # Panics
///
/// If there is no room.
pub(crate) fn install(thread: &mut ThreadHandle, id: u64) -> Executor {
    try_install(thread, id).expect("there is room")
}

/// As [`install`], where another thread may have all room for a moment.
pub(crate) fn try_install(thread: &mut ThreadHandle, id: u64) -> Option<Executor> {
    let mut code = [0x90; CODE];
    code[..8].copy_from_slice(&id.to_le_bytes());
    thread.install(&code, &[]).ok()
}

/// Installs code that runs as `id` and takes `granules`, of which only the
/// first is written.
///
/// # Panics
///
/// If there is no room.
pub(crate) fn install_long(thread: &mut ThreadHandle, id: u64, granules: usize) -> Executor {
    let layout = CodeLayout::new(granules * GRANULE - HEADER);
    let mut place = thread.reserve(layout).expect("there is room");
    thread.write().write_at(&mut place, 0, &id.to_le_bytes()).expect("it is ours");
    thread.publish(place).expect("it was written")
}

/// Bytes in front of every entry.
const HEADER: usize = 16;
