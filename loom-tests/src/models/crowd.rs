//! Crowds: many threads that do everything at once, too much for loom, for
//! shuttle to schedule.
//!
//! What a thread does is drawn from a generator of its own, seeded by its
//! number, so a schedule alone says what happens. Every step is judged by the
//! machine; what runs tells which slot it was installed for and how long it is.

use std::sync::Arc;

use jit_arena::platform::model::Options;
use jit_arena::{CodeLayout, Executor, GRANULE, Slot, Strategy, ThreadHandle};

use super::{M, Setup};
use crate::thread::JoinHandle;

macro_rules! crowd {
    ($name:literal, $strategy:ident, $threads:literal, $checks:expr) => {
        M {
            name: $name,
            checks: $checks,
            eager: None,
            epoch: None,
            body: || crowd(Strategy::$strategy, $threads),
        }
    };
}

pub(super) const MODELS: &[M] = &[
    crowd!("crowd_of_16", DualPkey, 16, &["B1", "P1", "P4", "W1", "E1", "E2", "L1", "T2", "A1"]),
    crowd!("crowd_of_8_transient", DualTransient, 8, &["B1", "P1", "W1", "E1", "E2", "A1"]),
    crowd!("crowd_of_8_mprotect", Mprotect, 8, &["B1", "P1", "W1", "W3", "E1", "E2", "A1"]),
    crowd!("crowd_of_6_map_jit", MapJit, 6, &["B1", "P1", "W1", "E1", "E2", "A1"]),
    crowd!("crowd_of_6_single_pkey", SinglePkey, 6, &["B1", "P1", "W2", "E1", "E2", "A1"]),
    crowd!("crowd_of_6_open", DualOpen, 6, &["B1", "P1", "W1", "E1", "E2", "A1"]),
];

/// What each thread does, in a checker. The whole crowd does thousands.
const OPERATIONS: usize = 400;

const SLOTS: usize = 5;

/// Longest code, in bytes; most is shorter.
const LONGEST: usize = 5 * GRANULE;

/// What code of so many bytes for a slot begins with. No trap.
fn word(slot: usize, len: usize) -> u64 {
    (slot << 32 | len << 8 | 1) as u64
}

/// Numbers that look random (Knuth's linear congruential generator).
struct Draws(u64);

impl Draws {
    fn below(&mut self, bound: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }
}

/// One of the crowd.
struct Member {
    setup: Setup,
    slots: Arc<Vec<Slot>>,
    draws: Draws,
    /// Taken out of slots and not dropped yet.
    taken: Vec<Executor>,
    /// Where there was an executor some time.
    known: usize,
    installs: usize,
}

/// `threads` threads over a few slots and pages, until each has done its part.
fn crowd(strategy: Strategy, threads: usize) {
    let options = Options { peeks: true, watches: 1 << 20, ..Options::default() };
    let setup = Setup::on(strategy, 16384, 8, options, |builder| builder);
    let slots: Arc<Vec<_>> = Arc::new((0..SLOTS).map(|_| setup.arena.slot()).collect());
    let crowd: Vec<JoinHandle<usize>> = (1..=threads as u64)
        .map(|number| {
            let slots = Arc::clone(&slots);
            setup.spawn(move |setup| {
                let (setup, draws) = (setup.clone(), Draws(number));
                let known = setup.arena.span().start;
                let taken = Vec::new();
                Member { setup, slots, draws, taken, known, installs: 0 }.live()
            })
        })
        .collect();
    let installs: usize = crowd.into_iter().map(|member| member.join().unwrap()).sum();
    drop(slots);
    let mut thread = setup.attach();
    thread.collect();
    thread.collect();
    drop(thread);
    setup.verify();
    let stats = setup.arena.stats();
    assert!(installs > threads, "{installs} installs of {threads} threads");
    assert_eq!(stats.installs, installs as u64);
    assert_eq!((stats.retires, stats.recycles), (stats.installs, stats.installs));
    assert_eq!((stats.live_executors, stats.claimed_bytes), (0, 0));
}

impl Member {
    /// Does its part; returns how much it installed.
    fn live(mut self) -> usize {
        let mut thread = self.setup.attach();
        for _ in 0..OPERATIONS {
            let slot = self.draws.below(SLOTS);
            match self.draws.below(100) {
                0..30 => self.replace(&mut thread, slot),
                30..55 => self.call(&thread, slot),
                55..65 => self.enter(&thread, slot),
                65..70 => self.taken.extend(self.slots[slot].invalidate()),
                70..80 => drop(self.taken.pop()),
                80..84 => self.install_two(&mut thread),
                84..88 => self.look(),
                88..92 => self.jump(),
                92..95 => thread.collect(),
                95..97 => thread = self.setup.attach(),
                97..98 => self.walk(),
                _ => drop(thread.reserve(CodeLayout::new(1 + self.draws.below(LONGEST)))),
            }
        }
        self.taken.clear();
        self.installs
    }

    /// Installs code that tells `slot` and its length; `None` where a thread
    /// that is pinned keeps all room.
    fn install(&mut self, thread: &mut ThreadHandle, slot: usize) -> Option<Executor> {
        let most = if self.draws.below(4) == 0 { LONGEST } else { GRANULE };
        let len = 8 + self.draws.below(most - 8);
        let layout = CodeLayout::new(len).tag(len as u64);
        let mut place = thread.reserve(layout).ok()?;
        let mut code = vec![0x90; len];
        code[..8].copy_from_slice(&word(slot, len).to_le_bytes());
        thread.write().write_at(&mut place, 0, &code).expect("it is ours");
        self.installs += 1;
        self.known = place.entry();
        Some(thread.publish(place).expect("it was written"))
    }

    fn replace(&mut self, thread: &mut ThreadHandle, slot: usize) {
        if let Some(executor) = self.install(thread, slot) {
            let old = self.slots[slot].replace(executor).expect("of this arena");
            if self.draws.below(2) == 0 {
                self.taken.extend(old);
            }
        }
    }

    /// Two executors written in one scope, one of which is given up.
    fn install_two(&mut self, thread: &mut ThreadHandle) {
        let mut scope = thread.write();
        let layout = CodeLayout::new(2 * GRANULE);
        let (Ok(mut kept), Ok(mut given_up)) = (scope.reserve(layout), scope.reserve(layout))
        else {
            return;
        };
        scope.write_at(&mut given_up, 0, &[0x90; GRANULE]).expect("it is ours");
        drop(given_up);
        scope.write_at(&mut kept, 0, &word(0, GRANULE).to_le_bytes()).expect("it is ours");
        scope.shrink(&mut kept, GRANULE, 0).expect("it becomes smaller");
        drop(scope);
        self.installs += 1;
        drop(thread.publish(kept).expect("it was written"));
    }

    /// Runs all of what starts at `entry`, which is for `slot`.
    fn run(&self, entry: usize, slot: usize) -> u64 {
        let word = self.setup.machine.fetch(entry);
        assert_eq!(word >> 32, slot as u64, "ran {word:#x} in slot {slot}");
        assert_eq!(self.setup.machine.run(entry, word as u32 as usize >> 8), word);
        word
    }

    fn call(&self, thread: &ThreadHandle, slot: usize) {
        let guard = thread.pin();
        if let Some(entry) = self.slots[slot].load(&guard) {
            let word = self.run(entry.addr(), slot);
            assert_eq!(self.run(entry.addr(), slot), word, "[E1] it has changed");
        }
    }

    fn enter(&mut self, thread: &ThreadHandle, slot: usize) {
        let mut guard = thread.pin();
        let Some(mut running) = guard.enter(&self.slots[slot]) else { return };
        let entry = running.addr();
        let word = self.run(entry, slot);
        if self.draws.below(2) == 0 {
            running.safepoint();
        } else {
            running.park(|| assert_eq!(self.run(entry, slot), word, "[E2] it has changed"));
        }
        assert_eq!(self.run(entry, slot), word, "[E2] it has changed");
    }

    fn look(&self) {
        if let Some(code) = self.setup.arena.lookup(self.known) {
            assert!(code.code.start <= self.known && self.known < code.code.end(), "[L1] {code:?}");
        }
    }

    /// All that a walk lists is whole: tagged with its length, or with nothing.
    fn walk(&self) {
        let pages = self.setup.arena.evacuation_candidates(usize::MAX).expect("no thread exits");
        for code in pages.iter().flat_map(|page| &page.executors) {
            assert!(code.tag == 0 || code.tag == code.code.len as u64, "[L1] {code:?}");
        }
    }

    fn jump(&mut self) {
        let target = 0x1000 * (1 + self.draws.below(4));
        if let Ok(address) = self.setup.arena.trampoline(target) {
            assert_eq!(self.setup.machine.run(address + 8, 8), target as u64, "[T1]");
            assert_eq!(self.setup.arena.trampoline(target), Ok(address), "[T2]");
        }
    }
}
