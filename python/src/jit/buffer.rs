//! Where stencils are strung together.

use super::stencils::{Hole, Key, stencil};

/// A place in the code, known or to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Label(usize);

/// What goes into a hole.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Patch {
    Bits(i32),
    Label(Label),
    /// The distance to a word of data.
    Data(usize),
    /// The distance to a helper, or to what leads there.
    Helper(usize),
}

/// What lies outside the code: distances to it depend on the address.
#[derive(Clone, Copy, Debug)]
pub(super) enum Placed {
    Data(usize),
    Helper(usize),
}

/// A hole that is filled once the address is known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fix {
    pub(super) at: usize,
    pub(super) to: Placed,
}

/// Code under construction.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    pub(super) code: Vec<u8>,
    pub(super) data: Vec<u64>,
    pub(super) fixes: Vec<Fix>,
    labels: Vec<Option<usize>>,
    jumps: Vec<(usize, Label)>,
}

impl Buffer {
    /// Copies a stencil and fills its holes, in order.
    pub(super) fn put(&mut self, key: Key, patches: &[Patch]) {
        let stencil = stencil(key);
        let start = self.code.len();
        self.code.extend_from_slice(&stencil.bytes);
        debug_assert_eq!(stencil.holes.len(), patches.len(), "{key:?}");
        for ((at, hole), patch) in stencil.holes.iter().zip(patches) {
            let at = start + at;
            match *patch {
                Patch::Bits(bits) if *hole == Hole::Byte => self.code[at] = bits as u8,
                Patch::Bits(bits) => self.code[at..at + 4].copy_from_slice(&bits.to_le_bytes()),
                Patch::Label(label) => self.jumps.push((at, label)),
                Patch::Data(word) => self.fixes.push(Fix { at, to: Placed::Data(word) }),
                Patch::Helper(helper) => self.fixes.push(Fix { at, to: Placed::Helper(helper) }),
            }
        }
    }

    pub(super) fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// The label is here.
    pub(super) fn place(&mut self, label: Label) {
        self.labels[label.0] = Some(self.code.len());
    }

    /// The number of a word of data, which is shared by all that need it.
    pub(super) fn word(&mut self, word: u64) -> usize {
        // The first is the unit's address, which is not known yet.
        let known = self.data.iter().skip(1).position(|known| *known == word);
        known.map_or_else(
            || {
                self.data.push(word);
                self.data.len() - 1
            },
            |at| at + 1,
        )
    }

    /// Fills in the distances between places of the code; `None` if a place is
    /// missing.
    pub(super) fn link(&mut self) -> Option<()> {
        for (at, label) in &self.jumps {
            let to = self.labels[label.0]?;
            let distance = (to as i64 - (*at as i64 + 4)) as i32;
            self.code[*at..*at + 4].copy_from_slice(&distance.to_le_bytes());
        }
        Some(())
    }
}
