//! What machine code calls.
//!
//! All take the context, the frame, and two words; none unwinds: what could
//! panic would abort the process at this boundary.

use crate::run::context::{Context, Frame};
use crate::run::interpreter::next;
use crate::run::operators::compare;
use crate::run::step::{note, operand, step};
use crate::syntax::code::Op;
use crate::tier::{self, types::Ty, unit::Unit};
use crate::value::objects::Function;
use crate::value::{ExcKind, Value, tag, type_error};

/// A helper's answer: it worked, or the condition does not hold.
const DONE: u64 = 0;
/// The condition holds.
const HOLDS: u64 = 1;
/// An exception is in the context.
pub(super) const RAISED: u64 = 2;

type Helper = unsafe extern "sysv64" fn(*mut Context, *mut Value, u64, u64) -> u64;

fn address(helper: Helper) -> usize {
    helper as *const () as usize
}

pub(super) fn step_address() -> usize {
    address(rt_step)
}

pub(super) fn test_address() -> usize {
    address(rt_test)
}

pub(super) fn next_address() -> usize {
    address(rt_next)
}

pub(super) fn call_address() -> usize {
    address(rt_call)
}

pub(super) fn finish_address() -> usize {
    rt_finish as *const () as usize
}

pub(super) fn safepoint_address() -> usize {
    address(rt_safepoint)
}

/// What a helper was given by machine code.
struct Given {
    context: &'static mut Context,
    frame: Frame,
    function: &'static Function,
}

/// # Safety
///
/// As all helpers are called: a context that nobody else uses until the helper
/// returns, a frame of it, and a function.
unsafe fn given(context: *mut Context, frame: *mut Value, function: u64) -> Given {
    let function = core::ptr::with_exposed_provenance::<Function>(function as usize);
    Given {
        // SAFETY: the caller's promise; who called the machine code does not
        // use its reference before that returns.
        context: unsafe { &mut *context },
        frame: Frame(frame),
        // SAFETY: functions live as long as code that names them can run.
        function: unsafe { &*function },
    }
}

impl Given {
    fn raise(&mut self, pc: usize, (kind, message): (ExcKind, String)) -> u64 {
        let line = self.function.code.lines[pc];
        self.context.result = self.context.exception(kind, message, line);
        RAISED
    }
}

/// Performs the operation at `pc`.
unsafe extern "sysv64" fn rt_step(
    context: *mut Context,
    frame: *mut Value,
    function: u64,
    pc: u64,
) -> u64 {
    // SAFETY: called by machine code.
    let given = unsafe { given(context, frame, function) };
    match step(given.context, given.function, given.frame, pc as usize) {
        Ok(()) => DONE,
        Err(exception) => {
            given.context.result = exception;
            RAISED
        }
    }
}

/// Whether the condition of the jump at `pc` holds, whatever it waits for.
unsafe extern "sysv64" fn rt_test(
    context: *mut Context,
    frame: *mut Value,
    function: u64,
    pc: u64,
) -> u64 {
    // SAFETY: called by machine code.
    let mut given = unsafe { given(context, frame, function) };
    let (code, pc) = (&*given.function.code, pc as usize);
    let outcome = match code.ops[pc] {
        Op::CmpJump { op, a, b, .. } => {
            let (a, b) = (operand(code, given.frame, a), operand(code, given.frame, b));
            note(code, pc, Ty::of(a));
            compare(op, a, b)
        }
        Op::JumpIf { a, .. } => {
            let value = operand(code, given.frame, a);
            if value.tag == tag::UNDEF { Err(type_error("", value)) } else { Ok(value.truth()) }
        }
        _ => Ok(false),
    };
    match outcome {
        Ok(false) => DONE,
        Ok(true) => HOLDS,
        Err(raised) => given.raise(pc, raised),
    }
}

/// Takes the next element for the loop at `pc`, if there is one.
unsafe extern "sysv64" fn rt_next(
    context: *mut Context,
    frame: *mut Value,
    function: u64,
    pc: u64,
) -> u64 {
    // SAFETY: called by machine code.
    let mut given = unsafe { given(context, frame, function) };
    let (code, pc) = (&*given.function.code, pc as usize);
    let Op::ForEach { i, of, var, .. } = code.ops[pc] else { return DONE };
    match next(given.frame.get(i), given.frame.get(of)) {
        Ok(None) => DONE,
        Ok(Some(value)) => {
            note(code, pc, Ty::of(value));
            given.frame.set(var, value);
            let at = given.frame.get(i).as_int().unwrap_or(0);
            given.frame.set(i, Value::int(at + 1));
            HOLDS
        }
        Err(raised) => given.raise(pc, raised),
    }
}

/// Calls `callee` for the call at `pc`, whose arity was checked; `packed` has
/// the caller's slots, the first argument, the result and the line.
unsafe extern "sysv64" fn rt_call(
    context: *mut Context,
    frame: *mut Value,
    callee: u64,
    packed: u64,
) -> u64 {
    // SAFETY: called by machine code.
    let given = unsafe { given(context, frame, callee) };
    let [slots, base, d] = [0, 8, 16].map(|at| (packed >> at & 0xFF) as u16);
    let to = given.frame.behind(slots);
    let params = given.function.code.params;
    for at in 0..params {
        to.set(at, given.frame.get(base + at));
    }
    let outcome = given.context.call_function(given.function, to, params.into(), 0);
    answer(given.context, given.frame, d, outcome)
}

/// What a call brought goes into a slot, or its exception into the context.
fn answer(context: &mut Context, frame: Frame, d: u16, outcome: Result<Value, Value>) -> u64 {
    match outcome {
        Ok(value) => {
            frame.set(d, value);
            DONE
        }
        Err(exception) => {
            context.result = exception;
            RAISED
        }
    }
}

/// Finishes a call of `callee` that was left in the middle; `packed` as for
/// [`rt_call`].
unsafe extern "sysv64" fn rt_finish(
    context: *mut Context,
    frame: *mut Value,
    how: u64,
    unit: *const Unit,
    callee: u64,
    packed: u64,
) -> u64 {
    // SAFETY: called by machine code.
    let given = unsafe { given(context, frame, callee) };
    let [slots, d] = [0, 16].map(|at| (packed >> at & 0xFF) as u16);
    given.context.depth += 1;
    let to = given.frame.behind(slots);
    let outcome = tier::finish(given.context, given.function, to, how, unit);
    given.context.depth -= 1;
    answer(given.context, given.frame, d, outcome)
}

/// Lets reclamation go on.
unsafe extern "sysv64" fn rt_safepoint(
    context: *mut Context,
    _frame: *mut Value,
    _: u64,
    _: u64,
) -> u64 {
    // SAFETY: called by machine code, as all helpers.
    unsafe { &mut *context }.safepoint();
    DONE
}
