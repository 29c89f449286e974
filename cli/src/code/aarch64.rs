//! The functions of [`super::Program`] for aarch64, AAPCS64: argument and answer
//! in `x0`, where to write the seed in `x1`; `x9` to `x11` are scratch.
//!
//! Instructions are four bytes: what is left of an odd length behind the `ret`
//! is padding that does not run.

use dynasmrt::aarch64::Aarch64Relocation;
use dynasmrt::{DynasmApi, DynasmLabelApi, VecAssembler, dynasm};

use super::{DATA_ROTATION, DATA_STRIDE, Program, Reads, Step, Tier, Words};

/// Bytes of each part of a function.
const OPENING: usize = 20;
const STEP: usize = 24;
const READS: usize = 44;
const RET: usize = 4;
const MIXES: usize = 24;

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
    (program.shape.code as usize / 4 * 4 - OPENING - reads(program) - RET) / STEP
}

pub(super) fn emit(program: &Program, gap: usize, code: &mut Vec<u8>) {
    let len = program.shape.code as usize;
    let end = len / 4 * 4;
    let mut ops = VecAssembler::<Aarch64Relocation>::new(0);
    match tier(len) {
        Tier::Nothing => {}
        Tier::Returns => {
            nops(&mut ops, end - RET);
            dynasm!(ops; .arch aarch64; ret);
        }
        Tier::Mixes => {
            load_x9(&mut ops, program.seed);
            dynasm!(ops; .arch aarch64; eor x0, x0, x9);
            nops(&mut ops, end - RET);
            dynasm!(ops; .arch aarch64; ret);
        }
        Tier::Full => {
            load_x9(&mut ops, program.seed);
            dynasm!(ops; .arch aarch64; str x9, [x1]);
            let mut words = Words::new(program.seed);
            for _ in 0..steps(program) {
                let step = Step::next(&mut words);
                load_x9(&mut ops, step.addend);
                dynasm!(ops
                    ; .arch aarch64
                    ; add x0, x0, x9
                    ; ror x0, x0, 64 - u32::from(step.rotation)
                );
            }
            nops(&mut ops, end - RET - reads(program));
            if let Reads::Words { last } = program.reads() {
                dynasm!(ops
                    ; .arch aarch64
                    ; adr x9, >data
                    ; movz x10, (last & 0xffff) as u32
                    ; movk x10, (last >> 16) as u32, lsl 16
                    ; add x10, x9, x10
                    ; next:
                    ; ldr x11, [x9], DATA_STRIDE as i32
                    ; add x0, x0, x11
                    ; ror x0, x0, 64 - DATA_ROTATION
                    ; cmp x9, x10
                    ; b.ls <next
                    ; ldr x11, [x10]
                    ; add x0, x0, x11
                );
            }
            dynasm!(ops; .arch aarch64; ret);
            // The label lies behind the code; what leads to it is cut off.
            for _ in end..len + gap {
                ops.push(0);
            }
            dynasm!(ops; .arch aarch64; data:);
        }
    }
    // Every label above is defined and within reach of its instruction.
    if let Ok(bytes) = ops.finalize() {
        code.extend_from_slice(&bytes[..len.min(bytes.len())]);
    }
    code.resize(len, 0);
}

fn load_x9(ops: &mut VecAssembler<Aarch64Relocation>, word: u64) {
    let part = |n: u32| (word >> (16 * n)) as u32 & 0xffff;
    dynasm!(ops
        ; .arch aarch64
        ; movz x9, part(0)
        ; movk x9, part(1), lsl 16
        ; movk x9, part(2), lsl 32
        ; movk x9, part(3), lsl 48
    );
}

/// Fills up to offset `to`.
fn nops(ops: &mut VecAssembler<Aarch64Relocation>, to: usize) {
    while ops.offset().0 < to {
        dynasm!(ops; .arch aarch64; nop);
    }
}
