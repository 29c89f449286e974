//! The language of the programs: every public operation of the library, over
//! two arenas, a few virtual threads and a few slots.
//!
//! Operands are picks: any number, taken modulo what there is to pick from, so
//! that nearly every program means something. An operation that has nothing to
//! work on does nothing.

use arbitrary::{Arbitrary, Unstructured};
use jit_arena::Strategy;

use crate::code;
use crate::sizes::{Align, Layout, Length};

/// Operations of a program at most.
pub const MAX_OPS: usize = 512;
/// Operations of a churn program at most.
pub const MAX_CHURN: usize = 8192;

/// Picks one of what there is.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Pick(pub u8);

impl Pick {
    /// An index below `len`, if there is one.
    #[must_use]
    pub fn of(self, len: usize) -> Option<usize> {
        usize::from(self.0).checked_rem(len)
    }
}

/// Options of an arena.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// The protection strategy.
    pub strategy: Strategy,
    /// Size of a code page, bytes.
    pub code_page: usize,
    /// Size of the region, bytes.
    pub reserve: usize,
    /// Free memory to keep, bytes.
    pub keep_free: usize,
}

impl Setup {
    /// Options from two bytes; the strategy from the first one's lowest bits.
    #[must_use]
    pub fn from_bytes(first: u8, second: u8) -> Self {
        let strategy = match first & 3 {
            0 | 1 => Strategy::DualOpen,
            2 => Strategy::DualTransient,
            _ => Strategy::Mprotect,
        };
        let code_page = [64, 16, 4, 256][usize::from(first >> 2 & 3)] * 1024;
        let code_page = code_page.max(code::system_page());
        let pages = [4, 1, 2, 3, 8, 16, 33, 24][usize::from(second & 7)];
        let keep_free = if second & 8 == 0 { 0 } else { 128 * 1024 };
        Self { strategy, code_page, reserve: code_page * pages, keep_free }
    }
}

impl<'a> Arbitrary<'a> for Setup {
    fn arbitrary(u: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        Ok(Self::from_bytes(u.arbitrary()?, u.arbitrary()?))
    }
}

/// How an executor is dropped.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Way {
    /// Where the program runs: through its newest handle, or none.
    Here,
    /// Through the handle picked, of the same arena or not.
    Through(Pick),
    /// On a thread that has no handle.
    Unattached,
    /// On a thread with a handle of its own, which ends with it.
    Elsewhere,
}

/// One operation. Picks name, in this order: arena or thread, then what the
/// operation works on.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Op {
    /// Builds the second arena, or the first again once it is gone.
    Build(Setup),
    /// Drops an arena; what came from it lives on.
    DropArena(Pick),
    /// Attaches one more virtual thread.
    Attach(Pick),
    /// Drops a handle that nothing borrows.
    Detach(Pick),
    /// Reserves, in the innermost write scope if one is open.
    Reserve(Pick, Layout),
    /// Reserves, writes and publishes in one step.
    Install(Pick, Length, Length, u8),
    /// As `Install`, through the handle that the arena keeps for the thread.
    InstallKept(Pick, Length, u8),
    /// Opens a write scope, or one inside it.
    Open(Pick),
    /// Closes the innermost write scope.
    Close(Pick),
    /// Writes some bytes of a reservation.
    Write(Pick, Pick, Length, Length, u8),
    /// Writes all bytes of a reservation through its slice.
    Fill(Pick, Pick, u8),
    /// Shrinks a reservation.
    Shrink(Pick, Pick, Length, Length),
    /// Publishes a reservation.
    Publish(Pick, Pick),
    /// Drops a reservation.
    Abandon(Pick),
    /// Drops an executor.
    Drop(Pick, Way),
    /// An empty slot.
    NewSlot(Pick),
    /// Drops a slot with what is in it.
    DropSlot(Pick),
    /// Puts an executor into a slot that should be empty.
    Put(Pick, Pick),
    /// Puts an executor into a slot for the one in it.
    Replace(Pick, Pick),
    /// Installs a new executor, puts it into a slot, and drops what that held.
    Turn(Pick, Pick, u8),
    /// Empties a slot.
    Invalidate(Pick),
    /// One more guard.
    Pin(Pick),
    /// Drops a guard, in any order.
    Unpin(Pick, Pick),
    /// Loads a slot under a guard, and calls what is in it.
    Load(Pick, Pick, Pick),
    /// Calls an executor through its own handle under a guard.
    Call(Pick, Pick, Pick),
    /// Enters a slot's executor.
    Enter(Pick, Pick, Pick),
    /// Leaves the executor that a guard runs.
    Leave(Pick, Pick),
    /// A safepoint, of the running executor if there is one.
    Safepoint(Pick, Pick),
    /// Executes so many of the next operations inside a park.
    Park(Pick, Pick, u8),
    /// Collects.
    Collect(Pick),
    /// Collects through the handle that the arena keeps for the thread.
    CollectKept(Pick),
    /// Collects through every handle, then checks that nothing is lost.
    Settle(Pick),
    /// Checks the arena's invariants.
    Verify(Pick),
    /// Installs so many executors; in one write scope if the flag is set.
    Burst(Pick, u8, Length, bool),
    /// Drops every so-manieth executor, so many.
    Cull(Pick, u8, u8),
}

/// A program with the options of its first arena.
#[derive(Clone, Debug)]
pub struct Program {
    /// The first arena.
    pub setup: Setup,
    /// Steps between comparisons of all bytes.
    pub compare_every: usize,
    /// Steps between whole-arena checks.
    pub verify_every: usize,
    /// What to do.
    pub ops: Vec<Op>,
    /// In which order everything is dropped in the end.
    pub ending: u8,
}

impl Program {
    /// Reads a program; what the bytes break off in is left out.
    ///
    /// # Errors
    ///
    /// There is not even a setup.
    pub fn decode(u: &mut Unstructured<'_>) -> arbitrary::Result<Self> {
        let (first, second) = (u.arbitrary()?, u.arbitrary()?);
        let mut ops = Vec::new();
        while !u.is_empty() && ops.len() < MAX_OPS {
            ops.push(u.arbitrary()?);
        }
        Ok(Self {
            setup: Setup::from_bytes(first, second),
            compare_every: 1,
            verify_every: 16,
            ops,
            ending: second >> 4,
        })
    }

    /// Reads a churn program: two bytes an operation.
    #[must_use]
    pub fn decode_churn(data: &[u8]) -> Option<Self> {
        Some(Self { compare_every: 32, verify_every: 512, ..Self::decode_pairs(data, churn_op)? })
    }

    /// Reads a batch program: two bytes an operation.
    #[must_use]
    pub fn decode_batches(data: &[u8]) -> Option<Self> {
        Self::decode_pairs(data, batch_op)
    }

    fn decode_pairs(data: &[u8], op: fn(u8, u8) -> Op) -> Option<Self> {
        let (&[first, second], rest) = data.split_first_chunk()?;
        let attach = Op::Attach(Pick(0));
        let mut ops = vec![attach, attach, attach, Op::NewSlot(Pick(0))];
        ops.extend(rest.chunks_exact(2).take(MAX_CHURN).map(|two| op(two[0], two[1])));
        Some(Self {
            setup: Setup::from_bytes(first, second),
            compare_every: 4,
            verify_every: 64,
            ops,
            ending: second >> 4,
        })
    }
}

/// An operation of a batch program: mostly on reservations.
fn batch_op(kind: u8, n: u8) -> Op {
    let (thread, pick) = (Pick(kind >> 6), Pick(n));
    match kind & 63 {
        kind @ 0..=13 => {
            let code = match kind {
                0 | 1 => Length::Small(n),
                2 => Length::Pages(n & 7, (n >> 4) as i8 - 8),
                _ => Length::Granules(n >> 4, (n & 15) as i8 - 8),
            };
            let align = Align(if kind < 8 { 0 } else { n % 15 });
            let data = (kind > 11).then_some((Length::Small(n), Align(n % 12)));
            Op::Reserve(thread, Layout { code, align, data, tag: u64::from(n) })
        }
        14..=20 => Op::Abandon(pick),
        21..=26 => Op::Open(thread),
        27..=30 => Op::Close(thread),
        31..=37 => Op::Fill(thread, pick, n),
        38..=41 => Op::Shrink(thread, pick, Length::Small(n), Length::Small(n >> 4)),
        42..=48 => Op::Publish(thread, pick),
        49..=52 => Op::Drop(pick, Way::Here),
        53 => Op::Drop(pick, Way::Through(thread)),
        54 => Op::Install(thread, Length::Medium(u16::from(n) * 20), Length::Small(0), n),
        55 => Op::Burst(thread, n % 16, Length::Granules(n >> 4, 0), true),
        56 => Op::Pin(thread),
        57 | 58 => Op::Unpin(thread, pick),
        59 => Op::Detach(thread),
        60 => Op::Attach(pick),
        61 => Op::Settle(pick),
        _ => Op::Collect(thread),
    }
}

/// An operation of a churn program: mostly installs and drops.
fn churn_op(kind: u8, n: u8) -> Op {
    let (thread, pick) = (Pick(kind >> 5), Pick(n));
    let slot = Pick(0);
    match kind & 31 {
        0..=4 => Op::Install(thread, Length::Small(n), Length::Small(kind), n),
        5 | 6 => {
            Op::Install(thread, Length::Granules(n, (kind >> 5) as i8 - 4), Length::Small(0), n)
        }
        7 => Op::Install(thread, Length::Pages(n, (kind >> 5) as i8 - 4), Length::Small(0), n),
        8..=11 => Op::Drop(pick, Way::Here),
        12 | 13 => Op::Drop(pick, Way::Through(thread)),
        14 => Op::Burst(thread, n % 32, Length::Granules(n >> 5, 0), n & 16 == 0),
        15 => Op::Cull(thread, n >> 4, n & 15),
        16..=18 => Op::Turn(thread, slot, n),
        19 => Op::Pin(thread),
        20 => Op::Unpin(thread, pick),
        21 | 22 => Op::Enter(thread, pick, slot),
        23 => Op::Leave(thread, pick),
        24 => Op::Safepoint(thread, pick),
        25 => Op::Park(thread, pick, n % 8),
        26 | 27 => Op::Load(thread, pick, slot),
        28 => Op::Replace(slot, pick),
        29 | 30 => Op::Collect(thread),
        _ => Op::Settle(thread),
    }
}
