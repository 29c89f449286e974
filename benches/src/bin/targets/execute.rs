//! Target 8: what packing does for code that runs.

use std::error::Error;

#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn run(bench: &mut crate::bench::Bench) -> Result<(), Box<dyn Error>> {
    bench.report.not_run("packed against one a page", "the functions are written for x86-64");
    Ok(())
}

#[cfg(target_arch = "x86_64")]
pub(crate) use x86_64::run;

#[cfg(target_arch = "x86_64")]
mod x86_64 {
    use std::hint::black_box;

    use jit_arena::{Arena, Executor, ThreadHandle};
    use jit_arena_benches::rival::RivalThread;
    use jit_arena_benches::rival::mapping::Mappings;
    use jit_arena_benches::sample::{Spread, cpu_time};
    use rand::rngs::SmallRng;
    use rand::seq::SliceRandom;
    use rand::{Rng, SeedableRng};

    use super::Error;
    use crate::bench::Bench;
    use crate::report::Limit;

    type Function = extern "C" fn() -> u64;

    /// How much of each function runs.
    #[derive(Clone, Copy)]
    enum Part {
        Whole,
        /// 64 bytes, then it returns.
        Start,
    }

    pub(crate) fn run(bench: &mut Bench) -> Result<(), Box<dyn Error>> {
        let counts: &[usize] = bench.pick(&[500], &[20_000], &[4_000, 20_000]);
        for &count in counts {
            for part in [Part::Whole, Part::Start] {
                compare(bench, count, part)?;
            }
        }
        Ok(())
    }

    fn compare(bench: &mut Bench, count: usize, part: Part) -> Result<(), Box<dyn Error>> {
        let mut rng = SmallRng::seed_from_u64(8);
        let codes: Vec<Vec<u8>> =
            (0..count).map(|_| body(rng.random_range(500..1500), part)).collect();
        let packed = Packed::new(bench, &codes, false)?;
        let huge = Packed::new(bench, &codes, true)?;
        let granted = huge.arena.report().huge_pages;
        let mut mappings = Mappings::new();
        let apart: Vec<_> = codes.iter().map(|code| mappings.install(code)).collect();
        let apart = functions(apart.iter().map(Mappings::addr));
        let mut order: Vec<usize> = (0..count).collect();
        order.shuffle(&mut rng);
        let all = [apart, packed.functions(), huge.functions()];
        // Warm, each of them.
        for functions in &all {
            time(functions, &order);
        }
        let rounds: Vec<_> = (0..bench.effort().rounds)
            .map(|_| all.each_ref().map(|functions| time(functions, &order)))
            .collect();
        let ratio = |one: usize, other: usize| {
            Spread::of(rounds.iter().map(|round| round[one] / round[other]))
        };
        let ran = match part {
            Part::Whole => "whole bodies",
            Part::Start => "64 bytes of each",
        };
        let what = |how: &str| format!("{how}, {count} functions, {ran}");
        bench.report.judge(&what("one a page / packed"), ratio(0, 1), Limit::None);
        match granted {
            Some(Ok(())) => {
                let stats = huge.arena.stats();
                bench.report.tell(&what("one a page / packed in huge pages"), ratio(0, 2));
                bench.report.tell(&what("packed / packed in huge pages"), ratio(1, 2));
                let part = stats.huge_bytes as f64 / stats.committed_bytes as f64;
                bench.report.tell("  of committed memory in huge pages", Some(Spread::exact(part)));
            }
            Some(Err(error)) => bench.report.not_run("huge pages", &error.to_string()),
            None => bench.report.not_run("huge pages", "they were not asked for"),
        }
        Ok(())
    }

    /// Functions in an arena.
    struct Packed {
        executors: Vec<Executor>,
        thread: ThreadHandle,
        arena: Arena,
    }

    impl Packed {
        fn new(bench: &Bench, codes: &[Vec<u8>], huge: bool) -> Result<Self, Box<dyn Error>> {
            let arena = Arena::builder()
                .reserve(128 << 20)
                .strategy(bench.strategy())
                .huge_pages(huge)
                .build()?;
            let mut thread = arena.attach()?;
            let installed = codes.iter().map(|code| thread.install(code, &[]));
            let executors = installed.collect::<Result<_, _>>()?;
            Ok(Self { executors, thread, arena })
        }

        fn functions(&self) -> Vec<Function> {
            // Nothing is dropped meanwhile; a guard is what code runs under.
            let _guard = self.thread.pin();
            functions(self.executors.iter().map(Executor::addr))
        }
    }

    fn functions(addresses: impl Iterator<Item = usize>) -> Vec<Function> {
        let function = |addr| {
            // SAFETY: such a function was installed there, and stays.
            unsafe { std::mem::transmute::<usize, Function>(addr) }
        };
        addresses.map(function).collect()
    }

    /// Processor time of calling all, in this order.
    fn time(functions: &[Function], order: &[usize]) -> f64 {
        let start = cpu_time();
        for &at in order {
            black_box(functions[at]());
        }
        (cpu_time() - start).as_nanos() as f64
    }

    /// Code of about `len` bytes that adds numbers and returns.
    fn body(len: usize, part: Part) -> Vec<u8> {
        // add rax, 1
        let mut code: Vec<u8> = [0x48, 0x83, 0xC0, 0x01].repeat(len / 4);
        if let Part::Start = part {
            code[63] = 0xC3;
            // The instruction cut in two becomes padding.
            code[60..63].fill(0x90);
        }
        code.push(0xC3);
        code
    }
}
