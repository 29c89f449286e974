//! What users of the package see.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jit_arena::{Arena, AttachError, BuildError, Builder};

use crate::run::context::Context;
use crate::run::world::{self, Uncaught};
use crate::runtime::Shared;
use crate::runtime::counts::Done;
use crate::runtime::histogram::Histogram;
use crate::runtime::record::ThreadActivity;
use crate::syntax::{SourceError, compile};
use crate::value::Value;
use crate::value::objects::locked;
use crate::{Options, syntax};

/// A program, parsed and compiled to bytecode.
#[derive(Clone, Debug)]
pub struct Program(Arc<syntax::code::Program>);

impl Program {
    /// Reads a program; `file` is its name in errors.
    ///
    /// # Errors
    ///
    /// It is no Python, or uses more of it than there is here.
    pub fn parse(file: &str, text: &str) -> Result<Self, SourceError> {
        compile(file, text).map(|program| Self(Arc::new(program)))
    }
}

/// An arena, and what its threads share.
#[derive(Clone, Debug)]
pub struct Runtime(Arc<Shared>);

impl Runtime {
    /// A runtime on an arena of its own, which `builder` makes.
    ///
    /// # Errors
    ///
    /// The arena cannot be had.
    pub fn new(builder: Builder, options: Options) -> Result<Self, BuildError> {
        Shared::new(builder, options).map(|shared| Self(Arc::new(shared)))
    }

    /// The arena that machine code is in.
    #[must_use]
    pub fn arena(&self) -> &Arena {
        &self.0.arena
    }

    /// A program with globals of its own; nothing of it has run.
    #[must_use]
    pub fn world(&self, program: &Program) -> World {
        World(world::World::new(&self.0, &program.0))
    }

    /// Makes the calling thread one of the runtime's.
    ///
    /// # Errors
    ///
    /// The arena does not take it.
    pub fn attach(&self) -> Result<Thread, AttachError> {
        Context::new(&self.0, self.0.options.machine_code).map(Thread)
    }

    /// Counts of all threads.
    #[must_use]
    pub fn done(&self) -> Done {
        self.0.counts.read()
    }

    /// Nanoseconds from the decision to compile to the code being there.
    #[must_use]
    pub fn installs(&self) -> &Histogram {
        &self.0.installs
    }

    /// Nanoseconds from the drop of an executor to its memory being usable
    /// again.
    #[must_use]
    pub fn reclaims(&self) -> &Histogram {
        &self.0.recorder.reclaims
    }

    /// How long ago the oldest executor was dropped whose memory is not usable
    /// again yet: how far reclamation lags behind.
    #[must_use]
    pub fn lag(&self) -> Duration {
        self.0.recorder.lag()
    }

    /// Times that any thread left machine code in the middle.
    #[must_use]
    pub fn exits(&self) -> u64 {
        self.0.activity.exits()
    }

    /// What each thread has done that lives, or has ended not long ago.
    #[must_use]
    pub fn threads(&self) -> Vec<ThreadActivity> {
        self.0.activity.read()
    }

    /// Drops code that was not entered of late, or if there is little such,
    /// every third executor. Returns how many went, without side traces.
    pub fn evict(&self) -> usize {
        crate::tier::evict::evict(&self.0)
    }
}

/// A program with its globals, as far as it has run. Threads may run it at the
/// same time.
#[derive(Clone, Debug)]
pub struct World(Arc<world::World>);

impl World {
    /// What it has printed since this was asked last.
    #[must_use]
    pub fn take_output(&self) -> String {
        core::mem::take(&mut *locked(&self.0.output))
    }

    /// Gives a global the value that it has, as if the program had assigned it:
    /// code that took it for constant is dropped. How much that was; `None` if
    /// there is no such global.
    #[must_use]
    pub fn rebind(&self, name: &str) -> Option<usize> {
        let global = self.0.global(name)?;
        let dropped = global.touch();
        self.0.runtime.counts.invalidated(dropped);
        Some(dropped)
    }

    /// Names of the program's globals.
    #[must_use]
    pub fn globals(&self) -> &[String] {
        &self.0.program.globals
    }
}

/// The calling thread, as one of a runtime's. Stays on it.
pub struct Thread(Box<Context>);

impl Thread {
    /// Runs a program from the top.
    ///
    /// # Errors
    ///
    /// The exception that nobody handled, as text.
    pub fn start(&mut self, world: &World) -> Result<(), Uncaught> {
        world.0.start(&mut self.0)
    }

    /// Calls a function of a program that was started, with an int; returns
    /// the result as text.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub fn call(&mut self, world: &World, function: &str, arg: i64) -> Result<String, Uncaught> {
        world.0.call(&mut self.0, function, &[Value::int(arg)])
    }

    /// Forks, by way of `fork`, which returns 0 in the child and is what this
    /// returns. In the child this thread goes on running programs with the same
    /// runtime; [`Runtime::lag`] and [`Runtime::reclaims`] stand still. A child
    /// may wait for ever for a thread that is not there if it uses another world
    /// than `own` and those it makes, or runs a program that starts threads: the
    /// standard library has a lock of its own for that.
    ///
    /// `own` is a world that no other thread has used. Waits for evictions under
    /// way.
    pub fn fork(&mut self, own: &World, fork: impl FnOnce() -> i32) -> i32 {
        crate::runtime::fork::across(&self.0.runtime, &own.0, fork)
    }

    /// Reclaims what code this thread has dropped, as far as others let it.
    pub fn collect(&mut self) {
        self.0.runner.collect();
        self.0.maker.collect();
    }

    /// Times that this thread entered machine code.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.0.record.entries()
    }

    /// Has this thread interpret everything, from here on.
    pub fn interpret_only(&mut self) {
        self.0.tiers = false;
    }
}

impl fmt::Debug for Thread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Thread").field(&self.0).finish()
    }
}
