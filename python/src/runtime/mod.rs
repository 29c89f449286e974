//! What all threads and worlds of a runtime share.

pub(crate) mod counts;
pub(crate) mod fork;
pub(crate) mod histogram;
pub(crate) mod record;
pub(crate) mod recorder;

use core::fmt;
use std::sync::{Arc, Mutex, RwLock, Weak};

use jit_arena::{Arena, BuildError, Builder};

use crate::tier::unit::Unit;
use counts::Counts;
use histogram::Histogram;
use record::Activity;
use recorder::Recorder;

/// How eager a runtime is.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Whether hot code becomes machine code. Never on other processors than
    /// x86-64.
    pub machine_code: bool,
    /// Calls of a function before it is compiled.
    pub warm_calls: u32,
    /// Rounds of a loop before it is compiled.
    pub warm_loops: u32,
    /// Times that machine code is left in one place before that gets a side
    /// trace.
    pub warm_exits: u32,
    /// Makes guards fail at random, one in so many on average.
    pub force_exits: Option<u32>,
    /// Bytes of live code above which cold code is dropped, whatever the
    /// arena's own budget.
    pub live_goal: Option<u64>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            machine_code: true,
            warm_calls: 50,
            warm_loops: 200,
            warm_exits: 50,
            force_exits: None,
            live_goal: None,
        }
    }
}

/// What all threads share.
pub(crate) struct Shared {
    pub(crate) options: Options,
    pub(crate) counts: Counts,
    pub(crate) activity: Activity,
    /// From the decision to compile to the code being there, in nanoseconds.
    pub(crate) installs: Histogram,
    pub(crate) recorder: Arc<Recorder>,
    /// Every unit that may be alive.
    pub(crate) units: Mutex<Vec<Weak<Unit>>>,
    /// Read while code of any world is dropped for want of memory: a fork waits
    /// for that.
    pub(crate) evicting: RwLock<()>,
    pub(crate) arena: Arena,
}

impl Shared {
    pub(crate) fn new(builder: Builder, mut options: Options) -> Result<Self, BuildError> {
        options.machine_code &= cfg!(target_arch = "x86_64");
        let recorder = Arc::new(Recorder::default());
        let tool: Arc<dyn jit_arena::Tool> = recorder.clone();
        Ok(Self {
            options,
            counts: Counts::default(),
            activity: Activity::default(),
            installs: Histogram::default(),
            recorder,
            units: Mutex::default(),
            evicting: RwLock::default(),
            arena: builder.tool(tool).build()?,
        })
    }

    /// Guards until the next one that is made to fail.
    pub(crate) fn next_force(&self, random: &mut fastrand::Rng) -> i64 {
        match self.options.force_exits {
            Some(mean) => random.i64(1..=2 * i64::from(mean.max(1))),
            None => i64::MAX,
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("arena", &self.arena).finish_non_exhaustive()
    }
}
