//! The index of holes and the bitmaps under it, against a naive model: one flag a
//! granule, and a search that looks at all of them.
//!
//! Arenas ask the pages for little and in few ways. Here they are asked for
//! anything ([`pages`]), and the index by itself is searched while holes come to be
//! and go in the middle of the search, as other threads' do ([`searches`]).

use arbitrary::{Arbitrary, Unstructured};

use crate::Outcome;

pub mod pages;
pub mod searches;

/// Operations of a program at most.
const MAX_OPS: usize = 1024;

/// Runs `data` as a program on pages or on an index alone.
///
/// # Panics
///
/// If pages or index and model differ.
pub fn run(data: &[u8]) -> Outcome {
    let mut u = Unstructured::new(data);
    let outcome = match u.ratio(1, 3) {
        Ok(true) => searches::run(&mut u),
        _ => pages::run(&mut u),
    };
    outcome.unwrap_or(Outcome::NotRun)
}

/// The operations that are left; what the bytes break off in is left out.
fn ops<'a, Op: Arbitrary<'a>>(u: &mut Unstructured<'a>) -> Vec<Op> {
    let mut ops = Vec::new();
    while !u.is_empty() && ops.len() < MAX_OPS {
        ops.extend(u.arbitrary());
    }
    ops
}

/// A number of granules: mostly few, now and then around words and pages.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Granules {
    /// A few.
    Few(u8),
    /// Around so many words.
    Words(u8, i8),
    /// Around so many pages.
    Pages(u8, i8),
}

impl Granules {
    /// How many, at least one, in pages of `page` granules.
    #[must_use]
    pub fn count(self, page: usize) -> usize {
        let near = |edge: usize, by: i8| edge.saturating_add_signed((by % 3).into()).max(1);
        match self {
            Self::Few(n) => usize::from(n % 20).max(1),
            Self::Words(n, by) => near(usize::from(n % 17) * 64, by),
            Self::Pages(n, by) => near(usize::from(n % 4) * page, by),
        }
    }
}
