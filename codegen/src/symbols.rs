//! Names of functions, for messages.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;

use object::{Object, ObjectSymbol};

/// The functions of a program, by address within its file.
#[derive(Debug)]
pub struct Symbols(BTreeMap<u64, (u64, String)>);

impl Symbols {
    /// Those of the program at `path`.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub fn of(path: &Path) -> Result<Self, Box<dyn Error>> {
        let bytes = std::fs::read(path)?;
        let file = object::File::parse(&*bytes)?;
        let symbols = file.symbols().filter(|it| it.size() > 0).filter_map(|it| {
            let name = format!("{:#}", rustc_demangle::demangle(it.name().ok()?));
            Some((it.address(), (it.size(), name)))
        });
        Ok(Self(symbols.collect()))
    }

    /// The function around an address.
    #[must_use]
    pub fn name(&self, address: u64) -> &str {
        match self.0.range(..=address).next_back() {
            Some((start, (size, name))) if address - start < *size => name,
            _ => "another library",
        }
    }
}
