//! Running: enters, exits, safepoints, parks.

use core::ffi::c_void;
use core::ptr;

use jita::{
    JITA_EMPTY, JITA_ERROR_HANDLE, JITA_ERROR_NULL, JITA_ERROR_STATE, JITA_OK, jita_enter,
    jita_exit, jita_park, jita_safepoint, jita_status, jita_unpark,
};

use super::model::{Frame, PARKED};
use super::ops::Which;
use super::raw;
use super::world::World;
use crate::code;
use crate::ops::Pick;

/// Enters that are open, and parks.
const MAX_DEPTH: usize = 8;

/// Enters with a word that holds an address; the status and what was stored.
fn enter_word(handle: usize, holds: usize, is_null: bool) -> (jita_status, Option<usize>) {
    let word = raw::pointer(holds);
    raw::address(is_null, |rx| {
        // SAFETY: a word of this function's, and a place or null.
        unsafe { jita_enter(raw::handle(handle), (&raw const word).cast::<*mut c_void>(), rx) }
    })
}

impl World {
    fn enter_errors(&self, arena: Option<usize>) -> Vec<jita_status> {
        let mut errors = self.attach_errors(arena);
        if arena.is_some_and(|at| self.model.part(at).scopes > 0) {
            errors.push(JITA_ERROR_STATE);
        }
        errors
    }

    fn is_deep(&self, arena: Option<usize>) -> bool {
        arena.is_some_and(|at| {
            let part = self.model.part(at);
            part.frames.len().max(part.parks.len()) >= MAX_DEPTH
        })
    }

    pub(super) fn enter(&mut self, which: Which) {
        let (arena, handle) = self.which(which);
        if self.is_deep(arena) {
            return;
        }
        let errors = self.enter_errors(arena);
        // SAFETY: no word.
        let status = unsafe { jita_enter(raw::handle(handle), ptr::null(), ptr::null_mut()) };
        if let (true, Some(at)) = (self.expect(status, JITA_OK, &errors), arena) {
            let now = self.model.now;
            self.attached(at);
            self.model.part_mut(at).frames.push(Frame::Since(now));
        }
    }

    pub(super) fn enter_code(&mut self, which: Which, code: Pick, nulls: u8) {
        let (arena, handle) = self.which(which);
        let Some(holds) = self.pick_code(code, arena).filter(|_| !self.is_deep(arena)) else {
            return;
        };
        let is_null = nulls < 16;
        let mut errors = self.enter_errors(arena);
        errors.extend(is_null.then_some(JITA_ERROR_NULL));
        let (status, rx) = enter_word(handle, holds, is_null);
        if let (true, Some(at)) = (self.expect(status, JITA_OK, &errors), arena) {
            assert_eq!(rx, Some(holds));
            self.attached(at);
            self.model.part_mut(at).frames.push(Frame::Holds(holds));
        } else {
            assert_eq!(rx, None);
        }
    }

    pub(super) fn enter_empty(&mut self, which: Which) {
        let (arena, handle) = self.which(which);
        let errors = self.enter_errors(arena);
        let (status, _) = enter_word(handle, 0, false);
        self.expect(status, JITA_EMPTY, &errors);
    }

    /// Enters code, calls it, and exits.
    pub(super) fn call(&mut self, which: Which, code: Pick) {
        let (Some(arena), handle) = self.which(which) else { return };
        let Some(rx) = self.pick_code(code, Some(arena)).filter(|_| !self.is_deep(Some(arena)))
        else {
            return;
        };
        if !self.enter_errors(Some(arena)).is_empty() {
            return;
        }
        assert_eq!(enter_word(handle, rx, false), (JITA_OK, Some(rx)));
        self.attached(arena);
        let code = &self.model.live[&rx];
        let bytes = code.bytes.as_ref().map(|bytes| &bytes[..code.code_len]);
        if let Some(value) = bytes.and_then(code::returns) {
            // SAFETY: such a function, entered.
            let function: extern "C" fn() -> u32 =
                unsafe { core::mem::transmute(raw::pointer(rx)) };
            assert_eq!(function(), value, "{rx:#x}");
        }
        assert_eq!(jita_exit(raw::handle(handle)), JITA_OK);
    }

    /// Frees the code that the thread is inside of, which stays until it has left,
    /// whatever it goes through meanwhile.
    pub(super) fn outlive(&mut self, which: Which, code: Pick, how: u8) {
        let (Some(arena), handle) = self.which(which) else { return };
        let entered = self.model.part(arena).frames.len();
        self.enter_code(which, code, 255);
        let Some(Frame::Holds(rx)) = self.model.part(arena).frames.get(entered).copied() else {
            return;
        };
        self.go_on();
        if self.model.live.contains_key(&rx) {
            assert_eq!(jita::jita_free(raw::pointer(rx)), JITA_OK);
            self.model.free(rx);
            self.go_on();
        }
        let parks = how & 1 == 0;
        if parks {
            self.park(which);
        } else {
            self.safepoint(which);
        }
        for _ in 0..2 {
            assert_eq!(jita::jita_collect(raw::handle(handle)), JITA_OK);
            self.go_on();
        }
        if parks {
            self.unpark(which);
        }
        if how & 2 == 0 {
            self.exit(which);
        }
    }

    /// Errors of what needs the thread to be inside code, and not parked there.
    fn inside_errors(&self, arena: Option<usize>) -> Vec<jita_status> {
        let Some(at) = arena else { return vec![JITA_ERROR_HANDLE, JITA_ERROR_STATE] };
        let part = self.model.part(at);
        if !part.frames.is_empty() && !part.is_parked_here() {
            return Vec::new();
        }
        self.out_of_order(at)
    }

    /// The errors of a call out of order: of an arena that was destroyed it may say
    /// that instead.
    pub(super) fn out_of_order(&self, arena: usize) -> Vec<jita_status> {
        let mut errors = vec![JITA_ERROR_STATE];
        errors.extend((!self.model.arenas[arena].open).then_some(JITA_ERROR_HANDLE));
        errors
    }

    pub(super) fn exit(&mut self, which: Which) {
        let (arena, handle) = self.which(which);
        let errors = self.inside_errors(arena);
        let status = jita_exit(raw::handle(handle));
        if let (true, Some(at)) = (self.expect(status, JITA_OK, &errors), arena) {
            self.model.part_mut(at).frames.pop();
            self.finished(at);
        }
    }

    pub(super) fn safepoint(&mut self, which: Which) {
        let (arena, handle) = self.which(which);
        let errors = self.inside_errors(arena);
        let status = jita_safepoint(raw::handle(handle));
        if let (true, Some(at)) = (self.expect(status, JITA_OK, &errors), arena) {
            let now = self.model.now;
            self.model.part_mut(at).refresh(now);
        }
    }

    pub(super) fn park(&mut self, which: Which) {
        let (arena, handle) = self.which(which);
        if self.is_deep(arena) {
            return;
        }
        let errors = match arena.map(|at| (at, self.model.part(at))) {
            Some((at, part)) if part.scopes > 0 => self.out_of_order(at),
            // Whoever is inside code may block there, whatever became of the arena.
            Some((_, part)) if part.is_unfinished() => Vec::new(),
            _ => self.attach_errors(arena),
        };
        let status = jita_park(raw::handle(handle));
        if let (true, Some(at)) = (self.expect(status, JITA_OK, &errors), arena) {
            self.attached(at);
            let part = self.model.part_mut(at);
            if !part.is_parked_here() {
                part.refresh(PARKED);
            }
            part.parks.push(part.frames.len());
        }
    }

    pub(super) fn unpark(&mut self, which: Which) {
        let (arena, handle) = self.which(which);
        let errors = match arena {
            None => vec![JITA_ERROR_HANDLE, JITA_ERROR_STATE],
            Some(at) if self.model.part(at).is_parked_here() => Vec::new(),
            Some(at) => self.out_of_order(at),
        };
        let status = jita_unpark(raw::handle(handle));
        if let (true, Some(at)) = (self.expect(status, JITA_OK, &errors), arena) {
            let now = self.model.now;
            let part = self.model.part_mut(at);
            part.parks.pop();
            if !part.is_parked_here() {
                part.refresh(now);
            }
            self.finished(at);
        }
    }
}
