//! The compiler: from bytecode and a frame's types to bytes and patches.
//!
//! [`flow`] finds what is live and what type it has at every operation,
//! [`plan`] decides how each is done, [`registers`] which slots live in
//! registers, and [`emit`] strings [`stencils`] together in a [`buffer`]. What
//! comes out is independent of its address; [`Blueprint::place`] patches it.

pub(crate) mod buffer;
mod emit;
mod flow;
mod guards;
pub(crate) mod helpers;
mod ops;
mod plan;
mod registers;
mod stencils;

use buffer::{Fix, Placed};

pub(crate) use stencils::hold as hold_stencils;

/// What [`compile`] is told.
pub(crate) use plan::Request;

/// Code that has no address yet.
#[derive(Debug)]
pub(crate) struct Blueprint {
    pub(crate) code: Vec<u8>,
    pub(crate) data: Vec<u64>,
    fixes: Vec<Fix>,
    /// The operation of each exit.
    pub(crate) exits: Vec<u32>,
    /// Globals that it took for constants, with their versions.
    pub(crate) globals: Vec<(u16, u64)>,
}

/// Number of the word of data that is the unit's address.
pub(crate) const UNIT: usize = 0;

/// Compiles what can be reached from an operation; `None` for what is too long.
pub(crate) fn compile(request: &Request<'_>) -> Option<Blueprint> {
    emit::emit(request)
}

impl Blueprint {
    /// Patches code that is to run at `address`, with its data `data_offset`
    /// bytes behind. `target` tells what a call at an address has to call to get
    /// to a helper.
    pub(crate) fn place<E>(
        &mut self,
        address: usize,
        data_offset: usize,
        mut target: impl FnMut(usize, usize) -> Result<usize, E>,
    ) -> Result<(), E> {
        for fix in &self.fixes {
            let end = address + fix.at + 4;
            let to = match fix.to {
                Placed::Data(word) => address + data_offset + 8 * word,
                Placed::Helper(helper) => target(address + fix.at - 1, helper)?,
            };
            let distance = to.wrapping_sub(end) as u32;
            self.code[fix.at..fix.at + 4].copy_from_slice(&distance.to_le_bytes());
        }
        Ok(())
    }
}
