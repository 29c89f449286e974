//! Names of live code, for the client and for dumps.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use jit_arena::{CodeInfo, Span, Symbol, Tool};

use crate::lock;

/// Remembers the names of code until it is recycled.
#[derive(Debug, Default)]
pub struct Names {
    /// By entry: first address behind the code, and its name.
    names: Mutex<BTreeMap<usize, (usize, String)>>,
}

impl Names {
    /// A tool that has heard of nothing.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Name of the code that `address` lies in.
    #[must_use]
    pub fn name_of(&self, address: usize) -> Option<String> {
        let names = lock(&self.names);
        let (_, (end, name)) = names.range(..=address).next_back()?;
        (address < *end).then(|| name.clone())
    }

    /// How much code has a name.
    #[must_use]
    pub fn len(&self) -> usize {
        lock(&self.names).len()
    }

    /// Whether no code has a name.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Tool for Names {
    fn published(&self, code: &CodeInfo, _: &[u8], symbol: &Symbol<'_>) {
        let named = (code.code.end(), symbol.name().to_owned());
        lock(&self.names).insert(code.entry(), named);
    }

    fn recycled(&self, entry: usize) {
        lock(&self.names).remove(&entry);
    }

    fn unmapped(&self, region: Span) {
        lock(&self.names).retain(|entry, _| !region.contains(Span::new(*entry, 1)));
    }
}
