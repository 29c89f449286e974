//! What does it cost to enter and leave code?

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use jit_arena::{Arena, Strategy};

fn enter(criterion: &mut Criterion) {
    let arena = Arena::builder().strategy(Strategy::DualOpen).build().expect("build");
    let mut thread = arena.attach().expect("attach");
    let slot = arena.slot();
    slot.install(thread.install(&[0x90; 64], &[]).expect("install")).expect("slot");
    let local = crossbeam_epoch::Collector::new().register();
    let mut group = criterion.benchmark_group("enter");
    group.bench_function("pin and unpin, outermost", |bencher| {
        bencher.iter(|| drop(black_box(thread.pin())));
    });
    group.bench_function("pin and unpin, crossbeam-epoch alone", |bencher| {
        bencher.iter(|| drop(black_box(local.pin())));
    });
    let guard = thread.pin();
    group.bench_function("pin and unpin, nested", |bencher| {
        bencher.iter(|| drop(black_box(thread.pin())));
    });
    group.bench_function("load of a slot", |bencher| {
        bencher.iter(|| black_box(slot.load(&guard).map(|entry| entry.addr())));
    });
    drop(guard);
    group.bench_function("enter a slot, safepoint, leave", |bencher| {
        bencher.iter(|| {
            let mut guard = thread.pin();
            let mut running = guard.enter(&slot).expect("installed");
            running.safepoint();
        });
    });
}

criterion_group!(benches, enter);
criterion_main!(benches);
