//! Dumps: copies of all live code, for people and disassemblers.

use crate::arena::{ArenaRef, Shared};
use crate::error::AttachError;
use crate::executor::peek_header;
use crate::guard::Guard;
use crate::lookup::{self, CodeInfo};
use crate::thread::ThreadHandle;
use crate::trampoline::Trampoline;
use crate::units::Span;

/// One executor as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DumpedCode {
    /// Its parts and tag.
    pub info: CodeInfo,
    /// The bytes of its code.
    pub code: Vec<u8>,
    /// The bytes of its data.
    pub data: Vec<u8>,
}

/// See [`Arena::dump`](crate::Arena::dump).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Dump {
    /// The region in the executable view.
    pub region: Span,
    /// Live executors, by address.
    pub executors: Vec<DumpedCode>,
    /// Trampolines, by address.
    pub trampolines: Vec<Trampoline>,
}

pub(crate) fn dump(arena: &ArenaRef) -> Result<Dump, AttachError> {
    let shared = arena.get();
    let thread = ThreadHandle::attach(arena)?;
    let guard = thread.pin();
    let whole = |info: CodeInfo| DumpedCode { info, code: copy(info.code), data: copy(info.data) };
    let executors = live(shared, &guard).into_iter().map(whole).collect();
    drop(guard);
    Ok(Dump { region: shared.region.span(), executors, trampolines: shared.trampolines.list() })
}

/// The executors that are live, by address.
///
/// They stay until the guard is dropped, `[E1]`: what is not retired when it is
/// looked at under a guard is protected like what a slot is loaded with.
pub(crate) fn live(shared: &Shared, _guard: &Guard<'_>) -> Vec<CodeInfo> {
    let pages = &shared.pages;
    let mut live = Vec::new();
    for number in 0..pages.high_water() {
        for start in pages.granules_of(number).filter(|&start| pages.marks.is_live(start)) {
            let header = pages.address(start);
            let Some((entry, _)) = peek_header(shared, header) else { continue };
            // As a whole, and of the executor that is there: this orders it.
            live.extend(lookup::lookup(shared, entry));
        }
    }
    live
}

fn copy(span: Span) -> Vec<u8> {
    let from = core::ptr::with_exposed_provenance::<u8>(span.start);
    // SAFETY: [E1] bytes of an executor that the caller's guard keeps, in the
    // executable view, which its attached thread may read.
    unsafe { core::slice::from_raw_parts(from, span.len) }.to_vec()
}
