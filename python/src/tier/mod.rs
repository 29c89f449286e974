//! From the interpreter into machine code and back.
//!
//! The interpreter calls [`call`] for every function and [`at_loop`] at every
//! loop's head. While a [`site`] has no code these count; when it has come by
//! often enough, the thread that counted last compiles, for the types that its
//! frame has at that moment, and puts the executor into the site's slot, where
//! every thread finds it. Leaving an executor gives an operation to go on with
//! and a frame in which all is as the interpreter left it; a way out that is
//! taken often gets a side trace, which the parent [unit](mod@unit) owns.

pub(crate) mod evict;
#[cfg(target_arch = "x86_64")]
mod make;
pub(crate) mod site;
pub(crate) mod types;
pub(crate) mod unit;

use core::sync::atomic::Ordering;

use jit_arena::{Entry, Guard, Running, Slot};

use crate::run::context::{Context, Frame};
use crate::run::interpreter::{self, Raise};
use crate::syntax::code::Code;
use crate::value::Value;
use crate::value::objects::Function;
use site::Site;
use unit::Unit;

/// Exits of exits of exits … that may get side traces.
const DEEPEST: u32 = 4;

/// What machine code says when it is left: the number of an exit, or these.
pub(crate) const RETURNED: u64 = 1 << 33;
/// With the number of an exit: an exception is in the context.
pub(crate) const RAISED: u64 = 1 << 32;

/// How machine code was left.
#[repr(C)]
#[derive(Clone, Copy)]
struct Outcome {
    how: u64,
    unit: *const Unit,
}

type Compiled = unsafe extern "sysv64" fn(*mut Context, *mut Value) -> Outcome;

/// Where to go on.
pub(crate) enum Left {
    /// There was no code to enter.
    Stay,
    /// At this operation.
    At(usize),
    Returned(Value),
    Raised(Raise),
}

/// Calls a function whose frame is ready.
pub(crate) fn call(
    context: &mut Context,
    function: &'static Function,
    frame: Frame,
) -> Result<Value, Value> {
    let left = at_site(context, function, &function.sites[0], frame);
    go_on(context, function, frame, left)
}

/// Goes on in the interpreter, if there is anything to go on with.
fn go_on(
    context: &mut Context,
    function: &'static Function,
    frame: Frame,
    left: Left,
) -> Result<Value, Value> {
    let code = &*function.code;
    let pc = match left {
        Left::Stay => 0,
        Left::At(pc) => pc,
        Left::Returned(value) => return Ok(value),
        Left::Raised(raised) => interpreter::handle(code, frame, raised)?,
    };
    interpreter::run(context, function, frame, pc)
}

/// At the head of a loop.
pub(crate) fn at_loop(
    context: &mut Context,
    function: &'static Function,
    site: &std::sync::Arc<Site>,
    frame: Frame,
) -> Left {
    at_site(context, function, site, frame)
}

#[inline]
fn at_site(
    context: &mut Context,
    function: &'static Function,
    site: &std::sync::Arc<Site>,
    frame: Frame,
) -> Left {
    if site.slot.is_empty() {
        if !site.is_hot() {
            return Left::Stay;
        }
        #[cfg(target_arch = "x86_64")]
        make::for_site(context, function, site, frame);
        #[cfg(not(target_arch = "x86_64"))]
        site.made(None);
    }
    site.touch();
    run(context, function, &site.slot, frame)
}

/// Finishes a call that machine code made itself and that was left in the
/// middle, in `frame`.
#[cfg(target_arch = "x86_64")]
pub(crate) fn finish(
    context: &mut Context,
    function: &'static Function,
    frame: Frame,
    how: u64,
    unit: *const Unit,
) -> Result<Value, Value> {
    let left = follow(context, function, frame, Outcome { how, unit });
    go_on(context, function, frame, left)
}

/// Runs what is in a slot, and the side traces behind it.
fn run(context: &mut Context, function: &'static Function, slot: &Slot, frame: Frame) -> Left {
    match enter(context, &function.code, slot, frame) {
        Some(outcome) => follow(context, function, frame, outcome),
        None => Left::Stay,
    }
}

/// From where machine code was left on, as long as there are side traces.
fn follow(
    context: &mut Context,
    function: &'static Function,
    frame: Frame,
    mut outcome: Outcome,
) -> Left {
    let code = &*function.code;
    loop {
        let Outcome { how, unit } = outcome;
        if how == RETURNED {
            return Left::Returned(context.result);
        }
        // SAFETY: machine code holds the address of its own unit, and units
        // last as long as their world, whose call this is.
        let unit = unsafe { &*unit };
        let number = (how & !RAISED) as usize;
        let exit = &unit.exits[number];
        let pc = exit.pc as usize;
        if how & RAISED != 0 {
            return Left::Raised(Raise { exception: context.result, pc });
        }
        context.record.exit();
        context.rewind();
        if exit.slot.is_empty() {
            // Relaxed: a count that may be off.
            let taken = exit.taken.load(Ordering::Relaxed).saturating_add(1);
            exit.taken.store(taken, Ordering::Relaxed);
            if taken < context.runtime.options.warm_exits || unit.depth >= DEEPEST {
                return Left::At(pc);
            }
            exit.taken.store(0, Ordering::Relaxed);
            #[cfg(target_arch = "x86_64")]
            make::for_exit(context, function, unit, number, frame);
            if exit.slot.is_empty() {
                return Left::At(pc);
            }
        }
        match enter(context, code, &exit.slot, frame) {
            Some(next) => outcome = next,
            None => return Left::At(pc),
        }
    }
}

/// Runs what is in a slot, once.
fn enter(context: &mut Context, code: &Code, slot: &Slot, frame: Frame) -> Option<Outcome> {
    let context: *mut Context = context;
    // SAFETY: of a reference; the runner is not touched but through guards
    // while this thread runs.
    let runner = unsafe { &(*context).runner };
    let mut guard: Guard<'_> = runner.pin();
    let outcome = if code.is_leaf {
        // It is over at once and calls nothing that could block, so the guard
        // is all that it needs.
        let entry: Entry<'_> = slot.load(&guard)?;
        // SAFETY: slots of this runtime hold functions of this signature.
        let compiled: Compiled = unsafe { entry.cast() };
        // SAFETY: made for this code; the guard keeps it, and the frame is
        // one of this code's.
        unsafe { compiled(context, frame.0) }
    } else {
        let mut running = guard.enter(slot)?;
        // SAFETY: as above.
        let compiled: Compiled = unsafe { running.cast() };
        let innermost = (&raw mut running).cast::<Running<'static>>();
        // SAFETY: of a reference, which is not used until this returns.
        let outer = unsafe { core::mem::replace(&mut (*context).running, innermost) };
        // SAFETY: as above; `running` holds it.
        let outcome = unsafe { compiled(context, frame.0) };
        // SAFETY: as above; what points to `running` is gone before it is.
        unsafe { (*context).running = outer };
        outcome
    };
    // SAFETY: as above.
    unsafe { (*context).record.entry() };
    Some(outcome)
}
