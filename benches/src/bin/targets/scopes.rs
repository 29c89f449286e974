//! Target 9: write scopes, by strategy and by how many executors share one.

use std::error::Error;

use jit_arena::{CodeLayout, Executor, Strategy, ThreadHandle};
use jit_arena_benches::rival::arena::Ours;
use jit_arena_benches::sample::{Spread, cpu_time};

use crate::bench::{Bench, ROOM};

/// Executors in one scope.
const BATCHES: [usize; 3] = [1, 8, 64];

/// Bytes of each.
const CODE: [u8; 1024] = [0x90; 1024];

struct Lane {
    strategy: Strategy,
    thread: ThreadHandle,
    times: [Vec<f64>; BATCHES.len()],
}

pub(crate) fn run(bench: &mut Bench) -> Result<(), Box<dyn Error>> {
    let mut lanes = Vec::new();
    for strategy in Strategy::ALL {
        match Ours::new(strategy.name(), ROOM) {
            Ok(ours) => lanes.push(Lane {
                strategy,
                thread: ours.arena().attach()?,
                times: Default::default(),
            }),
            Err(why) => bench.report.not_run(strategy.name(), &why.to_string()),
        }
    }
    for _ in 0..bench.pick(3, 100, 300) {
        for (at, batch) in BATCHES.into_iter().enumerate() {
            for lane in &mut lanes {
                lane.times[at].push(batch_ns(&mut lane.thread, batch)?);
            }
        }
    }
    for (at, batch) in BATCHES.into_iter().enumerate() {
        for lane in &lanes {
            let what = format!("ns an executor of 1 KiB, {batch:2} in a scope, {}", lane.strategy);
            bench.report.tell(&what, Spread::of(lane.times[at].iter().copied()));
        }
    }
    for lane in &lanes {
        let [one, .., many] = &lane.times;
        let gains = one.iter().zip(many).map(|(one, many)| one / many);
        let what = format!("a scope each / 64 in a scope, {}", lane.strategy);
        bench.report.tell(&what, Spread::of(gains));
    }
    Ok(())
}

/// Processor time of an executor written in a scope of `batch` of them, over
/// as many scopes as make it measurable.
fn batch_ns(thread: &mut ThreadHandle, batch: usize) -> Result<f64, Box<dyn Error>> {
    let scopes = 64 / batch;
    let mut published: Vec<Executor> = Vec::with_capacity(scopes * batch);
    let mut reserved = Vec::with_capacity(batch);
    let start = cpu_time();
    for _ in 0..scopes {
        let mut scope = thread.write();
        for _ in 0..batch {
            let mut reservation = scope.reserve(CodeLayout::new(CODE.len()))?;
            scope.write_at(&mut reservation, 0, &CODE)?;
            reserved.push(reservation);
        }
        drop(scope);
        for reservation in reserved.drain(..) {
            published.push(thread.publish(reservation)?);
        }
    }
    let spent = (cpu_time() - start).as_nanos() as f64 / (scopes * batch) as f64;
    drop(published);
    Ok(spent)
}
