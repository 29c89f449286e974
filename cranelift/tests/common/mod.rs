//! What the tests share: compilers, and functions of this program that code calls.

#![allow(dead_code, reason = "each test crate uses a part")]

use cranelift_codegen::Context;
use cranelift_codegen::isa::OwnedTargetIsa;
use cranelift_codegen::settings::{self, Configurable};

/// Functions and data that compiled code refers to. They are a whole address space
/// away from it, on most machines.
pub(crate) mod helpers {
    use jit_arena_cranelift::Name;

    pub(crate) static DATA: [i64; 4] = [11, -22, 33, i64::MIN];

    pub(crate) extern "C" fn mix(x: i64, y: i64) -> i64 {
        x.rotate_left(7) ^ y.wrapping_mul(31)
    }

    pub(crate) extern "C" fn twist(x: i64) -> i64 {
        x.swap_bytes().wrapping_sub(x)
    }

    /// Their addresses, and that of another function.
    pub(crate) fn resolve(name: &Name<'_>, inner: usize) -> Option<usize> {
        match name {
            Name::TestCase(b"mix") => Some(mix as extern "C" fn(i64, i64) -> i64 as usize),
            Name::TestCase(b"twist") => Some(twist as extern "C" fn(i64) -> i64 as usize),
            Name::TestCase(b"data") => Some((&raw const DATA).addr()),
            Name::TestCase(b"inner") => Some(inner),
            _ => None,
        }
    }
}

/// A way to compile for this machine.
pub(crate) struct Compiler {
    pub(crate) name: &'static str,
    pub(crate) isa: OwnedTargetIsa,
}

impl Compiler {
    /// With these flags, for this processor or for the least of its kind.
    pub(crate) fn new(name: &'static str, flags: &[(&str, &str)], native: bool) -> Self {
        let mut builder = settings::builder();
        for (name, value) in flags {
            builder.set(name, value).unwrap();
        }
        let isa = cranelift_native::builder_with_options(native).unwrap();
        Self { name, isa: isa.finish(settings::Flags::new(builder)).unwrap() }
    }

    /// Ways that lead to different relocations.
    pub(crate) fn all() -> [Self; 3] {
        [
            Self::new("plain", &[("opt_level", "none")], true),
            Self::new(
                "optimised, position-independent",
                &[("opt_level", "speed"), ("is_pic", "true")],
                true,
            ),
            // Has libcalls for what newer processors have instructions for.
            Self::new("least processor", &[("opt_level", "speed")], false),
        ]
    }

    /// Compiles one function.
    pub(crate) fn compile(&self, text: &str) -> Context {
        let functions = cranelift_reader::parse_functions(text)
            .unwrap_or_else(|error| panic!("{error}\n{text}"));
        let function = functions.into_iter().next().unwrap();
        let mut context = Context::for_function(function);
        context
            .compile(&*self.isa, &mut Default::default())
            .unwrap_or_else(|error| panic!("{error:?}\n{text}"));
        context
    }
}
