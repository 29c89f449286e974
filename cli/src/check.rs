//! Calling executors and comparing what they do with what they should.
//!
//! Everything here needs a pinned guard, by way of the [`Entry`] it borrows:
//! the executor cannot be reclaimed meanwhile, whoever drops it.

use jit_arena::Entry;

use crate::code::{Function, Program, Tier};
use crate::failure::Check;

/// What a call brought back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What the function returned.
    pub answer: u64,
    /// The seed it wrote; 0 if it wrote none.
    pub seed: u64,
}

/// Calls the function at `entry`.
///
/// # Safety
///
/// The executor holds a [`Function`]: a [`Program`] of a tier that returns.
#[must_use]
pub unsafe fn call(entry: Entry<'_>, argument: u64) -> Outcome {
    // SAFETY: the caller says so, and the entry's guard is alive to the end of
    // this function.
    let function: Function = unsafe { entry.cast() };
    let mut seed = 0;
    // SAFETY: it writes eight bytes to the pointer it is given, at most.
    let answer = unsafe { function(argument, &raw mut seed) };
    Outcome { answer, seed }
}

/// Compares an outcome with what `program` computes. `what` names the executor
/// in the error.
///
/// # Errors
///
/// It ran other code, or computed something else.
pub fn outcome(
    program: &Program,
    argument: u64,
    got: Outcome,
    what: impl FnOnce() -> String,
) -> Result<(), Check> {
    if program.tier() == Tier::Full && got.seed != program.seed {
        return Err(Check::WrongSeed { what: what(), got: got.seed });
    }
    match program.answer(argument) {
        Some(expected) if got.answer != expected => {
            Err(Check::WrongAnswer { what: what(), argument, got: got.answer, expected })
        }
        _ => Ok(()),
    }
}

/// Buffers to make a program's bytes in, used again and again.
#[derive(Debug, Default)]
pub struct Bytes {
    /// The code.
    pub code: Vec<u8>,
    /// The data that lies straight behind it.
    pub data: Vec<u8>,
}

impl Bytes {
    /// Makes the bytes of `program`, data straight behind code.
    pub fn make(&mut self, program: &Program) {
        program.emit(0, &mut self.code, &mut self.data);
    }

    /// Compares what the executable view shows at `entry` with these bytes.
    ///
    /// # Errors
    ///
    /// They differ.
    ///
    /// # Safety
    ///
    /// The executor at `entry` is as long as the code and data made last, with
    /// no gap between them.
    pub unsafe fn compare(
        &self,
        entry: Entry<'_>,
        what: impl FnOnce() -> String,
    ) -> Result<(), Check> {
        let at = entry.addr() as *const u8;
        // SAFETY: an executor of this length lies there, readable to all; it
        // stays as it is while the entry's guard lives.
        let code = unsafe { core::slice::from_raw_parts(at, self.code.len()) };
        let behind = at.wrapping_add(code.len());
        // SAFETY: as above.
        let data = unsafe { core::slice::from_raw_parts(behind, self.data.len()) };
        if code == self.code && data == self.data {
            return Ok(());
        }
        let written = self.code.iter().chain(&self.data);
        let offset = written.zip(code.iter().chain(data)).position(|(a, b)| a != b).unwrap_or(0);
        Err(Check::WrongBytes { what: what(), offset })
    }
}
