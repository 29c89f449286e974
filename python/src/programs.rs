//! Programs that come with the package: ordinary Python, each of them.
//!
//! Each defines `run(n)`, whose work grows with `n` and whose result depends on
//! nothing else, and prints `run` of 1 to 4.

/// A program that comes with the package.
#[derive(Clone, Copy, Debug)]
pub struct Bundled {
    /// Its name, without the ending.
    pub name: &'static str,
    /// Its source.
    pub text: &'static str,
    /// Whether several threads may be in `run` of one world: it keeps nothing
    /// in globals.
    pub reentrant: bool,
    /// Whether it computes and does little else.
    pub numeric: bool,
}

impl Bundled {
    /// Whether it starts threads.
    #[must_use]
    pub fn is_threaded(&self) -> bool {
        self.text.contains("threading.Thread(")
    }
}

macro_rules! bundled {
    ($($name:literal: $reentrant:literal, $numeric:literal;)*) => {
        [$(Bundled {
            name: $name,
            text: include_str!(concat!("../programs/", $name, ".py")),
            reentrant: $reentrant,
            numeric: $numeric,
        }),*]
    };
}

/// All of them.
pub const BUNDLED: [Bundled; 17] = bundled! {
    // name: reentrant, numeric
    "account": true, false;
    "collatz": true, true;
    "exceptions": true, false;
    "fannkuch": true, true;
    "fib": true, false;
    "leaves": true, true;
    "leibniz": true, true;
    "mandelbrot": true, true;
    "matmul": true, true;
    "nbody": true, true;
    "rebind": false, false;
    "redefine": false, false;
    "richards": true, false;
    "shapes": true, false;
    "sieve": true, true;
    "sleepers": true, false;
    "spectral_norm": true, true;
};
