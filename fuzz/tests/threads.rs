//! Real threads: random operations on shared slots, executors passed from
//! thread to thread, bytes compared at every use.
//!
//! The seed is printed; `JIT_ARENA_FUZZ_SEED=<n>` sets it,
//! `JIT_ARENA_FUZZ_ROUNDS=<n>` makes the run longer. What one thread does
//! depends on its seed alone, how threads interleave does not: a failure is
//! reproduced by running its seed some more times.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use jit_arena::{Arena, CodeLayout, Executor, ReserveError, Slot, Strategy, ThreadHandle};
use jit_arena_fuzz::code::{self, FUNCTION};

const THREADS: usize = 4;
const SLOTS: usize = 6;

/// Bytes of the block that `tag` names: its pattern's seed and its length.
fn bytes_of(tag: u64) -> Vec<u8> {
    let len = FUNCTION + (tag >> 32) as usize;
    code::block(tag, len, len)
}

/// A generator of numbers (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = self.0;
        word = (word ^ word >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ word >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        word ^ word >> 31
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

/// What the threads share.
struct Shared {
    arena: Arena,
    slots: Vec<Slot>,
    calls: AtomicU64,
    refusals: AtomicU64,
}

/// One thread's part.
struct Worker<'a> {
    shared: &'a Shared,
    random: Random,
    own: Vec<Executor>,
    mail: Receiver<Executor>,
    others: Vec<Sender<Executor>>,
    number: u64,
}

impl Worker<'_> {
    fn fresh(&mut self, handle: &mut ThreadHandle) -> Option<Executor> {
        let extra = match self.random.below(8) {
            0 => self.random.below(9000),
            // Exactly so many granules with the header.
            1 => self.random.below(20) * 64 + 64 - 16 - FUNCTION,
            _ => self.random.below(700),
        };
        self.number += 1;
        let tag = (extra as u64) << 32 | self.number << 4 | 1;
        let bytes = bytes_of(tag);
        let layout = CodeLayout::new(bytes.len()).tag(tag);
        let mut reservation = match handle.reserve(layout) {
            Ok(reservation) => reservation,
            Err(ReserveError::Exhausted { .. }) => {
                self.shared.refusals.fetch_add(1, Ordering::Relaxed);
                self.own.truncate(4);
                return None;
            }
            Err(error) => panic!("{error}"),
        };
        let mut scope = handle.write();
        scope.write_at(&mut reservation, 0, &bytes).unwrap();
        drop(scope);
        Some(handle.publish(reservation).unwrap())
    }

    /// Three in one scope, written piece by piece: one is given up, one is
    /// reserved too long and shrinks.
    fn batch(&mut self, handle: &mut ThreadHandle) -> Option<()> {
        let mut scope = handle.write();
        let mut reserve = |spare: usize| {
            let extra = self.random.below(6000);
            self.number += 1;
            let tag = (extra as u64) << 32 | self.number << 4 | 3;
            let layout = CodeLayout::new(FUNCTION + extra + spare).tag(tag);
            Some((scope.reserve(layout).ok()?, bytes_of(tag)))
        };
        let (mut long, long_bytes) = reserve(9000)?;
        let (given_up, _) = reserve(5000)?;
        let (mut other, other_bytes) = reserve(0)?;
        let (first, last) = long_bytes.split_at(FUNCTION);
        scope.write_at(&mut long, 0, first).unwrap();
        scope.shrink(&mut long, long_bytes.len(), 0).unwrap();
        drop(given_up);
        for chunk in other_bytes.chunks(1500).enumerate() {
            scope.write_at(&mut other, chunk.0 * 1500, chunk.1).unwrap();
            thread::yield_now();
        }
        scope.write_at(&mut long, FUNCTION, last).unwrap();
        drop(scope);
        for reservation in [long, other] {
            self.own.push(handle.publish(reservation).unwrap());
        }
        Some(())
    }

    /// Compares the code at `entry` with what its header's tag says it is, and
    /// calls it.
    fn use_entry(&self, entry: jit_arena::Entry<'_>) {
        let tag_at = core::ptr::with_exposed_provenance::<u64>(entry.addr() - 8);
        // SAFETY: the second word of the header, in front of an entry that is
        // protected; see the layout in the crate's documentation.
        let tag = unsafe { tag_at.read_volatile() };
        let expected = bytes_of(tag);
        // SAFETY: protected by a guard or a hold for the time of this call.
        let found = unsafe { code::read(entry.addr(), expected.len()) };
        assert!(found == expected, "{:#x}: bytes of tag {tag:#x} changed", entry.addr());
        // SAFETY: all blocks here begin with such a function.
        let returned = unsafe { code::call(entry) };
        assert_eq!(returned, tag as u32);
        self.shared.calls.fetch_add(1, Ordering::Relaxed);
    }

    fn round(&mut self, handle: &mut ThreadHandle) {
        let slot = &self.shared.slots[self.random.below(SLOTS)];
        match self.random.below(16) {
            0..=3 => {
                let fresh = self.fresh(handle);
                self.own.extend(fresh);
            }
            4 => {
                if let Some(fresh) = self.fresh(handle) {
                    drop(slot.replace(fresh).unwrap());
                }
            }
            5 => drop(slot.invalidate()),
            6 | 7 if !self.own.is_empty() => {
                let at = self.random.below(self.own.len());
                drop(self.own.swap_remove(at));
            }
            8 if !self.own.is_empty() => {
                let at = self.random.below(self.own.len());
                let to = self.random.below(self.others.len());
                // The receiver may have finished: then this drops it.
                let _ = self.others[to].send(self.own.swap_remove(at));
            }
            9 => {
                for executor in self.mail.try_iter().take(4) {
                    assert_eq!(executor.code_len(), bytes_of(executor.tag()).len());
                    handle.retire(executor);
                }
            }
            10 => handle.collect(),
            12 => {
                if self.batch(handle).is_none() {
                    self.shared.refusals.fetch_add(1, Ordering::Relaxed);
                    self.own.truncate(4);
                }
            }
            11 => {
                let mut guard = handle.pin();
                if let Some(mut running) = guard.enter(slot) {
                    running.safepoint();
                    self.use_entry(running.entry());
                    running.park(thread::yield_now);
                    self.use_entry(running.entry());
                }
            }
            _ => {
                let mut guard = handle.pin();
                for _ in 0..4 {
                    if let Some(entry) = slot.load(&guard) {
                        self.use_entry(entry);
                        self.use_entry(entry);
                    }
                    guard.safepoint();
                }
                if !self.own.is_empty() {
                    let at = self.random.below(self.own.len());
                    self.use_entry(self.own[at].entry(&guard));
                }
            }
        }
    }
}

fn run(strategy: Strategy, seed: u64, rounds: usize) {
    let built = Arena::builder().strategy(strategy).reserve(1 << 20).code_page(1 << 16).build();
    let arena = match built {
        Ok(arena) => arena,
        Err(error) => {
            println!("not run: {strategy}: {error}");
            return;
        }
    };
    let slots = (0..SLOTS).map(|_| arena.slot()).collect();
    let shared = Shared { arena, slots, calls: AtomicU64::new(0), refusals: AtomicU64::new(0) };
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..THREADS).map(|_| channel()).unzip();
    thread::scope(|scope| {
        for (index, mail) in receivers.into_iter().enumerate() {
            let (shared, others) = (&shared, senders.clone());
            scope.spawn(move || {
                let random = Random(seed ^ (index as u64) << 56);
                let number = (index as u64) << 20;
                let own = Vec::new();
                let mut worker = Worker { shared, random, own, mail, others, number };
                for _ in 0..4 {
                    // A thread comes and goes; its executors stay.
                    let mut handle = shared.arena.attach().unwrap();
                    for _ in 0..rounds / 4 {
                        worker.round(&mut handle);
                    }
                }
            });
        }
    });
    drop(senders);
    let calls = shared.calls.load(Ordering::Relaxed);
    let refusals = shared.refusals.load(Ordering::Relaxed);
    let stats = shared.arena.stats();
    println!("{strategy}: {} installs, {calls} calls, {refusals} refusals", stats.installs);
    assert!(calls > 0, "nothing was ever called");
    drop(shared.slots);
    let mut handle = shared.arena.attach().unwrap();
    handle.collect();
    shared.arena.verify().unwrap();
    let stats = shared.arena.stats();
    assert_eq!((stats.live_executors, stats.live_bytes), (0, 0), "{stats:?}");
    assert_eq!(stats.retired_executors, 0, "{stats:?}");
    assert_eq!((stats.hole_bytes, stats.committed_bytes), (0, 0), "{stats:?}");
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn threads_share_slots_and_executors() {
    let seed = number("JIT_ARENA_FUZZ_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    println!("JIT_ARENA_FUZZ_SEED={seed}");
    let rounds = number("JIT_ARENA_FUZZ_ROUNDS").map_or(2_000, |rounds| rounds as usize);
    for strategy in [Strategy::DualOpen, Strategy::DualTransient, Strategy::Mprotect] {
        run(strategy, seed, rounds);
    }
}
