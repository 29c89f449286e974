//! What does it cost to find the code that an address lies in?

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use jit_arena::{Arena, Strategy};

fn lookup(criterion: &mut Criterion) {
    let arena = Arena::builder().strategy(Strategy::DualOpen).build().expect("build");
    let mut thread = arena.attach().expect("attach");
    let mut group = criterion.benchmark_group("lookup");
    let outside = lookup as *const () as usize;
    group.bench_function("contains, inside", |bencher| {
        bencher.iter(|| black_box(arena.contains(black_box(arena.span().start))));
    });
    group.bench_function("contains, outside", |bencher| {
        bencher.iter(|| black_box(arena.contains(black_box(outside))));
    });
    group.bench_function("lookup, outside", |bencher| {
        bencher.iter(|| black_box(arena.lookup(black_box(outside))));
    });
    // The way down to an executor's start is as long as it is.
    for len in [256_usize, 2 << 10, 32 << 10, 1 << 20] {
        let executor = thread.install(&vec![0x90; len], &[]).expect("install");
        let last = executor.addr() + len - 1;
        assert!(arena.lookup(last).is_some());
        group.bench_function(BenchmarkId::new("lookup, last byte of", len), |bencher| {
            bencher.iter(|| black_box(arena.lookup(black_box(last))));
        });
    }
}

criterion_group!(benches, lookup);
criterion_main!(benches);
