//! No memory at all: a fixed number of steps that touch nothing. What such an
//! operation is late by is the scheduler's doing alone.

use std::hint::black_box;

use super::{Rival, RivalThread, Usage};

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct Spin;

/// Dependent steps of an operation: some hundred nanoseconds, as a replacement.
const STEPS: u64 = 400;

impl Rival for Spin {
    type Thread = Self;

    fn name(&self) -> String {
        "spin".to_owned()
    }

    fn is_probe(&self) -> bool {
        true
    }

    fn attach(&self) -> Self {
        *self
    }

    fn usage(&self) -> Usage {
        Usage::default()
    }
}

impl RivalThread for Spin {
    type Code = ();

    #[inline]
    fn install(&mut self, _code: &[u8]) {
        let mut value = 1_u64;
        for _ in 0..STEPS {
            value = black_box(value.wrapping_mul(3));
        }
    }

    #[inline]
    fn free(&mut self, _code: ()) {}

    fn addr(_code: &()) -> usize {
        0
    }
}
