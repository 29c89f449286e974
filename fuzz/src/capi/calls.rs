//! Arenas created and destroyed, threads attached, and code from its allocation to
//! its end.

use core::ffi::c_void;

use jit_arena::MAX_EXECUTOR;
use jita::{
    JITA_ERROR_EXHAUSTED, JITA_ERROR_FOREIGN, JITA_ERROR_FREED, JITA_ERROR_HANDLE,
    JITA_ERROR_INVALID, JITA_ERROR_MIDDLE, JITA_ERROR_NOT_CODE, JITA_ERROR_NULL, JITA_ERROR_SEALED,
    JITA_ERROR_STATE, JITA_ERROR_UNWRITTEN, JITA_ERROR_VERSION, JITA_OK, jita_alloc,
    jita_alloc_layout, jita_attach, jita_block, jita_collect, jita_destroy, jita_detach, jita_free,
    jita_free_quiescent, jita_install, jita_layout, jita_publish, jita_status, jita_verify,
    jita_write_close, jita_write_open,
};

use super::model::{Block, Code, Part, Place};
use super::ops::{Addr, Size, Which};
use super::raw;
use super::world::{MAX_CODE, World, stats_of};
use crate::code;
use crate::ops::Pick;
use crate::sizes::{Align, Length, Sizes};

/// Write scopes inside each other.
const MAX_SCOPES: usize = 6;

/// What `jita_install` reads when asked for more than there can be.
static TOO_LONG: [u8; MAX_EXECUTOR + 1] = [0; MAX_EXECUTOR + 1];

/// Whether the library is to refuse such sizes in a region of so many bytes.
fn is_invalid(sizes: &Sizes, region: usize) -> bool {
    let bad = |align: usize| !align.is_power_of_two() || align > 4096;
    sizes.code == 0
        || sizes.code.saturating_add(sizes.data) > MAX_EXECUTOR.min(region)
        || bad(sizes.align)
        || bad(sizes.data_align)
}

/// Bytes that code may take: with its header, its padding, and the pages at its ends,
/// which with `mprotect` are its own.
fn with_edges(len: usize) -> usize {
    len + 4 * 4096
}

fn need_of(sizes: &Sizes) -> usize {
    with_edges(sizes.len()) + sizes.align.max(sizes.data_align)
}

impl World {
    pub(super) fn destroy(&mut self, which: Which) {
        let (arena, handle) = self.which(which);
        let mut errors = self.handle_errors(arena);
        if arena.is_some_and(|at| self.model.part(at).is_unfinished()) {
            errors.push(JITA_ERROR_STATE);
        }
        let status = jita_destroy(raw::handle(handle));
        if let (true, Some(at)) = (self.expect(status, JITA_OK, &errors), arena) {
            self.model.arenas[at].open = false;
            *self.model.part_mut(at) = Part::default();
            self.let_go(at);
        }
    }

    /// A thread has let go of an arena: if it was destroyed and nobody else has it,
    /// its memory is gone.
    pub(super) fn let_go(&mut self, arena: usize) {
        let (model, it) = (&self.model, &self.model.arenas[arena]);
        if !it.open && !it.lingers && !model.parts(arena).any(|part| part.attached) {
            assert!(!code::is_mapped(it.region.start), "nothing is left but the memory");
        }
        self.forget_destroyed();
    }

    /// The thread has ended something in an arena.
    pub(super) fn finished(&mut self, arena: usize) {
        if !self.model.arenas[arena].open && !self.model.part(arena).is_unfinished() {
            *self.model.part_mut(arena) = Part::default();
            self.let_go(arena);
        }
    }

    /// Of arenas that were destroyed the model keeps what threads are inside, and
    /// does not know when those that are not let go.
    pub(super) fn forget_destroyed(&mut self) {
        for at in 0..self.model.arenas.len() {
            if self.model.arenas[at].open {
                continue;
            }
            for thread in &mut self.model.threads {
                if thread[at].attached && !thread[at].is_unfinished() {
                    self.model.arenas[at].lingers = true;
                    thread[at] = Part::default();
                }
            }
            if !self.model.is_entered(at) {
                self.model.live.retain(|_, code| code.arena != at);
                self.model.freed.retain(|freed| freed.code.arena != at);
            }
        }
    }

    pub(super) fn attach(&mut self, which: Which) {
        let (arena, handle) = self.which(which);
        let errors = self.handle_errors(arena);
        let status = jita_attach(raw::handle(handle));
        if let (true, Some(at)) = (self.expect(status, JITA_OK, &errors), arena) {
            self.attached(at);
            self.model.part_mut(at).attaches += 1;
        }
    }

    pub(super) fn detach(&mut self, which: Which) {
        let (arena, handle) = self.which(which);
        let status = jita_detach(raw::handle(handle));
        let Some(at) = arena else {
            self.expect(status, JITA_OK, &[JITA_ERROR_HANDLE, JITA_ERROR_STATE]);
            return;
        };
        if self.model.arenas[at].lingers && !self.model.part(at).attached && status == JITA_OK {
            // It had not let go yet.
            return;
        }
        let part = self.model.part(at);
        let is_last = part.attaches <= 1;
        let errors = if !part.attached || is_last && part.is_unfinished() {
            self.out_of_order(at)
        } else {
            Vec::new()
        };
        if self.expect(status, JITA_OK, &errors) {
            if is_last {
                *self.model.part_mut(at) = Part::default();
                self.let_go(at);
            } else {
                self.model.part_mut(at).attaches -= 1;
            }
        }
    }

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
            part.scopes -= 1;
            if part.scopes == 0 {
                for block in &mut part.pending {
                    block.written = true;
                    if seals && block.sealed.is_none() {
                        block.sealed = Some(block.code.bytes.clone());
                    }
                }
            }
            self.finished(at);
        }
    }

    fn is_full(&self, arena: Option<usize>) -> bool {
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
        let need = need_of(sizes);
        it.bounded
            || !it.trampolines.is_empty()
            || need > it.page / 2
            || (used + need + 2 * it.page) * 2 > it.region.len()
    }

    /// The errors of an allocation that is refused for want of room, or that with its
    /// padding is more than the arena.
    fn refusals(
        &self,
        arena: Option<usize>,
        sizes: &Sizes,
        status: jita_status,
        errors: &[jita_status],
    ) -> Vec<jita_status> {
        let Some(at) = arena.filter(|_| errors.is_empty()) else { return errors.to_vec() };
        let region = self.model.arenas[at].region.len();
        if status == JITA_ERROR_EXHAUSTED {
            assert!(self.may_be_full(at, sizes), "there is room for {sizes:?}");
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
        let block = Block { code, rw, written: false, sealed: None };
        self.model.part_mut(at).pending.push(block);
        true
    }

    fn region_len(&self, arena: Option<usize>) -> usize {
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
        self.open(which);
        let result = raw::block(false, |to| {
            // SAFETY: a place.
            unsafe { jita_alloc(raw::handle(handle), len, 0, 1, to) }
        });
        if self.allocated(Some(arena), Sizes::plain(len, 0), result, &[]) {
            let last = self.model.part(arena).pending.len() - 1;
            let rx = self.model.part(arena).pending[last].code.rx;
            self.fill(which, Pick(last as u8), seed);
            self.close(which);
            self.publish_at(which, rx);
        } else {
            self.close(which);
        }
    }

    pub(super) fn publish(&mut self, which: Which, addr: Addr) {
        self.publish_at(which, self.address(addr));
    }

    fn publish_at(&mut self, which: Which, rx: usize) {
        let (arena, handle) = self.which(which);
        let mut errors = self.attach_errors(arena);
        let part = arena.map(|at| self.model.part(at));
        if part.is_some_and(|part| part.scopes > 0) {
            errors.push(JITA_ERROR_STATE);
        }
        // What was never written may be what was sealed, by chance.
        let mut unsure = false;
        match self.model.place(rx) {
            _ if rx == 0 => errors.push(JITA_ERROR_NULL),
            _ if self.model.arena_at(rx) != arena => errors.push(JITA_ERROR_FOREIGN),
            Place::Foreign => errors.push(JITA_ERROR_FOREIGN),
            Place::Block(at, block) => {
                let block = &self.model.part(at).pending[block];
                errors.extend((!block.written).then_some(JITA_ERROR_UNWRITTEN));
                if let Some(sealed) = block.sealed.as_ref().filter(|it| **it != block.code.bytes) {
                    unsure = sealed.is_none() && errors.is_empty();
                    errors.push(JITA_ERROR_SEALED);
                }
            }
            Place::Code(_) => errors.push(JITA_ERROR_STATE),
            Place::Freed { .. } => {
                errors.extend([JITA_ERROR_STATE, JITA_ERROR_FREED, JITA_ERROR_NOT_CODE]);
            }
            place => errors.extend(not_code(&place)),
        }
        let status = jita_publish(raw::handle(handle), raw::pointer(rx));
        if unsure && status == JITA_OK {
            errors.clear();
        }
        if let (true, Some(at)) = (self.expect(status, JITA_OK, &errors), arena) {
            let pending = &mut self.model.part_mut(at).pending;
            let found = pending.iter().position(|block| block.code.rx == rx);
            let code = pending.swap_remove(found.expect("it was a block")).code;
            self.model.publish(code);
        }
    }

    pub(super) fn install(
        &mut self,
        which: Which,
        code: Length,
        data: Length,
        seed: u8,
        nulls: u8,
    ) {
        let (arena, handle) = self.which(which);
        if self.is_full(arena) {
            return;
        }
        let region = self.region_len(arena);
        let [code_len, data_len] =
            [code, data].map(|len| len.bytes(region)).map(|len| len.min(TOO_LONG.len()));
        let sizes = Sizes::plain(code_len, data_len);
        let seed = self.seed ^ u64::from(seed) << 40;
        let bytes = if is_invalid(&sizes, region) {
            Vec::new()
        } else {
            code::block(seed, code_len + data_len, code_len)
        };
        let (code_from, data_from) = if bytes.is_empty() {
            (TOO_LONG.as_ptr(), TOO_LONG.as_ptr())
        } else {
            (bytes.as_ptr(), bytes[code_len..].as_ptr())
        };
        let null = |from: *const u8, is: bool| {
            if is { core::ptr::null() } else { from.cast::<c_void>() }
        };
        let (no_code, no_data, no_rx) = (nulls < 8, nulls & 31 == 9, nulls & 31 == 10);
        let mut errors = self.attach_errors(arena);
        let is_null = no_code && code_len > 0 || no_data && data_len > 0 || no_rx;
        errors.extend(is_null.then_some(JITA_ERROR_NULL));
        errors.extend(is_invalid(&sizes, region).then_some(JITA_ERROR_INVALID));
        if arena.is_some_and(|at| self.model.part(at).scopes > 0) {
            errors.push(JITA_ERROR_STATE);
        }
        let (status, rx) = raw::address(no_rx, |rx| {
            let (code, data) = (null(code_from, no_code), null(data_from, no_data));
            // SAFETY: as many bytes each, or null; and a place or null.
            unsafe { jita_install(raw::handle(handle), code, code_len, data, data_len, rx) }
        });
        let errors = self.refusals(arena, &sizes, status, &errors);
        let (true, Some(at)) = (self.expect(status, JITA_OK, &errors), arena) else {
            assert_eq!(rx, None, "an error has stored an address");
            return;
        };
        let rx = rx.expect("an address was stored");
        self.attached(at);
        let code =
            Code { arena: at, rx, code_len, data: code_len, data_len, tag: 0, bytes: Some(bytes) };
        self.model.occupy(&code);
        self.model.publish(code);
    }

    pub(super) fn free(&mut self, addr: Addr, quiescent: bool) {
        let rx = self.address(addr);
        let place = self.model.place(rx);
        let arena = self.model.arena_at(rx);
        // Whoever calls the second vouches that nobody is inside.
        let quiescent = quiescent && arena.is_none_or(|at| !self.model.is_entered(at));
        let errors = match &place {
            _ if rx == 0 => vec![JITA_ERROR_NULL],
            Place::Block(..) | Place::Code(_) => Vec::new(),
            Place::Freed { kept: true } => vec![JITA_ERROR_FREED],
            Place::Freed { kept: false } => vec![JITA_ERROR_FREED, JITA_ERROR_NOT_CODE],
            Place::Foreign => vec![JITA_ERROR_FOREIGN],
            place => not_code(place),
        };
        let free = if quiescent { jita_free_quiescent } else { jita_free };
        let status = free(raw::pointer(rx));
        if !self.expect(status, JITA_OK, &errors) {
            return;
        }
        match place {
            Place::Block(at, block) => {
                self.model.part_mut(at).pending.swap_remove(block);
            }
            _ => self.model.free(rx),
        }
    }

    pub(super) fn collect(&mut self, which: Which) {
        let (arena, handle) = self.which(which);
        let mut errors = self.attach_errors(arena);
        if arena.is_some_and(|at| self.model.part(at).scopes > 0) {
            errors.push(JITA_ERROR_STATE);
        }
        let status = jita_collect(raw::handle(handle));
        if let (true, Some(at)) = (self.expect(status, JITA_OK, &errors), arena) {
            self.attached(at);
        }
    }

    pub(super) fn verify(&mut self, which: Which) {
        let (arena, handle) = self.which(which);
        let errors = self.handle_errors(arena);
        let status = jita_verify(raw::handle(handle));
        self.expect(status, JITA_OK, &errors);
    }

    /// Ends what the thread is in the middle of, then every arena.
    pub(super) fn end(&mut self) {
        for at in 0..self.model.arenas.len() {
            let handle = raw::handle(self.model.arenas[at].handle);
            while self.model.part(at).is_unfinished() {
                let part = self.model.part_mut(at);
                let status = if part.is_parked_here() {
                    part.parks.pop();
                    jita::jita_unpark(handle)
                } else if part.frames.pop().is_some() {
                    jita::jita_exit(handle)
                } else {
                    part.scopes -= 1;
                    jita_write_close(handle)
                };
                assert_eq!(status, JITA_OK);
                self.finished(at);
            }
            if !self.model.arenas[at].open {
                continue;
            }
            let all: Vec<usize> =
                self.model.live.values().filter(|it| it.arena == at).map(|it| it.rx).collect();
            for rx in all {
                assert_eq!(jita_free(raw::pointer(rx)), JITA_OK);
                self.model.free(rx);
            }
            assert_eq!(jita_attach(handle), JITA_OK);
            // Twice: the first hands over what the second frees.
            assert_eq!((jita_collect(handle), jita_collect(handle)), (JITA_OK, JITA_OK));
            let stats = stats_of(handle.addr());
            assert_eq!((stats.live_executors, stats.retired_executors), (0, 0), "{stats:?}");
            assert_eq!(jita_verify(handle), JITA_OK);
            assert_eq!(jita_destroy(handle), JITA_OK);
            self.model.arenas[at].open = false;
            *self.model.part_mut(at) = Part::default();
            self.let_go(at);
        }
    }
}

/// The errors for an address inside an arena where no code starts.
fn not_code(place: &Place) -> Vec<jita_status> {
    match place {
        Place::Middle { sure: true } => vec![JITA_ERROR_MIDDLE],
        Place::Middle { sure: false } | Place::Nothing { was_code: true } => {
            vec![JITA_ERROR_MIDDLE, JITA_ERROR_NOT_CODE]
        }
        _ => vec![JITA_ERROR_NOT_CODE],
    }
}
