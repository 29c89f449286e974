//! Addresses: which executor each of them belongs to, `[L1]`.

use jit_arena::{Arena, Span};

use super::{Block, Oracle, State};

impl Oracle {
    /// What `arena` says of addresses in each block and just outside it.
    ///
    /// # Panics
    ///
    /// If an executor that is protected is not found, or a reservation is.
    pub fn check_lookups(&self, number: usize, arena: &Arena) {
        for block in self.blocks.values().filter(|block| block.arena == number) {
            let end = block.entry + block.len();
            for address in [block.entry, block.entry + block.len() / 2, end - 1] {
                check(arena, block, address);
            }
            for outside in [block.entry - 1, end] {
                let found = arena.lookup(outside);
                assert!(
                    found.is_none_or(|found| found.entry() != block.entry),
                    "[L1] {outside:#x}, beside the block at {:#x}, is found in it",
                    block.entry,
                );
            }
        }
    }
}

fn check(arena: &Arena, block: &Block, address: usize) {
    let found = arena.lookup(address);
    if matches!(block.state, State::Reserved { .. }) {
        assert!(found.is_none(), "[L1] {address:#x} is reserved, and is found in {found:x?}");
        return;
    }
    let Some(found) = found else {
        panic!("[L1] {address:#x} of the executor at {:#x} is not found", block.entry);
    };
    let sizes = &block.sizes;
    assert_eq!(found.code, Span::new(block.entry, sizes.code), "[L1] the code of {address:#x}");
    let data = Span::new(block.entry + block.data_offset, sizes.data);
    assert_eq!(found.data, data, "[L1] the data of {address:#x}");
    assert_eq!(found.tag, sizes.tag, "[L1] the tag of {address:#x}");
}
