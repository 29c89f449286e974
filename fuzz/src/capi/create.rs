//! Arenas created: with options that can be, and with such that cannot.

use core::ffi::CStr;
use core::ptr;
use std::collections::BTreeMap;

use jita::{
    JITA_ANONYMOUS, JITA_ERROR_INVALID, JITA_ERROR_NULL, JITA_ERROR_OS, JITA_ERROR_VERSION,
    JITA_EXPLICIT_ATTACH, JITA_HUGE_PAGES, JITA_NO_FORKS, JITA_OK, JITA_RANDOM_PLACEMENT,
    JITA_SEALED, jita_arena, jita_create, jita_options, jita_stats_json, jita_write_offset,
};

use super::model::{Arena, Part};
use super::ops::{Options, Size};
use super::raw;
use super::world::{MAX_ARENAS, World};
use crate::code;

/// Arenas at a time.
const MAX_OPEN: usize = 3;

/// The flags that programs set.
const KNOWN: u32 =
    JITA_EXPLICIT_ATTACH | JITA_HUGE_PAGES | JITA_ANONYMOUS | JITA_RANDOM_PLACEMENT | JITA_NO_FORKS;

/// What is wrong with options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Strategy(&'static CStr),
    Name,
    Reserved,
    Page(usize),
    Reserve(usize),
    NoPlace,
    NoOptions,
    None,
}

/// One time in four, some fault.
fn fault(number: u8) -> Fault {
    match number {
        0 => Fault::Strategy(c"nope"),
        1 => Fault::Strategy(c"dual-open\xFF"),
        2 => Fault::Strategy(c""),
        3 => Fault::Name,
        4 => Fault::Reserved,
        5 => Fault::Page(3000),
        6 => Fault::Page(48 << 10),
        7 => Fault::Page(1 << 20),
        8 => Fault::Reserve(1),
        9 => Fault::Reserve((1 << 20) + 1),
        10 => Fault::Reserve(3 << 30),
        11 | 12 => Fault::NoPlace,
        13..=15 => Fault::NoOptions,
        _ => Fault::None,
    }
}

impl World {
    /// An arena to begin with.
    pub(super) fn create_plain(&mut self, strategy: u8) {
        self.create(Options {
            shape: [1 + strategy % 3, 1, 8],
            flags: 0x100,
            bounds: [0, 0],
            fault: 255,
            size: Size::Right,
            near: None,
        });
    }

    pub(super) fn create(&mut self, given: Options) {
        let open = self.model.arenas.iter().filter(|arena| arena.open).count();
        if open >= MAX_OPEN || self.model.arenas.len() >= MAX_ARENAS {
            return;
        }
        let fault = fault(given.fault);
        let strategies =
            [ptr::null(), c"dual-open".as_ptr(), c"dual-transient".as_ptr(), c"mprotect".as_ptr()];
        let page = [0, 64 << 10, 16 << 10, 4096][usize::from(given.shape[1] % 4)];
        let whole = if page == 0 { 64 << 10 } else { page.max(code::system_page()) };
        let known = given.flags & KNOWN as u16;
        let mut options = jita_options {
            size: 0,
            reserve: whole * (1 + usize::from(given.shape[2] % 24)),
            code_page: if page == 0 { 0 } else { whole },
            keep_free: whole * usize::from(given.bounds[0] % 4),
            code_budget: whole * usize::from(given.bounds[1] % 4),
            near_address: given.near.map_or(ptr::null(), |near| raw::pointer(near).cast_const()),
            strategy: strategies[usize::from(given.shape[0] % 4)],
            name: if given.shape[0] & 4 == 0 { ptr::null() } else { c"fuzz \xC3\xA9".as_ptr() },
            // What is sealed is never unmapped: no process would last.
            flags: u32::from(if given.flags >> 8 & 15 == 0 { given.flags } else { known })
                & !JITA_SEALED,
            reserved: 0,
        };
        match fault {
            Fault::Strategy(name) => options.strategy = name.as_ptr(),
            Fault::Name => options.name = c"\xFF".as_ptr(),
            Fault::Reserved => options.reserved = 1,
            Fault::Page(page) => options.code_page = page,
            Fault::Reserve(reserve) => options.reserve = reserve,
            Fault::NoPlace | Fault::NoOptions | Fault::None => {}
        }
        let mut errors = Vec::new();
        let of_options =
            options.flags & !KNOWN != 0 || !matches!(fault, Fault::NoPlace | Fault::None);
        let sized = raw::Struct::options(&options, given.size);
        if fault != Fault::NoOptions {
            errors.extend((!sized.is_known).then_some(JITA_ERROR_VERSION));
            errors.extend(of_options.then_some(JITA_ERROR_INVALID));
        }
        errors.extend((fault == Fault::NoPlace).then_some(JITA_ERROR_NULL));
        let from = if fault == Fault::NoOptions { ptr::null() } else { sized.get() };
        let mut arena = raw::handle(raw::UNTOUCHED);
        let place = raw::place(&mut arena, fault == Fault::NoPlace);
        // SAFETY: options in more bytes than they say, or null; a place or null.
        let status = unsafe { jita_create(from, place) };
        if status == JITA_ERROR_OS && errors.is_empty() {
            errors.push(JITA_ERROR_OS);
        }
        if !self.expect(status, JITA_OK, &errors) {
            assert_eq!(arena.addr(), raw::UNTOUCHED, "an error has stored a handle");
            return;
        }
        let options = (fault != Fault::NoOptions).then_some(options);
        self.created(arena, options.as_ref(), whole);
    }

    /// Notes a new arena.
    fn created(&mut self, handle: *mut jita_arena, options: Option<&jita_options>, page: usize) {
        let arenas = &self.model.arenas;
        assert!(arenas.iter().all(|arena| arena.handle != handle.addr()), "a handle again");
        let (mut offset, mut is_fixed) = (0, 0);
        // SAFETY: two places.
        let status = unsafe { jita_write_offset(handle, &raw mut offset, &raw mut is_fixed) };
        assert_eq!(status, JITA_OK);
        let (status, text, len) = raw::text(4096, false, false, |to, room, len| {
            // SAFETY: so much room, and a place.
            unsafe { jita_stats_json(handle, to, room, len) }
        });
        assert_eq!(status, JITA_OK);
        let json = String::from_utf8(text[..len].to_vec()).expect("JSON is UTF-8");
        let value = |name: &str| {
            let (_, rest) = json.split_once(&format!("\"{name}\":")).expect("a figure");
            rest.split([',', '}']).next().unwrap_or_default().trim_matches('"').to_owned()
        };
        let start: usize = value("start").parse().expect("a number");
        let len: usize = value("reserved_bytes").parse().expect("a number");
        let strategy = value("strategy");
        let staged = ["dual-transient", "mprotect"].contains(&strategy.as_str());
        assert_eq!(is_fixed == 0, staged, "{strategy}");
        if let Some(options) = options {
            assert_eq!(len, options.reserve, "{options:?}");
            if !options.strategy.is_null() {
                // SAFETY: one of the texts above.
                let name = unsafe { CStr::from_ptr(options.strategy) };
                assert_eq!(name.to_str(), Ok(strategy.as_str()));
            }
        }
        assert!(start.is_multiple_of(code::system_page()) && code::is_mapped(start));
        self.model.arenas.push(Arena {
            handle: handle.addr(),
            open: true,
            lingers: false,
            explicit: options.is_some_and(|it| it.flags & JITA_EXPLICIT_ATTACH != 0),
            seals: strategy == "mprotect",
            offset: (is_fixed != 0).then_some(offset),
            region: start..start + len,
            page: if options.is_some() { page } else { 64 << 10 },
            bounded: options.is_some_and(|it| it.code_budget != 0),
            trampolines: BTreeMap::new(),
            counts: [0, 0],
        });
        self.model.threads.iter_mut().for_each(|parts| parts.push(Part::default()));
    }
}
