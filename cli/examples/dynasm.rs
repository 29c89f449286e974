//! Assembles a function with dynasm-rs for the address that it will run at, installs
//! it, and calls it.
//!
//! The assembler wants the address before the first byte, and the arena the length
//! before the address: so the function is assembled twice, or its length is known
//! better. What it calls is far away, so it calls a trampoline, by a direct branch.

use std::error::Error;

use dynasmrt::{DynasmApi, DynasmLabelApi, VecAssembler, dynasm};
use jit_arena::{Arena, CodeLayout};

extern "C" fn collatz(x: u64) -> u64 {
    if x.is_multiple_of(2) { x / 2 } else { 3 * x + 1 }
}

/// `f(x)`: how often `collatz` must be called to get from `x` to 1.
#[cfg(target_arch = "x86_64")]
fn assemble(entry: usize, helper: usize) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut ops = VecAssembler::<dynasmrt::x64::X64Relocation>::new(entry);
    dynasm!(ops
        ; .arch x64
        ; push rbx // aligns the stack, too
        ; xor ebx, ebx
        ; next:
        ; cmp rdi, 1
        ; jbe >done
        ; call extern helper
        ; mov rdi, rax
        ; inc rbx
        ; jmp <next
        ; done:
        ; mov rax, rbx
        ; pop rbx
        ; ret
    );
    Ok(ops.finalize()?)
}

#[cfg(target_arch = "aarch64")]
fn assemble(entry: usize, helper: usize) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut ops = VecAssembler::<dynasmrt::aarch64::Aarch64Relocation>::new(entry);
    dynasm!(ops
        ; .arch aarch64
        ; stp x29, x30, [sp, -32]!
        ; str x19, [sp, 16]
        ; mov x19, 0
        ; next:
        ; cmp x0, 1
        ; b.ls >done
        ; bl extern helper
        ; add x19, x19, 1
        ; b <next
        ; done:
        ; mov x0, x19
        ; ldr x19, [sp, 16]
        ; ldp x29, x30, [sp], 32
        ; ret
    );
    Ok(ops.finalize()?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let arena = Arena::new()?;
    let mut thread = arena.attach()?;
    let helper = arena.trampoline(collatz as extern "C" fn(u64) -> u64 as usize)?;

    // Near the helper, so that the branch can be encoded; only the length counts.
    let len = assemble(helper, helper)?.len();
    let mut place = thread.reserve(CodeLayout::new(len))?;
    let code = assemble(place.entry(), helper)?;
    thread.write().write_at(&mut place, 0, &code)?;
    let executor = thread.publish(place)?;

    let guard = thread.pin();
    // SAFETY: the code is a function of this signature, called under its guard.
    let function: extern "C" fn(u64) -> u64 = unsafe { executor.entry(&guard).cast() };
    println!("from 27 to 1 it takes {} steps", function(27));
    assert_eq!(function(27), 111);
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_runs() {
        super::main().unwrap();
    }
}
