//! fork: parent and child both go on running, installing and freeing code, and
//! neither sees what the other writes.
//!
//! The views are shared memory, so without more a child would run its parent's
//! code as that is recycled. Threads other than the one that forks are not in
//! the child, at whatever they were doing; what they had is adopted there.
//!
//! ```text
//!             prepare                  fork              parent
//!  parent ──▶ gate closed, lots   ──▶   │ ──▶ copies what is committed ──▶ gate
//!             over, fresh memory        │     into the fresh memory        open
//!             mapped for staging        │               │ done
//!  child                                └──▶ waits ─────▼──▶ fresh memory in the
//!                                            place of the views; books put in
//!                                            order (see child.rs)
//! ```
//!
//! *Why the parent copies, after the fork.* The child must get everything that
//! was published when it came to be, so the copy can be made only after that;
//! until it is made nothing may be recycled, which is the parent's to hold off.
//! A parent that waited for its child would hang when that is stopped or killed.
//! Here it waits for nobody; the child waits for its parent, and if that ends
//! meanwhile, so that nothing can change any more, copies by itself from the
//! views it inherited. A parent that is silent for too long and not known to have
//! ended has become another program or is stopped; it may go on, so its child does
//! without, `[F3]`.
//!
//! *Why a cut is enough.* The child's books are a copy of the parent's, taken
//! page by page while other threads write. The kernel write-protects each page,
//! and no thread's later writes reach the child once one was held up, so what
//! the child has of each thread is a beginning of what it did, and of two
//! writes of which one came after the other never the later alone. Every
//! moment is legal for a lock-free structure; what was begun and not finished is
//! found by comparing the books with each other ([`mod@child`]).
//!
//! Owns: `[F1]`, `[F2]`, `[F3]`. Sources: pthread_atfork(3), fork(2).

use core::cell::{Cell, UnsafeCell};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, Ordering};
use core::time::Duration;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::Instant;

use crate::arena::Shared;
use crate::platform::{ForkHandlers, OsResult, Platform, SignalsHeldBack};
use crate::protect::Fresh;

mod child;
mod control;
mod gate;
mod renewable;
pub(crate) mod strays;

pub(crate) use child::{Inherited, resolved};
pub(crate) use gate::Gate;
pub(crate) use renewable::Renewable;

use control::Control;

/// Longest that a fork waits for lots under way. One takes milliseconds; one
/// that takes longer waits for a lock that this thread has.
const PATIENCE: Duration = Duration::from_secs(30);

/// An arena that children get a copy of, or are to have nothing of.
struct Member(NonNull<Shared>);

// SAFETY: `Shared` is Sync, and leaves the list before it is freed.
unsafe impl Send for Member {}

impl Member {
    fn get(&self) -> &Shared {
        // SAFETY: on the list, and so alive: `forget` waits for the lock.
        unsafe { self.0.as_ref() }
    }
}

/// The arenas of this process.
static MEMBERS: Mutex<Vec<Member>> = Mutex::new(Vec::new());

/// The process that registers the handlers now, or one of these.
static REGISTRAR: AtomicU32 = AtomicU32::new(NOBODY);
const NOBODY: u32 = 0;
const IS_DONE: u32 = u32::MAX;

/// The fork under way. Whoever has `MEMBERS` locked has it.
struct UnderWay(UnsafeCell<Option<Forking>>);

// SAFETY: accessed by the thread that holds the lock only.
unsafe impl Sync for UnderWay {}

static UNDER_WAY: UnderWay = UnderWay(UnsafeCell::new(None));

/// From before a fork to after it.
struct Forking {
    /// Held back meanwhile: no handler of the client's runs code in a child that is
    /// not yet its own.
    signals: SignalsHeldBack,
    /// Locked meanwhile: no arena comes or goes, and one fork is at a time.
    members: MutexGuard<'static, Vec<Member>>,
    /// As many as there are arenas, in their order; none for those that children are
    /// to have nothing of.
    plans: Vec<Option<Plan>>,
    control: Option<Control>,
    parent: i32,
}

/// What is to become of an arena in the child.
struct Plan {
    /// Whether nobody was recycling when the fork came.
    is_quiet: bool,
    /// For shared memory that is not lost.
    fresh: Option<OsResult<Fresh>>,
}

fn lock() -> MutexGuard<'static, Vec<Member>> {
    MEMBERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Holds forks off where the machine forks, and all who make or free an arena: no
/// child has one that nobody there knows of.
pub(crate) struct ForksHeldOff(Option<MutexGuard<'static, Vec<Member>>>);

impl ForksHeldOff {
    /// Waits for a fork under way.
    ///
    /// # Errors
    ///
    /// No handlers could be registered.
    pub(crate) fn new(platform: &dyn Platform) -> OsResult<Self> {
        if !platform.forks() {
            return Ok(Self(None));
        }
        register(platform)?;
        Ok(Self(Some(lock())))
    }

    /// Has children get a copy of an arena's memory from now on, or let go of what
    /// they inherit.
    pub(crate) fn watch(mut self, shared: NonNull<Shared>) {
        if let Some(members) = &mut self.0 {
            members.push(Member(shared));
        }
    }

    /// An arena is about to be freed. Waits for a fork under way.
    pub(crate) fn forget(shared: NonNull<Shared>) -> Self {
        let mut members = lock();
        let known = members.iter().position(|member| member.0 == shared);
        Self(known.map(|at| {
            members.remove(at);
            members
        }))
    }
}

/// Registers the handlers, once.
///
/// Not with the arenas locked: a fork that comes meanwhile has no handler of ours to
/// wait for that, and its child would find them locked for good.
fn register(platform: &dyn Platform) -> OsResult<()> {
    let own = std::process::id();
    loop {
        // Relaxed, here and below: handlers are the system's to publish.
        match REGISTRAR.compare_exchange(NOBODY, own, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => {
                let registered = platform.on_fork(ForkHandlers { prepare, parent, child });
                let now = if registered.is_ok() { IS_DONE } else { NOBODY };
                REGISTRAR.store(now, Ordering::Relaxed);
                return registered;
            }
            Err(IS_DONE) => return Ok(()),
            Err(other) if other == own => std::thread::yield_now(),
            Err(parent) => {
                // This process was forked before the thread that does it was done.
                let _ = REGISTRAR.compare_exchange(
                    parent,
                    NOBODY,
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                );
            }
        }
    }
}

/// Takes the fork under way out.
fn under_way() -> Option<Forking> {
    if !FORKS.replace(false) {
        return None;
    }
    // SAFETY: called between `prepare` and the handlers after the fork, on the
    // thread that holds the lock.
    unsafe { (*UNDER_WAY.0.get()).take() }
}

thread_local! {
    /// Whether the thread forks: handlers that a child registered once more, since the
    /// thread that was about to was lost in its fork, are to do nothing.
    static FORKS: Cell<bool> = const { Cell::new(false) };
}

extern "C" fn prepare() {
    // Registered, whatever became of the thread that did it.
    REGISTRAR.store(IS_DONE, Ordering::Relaxed);
    if FORKS.replace(true) {
        return;
    }
    let signals = SignalsHeldBack::new();
    let members = lock();
    let plan = |shared: &Shared| (!shared.is_kept_from_children()).then(|| plan(shared));
    let plans = members.iter().map(|member| plan(member.get())).collect::<Vec<_>>();
    let has_shared = plans.iter().flatten().any(|plan| plan.fresh.is_some());
    let platform = members.first().map(|member| member.get().region.platform());
    let control = platform.filter(|_| has_shared).and_then(|on| Control::new(on, plans.len()));
    let parent = platform.map_or(0, |platform| platform.process_and_parent().0);
    let forking = Forking { signals, members, plans, control, parent };
    // SAFETY: this thread has the lock.
    unsafe { *UNDER_WAY.0.get() = Some(forking) };
}

/// Closes an arena's gate and makes what its child needs.
fn plan(shared: &Shared) -> Plan {
    shared.gate.close();
    let begun = Instant::now();
    // Once is enough: who comes from now on goes again at once.
    let is_quiet = loop {
        match shared.gate.is_empty() {
            false if begun.elapsed() < PATIENCE => std::thread::yield_now(),
            is_empty => break is_empty,
        }
    };
    let region = &shared.region;
    // What is lost here is lost in children too: no memory makes up for what was in it.
    let wants = region.protection().is_shared() && shared.lost.get().is_none();
    let fresh = wants.then(|| region.fresh(shared.report.memory));
    Plan { is_quiet, fresh }
}

extern "C" fn parent() {
    let Some(forking) = under_way() else { return };
    // Dropped last.
    let Forking { signals: _signals, members, plans, control, .. } = forking;
    let mut fresh = Vec::new();
    for (at, (member, plan)) in members.iter().zip(plans).enumerate() {
        let (shared, Some(plan)) = (member.get(), plan) else { continue };
        if let Some(Ok(one)) = plan.fresh {
            // Without a word of it to the child there is no use in a copy.
            if let Some(control) = &control
                && copy(shared, &one, || control.show_life()).is_ok()
            {
                control.set_copied(at);
            }
            fresh.push((shared, one));
        }
        if shared.lost.get().is_none() {
            shared.gate.open();
        }
    }
    if let Some(control) = &control {
        control.set_done();
    }
    for (shared, one) in fresh {
        one.finish(shared.region.platform(), false);
    }
    finish(control, &members);
}

extern "C" fn child() {
    let Some(forking) = under_way() else { return };
    // Dropped last.
    let Forking { signals: _signals, members, plans, control, parent } = forking;
    let platform = members.first().map(|member| member.get().region.platform());
    // What is the parent's to copy is copied, or the parent is no more, or not itself.
    let waited = match (&control, platform) {
        (Some(control), Some(platform)) => await_parent(control, platform, parent),
        _ => Waited::Done,
    };
    let parent_is_gone = waited == Waited::Ended;
    for (at, (member, plan)) in members.iter().zip(plans).enumerate() {
        let shared = member.get();
        let Some(plan) = plan else {
            // SAFETY: as below, and its views were kept out of it.
            unsafe { child::forgo(member.0) };
            continue;
        };
        let fresh = plan.fresh.and_then(|fresh| {
            let fresh = fresh.ok()?;
            let is_copied = control.as_ref().is_some_and(|control| control.is_copied(at));
            // Nobody writes any more what the parent's threads wrote.
            let is_whole = is_copied || (parent_is_gone && copy(shared, &fresh, || {}).is_ok());
            if is_whole {
                return Some(fresh);
            }
            fresh.finish(shared.region.platform(), false);
            None
        });
        // SAFETY: [F2] in a child just forked this thread is all there is.
        unsafe { child::settle(member.0, fresh, plan.is_quiet) };
    }
    finish(control, &members);
}

fn finish(control: Option<Control>, members: &[Member]) {
    let platform = members.first().map(|member| member.get().region.platform());
    if let (Some(control), Some(platform)) = (control, platform) {
        control.release(platform);
    }
}

/// Copies what is committed, whoever writes there meanwhile: what was published
/// when the fork came does not change before the gate opens, `[F1]`. System
/// calls.
fn copy(shared: &Shared, fresh: &Fresh, show_life: impl Fn()) -> OsResult<()> {
    /// Bytes between two signs of life.
    const STRETCH: usize = 1 << 20;
    let platform = shared.region.platform();
    let start = shared.region.span().start;
    for span in shared.pages.resident_spans() {
        for from in (span.start..span.end()).step_by(STRETCH) {
            let len = STRETCH.min(span.end() - from);
            let to = fresh.staging_at(from - start);
            // SAFETY: inside the staging view, which is ours.
            unsafe { platform.populate(to, len) }?;
            // SAFETY: present, in the executable view and in the staging view.
            unsafe { platform.copy_racing(from, to, len) };
            show_life();
        }
    }
    Ok(())
}

/// What came of waiting for the parent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Waited {
    Done,
    /// It ended before.
    Ended,
    /// It does nothing, and is there for all that is known: it has become another
    /// program, or it is stopped and may go on at any moment.
    InVain,
}

/// Waits until the parent is done, as long as it shows signs of life.
fn await_parent(control: &Control, platform: &dyn Platform, parent: i32) -> Waited {
    /// How long a parent may be silent.
    const SILENCE: Duration = Duration::from_secs(10);
    // By what this thread slept, not by a clock: who stops a parent may stop its child
    // as well.
    let (mut pause, mut silent) = (Duration::from_micros(20), Duration::ZERO);
    let mut signs = control.signs_of_life();
    while !control.is_done() {
        let now = platform.process_and_parent().1;
        // Somebody else's child by now. In a process namespace of its own it is nobody's,
        // whether its parent lives or not.
        let over = if now != parent && now != 0 {
            Some(Waited::Ended)
        } else if control.signs_of_life() != signs {
            (signs, silent) = (control.signs_of_life(), Duration::ZERO);
            None
        } else if silent > SILENCE {
            Some(Waited::InVain)
        } else {
            None
        };
        if let Some(over) = over {
            // What it did last counts.
            return if control.is_done() { Waited::Done } else { over };
        }
        sleep(pause);
        silent += pause;
        pause = (pause * 2).min(Duration::from_millis(1));
    }
    Waited::Done
}
