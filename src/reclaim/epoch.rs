//! The scheme of every normal build: crossbeam-epoch.
//!
//! Each arena has its own collector, never the global one: one arena's
//! sleeping thread holds up no other arena, a forked child can start afresh,
//! and a failing model does not take the whole process down with it.
//!
//! Source: the documentation of crossbeam-epoch's `Guard`.

use crossbeam_epoch as crossbeam;

use crate::sync::{Ordering, fence, mutant};

/// One arena's reclaimer.
pub(crate) struct Collector(crossbeam::Collector);

impl Collector {
    /// A collector without participants.
    pub(crate) fn new() -> Self {
        Self(crossbeam::Collector::new())
    }

    /// Makes the calling thread a participant. Lock-free.
    pub(crate) fn register(&self) -> Local {
        Local(self.0.register())
    }
}

/// One attached thread's part in the scheme; stays on that thread.
pub(crate) struct Local(crossbeam::LocalHandle);

impl Local {
    /// Keeps everything that is published now, or later while the pin is
    /// alive, from being recycled. Wait-free; may run other threads' hand
    /// overs.
    #[inline]
    pub(crate) fn pin(&self) -> Pin {
        Pin(self.0.pin())
    }

    /// Whether a pin of this thread is alive.
    #[cfg(test)]
    pub(crate) fn is_pinned(&self) -> bool {
        self.0.is_pinned()
    }
}

/// While alive, what this thread may be running is not recycled. Pins nest;
/// each may outlive the [`Local`] it came from.
pub(crate) struct Pin(crossbeam::Guard);

impl Pin {
    /// Ends this pin and starts a new one in its place, if it is the thread's
    /// only one; otherwise does nothing.
    #[inline]
    pub(crate) fn repin(&mut self) {
        self.0.repin();
        // SeqCst [E1]: pairs with the fence of whoever takes an executor out of
        // reach and then seals its batch. `Guard::repin` has none, so what is
        // loaded after it may be older than the epoch that it joins.
        fence(Ordering::SeqCst);
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
    #[inline]
    pub(crate) unsafe fn defer(&self, handover: impl FnOnce() + Send + 'static) {
        if mutant("no-grace-period") {
            return handover();
        }
        // SAFETY: the closure is `Send + 'static`, so that it may run on any
        // thread at any time; the rest is the caller's promise.
        unsafe { self.0.defer_unchecked(handover) }
    }

    /// Pushes what this thread has deferred to where others can run it, and
    /// runs what is due. Lock-free.
    #[inline]
    pub(crate) fn flush(&self) {
        self.0.flush();
    }
}
