//! Installs `mov eax, 42; ret` and calls it.

use jit_arena::Arena;

#[cfg(target_arch = "x86_64")]
const CODE: &[u8] = &[0xB8, 42, 0, 0, 0, 0xC3];
#[cfg(target_arch = "aarch64")]
const CODE: &[u8] = &[0x40, 0x05, 0x80, 0x52, 0xC0, 0x03, 0x5F, 0xD6];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arena = Arena::new()?;
    let mut thread = arena.attach()?;
    let answer = thread.install(CODE, &[])?;

    let guard = thread.pin();
    // SAFETY: the code is a function of this signature, called under its guard.
    let function: extern "C" fn() -> i32 = unsafe { answer.entry(&guard).cast() };
    assert_eq!(function(), 42);
    println!("the code at {:#x} says {}", answer.addr(), function());
    Ok(())
}
