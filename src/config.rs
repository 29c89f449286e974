//! Everything a client can set, with unit, default and range.

use std::env;
use std::sync::Arc;

use crate::arch;
use crate::arena::Arena;
use crate::error::BuildError;
use crate::lookup::LOOKS;
use crate::platform::{self, Platform};
use crate::pressure::{Pressure, Watch};
use crate::protect::Strategy;
use crate::region::RegionRequest;
use crate::tools::{Tool, Tools};
use crate::units::{GRANULE, KIB, MIB};

/// Name of the environment variable that overrides the default strategy.
pub const STRATEGY_VARIABLE: &str = "JIT_ARENA_STRATEGY";

/// Largest region, in bytes: what a direct branch of x86-64 spans.
const MAX_RESERVE: usize = 2048 * MIB;

/// Largest code page, in bytes: a word has a bit for each of its 4 KiB system
/// pages.
const MAX_CODE_PAGE: usize = 256 * KIB;

/// Smallest code page, in bytes: one word of granules.
const MIN_CODE_PAGE: usize = 64 * GRANULE;

/// Sets an [`Arena`] up.
///
/// # Examples
///
/// ```
/// use jit_arena::{Arena, Strategy};
///
/// # fn main() -> Result<(), jit_arena::BuildError> {
/// let arena = Arena::builder()
///     .reserve(64 << 20)
///     .strategy(Strategy::DualTransient)
///     .name("my-jit")
///     .build()?;
/// assert_eq!(arena.span().len, 64 << 20);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Builder {
    reserve: usize,
    code_page: usize,
    keep_free: usize,
    near: Option<usize>,
    strategy: Option<Strategy>,
    huge_pages: bool,
    anonymous: bool,
    random_placement: bool,
    name: String,
    branch_reach: usize,
    tools: Tools,
    code_budget: usize,
    watches: Vec<Watch>,
    lookup_looks: usize,
    forks: bool,
    sealed: bool,
}

/// What the arena keeps of its [`Builder`].
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) code_page: usize,
    pub(crate) keep_free: usize,
    pub(crate) branch_reach: usize,
    pub(crate) tools: Tools,
    pub(crate) code_budget: usize,
    pub(crate) watches: Vec<Watch>,
    pub(crate) lookup_looks: usize,
    pub(crate) forks: bool,
    pub(crate) sealed: bool,
    /// Says in which order code pages are used; 0 is by address.
    pub(crate) page_order: u64,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            reserve: if cfg!(target_arch = "aarch64") { 128 * MIB } else { 256 * MIB },
            code_page: 64 * KIB,
            keep_free: 64 * KIB,
            near: None,
            strategy: None,
            huge_pages: false,
            anonymous: false,
            random_placement: false,
            name: "jit-arena".to_owned(),
            branch_reach: arch::BRANCH_REACH,
            tools: Tools::default(),
            code_budget: usize::MAX,
            watches: Vec::new(),
            lookup_looks: LOOKS,
            forks: true,
            sealed: false,
        }
    }
}

impl Builder {
    /// Address space to reserve, in bytes: the most code that can ever live.
    ///
    /// A whole number of code pages, at most 2 GiB. Default: 256 MiB, and
    /// 128 MiB on aarch64, whose direct branches reach no farther. Costs
    /// address space (once a view, and that of the guards around it), not memory.
    #[must_use]
    pub fn reserve(mut self, bytes: usize) -> Self {
        self.reserve = bytes;
        self
    }

    /// Size of a code page, in bytes: the unit that is counted.
    ///
    /// A power of two from the system page (at least 4 KiB) to 256 KiB.
    /// Default: 64 KiB.
    #[must_use]
    pub fn code_page(mut self, bytes: usize) -> Self {
        self.code_page = bytes;
        self
    }

    /// Free memory to keep for the next installs before code pages that have
    /// emptied go back to the system, in bytes. Default: 64 KiB. The arena learns
    /// from the workload whether to keep more.
    #[must_use]
    pub fn keep_free(mut self, bytes: usize) -> Self {
        self.keep_free = bytes;
        self
    }

    /// Address the region should lie near, so that direct branches reach it.
    /// A wish: [`Arena::span`] says what became of it.
    #[must_use]
    pub fn near(mut self, address: usize) -> Self {
        self.near = Some(address);
        self
    }

    /// Protection strategy to use, and no other.
    ///
    /// Default: the best the machine has, or the one that the environment
    /// variable `JIT_ARENA_STRATEGY` names.
    #[must_use]
    pub fn strategy(mut self, strategy: Strategy) -> Self {
        self.strategy = Some(strategy);
        self
    }

    /// Whether memory that is committed in whole blocks of a huge page's size
    /// (2 MiB on x86-64) is moved into huge pages, in the view that runs and,
    /// where that lasts, in the one that is written. Default: no.
    ///
    /// A wish: where the system grants none, or the strategy cannot use them,
    /// the arena works as without, [`Report::huge_pages`](crate::Report) says
    /// why, and [`Stats::huge_bytes`](crate::Stats) stays 0. Building takes a
    /// trial of some milliseconds; each block takes about as long when it has
    /// been committed, once until all of it has gone back. Nothing more is
    /// committed than without.
    #[must_use]
    pub fn huge_pages(mut self, wanted: bool) -> Self {
        self.huge_pages = wanted;
        self
    }

    /// Name of the memory in the process's maps, where the system shows one.
    /// Default: `jit-arena`.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// Takes anonymous memory, if it can be had, in place of a memory file. perf
    /// reads perf maps only for code in such memory. Default: no.
    #[must_use]
    pub fn anonymous(mut self, anonymous: bool) -> Self {
        self.anonymous = anonymous;
        self
    }

    /// Whether where code lies is left to chance, beyond what the system does.
    /// Default: no.
    ///
    /// The region and, where there is one that lasts, its writable view are then
    /// anywhere in the address space, not beside what was mapped before them, so
    /// that no address of one tells where the other is; within branch reach of
    /// [`near`](Self::near), if that is set. And code pages are used in an order of
    /// the arena's own, not by address. Building looks at the process's mappings
    /// once a view; installs and drops run the same code as without. Forked
    /// children have their parent's places. On macOS, views are where the system
    /// puts them.
    #[must_use]
    pub fn random_placement(mut self, random: bool) -> Self {
        self.random_placement = random;
        self
    }

    /// A tool to tell of named code; several can be given. Default: none. See
    /// [`Tool`].
    #[must_use]
    pub fn tool(mut self, tool: Arc<dyn Tool>) -> Self {
        self.tools.add(tool);
        self
    }

    /// The most code memory to hold from the system, in bytes. What would take
    /// more is refused with
    /// [`ReserveError::OverBudget`](crate::ReserveError::OverBudget). Default: as
    /// much as is [reserved](Self::reserve).
    #[must_use]
    pub fn code_budget(mut self, bytes: usize) -> Self {
        self.code_budget = bytes;
        self
    }

    /// Calls `tell` when code memory of this kind comes to be more than `limit`
    /// bytes, with how many there are; again only once it was down to seven
    /// eighths of that. Threads that pass it at the same time may be told of
    /// twice. May be given several times.
    ///
    /// It is called by whichever thread passes the limit, in the middle of an
    /// install or a drop: it must not use the arena, block or panic. Setting a
    /// flag or waking a thread is what it is for.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::Arc;
    /// use std::sync::atomic::{AtomicBool, Ordering};
    ///
    /// use jit_arena::{Arena, Pressure};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let tight = Arc::new(AtomicBool::new(false));
    /// let flag = Arc::clone(&tight);
    /// let arena = Arena::builder()
    ///     .code_budget(64 << 10)
    ///     .on_pressure(Pressure::Committed, 48 << 10, move |_, _| {
    ///         flag.store(true, Ordering::Relaxed);
    ///     })
    ///     .build()?;
    /// let mut thread = arena.attach()?;
    /// let mut cache = Vec::new();
    /// for _ in 0..1000 {
    ///     cache.push(thread.install(&[0xC3; 1000], &[])?);
    ///     if tight.swap(false, Ordering::Relaxed) {
    ///         cache.truncate(cache.len() / 4); // what can be compiled anew
    ///         thread.collect();
    ///     }
    /// }
    /// assert!(arena.stats().committed_bytes <= 64 << 10);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn on_pressure(
        mut self,
        of: Pressure,
        limit: usize,
        tell: impl Fn(Pressure, usize) + Send + Sync + 'static,
    ) -> Self {
        self.watches.push(Watch::new(of, limit, Arc::new(tell)));
        self
    }

    /// Whether forked children go on with the arena. Default: yes.
    ///
    /// They then get a copy of what is committed, made while fork(2) runs: parent
    /// and child both run, install and free code as before, and neither sees what
    /// the other writes. Meanwhile nothing is recycled in the parent. vfork(2),
    /// posix_spawn(3) and what they are the basis of copy nothing.
    ///
    /// Saying no is for programs whose children do nothing but exec(3) or
    /// _exit(2): forks cost them next to nothing, and the child has no code memory; it
    /// faults if it runs code, and what it installs is refused. See "fork" in the
    /// [crate's documentation](crate#fork).
    #[must_use]
    pub fn forks(mut self, forks: bool) -> Self {
        self.forks = forks;
        self
    }

    /// Whether the views are sealed (mseal(2), Linux 6.10): until the process ends
    /// nobody in it can unmap, move or replace them or change their rights, the
    /// arena included. Default: no.
    ///
    /// So an arena that is dropped gives its memory back and keeps its address
    /// space, its key and its descriptor, and forked children have nothing of it,
    /// as with [`forks(false)`](Self::forks). Under
    /// [`Strategy::Mprotect`], which changes rights, under
    /// [`Strategy::DualTransient`] over [anonymous](Self::anonymous) memory, which is
    /// mapped again for each window, and where the kernel does not know the call,
    /// building fails. Should it refuse one view after it has sealed another, the
    /// arena that fails to be built leaves its mappings, its key and its descriptor:
    /// what is sealed cannot be undone.
    #[must_use]
    pub fn sealed(mut self, sealed: bool) -> Self {
        self.sealed = sealed;
        self
    }

    /// Bytes that branches are taken to reach. For tests of large regions on
    /// machines whose branches reach all of theirs.
    #[doc(hidden)]
    #[must_use]
    pub fn branch_reach(mut self, bytes: usize) -> Self {
        self.branch_reach = bytes.min(arch::BRANCH_REACH);
        self
    }

    /// Times a lookup looks before it announces itself. For tests of that, which
    /// otherwise takes a lot in each look.
    #[doc(hidden)]
    #[must_use]
    pub fn lookup_looks(mut self, looks: usize) -> Self {
        self.lookup_looks = looks;
        self
    }

    /// Builds the arena. Makes system calls.
    ///
    /// # Errors
    ///
    /// An option out of range, an unknown strategy in the environment, or no
    /// strategy that works here: the error lists each that was tried with the
    /// reason of its refusal. Nothing is left mapped.
    pub fn build(self) -> Result<Arena, BuildError> {
        self.build_on(platform::native())
    }

    /// Builds the arena on a machine of the caller's: the simulated one, or
    /// one that fails. For model checking and fault injection.
    ///
    /// # Errors
    ///
    /// As [`build`](Self::build).
    #[doc(hidden)]
    pub fn build_on(self, platform: Arc<dyn Platform>) -> Result<Arena, BuildError> {
        let system_page = platform.system_page();
        let smallest = MIN_CODE_PAGE.max(system_page);
        let page = check("code_page", self.code_page, smallest, MAX_CODE_PAGE)?;
        if !page.is_power_of_two() {
            return Err(BuildError::Unaligned { option: "code_page", value: page, unit: 0 });
        }
        let reserve = check("reserve", self.reserve, page, MAX_RESERVE)?;
        if !reserve.is_multiple_of(page) {
            return Err(BuildError::Unaligned { option: "reserve", value: reserve, unit: page });
        }
        let strategy = match (self.strategy, env::var(STRATEGY_VARIABLE)) {
            (Some(strategy), _) => Some(strategy),
            (None, Ok(name)) if !name.is_empty() => Some(name.parse()?),
            (None, _) => None,
        };
        let draw = || platform.random().map_err(BuildError::Random);
        let (seeds, page_order) =
            if self.random_placement { (Some([draw()?, draw()?]), draw()?) } else { (None, 0) };
        let request = RegionRequest {
            name: &self.name,
            reserve,
            near: self.near,
            strategy,
            seeds,
            huge_pages: self.huge_pages,
            anonymous: self.anonymous,
        };
        if self.branch_reach == 0 || !self.branch_reach.is_multiple_of(page) {
            let value = self.branch_reach;
            return Err(BuildError::Unaligned { option: "branch_reach", value, unit: page });
        }
        let config = Config {
            code_page: page,
            keep_free: self.keep_free,
            branch_reach: self.branch_reach,
            tools: self.tools,
            code_budget: self.code_budget,
            watches: self.watches,
            lookup_looks: self.lookup_looks,
            forks: self.forks,
            sealed: self.sealed,
            page_order,
        };
        Arena::create(platform, &request, config)
    }
}

fn check(option: &'static str, value: usize, min: usize, max: usize) -> Result<usize, BuildError> {
    if (min..=max).contains(&value) {
        Ok(value)
    } else {
        Err(BuildError::OutOfRange { option, value, min, max })
    }
}
