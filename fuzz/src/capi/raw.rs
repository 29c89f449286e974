//! Calls with places for what they store: filled beforehand, so that one sees
//! whether a call has stored anything.

use core::ffi::{c_int, c_void};
use core::ptr;

use jita::{jita_arena, jita_block, jita_layout, jita_options, jita_status};

use super::ops::Size;

/// What is in places that nothing was stored to.
pub(super) const UNTOUCHED: usize = 0x5A5A_5A5A_5A5A_5A5A;

/// A handle as C has it.
pub(super) fn handle(number: usize) -> *mut jita_arena {
    ptr::without_provenance_mut(number)
}

/// An address as C has it.
pub(super) fn pointer(address: usize) -> *mut c_void {
    ptr::with_exposed_provenance_mut(address)
}

/// A place, or null.
pub(super) fn place<T>(value: &mut T, is_null: bool) -> *mut T {
    if is_null { ptr::null_mut() } else { value }
}

/// A place for a block; the status and what was stored.
pub(super) fn block(
    is_null: bool,
    call: impl FnOnce(*mut jita_block) -> jita_status,
) -> (jita_status, Option<jita_block>) {
    let untouched = pointer(UNTOUCHED);
    let mut block = jita_block { rx: untouched, rw: untouched, len: UNTOUCHED, data: UNTOUCHED };
    let status = call(place(&mut block, is_null));
    let all = [block.rx.addr(), block.rw.addr(), block.len, block.data];
    (status, (all != [UNTOUCHED; 4]).then_some(block))
}

/// A place for an address; the status and what was stored.
pub(super) fn address(
    is_null: bool,
    call: impl FnOnce(*mut *mut c_void) -> jita_status,
) -> (jita_status, Option<usize>) {
    let mut address = pointer(UNTOUCHED);
    let status = call(place(&mut address, is_null));
    (status, (address.addr() != UNTOUCHED).then_some(address.addr()))
}

/// A struct that says it is of some size, in as many bytes and more.
pub(super) struct Struct {
    words: Vec<u64>,
    /// Whether the library is to take it.
    pub(super) is_known: bool,
}

/// The largest size that a struct may say it has.
const MOST: usize = 4096;

impl Struct {
    /// # Safety
    ///
    /// A struct without padding that begins with its size.
    unsafe fn new<T>(value: &T, size: Size) -> Self {
        let whole = size_of::<T>();
        let mut words = vec![0_u64; 2 * MOST / 8];
        // SAFETY: the words have room for it, and numbers and pointers are all in it.
        unsafe { ptr::copy_nonoverlapping(value, words.as_mut_ptr().cast(), 1) };
        let (said, junk) = match size {
            Size::Right => (whole, false),
            Size::Less(n) => (whole - 1 - usize::from(n) % whole, false),
            Size::MoreZeros(n) => (whole + usize::from(n), false),
            Size::More(n) => (whole + 1 + usize::from(n), true),
            Size::Any(n) => (usize::from(n) % (2 * MOST), false),
        };
        words[0] = said as u64;
        if junk {
            let last = words.as_mut_ptr().cast::<u8>().wrapping_add(said - 1);
            // SAFETY: within the words.
            unsafe { last.write(1) };
        }
        Self { words, is_known: (whole..=MOST).contains(&said) && !junk }
    }

    pub(super) fn options(options: &jita_options, size: Size) -> Self {
        // SAFETY: such a struct.
        unsafe { Self::new(options, size) }
    }

    pub(super) fn layout(layout: &jita_layout, size: Size) -> Self {
        // SAFETY: such a struct.
        unsafe { Self::new(layout, size) }
    }

    /// The struct.
    pub(super) fn get<T>(&self) -> *const T {
        self.words.as_ptr().cast()
    }
}

/// The text that a call writes to so much room: the status, the bytes, and the
/// length that it told.
pub(super) fn text(
    room: usize,
    no_text: bool,
    no_len: bool,
    call: impl FnOnce(*mut core::ffi::c_char, usize, *mut usize) -> jita_status,
) -> (jita_status, Vec<u8>, usize) {
    // What is behind the room is not to be touched, either.
    let mut bytes = vec![0x5A_u8; room + 8];
    let mut len = UNTOUCHED;
    let to = if no_text { ptr::null_mut() } else { bytes.as_mut_ptr().cast() };
    let status = call(to, room, place(&mut len, no_len));
    (status, bytes, len)
}

/// A number that a call stores; what is there if it does not.
pub(super) const UNTOUCHED_INT: c_int = 0x5A5A_5A5A;
