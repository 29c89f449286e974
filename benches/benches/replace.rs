//! What does it cost to replace an executor among many live ones?

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use jit_arena_benches::check;
use jit_arena_benches::crew::{Crew, Plan};
use jit_arena_benches::rival::{self, NotHere, Rival, Visit};

struct Measure<'c> {
    criterion: &'c mut Criterion,
    live: usize,
}

impl Visit for Measure<'_> {
    fn rival<R: Rival + Clone>(&mut self, rival: R) {
        if let Err(what) = check::is_sound(&rival) {
            return self.missing(&rival.name(), NotHere(format!("unsound: {what}")));
        }
        let crew = Crew::new(rival, Plan::new(1, self.live));
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
        for name in rival::ALL {
            if live > rival::most_live(name) {
                println!("not run: {name}: too many mappings at {live} live");
                continue;
            }
            rival::visit(name, Plan::new(1, live).room(), &mut Measure { criterion, live });
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).measurement_time(Duration::from_secs(1));
    targets = replace
}
criterion_main!(benches);
