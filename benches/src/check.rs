//! Whether a rival hands out memory that is its client's alone.

use crate::rival::{Rival, RivalThread};
use crate::workload::{self, Churn};

/// What is written to a slot: the code, and which part of the source.
type Written<R> = Option<(<<R as Rival>::Thread as RivalThread>::Code, usize, usize)>;

/// Live executors and replacements of a check.
const LIVE: usize = 64;
const OPS: usize = 20_000;

/// Churns a rival and compares what is read back with what was written, before
/// each free. What it costs to hand out memory twice is of no interest, so
/// nothing is timed that has not passed this. The probe, which overwrites what
/// is live by design, is let through.
///
/// # Errors
///
/// The first operation at which they differed.
pub fn is_sound<R: Rival>(rival: &R) -> Result<(), String> {
    if rival.is_probe() {
        return Ok(());
    }
    let mut thread = rival.attach();
    let source = workload::source();
    let mut slots: Vec<Written<R>> = (0..LIVE).map(|_| None).collect();
    let mut churn = Churn::new(99, LIVE, 0);
    for at in 0..OPS {
        let op = churn.next(1)[0];
        // A different part of the source for each operation.
        let from = at * 131 % (workload::LONGEST / 2);
        let size = (op.size as usize).min(workload::LONGEST / 2);
        if let Some((code, from, size)) = slots[op.slot as usize].take() {
            let addr = R::Thread::addr(&code) as *const u8;
            // SAFETY: live, and so long.
            let found = unsafe { std::slice::from_raw_parts(addr, size) };
            let same = found == &source[from..from + size];
            thread.free(code);
            if !same {
                return Err(format!("operation {at} of {LIVE} live found foreign bytes"));
            }
        }
        let code = thread.install(&source[from..from + size]);
        slots[op.slot as usize] = Some((code, from, size));
    }
    for (code, ..) in slots.into_iter().flatten() {
        thread.free(code);
    }
    Ok(())
}
