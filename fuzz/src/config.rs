//! Options and names: what the builder takes and refuses, and what strings are
//! strategies.

use arbitrary::{Arbitrary, Unstructured};
use jit_arena::{Arena, BuildError, Strategy};

use crate::Outcome;
use crate::code;

/// Options to try.
#[derive(Arbitrary, Debug)]
struct Options {
    strategy: u8,
    reserve: Bytes,
    code_page: Bytes,
    keep_free: usize,
    near: Option<usize>,
    name: String,
    strategy_name: String,
}

/// A size: any, a small multiple of 4 KiB, or a power of two.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Bytes {
    Any(usize),
    Pages(u8),
    Power(u8),
}

impl Bytes {
    fn get(self) -> usize {
        match self {
            Self::Any(bytes) => bytes,
            Self::Pages(n) => usize::from(n) * 4096,
            Self::Power(n) => 1 << (u32::from(n) % usize::BITS),
        }
    }
}

/// How the documentation says that the options are refused: which one, and
/// whether for its range (`true`) or for its unit.
fn refusal(reserve: usize, code_page: usize) -> Option<(&'static str, bool)> {
    let pages = code::system_page().max(4096)..=256 * 1024;
    if !pages.contains(&code_page) {
        Some(("code_page", true))
    } else if !code_page.is_power_of_two() {
        Some(("code_page", false))
    } else if !(code_page..=2 << 30).contains(&reserve) {
        Some(("reserve", true))
    } else if !reserve.is_multiple_of(code_page) {
        Some(("reserve", false))
    } else {
        None
    }
}

/// Builds an arena with the options in `data`, and installs something in it.
///
/// # Panics
///
/// If options are refused that should not be, or the other way round.
pub fn run(data: &[u8]) -> Outcome {
    let Ok(options) = Options::arbitrary(&mut Unstructured::new(data)) else {
        return Outcome::NotRun;
    };
    check_names(&options.strategy_name);
    let strategies = [Strategy::DualOpen, Strategy::DualTransient, Strategy::Mprotect];
    let strategy = strategies[usize::from(options.strategy) % strategies.len()];
    let (reserve, code_page) = (options.reserve.get(), options.code_page.get());
    let mut builder = Arena::builder()
        .strategy(strategy)
        .reserve(reserve)
        .code_page(code_page)
        .keep_free(options.keep_free)
        .name(&options.name);
    if let Some(near) = options.near {
        builder = builder.near(near);
    }
    let expected = refusal(reserve, code_page);
    let arena = match builder.build() {
        Ok(arena) => {
            assert_eq!(expected, None, "{options:?}");
            arena
        }
        Err(BuildError::OutOfRange { option, value, min, max }) => {
            assert_eq!(expected, Some((option, true)), "{options:?}");
            assert!(!(min..=max).contains(&value));
            return Outcome::Ran { steps: 1 };
        }
        Err(BuildError::Unaligned { option, .. }) => {
            assert_eq!(expected, Some((option, false)), "{options:?}");
            return Outcome::Ran { steps: 1 };
        }
        // What the system refuses depends on the system.
        Err(BuildError::Region(_)) => {
            assert_eq!(expected, None, "{options:?}");
            return Outcome::NotRun;
        }
        Err(error) => panic!("{options:?}: {error}"),
    };
    assert_eq!(arena.span().len, reserve, "{options:?}");
    let mut thread = arena.attach().expect("attaching never fails here");
    let executor = thread.install(&code::constant(5), &[1, 2, 3]).expect("a fresh arena has room");
    assert!(arena.span().contains(jit_arena::Span::new(executor.addr(), executor.code_len())));
    // SAFETY: such a function.
    assert_eq!(unsafe { code::call(executor.entry(&thread.pin())) }, 5);
    drop(executor);
    thread.collect();
    let stats = arena.stats();
    assert_eq!((stats.retired_executors, stats.committed_bytes), (0, 0), "{stats:?}");
    Outcome::Ran { steps: 1 }
}

/// A string is a strategy exactly if it is one's name.
fn check_names(name: &str) {
    let known = Strategy::ALL.into_iter().find(|strategy| strategy.name() == name);
    assert_eq!(name.parse::<Strategy>().ok(), known, "{name:?}");
    for strategy in Strategy::ALL {
        assert_eq!(strategy.to_string().parse::<Strategy>().ok(), Some(strategy));
    }
}
