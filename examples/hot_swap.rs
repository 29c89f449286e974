//! Threads call a function while another replaces it, again and again.
//!
//! What a runtime does when it recompiles a hot function: callers never stop,
//! never lock, and never run code that is half written or already freed.

use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use jit_arena::{Arena, AttachError, Slot};

const VERSIONS: u32 = 50_000;

/// Machine code of a function that returns `version`.
fn compile(version: u32) -> Vec<u8> {
    #[cfg(target_arch = "x86_64")]
    // mov eax, version; ret
    return [&[0xB8][..], &version.to_le_bytes(), &[0xC3]].concat();
    #[cfg(target_arch = "aarch64")]
    // movz w0, low; movk w0, high, lsl 16; ret
    return [
        0x5280_0000 | (version & 0xFFFF) << 5,
        0x72A0_0000 | (version >> 16) << 5,
        0xD65F_03C0,
    ]
    .map(u32::to_le_bytes)
    .concat();
}

/// Calls what is in the slot until `done`; returns how often.
fn call(arena: &Arena, slot: &Slot, done: &AtomicBool) -> Result<u64, AttachError> {
    let thread = arena.attach()?;
    let (mut calls, mut newest) = (0, 0);
    while !done.load(Ordering::Relaxed) {
        let guard = thread.pin();
        let Some(entry) = slot.load(&guard) else { continue };
        // SAFETY: the slot holds functions of this signature, and the guard
        // keeps the one loaded from being freed.
        let function: extern "C" fn() -> u32 = unsafe { entry.cast() };
        let version = function();
        assert!(version >= newest, "an old version came back");
        newest = version;
        calls += 1;
    }
    Ok(calls)
}

/// Puts one version after another into the slot.
fn replace(arena: &Arena, slot: &Slot) -> Result<(), Box<dyn Error>> {
    let mut thread = arena.attach()?;
    for version in 0..VERSIONS {
        let executor = thread.install(&compile(version), &[])?;
        // Dropping the one before frees it, once nobody runs it.
        drop(slot.replace(executor)?);
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let arena = Arena::new()?;
    let slot = arena.slot();
    let done = AtomicBool::new(false);

    let calls = thread::scope(|scope| -> Result<u64, Box<dyn Error>> {
        let callers = [(); 2].map(|()| scope.spawn(|| call(&arena, &slot, &done)));
        let replaced = replace(&arena, &slot);
        done.store(true, Ordering::Relaxed);
        let mut calls = 0;
        for caller in callers {
            calls += caller.join().map_err(|_| "a caller failed")??;
        }
        replaced.map(|()| calls)
    })?;
    println!("{VERSIONS} versions of one function, called {calls} times meanwhile,");
    println!("in {} bytes of code memory", arena.stats().committed_bytes);
    Ok(())
}
