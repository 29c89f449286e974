//! The functions of [`super::Program`] for x86-64, System V calling convention:
//! argument in `rdi`, where to write the seed in `rsi`, answer in `rax`;
//! `rcx` and `rdx` are scratch.

use dynasmrt::x64::X64Relocation;
use dynasmrt::{DynasmApi, DynasmLabelApi, VecAssembler, dynasm};

use super::{DATA_ROTATION, DATA_STRIDE, Program, Reads, Step, Tier, Words};

/// Bytes of each part of a function.
const OPENING: usize = 16;
const STEP: usize = 17;
const READS: usize = 33;
const RET: usize = 1;
const MIXES: usize = 14;

pub(super) fn tier(code: usize) -> Tier {
    if code >= OPENING + STEP + READS + RET {
        Tier::Full
    } else if code >= MIXES {
        Tier::Mixes
    } else if code >= RET {
        Tier::Returns
    } else {
        Tier::Nothing
    }
}

fn reads(program: &Program) -> usize {
    match program.reads() {
        Reads::Nothing => 0,
        Reads::Words { .. } => READS,
    }
}

/// How many steps fill the function.
pub(super) fn steps(program: &Program) -> usize {
    (program.shape.code as usize - OPENING - reads(program) - RET) / STEP
}

pub(super) fn emit(program: &Program, gap: usize, code: &mut Vec<u8>) {
    let len = program.shape.code as usize;
    let mut ops = VecAssembler::<X64Relocation>::new(0);
    let seed = program.seed as i64;
    match tier(len) {
        Tier::Nothing => {}
        Tier::Returns => {
            nops(&mut ops, len - RET);
            dynasm!(ops; .arch x64; ret);
        }
        Tier::Mixes => {
            dynasm!(ops; .arch x64; mov rax, QWORD seed; xor rax, rdi);
            nops(&mut ops, len - RET);
            dynasm!(ops; .arch x64; ret);
        }
        Tier::Full => {
            dynasm!(ops; .arch x64; mov rax, QWORD seed; mov [rsi], rax; mov rax, rdi);
            let mut words = Words::new(program.seed);
            for _ in 0..steps(program) {
                let step = Step::next(&mut words);
                dynasm!(ops
                    ; .arch x64
                    ; mov rcx, QWORD step.addend as i64
                    ; add rax, rcx
                    ; rol rax, BYTE step.rotation as i8
                );
            }
            nops(&mut ops, len - RET - reads(program));
            if let Reads::Words { last } = program.reads() {
                dynasm!(ops
                    ; .arch x64
                    ; lea rcx, [>data]
                    ; lea rdx, [rcx + last as i32]
                    ; next:
                    ; add rax, [rcx]
                    ; rol rax, BYTE DATA_ROTATION as i8
                    ; add rcx, BYTE DATA_STRIDE as i8
                    ; cmp rcx, rdx
                    ; jbe BYTE <next
                    ; add rax, [rdx]
                );
            }
            dynasm!(ops; .arch x64; ret);
            // The label lies behind the code; what leads to it is cut off.
            for _ in 0..gap {
                ops.push(0);
            }
            dynasm!(ops; .arch x64; data:);
        }
    }
    // Every label above is defined and the data within 32 bits of the code.
    if let Ok(bytes) = ops.finalize() {
        code.extend_from_slice(&bytes[..len]);
    }
}

/// Fills up to offset `to`.
fn nops(ops: &mut VecAssembler<X64Relocation>, to: usize) {
    while ops.offset().0 < to {
        dynasm!(ops; .arch x64; nop);
    }
}
