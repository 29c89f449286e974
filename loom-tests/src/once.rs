//! Models run once, on real threads, so that they cannot rot.

use std::time::Instant;

use crate::{Bounds, Explored};

/// What models are run by in this build.
pub const CHECKER: &str = "once";

pub use std::thread;

/// Runs a model once.
pub fn explore(_name: &str, _bounds: Bounds, body: fn()) -> Explored {
    let start = Instant::now();
    body();
    Explored { schedules: 1, time: start.elapsed(), finished: true }
}
