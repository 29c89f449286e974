//! Looking: lookups, trampolines, texts, figures. Nothing here changes anything but
//! trampolines.

use core::ffi::{c_int, c_void};
use std::collections::HashSet;
use std::ffi::CStr;

use jita::{
    JITA_EMPTY, JITA_ERROR_EXHAUSTED, JITA_ERROR_NULL, JITA_ERROR_REACH, JITA_ERROR_VERSION,
    JITA_OK, jita_call_target, jita_code, jita_contains, jita_error_name, jita_lookup,
    jita_make_trampolines, jita_report, jita_stats, jita_stats_json, jita_stats_read, jita_status,
    jita_trampoline, jita_write_offset,
};

use super::model::{Code, Place};
use super::ops::{Addr, Which};
use super::raw;
use super::world::{World, stats_of};

extern "C" fn one() -> u32 {
    1
}

extern "C" fn two() -> u32 {
    2
}

/// What trampolines lead to, and what that returns, if it is to be called.
fn target(number: u8) -> (usize, Option<u32>) {
    match number % 32 {
        0 => (0, None),
        1..=8 => ((one as extern "C" fn() -> u32) as usize, Some(1)),
        9..=15 => ((two as extern "C" fn() -> u32) as usize, Some(2)),
        n => (usize::from(n) << 33 | 0x40, None),
    }
}

/// As far as a direct branch reaches, bytes.
const REACH: usize = if cfg!(target_arch = "x86_64") { 1 << 31 } else { 128 << 20 };

impl World {
    pub(super) fn lookup(&mut self, addr: Addr, nulls: u8) {
        let address = self.address(addr);
        let untouched = raw::pointer(raw::UNTOUCHED).cast_const();
        let mut found = jita_code {
            code: untouched,
            code_len: raw::UNTOUCHED,
            data: untouched,
            data_len: raw::UNTOUCHED,
            tag: raw::UNTOUCHED as u64,
        };
        let is_null = nulls < 16;
        let place = raw::place(&mut found, is_null);
        // SAFETY: a place, or null.
        let status = unsafe { jita_lookup(raw::pointer(address), place) };
        if is_null {
            assert_eq!(status, JITA_ERROR_NULL);
            return;
        }
        let at = self.model.place(address);
        let is_there = matches!(at, Place::Code(_) | Place::Middle { sure: true });
        let may_be = is_there
            || match at {
                Place::Middle { .. } | Place::Freed { .. } => true,
                Place::Nothing { was_code } => was_code,
                _ => false,
            };
        let must_be = is_there || at == Place::Freed { kept: true };
        if status == JITA_EMPTY {
            assert!(!must_be, "{address:#x} is {at:?} and was not found");
            assert_eq!((found.code, found.tag), (untouched, raw::UNTOUCHED as u64));
            return;
        }
        assert_eq!(status, JITA_OK);
        assert!(may_be, "{address:#x} is {at:?} and was found: {found:?}");
        let freed = self.model.freed.iter().map(|freed| &freed.code);
        let mut all = self.model.live.values().chain(freed);
        let is_it = |code: &&Code| {
            code.range().contains(&address)
                && (found.code.addr(), found.code_len, found.tag)
                    == (code.rx, code.code_len, code.tag)
                && found.data_len == code.data_len
                && (code.data_len == 0 || found.data.addr() == code.rx + code.data)
        };
        assert!(all.find(is_it).is_some(), "{address:#x} is {at:?} and not {found:?}");
    }

    pub(super) fn contains(&mut self, which: Which, addr: Addr) {
        let (arena, handle) = self.which(which);
        let address = self.address(addr);
        let open = arena.map(|at| &self.model.arenas[at]).filter(|arena| arena.open);
        let expected = open.is_some_and(|arena| arena.region.contains(&address));
        let said = jita_contains(raw::handle(handle), raw::pointer(address));
        assert_eq!(said, c_int::from(expected), "{address:#x}");
    }

    /// The errors of asking for a trampoline; whether it may be refused for room.
    fn trampoline_errors(
        &self,
        arena: Option<usize>,
        target: usize,
        is_null: bool,
    ) -> Vec<jita_status> {
        let mut errors = self.handle_errors(arena);
        errors.extend((target == 0 || is_null).then_some(JITA_ERROR_NULL));
        errors
    }

    /// Notes the trampoline that a call has told, or that it has told none.
    fn told(
        &mut self,
        arena: Option<usize>,
        (target, returns): (usize, Option<u32>),
        (status, address): (jita_status, Option<usize>),
        errors: &[jita_status],
    ) {
        let known = arena.and_then(|at| self.model.arenas[at].trampolines.get(&target)).copied();
        let full = status == JITA_ERROR_EXHAUSTED && errors.is_empty() && known.is_none();
        let errors = if full { &[JITA_ERROR_EXHAUSTED] } else { errors };
        let (true, Some(at)) = (self.expect(status, JITA_OK, errors), arena) else {
            assert_eq!(address, None);
            return;
        };
        let address = address.expect("an address was stored");
        assert!(known.is_none_or(|known| known == address), "another trampoline than before");
        let arena = &mut self.model.arenas[at];
        assert!(arena.region.contains(&address), "{address:#x} is not in the arena");
        let other = arena.trampolines.iter().find(|it| *it.0 != target && *it.1 == address);
        assert_eq!(other, None, "one trampoline to two targets");
        arena.trampolines.insert(target, address);
        if let Some(value) = returns {
            // SAFETY: a jump to such a function, which stays as long as the arena.
            let function: extern "C" fn() -> u32 =
                unsafe { core::mem::transmute(raw::pointer(address)) };
            assert_eq!(function(), value);
        }
    }

    pub(super) fn trampoline(&mut self, which: Which, number: u8, nulls: u8) {
        let (arena, handle) = self.which(which);
        let target = target(number);
        let is_null = nulls < 16;
        let errors = self.trampoline_errors(arena, target.0, is_null);
        let result = ask(is_null, |to| {
            // SAFETY: a place or null.
            unsafe { jita_trampoline(raw::handle(handle), raw::pointer(target.0), to) }
        });
        self.told(arena, target, result, &errors);
    }

    pub(super) fn call_target(&mut self, which: Which, from: Addr, number: u8, nulls: u8) {
        let (arena, handle) = self.which(which);
        let (from, target) = (self.address(from), target(number));
        let is_null = nulls < 16;
        let mut errors = self.trampoline_errors(arena, target.0, is_null);
        let (status, address) = ask(is_null, |to| {
            let from = raw::pointer(from);
            // SAFETY: a place or null.
            unsafe { jita_call_target(raw::handle(handle), from, raw::pointer(target.0), to) }
        });
        if errors.is_empty() && status == JITA_OK && address == Some(target.0) {
            assert!(from.abs_diff(target.0) <= REACH + 8, "{from:#x} does not reach");
            return;
        }
        let near = from.abs_diff(target.0) < REACH - 64;
        assert!(!near || !errors.is_empty(), "{from:#x} reaches, and got {status} {address:x?}");
        let inside = arena.is_some_and(|at| self.model.arenas[at].region.contains(&from));
        errors.extend((!inside).then_some(JITA_ERROR_REACH));
        self.told(arena, target, (status, address), &errors);
    }

    pub(super) fn make_trampolines(&mut self, which: Which, count: u8, nulls: u8) {
        let (arena, handle) = self.which(which);
        let count = usize::from(count % 20);
        let mut targets: Vec<usize> = (0..count).map(|n| target(n as u8 + 1).0).collect();
        let (no_targets, null_target) = (nulls < 16, (16..32).contains(&nulls));
        if let Some(last) = targets.last_mut().filter(|_| null_target) {
            *last = 0;
        }
        let pointers: Vec<*const c_void> =
            targets.iter().map(|target| raw::pointer(*target).cast_const()).collect();
        let from = if no_targets { core::ptr::null() } else { pointers.as_ptr() };
        // SAFETY: as many pointers, or null.
        let status = unsafe { jita_make_trampolines(raw::handle(handle), from, count) };
        if count == 0 {
            // There is nothing to do, whatever the handle is.
            assert!(status == JITA_OK || self.handle_errors(arena).contains(&status));
            return;
        }
        let mut errors = self.handle_errors(arena);
        errors.extend((no_targets || null_target).then_some(JITA_ERROR_NULL));
        let full = status == JITA_ERROR_EXHAUSTED && errors.is_empty();
        let errors = if full { vec![JITA_ERROR_EXHAUSTED] } else { errors };
        if self.expect(status, JITA_OK, &errors) {
            for target in targets {
                let result = ask(false, |to| {
                    // SAFETY: a place.
                    unsafe { jita_trampoline(raw::handle(handle), raw::pointer(target), to) }
                });
                assert_eq!(result.0, JITA_OK, "it was made");
                self.told(arena, (target, None), result, &[]);
            }
        }
    }

    pub(super) fn text(&mut self, which: Which, json: bool, room: u16, nulls: u8) {
        let (arena, handle) = self.which(which);
        let call = if json { jita_stats_json } else { jita_report };
        let said = |room, no_text, no_len| {
            raw::text(room, no_text, no_len, |to, room, len| {
                // SAFETY: so much room, and a place or null.
                unsafe { call(raw::handle(handle), to, room, len) }
            })
        };
        let (room, no_text, no_len) = (usize::from(room % 900), nulls & 7 == 0, nulls & 24 == 0);
        let mut errors = self.handle_errors(arena);
        errors.extend((no_text && room > 0).then_some(JITA_ERROR_NULL));
        let (status, bytes, len) = said(room, no_text, no_len);
        if !self.expect(status, JITA_OK, &errors) {
            assert!(bytes.iter().all(|byte| *byte == 0x5A) && len == raw::UNTOUCHED);
            return;
        }
        let (status, all, whole) = said(1 << 14, false, false);
        assert_eq!((status, all[whole]), (JITA_OK, 0));
        assert!(!all[..whole].contains(&0) && whole > 0);
        assert_eq!(len, if no_len { raw::UNTOUCHED } else { whole });
        let fits = whole.min(room.saturating_sub(1));
        assert_eq!(bytes[..fits], all[..fits]);
        assert!(room == 0 || bytes[fits] == 0);
        let behind = if room == 0 { 0 } else { fits + 1 };
        assert!(bytes[behind..].iter().all(|byte| *byte == 0x5A), "more than fits was written");
    }

    pub(super) fn stats(&mut self, which: Which, size: u8) {
        let (arena, handle) = self.which(which);
        let is_null = size == 255;
        let size = usize::from(size) * 2;
        let mut words = [0x5A5A_5A5A_5A5A_5A5A_u64; 64];
        words[0] = size as u64;
        let to = if is_null { core::ptr::null_mut() } else { words.as_mut_ptr().cast() };
        let mut errors = self.handle_errors(arena);
        errors.extend(is_null.then_some(JITA_ERROR_NULL));
        errors.extend((!is_null && size < 16).then_some(JITA_ERROR_VERSION));
        // SAFETY: more bytes than the size says, or null.
        let status = unsafe { jita_stats_read(raw::handle(handle), to) };
        let good = self.expect(status, JITA_OK, &errors);
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        assert_eq!(words[0], size as u64);
        let stored = if good { size.min(size_of::<jita_stats>()) } else { 8 };
        assert!(bytes[stored.max(8)..].iter().all(|byte| *byte == 0x5A), "{size} bytes");
        if good {
            let known = stats_of(handle);
            let from = (&raw const known).cast::<u8>();
            // SAFETY: a struct of numbers without padding.
            let known = unsafe { core::slice::from_raw_parts(from, size_of::<jita_stats>()) };
            assert_eq!(bytes[8..stored], known[8..stored]);
        }
    }

    pub(super) fn offset(&mut self, which: Which, nulls: u8) {
        let (arena, handle) = self.which(which);
        let (mut offset, mut is_fixed) = (raw::UNTOUCHED as isize, raw::UNTOUCHED_INT);
        let (no_offset, no_fixed) = (nulls & 7 == 0, nulls & 56 == 0);
        let to = raw::place(&mut offset, no_offset);
        let fixed = raw::place(&mut is_fixed, no_fixed);
        // SAFETY: places or null.
        let status = unsafe { jita_write_offset(raw::handle(handle), to, fixed) };
        let mut errors = self.handle_errors(arena);
        errors.extend((no_offset || no_fixed).then_some(JITA_ERROR_NULL));
        if let (true, Some(at)) = (self.expect(status, JITA_OK, &errors), arena) {
            let expected = self.model.arenas[at].offset;
            assert_eq!((offset, is_fixed != 0), (expected.unwrap_or(0), expected.is_some()));
        } else {
            assert_eq!((offset as usize, is_fixed), (raw::UNTOUCHED, raw::UNTOUCHED_INT));
        }
    }

    pub(super) fn name(&mut self, status: c_int) {
        let name_of = |status| {
            // SAFETY: text that is valid for ever.
            unsafe { CStr::from_ptr(jita_error_name(status)) }
        };
        let known: HashSet<_> = (-17..=1).map(name_of).collect();
        assert_eq!(known.len(), 19, "two statuses have one name");
        assert_eq!(known.contains(name_of(status)), (-17..=1).contains(&status));
    }
}

/// A place for an address; the status and what was stored.
fn ask(
    is_null: bool,
    call: impl FnOnce(*mut *const c_void) -> jita_status,
) -> (jita_status, Option<usize>) {
    raw::address(is_null, |to| call(to.cast()))
}
