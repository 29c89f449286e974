//! A `JITModule` in an arena.

#![cfg(feature = "module")]

use cranelift_codegen::ir::{AbiParam, Function, InstBuilder, UserFuncName, types};
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
use cranelift_jit::{JITBuilder, JITModule};
use cranelift_module::{DataDescription, FuncId, Linkage, Module, default_libcall_names};
use jit_arena::{Arena, Strategy};
use jit_arena_cranelift::ArenaMemory;

extern "C" fn helper(x: i64) -> i64 {
    x * 3
}

fn arena() -> Arena {
    Arena::builder().reserve(16 << 20).strategy(Strategy::Mprotect).build().unwrap()
}

fn module(arena: &Arena) -> JITModule {
    let mut builder = JITBuilder::new(default_libcall_names()).unwrap();
    builder.symbol("helper", (helper as extern "C" fn(i64) -> i64 as *const ()).cast());
    builder.memory_provider(Box::new(ArenaMemory::new(arena).unwrap()));
    JITModule::new(builder)
}

/// Defines `f(x) = previous(x) + table[number % 4] + counter++`, or `helper(x)` in the
/// place of the previous function, with some padding of code.
struct Program {
    module: JITModule,
    functions: Vec<FuncId>,
}

impl Program {
    fn new(arena: &Arena) -> Self {
        let mut module = module(arena);
        for (name, writable, bytes) in [
            ("table", false, [5_i64, 6, 7, 8].map(i64::to_ne_bytes).concat()),
            ("counter", true, vec![0; 8]),
        ] {
            let data = module.declare_data(name, Linkage::Local, writable, false).unwrap();
            let mut description = DataDescription::new();
            description.define(bytes.into_boxed_slice());
            description.set_align(8);
            module.define_data(data, &description).unwrap();
        }
        Self { module, functions: Vec::new() }
    }

    /// One more function, which adds `padding` zeros besides.
    fn define(&mut self, padding: usize) {
        let number = self.functions.len();
        let module = &mut self.module;
        let mut signature = module.make_signature();
        signature.params.push(AbiParam::new(types::I64));
        signature.returns.push(AbiParam::new(types::I64));
        let callee = match self.functions.last() {
            Some(previous) => *previous,
            None => module.declare_function("helper", Linkage::Import, &signature).unwrap(),
        };
        let table = module.declare_data("table", Linkage::Local, false, false).unwrap();
        let counter = module.declare_data("counter", Linkage::Local, true, false).unwrap();
        let id =
            module.declare_function(&format!("f{number}"), Linkage::Local, &signature).unwrap();
        let name = UserFuncName::user(0, number as u32);
        let mut context = module.make_context();
        context.func = Function::with_name_signature(name, signature);
        let callee = module.declare_func_in_func(callee, &mut context.func);
        let table = module.declare_data_in_func(table, &mut context.func);
        let counter = module.declare_data_in_func(counter, &mut context.func);

        let mut reusable = FunctionBuilderContext::new();
        let mut builder = FunctionBuilder::new(&mut context.func, &mut reusable);
        let block = builder.create_block();
        builder.append_block_params_for_function_params(block);
        builder.switch_to_block(block);
        let x = builder.block_params(block)[0];
        let call = builder.ins().call(callee, &[x]);
        let below = builder.inst_results(call)[0];
        let table = builder.ins().global_value(types::I64, table);
        let flags = cranelift_codegen::ir::MemFlags::trusted();
        let offset = (number % 4 * 8) as i32;
        let value = builder.ins().load(types::I64, flags, table, offset);
        let mut sum = builder.ins().iadd(below, value);
        for _ in 0..padding {
            let zero = builder.ins().load(types::I64, flags, table, offset);
            let difference = builder.ins().isub(zero, value);
            sum = builder.ins().iadd(sum, difference);
        }
        let counter = builder.ins().global_value(types::I64, counter);
        let count = builder.ins().load(types::I64, flags, counter, 0);
        let next = builder.ins().iadd_imm(count, 1);
        builder.ins().store(flags, next, counter, 0);
        builder.ins().return_(&[sum]);
        builder.seal_all_blocks();
        builder.finalize();
        module.define_function(id, &mut context).unwrap();
        self.functions.push(id);
    }

    /// Calls function `number`, and compares with what it computes.
    fn check(&self, number: usize) {
        let code = self.module.get_finalized_function(self.functions[number]);
        // SAFETY: compiled with this signature; nobody frees the module meanwhile.
        let function: extern "C" fn(i64) -> i64 = unsafe { core::mem::transmute(code) };
        let table: i64 = (0..=number).map(|number| [5, 6, 7, 8][number % 4]).sum();
        assert_eq!(function(14), 42 + table);
    }
}

fn writable_and_executable() -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    maps.lines().filter(|line| line.contains("wx")).count()
}

#[test]
fn a_module_runs_and_is_freed() {
    let arena = arena();
    let mut program = Program::new(&arena);
    // More than a chunk before it is finalized, and more of it afterwards.
    for number in 0..60 {
        program.define(number % 7 * 40);
    }
    assert_eq!(writable_and_executable(), 0);
    program.module.finalize_definitions().unwrap();
    assert_eq!(writable_and_executable(), 0);
    let first = arena.stats();
    assert!(first.live_executors > 1 && first.live_bytes > 64 << 10, "{first:?}");
    (0..60).for_each(|number| program.check(number));
    for _ in 0..5 {
        program.define(0);
        program.module.finalize_definitions().unwrap();
    }
    (0..65).for_each(|number| program.check(number));
    assert_eq!(arena.stats().live_executors, first.live_executors + 5);
    program.module.finalize_definitions().unwrap(); // nothing to do

    let pages = arena.stats().committed_bytes;
    // SAFETY: nothing of it runs, and nothing is called from here on.
    unsafe { program.module.free_memory() };
    arena.attach().unwrap().collect();
    let stats = arena.stats();
    assert_eq!((stats.live_executors, stats.retired_executors), (0, 0));
    assert!(stats.committed_bytes < pages);
    arena.verify().unwrap();
}

#[test]
fn a_module_moves_between_threads_in_the_middle_of_it() {
    let arena = arena();
    let mut program = Program::new(&arena);
    for _ in 0..6 {
        program = std::thread::spawn(move || {
            program.define(10);
            program
        })
        .join()
        .unwrap();
    }
    std::thread::spawn(move || {
        program.module.finalize_definitions().unwrap();
        program.check(5);
    })
    .join()
    .unwrap();
}

#[test]
fn code_stays_when_its_module_is_dropped() {
    let arena = arena();
    let mut program = Program::new(&arena);
    program.define(0);
    program.module.finalize_definitions().unwrap();
    program.define(3); // not finalized
    let code = program.module.get_finalized_function(program.functions[0]);
    drop(program);
    // SAFETY: compiled with this signature; dropping a module frees no code.
    let function: extern "C" fn(i64) -> i64 = unsafe { core::mem::transmute(code) };
    assert_eq!(function(2), 6 + 5);
    assert_eq!(arena.stats().live_executors, 1);
    arena.verify().unwrap();
}

#[test]
fn modules_share_an_arena_and_pages_go_from_one_to_the_next() {
    let arena = arena();
    let mut most = 0;
    for round in 0..20 {
        let mut both = [Program::new(&arena), Program::new(&arena)];
        for program in &mut both {
            (0..3).for_each(|_| program.define(50));
            program.module.finalize_definitions().unwrap();
            program.check(2);
        }
        for program in both {
            // SAFETY: as above.
            unsafe { program.module.free_memory() };
        }
        arena.attach().unwrap().collect();
        let committed = arena.stats().committed_bytes;
        most = if round == 0 { committed } else { most };
        assert!(
            committed <= most,
            "{committed} bytes are held after {round} rounds, {most} before"
        );
    }
}

#[test]
fn what_cannot_be_served_is_refused() {
    let dual = Arena::builder().reserve(1 << 20).strategy(Strategy::DualOpen).build().unwrap();
    let refused = ArenaMemory::new(&dual).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::Unsupported);

    use cranelift_jit::{BranchProtection, JITMemoryProvider};
    let small = Arena::builder().reserve(128 << 10).strategy(Strategy::Mprotect).build().unwrap();
    let mut memory = ArenaMemory::new(&small).unwrap();
    assert!(memory.allocate_readexec(5 << 20, 16).is_err());
    assert!(memory.allocate_readonly(16, 3).is_err());
    assert!(memory.allocate_readwrite(16, 1 << 20).is_err());
    let mut all = 0;
    while let Ok(at) = memory.allocate_readexec(1000, 16) {
        // SAFETY: given out for writing.
        unsafe { at.write_bytes(0xCC, 1000) };
        all += 1;
    }
    assert!(all > 30, "{all}");
    memory.finalize(BranchProtection::None).unwrap();
    drop(memory);
    small.verify().unwrap();
}
