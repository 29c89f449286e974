//! Who protects what: pins as moments, runs as names.

use super::{Id, Oracle, ThreadKey};

/// Names a guard.
pub type GuardKey = u32;

/// One guard.
#[derive(Clone, Copy, Debug)]
struct GuardFact {
    key: GuardKey,
    /// What it runs.
    runs: Option<Id>,
    /// How many parks its thread was inside when it pinned.
    level: usize,
}

/// The guards of one virtual thread.
#[derive(Clone, Debug, Default)]
pub struct Pins {
    /// The arena they are of.
    arena: usize,
    guards: Vec<GuardFact>,
    /// How many parks that let go the thread is inside.
    level: usize,
    /// When the thread last pinned: what was dropped later is protected.
    since: Option<u64>,
}

impl Pins {
    /// The guards that are not set aside by a park.
    fn active(&self) -> impl Iterator<Item = &GuardFact> {
        self.guards.iter().filter(|guard| guard.level == self.level)
    }

    fn guard(&mut self, key: GuardKey) -> &mut GuardFact {
        self.guards.iter_mut().find(|guard| guard.key == key).expect("a known guard")
    }

    /// Whether all guards but `key` run an executor: the documented condition
    /// for its safepoints and parks to let go of the epoch.
    fn lets_go(&self, key: GuardKey) -> bool {
        self.active().all(|guard| guard.key == key || guard.runs.is_some())
    }
}

impl Oracle {
    fn now(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    fn pins(&mut self, thread: ThreadKey) -> &mut Pins {
        self.threads.get_mut(&thread).expect("a known thread")
    }

    /// A thread attached.
    pub fn attached(&mut self, thread: ThreadKey, arena: usize) {
        self.threads.insert(thread, Pins { arena, ..Pins::default() });
        self.counts(arena).threads += 1;
    }

    /// A thread drops its handle.
    pub fn detached(&mut self, thread: ThreadKey) {
        if let Some(pins) = self.threads.remove(&thread) {
            assert!(pins.guards.is_empty(), "a handle outlives its guards");
            self.counts(pins.arena).threads -= 1;
        }
    }

    /// One more guard.
    pub fn pinned(&mut self, thread: ThreadKey, key: GuardKey) {
        let now = self.now();
        let pins = self.pins(thread);
        pins.guards.push(GuardFact { key, runs: None, level: pins.level });
        pins.since.get_or_insert(now);
    }

    /// A guard is dropped, and what runs under it.
    pub fn unpinned(&mut self, thread: ThreadKey, key: GuardKey) {
        let pins = self.pins(thread);
        if pins.guard(key).runs.is_some() {
            self.left(thread, key);
        }
        let pins = self.pins(thread);
        pins.guards.retain(|guard| guard.key != key);
        if pins.active().next().is_none() {
            pins.since = None;
        }
    }

    /// An executor runs under a guard.
    pub fn entered(&mut self, thread: ThreadKey, key: GuardKey, id: Id) {
        self.pins(thread).guard(key).runs = Some(id);
    }

    /// It runs no longer. The guard can be loaded under again, so that from
    /// here on the thread is pinned, in a park or not.
    pub fn left(&mut self, thread: ThreadKey, key: GuardKey) {
        let now = self.now();
        let pins = self.pins(thread);
        let level = pins.level;
        let guard = pins.guard(key);
        (guard.runs, guard.level) = (None, level);
        pins.since.get_or_insert(now);
    }

    /// What runs under a guard that runs something.
    #[must_use]
    pub fn running(&self, thread: ThreadKey, key: GuardKey) -> Id {
        let guard = self.threads[&thread].guards.iter().find(|guard| guard.key == key);
        guard.and_then(|guard| guard.runs).expect("a running executor")
    }

    /// A guard, or what runs under it, had a safepoint.
    pub fn safepoint(&mut self, thread: ThreadKey, key: GuardKey) {
        let now = self.now();
        let pins = self.pins(thread);
        if pins.lets_go(key) && pins.since.is_some() {
            pins.since = Some(now);
        }
    }

    /// A guard is about to park; says whether the thread lets go.
    pub fn parks(&mut self, thread: ThreadKey, key: GuardKey) -> bool {
        let pins = self.pins(thread);
        let lets_go = pins.lets_go(key);
        if lets_go {
            pins.level += 1;
            pins.since = None;
        }
        lets_go
    }

    /// A park that let go is over.
    pub fn unparked(&mut self, thread: ThreadKey) {
        let now = self.now();
        let pins = self.pins(thread);
        pins.level -= 1;
        // Guards made inside and let out are guards like the others.
        for guard in &mut pins.guards {
            guard.level = guard.level.min(pins.level);
        }
        if pins.active().next().is_some() {
            pins.since.get_or_insert(now);
        }
    }

    /// Whether something keeps an executor dropped at `at`.
    pub(super) fn is_protected(&self, id: Id, arena: usize, at: u64) -> bool {
        self.threads.values().any(|pins| {
            pins.arena == arena
                && (pins.since.is_some_and(|since| since < at)
                    || pins.guards.iter().any(|guard| guard.runs == Some(id)))
        })
    }

    /// Whether no thread of the arena has a guard, parked or not.
    #[must_use]
    pub fn is_unpinned(&self, arena: usize) -> bool {
        self.threads.values().all(|pins| pins.arena != arena || pins.guards.is_empty())
    }

    /// Dropped executors of the arena that something protects.
    #[must_use]
    pub fn protected(&self, arena: usize) -> usize {
        self.retired.iter().filter(|id| self.blocks[id].arena == arena).count()
    }
}
