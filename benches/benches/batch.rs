//! What does an executor cost, by strategy and by how many share a write scope?

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use jit_arena::{Arena, CodeLayout, Executor, Strategy};

fn batch(criterion: &mut Criterion) {
    let code = [0x90; 1024];
    let mut group = criterion.benchmark_group("batch");
    for strategy in Strategy::ALL {
        let Ok(arena) = Arena::builder().strategy(strategy).build() else {
            println!("not run: {strategy}: this machine refuses it");
            continue;
        };
        let mut thread = arena.attach().expect("attach");
        for count in [1_u64, 8, 64] {
            group.throughput(Throughput::Elements(count));
            group.bench_function(BenchmarkId::new(strategy.name(), count), |bencher| {
                bencher.iter(|| {
                    let mut scope = thread.write();
                    let mut reserved: Vec<_> = (0..count)
                        .map(|_| scope.reserve(CodeLayout::new(code.len())).expect("reserve"))
                        .collect();
                    for reservation in &mut reserved {
                        scope.write_at(reservation, 0, &code).expect("write");
                    }
                    drop(scope);
                    let published = reserved.into_iter();
                    let published: Vec<Executor> =
                        published.map(|it| thread.publish(it).expect("publish")).collect();
                    published
                });
            });
        }
    }
}

criterion_group!(benches, batch);
criterion_main!(benches);
