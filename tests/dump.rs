//! Dumps: all live code and nothing else, each piece whole, while threads go on.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{Random, constant, each_strategy, install};
use jit_arena::{Arena, CodeLayout, Executor, ThreadHandle};

/// A function that returns its tag.
fn tagged(thread: &mut ThreadHandle, value: u32, data: usize) -> Executor {
    let code = constant(value);
    let layout = CodeLayout::new(code.len()).data(data, 8).tag(value.into());
    let mut place = thread.reserve(layout).unwrap();
    let mut scope = thread.write();
    scope.write_at(&mut place, 0, &code).unwrap();
    if data > 0 {
        scope.write_at(&mut place, layout.data_offset(), &vec![value as u8; data]).unwrap();
    }
    drop(scope);
    thread.publish(place).unwrap()
}

#[test]
fn a_dump_has_what_is_alive() {
    each_strategy(|arena| {
        let mut thread = arena.attach().unwrap();
        let target = arena.trampoline(0x1234).unwrap();
        let mut alive: Vec<_> = (0..50).map(|n| tagged(&mut thread, n, n as usize)).collect();
        let mut index = 0;
        alive.retain(|_| {
            index += 1;
            index % 3 != 0
        });
        let dump = arena.dump().unwrap();
        let mut expected: Vec<_> = alive.iter().map(Executor::addr).collect();
        expected.sort_unstable();
        let found: Vec<_> = dump.executors.iter().map(|it| it.info.entry()).collect();
        assert_eq!(found, expected);
        for it in &dump.executors {
            assert_eq!(it.code, constant(it.info.tag as u32));
            assert_eq!(it.data, vec![it.info.tag as u8; it.info.tag as usize]);
        }
        assert_eq!(dump.region, arena.span());
        let jumps: Vec<_> = dump.trampolines.iter().map(|it| (it.address, it.target)).collect();
        assert_eq!(jumps, [(target, 0x1234)]);
    });
}

#[test]
fn e1_dumps_are_whole_while_code_comes_and_goes() {
    each_strategy(|arena| {
        let stop = AtomicBool::new(false);
        let kept = install(&mut arena.attach().unwrap(), 1);
        thread::scope(|threads| {
            for seed in 0..2 {
                let (arena, stop) = (&arena, &stop);
                threads.spawn(move || churn(arena, seed, stop));
            }
            // Also where an assertion fails: the threads would go on for ever.
            let _stop = Stop(&stop);
            let mut whole = 0;
            let deadline = Instant::now() + Duration::from_secs(60);
            while whole < 2000 || arena.stats().recycles < 2000 {
                assert!(Instant::now() < deadline, "{whole} seen whole: {:?}", arena.stats());
                let dump = arena.dump().unwrap();
                assert!(dump.executors.iter().any(|it| it.info.entry() == kept.addr()));
                for it in dump.executors.iter().filter(|it| it.info.tag != 0) {
                    assert_eq!(it.code, constant(it.info.tag as u32), "{it:?}");
                    assert!(it.data.iter().all(|byte| *byte == it.info.tag as u8), "{it:?}");
                    whole += 1;
                }
            }
        });
        arena.verify().unwrap();
    });
}

/// Has the threads end when it is dropped.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn churn(arena: &Arena, seed: u64, stop: &AtomicBool) {
    let mut random = Random::new(seed);
    let mut thread = arena.attach().unwrap();
    let mut mine = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let data = random.below(200);
        mine.push(tagged(&mut thread, 1 + random.below(1 << 30) as u32, data));
        while mine.len() > 20 {
            drop(mine.swap_remove(random.below(mine.len())));
        }
    }
}
