//! What fork(2) costs against committed code memory: until it returns in the
//! parent, and until it returns in the child.

use std::io;
use std::time::Duration;

use jit_arena::{Arena, Strategy};
use serde::Serialize;

use crate::failure::{Check, Failure, Request};
use crate::replay::strategy_name;

/// MiB of code memory committed in each row.
const SIZES: [usize; 5] = [0, 1, 4, 16, 64];

/// One row: medians over some forks, in microseconds.
#[derive(Clone, Debug, Serialize)]
pub struct ForkCost {
    kind: &'static str,
    /// The strategy of the arena.
    #[serde(serialize_with = "strategy_name")]
    pub strategy: Strategy,
    /// Code memory committed when it forks.
    pub committed_bytes: u64,
    /// Until fork returns in the parent.
    pub parent_us: f64,
    /// Until fork returns in the child.
    pub child_us: f64,
    /// Until it returns in the parent if children have no arena.
    pub without_us: f64,
    /// Forks of each kind.
    pub forks: usize,
}

/// Measures, each row over so many forks of either kind in turns.
///
/// # Errors
///
/// No such arena can be had, or the system does not fork.
pub fn measure(strategy: Option<Strategy>, forks: usize) -> Result<Vec<ForkCost>, Failure> {
    SIZES.into_iter().map(|size| row(strategy, size << 20, forks)).collect()
}

fn row(strategy: Option<Strategy>, bytes: usize, forks: usize) -> Result<ForkCost, Failure> {
    let (mut parent, mut child, mut without) = (Vec::new(), Vec::new(), Vec::new());
    let (mut used, mut committed) = (Strategy::DualTransient, 0);
    for copied in [false, true] {
        let mut builder = Arena::builder().forks(copied).keep_free(usize::MAX);
        if let Some(strategy) = strategy {
            builder = builder.strategy(strategy);
        }
        let arena = builder.build().map_err(Request::from)?;
        let mut thread = arena.attach().map_err(|e| Check::operation("attaching a thread", e))?;
        let mut kept = Vec::new();
        while (arena.stats().committed_bytes as usize) < bytes {
            let installed = thread.install(&[0xC3; 3000], &[]);
            kept.push(installed.map_err(|e| Check::operation("installing code", e))?);
        }
        used = arena.report().strategy;
        for _ in 0..forks {
            let (in_parent, in_child) = fork()?;
            if copied {
                committed = arena.stats().committed_bytes;
                parent.push(in_parent);
                child.push(in_child);
            } else {
                without.push(in_parent);
            }
        }
    }
    Ok(ForkCost {
        kind: "forks",
        strategy: used,
        committed_bytes: committed,
        parent_us: median(parent),
        child_us: median(child),
        without_us: median(without),
        forks,
    })
}

/// What the call before this one was refused.
fn refused(what: &'static str) -> Failure {
    Failure::System { what, source: io::Error::last_os_error() }
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times.get(times.len() / 2).map_or(0.0, |time| time.as_secs_f64() * 1e6)
}

/// Time on the clock that parent and child share.
fn now() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a live timespec for the call to fill.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Forks a child that tells the time and ends; how long it took in either.
fn fork() -> Result<(Duration, Duration), Failure> {
    let mut pipe = [0; 2];
    // SAFETY: room for two descriptors.
    if unsafe { libc::pipe(pipe.as_mut_ptr()) } != 0 {
        return Err(refused("make a pipe"));
    }
    let before = now();
    // SAFETY: the child calls nothing but what may be called there.
    let pid = unsafe { libc::fork() };
    let after = now();
    if pid == 0 {
        let time = (after.as_nanos() as u64).to_ne_bytes();
        // SAFETY: eight bytes that are there.
        unsafe { libc::write(pipe[1], time.as_ptr().cast(), time.len()) };
        // SAFETY: ends the child.
        unsafe { libc::_exit(0) };
    }
    // At once: what follows sets the error anew.
    let forked = if pid < 0 { Err(refused("fork")) } else { Ok(()) };
    // SAFETY: our descriptor, used no more.
    unsafe { libc::close(pipe[1]) };
    let told = forked.and_then(|()| hear(pipe[0], pid));
    // SAFETY: as above.
    unsafe { libc::close(pipe[0]) };
    Ok((after - before, told?.saturating_sub(before)))
}

/// The time that a child tells, which is then waited for.
fn hear(pipe: libc::c_int, pid: libc::pid_t) -> Result<Duration, Failure> {
    let mut time = [0; 8];
    // SAFETY: room for eight bytes.
    let read = unsafe { libc::read(pipe, time.as_mut_ptr().cast(), time.len()) };
    let heard = match read {
        8 => Ok(Duration::from_nanos(u64::from_ne_bytes(time))),
        0.. => {
            let source = io::ErrorKind::UnexpectedEof.into();
            Err(Failure::System { what: "hear from a forked child", source })
        }
        _ => Err(refused("hear from a forked child")),
    };
    // SAFETY: waits for the child just forked.
    unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
    heard
}

/// The rows for people.
#[must_use]
pub fn text(rows: &[ForkCost]) -> String {
    let mut text = String::from("committed     parent      child    without (microseconds)");
    for row in rows {
        text += &format!(
            "\n{:>6.1} MiB {:>10.0} {:>10.0} {:>10.0}",
            row.committed_bytes as f64 / f64::from(1 << 20),
            row.parent_us,
            row.child_us,
            row.without_us,
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::chain;

    #[test]
    fn a_child_that_says_nothing_is_told_as_that() {
        let mut pipe = [0; 2];
        // SAFETY: room for two descriptors.
        assert_eq!(unsafe { libc::pipe(pipe.as_mut_ptr()) }, 0);
        // SAFETY: the child only ends.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            // SAFETY: ends the child.
            unsafe { libc::_exit(0) };
        }
        // SAFETY: our descriptor, used no more.
        unsafe { libc::close(pipe[1]) };
        let failure = hear(pipe[0], pid).unwrap_err();
        // SAFETY: as above.
        unsafe { libc::close(pipe[0]) };
        assert_eq!(chain(&failure), "cannot hear from a forked child: unexpected end of file");
    }

    #[test]
    fn a_fork_takes_time_in_parent_and_child() {
        let row = row(None, 1 << 20, 3).expect("a row");
        assert!(row.parent_us > 0.0 && row.child_us > 0.0 && row.without_us > 0.0, "{row:?}");
        assert!(row.committed_bytes >= 1 << 20);
        assert_eq!(text(&[row]).lines().count(), 2);
    }
}
