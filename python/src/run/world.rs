//! A world: one program with its globals, as far as it has run.

use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::context::Context;
use super::global::Global;
use crate::runtime::Shared;
use crate::syntax::code::Program;
use crate::tier::unit::Unit;
use crate::value::Value;
use crate::value::heap::Heap;
use crate::value::objects::{Function, locked};
use crate::value::text::display;

/// Numbers calls from outside, of all worlds.
static CALLS: AtomicU64 = AtomicU64::new(1);

/// One program, its globals and its functions.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) runtime: Arc<Shared>,
    pub(crate) program: Arc<Program>,
    pub(crate) globals: Vec<Global>,
    pub(crate) output: Mutex<String>,
    /// Machine code that was ever made here: it tells by address which of these
    /// it is, so none goes before all calls are over.
    pub(crate) units: Mutex<Vec<Arc<Unit>>>,
    /// What calls left behind. Last: objects are named by all of the above.
    heap: Mutex<Heap>,
}

/// What ended a call: the exception, as text.
pub(crate) type Uncaught = String;

impl World {
    pub(crate) fn new(runtime: &Arc<Shared>, program: &Arc<Program>) -> Arc<Self> {
        Arc::new(Self {
            runtime: Arc::clone(runtime),
            program: Arc::clone(program),
            globals: program.globals.iter().map(|_| Global::new()).collect(),
            output: Mutex::default(),
            units: Mutex::default(),
            heap: Mutex::default(),
        })
    }

    pub(crate) fn global(&self, name: &str) -> Option<&Global> {
        let at = self.program.globals.iter().position(|global| global == name)?;
        self.globals.get(at)
    }

    /// Runs the program's own level.
    pub(crate) fn start(self: &Arc<Self>, context: &mut Context) -> Result<(), Uncaught> {
        let code = Arc::clone(&self.program.codes[0]);
        let function = locked(&self.heap).function(Function::new(self, code));
        self.enter(context, function, &[]).map(drop)
    }

    /// Calls a function by its name.
    pub(crate) fn call(
        self: &Arc<Self>,
        context: &mut Context,
        name: &str,
        args: &[Value],
    ) -> Result<String, Uncaught> {
        let function = self.global(name).map_or(Value::UNDEF, Global::load);
        self.enter(context, function, args)
    }

    /// Calls from outside: what the call made is freed when it is over.
    fn enter(
        self: &Arc<Self>,
        context: &mut Context,
        function: Value,
        args: &[Value],
    ) -> Result<String, Uncaught> {
        // Relaxed: only to be different.
        let number = CALLS.fetch_add(1, Ordering::Relaxed);
        context.begin(self, number);
        let outcome = context.call_from_outside(function, args);
        let text = match outcome {
            Ok(value) => Ok(display(value)),
            Err(exception) => Err(describe(exception)),
        };
        context.join_all();
        let (mut heap, escaped) = context.end();
        if escaped {
            locked(&self.heap).append(&mut heap);
        }
        text
    }
}

/// An exception as the last line of a traceback.
pub(crate) fn describe(exception: Value) -> Uncaught {
    match exception.as_exception() {
        Some(e) => format!("{}: {} (line {})", e.kind.name(), e.message, e.line),
        None => "an exception".to_owned(),
    }
}
