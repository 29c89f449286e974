//! Tools: profilers, debuggers and unwinders that want to know what the code
//! memory holds.
//!
//! The library knows no tool. It tells each [`Tool`] that a
//! [`Builder`](crate::Builder::tool) was given of the code that the client
//! names as it publishes
//! ([`publish_named`](crate::ThreadHandle::publish_named)), and of every
//! executor whose memory is about to be used again. That is when it is
//! *recycled*, not when it is dropped: until then threads may be inside it, and
//! must be unwound and profiled under its name, `[N1]`.
//!
//! Publishing without a name asks nothing and tells nothing, so tools cost
//! installs nothing while there are none; recycling looks once a lot.

use core::fmt;
use std::sync::Arc;

use crate::lookup::CodeInfo;
use crate::units::Span;

/// Where a piece of code comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// Offset from the entry, in bytes, from which on this holds.
    pub offset: usize,
    /// Path of the source.
    pub file: &'a str,
    /// Line in it, from 1.
    pub line: u32,
}

/// What a client says of an executor, for tools to show.
///
/// # Examples
///
/// ```
/// use jit_arena::{Line, Symbol};
///
/// let lines = [Line { offset: 0, file: "fib.py", line: 3 }];
/// let symbol = Symbol::new("py::fib").lines(&lines);
/// assert_eq!(symbol.name(), "py::fib");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Symbol<'a> {
    name: &'a str,
    lines: &'a [Line<'a>],
    eh_frame: &'a [u8],
}

impl<'a> Symbol<'a> {
    /// Code of this name, without lines or unwind information.
    #[must_use]
    pub const fn new(name: &'a str) -> Self {
        Self { name, lines: &[], eh_frame: &[] }
    }

    /// Lines of the code, by rising offset.
    #[must_use]
    pub const fn lines(mut self, lines: &'a [Line<'a>]) -> Self {
        self.lines = lines;
        self
    }

    /// How to unwind through the code: CIEs and FDEs as in an `.eh_frame`
    /// section, with absolute addresses (`DW_EH_PE_absptr`), since tools copy
    /// it to places of their own.
    ///
    /// # Safety
    ///
    /// The bytes are well-formed entries that tell the truth about the code
    /// published with this symbol: unwinders follow them blindly.
    #[must_use]
    pub const unsafe fn eh_frame(mut self, eh_frame: &'a [u8]) -> Self {
        self.eh_frame = eh_frame;
        self
    }

    /// See [`new`](Self::new).
    #[must_use]
    pub const fn name(&self) -> &'a str {
        self.name
    }

    /// See [`lines`](Self::lines).
    #[must_use]
    pub const fn source_lines(&self) -> &'a [Line<'a>] {
        self.lines
    }

    /// See [`eh_frame`](Self::eh_frame).
    #[must_use]
    pub const fn unwind_information(&self) -> &'a [u8] {
        self.eh_frame
    }
}

/// Hears of named code, and of its end. Implementations are in the package
/// `jit-arena-tools`; a client may have its own.
///
/// Methods are called on whichever thread publishes or recycles, several at a
/// time. They must not panic, and must neither use the arena, which the thread is in
/// the middle of, nor make or drop another. What they lock in them, a forked child
/// finds unlocked: no fork comes meanwhile.
pub trait Tool: fmt::Debug + Send + Sync {
    /// Code was published under a name. Nobody has run it yet.
    ///
    /// `bytes` are those of the code, without its data.
    fn published(&self, code: &CodeInfo, bytes: &[u8], symbol: &Symbol<'_>);

    /// Nobody can be running the executor entered at `entry` any more, and its
    /// memory is about to be used again. Called for those without a name, too.
    fn recycled(&self, entry: usize);

    /// The arena is at its end, and with it all code that lies in `region`.
    fn unmapped(&self, region: Span);
}

/// The tools of an arena. Told of its end before the region is unmapped, and
/// dropped after.
#[derive(Clone, Default)]
pub(crate) struct Tools {
    tools: Vec<Arc<dyn Tool>>,
}

impl Tools {
    pub(crate) fn add(&mut self, tool: Arc<dyn Tool>) {
        self.tools.push(tool);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.tools.is_empty()
    }

    /// `[N1]`: nobody has run it.
    pub(crate) fn published(&self, code: &CodeInfo, symbol: &Symbol<'_>) {
        if self.is_empty() {
            return;
        }
        let from = core::ptr::with_exposed_provenance(code.code.start);
        // SAFETY: the executable view of code that the caller owns, which no
        // one writes from its publishing on.
        let bytes = unsafe { core::slice::from_raw_parts(from, code.code.len) };
        for tool in &self.tools {
            tool.published(code, bytes, symbol);
        }
    }

    /// `[N1]`: before its first byte changes.
    pub(crate) fn recycled(&self, entry: usize) {
        for tool in &self.tools {
            tool.recycled(entry);
        }
    }

    pub(crate) fn unmapped(&self, region: Span) {
        for tool in &self.tools {
            tool.unmapped(region);
        }
    }
}

impl fmt::Debug for Tools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.tools).finish()
    }
}
