//! How an operation is done, given what is known before it.

use core::cell::RefCell;
use core::sync::atomic::Ordering;
use std::collections::BTreeMap;

use super::flow::{Slots, Types, liveness};
use crate::run::world::World;
use crate::syntax::code::{BinOp, Builtin, CONST, CmpOp, Code, Op, Operand, Slot, UnOp};
use crate::tier::types::Ty;
use crate::value::{Value, tag};

/// A global as it was when it was looked at first.
#[derive(Clone, Copy, Debug)]
pub(super) struct Constant {
    pub(super) value: Value,
    pub(super) version: u64,
    /// As it was then: an empty list gets its type with its first element.
    pub(super) ty: Ty,
    restless: bool,
}

/// What is to be compiled.
pub(crate) struct Request<'a> {
    pub(crate) code: &'a Code,
    pub(crate) function: usize,
    pub(crate) world: &'a World,
    /// The operation that it is entered at.
    pub(crate) entry: usize,
    /// What the slots hold there now that are live.
    pub(super) types: Types,
    /// What is live before each operation.
    pub(super) live: Vec<Slots>,
    /// Whether guards are made to fail at random.
    pub(crate) forced: bool,
    looked_at: RefCell<BTreeMap<u16, Constant>>,
    /// What each operation brought last, as it was at first: threads go on
    /// noting.
    seen: Vec<Ty>,
}

impl<'a> Request<'a> {
    /// `look` tells what a slot holds. It is asked only for slots that are live:
    /// any other may hold what another call left there, and that may be freed.
    pub(crate) fn new(
        code: &'a Code,
        function: usize,
        world: &'a World,
        entry: usize,
        look: impl Fn(Slot) -> Ty,
        forced: bool,
    ) -> Self {
        let live = liveness(code);
        let known = |slot| if live[entry].has(slot) { look(slot) } else { Ty::Any };
        let types = (0..code.slots).map(known).collect();
        // Relaxed: hints.
        let seen = code.seen.iter().map(|seen| Ty::from_u8(seen.load(Ordering::Relaxed)));
        let seen = seen.map(|ty| if ty == Ty::Undef { Ty::Any } else { ty }).collect();
        let looked_at = RefCell::default();
        Self { code, function, world, entry, types, live, forced, looked_at, seen }
    }

    pub(super) fn ty(&self, types: &[Ty], operand: Operand) -> Ty {
        if operand & CONST == 0 {
            types[usize::from(operand)]
        } else {
            Ty::of(self.constant(operand))
        }
    }

    pub(super) fn constant(&self, operand: Operand) -> Value {
        self.code.consts[usize::from(operand & !CONST)]
    }

    /// The global, if it can be taken for a constant. The same each time.
    pub(super) fn global(&self, g: u16) -> Option<Constant> {
        let mut looked_at = self.looked_at.borrow_mut();
        let known = looked_at.entry(g).or_insert_with(|| {
            let global = &self.world.globals[usize::from(g)];
            let (value, version) = global.read();
            Constant { value, version, ty: Ty::of(value), restless: global.is_restless() }
        });
        (!known.restless && known.value.tag != tag::UNDEF).then_some(*known)
    }
}

/// How.
#[derive(Clone, Copy, Debug)]
pub(super) enum How {
    /// By stencils for the types that are known.
    Native,
    /// By the interpreter's own step, from a helper.
    Step,
    /// A call of the function that a global holds.
    Direct(Constant),
    /// A constant that a global holds.
    Global(Constant),
    /// Left to the interpreter.
    Exit,
}

/// The plan for an operation.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) how: How,
    /// Slots that turn out to be of a type, or the operation is left.
    pub(super) refine: Vec<(Slot, Ty)>,
    /// What it brings: behind a step, or the operation behind it is left.
    pub(super) result: Ty,
}

impl Plan {
    fn native(result: Ty) -> Self {
        Self { how: How::Native, refine: Vec::new(), result }
    }

    fn step(result: Ty) -> Self {
        Self { how: How::Step, refine: Vec::new(), result }
    }

    fn exit() -> Self {
        Self { how: How::Exit, refine: Vec::new(), result: Ty::Any }
    }

    /// Takes an operand of unknown type for one of type `ty`.
    fn expect(mut self, operand: Operand, known: Ty, ty: Ty) -> Self {
        if known == Ty::Any && operand & CONST == 0 && !self.refine.contains(&(operand, ty)) {
            self.refine.push((operand, ty));
        }
        self
    }
}

/// What an operand of type `ty` is taken for, if `guess` is the best guess.
fn or(ty: Ty, guess: Ty) -> Ty {
    if ty == Ty::Any { guess } else { ty }
}

pub(super) fn plan(request: &Request<'_>, pc: usize, types: &[Ty]) -> Plan {
    let ty = |operand| request.ty(types, operand);
    let seen = request.seen[pc];
    match request.code.ops[pc] {
        Op::Move { a, .. } => match ty(a) {
            Ty::Undef => Plan::exit(),
            ty => Plan::native(ty),
        },
        Op::Bin { op, a, b, .. } => binary(op, (a, ty(a)), (b, ty(b)), seen),
        Op::Un { op, a, .. } => match (op, ty(a)) {
            (UnOp::Neg, known @ (Ty::Int | Ty::Float)) => Plan::native(known),
            (UnOp::Invert, Ty::Int) => Plan::native(Ty::Int),
            (UnOp::Not, Ty::Bool | Ty::Int) => Plan::native(Ty::Bool),
            (UnOp::Not, _) => Plan::step(Ty::Bool),
            _ => Plan::step(seen),
        },
        Op::Cmp { op, a, b, .. } => comparison(op, (a, ty(a)), (b, ty(b)), seen, Ty::Bool),
        Op::CmpJump { op, a, b, .. } => comparison(op, (a, ty(a)), (b, ty(b)), seen, Ty::Any),
        Op::JumpIf { a, .. } => match ty(a) {
            Ty::Bool | Ty::Int => Plan::native(Ty::Any),
            _ => Plan::step(Ty::Any),
        },
        Op::Jump { .. } | Op::Loop { .. } => Plan::native(Ty::Any),
        Op::ForRange { i, stop, .. } => match (or(ty(i), Ty::Int), or(ty(stop), Ty::Int)) {
            (Ty::Int, Ty::Int) => {
                Plan::native(Ty::Int).expect(i, ty(i), Ty::Int).expect(stop, ty(stop), Ty::Int)
            }
            _ => Plan::exit(),
        },
        Op::ForEach { .. } => Plan::step(seen),
        Op::LoadGlobal { g, .. } => match request.global(g) {
            Some(constant) => {
                Plan { how: How::Global(constant), refine: Vec::new(), result: constant.ty }
            }
            None => Plan::step(seen),
        },
        Op::Index { a, b, .. } => {
            let list = ty(a);
            let element = match list.element() {
                Some(Ty::Any) if seen.is_known() => Some(seen),
                Some(Ty::Any) | None => None,
                element => element,
            };
            match (element, or(ty(b), Ty::Int)) {
                (Some(element), Ty::Int) => Plan::native(element).expect(b, ty(b), Ty::Int),
                _ => Plan::step(seen),
            }
        }
        Op::StoreIndex { a, b, v } => match (ty(a).element(), or(ty(b), Ty::Int)) {
            (Some(element), Ty::Int) if element != Ty::Any && or(ty(v), element) == element => {
                Plan::native(Ty::Any).expect(b, ty(b), Ty::Int).expect(v, ty(v), element)
            }
            _ => Plan::step(Ty::Any),
        },
        Op::CallGlobal { g, n, .. } => {
            let callee = request.global(g);
            let fits = |constant: &Constant| {
                constant.value.as_function().is_some_and(|f| f.code.params == u16::from(n))
            };
            match callee.filter(fits) {
                Some(constant) => {
                    Plan { how: How::Direct(constant), refine: Vec::new(), result: seen }
                }
                None => Plan::step(seen),
            }
        }
        Op::CallBuiltin { f, base, n: 1, .. } => match (f, ty(base)) {
            (Builtin::Sqrt, Ty::Float) | (Builtin::Abs, Ty::Float) => Plan::native(Ty::Float),
            (Builtin::Float, Ty::Int) => Plan::native(Ty::Float),
            _ => Plan::step(seen),
        },
        Op::Call { .. } | Op::CallBuiltin { .. } | Op::CallMethod { .. } | Op::MakeList { .. } => {
            Plan::step(seen)
        }
        Op::Unpack { .. } => Plan::step(seen),
        Op::MakeTuple { .. } | Op::MakeFunction { .. } | Op::StoreGlobal { .. } => {
            Plan::step(Ty::Any)
        }
        Op::IsKind { .. } => Plan::step(Ty::Bool),
        Op::Return { a } => match ty(a) {
            Ty::Undef => Plan::exit(),
            _ => Plan::native(Ty::Any),
        },
        Op::Raise { .. } | Op::Reraise { .. } => Plan::step(Ty::Any),
    }
}

fn binary(op: BinOp, (a, ta): (Operand, Ty), (b, tb): (Operand, Ty), seen: Ty) -> Plan {
    // What is unknown is taken for what would bring what was brought last.
    let guess = if matches!(seen, Ty::Int | Ty::Float) { seen } else { Ty::Any };
    let (left, right) = (or(ta, guess), or(tb, guess));
    let result = match (op, left, right) {
        (BinOp::Pow, ..) => None,
        (BinOp::Div, Ty::Int, Ty::Int) => Some(Ty::Float),
        (_, Ty::Int, Ty::Int) => Some(Ty::Int),
        (
            BinOp::Add | BinOp::Sub | BinOp::Mul | BinOp::Div,
            Ty::Int | Ty::Float,
            Ty::Int | Ty::Float,
        ) => Some(Ty::Float),
        _ => None,
    };
    match result {
        Some(result) => Plan::native(result).expect(a, ta, left).expect(b, tb, right),
        None => Plan::step(seen),
    }
}

fn comparison(
    op: CmpOp,
    (a, ta): (Operand, Ty),
    (b, tb): (Operand, Ty),
    seen: Ty,
    result: Ty,
) -> Plan {
    let guess = if matches!(seen, Ty::Int | Ty::Float) { seen } else { Ty::Any };
    let (left, right) = (or(ta, guess), or(tb, guess));
    let native = match (op, left, right) {
        (CmpOp::Is | CmpOp::IsNot, ..) => false,
        (_, Ty::Int, Ty::Int) | (_, Ty::Float, Ty::Float) => true,
        _ => false,
    };
    if native {
        Plan::native(result).expect(a, ta, left).expect(b, tb, right)
    } else {
        Plan::step(result)
    }
}
