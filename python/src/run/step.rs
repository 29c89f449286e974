//! One operation that goes straight on to the next: what the interpreter does
//! itself, and what machine code has it do where it has no stencils.

use core::sync::atomic::Ordering;

use super::builtins;
use super::context::{Context, Frame};
use super::operators::{self, Raised};
use crate::syntax::code::{BinOp, CONST, Code, Op, Operand};
use crate::tier::types::Ty;
use crate::value::list::List;
use crate::value::objects::Function;
use crate::value::text::percent;
use crate::value::{ExcKind, Value, tag, type_error};

/// The value of an operand.
#[inline]
pub(crate) fn operand(code: &Code, frame: Frame, operand: Operand) -> Value {
    if operand & CONST == 0 {
        frame.get(operand)
    } else {
        code.consts[usize::from(operand & !CONST)]
    }
}

/// Notes what an operation brought, for who compiles it.
#[inline]
pub(crate) fn note(code: &Code, pc: usize, ty: Ty) {
    let seen = &code.seen[pc];
    // Relaxed: a hint. Written only when it changes, so that threads which run
    // the same code share the line.
    if seen.load(Ordering::Relaxed) != ty as u8 {
        seen.store(ty as u8, Ordering::Relaxed);
    }
}

/// Raises in the middle of `step`.
fn raise<T>(
    context: &mut Context,
    code: &Code,
    pc: usize,
    raised: Result<T, Raised>,
) -> Result<T, Value> {
    raised.map_err(|(kind, message)| context.exception(kind, message, code.lines[pc]))
}

/// Performs the operation at `pc`, which does not jump; the exception if it
/// raises one.
pub(crate) fn step(
    context: &mut Context,
    function: &'static Function,
    frame: Frame,
    pc: usize,
) -> Result<(), Value> {
    let code = &*function.code;
    let get = |a: Operand| operand(code, frame, a);
    match code.ops[pc] {
        Op::Move { d, a } => {
            let value = get(a);
            if value.tag == tag::UNDEF {
                return raise(context, code, pc, Err(type_error("", value)));
            }
            frame.set(d, value);
        }
        Op::Bin { op, d, a, b } => {
            let (a, b) = (get(a), get(b));
            let value = if a.is_object() || b.is_object() {
                let value = of_objects(context, op, a, b);
                raise(context, code, pc, value)?
            } else {
                raise(context, code, pc, operators::binary(op, a, b))?
            };
            note(code, pc, Ty::of(value));
            frame.set(d, value);
        }
        Op::Un { op, d, a } => {
            let value = raise(context, code, pc, operators::unary(op, get(a)))?;
            note(code, pc, Ty::of(value));
            frame.set(d, value);
        }
        Op::Cmp { op, d, a, b } => {
            let (a, b) = (get(a), get(b));
            note(code, pc, Ty::of(a));
            let value = raise(context, code, pc, operators::compare(op, a, b))?;
            frame.set(d, Value::bool(value));
        }
        Op::LoadGlobal { d, g } => {
            let value = context.world().globals[usize::from(g)].load();
            if value.tag == tag::UNDEF {
                let name = &context.world().program.globals[usize::from(g)];
                let error = (ExcKind::NameError, format!("name '{name}' is not defined"));
                return raise(context, code, pc, Err(error));
            }
            note(code, pc, Ty::of(value));
            frame.set(d, value);
        }
        Op::StoreGlobal { g, a } => {
            let value = get(a);
            if value.tag == tag::UNDEF {
                return raise(context, code, pc, Err(type_error("", value)));
            }
            context.escapes(value);
            let dropped = context.world().globals[usize::from(g)].store(value);
            context.runtime.counts.invalidated(dropped);
        }
        Op::Index { d, a, b } => {
            let value = index(get(a), get(b));
            let value = raise(context, code, pc, value)?;
            note(code, pc, Ty::of(value));
            frame.set(d, value);
        }
        Op::StoreIndex { a, b, v } => {
            let stored = store_index(context, get(a), get(b), get(v));
            raise(context, code, pc, stored)?;
        }
        Op::Call { d, f, base, n } => {
            let value = call(context, code, frame, pc, get(f), base, n)?;
            note(code, pc, Ty::of(value));
            frame.set(d, value);
        }
        Op::CallGlobal { d, g, base, n } => {
            let callee = context.world().globals[usize::from(g)].load();
            let value = call(context, code, frame, pc, callee, base, n)?;
            note(code, pc, Ty::of(value));
            frame.set(d, value);
        }
        Op::CallBuiltin { d, f, base, n } => {
            let args: Vec<Value> = (0..u16::from(n)).map(|at| frame.get(base + at)).collect();
            let value = builtins::call(context, f, &args);
            let value = raise(context, code, pc, value)?;
            note(code, pc, Ty::of(value));
            frame.set(d, value);
        }
        Op::CallMethod { d, f, a, base, n } => {
            let args: Vec<Value> = (0..u16::from(n)).map(|at| frame.get(base + at)).collect();
            let value = builtins::call_method(context, f, get(a), &args);
            let value = raise(context, code, pc, value)?;
            note(code, pc, Ty::of(value));
            frame.set(d, value);
        }
        Op::MakeList { d, base, n } => {
            let items = defined((0..n).map(|at| frame.get(base + at)));
            let items = raise(context, code, pc, items)?;
            let list = List::new(&items, context.call, &mut context.heap);
            let list = context.heap.list(list);
            note(code, pc, Ty::of(list));
            frame.set(d, list);
        }
        Op::MakeTuple { d, base, n } => {
            let items = defined((0..n).map(|at| frame.get(base + at)));
            let items = raise(context, code, pc, items)?;
            frame.set(d, context.heap.tuple(items));
        }
        Op::Unpack { a, base, n } => {
            let items = unpack(get(a), usize::from(n));
            let items = raise(context, code, pc, items)?;
            let mut tys = items.iter().map(|item| Ty::of(*item));
            let first = tys.next().unwrap_or(Ty::Any);
            note(code, pc, if tys.all(|ty| ty == first) { first } else { Ty::Any });
            for (slot, item) in (base..).zip(items) {
                frame.set(slot, item);
            }
        }
        Op::MakeFunction { d, code } => {
            let world = context.world();
            let code = world.program.codes[usize::from(code)].clone();
            frame.set(d, context.heap.function(Function::new(world, code)));
        }
        Op::Raise { kind, a } => {
            let value = get(a);
            let message = match value.tag {
                tag::NONE => String::new(),
                _ => crate::value::text::display(value),
            };
            return raise(context, code, pc, Err((kind, message)));
        }
        Op::IsKind { d, a, kind } => {
            let is = get(a).as_exception().is_some_and(|e| e.kind.is(kind));
            frame.set(d, Value::bool(is));
        }
        Op::Reraise { a } => return Err(get(a)),
        // Control is the interpreter's, or machine code's own.
        Op::Jump { .. }
        | Op::JumpIf { .. }
        | Op::CmpJump { .. }
        | Op::Loop { .. }
        | Op::ForRange { .. }
        | Op::ForEach { .. }
        | Op::Return { .. } => {}
    }
    Ok(())
}

fn defined(items: impl Iterator<Item = Value>) -> Result<Vec<Value>, Raised> {
    let items: Vec<Value> = items.collect();
    match items.iter().find(|item| item.tag == tag::UNDEF) {
        Some(undefined) => Err(type_error("", *undefined)),
        None => Ok(items),
    }
}

fn call(
    context: &mut Context,
    code: &Code,
    frame: Frame,
    pc: usize,
    callee: Value,
    base: u16,
    n: u8,
) -> Result<Value, Value> {
    let line = code.lines[pc];
    let Some(function) = callee.as_function() else {
        let (kind, message) = match callee.tag {
            tag::UNDEF => (ExcKind::NameError, "name is not defined".to_owned()),
            _ => type_error("object is not callable", callee),
        };
        return Err(context.exception(kind, message, line));
    };
    let to = frame.behind(code.slots);
    for at in 0..u16::from(n) {
        to.set(at, frame.get(base + at));
    }
    context.call_function(function, to, usize::from(n), line)
}

/// `a op b` where one is an object.
fn of_objects(context: &mut Context, op: BinOp, a: Value, b: Value) -> Result<Value, Raised> {
    match (op, a.as_str(), b.as_str()) {
        (BinOp::Mod, Some(format), _) => return Ok(context.heap.str(percent(format, b)?)),
        (BinOp::Add, Some(a), Some(b)) => return Ok(context.heap.str(format!("{a}{b}"))),
        _ => {}
    }
    match (op, a.as_list(), b.as_list(), a.as_int(), b.as_int()) {
        (BinOp::Mul, Some(list), _, _, Some(n)) | (BinOp::Mul, _, Some(list), Some(n), _) => {
            let n = usize::try_from(n).unwrap_or(0);
            if list.len().saturating_mul(n) > 1 << 26 {
                return Err((ExcKind::OverflowError, "list too long".to_owned()));
            }
            let list = list.repeated(n, context.call);
            Ok(context.heap.list(list))
        }
        (BinOp::Add, Some(a), Some(b), _, _) => {
            let items = [a.items(), b.items()].concat();
            let list = List::new(&items, context.call, &mut context.heap);
            Ok(context.heap.list(list))
        }
        _ => Err(type_error("unsupported operand type", if a.is_object() { a } else { b })),
    }
}

fn index(a: Value, b: Value) -> Result<Value, Raised> {
    let Some(at) = b.as_int() else {
        return Err(type_error("indices must be integers", b));
    };
    if let Some(list) = a.as_list() {
        return list.get(at);
    }
    let Some(tuple) = a.as_tuple() else {
        return Err(type_error("object is not subscriptable", a));
    };
    let at = if at < 0 { at + tuple.items.len() as i64 } else { at };
    let item = usize::try_from(at).ok().and_then(|at| tuple.items.get(at));
    item.copied().ok_or_else(|| (ExcKind::IndexError, "tuple index out of range".to_owned()))
}

fn store_index(context: &mut Context, a: Value, b: Value, value: Value) -> Result<(), Raised> {
    if value.tag == tag::UNDEF {
        return Err(type_error("", value));
    }
    let Some(list) = a.as_list() else {
        return Err(type_error("object does not support item assignment", a));
    };
    let Some(at) = b.as_int() else {
        return Err(type_error("list indices must be integers", b));
    };
    stored_in(context, list, value);
    list.set(at, value, &mut context.heap)
}

/// An object that goes into a list from before this call is known outside.
pub(crate) fn stored_in(context: &mut Context, list: &List, value: Value) {
    let any = list.kind.load(Ordering::Relaxed) == crate::value::list::kind::ANY;
    if list.owner != context.call && (any || value.is_object()) {
        context.escaped = true;
    }
}

fn unpack(a: Value, n: usize) -> Result<Vec<Value>, Raised> {
    let items = match (a.as_tuple(), a.as_list()) {
        (Some(tuple), _) => tuple.items.clone(),
        (_, Some(list)) => list.items(),
        _ => return Err(type_error("cannot unpack non-iterable object", a)),
    };
    match items.len().cmp(&n) {
        core::cmp::Ordering::Equal => Ok(items),
        core::cmp::Ordering::Greater => {
            Err((ExcKind::ValueError, format!("too many values to unpack (expected {n})")))
        }
        core::cmp::Ordering::Less => {
            let got = items.len();
            let text = format!("not enough values to unpack (expected {n}, got {got})");
            Err((ExcKind::ValueError, text))
        }
    }
}
