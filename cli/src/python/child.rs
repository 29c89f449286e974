//! What a child of fork(2) does: the same as its parent, with one thread.
//!
//! It runs code from before the fork, rebinds globals so that it goes and is
//! made anew, lets it all die, and does so again with programs that start there.
//! What it computes is compared, and what it holds is counted and verified.
//!
//! Whatever a thread that is not there may have had in its hands it keeps off:
//! worlds of the pool, the locks of the standard streams, the births of threads.

use std::panic::{AssertUnwindSafe, catch_unwind};

use jit_arena::{Arena, Stats};
use jit_arena_python::{Thread, World};

use super::children::LIMIT;
use super::oracle::{ARGUMENTS, Known};
use super::{Stage, pool, wrong};
use crate::failure::{Check, chain};
use crate::settle;

/// Calls of a world before the fork: it should have code.
const WARM: u32 = 4;

/// Calls of a world in the child.
const CALLS: u32 = 10;

/// Programs that the child starts.
const STARTED: u32 = 2;

/// Pushes at reclamation before what is retired counts as a leak.
const ROUNDS: usize = 100;

/// What a child says by its status, 0 if all is well. A signal that machine code
/// raises has it end with 1, as any process of this program.
const SIGNALLED: libc::c_int = 1;
pub(super) const WRONG: libc::c_int = 10;
const INCONSISTENT: libc::c_int = 11;
const MISCOUNTED: libc::c_int = 12;
const REFUSED: libc::c_int = 13;
const PANICKED: libc::c_int = 101;

/// How a child failed, by what waitpid(2) says; `None` if it did not.
pub(super) fn describe(status: libc::c_int) -> Option<String> {
    if libc::WIFSIGNALED(status) {
        return Some(format!("was ended by signal {}", libc::WTERMSIG(status)));
    }
    let how = match libc::WEXITSTATUS(status) {
        0 => return None,
        SIGNALLED => "ran into a signal, told above",
        WRONG => "computed something else than it should",
        INCONSISTENT => "found its arena not consistent",
        MISCOUNTED => "counted something else than its arena",
        REFUSED => "was refused something",
        PANICKED => "panicked",
        other => return Some(format!("ended with status {other}")),
    };
    Some(how.to_owned())
}

/// Runs a program of this thread's own until it has code, and forks a child that
/// goes on.
pub(super) fn fork(
    stage: &Stage,
    thread: &mut Thread,
    random: &mut fastrand::Rng,
) -> Result<(), Check> {
    let known = some(stage, random);
    let world = pool::start(stage, thread, known)?;
    for _ in 0..WARM {
        call(thread, &world, known, random)?;
    }
    // SAFETY: the child runs below with nobody's locks, and never returns.
    let pid = thread.fork(&world, || unsafe { libc::fork() });
    if pid == 0 {
        live(stage, thread, (known, world), random);
    }
    stage.children.born(pid);
    Ok(())
}

/// A program that starts no threads: the standard library has a lock for their
/// births and ends, and one may be under way at the fork.
fn some<'a>(stage: &'a Stage, random: &mut fastrand::Rng) -> &'a Known {
    loop {
        let known = &stage.oracle.known[random.usize(..stage.oracle.known.len())];
        if !known.bundled.is_threaded() {
            return known;
        }
    }
}

/// Calls a program in a world that nobody else has, and compares.
fn call(
    thread: &mut Thread,
    world: &World,
    known: &Known,
    random: &mut fastrand::Rng,
) -> Result<(), Check> {
    let n = random.i64(ARGUMENTS);
    let expected = &known.results[(n - ARGUMENTS.start()) as usize];
    let result = thread.call(world, "run", n);
    let told = world.take_output();
    if result.as_ref() == Ok(expected) && told.is_empty() {
        return Ok(());
    }
    let got = result.unwrap_or_else(|raised| raised) + &told;
    Err(wrong(known.bundled.name, &format!("run({n})"), got, expected.clone()))
}

/// All that the child does.
fn live(stage: &Stage, thread: &mut Thread, own: (&Known, World), random: &mut fastrand::Rng) -> ! {
    // Should the parent not be there to kill it.
    // SAFETY: ends this process some time after the parent would.
    unsafe { libc::alarm(2 * LIMIT.as_secs() as libc::c_uint) };
    std::panic::set_hook(Box::new(|info| tell(&info.to_string())));
    let work = || work(stage, thread, own, random);
    let status = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(())) => 0,
        Ok(Err(check)) => {
            tell(&chain(&check));
            match check {
                Check::WrongOutput { .. } => WRONG,
                Check::Verify(_) => INCONSISTENT,
                Check::Count { .. } => MISCOUNTED,
                _ => REFUSED,
            }
        }
        Err(_) => PANICKED,
    };
    // SAFETY: ends the process without what the parent has at its exit.
    unsafe { libc::_exit(status) }
}

/// Says why, without a lock.
fn tell(why: &str) {
    let text = format!("jit-arena: a forked child: {why}\n");
    // SAFETY: of bytes that are there.
    unsafe { libc::write(2, text.as_ptr().cast(), text.len()) };
}

fn work(
    stage: &Stage,
    thread: &mut Thread,
    (known, world): (&Known, World),
    random: &mut fastrand::Rng,
) -> Result<(), Check> {
    let arena = stage.runtime.arena();
    let compiled = || stage.runtime.done().compiled;
    arena.verify()?;
    let installs = arena.stats().installs;

    let before = (thread.entries(), compiled());
    call(thread, &world, known, random)?;
    let has_inherited = thread.entries() > before.0 && compiled() == before.1;
    disturb(stage, thread, &world, known, random)?;
    drop(world);
    // What is live now is the worlds' of the pool, and stays.
    let others = settled(arena, thread)?;
    let mut calls = 1 + CALLS;
    for _ in 0..STARTED {
        let known = some(stage, random);
        let world = pool::start(stage, thread, known)?;
        disturb(stage, thread, &world, known, random)?;
        drop(world);
        calls += CALLS;
        let left = settled(arena, thread)?;
        settle::count("executors live in a child", left.live_executors, others.live_executors)?;
        settle::count("bytes live in a child", left.live_bytes, others.live_bytes)?;
    }
    let made = arena.stats().installs - installs;
    stage.children.tally.add(calls.into(), made, has_inherited);
    Ok(())
}

/// Calls a program while its globals are rebound and its code is evicted.
fn disturb(
    stage: &Stage,
    thread: &mut Thread,
    world: &World,
    known: &Known,
    random: &mut fastrand::Rng,
) -> Result<(), Check> {
    for _ in 0..CALLS {
        call(thread, world, known, random)?;
        match random.u8(..4) {
            0 => drop(stage.runtime.evict()),
            1 | 2 => {
                if let Some(name) = random.choice(world.globals()) {
                    let _ = world.rebind(name);
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Reclaims all that can be, which is all that is retired, and verifies.
fn settled(arena: &Arena, thread: &mut Thread) -> Result<Stats, Check> {
    for _ in 0..ROUNDS {
        thread.collect();
        if arena.stats().retired_executors == 0 {
            break;
        }
    }
    let stats = arena.stats();
    settle::count("executors retired in a child", stats.retired_executors, 0)?;
    settle::count("bytes retired in a child", stats.retired_bytes, 0)?;
    arena.verify()?;
    Ok(stats)
}
