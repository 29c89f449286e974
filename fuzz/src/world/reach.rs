//! Operations that reach blocks: slots, guards, runs.

use super::{MAX_DEPTH, MAX_GUARDS, World};
use crate::code;
use crate::ops::{Pick, Way};
use crate::oracle::Id;
use crate::sizes::Length;

use jit_arena::{Entry, SlotError};

impl World {
    pub(super) fn put(&mut self, slot: Pick, it: Pick) {
        let Some(slot) = slot.of(self.slots.len()) else { return };
        let Some(it) = it.of(self.executors.len()) else { return };
        let (id, executor) = self.executors.swap_remove(it);
        let is_foreign = self.oracle.block(id).arena != self.slots[slot].0;
        let (_, slot, holds) = &mut self.slots[slot];
        assert_eq!(slot.is_empty(), holds.is_none());
        match slot.install(executor) {
            Ok(()) => {
                assert!(!is_foreign && holds.is_none(), "a full slot took one more");
                *holds = Some(id);
            }
            Err(SlotError::Foreign(back)) => {
                assert!(is_foreign);
                self.executors.push((id, back));
            }
            Err(SlotError::Occupied(back)) => {
                assert!(!is_foreign && holds.is_some());
                self.executors.push((id, back));
            }
            Err(other) => panic!("{other}"),
        }
    }

    pub(super) fn replace(&mut self, slot: Pick, it: Pick) {
        let Some(slot) = slot.of(self.slots.len()) else { return };
        let Some(it) = it.of(self.executors.len()) else { return };
        let (id, executor) = self.executors.swap_remove(it);
        let is_foreign = self.oracle.block(id).arena != self.slots[slot].0;
        let (_, slot, holds) = &mut self.slots[slot];
        match slot.replace(executor) {
            Ok(before) => {
                assert!(!is_foreign);
                assert_eq!(before.is_some(), holds.is_some());
                let was = holds.replace(id);
                self.executors.extend(was.zip(before));
            }
            Err(SlotError::Foreign(back)) => {
                assert!(is_foreign);
                self.executors.push((id, back));
            }
            Err(other) => panic!("{other}"),
        }
        if let Some((id, executor)) = self.executors.last() {
            self.oracle.check_executor(*id, executor);
        }
    }

    /// What a runtime does when it compiles something anew.
    pub(super) fn turn(&mut self, thread: Pick, slot: Pick, seed: u8) {
        let before = self.executors.len();
        self.install(thread, Length::Small(seed), Length::Small(0), seed);
        let Some(newest) = self.executors.len().checked_sub(1).filter(|&at| at >= before) else {
            return;
        };
        let foreign_slot = slot.of(self.slots.len()).is_none_or(|slot| {
            self.oracle.block(self.executors[newest].0).arena != self.slots[slot].0
        });
        if foreign_slot {
            return;
        }
        self.executors.swap(0, newest);
        self.replace(slot, Pick(0));
        if self.executors.len() > before {
            self.drop_executor(self.executors.len() - 1, Way::Here);
        }
    }

    pub(super) fn invalidate(&mut self, slot: Pick) {
        let Some(slot) = slot.of(self.slots.len()) else { return };
        let (_, slot, holds) = &mut self.slots[slot];
        let before = slot.invalidate();
        assert_eq!(before.is_some(), holds.is_some());
        assert!(slot.is_empty());
        if let Some((id, executor)) = holds.take().zip(before) {
            self.oracle.check_executor(id, &executor);
            self.executors.push((id, executor));
        }
    }

    pub(super) fn pin(&mut self, thread: Pick) {
        let Some(at) = thread.of(self.threads.len()) else { return };
        let key = self.key();
        let thread = &mut self.threads[at];
        if thread.guards().len() < MAX_GUARDS && thread.pin(key) {
            self.oracle.pinned(self.threads[at].key, key);
        }
    }

    /// A thread and one of its guards.
    fn pick_guard(&mut self, thread: Pick, guard: Pick) -> Option<(usize, usize)> {
        let at = thread.of(self.threads.len())?;
        Some((at, guard.of(self.threads[at].guards().len())?))
    }

    pub(super) fn unpin(&mut self, thread: Pick, guard: Pick) {
        let Some((at, guard)) = self.pick_guard(thread, guard) else { return };
        let guard = self.threads[at].guards().swap_remove(guard);
        self.oracle.unpinned(self.threads[at].key, guard.key);
        drop(guard);
    }

    /// Calls an entry if what it is of begins with a function.
    fn try_call(&self, id: Id, entry: Entry<'_>) {
        let block = self.oracle.block(id);
        assert_eq!(entry.addr(), block.entry);
        if let Some(value) = block.returns() {
            // SAFETY: the block begins with such a function, as the oracle
            // has just compared, and it is protected.
            let returned = unsafe { code::call(entry) };
            assert_eq!(returned, value, "block {id} at {:#x}", block.entry);
        }
    }

    pub(super) fn load(&mut self, thread: Pick, guard: Pick, slot: Pick) {
        let Some((at, guard)) = self.pick_guard(thread, guard) else { return };
        let arena = self.threads[at].arena;
        let mut held = self.threads[at].guards().swap_remove(guard);
        let guard_key = held.key;
        if let Some(running) = held.running() {
            let id = self.oracle.running(self.threads[at].key, guard_key);
            assert_eq!(running.addr(), self.oracle.block(id).entry);
            self.try_call(id, running.entry());
        } else if let (Some(guard), Some(slot)) = (held.guard(), slot.of(self.slots.len())) {
            let (of, slot, holds) = &self.slots[slot];
            let loaded = slot.load(guard);
            let expected = holds.filter(|_| *of == arena);
            assert_eq!(loaded.is_some(), expected.is_some(), "what the slot holds");
            if let Some((id, entry)) = expected.zip(loaded) {
                self.try_call(id, entry);
            }
        }
        self.threads[at].guards().push(held);
    }

    pub(super) fn call(&mut self, thread: Pick, guard: Pick, it: Pick) {
        let Some((at, guard)) = self.pick_guard(thread, guard) else { return };
        let Some(it) = it.of(self.executors.len()) else { return };
        let mut held = self.threads[at].guards().swap_remove(guard);
        let (id, executor) = &self.executors[it];
        if let Some(guard) = held.guard() {
            self.try_call(*id, executor.entry(guard));
        }
        self.threads[at].guards().push(held);
    }

    pub(super) fn enter(&mut self, thread: Pick, guard: Pick, slot: Pick) {
        let Some((at, guard)) = self.pick_guard(thread, guard) else { return };
        let Some(slot) = slot.of(self.slots.len()) else { return };
        let (of, slot, holds) = &self.slots[slot];
        let (key, arena) = (self.threads[at].key, self.threads[at].arena);
        let held = &mut self.threads[at].guards()[guard];
        if held.running().is_some() {
            return;
        }
        let expected = holds.filter(|_| *of == arena);
        assert_eq!(held.enter(slot), expected.is_some(), "what the slot holds");
        if let Some(id) = expected {
            self.oracle.entered(key, held.key, id);
        }
    }

    pub(super) fn leave(&mut self, thread: Pick, guard: Pick) {
        let Some((at, guard)) = self.pick_guard(thread, guard) else { return };
        let held = &mut self.threads[at].guards()[guard];
        let guard = held.key;
        if held.leave() {
            self.oracle.left(self.threads[at].key, guard);
        }
    }

    pub(super) fn safepoint(&mut self, thread: Pick, guard: Pick) {
        let Some((at, guard)) = self.pick_guard(thread, guard) else { return };
        let key = self.threads[at].key;
        let held = &mut self.threads[at].guards()[guard];
        if let Some(running) = held.running() {
            running.safepoint();
        } else if let Some(guard) = held.guard() {
            guard.safepoint();
        }
        self.oracle.safepoint(key, held.key);
    }

    pub(super) fn park(&mut self, thread: Pick, guard: Pick, steps: u8) {
        if self.depth >= MAX_DEPTH {
            return;
        }
        let Some((at, guard)) = self.pick_guard(thread, guard) else { return };
        let key = self.threads[at].key;
        let mut held = self.threads[at].take_parked(guard);
        let lets_go = self.oracle.parks(key, held.key);
        self.depth += 1;
        let mut inside = || {
            // The moment of unpinning has passed: what it gave up may be gone.
            self.check();
            for _ in 0..steps % 32 {
                if !self.step() {
                    break;
                }
            }
        };
        if let Some(running) = held.running() {
            running.park(inside);
        } else if let Some(guard) = held.guard() {
            guard.park(inside);
        } else {
            inside();
        }
        self.depth -= 1;
        if lets_go {
            self.oracle.unparked(key);
        }
        // Others may have gone meanwhile, and moved; this one was borrowed.
        let home = self.threads.iter_mut().find(|thread| thread.key == key);
        home.expect("a parked handle is borrowed").put_parked(held);
    }
}
