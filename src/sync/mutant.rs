//! Seeded faults, which prove that the models would notice real ones.
//!
//! A site asks [`mutant`] whether its fault is on. In every normal build the
//! answer is the constant `false` and nothing remains of the site. Under
//! `--cfg jit_arena_mutants` one build carries all faults, and the environment
//! variable `JIT_ARENA_MUTANT` turns one on: the mutant runner starts a process
//! for each. The feature `seeded-faults` does the same in an ordinary build, for
//! the faults that real machines show without models.
//!
//! Names say what goes wrong, in words joined by hyphens; each stands at one
//! site.

/// Whether the fault `name` is on.
#[cfg(not(any(jit_arena_mutants, feature = "seeded-faults")))]
#[inline(always)]
pub(crate) const fn mutant(_name: &'static str) -> bool {
    false
}

/// Whether the fault `name` is on.
#[cfg(any(jit_arena_mutants, feature = "seeded-faults"))]
pub(crate) fn mutant(name: &'static str) -> bool {
    use std::sync::OnceLock;
    static CHOSEN: OnceLock<String> = OnceLock::new();
    static REACHED: OnceLock<()> = OnceLock::new();
    let on = CHOSEN.get_or_init(|| std::env::var("JIT_ARENA_MUTANT").unwrap_or_default()) == name;
    if on && REACHED.set(()).is_ok() {
        // Tells a fault that survived from one that no model ever reaches.
        eprintln!("mutant reached: {name}");
    }
    on
}
