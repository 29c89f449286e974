//! Pressure: limits on code memory that a client sets, and what happens at them.
//!
//! A *budget* is a bound on committed memory: what would pass it is refused
//! ([`ReserveError::OverBudget`](crate::ReserveError)), after everything that
//! can be free has been given back, `[A2]`. A *watch* only tells: its callback
//! runs once when committed or retired bytes pass a limit, and again only after
//! they have fallen to seven eighths of it.
//!
//! Both are looked at where memory is committed, where a batch of dropped
//! executors is handed to the epoch and, for their fall, after a lot: never on
//! the way of one install.

use core::fmt;
use std::sync::Arc;

use crate::arena::Shared;
use crate::page::bitmap::Run;
use crate::platform::OsError;
use crate::sync::{AtomicUsize, Ordering, mutant};

/// Of which memory a limit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Pressure {
    /// [`committed_bytes`](crate::Stats::committed_bytes): held from the system.
    Committed,
    /// [`retired_bytes`](crate::Stats::retired_bytes): of dropped executors that
    /// could not be recycled yet. Much of it tells of a thread that stays
    /// pinned.
    Retired,
}

/// What a watch calls: of which memory, and how many bytes there are.
type Callback = dyn Fn(Pressure, usize) + Send + Sync;

/// A limit and whom to tell.
#[derive(Clone)]
pub(crate) struct Watch {
    of: Pressure,
    limit: usize,
    callback: Arc<Callback>,
    /// 1 from when it was told to when the bytes have fallen.
    above: Arc<AtomicUsize>,
}

impl Watch {
    pub(crate) fn new(of: Pressure, limit: usize, callback: Arc<Callback>) -> Self {
        Self { of, limit, callback, above: Arc::new(AtomicUsize::new(0)) }
    }

    /// Notes that there are, or were a moment ago, so few bytes.
    fn fell(&self, now: usize) {
        // Relaxed: decides only who tells. Seldom written, since all threads read
        // it.
        if now <= self.limit - self.limit / 8 && self.above.load(Ordering::Relaxed) != 0 {
            // Relaxed: as above.
            self.above.store(0, Ordering::Relaxed);
        }
    }

    /// Notes that the bytes went from `before` to `now`.
    fn rose(&self, before: usize, now: usize) {
        self.fell(before.min(now));
        // Relaxed: the read-modify-write makes one caller the first.
        if now > self.limit && self.above.swap(1, Ordering::Relaxed) == 0 {
            (self.callback)(self.of, now);
        }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} above {}", self.of, self.limit)
    }
}

/// Why memory was not committed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum CommitError {
    Os(OsError),
    OverBudget { committed: usize, budget: usize },
}

/// The bound on committed memory.
#[derive(Debug)]
pub(crate) struct Budget {
    /// `usize::MAX` for none.
    limit: usize,
    /// Bytes committed, or about to be by some thread, `[A2]`; not counted
    /// without a limit. Each step of the count is one read-modify-write that
    /// comes before the commit and after the giving back, so that it is never
    /// less than what is committed, whatever else threads see of each other.
    used: AtomicUsize,
}

impl Budget {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, used: AtomicUsize::new(0) }
    }

    /// Forgets what other threads were about to commit: they are not there.
    pub(crate) fn after_fork(&self, committed: usize) {
        // Relaxed: of the only thread.
        self.used.store(committed, Ordering::Relaxed);
    }

    /// Commits a claimed run if that is within the budget. Makes a system call
    /// when some of its memory is not present. Returns the bytes committed.
    pub(crate) fn commit(&self, shared: &Shared, run: Run) -> Result<usize, CommitError> {
        let mut committed = 0;
        // Another may commit a part of it meanwhile; nobody can give any back,
        // since the run is claimed.
        let missing = if self.limit == usize::MAX { 0 } else { shared.pages.missing_bytes(run) };
        if missing == 0 {
            let done = shared.pages.commit(&shared.region, run, &mut committed);
            return done.map(|()| committed).map_err(CommitError::Os);
        }
        if !self.take(missing) {
            let committed = shared.pages.committed_bytes();
            return Err(CommitError::OverBudget { committed, budget: self.limit });
        }
        let done = shared.pages.commit(&shared.region, run, &mut committed);
        // Relaxed [A2]: see `used`.
        self.used.fetch_sub(missing - committed, Ordering::Relaxed);
        done.map(|()| committed).map_err(CommitError::Os)
    }

    /// Counts bytes as about to be committed, if there is room for them: what does
    /// not fit is in nobody's way, not for a moment.
    fn take(&self, bytes: usize) -> bool {
        // Relaxed [A2]: see `used`; so are the orders below.
        let mut used = self.used.load(Ordering::Relaxed);
        loop {
            let with = used.saturating_add(bytes);
            if with > self.limit && !mutant("budget-not-kept") {
                return false;
            }
            let order = Ordering::Relaxed;
            match self.used.compare_exchange_weak(used, with, order, order) {
                Ok(_) => return true,
                Err(now) => used = now,
            }
        }
    }

    /// Notes that committed memory went back to the system.
    pub(crate) fn gave_back(&self, bytes: usize) {
        if self.limit != usize::MAX && bytes > 0 {
            // Relaxed [A2]: as in `commit`.
            self.used.fetch_sub(bytes, Ordering::Relaxed);
        }
    }
}

/// Tells the watches that `new` bytes were committed.
pub(crate) fn committed(shared: &Shared, new: usize) {
    let watches = &shared.config.watches;
    if !watches.is_empty() {
        let now = shared.pages.committed_bytes();
        rose(watches, Pressure::Committed, now.saturating_sub(new), now);
    }
}

/// Tells the watches that a batch of `new` bytes was retired.
pub(crate) fn retired(shared: &Shared, new: usize) {
    let watches = &shared.config.watches;
    if !watches.is_empty() {
        let now = shared.stats().retired_bytes as usize;
        rose(watches, Pressure::Retired, now.saturating_sub(new), now);
    }
}

/// Has the watches tell again, of what has fallen far enough.
pub(crate) fn fell(shared: &Shared) {
    let watches = &shared.config.watches;
    if watches.is_empty() {
        return;
    }
    let stats = shared.stats();
    for watch in watches {
        watch.fell(match watch.of {
            Pressure::Committed => stats.committed_bytes,
            Pressure::Retired => stats.retired_bytes,
        } as usize);
    }
}

fn rose(watches: &[Watch], of: Pressure, before: usize, now: usize) {
    for watch in watches.iter().filter(|watch| watch.of == of) {
        watch.rose(before, now);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn a_watch_tells_once_a_time() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let watch = {
            let told = Arc::clone(&told);
            let note = move |_, bytes| told.lock().unwrap().push(bytes);
            Watch::new(Pressure::Committed, 800, Arc::new(note))
        };
        for (before, now) in [(0, 800), (800, 801), (801, 900), (750, 820), (700, 790), (790, 850)]
        {
            watch.rose(before, now);
        }
        assert_eq!(*told.lock().unwrap(), [801, 850]);
        watch.rose(0, 10_000);
        assert_eq!(*told.lock().unwrap(), [801, 850, 10_000], "it rose at once from nothing");
        watch.fell(701);
        watch.rose(790, 900);
        watch.fell(700);
        watch.rose(790, 910);
        assert_eq!(*told.lock().unwrap(), [801, 850, 10_000, 910], "its fall was seen elsewhere");
    }
}
