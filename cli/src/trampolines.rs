//! What trampolines save: arithmetic over recorded traces.
//!
//! An executor that calls far helpers keeps their addresses in its data, eight
//! bytes each. With trampolines it keeps none, and the region keeps sixteen
//! bytes a helper. The traces tell how much data executors have but not what
//! is in it, so the saving is given for several parts of the data being such
//! addresses; the trampolines are real, made in an arena, and counted there.

use jit_arena::{Arena, Strategy};
use serde::Serialize;

use crate::failure::{Failure, Request};
use crate::trace::{Op, Trace};

/// Parts of the data taken to be addresses of far helpers, in hundredths.
pub const PARTS: [u64; 3] = [50, 75, 100];

/// What trampolines would save of one trace. Bytes are weighted over its time.
#[derive(Clone, Debug, Serialize)]
pub struct Savings {
    kind: &'static str,
    /// Name of the trace.
    pub trace: String,
    /// Executors allocated.
    pub executors: usize,
    /// Bytes of code alive.
    pub code_bytes: f64,
    /// Bytes of data alive.
    pub data_bytes: f64,
    /// Data in all, as a part of code and data.
    pub data_part: f64,
    /// Helpers, each with a trampoline.
    pub helpers: usize,
    /// Bytes of code memory that their trampolines take.
    pub island_bytes: u64,
    /// For each of [`PARTS`]: what is saved in all, as a part of code and data,
    /// islands paid for. Less than 0 where they cost more.
    pub saved_parts: [f64; PARTS.len()],
}

/// Computes the savings on `trace` for a runtime of so many helpers.
///
/// # Errors
///
/// The arena cannot be built, or the trampolines not made.
pub fn savings(
    trace: &Trace,
    helpers: usize,
    strategy: Option<Strategy>,
) -> Result<Savings, Failure> {
    let (code_bytes, data_bytes) = alive(trace);
    let island_bytes = islands(helpers, strategy)?;
    let all = code_bytes + data_bytes;
    let saved = |part: u64| (data_bytes * part as f64 / 100.0 - island_bytes as f64) / all.max(1.0);
    Ok(Savings {
        kind: "trampolines",
        trace: trace.name.clone(),
        executors: trace.executors.len(),
        code_bytes,
        data_bytes,
        data_part: data_bytes / all.max(1.0),
        helpers,
        island_bytes,
        saved_parts: PARTS.map(saved),
    })
}

/// Bytes of code and of data alive, weighted over the trace's time.
fn alive(trace: &Trace) -> (f64, f64) {
    let (mut code, mut data) = (0_u64, 0_u64);
    let (mut code_time, mut data_time) = (0.0, 0.0);
    let mut before = trace.events.first().map_or(0, |event| event.t_ns);
    let start = before;
    for event in &trace.events {
        let time = (event.t_ns - before) as f64;
        code_time += code as f64 * time;
        data_time += data as f64 * time;
        before = event.t_ns;
        let shape = trace.executors[event.executor as usize];
        match event.op {
            Op::Alloc => {
                code += u64::from(shape.code);
                data += u64::from(shape.data);
            }
            Op::Free => {
                code -= u64::from(shape.code);
                data -= u64::from(shape.data);
            }
        }
    }
    let time = ((before - start) as f64).max(1.0);
    (code_time / time, data_time / time)
}

/// Bytes of the islands that so many trampolines take.
fn islands(helpers: usize, strategy: Option<Strategy>) -> Result<u64, Failure> {
    let builder = Arena::builder();
    let builder = match strategy {
        Some(strategy) => builder.strategy(strategy),
        None => builder,
    };
    let arena = builder.build().map_err(Request::from)?;
    // Never called: any distinct addresses do.
    let targets: Vec<usize> = (1..=helpers).map(|n| n * 64).collect();
    arena.make_trampolines(&targets).map_err(Request::from)?;
    Ok(arena.stats().island_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_weighted_by_time() {
        let text = "t_ns,thread,op,id,code_bytes,data_bytes,padded_bytes\n\
                    0,1,a,1,100,50,4096\n10,1,a,2,200,0,4096\n30,1,f,1,,,\n40,1,f,2,,,\n";
        let trace = Trace::read("t.csv", text.as_bytes()).expect("a trace");
        // 100 for 30 of 40, 200 for 30 of 40; 50 for 30 of 40.
        assert_eq!(alive(&trace), (225.0, 37.5));
    }
}
