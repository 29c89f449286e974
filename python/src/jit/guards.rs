//! Guards, and the ways out of machine code.

use super::buffer::{Label, Patch};
use super::emit::{Emitter, Stub};
use super::helpers;
use super::plan::Constant;
use super::stencils::{Cond, Key, RAX};
use crate::run::context::{FORCE_AT, FUEL_AT};
use crate::syntax::code::{Op, Slot};
use crate::tier::types::Ty;
use crate::tier::{RAISED, RETURNED};

impl Emitter<'_> {
    /// The number of the way out at an operation.
    fn number(&mut self, pc: usize) -> usize {
        let exits = &mut self.exits;
        *self.numbers.entry(pc).or_insert_with(|| {
            exits.push(pc as u32);
            exits.len() - 1
        })
    }

    /// Where to go to leave at this operation as it was before it began.
    pub(super) fn exit(&mut self) -> Label {
        if let Some(label) = self.ways_out.get(&(self.pc, true)) {
            return *label;
        }
        let number = self.number(self.pc);
        let label = self.buffer.label();
        let spill = Some((self.pc, self.before.clone()));
        self.stubs.push(Stub::Exit { label, number, spill });
        self.ways_out.insert((self.pc, true), label);
        label
    }

    /// Where to go to leave at an operation when all is in the frame.
    pub(super) fn exit_spilled(&mut self, pc: usize) -> Label {
        if let Some(label) = self.ways_out.get(&(pc, false)) {
            return *label;
        }
        let number = self.number(pc);
        let label = self.buffer.label();
        self.stubs.push(Stub::Exit { label, number, spill: None });
        self.ways_out.insert((pc, false), label);
        label
    }

    /// Where to go with an exception in the context, when all is in the frame.
    pub(super) fn raised(&mut self) -> Label {
        let number = self.number(self.pc);
        let label = self.buffer.label();
        self.stubs.push(Stub::Raised { label, number });
        label
    }

    pub(super) fn jump_if(&mut self, cond: Cond, to: Label) {
        self.buffer.put(Key::JumpIf(cond), &[Patch::Label(to)]);
    }

    /// Leaves at random, if that is wanted.
    fn forced(&mut self, out: Label) {
        if self.request.forced {
            self.buffer.put(Key::Countdown, &[Patch::Bits(FORCE_AT)]);
            self.jump_if(Cond::S, out);
        }
    }

    /// Leaves unless a slot of the frame is of type `ty`; takes it from there.
    pub(super) fn guard(&mut self, slot: Slot, ty: Ty) {
        let out = self.exit();
        self.forced(out);
        self.check_tag(slot, ty, out);
        self.now[usize::from(slot)] = ty;
        self.reload(slot, ty);
    }

    /// Goes to `out` unless a slot of the frame is of type `ty`.
    pub(super) fn check_tag(&mut self, slot: Slot, ty: Ty, out: Label) {
        let (tag, kind) = ty.tag();
        let tag = Patch::Bits(tag as i32);
        self.buffer.put(Key::CompareTag, &[Self::tag_at(slot), tag]);
        self.jump_if(Cond::Ne, out);
        if let Some(kind) = kind {
            self.buffer.put(Key::Load(RAX), &[Self::bits_at(slot)]);
            self.buffer.put(Key::CompareKind(RAX), &[Patch::Bits(kind as i32)]);
            self.jump_if(Cond::Ne, out);
        }
    }

    /// Leaves if a slot of the frame has no value.
    pub(super) fn check_defined(&mut self, slot: Slot) {
        let out = self.exit();
        self.buffer.put(Key::CompareTag, &[Self::tag_at(slot), Patch::Bits(0)]);
        self.jump_if(Cond::E, out);
    }

    /// Leaves if a global was assigned since it was looked at.
    pub(super) fn check_version(&mut self, g: u16, constant: &Constant) {
        let out = self.exit();
        self.forced(out);
        let global = &self.request.world.globals[usize::from(g)];
        let word = self.buffer.word((&raw const global.version).expose_provenance() as u64);
        // The low half: a version comes back after two thousand million
        // assignments, between any two of which this code is dropped.
        let version = Patch::Bits(constant.version as u32 as i32);
        self.buffer.put(Key::CompareVersion, &[Patch::Data(word), version]);
        self.jump_if(Cond::Ne, out);
        if !self.globals.contains(&(g, constant.version)) {
            self.globals.push((g, constant.version));
        }
    }

    /// Loops stop here now and then, so that reclamation can go on.
    pub(super) fn safepoint(&mut self) {
        let (label, back) = (self.buffer.label(), self.buffer.label());
        self.buffer.put(Key::Countdown, &[Patch::Bits(FUEL_AT)]);
        self.jump_if(Cond::Le, label);
        self.buffer.place(back);
        let types = self.before.clone();
        self.stubs.push(Stub::Safepoint { label, back, pc: self.pc, types });
    }

    /// Calls a helper: context, frame, a word, a number.
    pub(super) fn call(&mut self, helper: usize, word: u64, number: i32) {
        let word = self.buffer.word(word);
        self.buffer.put(Key::Arguments, &[]);
        self.buffer.put(Key::ThirdWord, &[Patch::Data(word)]);
        self.buffer.put(Key::FourthImmediate, &[Patch::Bits(number)]);
        self.buffer.put(Key::Call, &[Patch::Helper(helper)]);
    }

    /// Leaves with a number in `rax`.
    pub(super) fn leave_with(&mut self, how: u64) {
        self.immediate(RAX, how);
        self.buffer.put(Key::Jump, &[Patch::Label(self.leave)]);
    }

    pub(super) fn leave_returned(&mut self) {
        self.leave_with(RETURNED);
    }

    pub(super) fn stub(&mut self, stub: Stub) -> Option<()> {
        match stub {
            Stub::Exit { label, number, spill } => {
                self.buffer.place(label);
                if let Some((pc, types)) = spill {
                    self.spill_all(pc, &types);
                }
                self.leave_with(number as u64);
            }
            Stub::Raised { label, number } => {
                self.buffer.place(label);
                self.leave_with(RAISED | number as u64);
            }
            Stub::Edge { label, from, to } => {
                self.buffer.place(label);
                let there = self.flow.before[to].clone()?;
                for slot in self.request.live[to].iter() {
                    let at = usize::from(slot);
                    if from[at].is_known() && !there[at].is_known() {
                        self.spill(slot, from[at]);
                    }
                }
                self.buffer.put(Key::Jump, &[Patch::Label(self.label(to)?)]);
            }
            Stub::SafepointSpilled { label, back } => {
                self.buffer.place(label);
                self.call(helpers::safepoint_address(), 0, 0);
                self.buffer.put(Key::Jump, &[Patch::Label(back)]);
            }
            Stub::Slow { label, back, pc, op, plan, now } => {
                self.buffer.place(label);
                self.pc = pc;
                self.before = self.flow.before[pc].clone()?;
                self.now = now;
                self.interpret(&op, &plan);
                self.buffer.put(Key::Jump, &[Patch::Label(back)]);
            }
            Stub::Call { label, back, pc, callee, packed } => {
                self.buffer.place(label);
                self.pc = pc;
                self.call(helpers::call_address(), callee, packed);
                self.called(back);
            }
            Stub::Finish { label, back, pc, callee, packed } => {
                self.buffer.place(label);
                self.pc = pc;
                let word = self.buffer.word(callee);
                self.buffer.put(Key::Finish, &[Patch::Data(word), Patch::Bits(packed)]);
                self.buffer.put(Key::Call, &[Patch::Helper(helpers::finish_address())]);
                self.called(back);
            }
            Stub::Safepoint { label, back, pc, types } => {
                self.buffer.place(label);
                self.spill_all(pc, &types);
                self.call(helpers::safepoint_address(), 0, 0);
                self.reload_all(pc, &types, &[]);
                self.buffer.put(Key::Jump, &[Patch::Label(back)]);
            }
        }
        Some(())
    }

    /// Behind a helper that called: raises, or goes back.
    fn called(&mut self, back: Label) {
        let raised = self.raised();
        self.buffer.put(Key::Test(RAX), &[]);
        self.jump_if(Cond::Ne, raised);
        self.buffer.put(Key::Jump, &[Patch::Label(back)]);
    }

    /// The operation behind this one.
    pub(super) fn behind(&self) -> usize {
        debug_assert!(!matches!(self.request.code.ops[self.pc], Op::Return { .. }));
        self.pc + 1
    }
}
