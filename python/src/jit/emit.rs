//! Stringing stencils together: the frame of it. What each operation becomes is
//! in [`ops`](super::ops), guards and ways out in [`guards`](super::guards).

use std::collections::BTreeMap;

use super::buffer::{Buffer, Label, Patch};
use super::flow::{Flow, Types, after, successors};
use super::plan::{How, Plan, Request, plan};
use super::registers::{Place, Registers};
use super::stencils::{Key, RAX};
use super::{Blueprint, UNIT};
use crate::syntax::code::{CONST, Op, Operand, Slot};
use crate::tier::types::Ty;
use crate::value::{Value, tag};

/// The longest code worth having, in bytes.
const LONGEST: usize = 48 << 10;

/// Code out of the way, for what is seldom.
pub(super) enum Stub {
    /// Leaves at an operation, with what is in registers put back into the
    /// frame if it is not there already.
    Exit {
        label: Label,
        number: usize,
        spill: Option<(usize, Types)>,
    },
    /// Leaves with an exception.
    Raised {
        label: Label,
        number: usize,
    },
    /// Puts into the frame what is in a register here and not there.
    Edge {
        label: Label,
        from: Types,
        to: usize,
    },
    Safepoint {
        label: Label,
        back: Label,
        pc: usize,
        types: Types,
    },
    /// As `Safepoint`, where all is in the frame.
    SafepointSpilled {
        label: Label,
        back: Label,
    },
    /// Has the interpreter do an operation for which there is no fast way.
    Slow {
        label: Label,
        back: Label,
        pc: usize,
        op: Op,
        plan: Plan,
        now: Types,
    },
    /// Calls by way of the runtime.
    Call {
        label: Label,
        back: Label,
        pc: usize,
        callee: u64,
        packed: i32,
    },
    /// Finishes a callee that was left in the middle.
    Finish {
        label: Label,
        back: Label,
        pc: usize,
        callee: u64,
        packed: i32,
    },
}

/// The compiler's back end at work.
pub(super) struct Emitter<'r> {
    pub(super) request: &'r Request<'r>,
    pub(super) flow: &'r Flow,
    pub(super) registers: Registers,
    pub(super) buffer: Buffer,
    /// Of operations that can be reached.
    labels: Vec<Option<Label>>,
    pub(super) exits: Vec<u32>,
    pub(super) numbers: BTreeMap<usize, usize>,
    pub(super) ways_out: BTreeMap<(usize, bool), Label>,
    pub(super) stubs: Vec<Stub>,
    pub(super) globals: Vec<(u16, u64)>,
    pub(super) leave: Label,
    /// The code's own beginning.
    pub(super) start: Label,
    /// The operation being compiled, and types before it.
    pub(super) pc: usize,
    pub(super) before: Types,
    /// As `before`, with what guards have found.
    pub(super) now: Types,
}

pub(super) fn emit(request: &Request<'_>) -> Option<Blueprint> {
    let flow = Flow::new(request);
    let mut buffer = Buffer::default();
    buffer.data.push(0);
    debug_assert_eq!(buffer.data.len() - 1, UNIT);
    let label = |reached: &Option<Types>| reached.as_ref().map(|_| ());
    let labels = flow.before.iter().map(|reached| label(reached).map(|()| buffer.label()));
    let labels = labels.collect();
    let leave = buffer.label();
    let start = buffer.label();
    let mut emitter = Emitter {
        request,
        flow: &flow,
        registers: Registers::new(request, &flow),
        buffer,
        labels,
        exits: Vec::new(),
        numbers: BTreeMap::new(),
        ways_out: BTreeMap::new(),
        stubs: Vec::new(),
        globals: Vec::new(),
        leave,
        start,
        pc: request.entry,
        before: Box::default(),
        now: Box::default(),
    };
    emitter.entry()?;
    for pc in 0..request.code.ops.len() {
        emitter.operation(pc)?;
    }
    emitter.finish()
}

impl Emitter<'_> {
    /// Checks what the frame holds, and loads it.
    fn entry(&mut self) -> Option<()> {
        let entry = self.request.entry;
        let types = self.flow.before.get(entry)?.clone()?;
        self.buffer.place(self.start);
        self.buffer.put(Key::Prologue, &[]);
        // Nothing is in a register yet.
        self.before = types.iter().map(|_| Ty::Any).collect();
        self.now = self.before.clone();
        let typed = |slot: &Slot| types[usize::from(*slot)].is_known();
        let slots: Vec<Slot> = self.request.live[entry].iter().filter(typed).collect();
        for slot in &slots {
            self.guard(*slot, types[usize::from(*slot)]);
        }
        self.buffer.put(Key::Jump, &[Patch::Label(self.label(entry)?)]);
        // Ways out of the entry are not those of the operation, which may have
        // its slots in registers.
        self.ways_out.clear();
        Some(())
    }

    pub(super) fn label(&self, pc: usize) -> Option<Label> {
        self.labels[pc]
    }

    fn operation(&mut self, pc: usize) -> Option<()> {
        let Some(before) = self.flow.before[pc].clone() else { return Some(()) };
        if self.buffer.code.len() > LONGEST {
            return None;
        }
        self.pc = pc;
        self.before = before.clone();
        self.now = before.clone();
        let label = self.label(pc)?;
        self.buffer.place(label);
        let op = self.request.code.ops[pc];
        let plan = plan(self.request, pc, &before);
        if matches!(plan.how, How::Exit) {
            let out = self.exit();
            self.buffer.put(Key::Jump, &[Patch::Label(out)]);
            return Some(());
        }
        for (slot, ty) in &plan.refine {
            self.guard(*slot, *ty);
        }
        self.perform(&op, &plan)?;
        self.go_on(&op, &plan)
    }

    /// Straight on: what is in a register here and not there goes into the
    /// frame.
    fn go_on(&mut self, op: &Op, plan: &Plan) -> Option<()> {
        let (Some(next), _) = successors(self.pc, op) else { return Some(()) };
        let types = after(op, plan, &self.before, false);
        let spills = self.edge(&types, next);
        spills.into_iter().for_each(|slot| self.spill(slot, types[usize::from(slot)]));
        Some(())
    }

    /// Slots that have to be put into the frame on the way to `to`.
    fn edge(&self, from: &Types, to: usize) -> Vec<Slot> {
        let Some(there) = &self.flow.before[to] else { return Vec::new() };
        let moves = |slot: &Slot| {
            let slot = usize::from(*slot);
            from[slot].is_known() && !there[slot].is_known()
        };
        self.request.live[to].iter().filter(moves).collect()
    }

    /// The label to jump to in order to get to the operation at `to`.
    pub(super) fn way(&mut self, op: &Op, plan: &Plan, to: usize) -> Option<Label> {
        let types = after(op, plan, &self.before, true);
        if self.edge(&types, to).is_empty() {
            return self.label(to);
        }
        let label = self.buffer.label();
        self.stubs.push(Stub::Edge { label, from: types, to });
        Some(label)
    }

    // ----- slots and registers

    pub(super) fn tag_at(slot: Slot) -> Patch {
        Patch::Bits(i32::from(slot) * size_of::<Value>() as i32)
    }

    pub(super) fn bits_at(slot: Slot) -> Patch {
        Patch::Bits(i32::from(slot) * size_of::<Value>() as i32 + 8)
    }

    pub(super) fn ty(&self, operand: Operand) -> Ty {
        self.request.ty(&self.now, operand)
    }

    /// Puts a constant into a register.
    pub(super) fn immediate(&mut self, r: u8, bits: u64) {
        match i32::try_from(bits.cast_signed()) {
            Ok(small) => self.buffer.put(Key::Immediate(r), &[Patch::Bits(small)]),
            Err(_) => {
                let word = self.buffer.word(bits);
                self.buffer.put(Key::Word(r), &[Patch::Data(word)]);
            }
        }
    }

    /// A small constant operand.
    pub(super) fn small(&self, operand: Operand) -> Option<i32> {
        if operand & CONST == 0 {
            return None;
        }
        let value = self.request.constant(operand);
        (value.tag == tag::INT).then(|| i32::try_from(value.bits.cast_signed()).ok())?
    }

    /// The register that has the bits of an operand, `scratch` if it has none
    /// of its own.
    pub(super) fn general(&mut self, operand: Operand, scratch: u8) -> u8 {
        if operand & CONST != 0 {
            self.immediate(scratch, self.request.constant(operand).bits);
            return scratch;
        }
        match self.registers.place(operand, self.ty(operand)) {
            Place::General(r) => r,
            _ => {
                self.buffer.put(Key::Load(scratch), &[Self::bits_at(operand)]);
                scratch
            }
        }
    }

    /// Puts the bits of an operand into a certain register.
    pub(super) fn general_into(&mut self, operand: Operand, r: u8) {
        let from = self.general(operand, r);
        if from != r {
            self.buffer.put(Key::Move(r, from), &[]);
        }
    }

    /// The register that has an operand as a float; `rax` may be lost.
    pub(super) fn float(&mut self, operand: Operand, scratch: u8) -> u8 {
        if self.ty(operand) == Ty::Int {
            if operand & CONST != 0 {
                let float = self.request.constant(operand).bits.cast_signed() as f64;
                let word = self.buffer.word(float.to_bits());
                self.buffer.put(Key::FloatWord(scratch), &[Patch::Data(word)]);
            } else {
                let from = self.general(operand, RAX);
                self.buffer.put(Key::Convert(scratch, from), &[]);
            }
            return scratch;
        }
        if operand & CONST != 0 {
            let word = self.buffer.word(self.request.constant(operand).bits);
            self.buffer.put(Key::FloatWord(scratch), &[Patch::Data(word)]);
            return scratch;
        }
        match self.registers.place(operand, Ty::Float) {
            Place::Float(x) => x,
            _ => {
                self.buffer.put(Key::LoadFloat(scratch), &[Self::bits_at(operand)]);
                scratch
            }
        }
    }

    /// The register to compute a slot's new bits in.
    pub(super) fn target(&self, slot: Slot, ty: Ty, scratch: u8) -> u8 {
        match self.registers.place(slot, ty) {
            Place::General(r) | Place::Float(r) => r,
            Place::Memory => scratch,
        }
    }

    /// Gives a slot bits of type `ty` from a general register.
    pub(super) fn set(&mut self, slot: Slot, ty: Ty, from: u8) {
        match self.registers.place(slot, ty) {
            Place::General(r) if r == from => {}
            Place::General(r) => self.buffer.put(Key::Move(r, from), &[]),
            _ => {
                self.buffer.put(Key::Store(from), &[Self::bits_at(slot)]);
                self.set_tag(slot, ty);
            }
        }
    }

    /// As [`set`](Self::set), for floats.
    pub(super) fn set_float(&mut self, slot: Slot, from: u8) {
        match self.registers.place(slot, Ty::Float) {
            Place::Float(x) if x == from => {}
            Place::Float(x) => self.buffer.put(Key::MoveFloat(x, from), &[]),
            _ => {
                self.buffer.put(Key::StoreFloat(from), &[Self::bits_at(slot)]);
                self.set_tag(slot, Ty::Float);
            }
        }
    }

    pub(super) fn set_tag(&mut self, slot: Slot, ty: Ty) {
        let tag = Patch::Bits(ty.tag().0 as i32);
        self.buffer.put(Key::StoreTag, &[Self::tag_at(slot), tag]);
    }

    /// Puts a slot into the frame, if it is in a register.
    pub(super) fn spill(&mut self, slot: Slot, ty: Ty) {
        match self.registers.place(slot, ty) {
            Place::General(r) => self.buffer.put(Key::Store(r), &[Self::bits_at(slot)]),
            Place::Float(x) => self.buffer.put(Key::StoreFloat(x), &[Self::bits_at(slot)]),
            Place::Memory => return,
        }
        self.set_tag(slot, ty);
    }

    /// Takes a slot from the frame, if it has a register.
    pub(super) fn reload(&mut self, slot: Slot, ty: Ty) {
        match self.registers.place(slot, ty) {
            Place::General(r) => self.buffer.put(Key::Load(r), &[Self::bits_at(slot)]),
            Place::Float(x) => self.buffer.put(Key::LoadFloat(x), &[Self::bits_at(slot)]),
            Place::Memory => {}
        }
    }

    /// Puts all that is live before `pc`, with these types, into the frame.
    pub(super) fn spill_all(&mut self, pc: usize, types: &Types) {
        for slot in self.request.live[pc].iter() {
            let ty = types[usize::from(slot)];
            if ty.is_known() {
                self.spill(slot, ty);
            }
        }
    }

    /// Takes back what calls do not keep, but for slots in `but`.
    pub(super) fn reload_all(&mut self, pc: usize, types: &Types, but: &[Slot]) {
        for slot in self.request.live[pc].iter() {
            let ty = types[usize::from(slot)];
            if ty.is_known()
                && !but.contains(&slot)
                && !Registers::is_kept(self.registers.place(slot, ty))
            {
                self.reload(slot, ty);
            }
        }
    }

    fn finish(mut self) -> Option<Blueprint> {
        while let Some(stub) = self.stubs.pop() {
            self.stub(stub)?;
        }
        self.buffer.place(self.leave);
        self.buffer.put(Key::Epilogue, &[Patch::Data(UNIT)]);
        self.buffer.link()?;
        Some(Blueprint {
            code: self.buffer.code,
            data: self.buffer.data,
            fixes: self.buffer.fixes,
            exits: self.exits,
            globals: self.globals,
        })
    }
}
