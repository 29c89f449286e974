//! Panics that pass through JIT frames.

#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};

use common::{calls, frame_of_calls, function, install};
use jit_arena::Arena;
use jit_arena_tools::Unwind;

extern "C-unwind" fn fails() -> u32 {
    panic!("from below");
}

/// Counts its ends, to show that what lies beyond the JIT frames is unwound.
struct Ends<'a>(&'a std::cell::Cell<u32>);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() + 1);
    }
}

#[test]
fn n1_a_panic_unwinds_through_three_jit_frames() {
    let unwind = Unwind::new();
    let arena = Arena::builder().tool(unwind.clone()).build().unwrap();
    let mut thread = arena.attach().unwrap();
    let ends = std::cell::Cell::new(0);
    for round in 0..50_u32 {
        let target = fails as extern "C-unwind" fn() -> u32 as usize;
        let inner = install(&mut thread, &calls(target), "inner", frame_of_calls);
        let middle = install(&mut thread, &calls(inner.addr()), "middle", frame_of_calls);
        let outer = install(&mut thread, &calls(middle.addr()), "outer", frame_of_calls);
        let caught = catch_unwind(AssertUnwindSafe(|| {
            let _guard = thread.pin();
            let _ends = Ends(&ends);
            function(&outer)(0)
        }));
        let message = caught.expect_err("it returned");
        assert_eq!(message.downcast_ref(), Some(&"from below"));
        assert_eq!(ends.get(), round + 1);
        // Dropped code stays registered until nobody can be in it.
        assert!(unwind.len() >= 3);
        drop((inner, middle, outer));
        if round % 10 == 0 {
            thread.collect();
            assert!(unwind.is_empty(), "{} pieces of recycled code are registered", unwind.len());
        }
    }
    let guard = thread.pin();
    drop(guard);
    let last = install(&mut thread, &calls(0), "last", frame_of_calls);
    drop((last, thread, arena));
    assert!(unwind.is_empty(), "code of an arena that is gone is registered");
}

/// What was dropped and may be running is unwound through as well.
#[test]
fn n1_dropped_code_is_unwound_while_it_runs() {
    let unwind = Unwind::new();
    let arena = Arena::builder().tool(unwind.clone()).build().unwrap();
    let mut thread = arena.attach().unwrap();
    let target = fails as extern "C-unwind" fn() -> u32 as usize;
    let code = install(&mut thread, &calls(target), "dropped", frame_of_calls);
    let run = function(&code);
    let caught = catch_unwind(AssertUnwindSafe(|| {
        let _guard = thread.pin();
        drop(code);
        run(0)
    }));
    assert!(caught.is_err());
    thread.collect();
    assert!(unwind.is_empty());
}
