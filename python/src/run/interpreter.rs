//! The interpreter: control, and the way into machine code.

use super::context::{Context, Frame};
use super::operators;
use super::step::{note, operand, step};
use crate::syntax::code::{BinOp, CmpOp, Code, Op};
use crate::tier::{self, Left, types::Ty};
use crate::value::objects::Function;
use crate::value::{ExcKind, Value, tag, type_error};

/// Runs a function from `pc` on: the value it returns or the exception it
/// raises.
pub(crate) fn run(
    context: &mut Context,
    function: &'static Function,
    frame: Frame,
    mut pc: usize,
) -> Result<Value, Value> {
    let code = &*function.code;
    loop {
        let raised = match run_on(context, function, frame, pc) {
            Ok(value) => return Ok(value),
            Err(raised) => raised,
        };
        pc = handle(code, frame, raised)?;
    }
}

/// An exception, and the operation that raised it.
pub(crate) struct Raise {
    pub(crate) exception: Value,
    pub(crate) pc: usize,
}

/// Where an exception is handled; hands it back if it is not.
pub(crate) fn handle(code: &Code, frame: Frame, raised: Raise) -> Result<usize, Value> {
    let Raise { exception, pc } = raised;
    let Some(handler) = code.handler(pc) else { return Err(exception) };
    frame.set(handler.slot, exception);
    Ok(handler.target as usize)
}

fn raise(
    context: &mut Context,
    code: &Code,
    pc: usize,
    (kind, message): (ExcKind, String),
) -> Raise {
    Raise { exception: context.exception(kind, message, code.lines[pc]), pc }
}

/// Runs up to the end of the function or the first exception.
fn run_on(
    context: &mut Context,
    function: &'static Function,
    frame: Frame,
    mut pc: usize,
) -> Result<Value, Raise> {
    let code = &*function.code;
    let get = |a| operand(code, frame, a);
    loop {
        match code.ops[pc] {
            Op::Jump { t } => {
                pc = t as usize;
                continue;
            }
            Op::JumpIf { when, a, t } => {
                let value = get(a);
                if value.tag == tag::UNDEF {
                    return Err(raise(context, code, pc, type_error("", value)));
                }
                if value.truth() == when {
                    pc = t as usize;
                    continue;
                }
            }
            Op::CmpJump { op, when, a, b, t } => {
                let (a, b) = (get(a), get(b));
                note(code, pc, Ty::of(a));
                let outcome = match compare(op, a, b) {
                    Ok(outcome) => outcome,
                    Err(raised) => return Err(raise(context, code, pc, raised)),
                };
                if outcome == when {
                    pc = t as usize;
                    continue;
                }
            }
            // The commonest operations, without a call.
            Op::Bin { op, d, a, b } => {
                let (left, right) = (get(a), get(b));
                match quick(op, left, right) {
                    Some(value) => {
                        note(code, pc, Ty::of_number(value));
                        frame.set(d, value);
                    }
                    None => step(context, function, frame, pc)
                        .map_err(|exception| Raise { exception, pc })?,
                }
            }
            Op::Move { d, a } if get(a).tag != tag::UNDEF => frame.set(d, get(a)),
            Op::Loop { site } => {
                context.fuel -= 1;
                if context.fuel <= 0 {
                    context.safepoint();
                }
                if context.tiers {
                    match tier::at_loop(
                        context,
                        function,
                        &function.sites[usize::from(site)],
                        frame,
                    ) {
                        Left::Stay => {}
                        // Code that was left at the head of its own loop goes
                        // on from there here, or it would only be left again.
                        Left::At(at) if at == pc => {}
                        Left::At(at) => {
                            pc = at;
                            continue;
                        }
                        Left::Returned(value) => return Ok(value),
                        Left::Raised(raised) => return Err(raised),
                    }
                }
            }
            Op::ForRange { i, stop, step, var, t } => {
                let (at, end) = match (frame.get(i).as_int(), get(stop).as_int()) {
                    (Some(at), Some(end)) => (at, end),
                    _ => {
                        let error = type_error("range needs integers", get(stop));
                        return Err(raise(context, code, pc, error));
                    }
                };
                let goes_on = if step > 0 { at < end } else { at > end };
                if !goes_on {
                    pc = t as usize;
                    continue;
                }
                frame.set(var, Value::int(at));
                // Beyond the largest int lies only the end.
                frame.set(i, Value::int(at.saturating_add(step.into())));
            }
            Op::ForEach { i, of, var, t } => match next(frame.get(i), frame.get(of)) {
                Ok(Some(value)) => {
                    note(code, pc, Ty::of(value));
                    frame.set(var, value);
                    let at = frame.get(i).as_int().unwrap_or(0);
                    frame.set(i, Value::int(at + 1));
                }
                Ok(None) => {
                    pc = t as usize;
                    continue;
                }
                Err(raised) => return Err(raise(context, code, pc, raised)),
            },
            Op::Return { a } => {
                let value = get(a);
                if value.tag == tag::UNDEF {
                    return Err(raise(context, code, pc, type_error("", value)));
                }
                return Ok(value);
            }
            _ => {
                step(context, function, frame, pc).map_err(|exception| Raise { exception, pc })?;
            }
        }
        pc += 1;
    }
}

/// Arithmetic on two numbers of one type that cannot raise.
#[inline]
fn quick(op: BinOp, a: Value, b: Value) -> Option<Value> {
    if a.tag == tag::INT && b.tag == tag::INT {
        let (a, b) = (a.bits.cast_signed(), b.bits.cast_signed());
        return match op {
            BinOp::Add => a.checked_add(b).map(Value::int),
            BinOp::Sub => a.checked_sub(b).map(Value::int),
            BinOp::Mul => a.checked_mul(b).map(Value::int),
            _ => None,
        };
    }
    if a.tag == tag::FLOAT && b.tag == tag::FLOAT {
        let (a, b) = (f64::from_bits(a.bits), f64::from_bits(b.bits));
        return match op {
            BinOp::Add => Some(Value::float(a + b)),
            BinOp::Sub => Some(Value::float(a - b)),
            BinOp::Mul => Some(Value::float(a * b)),
            _ => None,
        };
    }
    None
}

#[inline]
fn compare(op: CmpOp, a: Value, b: Value) -> Result<bool, operators::Raised> {
    if a.tag == tag::FLOAT && b.tag == tag::FLOAT {
        let (x, y) = (f64::from_bits(a.bits), f64::from_bits(b.bits));
        match op {
            CmpOp::Lt => return Ok(x < y),
            CmpOp::Le => return Ok(x <= y),
            CmpOp::Gt => return Ok(x > y),
            CmpOp::Ge => return Ok(x >= y),
            _ => {}
        }
    }
    operators::compare(op, a, b)
}

/// The next element of a list or tuple; `None` at its end.
pub(crate) fn next(i: Value, of: Value) -> Result<Option<Value>, operators::Raised> {
    let at = i.as_int().unwrap_or(0);
    if let Some(list) = of.as_list() {
        return Ok(list.get(at).ok());
    }
    match of.as_tuple() {
        Some(tuple) => Ok(tuple.items.get(at as usize).copied()),
        None => Err(type_error("object is not iterable", of)),
    }
}
