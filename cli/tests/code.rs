//! The generated functions: exact sizes, right answers, and answers that change
//! when any part of a function or of its data does.

use dynasmrt::mmap::MutableBuffer;
use jit_arena_cli::code::{Function, Program, Tier};
use jit_arena_cli::trace::Shape;

/// Code and data in memory that is executable, straight behind each other but
/// for `gap` bytes.
struct Loaded {
    buffer: dynasmrt::ExecutableBuffer,
}

impl Loaded {
    fn new(program: &Program, gap: usize, change: impl FnOnce(&mut Vec<u8>, &mut Vec<u8>)) -> Self {
        let (mut code, mut data) = (Vec::new(), Vec::new());
        program.emit(gap, &mut code, &mut data);
        assert_eq!(code.len(), program.shape.code as usize, "{program:?}");
        assert_eq!(data.len(), program.shape.data as usize, "{program:?}");
        change(&mut code, &mut data);
        let len = code.len() + gap + data.len();
        let mut buffer = MutableBuffer::new(len).expect("memory");
        buffer.set_len(len);
        buffer[..code.len()].copy_from_slice(&code);
        buffer[code.len() + gap..].copy_from_slice(&data);
        Self { buffer: buffer.make_exec().expect("executable memory") }
    }

    /// What the function returns and writes.
    fn call(&self, argument: u64) -> (u64, u64) {
        let mut seed = 0;
        // SAFETY: the buffer starts with a function of this type.
        let function: Function = unsafe { core::mem::transmute(self.buffer.as_ptr()) };
        // SAFETY: it writes to `seed` and nowhere else.
        let answer = unsafe { function(argument, &raw mut seed) };
        (answer, seed)
    }
}

fn program(seed: u64, code: u32, data: u32) -> Program {
    Program { seed, shape: Shape { code, data } }
}

#[test]
fn every_size_answers_as_computed() {
    let mut seen = Vec::new();
    for code in (1..400).chain([4095, 4096, 65_537, 1 << 20]) {
        for data in [0, 1, 7, 8, 9, 63, 64, 71, 72, 73, 104, 1000] {
            let program = program(u64::from(code) << 20 | u64::from(data), code, data);
            if !seen.contains(&program.tier()) {
                seen.push(program.tier());
            }
            if program.tier() == Tier::Nothing {
                continue;
            }
            for gap in [0, 5] {
                let (answer, seed) =
                    Loaded::new(&program, gap, |_, _| ()).call(0x1234_5678_9abc_def0);
                match program.answer(0x1234_5678_9abc_def0) {
                    Some(expected) => assert_eq!(answer, expected, "{program:?} gap {gap}"),
                    None => assert_eq!(program.tier(), Tier::Returns),
                }
                if program.tier() == Tier::Full {
                    assert_eq!(seed, program.seed, "{program:?}");
                }
            }
        }
    }
    assert!([Tier::Returns, Tier::Mixes, Tier::Full].iter().all(|tier| seen.contains(tier)));
}

#[test]
fn every_start_up_stub_of_a_trace_checks_itself() {
    // The smallest code in the bundled traces: no executor of theirs may be
    // called without telling anything.
    for name in jit_arena_cli::bundled::names() {
        let trace = jit_arena_cli::bundled::open(name).expect("bundled").expect("readable");
        for shape in &trace.executors {
            assert_eq!(Program { seed: 1, shape: *shape }.tier(), Tier::Full, "{name}: {shape:?}");
        }
    }
}

#[test]
fn seeds_and_arguments_change_the_answer() {
    let a = program(1, 300, 100);
    let b = program(2, 300, 100);
    assert_ne!(a.answer(7), b.answer(7));
    assert_ne!(a.answer(7), a.answer(8));
    assert_ne!(program(1, 20, 0).answer(7), program(2, 20, 0).answer(7));
}

#[test]
fn a_changed_data_word_changes_the_answer() {
    let program = program(77, 512, 1000);
    // Any granule of the data replaced by that of another executor, and the
    // data out of place by a byte.
    for granule in (0..1000_usize).step_by(64) {
        let loaded = Loaded::new(&program, 0, |_, data| {
            let end = (granule + 64).min(data.len());
            data[granule..end].fill(0xaa);
        });
        assert_ne!(Some(loaded.call(5).0), program.answer(5), "granule {granule}");
    }
    let moved = Loaded::new(&program, 0, |_, data| data.rotate_left(1));
    assert_ne!(Some(moved.call(5).0), program.answer(5));
}

#[test]
fn an_immediate_out_of_date_changes_the_answer() {
    // Two functions of one size differ in immediates alone, so any mixture of
    // the two runs, as stale code would, and must give itself away.
    let (old, new) = (program(1, 2048, 256), program(2, 2048, 256));
    let (mut stale, mut data) = (Vec::new(), Vec::new());
    old.emit(0, &mut stale, &mut data);
    let mut told = 0;
    for granule in (0..2048_usize).step_by(64) {
        let mut differs = false;
        let loaded = Loaded::new(&new, 0, |code, _| {
            differs = code[granule..granule + 64] != stale[granule..granule + 64];
            code[granule..granule + 64].copy_from_slice(&stale[granule..granule + 64]);
        });
        let (answer, seed) = loaded.call(9);
        let right = Some(answer) == new.answer(9) && seed == new.seed;
        assert_eq!(right, !differs, "granule at {granule}");
        told += usize::from(!right);
    }
    assert!(told >= 31, "only the last granule, which reads the data, is the same in all: {told}");
}
