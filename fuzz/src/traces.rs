//! Recorded traces: whatever the bytes, the reader refuses them or gives a trace
//! that can be replayed.

use jit_arena_cli::trace::{Op, Trace};

use crate::Outcome;

/// Reads `data` as a trace, and the rows that its bytes stand for.
///
/// # Panics
///
/// If a trace was read that does not keep the reader's promises.
pub fn run(data: &[u8]) -> Outcome {
    Outcome::Ran { steps: read(data) + read(rows(data).as_bytes()) }
}

/// Four bytes a row: time, what, and a size. Nearly all of them go together.
fn rows(data: &[u8]) -> String {
    let mut text = "t_ns,thread,op,id,code_bytes,data_bytes\n".to_owned();
    let (mut time, mut next, mut live) = (0_u32, 0, Vec::new());
    for row in data.chunks_exact(4) {
        let what = usize::from(row[1]);
        time += u32::from(row[0]);
        if what % 3 == 0 && !live.is_empty() {
            let id: u32 = live.swap_remove(what % live.len());
            text += &format!("{time},{},f,{id},,\n", what % 5);
            continue;
        }
        let size = u16::from_le_bytes([row[2], row[3]]);
        // Once in a while a number that was taken before.
        let id = if what == 254 { next / 2 } else { next };
        text += &format!("{time},{},a,{id},{},{}\n", what % 5, size / 3 + 1, size / 7);
        live.push(id);
        next += 1;
    }
    text
}

/// Reads a trace and checks it; returns its events, none if it is refused.
fn read(data: &[u8]) -> usize {
    let trace = match Trace::read("fuzz.csv", data) {
        Ok(trace) => trace,
        Err(error) => {
            assert!(error.to_string().starts_with("fuzz.csv"), "{error}");
            return 0;
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
    trace.events.len()
}
