//! Functions of many kinds, compiled by Cranelift in several ways, installed, and
//! compared with what Rust computes.

mod common;

use common::{Compiler, helpers};
use jit_arena::{Arena, Strategy};
use jit_arena_cranelift::Installer;

/// What a function does, in Rust.
#[derive(Clone, Copy)]
enum Expected {
    I1(fn(i64) -> i64),
    I2(fn(i64, i64) -> i64),
    F1(fn(f64) -> f64),
    F2(fn(f64, f64) -> f64),
}
use Expected::{F1, F2, I1, I2};

/// Signature and blocks of a function whose body is one block.
fn straight(expected: &Expected, body: &str) -> String {
    let (parameters, block, result) = match expected {
        I1(_) => ("i64", "v0: i64", "i64"),
        I2(_) => ("i64, i64", "v0: i64, v1: i64", "i64"),
        F1(_) => ("f64", "v0: f64", "f64"),
        F2(_) => ("f64, f64", "v0: f64, v1: f64", "f64"),
    };
    format!("function %f({parameters}) -> {result} system_v {{\nblock0({block}):\n{body}\n}}")
}

/// Functions of one block.
const BLOCKS: &[(&str, Expected, &str)] = &[
    ("identity", I1(|x| x), "return v0"),
    ("constant", I1(|_| 0x1234_5678_9ABC), "v1 = iconst.i64 0x123456789abc\nreturn v1"),
    ("add", I2(i64::wrapping_add), "v2 = iadd v0, v1\nreturn v2"),
    ("subtract", I2(i64::wrapping_sub), "v2 = isub v0, v1\nreturn v2"),
    ("multiply", I2(i64::wrapping_mul), "v2 = imul v0, v1\nreturn v2"),
    ("negate", I1(i64::wrapping_neg), "v1 = ineg v0\nreturn v1"),
    ("absolute", I1(i64::wrapping_abs), "v1 = iabs v0\nreturn v1"),
    ("and", I2(|x, y| x & y), "v2 = band v0, v1\nreturn v2"),
    ("or", I2(|x, y| x | y), "v2 = bor v0, v1\nreturn v2"),
    ("xor", I2(|x, y| x ^ y), "v2 = bxor v0, v1\nreturn v2"),
    ("not", I1(|x| !x), "v1 = bnot v0\nreturn v1"),
    ("shift left", I2(|x, y| x.wrapping_shl(y as u32)), "v2 = ishl v0, v1\nreturn v2"),
    (
        "shift right",
        I2(|x, y| (x as u64).wrapping_shr(y as u32) as i64),
        "v2 = ushr v0, v1\nreturn v2",
    ),
    ("shift signed", I2(|x, y| x.wrapping_shr(y as u32)), "v2 = sshr v0, v1\nreturn v2"),
    ("rotate left", I2(|x, y| x.rotate_left(y as u32 & 63)), "v2 = rotl v0, v1\nreturn v2"),
    ("rotate right", I2(|x, y| x.rotate_right(y as u32 & 63)), "v2 = rotr v0, v1\nreturn v2"),
    ("leading zeros", I1(|x| x.leading_zeros().into()), "v1 = clz v0\nreturn v1"),
    ("trailing zeros", I1(|x| x.trailing_zeros().into()), "v1 = ctz v0\nreturn v1"),
    ("ones", I1(|x| x.count_ones().into()), "v1 = popcnt v0\nreturn v1"),
    ("swap bytes", I1(i64::swap_bytes), "v1 = bswap v0\nreturn v1"),
    ("reverse bits", I1(i64::reverse_bits), "v1 = bitrev v0\nreturn v1"),
    ("least", I2(i64::min), "v2 = smin v0, v1\nreturn v2"),
    ("greatest", I2(|x, y| (x as u64).max(y as u64) as i64), "v2 = umax v0, v1\nreturn v2"),
    (
        "high half",
        I2(|x, y| ((i128::from(x) * i128::from(y)) >> 64) as i64),
        "v2 = smulhi v0, v1\nreturn v2",
    ),
    (
        "divide",
        I2(|x, y| (x >> 1) / (y | 1)),
        "v2 = sshr_imm v0, 1\nv3 = bor_imm v1, 1\nv4 = sdiv v2, v3\nreturn v4",
    ),
    (
        "remainder",
        I2(|x, y| (x as u64 % (y as u64 | 1)) as i64),
        "v2 = bor_imm v1, 1\nv3 = urem v0, v2\nreturn v3",
    ),
    ("less", I2(|x, y| (x < y).into()), "v2 = icmp slt v0, v1\nv3 = uextend.i64 v2\nreturn v3"),
    (
        "select",
        I2(|x, y| if x as u64 > y as u64 { x } else { y.wrapping_add(1) }),
        "v2 = icmp ugt v0, v1\nv3 = iadd_imm v1, 1\nv4 = select v2, v0, v3\nreturn v4",
    ),
    ("narrow", I1(|x| (x as i32).into()), "v1 = ireduce.i32 v0\nv2 = sextend.i64 v1\nreturn v2"),
    ("byte", I1(|x| (x as u8).into()), "v1 = ireduce.i8 v0\nv2 = uextend.i64 v1\nreturn v2"),
    ("fadd", F2(|x, y| x + y), "v2 = fadd v0, v1\nreturn v2"),
    ("fmultiply", F2(|x, y| x * y), "v2 = fmul v0, v1\nreturn v2"),
    ("fdivide", F2(|x, y| x / y), "v2 = fdiv v0, v1\nreturn v2"),
    (
        "fconstant",
        F1(|x| x * 1.5e300),
        "v1 = f64const 0x1.1eb2d66005835p997\nv2 = fmul v0, v1\nreturn v2",
    ),
    ("square root", F1(f64::sqrt), "v1 = sqrt v0\nreturn v1"),
    ("ceil", F1(f64::ceil), "v1 = ceil v0\nreturn v1"),
    ("floor", F1(f64::floor), "v1 = floor v0\nreturn v1"),
    ("truncate", F1(f64::trunc), "v1 = trunc v0\nreturn v1"),
    ("nearest", F1(f64::round_ties_even), "v1 = nearest v0\nreturn v1"),
    ("fused", F2(|x, y| x.mul_add(y, x)), "v2 = fma v0, v1, v0\nreturn v2"),
    (
        "to integer",
        F1(|x| x as i64 as f64),
        "v1 = fcvt_to_sint_sat.i64 v0\nv2 = fcvt_from_sint.f64 v1\nreturn v2",
    ),
];

/// Functions with more to them: loops, tables, stack slots, calls, symbols.
const WHOLE: &[(&str, Expected, &str)] = &[
    (
        "sum of a loop",
        I1(|x| (1..=(x & 63)).sum()),
        "function %f(i64) -> i64 system_v {
block0(v0: i64):
    v1 = band_imm v0, 63
    v2 = iconst.i64 0
    brif v1, block1(v1, v2), block2(v2)
block1(v3: i64, v4: i64):
    v5 = iadd v4, v3
    v6 = iadd_imm v3, -1
    brif v6, block1(v6, v5), block2(v5)
block2(v7: i64):
    return v7
}",
    ),
    (
        "greatest common divisor",
        I2(|x, y| {
            let (mut x, mut y) = (x as u64, y as u64);
            while y != 0 {
                (x, y) = (y, x % y);
            }
            x as i64
        }),
        "function %f(i64, i64) -> i64 system_v {
block0(v0: i64, v1: i64):
    jump block1(v0, v1)
block1(v2: i64, v3: i64):
    brif v3, block2, block3
block2:
    v4 = urem v2, v3
    jump block1(v3, v4)
block3:
    return v2
}",
    ),
    (
        "jump table",
        I1(|x| match x & 7 {
            0 => 10,
            1 => 21,
            2 => x,
            3 => 43,
            _ => -1,
        }),
        "function %f(i64) -> i64 system_v {
block0(v0: i64):
    v1 = band_imm v0, 7
    v2 = ireduce.i32 v1
    br_table v2, block5, [block1, block2, block3, block4]
block1:
    v3 = iconst.i64 10
    return v3
block2:
    v4 = iconst.i64 21
    return v4
block3:
    return v0
block4:
    v5 = iconst.i64 43
    return v5
block5:
    v6 = iconst.i64 -1
    return v6
}",
    ),
    (
        "stack slots",
        I2(|x, y| x.wrapping_mul(3).wrapping_add(y)),
        "function %f(i64, i64) -> i64 system_v {
    ss0 = explicit_slot 32
block0(v0: i64, v1: i64):
    v2 = imul_imm v0, 3
    stack_store v2, ss0+8
    stack_store v1, ss0+24
    v3 = stack_load.i64 ss0+24
    v4 = stack_load.i64 ss0+8
    v5 = iadd v3, v4
    return v5
}",
    ),
    (
        "call",
        I2(|x, y| helpers::mix(x, y)),
        "function %f(i64, i64) -> i64 system_v {
    fn0 = %mix(i64, i64) -> i64 system_v
block0(v0: i64, v1: i64):
    v2 = call fn0(v0, v1)
    return v2
}",
    ),
    (
        "direct call to what is far",
        I2(|x, y| helpers::mix(helpers::mix(x, y), helpers::twist(y))),
        "function %f(i64, i64) -> i64 system_v {
    fn0 = colocated %mix(i64, i64) -> i64 system_v
    fn1 = colocated %twist(i64) -> i64 system_v
block0(v0: i64, v1: i64):
    v2 = call fn0(v0, v1)
    v3 = call fn1(v1)
    v4 = call fn0(v2, v3)
    return v4
}",
    ),
    (
        "call by address",
        I1(|x| helpers::twist(x).wrapping_add(1)),
        "function %f(i64) -> i64 system_v {
    sig0 = (i64) -> i64 system_v
    fn0 = %twist(i64) -> i64 system_v
block0(v0: i64):
    v1 = func_addr.i64 fn0
    v2 = call_indirect sig0, v1(v0)
    v3 = iadd_imm v2, 1
    return v3
}",
    ),
    (
        "recursion",
        I1(|x| (0..=(x & 31)).fold(1, |product: i64, x| product.wrapping_mul(x | 1))),
        "function %f(i64) -> i64 system_v {
    fn0 = %inner(i64) -> i64 system_v
block0(v0: i64):
    v1 = band_imm v0, 31
    v2 = call fn0(v1)
    return v2
}",
    ),
    (
        "data by its name",
        I1(|x| helpers::DATA[(x & 3) as usize]),
        "function %f(i64) -> i64 system_v {
    gv0 = symbol %data
block0(v0: i64):
    v1 = band_imm v0, 3
    v2 = ishl_imm v1, 3
    v3 = global_value.i64 gv0
    v4 = iadd v3, v2
    v5 = load.i64 v4
    return v5
}",
    ),
];

/// What `recursion` calls: it calls itself.
const INNER: &str = "function %inner(i64) -> i64 system_v {
    fn0 = colocated %inner(i64) -> i64 system_v
block0(v0: i64):
    v1 = bor_imm v0, 1
    brif v0, block1, block2
block1:
    v2 = iadd_imm v0, -1
    v3 = call fn0(v2)
    v4 = imul v1, v3
    return v4
block2:
    return v1
}";

const INTEGERS: [i64; 12] =
    [0, 1, -1, 2, 7, -8, 64, 1000, i64::MAX, i64::MIN, 0x1234_5678_9ABC_DEF0, -0x7FFF_FFFF_1234];

const FLOATS: [f64; 12] =
    [0.0, -0.0, 1.0, -1.5, 2.5, 0.1, 1e300, -1e-300, 123_456.789, f64::INFINITY, f64::MAX, 3.5];

/// Compares on all inputs; returns how many there were.
///
/// # Safety
///
/// `entry` is a function with the signature that `expected` has.
unsafe fn compare(name: &str, entry: *const (), expected: Expected) -> usize {
    match expected {
        I1(rust) => {
            // SAFETY: of this signature (caller).
            let jit: extern "C" fn(i64) -> i64 = unsafe { core::mem::transmute(entry) };
            INTEGERS.iter().for_each(|&x| assert_eq!(jit(x), rust(x), "{name}({x:#x})"));
            INTEGERS.len()
        }
        I2(rust) => {
            // SAFETY: of this signature (caller).
            let jit: extern "C" fn(i64, i64) -> i64 = unsafe { core::mem::transmute(entry) };
            for x in INTEGERS {
                INTEGERS.iter().for_each(|&y| {
                    assert_eq!(jit(x, y), rust(x, y), "{name}({x:#x}, {y:#x})");
                });
            }
            INTEGERS.len().pow(2)
        }
        F1(rust) => {
            // SAFETY: of this signature (caller).
            let jit: extern "C" fn(f64) -> f64 = unsafe { core::mem::transmute(entry) };
            FLOATS.iter().for_each(|&x| assert_same(jit(x), rust(x), &format!("{name}({x})")));
            FLOATS.len()
        }
        F2(rust) => {
            // SAFETY: of this signature (caller).
            let jit: extern "C" fn(f64, f64) -> f64 = unsafe { core::mem::transmute(entry) };
            for x in FLOATS {
                FLOATS.iter().for_each(|&y| {
                    assert_same(jit(x, y), rust(x, y), &format!("{name}({x}, {y})"));
                });
            }
            FLOATS.len().pow(2)
        }
    }
}

/// Bit for bit, but that one NaN is as good as another.
fn assert_same(jit: f64, rust: f64, what: &str) {
    assert!(
        jit.to_bits() == rust.to_bits() || jit.is_nan() && rust.is_nan(),
        "{what}: {jit} {rust}"
    );
}

fn run_table(arena: &Arena, compiler: &Compiler) -> (usize, usize) {
    let mut thread = arena.attach().unwrap();
    let isa = &*compiler.isa;
    let installer = Installer::new(arena, isa);
    let inner = compiler.compile(INNER);
    let inner = installer.install(&mut thread, "inner", &inner, &|_| None).unwrap();
    let resolve = |name: &jit_arena_cranelift::Name<'_>| helpers::resolve(name, inner.addr());
    let blocks =
        BLOCKS.iter().map(|(name, expected, body)| (name, expected, straight(expected, body)));
    let whole = WHOLE.iter().map(|(name, expected, text)| (name, expected, (*text).to_owned()));
    let (mut functions, mut inputs) = (0, 0);
    let mut kept = Vec::new();
    for (name, expected, text) in blocks.chain(whole) {
        let context = compiler.compile(&text);
        let executor = installer.install(&mut thread, name, &context, &resolve).unwrap();
        let guard = thread.pin();
        // SAFETY: an address as a pointer, called below as what it is.
        let entry: *const () = unsafe { executor.entry(&guard).cast() };
        // SAFETY: compiled with the signature of `expected`; kept by the guard.
        inputs += unsafe { compare(name, entry, *expected) };
        functions += 1;
        drop(guard);
        // Every other one goes, and its place is used again.
        if functions % 2 == 0 {
            kept.push(executor);
        }
    }
    drop((kept, inner));
    thread.collect();
    drop(thread);
    arena.verify().unwrap();
    (functions, inputs)
}

#[test]
fn what_cranelift_compiles_does_what_rust_does() {
    for strategy in [None, Some(Strategy::Mprotect), Some(Strategy::DualOpen)] {
        let builder = Arena::builder().reserve(16 << 20);
        let arena = strategy.map_or(builder.clone(), |it| builder.strategy(it)).build().unwrap();
        for compiler in Compiler::all() {
            let (functions, inputs) = run_table(&arena, &compiler);
            assert!(functions >= 30);
            println!(
                "{functions} functions agree on {inputs} inputs: {}, {}",
                arena.report().strategy,
                compiler.name
            );
        }
        assert!(!arena.trampolines().is_empty(), "no call was far");
    }
}
