//! The most eager legal scheme, for model checking.
//!
//! # What it does
//!
//! One atomic word holds a bit for each participant: set while that thread has
//! a pin. [`Pin::defer`] notes the word beside the deferred hand over: those
//! are its *blockers*. A thread whose last pin ends clears its bit from the
//! word and from the blockers of everything deferred, and runs what has none
//! left, there and then.
//!
//! # Why checking with it covers every legal scheme
//!
//! A scheme is legal if a hand over runs after each pin alive at its `defer`
//! has ended, and if these *happen before* it; it promises nothing else: when
//! it runs, on which thread, or what it synchronises with besides.
//!
//! - *Time.* Here a hand over runs in the step in which its last blocker ends.
//!   No legal scheme can run it before that step. One that runs it later (a
//!   three-epoch scheme does by up to two epochs, and only every so many pins)
//!   only removes interleavings: whatever it lets another thread do with the
//!   memory, that thread may do here in a schedule with the same steps of all
//!   threads and this one moved forward.
//! - *Thread.* The hand over pushes onto a list that any thread may take from,
//!   and carries all it needs. Which thread runs it shows in nothing but the
//!   happens-before edges, and these are next.
//! - *Ordering.* Every access to the word is a read-modify-write, so each
//!   reads the newest value and continues all release sequences before it; the
//!   edges are exactly the two that crossbeam-epoch's contract needs. Whatever
//!   precedes a `defer` (Release) is visible to pins that are not its blockers
//!   (Acquire): what was unpublished cannot be found again. Whatever is done
//!   under a pin (Release at its end) is visible to hand overs it blocked
//!   (Acquire). There is no SeqCst fence, which checkers take for a lock.
//!
//! What it adds are the edges that come with a single word: a pin also sees
//! what threads did before *unrelated* earlier unpins. A missing release store
//! could hide behind such an edge only if the reader could not have pinned
//! before that unpin, and a reader may pin at any time. What it does not show:
//! a fault that needs garbage to *stay*, such as an unbounded backlog. Real
//! crossbeam-epoch is explored as well, to shallower bounds, for these.
//!
//! # Cost and limits
//!
//! One atomic step a pin, an unpin, a defer and a flush. The list of deferred
//! hand overs and the free bits are ghosts: bookkeeping that adds neither steps
//! nor edges. Outside a checker a thread may see the word and the list out
//! of step; a hand over then waits for the next unpin or flush, which is legal.
//! At most 64 participants at a time.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use crate::sync::ghost::Ghost;
use crate::sync::{AtomicU64, Ordering, mutant};

/// A deferred hand over and the participants whose pins it waits for.
struct Deferred {
    blockers: u64,
    handover: Box<dyn FnOnce() + Send>,
}

/// What the participants of a collector share.
struct Shared {
    /// Bit i: participant i has a pin.
    pinned: AtomicU64,
    /// Bit i: there is a participant i.
    taken: Ghost<u64>,
    deferred: Ghost<Vec<Deferred>>,
}

impl Shared {
    /// Ends the blocking of every participant that is not in `pinned`, a value
    /// of the word read after the hand overs it lets go were deferred, and runs
    /// what is due.
    fn run_due(&self, pinned: u64) {
        let due: Vec<Deferred> = self.deferred.with(|deferred| {
            for one in deferred.iter_mut() {
                one.blockers &= pinned;
            }
            deferred.extract_if(.., |one| one.blockers == 0).collect()
        });
        for one in due {
            (one.handover)();
        }
    }

    fn begin(&self, bit: u64) {
        // Acquire: pairs with the Release of `Pin::defer`. What was unpublished
        // before a defer that does not wait for this pin is not found under it.
        if !mutant("pin-does-nothing") {
            self.pinned.fetch_or(bit, Ordering::Acquire);
        }
    }

    fn end(&self, bit: u64) {
        // Release: what this thread did under the pin happens before the hand
        // overs that waited for it, whichever thread runs them. Acquire: pairs
        // with that of the other blockers and with `Pin::defer`, since this
        // thread may be the one.
        let before = self.pinned.fetch_and(!bit, Ordering::AcqRel);
        self.run_due(before & !bit);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        // Nobody is pinned: pins hold `Shared`. Acquire: pairs with all unpins
        // and defers, as in `end`; a read-modify-write, to read the newest.
        self.pinned.fetch_or(0, Ordering::Acquire);
        self.run_due(0);
    }
}

/// One arena's reclaimer.
pub(crate) struct Collector(Arc<Shared>);

impl Collector {
    /// A collector without participants.
    pub(crate) fn new() -> Self {
        Self(Arc::new(Shared {
            pinned: AtomicU64::new(0),
            taken: Ghost::new(0),
            deferred: Ghost::new(Vec::new()),
        }))
    }

    /// Makes the calling thread a participant.
    ///
    /// # Panics
    ///
    /// If there are 64 already.
    pub(crate) fn register(&self) -> Local {
        let index = self.0.taken.with(|taken| {
            let index = taken.trailing_ones();
            assert!(index < u64::BITS, "the eager scheme has room for 64 threads");
            *taken |= 1 << index;
            index
        });
        Local(Rc::new(Participant {
            shared: Arc::clone(&self.0),
            bit: 1 << index,
            pins: Cell::new(0),
        }))
    }
}

/// A participant: its bit, and how many pins it has.
struct Participant {
    shared: Arc<Shared>,
    bit: u64,
    pins: Cell<usize>,
}

impl Drop for Participant {
    fn drop(&mut self) {
        self.shared.taken.with(|taken| *taken &= !self.bit);
    }
}

/// One attached thread's part in the scheme; stays on that thread.
pub(crate) struct Local(Rc<Participant>);

impl Local {
    /// Keeps everything that is published now, or later while the pin is
    /// alive, from being recycled.
    pub(crate) fn pin(&self) -> Pin {
        let pins = self.0.pins.get();
        if pins == 0 {
            self.0.shared.begin(self.0.bit);
        }
        self.0.pins.set(pins + 1);
        Pin(Rc::clone(&self.0))
    }

    /// Whether a pin of this thread is alive.
    #[cfg(test)]
    pub(crate) fn is_pinned(&self) -> bool {
        self.0.pins.get() != 0
    }
}

/// While alive, what this thread may be running is not recycled. Pins nest;
/// each may outlive the [`Local`] it came from.
pub(crate) struct Pin(Rc<Participant>);

impl Pin {
    /// Ends this pin and starts a new one in its place, if it is the thread's
    /// only one; otherwise does nothing.
    pub(crate) fn repin(&mut self) {
        if self.0.pins.get() == 1 {
            self.0.pins.set(0);
            self.0.shared.end(self.0.bit);
            self.0.shared.begin(self.0.bit);
            self.0.pins.set(1);
        }
    }

    /// Runs `handover` after every pin that is alive now, this one included,
    /// is gone: on any thread, perhaps inside a pin, perhaps when the collector
    /// is dropped.
    ///
    /// # Safety
    ///
    /// - What `handover` hands over can no longer be found by a thread that
    ///   pins from now on.
    /// - `handover` does not panic and may run inside any thread's `pin`.
    pub(crate) unsafe fn defer(&self, handover: impl FnOnce() + Send + 'static) {
        let shared = &self.0.shared;
        if mutant("no-grace-period") {
            return handover();
        }
        // Release: what came before, the unpublishing above all, is visible to
        // pins that begin after this point; pairs with `begin`, and with the
        // Acquire of whoever runs the hand over.
        let blockers = shared.pinned.fetch_or(0, Ordering::Release);
        let handover = Box::new(handover);
        shared.deferred.with(|deferred| deferred.push(Deferred { blockers, handover }));
    }

    /// Runs what is due.
    pub(crate) fn flush(&self) {
        // Acquire: pairs with the unpins it sees, as in `end`.
        let pinned = self.0.shared.pinned.fetch_or(0, Ordering::Acquire);
        self.0.shared.run_due(pinned);
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let pins = self.0.pins.get() - 1;
        self.0.pins.set(pins);
        if pins == 0 {
            self.0.shared.end(self.0.bit);
        }
    }
}
