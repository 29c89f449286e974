//! How much faster machine code is than the interpreter, and two threads than
//! one: `cargo run --release -p jit-arena-python --bin speed [PROGRAM]…`.
//!
//! Ratios only, of rounds in turns: a round of one, then of the other, and the
//! median over the rounds of the ratio of neighbours. Times are those that the
//! processor gave a thread, so that others who use the machine do not count; for
//! two threads the ratio by the clock is told as well, which on a busy machine
//! says how many of its cores were free.

use std::error::Error;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use jit_arena::Arena;
use jit_arena_python::programs::{BUNDLED, Bundled};
use jit_arena_python::{Options, Program, Runtime, THREAD_STACK, Thread, World};

/// Rounds of each race.
const ROUNDS: usize = 7;

/// What a round of the interpreter is to take.
const ROUND: Duration = Duration::from_millis(25);

/// The time that the calling thread has had on a processor.
fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a valid place; this clock is always there.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

fn time(thread: &mut Thread, world: &World, n: i64) -> Result<f64, String> {
    let started = processor_time();
    thread.call(world, "run", n)?;
    Ok((processor_time() - started).as_secs_f64())
}

fn median(mut ratios: Vec<f64>) -> f64 {
    ratios.sort_by(f64::total_cmp);
    ratios[ratios.len() / 2]
}

/// The work of a round, and the interpreter's time over machine code's.
fn against_interpreter(bundled: &Bundled) -> Result<(i64, f64), Box<dyn Error + Send + Sync>> {
    let program = Program::parse(bundled.name, bundled.text)?;
    let runtime = Runtime::new(Arena::builder(), Options::default())?;
    let world = runtime.world(&program);
    let mut fast = runtime.attach()?;
    let mut slow = runtime.attach()?;
    slow.interpret_only();
    slow.start(&world)?;
    let mut n = 1;
    while time(&mut slow, &world, n)? < ROUND.as_secs_f64() && n < 1 << 14 {
        n *= 2;
    }
    // Warms up.
    for _ in 0..3 {
        time(&mut fast, &world, n)?;
    }
    let mut ratios = Vec::new();
    for _ in 0..ROUNDS {
        ratios.push(time(&mut slow, &world, n)? / time(&mut fast, &world, n)?);
    }
    Ok((n, median(ratios)))
}

/// What two threads do in the time of one, by the processor's time and by the
/// clock: each calls the same function of the same world, and they share nothing
/// else.
fn two_threads(bundled: &Bundled, n: i64) -> Result<(f64, f64), Box<dyn Error + Send + Sync>> {
    let program = Program::parse(bundled.name, bundled.text)?;
    let runtime = Runtime::new(Arena::builder(), Options::default())?;
    let world = runtime.world(&program);
    let mut own = runtime.attach()?;
    own.start(&world)?;
    let n = n * 8;
    for _ in 0..3 {
        time(&mut own, &world, n)?;
    }
    let turn = Barrier::new(2);
    thread::scope(|scope| {
        let other = scope.spawn(|| -> Result<Vec<f64>, String> {
            let mut other = runtime.attach().map_err(|e| e.to_string())?;
            other.call(&world, "run", n)?;
            let mut times = Vec::new();
            for _ in 0..ROUNDS {
                turn.wait();
                let beside = time(&mut other, &world, n);
                turn.wait();
                times.push(beside?);
            }
            Ok(times)
        });
        let (mut alone, mut beside, mut clock) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let started = Instant::now();
            alone.push(time(&mut own, &world, n));
            let one = started.elapsed().as_secs_f64();
            turn.wait();
            let started = Instant::now();
            beside.push(time(&mut own, &world, n));
            turn.wait();
            clock.push(2.0 * one / started.elapsed().as_secs_f64());
        }
        let others = other.join().map_err(|_| "a thread panicked")??;
        let mut ratios = Vec::new();
        for ((alone, own), other) in alone.into_iter().zip(beside).zip(others) {
            ratios.push(2.0 * alone? / own?.max(other));
        }
        Ok((median(ratios), median(clock)))
    })
}

fn race() -> Result<(), Box<dyn Error + Send + Sync>> {
    println!("{:<16}{:>22}{:>20}{:>14}", "", "interpreter", "two threads", "the same");
    println!("{:<16}{:>22}{:>20}{:>14}", "program", "÷ machine code", "÷ one", "by the clock");
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let is_wanted = |name: &str| match wanted.as_slice() {
        [] => name != "sleepers",
        names => names.iter().any(|wanted| wanted == name),
    };
    let programs = BUNDLED.iter().filter(|bundled| bundled.reentrant && is_wanted(bundled.name));
    for bundled in programs {
        let (n, faster) = against_interpreter(bundled)?;
        print!("{:<16}{faster:>22.1}", bundled.name);
        if bundled.numeric {
            let (scales, clock) = two_threads(bundled, n)?;
            print!("{scales:>20.2}{clock:>14.2}");
        }
        println!();
    }
    println!("Aimed at for those with three figures, which are numeric: 5 and 1.8.");
    Ok(())
}

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    // Recursion needs more stack than the main thread may have.
    let race = thread::Builder::new().stack_size(THREAD_STACK).spawn(race)?;
    race.join().map_err(|_| "a thread panicked")?
}
