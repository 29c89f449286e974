//! What a stress thread does, one operation after the other: drawn from the
//! seed and the thread's number alone, whatever the operations meet.

use std::iter::FusedIterator;
use std::time::Duration;

use crate::code::{Program, Words};
use crate::trace::Shape;

/// Slots that all threads share. A power of two.
pub(super) const SLOTS: usize = 64;

/// Operations that a thread's fingerprint covers.
pub(super) const FINGERPRINTED: u64 = 1000;

/// Bits of a seed that say which slot its executor is for.
const SLOT_BITS: u32 = 8;

/// Stands for "no slot" in those bits.
const NO_SLOT: u64 = (1 << SLOT_BITS) - 1;

const _: () = assert!(SLOTS.is_power_of_two() && (SLOTS as u64) < NO_SLOT);

/// What becomes of an executor that a thread has taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Retired by the thread, through its handle.
    Retire,
    /// Dropped by the thread, without its handle.
    Drop,
    /// Handed to whichever thread looks next, which drops it.
    Mail,
}

/// One operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    /// Install into a slot, unless it holds something.
    Install { program: Program },
    /// Install into a slot in place of what it holds.
    Replace { program: Program, fate: Fate },
    /// Empty a slot.
    Invalidate { slot: usize, fate: Fate },
    /// Call what a slot holds; perhaps compare its bytes, too.
    Call { slot: usize, argument: u64, compare: bool },
    /// Enter what a slot holds and stay in it over safepoints, and asleep.
    Stay { slot: usize, argument: u64, safepoints: u32, asleep: Duration },
    /// Sleep with nothing but a guard, parked.
    Park { asleep: Duration },
    /// Sleep with a guard, not parked: everybody's garbage waits.
    Oversleep { asleep: Duration },
    /// Install several executors in one write scope, each into a slot.
    Batch { programs: [Program; 3], fate: Fate },
    /// Reserve more than is needed, then shrink.
    Shrink { program: Program, extra: u32, fate: Fate },
    /// Reserve, perhaps write, and let go.
    Abandon { program: Program, written: bool },
    /// Install an executor that no slot holds, and keep it.
    Keep { program: Program },
    /// Call an executor kept, then part with it.
    Part { argument: u64, fate: Fate },
    /// Drop what other threads have mailed.
    Open,
    /// Push reclamation.
    Collect,
    /// Let a thread be born that installs, calls and dies.
    Visit { program: Program, argument: u64 },
    /// End; a successor goes on from here.
    Exit,
}

/// The operations of a thread.
#[derive(Clone, Debug)]
pub(super) struct Ops {
    words: Words,
    drawn: u64,
    fingerprint: u64,
}

impl Ops {
    pub(super) fn new(seed: u64, thread: usize) -> Self {
        let mut of_seed = Words::new(seed);
        let start = of_seed.next_word().wrapping_add(thread as u64);
        Self { words: Words::new(start), drawn: 0, fingerprint: 0 }
    }

    /// A value that tells the first [`FINGERPRINTED`] operations from any
    /// others; `None` if the thread has not come so far.
    pub(super) fn fingerprint(&self) -> Option<u64> {
        (self.drawn >= FINGERPRINTED).then_some(self.fingerprint)
    }

    fn program(&mut self, slot: Option<usize>) -> Program {
        let slot = slot.map_or(NO_SLOT, |slot| slot as u64);
        program(self.words.next_word() << SLOT_BITS | slot)
    }

    fn asleep(&mut self) -> Duration {
        Duration::from_micros(self.words.next_word() % 300)
    }
}

/// The executor of this seed. Sizes follow from it, so that whoever calls some
/// executor learns all about it from the seed that the code writes.
pub(super) fn program(seed: u64) -> Program {
    let mut words = Words::new(!seed);
    let class = words.next_word() % 2000;
    let most = match class {
        0 => 2 << 20,
        1..20 => 200 << 10,
        20..200 => 24 << 10,
        _ => 3 << 10,
    };
    let code = 96 + words.next_word() % most;
    let data = words.next_word() % (code / 2);
    Program { seed, shape: Shape { code: code as u32, data: data as u32 } }
}

/// The slot that the executor of this seed was installed into.
pub(super) fn slot_of(seed: u64) -> Option<usize> {
    let slot = seed & NO_SLOT;
    (slot < SLOTS as u64).then_some(slot as usize)
}

impl Iterator for Ops {
    type Item = Op;

    fn next(&mut self) -> Option<Op> {
        let draw = self.words.next_word();
        let argument = self.words.next_word();
        let slot = (draw >> 32) as usize % SLOTS;
        let fate = match draw >> 48 & 3 {
            0 | 1 => Fate::Retire,
            2 => Fate::Drop,
            _ => Fate::Mail,
        };
        let op = match draw % 1000 {
            0..60 => Op::Install { program: self.program(Some(slot)) },
            60..180 => Op::Replace { program: self.program(Some(slot)), fate },
            180..230 => Op::Invalidate { slot, fate },
            230..740 => Op::Call { slot, argument, compare: argument.is_multiple_of(8) },
            740..800 => {
                let safepoints = (argument >> 32) as u32 % 4;
                let asleep = if argument & 7 == 0 { self.asleep() } else { Duration::ZERO };
                Op::Stay { slot, argument, safepoints, asleep }
            }
            800..805 => Op::Park { asleep: self.asleep() },
            805..807 => Op::Oversleep { asleep: self.asleep() },
            807..837 => {
                let programs =
                    [slot, slot + 1, slot + 2].map(|slot| self.program(Some(slot % SLOTS)));
                Op::Batch { programs, fate }
            }
            837..867 => Op::Shrink {
                program: self.program(Some(slot)),
                extra: argument as u32 % (4 << 10),
                fate,
            },
            867..887 => Op::Abandon { program: self.program(None), written: argument & 1 == 0 },
            887..927 => Op::Keep { program: self.program(None) },
            927..967 => Op::Part { argument, fate },
            967..990 => Op::Open,
            990..997 => Op::Collect,
            997 => Op::Visit { program: self.program(None), argument },
            998 => Op::Exit,
            _ => Op::Call { slot, argument, compare: true },
        };
        if self.drawn < FINGERPRINTED {
            // The words drawn make the operation; the sequence chains them.
            self.fingerprint = Words::new(self.fingerprint ^ draw).next_word() ^ argument;
        }
        self.drawn += 1;
        Some(op)
    }
}

impl FusedIterator for Ops {}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::mem::discriminant;

    use super::*;
    use crate::code::Tier;

    #[test]
    fn a_seed_gives_the_same_operations_again_and_another_does_not() {
        let first = |seed, thread| Ops::new(seed, thread).take(2000).collect::<Vec<_>>();
        assert_eq!(first(7, 0), first(7, 0));
        assert_ne!(first(7, 0), first(8, 0));
        assert_ne!(first(7, 0), first(7, 1));
        // Neither does the next thread of one seed do what this one of the next does.
        assert_ne!(first(7, 1), first(8, 0));
    }

    #[test]
    fn fingerprints_follow_the_operations() {
        let fingerprint = |seed, thread, drawn| {
            let mut ops = Ops::new(seed, thread);
            assert_eq!(ops.by_ref().take(drawn).count(), drawn);
            ops.fingerprint()
        };
        assert_eq!(fingerprint(7, 0, 999), None);
        assert_eq!(fingerprint(7, 0, 1000), fingerprint(7, 0, 5000));
        assert!(fingerprint(7, 0, 1000).is_some());
        let all: HashSet<_> =
            (0..10).flat_map(|s| (0..4).map(move |t| fingerprint(s, t, 1000))).collect();
        assert_eq!(all.len(), 40);
    }

    #[test]
    fn every_kind_of_operation_comes_up() {
        let kinds: HashSet<_> = Ops::new(1, 0).take(20_000).map(|op| discriminant(&op)).collect();
        assert_eq!(kinds.len(), 16);
    }

    #[test]
    fn executors_check_themselves_and_say_where_they_belong() {
        let mut largest = 0;
        for op in Ops::new(3, 1).take(20_000) {
            let (program, slot) = match op {
                Op::Install { program }
                | Op::Replace { program, .. }
                | Op::Shrink { program, .. } => (program, true),
                Op::Keep { program } | Op::Abandon { program, .. } | Op::Visit { program, .. } => {
                    (program, false)
                }
                _ => continue,
            };
            assert_eq!(program.tier(), Tier::Full);
            assert_eq!(super::program(program.seed), program);
            assert_eq!(slot_of(program.seed).is_some(), slot);
            assert!(program.shape.bytes() <= 4 << 20);
            largest = largest.max(program.shape.bytes());
        }
        assert!(largest > 64 << 10, "some span code pages: {largest}");
    }
}
