//! Stencils: short pieces of machine code with holes.
//!
//! Each is assembled by dynasm the first time anybody needs it, and copied from
//! then on; its holes (displacements of slots, immediates, distances) are all
//! at fixed places and filled in the copy (Xu and Kjolstad, *Copy-and-Patch
//! Compilation*, 2021). A stencil is for certain registers, so that a local in
//! a register costs no load.
//!
//! Registers: `rbx` the frame, `r12` the context; `rax`, `rcx`, `rdx`, `xmm0`
//! and `xmm1` are scratch.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockWriteGuard};

use dynasmrt::x64::X64Relocation;
use dynasmrt::{DynasmApi, DynasmLabelApi, VecAssembler, dynasm};

/// General registers by their numbers.
pub(crate) const RAX: u8 = 0;
pub(crate) const RCX: u8 = 1;
pub(crate) const RDX: u8 = 2;

/// Arithmetic on general registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Alu {
    Add,
    Sub,
    Mul,
    And,
    Or,
    Xor,
    Cmp,
}

/// Arithmetic on floats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Fpu {
    Add,
    Sub,
    Mul,
    Div,
    Sqrt,
    /// Compares and sets the flags, like an unsigned comparison; parity if one
    /// is not a number.
    Compare,
}

/// Conditions, by the low half of the jump's opcode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(crate) enum Cond {
    O = 0x0,
    B = 0x2,
    Ae = 0x3,
    E = 0x4,
    Ne = 0x5,
    Be = 0x6,
    A = 0x7,
    S = 0x8,
    P = 0xA,
    L = 0xC,
    Ge = 0xD,
    Le = 0xE,
    G = 0xF,
}

impl Cond {
    pub(crate) fn not(self) -> Option<Self> {
        Some(match self {
            Self::B => Self::Ae,
            Self::Ae => Self::B,
            Self::E => Self::Ne,
            Self::Ne => Self::E,
            Self::Be => Self::A,
            Self::A => Self::Be,
            Self::L => Self::Ge,
            Self::Ge => Self::L,
            Self::Le => Self::G,
            Self::G => Self::Le,
            _ => return None,
        })
    }
}

/// Which stencil. Numbers are registers; holes are named behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    Prologue,
    /// Word of data: the unit.
    Epilogue,
    /// Slot.
    Load(u8),
    /// Slot.
    Store(u8),
    /// Slot.
    LoadFloat(u8),
    /// Slot.
    StoreFloat(u8),
    /// Slot, immediate.
    StoreTag,
    /// Slot, immediate.
    CompareTag,
    /// Tag and bits of a slot, then of another. By words, as they were stored: a
    /// load of both at once would have to wait for the stores.
    Copy,
    /// Tag and bits of a slot, then of a place in the context.
    CopyOut,
    /// Place in the context, immediate.
    StoreContext,
    /// Place in the context.
    StoreResult(u8),
    /// Place in the context.
    StoreResultFloat(u8),
    /// Place in the context.
    Countdown,
    /// Immediate.
    Immediate(u8),
    /// Word of data.
    Word(u8),
    /// Word of data.
    FloatWord(u8),
    Move(u8, u8),
    MoveFloat(u8, u8),
    Alu(Alu, u8, u8),
    /// Immediate.
    AluImmediate(Alu, u8),
    Negate(u8),
    Invert(u8),
    Test(u8),
    Fpu(Fpu, u8, u8),
    ZeroFloat(u8),
    /// To a float.
    Convert(u8, u8),
    /// The bits of a float, and back.
    FloatBits(u8, u8),
    BitsFloat(u8, u8),
    /// `rax` by `rcx`: quotient in `rax`.
    FloorDiv,
    /// `rax` by `rcx`: rest in `rdx`.
    Modulo,
    /// Whether a float tells `reg` from its neighbours: not zero if not, in
    /// `rdx`. Word of data: 2 to the 53.
    Inexact(u8),
    /// `rax` by `cl`; compares with what it was.
    ShiftLeft,
    ShiftRight,
    /// `rax` by an immediate byte.
    ShiftRightBy,
    /// Sets `rax` to a condition.
    SetIf(Cond),
    /// Sets `rax` to equal, and ordered; or the opposite.
    SetIfEqual(bool),
    /// Immediate: what a global's version must be. Word of data: the global.
    CompareVersion,
    /// Compares the kind of the list in a register. Immediate.
    CompareKind(u8),
    /// Compares an index with what is near of a list.
    CompareNear(u8, u8),
    /// `rax` becomes the first segment's address.
    Segment(u8),
    /// Element `index` of the segment at `rax`.
    Element(u8, u8),
    ElementFloat(u8, u8),
    SetElement(u8, u8),
    SetElementFloat(u8, u8),
    /// Compares the tag of the value at `rax`. Immediate.
    CompareTagAt,
    /// Bits of the value at `rax`.
    BitsAt(u8),
    BitsAtFloat(u8),
    /// Distance.
    Jump,
    /// Distance.
    JumpIf(Cond),
    /// Context and frame as the first arguments.
    Arguments,
    /// Word of data, third argument.
    ThirdWord,
    /// Immediate, fourth argument.
    FourthImmediate,
    /// Distance.
    Call,
    /// Displacement: the frame of a callee, as the second argument.
    NewFrame,
    /// Place in the context: whether a callee's frame is too far.
    CompareLimit,
    /// Place in the context, immediate.
    CompareContext,
    /// Place in the context.
    CountUp,
    /// Word of data: where the address of a function is. Tests it.
    Follow,
    /// Through `rax`.
    CallRegister,
    /// Tag and bits of a place in the context, then of a slot.
    CopyIn,
    /// How a callee was left, as arguments; word of data, immediate.
    Finish,
}

/// What a hole takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hole {
    /// 32 bits as they are.
    Bits,
    Byte,
    /// The distance from the hole's end.
    Distance,
}

/// Code with holes.
#[derive(Debug)]
pub(crate) struct Stencil {
    pub(crate) bytes: Vec<u8>,
    pub(crate) holes: Vec<(usize, Hole)>,
}

/// What a stencil is in before it is one.
struct Draft {
    ops: VecAssembler<X64Relocation>,
    holes: Vec<(usize, Hole)>,
}

impl Draft {
    /// The last four bytes are a hole.
    fn hole(&mut self, hole: Hole) {
        self.hole_before(hole, 0);
    }

    /// As [`hole`](Self::hole), with so many bytes behind it.
    fn hole_before(&mut self, hole: Hole, behind: usize) {
        let len = if hole == Hole::Byte { 1 } else { 4 };
        self.holes.push((self.ops.offset().0 - behind - len, hole));
    }
}

type Known = RwLock<HashMap<Key, Arc<Stencil>>>;

/// Stencils assembled so far.
fn known() -> &'static Known {
    static KNOWN: OnceLock<Known> = OnceLock::new();
    KNOWN.get_or_init(RwLock::default)
}

/// Keeps all others from the stencils, across a fork.
pub(crate) fn hold() -> impl Sized {
    let held: RwLockWriteGuard<'static, _> =
        known().write().unwrap_or_else(PoisonError::into_inner);
    held
}

/// The stencil for a key; assembled if nobody has asked for it before.
pub(crate) fn stencil(key: Key) -> Arc<Stencil> {
    let known = known();
    if let Some(stencil) = known.read().unwrap_or_else(PoisonError::into_inner).get(&key) {
        return Arc::clone(stencil);
    }
    let mut draft = Draft { ops: VecAssembler::new(0), holes: Vec::new() };
    assemble(key, &mut draft);
    // Every label in a stencil is defined in it.
    let bytes = draft.ops.finalize().unwrap_or_default();
    let stencil = Arc::new(Stencil { bytes, holes: draft.holes });
    let mut known = known.write().unwrap_or_else(PoisonError::into_inner);
    Arc::clone(known.entry(key).or_insert(stencil))
}

/// A displacement that is never encoded in a byte.
const FAR: i32 = 0x7FFF_0000;

#[expect(clippy::useless_conversion, reason = "dynasm converts what is of the right type, too")]
fn assemble(key: Key, d: &mut Draft) {
    macro_rules! asm {
        ($($code:tt)*) => { dynasm!(d.ops; .arch x64; $($code)*) };
    }
    match key {
        Key::Prologue => asm!(
            push rbp; push rbx; push r12; push r13; push r14; push r15; sub rsp, 8
            ; mov r12, rdi; mov rbx, rsi
        ),
        Key::Epilogue => {
            asm!(mov rdx, [rip + FAR]);
            d.hole(Hole::Distance);
            asm!(add rsp, 8; pop r15; pop r14; pop r13; pop r12; pop rbx; pop rbp; ret);
        }
        Key::Load(r) => {
            asm!(mov Rq(r), [rbx + FAR]);
            d.hole(Hole::Bits);
        }
        Key::Store(r) => {
            asm!(mov[rbx + FAR], Rq(r));
            d.hole(Hole::Bits);
        }
        Key::LoadFloat(x) => {
            asm!(movsd Rx(x), [rbx + FAR]);
            d.hole(Hole::Bits);
        }
        Key::StoreFloat(x) => {
            asm!(movsd[rbx + FAR], Rx(x));
            d.hole(Hole::Bits);
        }
        Key::StoreTag => {
            asm!(mov QWORD [rbx + FAR], DWORD FAR);
            d.hole_before(Hole::Bits, 4);
            d.hole(Hole::Bits);
        }
        Key::CompareTag => {
            asm!(cmp DWORD [rbx + FAR], DWORD FAR);
            d.hole_before(Hole::Bits, 4);
            d.hole(Hole::Bits);
        }
        Key::Copy => {
            asm!(mov rax, [rbx + FAR]);
            d.hole(Hole::Bits);
            asm!(mov rcx, [rbx + FAR]);
            d.hole(Hole::Bits);
            asm!(mov[rbx + FAR], rax);
            d.hole(Hole::Bits);
            asm!(mov[rbx + FAR], rcx);
            d.hole(Hole::Bits);
        }
        Key::CopyOut => {
            asm!(mov rax, [rbx + FAR]);
            d.hole(Hole::Bits);
            asm!(mov rcx, [rbx + FAR]);
            d.hole(Hole::Bits);
            asm!(mov[r12 + FAR], rax);
            d.hole(Hole::Bits);
            asm!(mov[r12 + FAR], rcx);
            d.hole(Hole::Bits);
        }
        Key::StoreContext => {
            asm!(mov QWORD [r12 + FAR], DWORD FAR);
            d.hole_before(Hole::Bits, 4);
            d.hole(Hole::Bits);
        }
        Key::StoreResult(r) => {
            asm!(mov[r12 + FAR], Rq(r));
            d.hole(Hole::Bits);
        }
        Key::StoreResultFloat(x) => {
            asm!(movsd[r12 + FAR], Rx(x));
            d.hole(Hole::Bits);
        }
        Key::Countdown => {
            asm!(sub QWORD [r12 + FAR], DWORD 1);
            d.hole_before(Hole::Bits, 4);
        }
        Key::Immediate(r) => {
            asm!(mov Rq(r), DWORD FAR);
            d.hole(Hole::Bits);
        }
        Key::Word(r) => {
            asm!(mov Rq(r), [rip + FAR]);
            d.hole(Hole::Distance);
        }
        Key::FloatWord(x) => {
            asm!(movsd Rx(x), [rip + FAR]);
            d.hole(Hole::Distance);
        }
        Key::Move(to, from) => asm!(mov Rq(to), Rq(from)),
        Key::MoveFloat(to, from) => asm!(movaps Rx(to), Rx(from)),
        Key::Alu(op, a, b) => match op {
            Alu::Add => asm!(add Rq(a), Rq(b)),
            Alu::Sub => asm!(sub Rq(a), Rq(b)),
            Alu::Mul => asm!(imul Rq(a), Rq(b)),
            Alu::And => asm!(and Rq(a), Rq(b)),
            Alu::Or => asm!(or Rq(a), Rq(b)),
            Alu::Xor => asm!(xor Rq(a), Rq(b)),
            Alu::Cmp => asm!(cmp Rq(a), Rq(b)),
        },
        Key::AluImmediate(op, a) => {
            match op {
                Alu::Add => asm!(add Rq(a), DWORD FAR),
                Alu::Sub => asm!(sub Rq(a), DWORD FAR),
                Alu::Mul => asm!(imul Rq(a), Rq(a), DWORD FAR),
                Alu::And => asm!(and Rq(a), DWORD FAR),
                Alu::Or => asm!(or Rq(a), DWORD FAR),
                Alu::Xor => asm!(xor Rq(a), DWORD FAR),
                Alu::Cmp => asm!(cmp Rq(a), DWORD FAR),
            }
            d.hole(Hole::Bits);
        }
        Key::Negate(r) => asm!(neg Rq(r)),
        Key::Invert(r) => asm!(not Rq(r)),
        Key::Test(r) => asm!(test Rq(r), Rq(r)),
        Key::Fpu(op, a, b) => match op {
            Fpu::Add => asm!(addsd Rx(a), Rx(b)),
            Fpu::Sub => asm!(subsd Rx(a), Rx(b)),
            Fpu::Mul => asm!(mulsd Rx(a), Rx(b)),
            Fpu::Div => asm!(divsd Rx(a), Rx(b)),
            Fpu::Sqrt => asm!(sqrtsd Rx(a), Rx(b)),
            Fpu::Compare => asm!(ucomisd Rx(a), Rx(b)),
        },
        Key::ZeroFloat(x) => asm!(xorps Rx(x), Rx(x)),
        Key::Convert(x, r) => asm!(xorps Rx(x), Rx(x); cvtsi2sd Rx(x), Rq(r)),
        Key::FloatBits(r, x) => asm!(movq Rq(r), Rx(x)),
        Key::BitsFloat(x, r) => asm!(movq Rx(x), Rq(r)),
        Key::FloorDiv => asm!(
            cqo; idiv rcx; test rdx, rdx; jz BYTE >done; xor rdx, rcx; jns BYTE >done; dec rax; done:
        ),
        Key::Modulo => asm!(
            cqo; idiv rcx; test rdx, rdx; jz BYTE >done; mov rax, rdx; xor rax, rcx
            ; jns BYTE >done; add rdx, rcx; done:
        ),
        Key::Inexact(r) => {
            asm!(mov rdx, [rip + FAR]);
            d.hole(Hole::Distance);
            asm!(add rdx, Rq(r); shr rdx, 54);
        }
        Key::ShiftLeft => asm!(
            mov rdx, rax; shl rax, cl; push rax; sar rax, cl; cmp rax, rdx; pop rax
        ),
        Key::ShiftRight => asm!(sar rax, cl),
        Key::ShiftRightBy => {
            asm!(sar rax, BYTE 77);
            d.hole(Hole::Byte);
        }
        Key::SetIf(cond) => {
            // setcc al: the condition is part of the opcode.
            d.ops.extend([0x0F, 0x90 | cond as u8, 0xC0]);
            asm!(movzx eax, al);
        }
        Key::SetIfEqual(true) => asm!(setnp cl; sete al; and al, cl; movzx eax, al),
        Key::SetIfEqual(false) => asm!(setp cl; setne al; or al, cl; movzx eax, al),
        Key::CompareVersion => {
            asm!(mov rax, [rip + FAR]);
            d.hole(Hole::Distance);
            asm!(cmp DWORD [rax], DWORD FAR);
            d.hole(Hole::Bits);
        }
        Key::CompareKind(r) => {
            asm!(cmp DWORD [Rq(r)], DWORD FAR);
            d.hole(Hole::Bits);
        }
        Key::CompareNear(index, list) => asm!(cmp Rq(index), [Rq(list) + 8]),
        Key::Segment(list) => asm!(mov rax, [Rq(list) + 16]),
        Key::Element(r, index) => asm!(mov Rq(r), [rax + Rq(index) * 8]),
        Key::ElementFloat(x, index) => asm!(movsd Rx(x), [rax + Rq(index) * 8]),
        Key::SetElement(index, r) => asm!(mov[rax + Rq(index) * 8], Rq(r)),
        Key::SetElementFloat(index, x) => asm!(movsd[rax + Rq(index) * 8], Rx(x)),
        Key::CompareTagAt => {
            asm!(cmp DWORD [rax], DWORD FAR);
            d.hole(Hole::Bits);
        }
        Key::BitsAt(r) => asm!(mov Rq(r), [rax + 8]),
        Key::BitsAtFloat(x) => asm!(movsd Rx(x), [rax + 8]),
        Key::Jump => {
            d.ops.extend([0xE9, 0, 0, 0, 0]);
            d.hole(Hole::Distance);
        }
        Key::JumpIf(cond) => {
            d.ops.extend([0x0F, 0x80 | cond as u8, 0, 0, 0, 0]);
            d.hole(Hole::Distance);
        }
        Key::Arguments => asm!(mov rdi, r12; mov rsi, rbx),
        Key::ThirdWord => {
            asm!(mov rdx, [rip + FAR]);
            d.hole(Hole::Distance);
        }
        Key::FourthImmediate => {
            asm!(mov ecx, DWORD FAR);
            d.hole(Hole::Bits);
        }
        Key::Call => {
            d.ops.extend([0xE8, 0, 0, 0, 0]);
            d.hole(Hole::Distance);
        }
        Key::NewFrame => {
            asm!(lea rsi, [rbx + FAR]);
            d.hole(Hole::Bits);
        }
        Key::CompareLimit => {
            asm!(cmp rsi, [r12 + FAR]);
            d.hole(Hole::Bits);
        }
        Key::CompareContext => {
            asm!(cmp QWORD [r12 + FAR], DWORD FAR);
            d.hole_before(Hole::Bits, 4);
            d.hole(Hole::Bits);
        }
        Key::CountUp => {
            asm!(add QWORD [r12 + FAR], DWORD 1);
            d.hole_before(Hole::Bits, 4);
        }
        Key::Follow => {
            asm!(mov rax, [rip + FAR]);
            d.hole(Hole::Distance);
            asm!(mov rax, [rax]; test rax, rax);
        }
        Key::CallRegister => asm!(call rax),
        Key::CopyIn => {
            asm!(mov rax, [r12 + FAR]);
            d.hole(Hole::Bits);
            asm!(mov rcx, [r12 + FAR]);
            d.hole(Hole::Bits);
            asm!(mov[rbx + FAR], rax);
            d.hole(Hole::Bits);
            asm!(mov[rbx + FAR], rcx);
            d.hole(Hole::Bits);
        }
        Key::Finish => {
            asm!(mov rcx, rdx; mov rdx, rax; mov rdi, r12; mov rsi, rbx; mov r8, [rip + FAR]);
            d.hole(Hole::Distance);
            asm!(mov r9d, DWORD FAR);
            d.hole(Hole::Bits);
        }
    }
}
