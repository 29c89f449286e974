//! The recorded traces that are part of the program, so that a binary run from
//! anywhere has real input. `traces/README.md` says what each is.

use crate::trace::{Trace, TraceError};

/// Name and gzip bytes of each bundled trace, smallest first.
const TRACES: [(&str, &[u8]); 5] = [
    ("bm_richards", include_bytes!("../../traces/bm_richards.csv.gz")),
    ("bm_sympy", include_bytes!("../../traces/bm_sympy.csv.gz")),
    ("w_reload_nl", include_bytes!("../../traces/w_reload_nl.csv.gz")),
    ("t_lib", include_bytes!("../../traces/t_lib.csv.gz")),
    ("w_threads_nl", include_bytes!("../../traces/w_threads_nl.csv.gz")),
];

/// The names of the bundled traces, smallest first.
pub fn names() -> impl Iterator<Item = &'static str> {
    TRACES.iter().map(|(name, _)| *name)
}

/// Reads the bundled trace of this name; `None` if there is none.
#[must_use]
pub fn open(name: &str) -> Option<Result<Trace, TraceError>> {
    let (name, bytes) = TRACES.iter().find(|(known, _)| *known == name)?;
    Some(Trace::read(name, *bytes))
}
