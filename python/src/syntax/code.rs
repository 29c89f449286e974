//! Bytecode: three-address operations on the slots of a frame.
//!
//! An operand is a slot, or a constant if its highest bit is set. Locals come
//! first in a frame, parameters before the others, temporaries behind them.

use core::sync::atomic::AtomicU8;

use crate::value::heap::Heap;
use crate::value::{ExcKind, Value};

/// Marks an operand that is a constant.
pub(crate) const CONST: u16 = 0x8000;

/// A slot, or [`CONST`] and the number of a constant.
pub(crate) type Operand = u16;
/// A slot of the frame.
pub(crate) type Slot = u16;
/// An operation of the same code.
pub(crate) type Target = u32;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum BinOp {
    Add,
    Sub,
    Mul,
    Div,
    FloorDiv,
    Mod,
    Pow,
    And,
    Or,
    Xor,
    Shl,
    Shr,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum CmpOp {
    Lt,
    Le,
    Gt,
    Ge,
    Eq,
    Ne,
    Is,
    IsNot,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UnOp {
    Neg,
    Not,
    Invert,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Builtin {
    Abs,
    Bool,
    Float,
    Int,
    Len,
    List,
    Lock,
    Max,
    Min,
    Print,
    Range,
    Sleep,
    Sqrt,
    Str,
    Sum,
    Thread,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    Acquire,
    Append,
    Join,
    Pop,
    Release,
    Start,
}

/// One operation. `d` is where its result goes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Op {
    Move {
        d: Slot,
        a: Operand,
    },
    Bin {
        op: BinOp,
        d: Slot,
        a: Operand,
        b: Operand,
    },
    Un {
        op: UnOp,
        d: Slot,
        a: Operand,
    },
    Cmp {
        op: CmpOp,
        d: Slot,
        a: Operand,
        b: Operand,
    },
    Jump {
        t: Target,
    },
    /// Jumps if the truth of `a` is `when`.
    JumpIf {
        when: bool,
        a: Operand,
        t: Target,
    },
    /// Jumps if the outcome of the comparison is `when`.
    CmpJump {
        op: CmpOp,
        when: bool,
        a: Operand,
        b: Operand,
        t: Target,
    },
    /// The head of a loop: counts, and may go on in machine code.
    Loop {
        site: u16,
    },
    /// Ends a loop at `t`, or takes the next of a range into `var`.
    ForRange {
        i: Slot,
        stop: Operand,
        step: i16,
        var: Slot,
        t: Target,
    },
    /// Ends a loop at `t`, or takes the next of a list or tuple into `var`.
    ForEach {
        i: Slot,
        of: Slot,
        var: Slot,
        t: Target,
    },
    LoadGlobal {
        d: Slot,
        g: u16,
    },
    StoreGlobal {
        g: u16,
        a: Operand,
    },
    Index {
        d: Slot,
        a: Operand,
        b: Operand,
    },
    StoreIndex {
        a: Operand,
        b: Operand,
        v: Operand,
    },
    /// Calls `f` with the `n` slots from `base` on.
    Call {
        d: Slot,
        f: Slot,
        base: Slot,
        n: u8,
    },
    CallGlobal {
        d: Slot,
        g: u16,
        base: Slot,
        n: u8,
    },
    CallBuiltin {
        d: Slot,
        f: Builtin,
        base: Slot,
        n: u8,
    },
    CallMethod {
        d: Slot,
        f: Method,
        a: Operand,
        base: Slot,
        n: u8,
    },
    MakeList {
        d: Slot,
        base: Slot,
        n: u16,
    },
    MakeTuple {
        d: Slot,
        base: Slot,
        n: u16,
    },
    /// Takes a list or tuple of `n` apart into the slots from `base` on.
    Unpack {
        a: Operand,
        base: Slot,
        n: u8,
    },
    MakeFunction {
        d: Slot,
        code: u16,
    },
    Return {
        a: Operand,
    },
    /// Raises an exception of a kind, with a message if `a` is not none.
    Raise {
        kind: ExcKind,
        a: Operand,
    },
    /// Whether the exception in `a` is of a kind.
    IsKind {
        d: Slot,
        a: Slot,
        kind: ExcKind,
    },
    Reraise {
        a: Slot,
    },
}

impl Op {
    /// Whether it may take long: it loops, calls or may block.
    pub(super) fn may_linger(&self) -> bool {
        matches!(
            self,
            Self::Loop { .. }
                | Self::Call { .. }
                | Self::CallGlobal { .. }
                | Self::CallBuiltin { .. }
                | Self::CallMethod { .. }
        )
    }
}

/// Where an exception raised in `start..end` is handled.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Handler {
    pub(crate) start: Target,
    pub(crate) end: Target,
    pub(crate) target: Target,
    /// Gets the exception.
    pub(crate) slot: Slot,
}

/// A function, or the program's own level.
#[derive(Debug)]
pub(crate) struct Code {
    pub(crate) name: String,
    pub(crate) params: u16,
    pub(crate) locals: u16,
    pub(crate) slots: u16,
    pub(crate) ops: Vec<Op>,
    pub(crate) lines: Vec<u32>,
    pub(crate) consts: Vec<Value>,
    /// Innermost first.
    pub(crate) handlers: Vec<Handler>,
    /// Where machine code can be entered: the start, then each loop's head.
    pub(crate) sites: Vec<Target>,
    /// What each operation brought last, as a `jit::types::Ty`, where that
    /// cannot be told from the code.
    pub(crate) seen: Vec<AtomicU8>,
    /// Whether it neither loops nor calls.
    pub(crate) is_leaf: bool,
}

impl Code {
    /// The innermost handler of an exception raised at `pc`.
    pub(crate) fn handler(&self, pc: usize) -> Option<&Handler> {
        self.handlers.iter().find(|h| (h.start as usize..h.end as usize).contains(&pc))
    }
}

/// A compiled program.
#[derive(Debug)]
pub(crate) struct Program {
    /// The program's own level first.
    pub(crate) codes: Vec<std::sync::Arc<Code>>,
    /// Names of the globals, by number.
    pub(crate) globals: Vec<String>,
    /// Owns the constants that are objects.
    pub(crate) _constants: Heap,
}
