//! What is live and what is known at each operation.

use super::plan::{How, Plan, Request, plan};
use crate::syntax::code::{CONST, Code, Op, Operand, Slot};
use crate::tier::types::Ty;

/// A set of slots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Slots([u64; 4]);

impl Slots {
    pub(super) fn has(&self, slot: Slot) -> bool {
        self.0[usize::from(slot / 64)] >> (slot % 64) & 1 == 1
    }

    fn add(&mut self, slot: Slot) {
        self.0[usize::from(slot / 64)] |= 1 << (slot % 64);
    }

    fn remove(&mut self, slot: Slot) {
        self.0[usize::from(slot / 64)] &= !(1 << (slot % 64));
    }

    fn add_all(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(mine, theirs)| *mine |= theirs);
    }

    fn remove_all(&mut self, other: &[Slot]) {
        other.iter().for_each(|slot| self.remove(*slot));
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Slot> + '_ {
        (0..256).filter(|slot| self.has(*slot))
    }
}

/// Slots that an operation reads.
pub(super) fn uses(op: &Op) -> Vec<Slot> {
    let slots = |operands: &[Operand]| {
        operands.iter().copied().filter(|operand| operand & CONST == 0).collect::<Vec<_>>()
    };
    let run = |base: Slot, n: u16| (base..base + n).collect::<Vec<_>>();
    match *op {
        Op::Move { a, .. }
        | Op::Un { a, .. }
        | Op::JumpIf { a, .. }
        | Op::StoreGlobal { a, .. }
        | Op::Unpack { a, .. }
        | Op::Return { a }
        | Op::Raise { a, .. }
        | Op::IsKind { a, .. }
        | Op::Reraise { a } => slots(&[a]),
        Op::Bin { a, b, .. }
        | Op::Cmp { a, b, .. }
        | Op::CmpJump { a, b, .. }
        | Op::Index { a, b, .. } => slots(&[a, b]),
        Op::StoreIndex { a, b, v } => slots(&[a, b, v]),
        Op::ForRange { i, stop, .. } => slots(&[i, stop]),
        Op::ForEach { i, of, .. } => slots(&[i, of]),
        Op::Call { f, base, n, .. } => [vec![f], run(base, n.into())].concat(),
        Op::CallGlobal { base, n, .. } | Op::CallBuiltin { base, n, .. } => run(base, n.into()),
        Op::CallMethod { a, base, n, .. } => [slots(&[a]), run(base, n.into())].concat(),
        Op::MakeList { base, n, .. } | Op::MakeTuple { base, n, .. } => run(base, n),
        Op::Jump { .. } | Op::Loop { .. } | Op::LoadGlobal { .. } | Op::MakeFunction { .. } => {
            Vec::new()
        }
    }
}

/// Slots that an operation writes.
pub(super) fn defs(op: &Op) -> Vec<Slot> {
    match *op {
        Op::Move { d, .. }
        | Op::Bin { d, .. }
        | Op::Un { d, .. }
        | Op::Cmp { d, .. }
        | Op::LoadGlobal { d, .. }
        | Op::Index { d, .. }
        | Op::Call { d, .. }
        | Op::CallGlobal { d, .. }
        | Op::CallBuiltin { d, .. }
        | Op::CallMethod { d, .. }
        | Op::MakeList { d, .. }
        | Op::MakeTuple { d, .. }
        | Op::MakeFunction { d, .. }
        | Op::IsKind { d, .. } => vec![d],
        Op::Unpack { base, n, .. } => (base..base + u16::from(n)).collect(),
        Op::ForRange { i, var, .. } | Op::ForEach { i, var, .. } => vec![i, var],
        Op::JumpIf { .. }
        | Op::Jump { .. }
        | Op::CmpJump { .. }
        | Op::Loop { .. }
        | Op::StoreGlobal { .. }
        | Op::StoreIndex { .. }
        | Op::Return { .. }
        | Op::Raise { .. }
        | Op::Reraise { .. } => Vec::new(),
    }
}

/// Operations that may come next: straight on, and by a jump.
pub(super) fn successors(pc: usize, op: &Op) -> (Option<usize>, Option<usize>) {
    match *op {
        Op::Jump { t } => (None, Some(t as usize)),
        Op::JumpIf { t, .. }
        | Op::CmpJump { t, .. }
        | Op::ForRange { t, .. }
        | Op::ForEach { t, .. } => (Some(pc + 1), Some(t as usize)),
        Op::Return { .. } | Op::Raise { .. } | Op::Reraise { .. } => (None, None),
        _ => (Some(pc + 1), None),
    }
}

/// What is live before each operation: slots that are read on some path from
/// there before they are written.
///
/// What is live in the middle of a call was written by that call, or it would
/// be live at the start, too; and there only locals are, which every call
/// begins by writing.
pub(super) fn liveness(code: &Code) -> Vec<Slots> {
    let mut live = vec![Slots::default(); code.ops.len() + 1];
    loop {
        let mut changed = false;
        for (pc, op) in code.ops.iter().enumerate().rev() {
            let mut now = Slots::default();
            let (next, jump) = successors(pc, op);
            let defs = defs(op);
            if let Some(next) = next {
                now.add_all(&live[next]);
                now.remove_all(&defs);
            }
            if let Some(jump) = jump {
                // At its end a loop writes nothing. No other operation that
                // jumps writes anything.
                now.add_all(&live[jump]);
            }
            uses(op).into_iter().for_each(|slot| now.add(slot));
            // Wherever it raises, its handler goes on with what there is.
            if let Some(handler) = code.handler(pc) {
                let mut there = live[handler.target as usize];
                there.remove(handler.slot);
                now.add_all(&there);
            }
            changed |= now != live[pc];
            live[pc] = now;
        }
        if !changed {
            debug_assert!(live[0].iter().all(|slot| slot < code.locals), "{}", code.name);
            return live;
        }
    }
}

/// The types of all slots.
pub(super) type Types = Box<[Ty]>;

/// What is known of code as it is entered in one place.
#[derive(Debug)]
pub(super) struct Flow {
    /// Before each operation that can be reached.
    pub(super) before: Vec<Option<Types>>,
}

impl Flow {
    pub(super) fn new(request: &Request<'_>) -> Self {
        let code = request.code;
        let mut flow = Self { before: vec![None; code.ops.len() + 1] };
        let mut todo = vec![request.entry];
        flow.join(request.entry, &request.live, &request.types);
        while let Some(pc) = todo.pop() {
            let Some(before) = flow.before[pc].clone() else { continue };
            let op = &code.ops[pc];
            let plan = plan(request, pc, &before);
            if matches!(plan.how, How::Exit) {
                continue;
            }
            let (next, jump) = successors(pc, op);
            for (to, jumps) in [(next, false), (jump, true)] {
                let Some(to) = to else { continue };
                let after = after(op, &plan, &before, jumps);
                if flow.join(to, &request.live, &after) {
                    todo.push(to);
                }
            }
        }
        flow
    }

    /// Merges what comes into `pc`; whether that told anything new.
    fn join(&mut self, pc: usize, live: &[Slots], types: &Types) -> bool {
        let known = |slot: usize| if live[pc].has(slot as Slot) { types[slot] } else { Ty::Any };
        match &mut self.before[pc] {
            Some(before) => {
                let mut changed = false;
                for (slot, ty) in before.iter_mut().enumerate() {
                    let merged = ty.merge(known(slot));
                    changed |= merged != *ty;
                    *ty = merged;
                }
                changed
            }
            before => {
                *before = Some((0..types.len()).map(known).collect());
                true
            }
        }
    }
}

/// Types behind an operation, if it goes straight on or if it jumps.
pub(super) fn after(op: &Op, plan: &Plan, before: &Types, jumps: bool) -> Types {
    let mut types = before.clone();
    for (slot, ty) in &plan.refine {
        types[usize::from(*slot)] = *ty;
    }
    match op {
        // At its end a loop leaves its variable as it is.
        Op::ForRange { .. } | Op::ForEach { .. } if jumps => {}
        Op::ForRange { i, var, .. } | Op::ForEach { i, var, .. } => {
            types[usize::from(*i)] = Ty::Int;
            types[usize::from(*var)] = plan.result;
        }
        _ => defs(op).into_iter().for_each(|slot| types[usize::from(slot)] = plan.result),
    }
    types
}
