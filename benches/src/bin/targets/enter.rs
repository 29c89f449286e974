//! Target 5: entering and leaving code.

use std::error::Error;
use std::hint::black_box;

use jit_arena_benches::sample::{Spread, per};

use crate::bench::Bench;
use crate::report::Limit;

/// A function that returns at once.
#[cfg(target_arch = "x86_64")]
const RETURN: &[u8] = &[0xC3];
/// A function that returns at once.
#[cfg(target_arch = "aarch64")]
const RETURN: &[u8] = &[0xC0, 0x03, 0x5F, 0xD6];

pub(crate) fn run(bench: &mut Bench) -> Result<(), Box<dyn Error>> {
    let (_arena, mut thread) = bench.attach()?;
    let executor = thread.install(RETURN, &[])?;
    let collector = crossbeam_epoch::Collector::new();
    let local = collector.register();
    let function: extern "C" fn() = {
        let guard = thread.pin();
        // SAFETY: a function without arguments or result; its executor lives
        // to the end of this function.
        unsafe { executor.entry(&guard).cast() }
    };
    let count = bench.pick(10_000, 300_000, 1_000_000);
    let rounds = bench.pick(3, 11, 41);
    // The call keeps the compiler from taking a pin and its unpin together; what
    // it costs itself is measured, too.
    let mut times: [Vec<f64>; 7] = Default::default();
    for _ in 0..rounds {
        let outer = thread.pin();
        let nested = per(count, || {
            let _guard = thread.pin();
            function();
        });
        drop(outer);
        let outer = local.pin();
        let their_nested = per(count, || {
            let _guard = local.pin();
            function();
        });
        drop(outer);
        let round = [
            per(count, || function()),
            nested,
            their_nested,
            per(count, || {
                let _guard = thread.pin();
                function();
            }),
            per(count, || {
                let _guard = local.pin();
                function();
            }),
            per(count, || drop(black_box(local.pin()))),
            per(count, || drop(black_box(crossbeam_epoch::pin()))),
        ];
        times.iter_mut().zip(round).for_each(|(times, it)| times.push(it));
    }
    let [call, nested, their_nested, ours, same, local_pin, global_pin] = &times;
    let less_call = |times: &[f64]| Spread::of(times.iter().zip(call).map(|(it, call)| it - call));
    let ratio =
        |one: &[f64], other: &[f64]| Spread::of(one.iter().zip(other).map(|(it, than)| it / than));
    let report = &mut bench.report;
    report.judge("nested pin and unpin, ns", less_call(nested), Limit::AtMost(2.0));
    report.tell("  the same of crossbeam-epoch, ns", less_call(their_nested));
    report.judge(
        "outermost pin, call, unpin / crossbeam-epoch's pin, the same call, unpin",
        ratio(ours, same),
        Limit::AtMost(1.0),
    );
    report.tell("  / crossbeam-epoch's pin and unpin, without a call", ratio(ours, local_pin));
    report.tell("  / the same through its thread-local", ratio(ours, global_pin));
    report.tell("  outermost pin, call, unpin, ns", Spread::of(ours.iter().copied()));
    report.tell("  the call alone, ns", Spread::of(call.iter().copied()));
    Ok(())
}
