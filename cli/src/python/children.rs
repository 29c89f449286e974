//! Children of fork(2) that go on running: who they are, and how they ended.
//!
//! The conductor has one made now and then, by a thread of the crew, and looks
//! whether any has ended. Nobody waits for a child before the run is over, and
//! one that takes too long is killed.

use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::{child, locked};
use crate::failure::{Check, Failure};

/// Children that there are at a time, at most.
const MOST: usize = 4;

/// Longest that a child may take: hundreds of times what it needs where nobody
/// else wants the processors.
pub(super) const LIMIT: Duration = Duration::from_secs(120);

/// Between two looks when all that is left to do is wait for them.
const PAUSE: Duration = Duration::from_millis(2);

/// A child that has not been waited for.
#[derive(Debug)]
struct Child {
    pid: libc::pid_t,
    born: Instant,
}

/// What children have done, and what became of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) forked: u64,
    pub(crate) failed: u64,
    /// How the first of those failed.
    pub(crate) first: Option<String>,
    /// Calls of theirs whose result was compared.
    pub(crate) calls: u64,
    /// Executors that they made.
    pub(crate) installs: u64,
    /// Children that ran code made before the fork.
    pub(crate) inherited: u64,
}

/// The children of a run.
#[derive(Debug)]
pub(crate) struct Children {
    limit: Duration,
    wanted: AtomicBool,
    alive: Mutex<Vec<Child>>,
    outcome: Mutex<Outcome>,
    pub(super) tally: Tally,
}

impl Children {
    pub(crate) fn new(limit: Duration) -> Result<Self, Failure> {
        let tally =
            Tally::new().map_err(|source| Failure::System { what: "map shared memory", source })?;
        Ok(Self {
            limit,
            wanted: AtomicBool::new(false),
            alive: Mutex::default(),
            outcome: Mutex::default(),
            tally,
        })
    }

    /// Has a thread of the crew fork, unless there are enough.
    pub(crate) fn want(&self) {
        let enough = locked(&self.alive).len() >= MOST;
        // Relaxed, here and below: decides only who forks.
        self.wanted.store(!enough, Ordering::Relaxed);
    }

    /// Whether the calling thread is to fork.
    pub(crate) fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed) && self.wanted.swap(false, Ordering::Relaxed)
    }

    /// Notes what fork returned in the parent. A system that is short of
    /// processes is no fault of the arena's.
    pub(crate) fn born(&self, pid: libc::pid_t) {
        if pid > 0 {
            locked(&self.alive).push(Child { pid, born: Instant::now() });
            locked(&self.outcome).forked += 1;
        }
    }

    /// Looks which have ended, and kills those that are too old. Whether all
    /// ended well that have.
    pub(crate) fn reap(&self) -> bool {
        let mut alive = locked(&self.alive);
        alive.retain(|child| {
            let mut status = 0;
            // SAFETY: a child of ours that nobody has waited for, and a live word.
            let waited = unsafe { libc::waitpid(child.pid, &raw mut status, libc::WNOHANG) };
            if waited == 0 && child.born.elapsed() <= self.limit {
                return true;
            }
            if waited == 0 {
                self.failed(child.pid, &format!("was not done after {:?}", self.limit));
                end(child.pid);
            } else if waited < 0 {
                let error = io::Error::last_os_error();
                self.failed(child.pid, &format!("cannot be waited for: {error}"));
            } else if let Some(how) = child::describe(status) {
                self.failed(child.pid, &how);
            }
            false
        });
        locked(&self.outcome).failed == 0
    }

    fn failed(&self, pid: libc::pid_t, how: &str) {
        let mut outcome = locked(&self.outcome);
        outcome.failed += 1;
        outcome.first.get_or_insert_with(|| format!("child {pid} {how}"));
    }

    /// Waits for all that are left, none longer than it may take; once one has
    /// failed, for none.
    pub(crate) fn finish(&self) {
        while self.reap() && !locked(&self.alive).is_empty() {
            thread::sleep(PAUSE);
        }
        self.end_all();
    }

    fn end_all(&self) {
        for child in locked(&self.alive).drain(..) {
            end(child.pid);
        }
    }

    pub(crate) fn outcome(&self) -> Outcome {
        let (calls, installs, inherited) = self.tally.read();
        Outcome { calls, installs, inherited, ..locked(&self.outcome).clone() }
    }
}

impl Drop for Children {
    /// Where the run has failed: none outlives it.
    fn drop(&mut self) {
        self.end_all();
    }
}

/// Kills a child and waits for it.
fn end(pid: libc::pid_t) {
    // SAFETY: a child of ours that nobody has waited for.
    unsafe { libc::kill(pid, libc::SIGKILL) };
    // SAFETY: as above; how it ended is known.
    unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
}

impl Outcome {
    /// Checks that no child failed.
    pub(crate) fn check(&self) -> Result<(), Check> {
        match &self.first {
            Some(first) => Err(Check::Children { failed: self.failed, first: first.clone() }),
            None => Ok(()),
        }
    }
}

/// Counts in memory that parent and children share.
#[derive(Debug)]
pub(super) struct Tally(*mut Counts);

/// See [`Outcome`].
#[repr(C)]
#[derive(Debug, Default)]
struct Counts {
    calls: AtomicU64,
    installs: AtomicU64,
    inherited: AtomicU64,
}

// SAFETY: it gives access to atomics only.
unsafe impl Send for Tally {}
// SAFETY: as above.
unsafe impl Sync for Tally {}

impl Tally {
    fn new() -> io::Result<Self> {
        let (rights, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping wherever the system likes.
        let place =
            unsafe { libc::mmap(std::ptr::null_mut(), size_of::<Counts>(), rights, flags, -1, 0) };
        if place == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self(place.cast()))
    }

    fn counts(&self) -> &Counts {
        // SAFETY: mapped, aligned to a page, and zero is a count.
        unsafe { &*self.0 }
    }

    /// Adds what a child has done.
    pub(super) fn add(&self, calls: u64, installs: u64, has_inherited: bool) {
        let counts = self.counts();
        // Relaxed, here and below: counts, read when their children have ended.
        counts.calls.fetch_add(calls, Ordering::Relaxed);
        counts.installs.fetch_add(installs, Ordering::Relaxed);
        counts.inherited.fetch_add(u64::from(has_inherited), Ordering::Relaxed);
    }

    fn read(&self) -> (u64, u64, u64) {
        let Counts { calls, installs, inherited } = self.counts();
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (read(calls), read(installs), read(inherited))
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, and nobody refers to it any more.
        unsafe { libc::munmap(self.0.cast(), size_of::<Counts>()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Forks a child that does nothing but what may be done there.
    fn fork(children: &Children, body: impl FnOnce()) {
        // SAFETY: `body` calls what is async-signal-safe.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            body();
            // SAFETY: ends the child.
            unsafe { libc::_exit(0) };
        }
        children.born(pid);
    }

    fn exit(status: libc::c_int) {
        // SAFETY: ends the child.
        unsafe { libc::_exit(status) }
    }

    fn hang() {
        loop {
            // SAFETY: waits for signals.
            unsafe { libc::pause() };
        }
    }

    #[test]
    fn children_that_fail_are_told() {
        let children = Children::new(LIMIT).unwrap();
        fork(&children, || children.tally.add(3, 2, true));
        children.finish();
        let good = children.outcome();
        assert_eq!((good.forked, good.failed, good.calls, good.installs), (1, 0, 3, 2));
        good.check().unwrap();
        fork(&children, || exit(child::WRONG));
        children.finish();
        let bad = children.outcome();
        assert_eq!((bad.forked, bad.failed), (2, 1));
        let told = bad.check().unwrap_err().to_string();
        assert!(told.contains("computed something else"), "{told}");
    }

    #[test]
    fn children_that_hang_are_killed_and_told() {
        let children = Children::new(Duration::from_millis(20)).unwrap();
        fork(&children, hang);
        let begun = Instant::now();
        children.finish();
        let outcome = children.outcome();
        assert_eq!(outcome.failed, 1);
        assert!(outcome.first.unwrap().contains("was not done after 20ms"));
        assert!(begun.elapsed() < LIMIT);
        // Nobody is left.
        fork(&children, hang);
        let pid = locked(&children.alive)[0].pid;
        drop(children);
        // SAFETY: asks whether there is such a child.
        assert_eq!(unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::WNOHANG) }, -1);
    }
}
