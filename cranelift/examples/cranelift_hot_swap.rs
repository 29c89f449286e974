//! Threads call a function that Cranelift has compiled, while another compiles it
//! anew and replaces it, again and again.

use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use cranelift_codegen::Context;
use cranelift_codegen::ir::{AbiParam, InstBuilder, Signature, types};
use cranelift_codegen::isa::OwnedTargetIsa;
use cranelift_codegen::settings::{self, Configurable};
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
use jit_arena::{Arena, AttachError, Executor, Slot, ThreadHandle};
use jit_arena_cranelift::Installer;

const VERSIONS: i64 = 500;

/// Compiles `f(x) = version * 1000 + x * x`, with a loop for the square.
fn compile(isa: &OwnedTargetIsa, version: i64) -> Result<Context, Box<dyn Error>> {
    let mut context = Context::new();
    let mut signature = Signature::new(isa.default_call_conv());
    signature.params.push(AbiParam::new(types::I64));
    signature.returns.push(AbiParam::new(types::I64));
    context.func.signature = signature;

    let mut reusable = FunctionBuilderContext::new();
    let mut builder = FunctionBuilder::new(&mut context.func, &mut reusable);
    let (entry, body, done) =
        (builder.create_block(), builder.create_block(), builder.create_block());
    builder.append_block_params_for_function_params(entry);
    let (left, sum) = (
        builder.append_block_param(body, types::I64),
        builder.append_block_param(body, types::I64),
    );
    builder.switch_to_block(entry);
    let x = builder.block_params(entry)[0];
    let start = builder.ins().iconst(types::I64, version * 1000);
    builder.ins().brif(x, body, &[x.into(), start.into()], done, &[]);
    builder.switch_to_block(body);
    let next = builder.ins().iadd(sum, x);
    let fewer = builder.ins().iadd_imm(left, -1);
    let (exit, result) = (builder.create_block(), next);
    builder.ins().brif(fewer, body, &[fewer.into(), next.into()], exit, &[]);
    builder.switch_to_block(exit);
    builder.ins().return_(&[result]);
    builder.switch_to_block(done);
    builder.ins().return_(&[start]);
    builder.seal_all_blocks();
    builder.finalize();

    context.compile(&**isa, &mut Default::default()).map_err(|error| format!("{error:?}"))?;
    Ok(context)
}

fn install(
    arena: &Arena,
    thread: &mut ThreadHandle,
    isa: &OwnedTargetIsa,
    version: i64,
) -> Result<Executor, Box<dyn Error>> {
    let context = compile(isa, version)?;
    // It calls nobody, so there is nothing to resolve.
    Ok(Installer::new(arena, &**isa).install(thread, "square", &context, &|_| None)?)
}

/// Calls what is in the slot until `done`; returns how often.
fn call(arena: &Arena, slot: &Slot, done: &AtomicBool) -> Result<u64, AttachError> {
    let thread = arena.attach()?;
    let (mut calls, mut newest) = (0, 0);
    while !done.load(Ordering::Relaxed) {
        let guard = thread.pin();
        let Some(entry) = slot.load(&guard) else { continue };
        // SAFETY: functions of this signature, and the guard keeps the one loaded.
        let function: extern "C" fn(i64) -> i64 = unsafe { entry.cast() };
        let result = function(7);
        assert_eq!(result % 1000, 49);
        assert!(result / 1000 >= newest, "an old version came back");
        newest = result / 1000;
        calls += 1;
    }
    Ok(calls)
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut flags = settings::builder();
    flags.set("opt_level", "speed")?;
    let isa = cranelift_native::builder()?.finish(settings::Flags::new(flags))?;

    let arena = Arena::new()?;
    let slot = arena.slot();
    let done = AtomicBool::new(false);
    let calls = thread::scope(|scope| -> Result<u64, Box<dyn Error>> {
        let callers = [(); 2].map(|()| scope.spawn(|| call(&arena, &slot, &done)));
        let mut thread = arena.attach()?;
        let replaced = (0..VERSIONS).try_for_each(|version| {
            // Dropping the one before frees it, once nobody runs it.
            drop(slot.replace(install(&arena, &mut thread, &isa, version)?)?);
            Ok(())
        });
        done.store(true, Ordering::Relaxed);
        let mut calls = 0;
        for caller in callers {
            calls += caller.join().map_err(|_| "a caller failed")??;
        }
        replaced.map(|()| calls)
    })?;
    println!("{VERSIONS} versions compiled and swapped under {calls} calls,");
    println!("in {} bytes of code memory", arena.stats().committed_bytes);
    Ok(())
}
