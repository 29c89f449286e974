//! Settling, and the end of a program: everything goes, in one of several
//! orders, and nothing may be left.

use std::cell::RefCell;
use std::mem;

use jit_arena::{Arena, Strategy};

use super::{World, verify};
use crate::ops::Way;

thread_local! {
    /// See [`let_go_of_kept_handles`].
    static OTHER: RefCell<Option<Arena>> = const { RefCell::new(None) };
}

/// Makes this OS thread drop the handles it keeps on arenas that are gone: it
/// does so whenever it next uses any kept handle.
pub(super) fn let_go_of_kept_handles() {
    OTHER.with_borrow_mut(|other| {
        let other = other.get_or_insert_with(|| {
            let builder = Arena::builder().strategy(Strategy::DualOpen).reserve(1 << 18);
            builder.build().expect("one more small arena")
        });
        other.with_thread(|_| ()).expect("not exiting");
    });
}

impl World {
    /// Whether nothing of an arena's is in flight, no guards and no scopes, and
    /// the arena is there to be asked.
    pub(super) fn can_settle(&self, number: usize) -> bool {
        self.places.iter().any(|place| place.number == number && place.arena.is_some())
            && self.oracle.is_unpinned(number)
            && self.threads.iter().all(|thread| thread.arena != number || thread.is_idle())
    }

    /// Collects through every handle, then checks that exactly what lives is
    /// taken.
    pub(super) fn settle(&mut self, number: usize) {
        if !self.can_settle(number) {
            return;
        }
        let Some(place) = self.places.iter().find(|place| place.number == number) else { return };
        let Some(arena) = &place.arena else { return };
        // Twice: the first round hands over what the second frees.
        for _ in 0..2 {
            if place.is_kept {
                arena.collect().expect("not exiting");
            }
            let mut any = place.is_kept;
            for thread in self.threads.iter_mut().filter(|it| it.arena == number) {
                if let Some(handle) = thread.handle() {
                    handle.collect();
                    any = true;
                }
            }
            if !any {
                arena.attach().expect("attaching never fails here").collect();
            }
        }
        self.oracle.sweep();
        self.oracle.check_settled(number, &arena.stats());
        self.settled += 1;
        if self.settled.is_multiple_of(self.verify_every.div_ceil(8)) {
            verify(arena);
        }
    }

    /// Drops everything that is left.
    pub(super) fn end(mut self, ending: u8) {
        if ending & 1 == 1 {
            // Arenas first: everything outlives them.
            self.places.iter_mut().for_each(|place| place.arena = None);
            self.check();
        }
        if ending & 2 == 2 {
            // Guards outlive what they guard.
            self.drop_blocks(ending);
            self.drop_threads();
        } else {
            self.drop_threads();
            self.drop_blocks(ending);
        }
        let numbers: Vec<_> = self.places.iter().map(|place| place.number).collect();
        for number in numbers {
            self.settle(number);
            self.places.iter().filter_map(|it| it.arena.as_ref()).for_each(verify);
            assert_eq!(self.oracle.counts(number).live_bytes, 0);
        }
        self.places.iter_mut().for_each(|place| place.arena = None);
        self.check();
        assert!(self.places.is_empty(), "every arena is gone");
    }

    fn drop_blocks(&mut self, ending: u8) {
        for (id, reservation) in mem::take(&mut self.reservations) {
            self.oracle.abandoned(id);
            drop(reservation);
        }
        self.check();
        let way = if ending & 4 == 4 { Way::Unattached } else { Way::Here };
        while let Some(last) = self.executors.len().checked_sub(1) {
            self.drop_executor(last, way);
        }
        self.check();
        for (_, slot, holds) in mem::take(&mut self.slots) {
            holds.into_iter().for_each(|id| self.oracle.retired(id));
            drop(slot);
        }
        self.check();
    }

    fn drop_threads(&mut self) {
        for mut thread in mem::take(&mut self.threads) {
            for guard in mem::take(thread.guards()) {
                self.oracle.unpinned(thread.key, guard.key);
                drop(guard);
            }
            self.oracle.detached(thread.key);
            drop(thread);
        }
        self.check();
    }
}
