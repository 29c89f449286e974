//! fork(2): what threads share must not be somebody's for ever in the child.
//!
//! The child has one thread. A lock that another one held when it came to be is
//! never released there, so the thread that forks holds all locks of the runtime
//! that the child will need; the arena's it need not think of. Locks of worlds it cannot hold: the child keeps off worlds that others have
//! used, and does not evict their code.
//!
//! The thread that forks is in no program, and so in no lot of the arena's, and
//! nobody who holds one of these locks waits for a fork.

use std::sync::{Arc, PoisonError};

use super::Shared;
use crate::run::world::World;
use crate::value::objects::locked;

/// Calls `fork`, which forks and returns 0 in the child. Only the calling thread
/// knows `own`.
pub(crate) fn across(shared: &Shared, own: &World, fork: impl FnOnce() -> i32) -> i32 {
    let _evicting = shared.evicting.write().unwrap_or_else(PoisonError::into_inner);
    let mut units = locked(&shared.units);
    let _records = shared.activity.hold();
    #[cfg(target_arch = "x86_64")]
    let _stencils = crate::jit::hold_stencils();
    let child = fork();
    if child == 0 {
        shared.recorder.mute();
        *units = locked(&own.units).iter().map(Arc::downgrade).collect();
    }
    child
}
