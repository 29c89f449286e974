//! Installing one function: what it may refer to, what is refused, and unwinding.

mod common;

#[cfg(target_os = "linux")]
use std::panic::{AssertUnwindSafe, catch_unwind};

use common::{Compiler, helpers};
use cranelift_codegen::Context;
use cranelift_codegen::binemit::Reloc;
use jit_arena::Arena;
use jit_arena_cranelift::{Error, Installer, Name};
#[cfg(target_os = "linux")]
use jit_arena_tools::{Names, Unwind};

const CALLS: &str = "function %calls(i64) -> i64 system_v {
    fn0 = %callee(i64) -> i64 system_v
block0(v0: i64):
    v1 = iadd_imm v0, 1
    v2 = call fn0(v1)
    v3 = iadd v2, v0
    return v3
}";

/// Returns an address that it takes to be near.
const NEAR: &str = "function %near() -> i64 system_v {
    gv0 = symbol colocated %data
block0:
    v0 = global_value.i64 gv0
    return v0
}";

#[cfg(target_os = "linux")]
extern "C-unwind" fn fails(x: i64) -> i64 {
    panic!("from below, with {x}");
}

#[cfg(target_os = "linux")]
fn compiler() -> Compiler {
    Compiler::new("with unwind information", &[("unwind_info", "true")], true)
}

#[cfg(target_os = "linux")]
#[test]
fn panics_pass_through_what_is_published_with_unwind_information() {
    let (unwind, names) = (Unwind::new(), Names::new());
    let arena = Arena::builder().tool(unwind.clone()).tool(names.clone()).build().unwrap();
    let mut thread = arena.attach().unwrap();
    let compiler = compiler();
    let installer = Installer::new(&arena, &*compiler.isa).unwind_information(true);
    let calls = compiler.compile(CALLS);
    let target = fails as extern "C-unwind" fn(i64) -> i64 as usize;
    let inner = installer.install(&mut thread, "inner", &calls, &|_| Some(target)).unwrap();
    let outer = installer.install(&mut thread, "outer", &calls, &|_| Some(inner.addr())).unwrap();
    assert_eq!(unwind.len(), 2);
    assert_eq!(names.name_of(outer.addr()).as_deref(), Some("outer"));
    for _ in 0..3 {
        let caught = catch_unwind(AssertUnwindSafe(|| {
            let guard = thread.pin();
            // SAFETY: compiled with this signature, and kept by the guard.
            let function: extern "C-unwind" fn(i64) -> i64 = unsafe { outer.entry(&guard).cast() };
            function(5)
        }));
        let message = caught.expect_err("it returned");
        assert_eq!(message.downcast_ref::<String>().unwrap(), "from below, with 7");
    }
    drop((inner, outer));
    thread.collect();
    assert!(unwind.is_empty());
    // Without being asked for it is not made.
    let quiet = Installer::new(&arena, &*compiler.isa);
    let again = quiet.install(&mut thread, "again", &calls, &|_| Some(target)).unwrap();
    assert!(unwind.is_empty());
    drop(again);
}

#[test]
fn far_calls_go_through_one_trampoline_each() {
    let arena = Arena::new().unwrap();
    let mut thread = arena.attach().unwrap();
    let compiler = Compiler::new("plain", &[], true);
    let installer = Installer::new(&arena, &*compiler.isa);
    let text = CALLS.replace("%callee", "colocated %twist");
    let calls = compiler.compile(&text);
    let resolve = |name: &Name<'_>| helpers::resolve(name, 0);
    let twist = helpers::twist as extern "C" fn(i64) -> i64 as usize;
    let all: Vec<_> = (0..10)
        .map(|_| installer.install(&mut thread, "calls", &calls, &resolve).unwrap())
        .collect();
    let far = arena.span().start.abs_diff(twist) > 1 << 31;
    assert_eq!(arena.trampolines().len(), usize::from(far));
    let guard = thread.pin();
    for executor in &all {
        // SAFETY: compiled with this signature, and kept by the guard.
        let function: extern "C" fn(i64) -> i64 = unsafe { executor.entry(&guard).cast() };
        assert_eq!(function(3), helpers::twist(4) + 3);
    }
    if !far {
        println!("not run: this program lies within reach of its arena");
    }
}

#[test]
fn near_data_is_referred_to_directly() {
    let arena = Arena::new().unwrap();
    let mut thread = arena.attach().unwrap();
    let data = thread.install(&[0xC3], &[7; 64]).unwrap();
    let address = data.addr() + data.data_offset();
    for compiler in Compiler::all() {
        let near = compiler.compile(NEAR);
        let installer = Installer::new(&arena, &*compiler.isa);
        let executor = installer.install(&mut thread, "near", &near, &|_| Some(address)).unwrap();
        let guard = thread.pin();
        // SAFETY: compiled with this signature, and kept by the guard.
        let function: extern "C" fn() -> usize = unsafe { executor.entry(&guard).cast() };
        assert_eq!(function(), address, "{}", compiler.name);
    }
}

#[test]
fn what_cannot_be_installed_changes_nothing() {
    let arena = Arena::builder().reserve(1 << 20).build().unwrap();
    let mut thread = arena.attach().unwrap();
    let compiler = Compiler::new("plain", &[], true);
    let installer = Installer::new(&arena, &*compiler.isa);
    let nothing = |_: &Name<'_>| None;
    let kept = thread.install(&[0xC3; 100], &[]).unwrap();

    let refused = installer.install(&mut thread, "none", &Context::new(), &nothing);
    assert!(matches!(refused, Err(Error::NotCompiled)));

    let calls = compiler.compile(CALLS);
    let refused = installer.install(&mut thread, "calls", &calls, &nothing).unwrap_err();
    assert!(matches!(&refused, Error::Unresolved(name) if name == "%callee"), "{refused:?}");

    // Data that the function says is near, and is at the other end of memory: there
    // is no trampoline to data.
    let near = compiler.compile(NEAR);
    let far = |_: &Name<'_>| Some(16_usize);
    let refused = installer.install(&mut thread, "near", &near, &far).unwrap_err();
    assert!(
        matches!(
            refused,
            Error::OutOfReach {
                kind: Reloc::X86CallPCRel4 | Reloc::Aarch64AdrPrelPgHi21,
                to: 16,
                ..
            }
        ),
        "{refused:?}"
    );
    assert!(arena.trampolines().is_empty());

    let mut full = Vec::new();
    let identity = compiler.compile("function %f(i64) -> i64 { block0(v0: i64): return v0 }");
    while let Ok(executor) = thread.install(&[0xC3; 4000], &[]) {
        full.push(executor);
    }
    let refused = loop {
        match installer.install(&mut thread, "full", &identity, &nothing) {
            Ok(executor) => full.push(executor),
            Err(refused) => break refused,
        }
    };
    assert!(matches!(refused, Error::Reserve(_)), "{refused:?}");
    drop(full);
    thread.collect();

    assert_eq!(arena.stats().live_executors, 1);
    drop((kept, thread));
    arena.verify().unwrap();
}
