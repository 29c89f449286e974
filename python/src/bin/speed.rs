//! How much faster machine code is than the interpreter, and two threads than
//! one: `cargo run --release -p jit-arena-python --bin speed`.
//!
//! Ratios only, of rounds in turns: a round of one, then of the other, and the
//! median over the rounds of the ratio of neighbours.

use std::error::Error;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use jit_arena::Arena;
use jit_arena_python::programs::{BUNDLED, Bundled};
use jit_arena_python::{Options, Program, Runtime, Thread, World};

/// Rounds of each race.
const ROUNDS: usize = 9;

/// What a round of the interpreter is to take.
const ROUND: Duration = Duration::from_millis(60);

fn time(thread: &mut Thread, world: &World, n: i64) -> Result<Duration, Box<dyn Error>> {
    let started = Instant::now();
    thread.call(world, "run", n)?;
    Ok(started.elapsed())
}

fn median(mut ratios: Vec<f64>) -> f64 {
    ratios.sort_by(f64::total_cmp);
    ratios[ratios.len() / 2]
}

/// The interpreter's time over machine code's.
fn against_interpreter(bundled: &Bundled) -> Result<(i64, f64), Box<dyn Error>> {
    let program = Program::parse(bundled.name, bundled.text)?;
    let runtime = Runtime::new(Arena::builder(), Options::default())?;
    let world = runtime.world(&program);
    let mut fast = runtime.attach()?;
    let mut slow = runtime.attach()?;
    slow.interpret_only();
    slow.start(&world)?;
    let mut n = 1;
    while time(&mut slow, &world, n)? < ROUND && n < 1 << 14 {
        n *= 2;
    }
    // Warms up.
    for _ in 0..3 {
        time(&mut fast, &world, n)?;
    }
    let mut ratios = Vec::new();
    for _ in 0..ROUNDS {
        let (a, b) = (time(&mut slow, &world, n)?, time(&mut fast, &world, n)?);
        ratios.push(a.as_secs_f64() / b.as_secs_f64());
    }
    Ok((n, median(ratios)))
}

/// What two threads do in the time of one: each calls the same function of the
/// same world, and they share nothing else.
fn two_threads(bundled: &Bundled, n: i64) -> Result<f64, Box<dyn Error>> {
    let program = Program::parse(bundled.name, bundled.text)?;
    let runtime = Runtime::new(Arena::builder(), Options::default())?;
    let world = runtime.world(&program);
    let mut own = runtime.attach()?;
    own.start(&world)?;
    let n = n * 8;
    for _ in 0..3 {
        time(&mut own, &world, n)?;
    }
    let start = Barrier::new(2);
    let result = thread::scope(|scope| {
        let other = scope.spawn(|| -> Result<(), String> {
            let mut other = runtime.attach().map_err(|e| e.to_string())?;
            other.call(&world, "run", n)?;
            for _ in 0..ROUNDS {
                start.wait();
                let done = other.call(&world, "run", n).map(drop);
                start.wait();
                done?;
            }
            Ok(())
        });
        let mut ratios = Vec::new();
        for _ in 0..ROUNDS {
            let alone = time(&mut own, &world, n);
            start.wait();
            let started = Instant::now();
            let beside = time(&mut own, &world, n);
            start.wait();
            let both = started.elapsed();
            beside?;
            ratios.push(2.0 * alone?.as_secs_f64() / both.as_secs_f64());
        }
        other.join().map_err(|_| "a thread panicked")??;
        Ok::<_, Box<dyn Error>>(ratios)
    })?;
    Ok(median(result))
}

fn main() -> Result<(), Box<dyn Error>> {
    println!("{:<16}{:>24}{:>24}", "program", "interpreter ÷ machine", "two threads ÷ one");
    for bundled in BUNDLED.iter().filter(|bundled| bundled.reentrant && bundled.name != "sleepers")
    {
        let (n, faster) = against_interpreter(bundled)?;
        let scales = if bundled.numeric { two_threads(bundled, n)? } else { f64::NAN };
        let name = format!("{}{}", bundled.name, if bundled.numeric { " *" } else { "" });
        let scales = if scales.is_nan() { String::new() } else { format!("{scales:.2}") };
        println!("{name:<16}{faster:>24.1}{scales:>24}");
    }
    println!("* numeric: aimed at are 5 and 1.8");
    Ok(())
}
