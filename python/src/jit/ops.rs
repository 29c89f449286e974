//! What each operation becomes.

use super::buffer::{Label, Patch};
use super::emit::{Emitter, Stub};
use super::flow::{after, defs};
use super::helpers;
use super::plan::{How, Plan};
use super::stencils::{Alu, Cond, Fpu, Key, RAX, RCX, RDX};
use crate::run::context::{DEEPEST, DEPTH_AT, FUEL_AT, LIMIT_AT, RESULT_AT};
use crate::syntax::code::{BinOp, Builtin, CONST, CmpOp, Op, Operand, Slot, UnOp};
use crate::tier::{RETURNED, types::Ty};
use crate::value::Value;

impl Emitter<'_> {
    pub(super) fn perform(&mut self, op: &Op, plan: &Plan) -> Option<()> {
        match plan.how {
            How::Exit => return None,
            How::Step => return self.step(op, plan),
            How::Direct(constant) => {
                let Op::CallGlobal { d, g, base, .. } = *op else { return None };
                self.check_version(g, &constant);
                let packed =
                    i32::from(self.request.code.slots) | i32::from(base) << 8 | i32::from(d) << 16;
                self.direct(op, plan, constant.value, packed)?;
                return Some(());
            }
            How::Global(constant) => {
                let Op::LoadGlobal { d, g } = *op else { return None };
                self.check_version(g, &constant);
                self.constant(d, constant.value, constant.ty);
                return Some(());
            }
            How::Native => {}
        }
        match *op {
            Op::Move { d, a } => self.copy(d, a),
            Op::Bin { op, d, a, b } if plan.result == Ty::Int => self.int(op, d, a, b)?,
            Op::Bin { op, d, a, b } => self.float_op(op, d, a, b)?,
            Op::Un { op, d, a } => self.unary(op, d, a, plan.result),
            Op::Cmp { op, d, a, b } => {
                if self.ty(a) == Ty::Float {
                    self.float_flag(op, a, b);
                } else {
                    let cond = self.compare_ints(op, a, b);
                    self.buffer.put(Key::SetIf(cond), &[]);
                }
                self.set(d, Ty::Bool, RAX);
            }
            Op::CmpJump { op: cmp, when, a, b, t } => {
                let to = self.way(op, plan, t as usize)?;
                if self.ty(a) == Ty::Float {
                    self.jump_if_floats(cmp, when, a, b, to);
                } else {
                    let cond = self.compare_ints(cmp, a, b);
                    let cond = if when { cond } else { cond.not()? };
                    self.jump_if(cond, to);
                }
            }
            Op::JumpIf { when, a, t } => {
                let r = self.general(a, RAX);
                self.buffer.put(Key::Test(r), &[]);
                let to = self.way(op, plan, t as usize)?;
                self.jump_if(if when { Cond::Ne } else { Cond::E }, to);
            }
            Op::Jump { t } => {
                let to = self.way(op, plan, t as usize)?;
                self.buffer.put(Key::Jump, &[Patch::Label(to)]);
            }
            Op::Loop { .. } => self.safepoint(),
            Op::ForRange { i, stop, step, var, t } => {
                let to = self.way(op, plan, t as usize)?;
                let at = self.general(i, RAX);
                match self.small(stop) {
                    Some(stop) => {
                        self.buffer.put(Key::AluImmediate(Alu::Cmp, at), &[Patch::Bits(stop)]);
                    }
                    None => {
                        let end = self.general(stop, RCX);
                        self.buffer.put(Key::Alu(Alu::Cmp, at, end), &[]);
                    }
                }
                self.jump_if(if step > 0 { Cond::Ge } else { Cond::Le }, to);
                // The next one, before anything has changed.
                self.buffer.put(Key::Move(RDX, at), &[]);
                self.buffer.put(Key::AluImmediate(Alu::Add, RDX), &[Patch::Bits(step.into())]);
                let out = self.exit();
                self.jump_if(Cond::O, out);
                self.set(var, Ty::Int, at);
                self.set(i, Ty::Int, RDX);
            }
            Op::Index { d, a, b } => {
                let (slow, back) = self.slow(op, plan);
                self.index(d, a, b, plan.result, slow);
                self.buffer.place(back);
            }
            Op::StoreIndex { a, b, v } => {
                let (slow, back) = self.slow(op, plan);
                self.store_index(a, b, v, slow);
                self.buffer.place(back);
            }
            Op::CallBuiltin { d, f, base, .. } => self.builtin(d, f, base)?,
            Op::Return { a } => self.give_back(a),
            _ => return None,
        }
        Some(())
    }

    // ----- helpers

    /// Where the interpreter does an operation out of the way, and where that
    /// comes back.
    fn slow(&mut self, op: &Op, plan: &Plan) -> (Label, Label) {
        let (label, back) = (self.buffer.label(), self.buffer.label());
        let (op, plan, now) = (*op, plan.clone(), self.now.clone());
        self.stubs.push(Stub::Slow { label, back, pc: self.pc, op, plan, now });
        (label, back)
    }

    /// Has the interpreter do an operation that does not jump.
    pub(super) fn interpret(&mut self, op: &Op, plan: &Plan) {
        let (function, pc) = (self.request.function as u64, self.pc as i32);
        self.helper(op, plan, helpers::step_address(), function, pc);
    }

    /// Calls the function that a global holds: its own code at once if it is
    /// this function, or a leaf, whose code the caller's guard protects;
    /// anything else by way of the runtime.
    fn direct(&mut self, op: &Op, plan: &Plan, callee: Value, packed: i32) -> Option<()> {
        let function = callee.as_function()?;
        let Op::CallGlobal { d, base, .. } = *op else { return None };
        let is_self = callee.bits == self.request.function as u64 && self.request.entry == 0;
        if !is_self && !function.code.is_leaf {
            self.helper(op, plan, helpers::call_address(), callee.bits, packed);
            return Some(());
        }
        let before = self.now.clone();
        self.spill_all(self.pc, &before);
        let [slow, unfinished, done] = [(); 3].map(|()| self.buffer.label());
        let (pc, callee) = (self.pc, callee.bits);
        self.stubs.push(Stub::Call { label: slow, back: done, pc, callee, packed });
        self.stubs.push(Stub::Finish { label: unfinished, back: done, pc, callee, packed });
        if is_self {
            let (label, back) = (self.buffer.label(), self.buffer.label());
            self.buffer.put(Key::Countdown, &[Patch::Bits(FUEL_AT)]);
            self.jump_if(Cond::Le, label);
            self.buffer.place(back);
            self.stubs.push(Stub::SafepointSpilled { label, back });
        }
        // The callee's frame, as `Context::call_function` makes it.
        let slots = self.request.code.slots;
        let code = &function.code;
        self.buffer.put(Key::Arguments, &[]);
        self.buffer.put(Key::NewFrame, &[Self::tag_at(slots)]);
        self.buffer.put(Key::CompareLimit, &[Patch::Bits(LIMIT_AT)]);
        self.jump_if(Cond::A, slow);
        let deepest = Patch::Bits(DEEPEST as i32);
        self.buffer.put(Key::CompareContext, &[Patch::Bits(DEPTH_AT), deepest]);
        self.jump_if(Cond::Ae, slow);
        for at in 0..code.params {
            let [from, to] =
                [base + at, slots + at].map(|slot| [Self::tag_at(slot), Self::bits_at(slot)]);
            self.buffer.put(Key::Copy, &[from[0], from[1], to[0], to[1]]);
        }
        for at in code.params..code.locals {
            self.buffer.put(Key::StoreTag, &[Self::tag_at(slots + at), Patch::Bits(0)]);
        }
        if is_self {
            self.buffer.put(Key::CountUp, &[Patch::Bits(DEPTH_AT)]);
            self.buffer.put(Key::Call, &[Patch::Label(self.start)]);
        } else {
            let direct = &raw const function.sites[0].direct;
            let word = self.buffer.word(direct.expose_provenance() as u64);
            self.buffer.put(Key::Follow, &[Patch::Data(word)]);
            self.jump_if(Cond::E, slow);
            self.buffer.put(Key::CountUp, &[Patch::Bits(DEPTH_AT)]);
            self.buffer.put(Key::CallRegister, &[]);
        }
        self.buffer.put(Key::Countdown, &[Patch::Bits(DEPTH_AT)]);
        let word = self.buffer.word(RETURNED);
        self.buffer.put(Key::Word(RCX), &[Patch::Data(word)]);
        self.buffer.put(Key::Alu(Alu::Cmp, RAX, RCX), &[]);
        self.jump_if(Cond::Ne, unfinished);
        let (tag, bits) = (Patch::Bits(RESULT_AT), Patch::Bits(RESULT_AT + 8));
        self.buffer.put(Key::CopyIn, &[tag, bits, Self::tag_at(d), Self::bits_at(d)]);
        self.buffer.place(done);
        self.results(op, plan);
        Some(())
    }

    /// Has the interpreter do it.
    fn step(&mut self, op: &Op, plan: &Plan) -> Option<()> {
        let function = self.request.function as u64;
        let pc = self.pc as i32;
        let (helper, when, t) = match *op {
            Op::CmpJump { when, t, .. } | Op::JumpIf { when, t, .. } => {
                (helpers::test_address(), when, t)
            }
            Op::ForEach { t, .. } => (helpers::next_address(), false, t),
            Op::Raise { .. } | Op::Reraise { .. } => {
                let before = self.now.clone();
                self.spill_all(self.pc, &before);
                self.call(helpers::step_address(), function, pc);
                let raised = self.raised();
                self.buffer.put(Key::Jump, &[Patch::Label(raised)]);
                return Some(());
            }
            _ => {
                self.interpret(op, plan);
                return Some(());
            }
        };
        // One that answers.
        let before = self.now.clone();
        self.spill_all(self.pc, &before);
        self.call(helper, function, pc);
        let raised = self.raised();
        self.buffer.put(Key::AluImmediate(Alu::Cmp, RAX), &[Patch::Bits(helpers::RAISED as i32)]);
        self.jump_if(Cond::E, raised);
        self.buffer.put(Key::Move(RDX, RAX), &[]);
        let jumped = after(op, plan, &self.before, true);
        self.reload_all(t as usize, &jumped, &[]);
        let to = self.way(op, plan, t as usize)?;
        self.buffer.put(Key::Test(RDX), &[]);
        self.jump_if(if when { Cond::Ne } else { Cond::E }, to);
        self.results(op, plan);
        Some(())
    }

    /// Calls a helper that says only whether it raised something.
    fn helper(&mut self, op: &Op, plan: &Plan, helper: usize, word: u64, number: i32) {
        let before = self.now.clone();
        self.spill_all(self.pc, &before);
        self.call(helper, word, number);
        let raised = self.raised();
        self.buffer.put(Key::Test(RAX), &[]);
        self.jump_if(Cond::Ne, raised);
        self.results(op, plan);
    }

    /// Behind a helper: checks what it brought, and takes back what it did not
    /// keep. All that is live is in the frame.
    fn results(&mut self, op: &Op, plan: &Plan) {
        let types = after(op, plan, &self.before, false);
        let next = self.behind();
        let defined = defs(op);
        if plan.result.is_known() {
            let out = self.exit_spilled(next);
            for slot in &defined {
                // The counter of a loop is an int.
                self.check_tag(*slot, types[usize::from(*slot)], out);
            }
        }
        self.reload_all(next, &types, &defined);
        for slot in defined {
            let ty = types[usize::from(slot)];
            if ty.is_known() {
                self.reload(slot, ty);
            }
        }
    }

    // ----- values

    /// Gives a slot a value that is known.
    fn constant(&mut self, d: Slot, value: Value, ty: Ty) {
        match ty {
            Ty::Float => {
                let x = self.target(d, ty, 0);
                let word = self.buffer.word(value.bits);
                self.buffer.put(Key::FloatWord(x), &[Patch::Data(word)]);
                self.set_float(d, x);
            }
            ty if ty.is_known() => {
                let r = self.target(d, ty, RAX);
                self.immediate(r, value.bits);
                self.set(d, ty, r);
            }
            _ => {
                self.immediate(RAX, value.bits);
                self.buffer.put(Key::Store(RAX), &[Self::bits_at(d)]);
                let tag = Patch::Bits(value.tag as i32);
                self.buffer.put(Key::StoreTag, &[Self::tag_at(d), tag]);
            }
        }
    }

    fn copy(&mut self, d: Slot, a: Operand) {
        if a & CONST != 0 {
            let value = self.request.constant(a);
            return self.constant(d, value, Ty::of(value));
        }
        match self.ty(a) {
            Ty::Float => {
                let x = self.float(a, 0);
                self.set_float(d, x);
            }
            ty if ty.is_known() => {
                let r = self.general(a, RAX);
                self.set(d, ty, r);
            }
            _ => {
                self.check_defined(a);
                let [from, to] = [a, d].map(|slot| [Self::tag_at(slot), Self::bits_at(slot)]);
                self.buffer.put(Key::Copy, &[from[0], from[1], to[0], to[1]]);
            }
        }
    }

    fn give_back(&mut self, a: Operand) {
        let (tag, bits) = (Patch::Bits(RESULT_AT), Patch::Bits(RESULT_AT + 8));
        let ty = self.ty(a);
        if a & CONST != 0 {
            let value = self.request.constant(a);
            self.immediate(RAX, value.bits);
            self.buffer.put(Key::StoreResult(RAX), &[bits]);
            self.buffer.put(Key::StoreContext, &[tag, Patch::Bits(value.tag as i32)]);
        } else if ty == Ty::Float {
            let x = self.float(a, 0);
            self.buffer.put(Key::StoreResultFloat(x), &[bits]);
            self.buffer.put(Key::StoreContext, &[tag, Patch::Bits(ty.tag().0 as i32)]);
        } else if ty.is_known() {
            let r = self.general(a, RAX);
            self.buffer.put(Key::StoreResult(r), &[bits]);
            self.buffer.put(Key::StoreContext, &[tag, Patch::Bits(ty.tag().0 as i32)]);
        } else {
            self.check_defined(a);
            self.buffer.put(Key::CopyOut, &[Self::tag_at(a), Self::bits_at(a), tag, bits]);
        }
        self.leave_returned();
    }

    // ----- numbers

    fn int(&mut self, op: BinOp, d: Slot, a: Operand, b: Operand) -> Option<()> {
        let out = self.exit();
        match op {
            BinOp::Add | BinOp::Sub | BinOp::Mul | BinOp::And | BinOp::Or | BinOp::Xor => {
                let (alu, overflows) = match op {
                    BinOp::Add => (Alu::Add, true),
                    BinOp::Sub => (Alu::Sub, true),
                    BinOp::Mul => (Alu::Mul, true),
                    BinOp::And => (Alu::And, false),
                    BinOp::Or => (Alu::Or, false),
                    _ => (Alu::Xor, false),
                };
                // In scratch: on overflow the operands are needed again.
                self.general_into(a, RAX);
                match self.small(b) {
                    Some(b) => self.buffer.put(Key::AluImmediate(alu, RAX), &[Patch::Bits(b)]),
                    None => {
                        let b = self.general(b, RCX);
                        self.buffer.put(Key::Alu(alu, RAX, b), &[]);
                    }
                }
                if overflows {
                    self.jump_if(Cond::O, out);
                }
            }
            BinOp::FloorDiv | BinOp::Mod => self.divide(op, a, b),
            BinOp::Shl | BinOp::Shr => {
                self.general_into(b, RCX);
                self.buffer.put(Key::AluImmediate(Alu::Cmp, RCX), &[Patch::Bits(63)]);
                self.jump_if(Cond::A, out);
                self.general_into(a, RAX);
                if op == BinOp::Shl {
                    self.buffer.put(Key::ShiftLeft, &[]);
                    self.jump_if(Cond::Ne, out);
                } else {
                    self.buffer.put(Key::ShiftRight, &[]);
                }
            }
            BinOp::Div | BinOp::Pow => return None,
        }
        self.set(d, Ty::Int, RAX);
        Some(())
    }

    /// Divides, rounding down; the wanted part is in `rax`.
    fn divide(&mut self, op: BinOp, a: Operand, b: Operand) {
        let out = self.exit();
        let by = self.small(b);
        self.general_into(a, RAX);
        if let Some(by) = by.filter(|by| *by > 0 && by.count_ones() == 1) {
            if op == BinOp::Mod {
                self.buffer.put(Key::AluImmediate(Alu::And, RAX), &[Patch::Bits(by - 1)]);
            } else {
                let shift = Patch::Bits(by.trailing_zeros() as i32);
                self.buffer.put(Key::ShiftRightBy, &[shift]);
            }
            return;
        }
        self.general_into(b, RCX);
        if by.is_none_or(|by| by == 0 || by == -1) {
            // By zero it raises, and by -1 it may overflow.
            self.buffer.put(Key::Test(RCX), &[]);
            self.jump_if(Cond::E, out);
            self.buffer.put(Key::AluImmediate(Alu::Cmp, RCX), &[Patch::Bits(-1)]);
            self.jump_if(Cond::E, out);
        }
        if op == BinOp::Mod {
            self.buffer.put(Key::Modulo, &[]);
            self.buffer.put(Key::Move(RAX, RDX), &[]);
        } else {
            self.buffer.put(Key::FloorDiv, &[]);
        }
    }

    fn float_op(&mut self, op: BinOp, d: Slot, a: Operand, b: Operand) -> Option<()> {
        let fpu = match op {
            BinOp::Add => Fpu::Add,
            BinOp::Sub => Fpu::Sub,
            BinOp::Mul => Fpu::Mul,
            BinOp::Div => Fpu::Div,
            _ => return None,
        };
        if op == BinOp::Div && self.ty(a) == Ty::Int && self.ty(b) == Ty::Int {
            for operand in [a, b] {
                if self.small(operand).is_none() {
                    self.check_exact(operand);
                }
            }
        }
        let right = self.float(b, 1);
        if op == BinOp::Div && !self.is_nonzero(b) {
            let out = self.exit();
            self.buffer.put(Key::ZeroFloat(0), &[]);
            self.buffer.put(Key::Fpu(Fpu::Compare, right, 0), &[]);
            // What is not a number compares as equal, too; the interpreter
            // knows better.
            self.jump_if(Cond::E, out);
        }
        let left = self.float(a, 0);
        let mut into = self.target(d, Ty::Float, 0);
        if into == right {
            into = 0;
        }
        if into != left {
            self.buffer.put(Key::MoveFloat(into, left), &[]);
        }
        self.buffer.put(Key::Fpu(fpu, into, right), &[]);
        self.set_float(d, into);
        Some(())
    }

    fn is_nonzero(&self, operand: Operand) -> bool {
        operand & CONST != 0
            && self.request.constant(operand).to_float().is_some_and(|x| x != 0.0 && !x.is_nan())
    }

    /// Leaves if an int is too large for a float to tell it from others.
    fn check_exact(&mut self, operand: Operand) {
        let out = self.exit();
        let r = self.general(operand, RAX);
        let word = self.buffer.word(1 << 53);
        self.buffer.put(Key::Inexact(r), &[Patch::Data(word)]);
        self.jump_if(Cond::Ne, out);
    }

    fn unary(&mut self, op: UnOp, d: Slot, a: Operand, result: Ty) {
        match (op, self.ty(a)) {
            (UnOp::Neg, Ty::Float) => {
                // As a product: the sign of zero changes too.
                let word = self.buffer.word((-1.0_f64).to_bits());
                self.buffer.put(Key::FloatWord(1), &[Patch::Data(word)]);
                let x = self.float(a, 0);
                self.buffer.put(Key::Fpu(Fpu::Mul, 1, x), &[]);
                self.set_float(d, 1);
            }
            (UnOp::Neg, _) => {
                self.general_into(a, RAX);
                self.buffer.put(Key::Negate(RAX), &[]);
                let out = self.exit();
                self.jump_if(Cond::O, out);
                self.set(d, result, RAX);
            }
            (UnOp::Invert, _) => {
                self.general_into(a, RAX);
                self.buffer.put(Key::Invert(RAX), &[]);
                self.set(d, result, RAX);
            }
            (UnOp::Not, _) => {
                let r = self.general(a, RAX);
                self.buffer.put(Key::Test(r), &[]);
                self.buffer.put(Key::SetIf(Cond::E), &[]);
                self.set(d, result, RAX);
            }
        }
    }

    // ----- comparisons

    /// Compares ints; the condition under which `op` holds.
    fn compare_ints(&mut self, op: CmpOp, a: Operand, b: Operand) -> Cond {
        let left = self.general(a, RAX);
        match self.small(b) {
            Some(b) => self.buffer.put(Key::AluImmediate(Alu::Cmp, left), &[Patch::Bits(b)]),
            None => {
                let right = self.general(b, RCX);
                self.buffer.put(Key::Alu(Alu::Cmp, left, right), &[]);
            }
        }
        match op {
            CmpOp::Lt => Cond::L,
            CmpOp::Le => Cond::Le,
            CmpOp::Gt => Cond::G,
            CmpOp::Ge => Cond::Ge,
            CmpOp::Eq | CmpOp::Is => Cond::E,
            CmpOp::Ne | CmpOp::IsNot => Cond::Ne,
        }
    }

    /// Compares floats so that "above" means that the order holds: it does not
    /// for what is not a number. The condition, and that of its opposite;
    /// `None` for equality.
    fn compare_floats(&mut self, op: CmpOp, a: Operand, b: Operand) -> Option<(Cond, Cond)> {
        let (left, right) = (self.float(a, 0), self.float(b, 1));
        let (first, second) = match op {
            CmpOp::Lt | CmpOp::Le => (right, left),
            _ => (left, right),
        };
        self.buffer.put(Key::Fpu(Fpu::Compare, first, second), &[]);
        match op {
            CmpOp::Lt | CmpOp::Gt => Some((Cond::A, Cond::Be)),
            CmpOp::Le | CmpOp::Ge => Some((Cond::Ae, Cond::B)),
            _ => None,
        }
    }

    fn float_flag(&mut self, op: CmpOp, a: Operand, b: Operand) {
        match self.compare_floats(op, a, b) {
            Some((holds, _)) => self.buffer.put(Key::SetIf(holds), &[]),
            None => {
                let equal = matches!(op, CmpOp::Eq | CmpOp::Is);
                self.buffer.put(Key::SetIfEqual(equal), &[]);
            }
        }
    }

    fn jump_if_floats(&mut self, op: CmpOp, when: bool, a: Operand, b: Operand, to: Label) {
        match self.compare_floats(op, a, b) {
            Some((holds, not)) => self.jump_if(if when { holds } else { not }, to),
            None if matches!(op, CmpOp::Eq | CmpOp::Is) == when => {
                let on = self.buffer.label();
                self.jump_if(Cond::P, on);
                self.jump_if(Cond::E, to);
                self.buffer.place(on);
            }
            None => {
                self.jump_if(Cond::Ne, to);
                self.jump_if(Cond::P, to);
            }
        }
    }

    // ----- lists

    /// Goes to `slow` unless the index is in the list's first segment, whose
    /// address is in `rax` then; returns the register with the index.
    fn element(&mut self, a: Operand, b: Operand, slow: Label) -> u8 {
        let list = self.general(a, RCX);
        let index = self.general(b, RDX);
        // Unsigned: negative ones are too large.
        self.buffer.put(Key::CompareNear(index, list), &[]);
        self.jump_if(Cond::Ae, slow);
        self.buffer.put(Key::Segment(list), &[]);
        index
    }

    fn index(&mut self, d: Slot, a: Operand, b: Operand, result: Ty, slow: Label) {
        let anything = self.ty(a) == Ty::Anys;
        let index = self.element(a, b, slow);
        if anything {
            let out = self.exit();
            self.buffer.put(Key::Element(RAX, index), &[]);
            let (tag, kind) = result.tag();
            self.buffer.put(Key::CompareTagAt, &[Patch::Bits(tag as i32)]);
            self.jump_if(Cond::Ne, out);
            if result == Ty::Float {
                let x = self.target(d, result, 0);
                self.buffer.put(Key::BitsAtFloat(x), &[]);
                return self.set_float(d, x);
            }
            self.buffer.put(Key::BitsAt(RAX), &[]);
            if let Some(kind) = kind {
                self.buffer.put(Key::CompareKind(RAX), &[Patch::Bits(kind as i32)]);
                self.jump_if(Cond::Ne, out);
            }
            self.set(d, result, RAX);
        } else if result == Ty::Float {
            let x = self.target(d, result, 0);
            self.buffer.put(Key::ElementFloat(x, index), &[]);
            self.set_float(d, x);
        } else {
            let r = self.target(d, result, RAX);
            self.buffer.put(Key::Element(r, index), &[]);
            self.set(d, result, r);
        }
    }

    fn store_index(&mut self, a: Operand, b: Operand, v: Operand, slow: Label) {
        let index = self.element(a, b, slow);
        if self.ty(v) == Ty::Float {
            let x = self.float(v, 0);
            self.buffer.put(Key::SetElementFloat(index, x), &[]);
        } else {
            // The list's register is not needed any more.
            let r = self.general(v, RCX);
            self.buffer.put(Key::SetElement(index, r), &[]);
        }
    }

    fn builtin(&mut self, d: Slot, f: Builtin, a: Operand) -> Option<()> {
        match f {
            Builtin::Float => {
                let x = self.float(a, 0);
                self.set_float(d, x);
            }
            Builtin::Sqrt => {
                let x = self.float(a, 1);
                let out = self.exit();
                self.buffer.put(Key::ZeroFloat(0), &[]);
                self.buffer.put(Key::Fpu(Fpu::Compare, 0, x), &[]);
                self.jump_if(Cond::A, out);
                self.buffer.put(Key::Fpu(Fpu::Sqrt, 0, x), &[]);
                self.set_float(d, 0);
            }
            Builtin::Abs => {
                // The greater of itself and its opposite, by way of the bits.
                let x = self.float(a, 0);
                let word = self.buffer.word(i64::MAX as u64);
                self.buffer.put(Key::FloatBits(RAX, x), &[]);
                self.buffer.put(Key::Word(RCX), &[Patch::Data(word)]);
                self.buffer.put(Key::Alu(Alu::And, RAX, RCX), &[]);
                self.buffer.put(Key::BitsFloat(0, RAX), &[]);
                self.set_float(d, 0);
            }
            _ => return None,
        }
        Some(())
    }
}
