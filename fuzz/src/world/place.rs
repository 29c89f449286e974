//! Operations that make, fill and drop blocks.

use std::thread;

use jit_arena::{
    Executor, InstallError, MAX_ALIGN, MAX_EXECUTOR, PublishErrorKind, ReserveError, WriteError,
};

use super::{MAX_EXECUTORS, MAX_RESERVATIONS, MAX_SPAWNS, World};
use crate::code;
use crate::ops::{Pick, Way};
use crate::oracle::{Id, State};
use crate::sizes::{Layout, Length, Sizes};

/// How the documentation says such a layout is refused.
fn refusal(sizes: Sizes, region: usize) -> Option<ReserveError> {
    for align in [sizes.align, sizes.data_align] {
        if !align.is_power_of_two() || align > MAX_ALIGN {
            return Some(ReserveError::BadAlign { align });
        }
    }
    let bytes = sizes.code.saturating_add(sizes.data);
    if sizes.code == 0 {
        Some(ReserveError::Empty)
    } else if bytes > MAX_EXECUTOR {
        Some(ReserveError::TooLarge { bytes, max: MAX_EXECUTOR })
    } else if sizes.granules() * jit_arena::GRANULE > region {
        Some(ReserveError::TooLarge { bytes, max: region })
    } else {
        None
    }
}

impl World {
    /// The place of thread `at`.
    fn region_of(&self, at: usize) -> usize {
        self.oracle.arena(self.threads[at].arena).span.len
    }

    /// The write scope that thread `at` is in, if any.
    fn scope_of(&self, at: usize) -> Option<u64> {
        let thread = &self.threads[at];
        (thread.depth() > 0).then_some(thread.scopes_opened)
    }

    pub(super) fn reserve(&mut self, pick: Pick, layout: Layout) {
        let Some(at) = pick.of(self.threads.len()) else { return };
        let sizes = layout.sizes(self.region_of(at));
        if self.reservations.len() < MAX_RESERVATIONS {
            self.reserve_sizes(at, sizes);
        }
    }

    /// Reserves, in the innermost scope if there is one; whether it worked.
    fn reserve_sizes(&mut self, at: usize, sizes: Sizes) -> bool {
        let (arena, region) = (self.threads[at].arena, self.region_of(at));
        let scope = self.scope_of(at);
        let thread = &mut self.threads[at];
        let result = match thread.scope() {
            Some(scope) => scope.reserve(sizes.layout()),
            None => match thread.handle() {
                Some(handle) => handle.reserve(sizes.layout()),
                None => return false,
            },
        };
        match (refusal(sizes, region), result) {
            (None, Ok(it)) => {
                let home = (self.threads[at].key, scope);
                let id = self.oracle.reserved(arena, home, sizes, &it);
                self.reservations.push((id, it));
                true
            }
            (None, Err(error)) => {
                self.refused(at, sizes, error);
                false
            }
            (expected, result) => {
                assert_eq!(result.err(), expected, "{sizes:?}");
                false
            }
        }
    }

    /// A good layout was refused: that must have been for want of a hole.
    fn refused(&mut self, at: usize, sizes: Sizes, error: ReserveError) {
        let arena = self.threads[at].arena;
        let region = self.region_of(at);
        let ReserveError::Exhausted { bytes, live, reserved, .. } = error else {
            panic!("{sizes:?} refused: {error}");
        };
        assert_eq!(reserved, region, "{error}");
        assert_eq!(live as u64, self.oracle.counts(arena).live_bytes, "{error}");
        assert!(bytes >= sizes.len() && bytes <= region, "{error}");
        if !self.can_settle(arena) {
            return;
        }
        if self.oracle.counts(arena).threads == 1 {
            // No claim and no garbage of anybody else's.
            self.oracle.check_exhausted(arena, sizes.granules());
        }
        self.settle(arena);
        let thread = &mut self.threads[at];
        let Some(handle) = thread.handle() else { return };
        match handle.reserve(sizes.layout()) {
            Err(again) => {
                assert!(matches!(again, ReserveError::Exhausted { .. }), "{again}");
                self.oracle.check_exhausted(arena, sizes.granules());
            }
            Ok(it) => {
                let id = self.oracle.reserved(arena, (thread.key, None), sizes, &it);
                self.oracle.abandoned(id);
                drop(it);
            }
        }
    }

    pub(super) fn install(&mut self, pick: Pick, code: Length, data: Length, seed: u8) {
        let Some(at) = pick.of(self.threads.len()) else { return };
        // The bytes exist here, so there are not too many of them.
        let limit = self.region_of(at) + 64;
        let (code, data) = (code.bytes(limit).min(limit), data.bytes(limit).min(limit));
        self.install_sizes(at, Sizes::plain(code, data), seed);
    }

    fn install_sizes(&mut self, at: usize, sizes: Sizes, seed: u8) -> bool {
        let (arena, region) = (self.threads[at].arena, self.region_of(at));
        if self.executors.len() >= MAX_EXECUTORS {
            return false;
        }
        let seed = self.seed << 8 | u64::from(seed);
        let Some(handle) = self.threads[at].handle() else { return false };
        let bytes = code::block(seed, sizes.code + sizes.data, sizes.code);
        let (code, data) = bytes.split_at(sizes.code);
        match (refusal(sizes, region), handle.install(code, data)) {
            (None, Ok(it)) => self.installed(arena, sizes, it, &bytes),
            (None, Err(InstallError::Reserve(error))) => {
                self.refused(at, sizes, error);
                return false;
            }
            (Some(expected), Err(InstallError::Reserve(error))) => {
                assert_eq!(error, expected, "{sizes:?}");
                return false;
            }
            (expected, result) => panic!("{sizes:?}: {result:?}, not {expected:?}"),
        }
        true
    }

    fn installed(&mut self, arena: usize, sizes: Sizes, it: Executor, bytes: &[u8]) {
        let id = self.oracle.installed(arena, sizes, &it, bytes);
        self.executors.push((id, it));
    }

    pub(super) fn install_kept(&mut self, pick: Pick, code: Length, seed: u8) {
        let Some(at) = self.pick_arena(pick) else { return };
        let (number, region) = (self.places[at].number, self.places[at].span.len);
        let sizes = Sizes::plain(code.bytes(region).clamp(1, 4096), 0);
        let seed = self.seed << 8 | u64::from(seed);
        let bytes = code::block(seed, sizes.code, sizes.code);
        self.keep_handle(at);
        let Some(arena) = &self.places[at].arena else { return };
        let result = arena.with_thread(|thread| thread.install(&bytes, &[]));
        match (refusal(sizes, region), result.expect("not exiting")) {
            (None, Ok(it)) => self.installed(number, sizes, it, &bytes),
            (_, Err(InstallError::Reserve(ReserveError::Exhausted { .. }))) => {}
            (expected, Err(InstallError::Reserve(error))) => assert_eq!(Some(error), expected),
            (expected, result) => panic!("{sizes:?}: {result:?}, not {expected:?}"),
        }
    }

    /// How a scope of thread `at` must refuse the block, if it must.
    fn write_refusal(&self, at: usize, id: Id) -> Option<WriteError> {
        let State::Reserved { home, scope, .. } = self.oracle.block(id).state else {
            panic!("block {id} is no reservation");
        };
        if home != self.threads[at].key {
            return Some(WriteError::Foreign);
        }
        let arena = self.oracle.arena(self.threads[at].arena);
        let sealed = arena.is_coarse() && scope.is_some() && scope != self.scope_of(at);
        sealed.then_some(WriteError::Sealed)
    }

    pub(super) fn write(&mut self, pick: Pick, it: Pick, to: Length, len: Length, seed: u8) {
        let Some(at) = pick.of(self.threads.len()) else { return };
        let Some(it) = it.of(self.reservations.len()) else { return };
        let id = self.reservations[it].0;
        let reserved = self.oracle.block(id).len();
        let code_len = self.oracle.block(id).sizes.code;
        let to = to.bytes(reserved);
        let len = len.bytes(reserved).min(reserved + 64);
        let fits = to.checked_add(len).is_some_and(|end| end <= reserved);
        let expected = if fits {
            self.write_refusal(at, id)
        } else {
            Some(WriteError::OutOfBounds { offset: to, len, reserved })
        };
        let lead = if to == 0 { code_len } else { 0 };
        let bytes = code::block(self.seed << 8 | u64::from(seed), len, lead);
        let Some(scope) = self.threads[at].scope() else { return };
        let result = scope.write_at(&mut self.reservations[it].1, to, &bytes);
        assert_eq!(result.err(), expected, "{len} bytes to {to}");
        if expected.is_none() {
            self.oracle.wrote(id, to, &bytes);
        }
    }

    pub(super) fn fill(&mut self, pick: Pick, it: Pick, seed: u8) {
        if let (Some(at), Some(it)) = (pick.of(self.threads.len()), it.of(self.reservations.len()))
        {
            self.fill_at(at, it, seed);
        }
    }

    fn fill_at(&mut self, at: usize, it: usize, seed: u8) {
        let id = self.reservations[it].0;
        let expected = self.write_refusal(at, id);
        let Some(scope) = self.threads[at].scope() else { return };
        match scope.bytes(&mut self.reservations[it].1) {
            Ok(bytes) => {
                assert_eq!(expected, None);
                // Through this view, too, they are what they were.
                self.oracle.check_view(id, bytes);
                let code_len = self.oracle.block(id).sizes.code;
                code::fill(self.seed << 8 | u64::from(seed), bytes, code_len);
                self.oracle.wrote(id, 0, bytes);
            }
            Err(error) => assert_eq!(Some(error), expected),
        }
    }

    pub(super) fn shrink(&mut self, pick: Pick, it: Pick, code: Length, data: Length) {
        let Some(at) = pick.of(self.threads.len()) else { return };
        let Some(it) = it.of(self.reservations.len()) else { return };
        let id = self.reservations[it].0;
        let block = self.oracle.block(id);
        let now = block.sizes;
        // One more than it has is the least that is refused.
        let code = code.bytes(block.len()) % (now.code + 2);
        let data = data.bytes(block.len()) % (now.data + 2);
        let bad = code == 0 || code > now.code || data > now.data || (data > 0 && code != now.code);
        let expected = if bad { Some(WriteError::BadShrink) } else { self.write_refusal(at, id) };
        let Some(scope) = self.threads[at].scope() else { return };
        let result = scope.shrink(&mut self.reservations[it].1, code, data);
        assert_eq!(result.err(), expected, "from {now:?} to {code} and {data}");
        if expected.is_none() {
            self.oracle.shrank(id, code, data, &self.reservations[it].1);
        }
    }

    pub(super) fn publish(&mut self, pick: Pick, it: Pick) {
        if let (Some(at), Some(it)) = (pick.of(self.threads.len()), it.of(self.reservations.len()))
        {
            self.publish_at(at, it);
        }
    }

    fn publish_at(&mut self, at: usize, it: usize) {
        let thread = &mut self.threads[at];
        let key = thread.key;
        let Some(handle) = thread.handle() else { return };
        let (id, reservation) = self.reservations.swap_remove(it);
        let State::Reserved { home, written, .. } = self.oracle.block(id).state else {
            panic!("block {id} is no reservation");
        };
        let expected = if home != key {
            Some(PublishErrorKind::Foreign)
        } else if !written {
            Some(PublishErrorKind::Unwritten)
        } else {
            None
        };
        match handle.publish(reservation) {
            Ok(executor) => {
                assert_eq!(expected, None);
                self.oracle.published(id, &executor);
                self.executors.push((id, executor));
            }
            Err(error) => {
                assert_eq!(Some(error.kind), expected);
                self.reservations.push((id, error.reservation));
            }
        }
    }

    /// Several at once: each on its own, or all in one write scope.
    pub(super) fn burst(&mut self, pick: Pick, count: u8, code: Length, batch: bool) {
        let Some(at) = pick.of(self.threads.len()) else { return };
        let region = self.region_of(at);
        let sizes = Sizes::plain(code.bytes(region).clamp(1, 16 * 1024), 0);
        let count = usize::from(count);
        if !batch {
            for n in 0..count {
                if !self.install_sizes(at, sizes, n as u8) {
                    return;
                }
            }
            return;
        }
        let first = self.reservations.len();
        let count = count.min(MAX_RESERVATIONS.saturating_sub(first));
        if !self.threads[at].is_idle() || !self.threads[at].open() {
            return;
        }
        for n in 0..count {
            if !self.reserve_sizes(at, sizes) {
                break;
            }
            let newest = self.reservations.len() - 1;
            self.fill_at(at, newest, n as u8);
        }
        self.threads[at].close();
        while self.reservations.len() > first {
            self.publish_at(at, first);
        }
    }

    pub(super) fn drop_executor(&mut self, at: usize, way: Way) {
        let (id, executor) = self.executors.swap_remove(at);
        self.oracle.check_executor(id, &executor);
        self.oracle.retired(id);
        let number = self.oracle.block(id).arena;
        match way {
            Way::Unattached | Way::Elsewhere if self.spawns < MAX_SPAWNS => {
                self.spawns += 1;
                let arena = self.places.iter().find(|place| place.number == number);
                let arena = arena.and_then(|place| place.arena.clone());
                let attaches = matches!(way, Way::Elsewhere);
                let dropper = thread::spawn(move || {
                    let handle = arena.as_ref().filter(|_| attaches).map(|it| it.attach());
                    drop(executor);
                    drop(handle);
                });
                dropper.join().expect("dropping never panics");
            }
            Way::Through(pick) => {
                let thread = pick.of(self.threads.len()).map(|at| &mut self.threads[at]);
                match thread.and_then(|thread| thread.handle()) {
                    Some(handle) => handle.retire(executor),
                    None => drop(executor),
                }
            }
            _ => drop(executor),
        }
    }
}
