//! Which slots live in registers.
//!
//! A slot has one register for its bits while they are no float, and another
//! while they are; both are its alone in the whole of the code, so that nothing
//! has to be moved where paths meet. The slots that are used most, deep in
//! loops above all, get them.

use std::collections::BTreeMap;

use super::flow::{Flow, after, defs, uses};
use super::plan::{Request, plan};
use crate::syntax::code::{Op, Slot};
use crate::tier::types::Ty;

/// General registers: those that calls keep, then those that they do not.
const GENERAL: [u8; 10] = [13, 14, 15, 5, 8, 9, 10, 11, 6, 7];

/// Of [`GENERAL`], those that calls keep.
const KEPT: usize = 4;

/// Registers for floats; calls keep none.
const FLOATS: [u8; 14] = [2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

/// Where the bits of a slot are while its type is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    General(u8),
    Float(u8),
    Memory,
}

/// Which slots live where.
#[derive(Debug)]
pub(super) struct Registers {
    general: BTreeMap<Slot, u8>,
    floats: BTreeMap<Slot, u8>,
}

impl Registers {
    pub(super) fn new(request: &Request<'_>, flow: &Flow) -> Self {
        let code = request.code;
        let mut depth = vec![0_u32; code.ops.len()];
        for (pc, op) in code.ops.iter().enumerate() {
            if let Op::Jump { t } = op
                && (*t as usize) < pc
            {
                depth[*t as usize..=pc].iter_mut().for_each(|depth| *depth += 1);
            }
        }
        let mut weights = BTreeMap::<(bool, Slot), u64>::new();
        for (pc, op) in code.ops.iter().enumerate() {
            let Some(before) = &flow.before[pc] else { continue };
            let after = after(op, &plan(request, pc, before), before, false);
            let mut count = |slot: Slot, ty: Ty| {
                if ty.is_known() {
                    let weight = 10_u64.pow(depth[pc].min(6));
                    *weights.entry((ty == Ty::Float, slot)).or_default() += weight;
                }
            };
            for slot in uses(op) {
                // A guarded one is in its register behind the guard.
                count(slot, after[usize::from(slot)]);
                count(slot, before[usize::from(slot)]);
            }
            for slot in defs(op) {
                count(slot, after[usize::from(slot)]);
            }
        }
        let mut by_weight: Vec<_> = weights.into_iter().collect();
        by_weight.sort_by_key(|(slot, weight)| (core::cmp::Reverse(*weight), *slot));
        let give = |floats: bool, registers: &[u8]| {
            let slots = by_weight.iter().filter(|((is_float, _), _)| *is_float == floats);
            slots.map(|((_, slot), _)| *slot).zip(registers.iter().copied()).collect()
        };
        Self { general: give(false, &GENERAL), floats: give(true, &FLOATS) }
    }

    /// Where a slot's bits are while it is of type `ty`, which is known.
    pub(super) fn place(&self, slot: Slot, ty: Ty) -> Place {
        if ty == Ty::Float {
            self.floats.get(&slot).map_or(Place::Memory, |r| Place::Float(*r))
        } else {
            self.general.get(&slot).map_or(Place::Memory, |r| Place::General(*r))
        }
    }

    /// Whether calls leave what is in a place alone.
    pub(super) fn is_kept(place: Place) -> bool {
        match place {
            Place::General(r) => GENERAL[..KEPT].contains(&r),
            Place::Float(_) => false,
            Place::Memory => true,
        }
    }
}
