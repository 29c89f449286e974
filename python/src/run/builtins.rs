//! What the language has built in.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::context::Context;
use super::operators::{self, Raised};
use super::step::stored_in;
use super::world::describe;
use crate::syntax::code::{BinOp, Builtin, CmpOp, Method};
use crate::value::list::List;
use crate::value::objects::{Ended, Thread, locked};
use crate::value::text::display;
use crate::value::{ExcKind, Value, tag, type_error};

fn wrong_number(n: usize) -> Raised {
    (ExcKind::TypeError, format!("called with {n} arguments, which the subset does not know"))
}

fn items(value: Value) -> Result<Vec<Value>, Raised> {
    match (value.as_list(), value.as_tuple()) {
        (Some(list), _) => Ok(list.items()),
        (_, Some(tuple)) => Ok(tuple.items.clone()),
        _ => Err(type_error("object is not iterable", value)),
    }
}

/// The least by `op`, the first of equals.
fn extreme(op: CmpOp, args: &[Value]) -> Result<Value, Raised> {
    let all = match args {
        [one] => items(*one)?,
        more => more.to_vec(),
    };
    let empty = || (ExcKind::ValueError, "arg is an empty sequence".to_owned());
    let (first, rest) = all.split_first().ok_or_else(empty)?;
    rest.iter().try_fold(*first, |best, value| {
        Ok(if operators::compare(op, *value, best)? { *value } else { best })
    })
}

fn to_int(value: Value) -> Result<Value, Raised> {
    if let Some(i) = value.as_int() {
        return Ok(Value::int(i));
    }
    match value.as_float() {
        Some(x) if x.is_nan() || x.is_infinite() => {
            Err((ExcKind::ValueError, "cannot convert float to integer".to_owned()))
        }
        Some(x) if x.abs() < 9.2e18 => Ok(Value::int(x.trunc() as i64)),
        Some(_) => Err((ExcKind::OverflowError, "float does not fit 64 bits".to_owned())),
        None => Err(type_error("int() needs a number", value)),
    }
}

fn range(context: &mut Context, args: &[Value]) -> Result<Value, Raised> {
    let int = |v: &Value| v.as_int().ok_or_else(|| type_error("range needs integers", *v));
    let (start, stop, step) = match args {
        [stop] => (0, int(stop)?, 1),
        [start, stop] => (int(start)?, int(stop)?, 1),
        [start, stop, step] => (int(start)?, int(stop)?, int(step)?),
        _ => return Err(wrong_number(args.len())),
    };
    if step == 0 {
        return Err((ExcKind::ValueError, "range() arg 3 must not be zero".to_owned()));
    }
    let mut all = Vec::new();
    let mut at = start;
    while if step > 0 { at < stop } else { at > stop } {
        all.push(Value::int(at));
        at = at.saturating_add(step);
    }
    let list = List::new(&all, context.call, &mut context.heap);
    Ok(context.heap.list(list))
}

pub(crate) fn call(context: &mut Context, f: Builtin, args: &[Value]) -> Result<Value, Raised> {
    if let Some(undefined) = args.iter().find(|arg| arg.tag == tag::UNDEF) {
        return Err(type_error("", *undefined));
    }
    match (f, args) {
        (Builtin::Abs, [a]) => match (a.as_int(), a.as_float()) {
            (Some(i), _) => i.checked_abs().map(Value::int).ok_or_else(|| {
                (ExcKind::OverflowError, "integer result does not fit 64 bits".to_owned())
            }),
            (_, Some(x)) => Ok(Value::float(x.abs())),
            _ => Err(type_error("bad operand type for abs()", *a)),
        },
        (Builtin::Bool, [a]) => Ok(Value::bool(a.truth())),
        (Builtin::Float, [a]) => {
            a.to_float().map(Value::float).ok_or_else(|| type_error("float() needs a number", *a))
        }
        (Builtin::Int, [a]) => to_int(*a),
        (Builtin::Len, [a]) => match (a.as_list(), a.as_str()) {
            (Some(list), _) => Ok(Value::int(list.len() as i64)),
            (_, Some(text)) => Ok(Value::int(text.chars().count() as i64)),
            _ => Ok(Value::int(items(*a)?.len() as i64)),
        },
        (Builtin::List, [a]) => {
            let list = List::new(&items(*a)?, context.call, &mut context.heap);
            Ok(context.heap.list(list))
        }
        (Builtin::Lock, []) => Ok(context.heap.lock()),
        (Builtin::Max, [_, ..]) => extreme(CmpOp::Gt, args),
        (Builtin::Min, [_, ..]) => extreme(CmpOp::Lt, args),
        (Builtin::Print, args) => {
            let line = args.iter().copied().map(display).collect::<Vec<_>>().join(" ") + "\n";
            locked(&context.world().output).push_str(&line);
            Ok(Value::NONE)
        }
        (Builtin::Range, args) => range(context, args),
        (Builtin::Sleep, [a]) => {
            let time = a.to_float().and_then(|s| Duration::try_from_secs_f64(s).ok());
            let error = || (ExcKind::ValueError, "sleep length must be non-negative".to_owned());
            let time = time.ok_or_else(error)?;
            context.park(|| std::thread::sleep(time));
            Ok(Value::NONE)
        }
        (Builtin::Sqrt, [a]) => match a.to_float() {
            Some(x) if x < 0.0 => Err((ExcKind::ValueError, "math domain error".to_owned())),
            Some(x) => Ok(Value::float(x.sqrt())),
            None => Err(type_error("must be real number", *a)),
        },
        (Builtin::Str, [a]) => Ok(context.heap.str(display(*a))),
        (Builtin::Sum, [a]) => items(*a)?
            .into_iter()
            .try_fold(Value::int(0), |sum, value| operators::binary(BinOp::Add, sum, value)),
        (Builtin::Thread, [function, args]) => {
            let thread = Thread {
                function: *function,
                args: *args,
                running: Mutex::default(),
                started: Mutex::default(),
            };
            Ok(context.heap.thread(thread))
        }
        _ => Err(wrong_number(args.len())),
    }
}

pub(crate) fn call_method(
    context: &mut Context,
    f: Method,
    of: Value,
    args: &[Value],
) -> Result<Value, Raised> {
    if let Some(undefined) = args.iter().find(|arg| arg.tag == tag::UNDEF) {
        return Err(type_error("", *undefined));
    }
    let runtime_error = |what: &str| (ExcKind::RuntimeError, what.to_owned());
    match (f, of.as_list(), of.as_lock(), of.as_thread(), args) {
        (Method::Append, Some(list), _, _, [value]) => {
            stored_in(context, list, *value);
            list.append(*value, &mut context.heap)?;
            Ok(Value::NONE)
        }
        (Method::Pop, Some(list), _, _, []) => list.pop(),
        (Method::Acquire, _, Some(lock), _, []) => {
            if !lock.try_acquire() {
                context.park(|| lock.acquire());
            }
            Ok(Value::bool(true))
        }
        (Method::Release, _, Some(lock), _, []) => {
            if lock.release() {
                Ok(Value::NONE)
            } else {
                Err(runtime_error("release unlocked lock"))
            }
        }
        (Method::Start, _, _, Some(thread), []) => {
            start(context, of, thread)?;
            Ok(Value::NONE)
        }
        (Method::Join, _, _, Some(thread), []) => {
            if !*locked(&thread.started) {
                return Err(runtime_error("cannot join thread before it is started"));
            }
            // What the thread raised is told, as Python tells it, and goes no
            // farther.
            if let Some(raised) = context.join(of) {
                let line = format!("in a thread: {raised}\n");
                locked(&context.world().output).push_str(&line);
            }
            Ok(Value::NONE)
        }
        _ => Err(type_error("no such method, or not with such arguments", of)),
    }
}

fn start(context: &mut Context, value: Value, thread: &'static Thread) -> Result<(), Raised> {
    if core::mem::replace(&mut *locked(&thread.started), true) {
        return Err((ExcKind::RuntimeError, "threads can only be started once".to_owned()));
    }
    let runtime = Arc::clone(&context.runtime);
    let Some(world) = context.world.clone() else { return Ok(()) };
    let (call, tiers) = (context.call, context.tiers);
    let body = move || {
        let attached = Context::new(&runtime, tiers);
        let Ok(mut own) = attached else {
            let raised = Some("RuntimeError: the thread could not attach".to_owned());
            return Ended { heap: Default::default(), raised, escaped: false };
        };
        own.begin(&world, call);
        runtime.counts.thread_born();
        let args = thread.args.as_tuple().map_or(&[][..], |tuple| tuple.items.as_slice());
        let raised = own.call_from_outside(thread.function, args).err().map(describe);
        own.join_all();
        let (heap, escaped) = own.end();
        Ended { heap, raised, escaped }
    };
    let born = std::thread::Builder::new()
        .name(format!("python-{call}"))
        .stack_size(crate::THREAD_STACK)
        .spawn(body)
        .map_err(|e| (ExcKind::RuntimeError, format!("can't start new thread: {e}")))?;
    *locked(&thread.running) = Some(born);
    context.started.push(value);
    Ok(())
}
