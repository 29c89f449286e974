//! Blocks, from their allocation to the end of the scope they are written in.

use jit_arena::MAX_EXECUTOR;
use jita::{
    JITA_ERROR_EXHAUSTED, JITA_ERROR_HANDLE, JITA_ERROR_INVALID, JITA_ERROR_NULL, JITA_ERROR_STATE,
    JITA_ERROR_VERSION, JITA_OK, jita_alloc, jita_alloc_layout, jita_block, jita_layout,
    jita_status, jita_write_close, jita_write_open,
};

use super::model::{Block, Code};
use super::ops::{Size, Which};
use super::raw;
use super::world::{MAX_CODE, World, last_error};
use crate::code;
use crate::ops::Pick;
use crate::sizes::{Align, Length, Sizes};

/// Write scopes inside each other.
const MAX_SCOPES: usize = 6;
/// Whether the library is to refuse such sizes in a region of so many bytes.
pub(super) fn is_invalid(sizes: &Sizes, region: usize) -> bool {
    let bad = |align: usize| !align.is_power_of_two() || align > 4096;
    sizes.code == 0
        || sizes.code.saturating_add(sizes.data) > MAX_EXECUTOR.min(region)
        || bad(sizes.align)
        || bad(sizes.data_align)
}

/// Bytes that code may take: with its header, its padding, and the pages at its ends,
/// which with `mprotect` are its own.
pub(super) fn with_edges(len: usize) -> usize {
    len + 4 * 4096
}

fn need_of(sizes: &Sizes) -> usize {
    with_edges(sizes.len()) + sizes.align.max(sizes.data_align)
}

impl World {
    pub(super) fn open(&mut self, which: Which) {
        let (arena, handle) = self.which(which);
        if arena.is_some_and(|at| self.model.part(at).scopes >= MAX_SCOPES) {
            return;
        }
        let errors = self.attach_errors(arena);
        let status = jita_write_open(raw::handle(handle));
        if let (true, Some(at)) = (self.expect(status, JITA_OK, &errors), arena) {
            self.attached(at);
            self.model.part_mut(at).scopes += 1;
        }
    }

    pub(super) fn close(&mut self, which: Which) {
        let (arena, handle) = self.which(which);
        let errors = match arena {
            None => vec![JITA_ERROR_HANDLE, JITA_ERROR_STATE],
            Some(at) if self.model.part(at).scopes > 0 => Vec::new(),
            Some(at) => self.out_of_order(at),
        };
        let status = jita_write_close(raw::handle(handle));
        if let (true, Some(at)) = (self.expect(status, JITA_OK, &errors), arena) {
            let seals = self.model.arenas[at].seals;
            let part = self.model.part_mut(at);
            part.close();
            if part.scopes == 0 {
                for block in &mut part.pending {
                    block.written = true;
                    if seals && block.scoped && block.sealed.is_none() {
                        block.sealed = Some(block.code.bytes.clone());
                    }
                }
            }
            self.finished(at);
        }
    }

    pub(super) fn is_full(&self, arena: Option<usize>) -> bool {
        arena.is_some_and(|at| {
            let live = self.model.live.values().filter(|code| code.arena == at).count();
            live + self.model.part(at).pending.len() >= MAX_CODE
        })
    }

    /// Whether an arena may be out of room: anything but a small block in one that
    /// is less than half full, counting generously.
    fn may_be_full(&self, arena: usize, sizes: &Sizes) -> bool {
        let it = &self.model.arenas[arena];
        let pending = self.model.parts(arena).flat_map(|part| &part.pending);
        let pending = pending.map(|block| &block.code);
        let freed = self.model.freed.iter().map(|freed| &freed.code);
        let all = self.model.live.values().chain(freed).filter(|code| code.arena == arena);
        let used: usize = all.chain(pending).map(|code| with_edges(code.len())).sum();
        let used = used + self.model.parts(arena).map(|part| part.kept).sum::<usize>();
        let need = need_of(sizes);
        it.bounded
            || !it.trampolines.is_empty()
            || need > it.page / 2
            || (used + need + 2 * it.page) * 2 > it.region.len()
    }

    /// The errors of an allocation that is refused for want of room, or that with its
    /// padding is more than the arena.
    pub(super) fn refusals(
        &self,
        arena: Option<usize>,
        sizes: &Sizes,
        status: jita_status,
        errors: &[jita_status],
    ) -> Vec<jita_status> {
        let Some(at) = arena.filter(|_| errors.is_empty()) else { return errors.to_vec() };
        let region = self.model.arenas[at].region.len();
        if status == JITA_ERROR_EXHAUSTED {
            assert!(self.may_be_full(at, sizes), "{sizes:?}: {}", last_error());
        } else if status != JITA_ERROR_INVALID || need_of(sizes) <= region {
            return Vec::new();
        }
        vec![status]
    }

    /// Notes what an allocation has returned.
    fn allocated(
        &mut self,
        arena: Option<usize>,
        sizes: Sizes,
        (status, block): (jita_status, Option<jita_block>),
        errors: &[jita_status],
    ) -> bool {
        let errors = self.refusals(arena, &sizes, status, errors);
        let (true, Some(at)) = (self.expect(status, JITA_OK, &errors), arena) else {
            assert!(block.is_none(), "an error has stored {block:?}");
            return false;
        };
        let block = block.expect("a block was stored");
        let code = Code {
            arena: at,
            rx: block.rx.addr(),
            code_len: sizes.code,
            data: sizes.data_offset(),
            data_len: sizes.data,
            tag: sizes.tag,
            bytes: None,
        };
        let rw = block.rw.expose_provenance();
        assert_eq!((block.len, block.data), (code.len(), code.data), "{sizes:?}");
        assert!(code.rx.is_multiple_of(sizes.align.max(sizes.data_align).max(16)));
        let it = &self.model.arenas[at];
        let (granules, region) = (code.granules(), &it.region);
        assert!(region.contains(&granules.start) && granules.end <= region.end);
        match it.offset {
            Some(offset) => assert_eq!(rw, code.rx.wrapping_add_signed(offset)),
            None => assert!(rw != 0 && !region.contains(&rw)),
        }
        self.attached(at);
        self.model.occupy(&code);
        let part = self.model.part_mut(at);
        let scoped = part.scopes > 0;
        part.pending.push(Block { code, rw, scoped, written: false, sealed: None });
        true
    }

    pub(super) fn region_len(&self, arena: Option<usize>) -> usize {
        self.model.arenas[arena.unwrap_or(0)].region.len()
    }

    pub(super) fn alloc(
        &mut self,
        which: Which,
        code: Length,
        data: Length,
        align: Align,
        nulls: u8,
    ) {
        let (arena, handle) = self.which(which);
        if self.is_full(arena) {
            return;
        }
        let region = self.region_len(arena);
        let (code, data, data_align) = (code.bytes(region), data.bytes(region), align.bytes());
        let sizes = Sizes { code, align: 16, data, data_align, tag: 0 };
        let is_null = nulls < 8;
        let mut errors = self.attach_errors(arena);
        errors.extend(is_null.then_some(JITA_ERROR_NULL));
        errors.extend(is_invalid(&sizes, region).then_some(JITA_ERROR_INVALID));
        let result = raw::block(is_null, |to| {
            // SAFETY: a place or null.
            unsafe { jita_alloc(raw::handle(handle), code, data, data_align, to) }
        });
        self.allocated(arena, sizes, result, &errors);
    }

    pub(super) fn alloc_layout(
        &mut self,
        which: Which,
        [code, data]: [Length; 2],
        [align, data_align]: [Align; 2],
        size: Size,
        nulls: u8,
    ) {
        let (arena, handle) = self.which(which);
        if self.is_full(arena) {
            return;
        }
        let region = self.region_len(arena);
        let layout = jita_layout {
            size: 0,
            code_len: code.bytes(region),
            code_align: align.bytes(),
            data_len: data.bytes(region),
            data_align: data_align.bytes(),
            tag: self.seed,
        };
        // 0 is the default.
        let or = |value: usize, default| if value == 0 { default } else { value };
        let sizes = Sizes {
            code: layout.code_len,
            align: or(layout.code_align, 16),
            data: layout.data_len,
            data_align: or(layout.data_align, 1),
            tag: layout.tag,
        };
        let layout = raw::Struct::layout(&layout, size);
        let (is_null, no_layout) = (nulls < 8, (8..16).contains(&nulls));
        let mut errors = self.attach_errors(arena);
        errors.extend((is_null || no_layout).then_some(JITA_ERROR_NULL));
        errors.extend((!no_layout && !layout.is_known).then_some(JITA_ERROR_VERSION));
        errors.extend((!no_layout && is_invalid(&sizes, region)).then_some(JITA_ERROR_INVALID));
        let from = if no_layout { core::ptr::null() } else { layout.get() };
        let result = raw::block(is_null, |to| {
            // SAFETY: a struct in more bytes than it says it has, or null; and a place.
            unsafe { jita_alloc_layout(raw::handle(handle), from, to) }
        });
        self.allocated(arena, sizes, result, &errors);
    }

    pub(super) fn fill(&mut self, which: Which, block: Pick, seed: u8) {
        let (Some(arena), _) = self.which(which) else { return };
        let seed = self.seed ^ u64::from(seed) << 40;
        let part = self.model.part_mut(arena);
        let Some(at) = block.of(part.pending.len()).filter(|_| part.scopes > 0) else { return };
        let block = &mut part.pending[at];
        let bytes = code::block(seed, block.code.len(), block.code.code_len);
        let to = core::ptr::with_exposed_provenance_mut::<u8>(block.rw);
        // SAFETY: a block of this thread's, in a write scope.
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        block.code.bytes = Some(bytes);
    }

    /// All from the allocation to the publishing, where nothing stands in the way.
    pub(super) fn make(&mut self, which: Which, len: Length, seed: u8) {
        let (Some(arena), handle) = self.which(which) else { return };
        if self.is_full(Some(arena))
            || self.model.part(arena).scopes > 0
            || !self.attach_errors(Some(arena)).is_empty()
        {
            return;
        }
        let len = len.bytes(self.region_len(Some(arena))).clamp(1, 5000);
        // What comes too early changes nothing.
        let early = seed & 3 == 0;
        if !early {
            self.open(which);
        }
        let result = raw::block(false, |to| {
            // SAFETY: a place.
            unsafe { jita_alloc(raw::handle(handle), len, 0, 1, to) }
        });
        let made = self.allocated(Some(arena), Sizes::plain(len, 0), result, &[]);
        let last = self.model.part(arena).pending.last().map_or(0, |block| block.code.rx);
        if early {
            if made {
                self.publish_at(which, last);
                self.go_on();
            }
            self.open(which);
        }
        if made {
            let at = self.model.part(arena).pending.len() - 1;
            self.fill(which, Pick(at as u8), seed);
            if early {
                self.publish_at(which, last);
                self.go_on();
            }
        }
        self.close(which);
        if made && seed & 12 == 0 {
            // In a scope that is not the block's any more.
            self.open(which);
            let at = self.model.part(arena).pending.len() - 1;
            self.fill(which, Pick(at as u8), !seed);
            self.close(which);
        }
        if made {
            self.publish_at(which, last);
        }
    }
}
