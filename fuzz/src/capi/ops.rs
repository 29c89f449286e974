//! The language of the programs: every function of the header, with good
//! arguments mostly and all kinds of bad ones.

use arbitrary::Arbitrary;

use crate::ops::Pick;
use crate::sizes::{Align, Length};

/// Which arena: a handle.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Which(pub u8);

/// An address.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Addr {
    /// Null.
    Null,
    /// Any number.
    Any(usize),
    /// A block that the thread has allocated, or this far into it.
    Block(Pick, u8),
    /// Code, or this far into it.
    Code(Pick, u8),
    /// Code that was freed, or this far into it.
    Freed(Pick, u8),
    /// So far from an arena's start.
    Region(Which, u32),
    /// A trampoline.
    Trampoline(Pick),
    /// Code, at its start.
    Entry(Pick),
}

/// How large a struct says that it is.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Size {
    /// As it is.
    Right,
    /// Some bytes less.
    Less(u8),
    /// Some bytes more, which are zero.
    MoreZeros(u8),
    /// Some bytes more, which are not.
    More(u8),
    /// Anything up to 8,192.
    Any(u16),
}

/// Options of an arena.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Options {
    /// The strategy, code page, and reserve.
    pub shape: [u8; 3],
    /// Flags in its low bits; one time in 16 all of them, known or not.
    pub flags: u16,
    /// Free memory to keep, in code pages, and the budget.
    pub bounds: [u8; 2],
    /// What is wrong with them, if anything.
    pub fault: u8,
    /// Of the struct.
    pub size: Size,
    /// Near what.
    pub near: Option<usize>,
}

/// One call, or several.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Op {
    /// `jita_create`.
    Create(Options),
    /// `jita_destroy`.
    Destroy(Which),
    /// `jita_attach`.
    Attach(Which),
    /// `jita_detach`.
    Detach(Which),
    /// `jita_write_open`.
    Open(Which),
    /// `jita_write_close`.
    Close(Which),
    /// `jita_alloc`; a null block now and then.
    Alloc(Which, Length, Length, Align, u8),
    /// `jita_alloc_layout`; nulls now and then.
    AllocLayout(Which, [Length; 2], [Align; 2], Size, u8),
    /// Fills a block through its `rw`, if a scope is open.
    Fill(Which, Pick, u8),
    /// All from `jita_alloc` to `jita_publish`.
    Make(Which, Length, u8),
    /// `jita_publish`.
    Publish(Which, Addr),
    /// `jita_install`; nulls now and then.
    Install(Which, Length, Length, u8, u8),
    /// `jita_enter` without a word.
    Enter(Which),
    /// `jita_enter` with one that holds code; without a place for it now and then.
    EnterCode(Which, Pick, u8),
    /// `jita_enter` with one that is null.
    EnterEmpty(Which),
    /// `jita_exit`.
    Exit(Which),
    /// `jita_safepoint`.
    Safepoint(Which),
    /// `jita_park`.
    Park(Which),
    /// `jita_unpark`.
    Unpark(Which),
    /// Enters code, calls it, and exits.
    Call(Which, Pick),
    /// Enters code with a word, frees it, has a safepoint or parks, collects, and exits.
    Outlive(Which, Pick, u8),
    /// `jita_free`.
    Free(Addr),
    /// `jita_free_quiescent`, if nobody is inside code.
    FreeQuiescent(Addr),
    /// `jita_collect`.
    Collect(Which),
    /// `jita_verify`.
    Verify(Which),
    /// `jita_lookup`; without a place for the answer now and then.
    Lookup(Addr, u8),
    /// `jita_contains`.
    Contains(Which, Addr),
    /// `jita_trampoline`.
    Trampoline(Which, u8, u8),
    /// `jita_call_target`.
    CallTarget(Which, Addr, u8, u8),
    /// `jita_make_trampolines`, so many, one of them null now and then.
    MakeTrampolines(Which, u8, u8),
    /// `jita_report`, `jita_stats_json`: with so much room.
    Text(Which, bool, u16, u8),
    /// `jita_stats_read` of a struct of so many bytes.
    Stats(Which, u8),
    /// `jita_write_offset`.
    Offset(Which, u8),
    /// `jita_error_name`.
    Name(i32),
    /// Executes so many of the next operations on a thread that ends behind them.
    Visit(u8),
}
