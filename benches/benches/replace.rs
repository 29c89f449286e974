//! What does it cost to replace an executor among many live ones?

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use jit_arena_benches::rival::{self, NotHere, Rival, Room, Visit};
use jit_arena_benches::round::{Crew, Frees, Plan, check};
use jit_arena_benches::workload::MEAN;

struct Measure<'c> {
    criterion: &'c mut Criterion,
    live: usize,
}

impl Visit for Measure<'_> {
    fn rival<R: Rival + Clone>(&mut self, rival: R) {
        if !rival.name().starts_with("probe")
            && let Err(what) = check(&rival, 64, 20_000)
        {
            return self.missing(&rival.name(), NotHere(format!("unsound: {what}")));
        }
        let plan = Plan { threads: 1, live: self.live, frees: Frees::Direct, latency: false };
        let crew = Crew::new(rival, plan);
        crew.churn(4 * self.live);
        let id = BenchmarkId::new(crew.name(), self.live);
        let mut group = self.criterion.benchmark_group("replace");
        group.bench_function(id, |bencher| {
            bencher.iter_custom(|count| {
                let count = usize::try_from(count).unwrap_or(usize::MAX);
                crew.churn(count).cpu
            });
        });
    }

    fn missing(&mut self, name: &str, why: NotHere) {
        println!("not run: {name}: {why}");
    }
}

fn replace(criterion: &mut Criterion) {
    for live in [512, 4096, 32_768] {
        let room = Room { bytes: (live as f64 * MEAN) as usize, threads: 1 };
        for name in rival::ALL {
            // Its provider holds two mappings an executor and more: beyond what
            // Linux allows a process (vm.max_map_count, 65,530 by default).
            if *name == "cranelift" && live > 20_000 {
                println!("not run: {name}: too many mappings at {live} live");
                continue;
            }
            rival::visit(name, room, &mut Measure { criterion, live });
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).measurement_time(Duration::from_secs(1));
    targets = replace
}
criterion_main!(benches);
