//! Recorded traces: whatever the bytes, the reader refuses them or gives a trace
//! that can be replayed.

use jit_arena_cli::trace::{Op, Trace};

use crate::Outcome;

/// Reads `data` as a trace.
///
/// # Panics
///
/// If a trace was read that does not keep the reader's promises.
pub fn run(data: &[u8]) -> Outcome {
    let trace = match Trace::read("fuzz.csv", data) {
        Ok(trace) => trace,
        Err(error) => {
            assert!(error.to_string().starts_with("fuzz.csv"), "{error}");
            return Outcome::Ran { steps: 0 };
        }
    };
    // None, allocated, freed: each executor once, and in the order of their numbers.
    let mut states = vec![0; trace.executors.len()];
    let (mut next, mut before) = (0, 0);
    for event in &trace.events {
        assert!(event.t_ns >= before, "time goes down");
        before = event.t_ns;
        let state = &mut states[event.executor as usize];
        match event.op {
            Op::Alloc => {
                assert_eq!((event.executor, *state), (next, 0), "allocated out of turn");
                (next, *state) = (next + 1, 1);
            }
            Op::Free => {
                assert_eq!(*state, 1, "freed what was not allocated");
                *state = 2;
            }
        }
    }
    assert!(states.iter().all(|state| *state > 0), "an executor without events");
    for shape in &trace.executors {
        assert!(shape.code > 0 && shape.bytes() <= jit_arena::MAX_EXECUTOR as u64, "{shape:?}");
    }
    Outcome::Ran { steps: trace.events.len() }
}
