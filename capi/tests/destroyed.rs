//! Arenas that are destroyed on another thread.

use std::ptr;
use std::thread;

use jita::{
    JITA_ERROR_HANDLE, JITA_OK, jita_attach, jita_create, jita_destroy, jita_detach, jita_enter,
    jita_exit, jita_park, jita_safepoint, jita_unpark,
};

/// Has another thread destroy the arena that this one is attached to.
fn destroyed_elsewhere(before: impl FnOnce(*mut jita::jita_arena)) -> *mut jita::jita_arena {
    let mut arena = ptr::null_mut();
    // SAFETY: no options, and a place.
    assert_eq!(unsafe { jita_create(ptr::null(), &raw mut arena) }, JITA_OK);
    assert_eq!(jita_attach(arena), JITA_OK);
    before(arena);
    let handle = arena.addr();
    let destroy = move || jita_destroy(ptr::without_provenance_mut(handle));
    assert_eq!(thread::spawn(destroy).join().unwrap(), JITA_OK);
    arena
}

#[test]
fn a_thread_outside_of_it_does_not_park_in_it() {
    let arena = destroyed_elsewhere(|_| ());
    assert_eq!(jita_park(arena), JITA_ERROR_HANDLE);
    assert_ne!(jita_unpark(arena), JITA_OK);
    assert_ne!(jita_detach(arena), JITA_OK, "the refused call has let go");
}

#[test]
fn a_thread_inside_of_it_goes_on_until_it_has_left() {
    let arena = destroyed_elsewhere(|arena| {
        // SAFETY: no word.
        assert_eq!(unsafe { jita_enter(arena, ptr::null(), ptr::null_mut()) }, JITA_OK);
    });
    assert_eq!(jita_safepoint(arena), JITA_OK);
    assert_eq!((jita_park(arena), jita_park(arena)), (JITA_OK, JITA_OK));
    assert_eq!((jita_unpark(arena), jita_unpark(arena)), (JITA_OK, JITA_OK));
    assert_eq!(jita_exit(arena), JITA_OK);
    assert_eq!(jita_park(arena), JITA_ERROR_HANDLE);
}
