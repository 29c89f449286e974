//! Code, from its publishing to its end.

use core::ffi::c_void;

use jit_arena::MAX_EXECUTOR;
use jita::{
    JITA_ERROR_FOREIGN, JITA_ERROR_FREED, JITA_ERROR_INVALID, JITA_ERROR_MIDDLE,
    JITA_ERROR_NOT_CODE, JITA_ERROR_NULL, JITA_ERROR_SEALED, JITA_ERROR_STATE,
    JITA_ERROR_UNWRITTEN, JITA_OK, jita_free, jita_free_quiescent, jita_install, jita_publish,
    jita_status,
};

use super::blocks::{is_invalid, with_edges};
use super::model::{Code, Place};
use super::ops::{Addr, Which};
use super::raw;
use super::world::World;
use crate::code;
use crate::sizes::{Length, Sizes};

/// What `jita_install` reads when asked for more than there can be.
static TOO_LONG: [u8; MAX_EXECUTOR + 1] = [0; MAX_EXECUTOR + 1];

impl World {
    pub(super) fn publish(&mut self, which: Which, addr: Addr) {
        self.publish_at(which, self.address(addr));
    }

    pub(super) fn publish_at(&mut self, which: Which, rx: usize) {
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
                let part = self.model.part_mut(at);
                let used = with_edges(part.pending[block].code.len());
                part.free(block, used);
            }
            _ => self.model.free(rx),
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
