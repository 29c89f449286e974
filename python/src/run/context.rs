//! What a thread that runs programs has for itself.

use core::mem::offset_of;
use core::ptr;
use std::sync::Arc;

use jit_arena::{AttachError, Running, ThreadHandle};

use super::interpreter;
use super::world::World;
use crate::runtime::Shared;
use crate::runtime::record::Record;
use crate::tier;
use crate::value::heap::Heap;
use crate::value::objects::{Exception, Function, locked};
use crate::value::{ExcKind, Value};

/// Values that all frames of a thread have room for.
const STACK: usize = 32 << 10;

/// The most slots a frame and what it calls directly can reach.
const MARGIN: usize = 512;

/// Calls inside calls, as CPython has it.
pub(crate) const DEEPEST: u64 = 990;

/// Back edges between two safepoints.
pub(crate) const FUEL: i64 = 512;

/// Slots of one call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame(pub(crate) *mut Value);

impl Frame {
    #[inline]
    fn at(self, slot: u16) -> *mut Value {
        // SAFETY: frames are made with room for `MARGIN` slots, more than any
        // code has, and their thread alone uses them.
        unsafe { self.0.add(usize::from(slot)) }
    }

    /// The value in a slot of this frame.
    #[inline]
    pub(crate) fn get(self, slot: u16) -> Value {
        // SAFETY: `at` points to a value of this thread's.
        unsafe { *self.at(slot) }
    }

    #[inline]
    pub(crate) fn set(self, slot: u16, value: Value) {
        // SAFETY: as in `get`.
        unsafe { *self.at(slot) = value };
    }

    /// The frame behind one of `slots` slots.
    pub(crate) fn behind(self, slots: u16) -> Self {
        Self(self.at(slots))
    }
}

/// A thread of the runtime. Machine code knows the first fields.
#[repr(C)]
pub(crate) struct Context {
    /// Back edges until the next safepoint.
    pub(crate) fuel: i64,
    /// Guards until one is made to fail.
    pub(crate) force: i64,
    /// What machine code returned, or the exception it raised.
    pub(crate) result: Value,
    /// Calls under way.
    pub(crate) depth: u64,
    /// Frames may begin up to here.
    limit: *mut Value,
    /// Whether hot code becomes machine code.
    pub(crate) tiers: bool,
    /// The executor that this thread is in, innermost; null for none.
    pub(crate) running: *mut Running<'static>,
    pub(crate) record: Arc<Record>,
    pub(crate) runtime: Arc<Shared>,
    pub(crate) world: Option<Arc<World>>,
    pub(crate) heap: Heap,
    /// Whether an object of this call may be known outside.
    pub(crate) escaped: bool,
    pub(crate) call: u64,
    /// Threads this call has started.
    pub(crate) started: Vec<Value>,
    pub(crate) random: fastrand::Rng,
    /// Words in place of values, untouched until they are used. What a call has put
    /// there stays when it is over, though objects are freed: a slot is read only
    /// where its own call has written it (`jit::flow`).
    stack: Box<[u128]>,
    /// Makes code. Another than the one that runs it: that has guards all the
    /// way up the stack, and code is made in the middle of calls.
    pub(crate) maker: ThreadHandle,
    pub(crate) runner: ThreadHandle,
}

pub(crate) const FUEL_AT: i32 = offset_of!(Context, fuel) as i32;
pub(crate) const FORCE_AT: i32 = offset_of!(Context, force) as i32;
pub(crate) const DEPTH_AT: i32 = offset_of!(Context, depth) as i32;
pub(crate) const LIMIT_AT: i32 = offset_of!(Context, limit) as i32;
pub(crate) const RESULT_AT: i32 = offset_of!(Context, result) as i32;

impl Context {
    pub(crate) fn new(runtime: &Arc<Shared>, tiers: bool) -> Result<Box<Self>, AttachError> {
        let runner = runtime.arena.attach()?;
        let mut random = fastrand::Rng::new();
        let mut stack = vec![0_u128; STACK].into_boxed_slice();
        // SAFETY: inside the stack.
        let limit = unsafe { stack.as_mut_ptr().add(STACK - MARGIN) }.cast();
        Ok(Box::new(Self {
            fuel: FUEL,
            force: runtime.next_force(&mut random),
            result: Value::NONE,
            tiers,
            depth: 0,
            limit,
            running: ptr::null_mut(),
            record: runtime.activity.record(),
            runtime: Arc::clone(runtime),
            world: None,
            heap: Heap::default(),
            escaped: false,
            call: 0,
            started: Vec::new(),
            random,
            stack,
            // The newest handle of a thread is the one that drops go to.
            maker: runtime.arena.attach()?,
            runner,
        }))
    }

    pub(crate) fn begin(&mut self, world: &Arc<World>, call: u64) {
        self.world = Some(Arc::clone(world));
        self.call = call;
        self.depth = 0;
    }

    /// What the call made, and whether any of it may be known outside.
    pub(crate) fn end(&mut self) -> (Heap, bool) {
        self.world = None;
        (core::mem::take(&mut self.heap), core::mem::take(&mut self.escaped))
    }

    /// The world of the call under way.
    pub(crate) fn world(&self) -> &'static World {
        let world = self.world.as_ref().map_or(ptr::null(), Arc::as_ptr);
        debug_assert!(!world.is_null(), "there is a call");
        // SAFETY: set by `begin`, and kept until `end`; nothing that a call
        // makes outlives it but in the world itself.
        unsafe { &*world }
    }

    pub(crate) fn call_from_outside(
        &mut self,
        function: Value,
        args: &[Value],
    ) -> Result<Value, Value> {
        let frame = Frame(self.stack.as_mut_ptr().cast());
        for (slot, arg) in (0..).zip(args) {
            frame.set(slot, *arg);
        }
        match function.as_function() {
            Some(function) => self.call_function(function, frame, args.len(), 0),
            None => Err(self.exception(ExcKind::NameError, "no such function".into(), 0)),
        }
    }

    /// Calls a function whose arguments are in `frame`.
    pub(crate) fn call_function(
        &mut self,
        function: &'static Function,
        frame: Frame,
        args: usize,
        line: u32,
    ) -> Result<Value, Value> {
        let code = &*function.code;
        if args != usize::from(code.params) {
            let message = format!(
                "{}() takes {} positional arguments but {args} were given",
                code.name, code.params
            );
            return Err(self.exception(ExcKind::TypeError, message, line));
        }
        if self.depth >= DEEPEST || frame.0 > self.limit {
            let message = "maximum recursion depth exceeded".to_owned();
            return Err(self.exception(ExcKind::RecursionError, message, line));
        }
        for slot in code.params..code.locals {
            frame.set(slot, Value::UNDEF);
        }
        self.depth += 1;
        let outcome = if self.tiers {
            tier::call(self, function, frame)
        } else {
            interpreter::run(self, function, frame, 0)
        };
        self.depth -= 1;
        outcome
    }

    pub(crate) fn exception(&mut self, kind: ExcKind, message: String, line: u32) -> Value {
        self.heap.exception(Exception { kind, message, line })
    }

    /// Lets reclamation go on, and nothing else.
    #[inline]
    pub(crate) fn safepoint(&mut self) {
        self.fuel = FUEL;
        // SAFETY: null, or the innermost executor this thread is in, which
        // `tier::enter` keeps on its stack and does not touch meanwhile.
        if let Some(running) = unsafe { self.running.as_mut() } {
            running.safepoint();
        }
    }

    /// After a guard that was made to fail: sets when the next one is.
    pub(crate) fn rewind(&mut self) {
        if self.force < 0 {
            self.force = self.runtime.next_force(&mut self.random);
        }
    }

    /// Runs `f`, which may block, without holding reclamation up.
    pub(crate) fn park<R>(&mut self, f: impl FnOnce() -> R) -> R {
        // SAFETY: as in `safepoint`.
        match unsafe { self.running.as_mut() } {
            Some(running) => running.park(f),
            None => f(),
        }
    }

    /// Objects of this call are known outside from here on.
    pub(crate) fn escapes(&mut self, value: Value) {
        self.escaped |= value.is_object();
    }

    /// Joins the threads that the call started and did not join.
    pub(crate) fn join_all(&mut self) {
        while let Some(thread) = self.started.pop() {
            // An exception of a thread that nobody joins is told by nobody.
            let _ = self.join(thread);
        }
    }

    /// Waits for a thread to end; its uncaught exception, if it had one.
    pub(crate) fn join(&mut self, thread: Value) -> Option<String> {
        let handle = thread.as_thread().and_then(|thread| locked(&thread.running).take())?;
        match self.park(|| handle.join()) {
            Ok(mut ended) => {
                self.heap.append(&mut ended.heap);
                self.escaped |= ended.escaped;
                ended.raised
            }
            Err(_) => Some("the thread panicked".to_owned()),
        }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        self.record.end();
    }
}

impl core::fmt::Debug for Context {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Context").field("call", &self.call).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use jit_arena::Arena;

    use super::*;
    use crate::programs::BUNDLED;
    use crate::syntax::compile;
    use crate::value::tag;
    use crate::{Options, THREAD_STACK};

    /// Runs all programs, calls each with a few arguments, and returns what they
    /// print and bring. Before each call all slots hold a list that is not there.
    fn run_on_stale_slots(options: Options) -> Vec<String> {
        // Nothing is mapped at this address: whoever looks at the list ends there.
        let gone = Value { tag: tag::LIST, bits: 0x1000 };
        let spoil = |context: &mut Context| {
            let all = Frame(context.stack.as_mut_ptr().cast());
            (0..STACK as u16).for_each(|slot| all.set(slot, gone));
        };
        let mut said = Vec::new();
        for bundled in BUNDLED {
            let program = Arc::new(compile(bundled.name, bundled.text).expect("in the subset"));
            let runtime = Arc::new(Shared::new(Arena::builder(), options).expect("an arena"));
            let world = World::new(&runtime, &program);
            let mut context = Context::new(&runtime, options.machine_code).expect("a thread");
            spoil(&mut context);
            world.start(&mut context).expect("runs");
            said.push(core::mem::take(&mut *locked(&world.output)));
            for n in 1..=4 {
                spoil(&mut context);
                said.push(world.call(&mut context, "run", &[Value::int(n)]).expect("runs"));
            }
        }
        said
    }

    #[test]
    fn nobody_looks_at_slots_that_their_call_has_not_written() {
        let slow = Options { machine_code: false, ..Options::default() };
        // Code is made in as many places as there are, ways out among them.
        let eager = Options {
            warm_calls: 1,
            warm_loops: 1,
            warm_exits: 1,
            force_exits: Some(50),
            ..Options::default()
        };
        let both = move || assert_eq!(run_on_stale_slots(eager), run_on_stale_slots(slow));
        let run = thread::Builder::new().stack_size(THREAD_STACK).spawn(both);
        run.expect("a thread").join().expect("both the same");
    }
}
