//! Code memory for multi-threaded JITs.
//!
//! Any thread installs machine code without a lock, and on machines with
//! protection keys usually without a system call (some commit memory or
//! synchronise cores, for many installs at once); with the strategies that are
//! chosen by default on Linux no mapping is ever writable and executable, see
//! [`Strategy::never_wx`]; code is freed safely while other threads run it; and
//! many small executors share pages with almost no waste. DESIGN.md, section 9,
//! says which operation is wait-free, which is lock-free, and what each does now
//! and then.
//!
//! The path of one executor, and where to read about each step:
//!
//! 1. An [`Arena`] reserves a [`region`](Arena::span) of address space and
//!    shows its memory twice: an executable view for all, and a writable view
//!    as the [`Strategy`] has it.
//! 2. A thread [`attach`](Arena::attach)es and
//!    [`reserve`](ThreadHandle::reserve)s: a bump in its private claim, a run
//!    of 64-byte granules on a shared 64 KiB code page. The address is known
//!    from here on.
//! 3. Inside a [`WriteScope`] it writes code and data.
//! 4. It [`publish`](ThreadHandle::publish)es, and usually puts the
//!    [`Executor`] into a [`Slot`].
//! 5. Other threads [`pin`](ThreadHandle::pin), [`load`](Slot::load) and call.
//! 6. The last handle is dropped, anywhere: the executor is retired, and once
//!    nobody can be running it its bytes are filled with traps and become a
//!    hole that the next claims use. A page whose live count is zero is free
//!    as a whole, and past a watermark goes back to the system.
//!
//! # fork
//!
//! After fork(2) the child has the arena as it was at that moment, over memory of
//! its own at the same addresses, and its thread's handles, guards, reservations,
//! open write scopes and executors that it is inside of. Other threads' are not
//! there: what they had is free, but for executors that they owned, which live on
//! without an owner. fork(2) is called neither from a signal handler that may have
//! interrupted the arena nor from the arena's callbacks nor from a thread-local
//! destructor, where the thread may be in the midst of something. Handlers of
//! pthread_atfork(3) that use arenas are registered after the first one is built. A child that can
//! have no memory goes on without: installs fail with an error that says so
//! (`call` is `fork`), and the code it had faults. See
//! [`Builder::forks`](Builder::forks) for what it costs and how not to pay it.
//!
//! # Examples
//!
//! ```
#![doc = include_str!("../examples/hello_jit.rs")]
//! ```

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
compile_error!("jit-arena knows Linux and macOS; see src/platform for what a port takes");
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("jit-arena knows x86-64 and aarch64; see src/arch for what a port takes");

mod arch;
mod arena;
mod by_address;
mod claim;
mod config;
mod dump;
mod error;
mod evacuation;
mod executor;
mod fork;
mod guard;
mod layout;
mod lookup;
mod page;
#[doc(hidden)]
pub mod platform;
mod pressure;
mod protect;
mod reclaim;
mod region;
mod registry;
mod report;
mod reservation;
mod scope;
mod slot;
mod stats;
mod sync;
mod thread;
mod tools;
mod trampoline;
mod units;
mod verify;

pub use arena::Arena;
pub use by_address::RetireError;
pub use config::{Builder, STRATEGY_VARIABLE};
pub use dump::{Dump, DumpedCode};
pub use error::{
    AttachError, BuildError, InstallError, PublishError, PublishErrorKind, ReserveError, SlotError,
    VerifyError, WriteError,
};
pub use evacuation::NearlyEmpty;
pub use executor::{Entry, Executor};
pub use guard::{Guard, Parked, Running};
pub use layout::CodeLayout;
pub use lookup::CodeInfo;
#[cfg(feature = "model")]
#[doc(hidden)]
pub use page::probe;
pub use platform::OsError;
pub use pressure::Pressure;
pub use protect::{Strategy, UnknownStrategy};
pub use region::RegionError;
pub use report::{Attempt, MemoryKind, Outcome, Report};
pub use reservation::Reservation;
pub use scope::WriteScope;
pub use slot::Slot;
pub use stats::Stats;
pub use thread::ThreadHandle;
pub use tools::{Line, Symbol, Tool};
pub use trampoline::{Trampoline, TrampolineError};
pub use units::{GRANULE, MAX_ALIGN, MAX_EXECUTOR, Span};

/// The README's example, kept true.
#[cfg(all(doctest, target_arch = "x86_64"))]
#[doc = include_str!("../README.md")]
struct Readme;
