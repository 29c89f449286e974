//! What the optimised code really does, instruction by instruction.
//!
//! Two properties of the arena are properties of generated code, and no test of
//! behaviour on a machine without protection keys can see them:
//!
//! - `[W4]` the stores of a write scope lie between the two changes of rights.
//!   The compiler knows nothing of keys, and an `asm!` block that did not
//!   clobber memory would let it move stores out.
//! - An install within a claim takes no lock, makes no system call, and does
//!   no atomic read-modify-write, indeed no store, on a cache line that
//!   another thread's install writes.
//!
//! Reading the machine code alone does not answer either: the strategy and
//! the machine are called through tables, `memcpy` picks its code at load time,
//! and whether a store goes to code memory, or a `lock` to a shared line,
//! depends on an address. So `src/bin/subject.rs` is compiled as releases are,
//! and again with fat LTO, and a tracer ([`trace`]) steps through it: each
//! instruction is decoded before it runs and the addresses it will access are
//! computed from the registers. What is checked is every instruction of the
//! paths that run; `tests/generated.rs` says which paths those are.
//!
//! The processor needs no keys: RDPKRU and WRPKRU are stepped over and their
//! effect is kept by the tracer, which also answers `pkey_alloc`, `pkey_free`
//! and `pkey_mprotect` for the kernel.
//!
//! x86-64 Linux only.

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub mod process;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub mod symbols;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub mod trace;
