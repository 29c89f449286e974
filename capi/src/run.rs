//! Running: enters, exits, safepoints and parks, which in Rust are guards.
//!
//! Each enter has a frame: the guard, and what it holds. Frames are used again, so
//! entering allocates only when a thread nests deeper than before.

use core::ffi::c_void;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicPtr, Ordering};

use jit_arena::{Guard, Parked};

use crate::registry::{Id, jita_arena, no_such};
use crate::status::{Failure, JITA_EMPTY, JITA_OK, border, jita_status, null};
use crate::thread::{self, Attached, lasting_mut, state};

/// One enter. Fields end in order.
#[derive(Default)]
struct Frame {
    held: Option<jit_arena::Running<'static>>,
    guard: GuardPlace,
}

/// Where a guard is: what is held refers to it, so it does not move with its frame.
struct GuardPlace(NonNull<Option<Guard<'static>>>);

impl Default for GuardPlace {
    fn default() -> Self {
        Self(NonNull::from(Box::leak(Box::default())))
    }
}

impl GuardPlace {
    /// The guard, for as long as the caller sees fit.
    ///
    /// # Safety
    ///
    /// What is made with it is gone before this is called again, and before the
    /// place is dropped.
    unsafe fn get(&mut self) -> &'static mut Option<Guard<'static>> {
        // SAFETY: a box of this place's alone, and not borrowed (caller).
        unsafe { self.0.as_mut() }
    }
}

impl Drop for GuardPlace {
    fn drop(&mut self) {
        // SAFETY: made of a box in `default`, and not borrowed any more.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

impl Frame {
    /// The guard, if nothing is held.
    fn guard(&mut self) -> Option<&'static mut Guard<'static>> {
        if self.held.is_some() {
            return None;
        }
        // SAFETY: nothing that refers to it lives in the frame; parks, which
        // may have been made with it, refer to the thread only.
        unsafe { self.guard.get() }.as_mut()
    }

    fn end(&mut self) {
        self.held = None;
        // SAFETY: as in `guard`.
        unsafe { *self.guard.get() = None };
    }
}

/// What a thread runs. Parks end before frames, the last first.
#[derive(Default)]
pub(crate) struct Running {
    /// Parks under way, each with the enters that were open when it began.
    parks: Vec<(usize, Option<Parked<'static>>)>,
    frames: Frames,
}

/// Frames, of which the first `depth` are in use. They end last to first.
#[derive(Default)]
struct Frames {
    frames: Vec<Frame>,
    depth: usize,
}

impl Drop for Frames {
    fn drop(&mut self) {
        while let Some(frame) = self.frames.pop() {
            drop(frame);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        while self.parks.pop().is_some() {}
    }
}

impl Running {
    pub(crate) fn depth(&self) -> usize {
        self.frames.depth
    }

    pub(crate) fn is_parked(&self) -> bool {
        !self.parks.is_empty()
    }

    /// Whether the innermost thing under way is a park.
    fn is_parked_here(&self) -> bool {
        self.parks.last().is_some_and(|(depth, _)| *depth == self.depth())
    }

    fn top(&mut self) -> Option<&mut Frame> {
        let depth = self.depth();
        self.frames.frames.get_mut(depth.checked_sub(1)?)
    }
}

/// Enters: pins the thread and, if there is a word, holds what is in it.
fn enter(attached: &mut Attached, word: Option<&AtomicPtr<c_void>>) -> Option<*mut c_void> {
    let handle = attached.lasting();
    let frames = &mut attached.running.frames;
    if frames.depth == frames.frames.len() {
        frames.frames.push(Frame::default());
    }
    let frame = &mut frames.frames[frames.depth];
    // SAFETY: the frame is not in use, so nothing refers to its guard.
    let guard = unsafe { frame.guard.get() }.insert(handle.pin());
    let mut entry = core::ptr::null_mut();
    if let Some(word) = word {
        // Acquire: pairs with the client's Release of the entry, `[X1]`.
        entry = word.load(Ordering::Acquire);
        if entry.is_null() {
            frame.end();
            return None;
        }
        // SAFETY: loaded just now, under this guard; that executors are taken out
        // of the word before they are freed is the client's promise.
        frame.held = Some(unsafe { guard.enter_at(entry.addr()) });
    }
    frames.depth += 1;
    Some(entry)
}

/// Enters code: from here to jita_exit the thread may run code that it finds.
///
/// With a word (an atomic pointer of the client's, out of which code is taken
/// before it is freed): loads it, with acquire, and holds the code whose address
/// it finds, so that this code stays through safepoints and parks; stores the
/// address to `rx`. If the word is null: JITA_EMPTY, and nothing was entered.
///
/// Without one (`word` null): all code that the thread loads from such words
/// after this call stays until the next jita_safepoint, jita_park or jita_exit.
///
/// Nests; each is ended by a jita_exit on the same thread. Wait-free, but for every
/// 128th, which helps reclamation and is lock-free; allocates where the thread nests
/// deeper than before, and attaches the thread if it is not.
///
/// Errors: JITA_ERROR_STATE inside a write scope, where code must not be run.
///
/// # Safety
///
/// `word` is null or points to an aligned atomic pointer that lives during the
/// call; `rx` is null only if `word` is, otherwise it points to a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jita_enter(
    arena: *mut jita_arena,
    word: *const *mut c_void,
    rx: *mut *mut c_void,
) -> jita_status {
    border(|| {
        if !word.is_null() && rx.is_null() {
            return Err(null("rx"));
        }
        // SAFETY: null, or an atomic pointer (caller).
        let word = unsafe { word.cast::<AtomicPtr<c_void>>().as_ref() };
        let entered = thread::with(Id::of(arena), |attached| {
            if attached.scopes > 0 {
                return Err(state("code is not to be run inside a write scope: close it first"));
            }
            Ok(enter(attached, word))
        })?;
        let Some(entry) = entered else { return Ok(JITA_EMPTY) };
        if !rx.is_null() {
            // SAFETY: not null, so it points to a pointer (caller).
            unsafe { rx.write(entry) };
        }
        Ok(JITA_OK)
    })
}

/// Runs `f` with what the thread has entered last, which is not parked.
fn with_top(
    arena: *mut jita_arena,
    f: impl FnOnce(&mut Attached) -> Result<(), Failure>,
) -> Result<jita_status, Failure> {
    let outside = || state("the thread is not inside code of this arena: call jita_enter first");
    let done = thread::with_known(Id::of(arena), |attached| {
        if attached.running.is_parked_here() {
            return Err(state("the thread is parked: call jita_unpark first"));
        }
        if attached.running.depth() == 0 {
            return Err(outside());
        }
        f(attached)
    })?;
    done.map(|()| JITA_OK).ok_or_else(outside)
}

/// Ends the last jita_enter of the calling thread. Works after the arena was
/// destroyed, too. Wait-free, unless it lets go of an arena that was destroyed.
///
/// Errors: JITA_ERROR_STATE if there was none, or the thread is parked in it.
#[unsafe(no_mangle)]
pub extern "C" fn jita_exit(arena: *mut jita_arena) -> jita_status {
    border(|| {
        with_top(arena, |attached| {
            let frames = &mut attached.running.frames;
            frames.depth -= 1;
            let frame = &mut frames.frames[frames.depth];
            frame.end();
            Ok(())
        })
    })
}

/// Lets reclamation go on, from inside a long loop: code that the thread has
/// loaded, and does not hold by a jita_enter with a word, must not be used any
/// more after this. Wait-free. To be called inside code. While an outer jita_enter
/// without a word is open it does nothing: what that has loaded is still in use.
///
/// Errors: JITA_ERROR_STATE if the thread is not inside code, or is parked.
#[unsafe(no_mangle)]
pub extern "C" fn jita_safepoint(arena: *mut jita_arena) -> jita_status {
    border(|| {
        with_top(arena, |attached| {
            let Some(frame) = attached.running.top() else { return Ok(()) };
            if let Some(guard) = frame.guard() {
                guard.safepoint();
            } else if let Some(held) = &mut frame.held {
                held.safepoint();
            }
            Ok(())
        })
    })
}

/// Parks the thread; see `jita_park`.
fn park(attached: &mut Attached) -> Result<jita_status, Failure> {
    if attached.scopes > 0 {
        return Err(state("a thread does not block inside a write scope: close it first"));
    }
    let running = &mut attached.running;
    let (depth, here) = (running.depth(), running.is_parked_here());
    let frame = if here { None } else { running.top() };
    let parked = frame.and_then(|frame| match frame.guard() {
        // SAFETY: while the thread is parked in a frame no call uses the
        // frame, and parks end before frames do.
        Some(guard) => Some(unsafe { guard.set_parked() }),
        None => frame.held.as_mut().map(|held| {
            // SAFETY: the park refers to the thread, and ends before the
            // frame is touched again.
            let held = unsafe { lasting_mut(held) };
            // SAFETY: as above.
            unsafe { held.set_parked() }
        }),
    });
    running.parks.push((depth, parked));
    Ok(JITA_OK)
}

/// Says that the thread may block now: until jita_unpark it holds up the
/// reclamation of nothing but what it holds by jita_enter with a word. Code that
/// it has loaded otherwise must not be used any more. Nests: a parked thread may
/// enter code again, and exits it before it is unparked. While an outer jita_enter
/// without a word is open, the thread goes on holding up reclamation. Wait-free, but
/// allocates where the thread nests deeper than before, and attaches it if it is not.
///
/// Errors: JITA_ERROR_STATE inside a write scope. JITA_ERROR_HANDLE for an arena that
/// was destroyed, unless the thread is inside its code.
#[unsafe(no_mangle)]
pub extern "C" fn jita_park(arena: *mut jita_arena) -> jita_status {
    border(|| {
        let id = Id::of(arena);
        // A thread that is inside code may block there, whatever has become of the
        // arena.
        let inside = |attached: &mut Attached| {
            if !id.is_open() && attached.unfinished().is_none() {
                return Err(no_such(id));
            }
            park(attached)
        };
        match thread::with_known(id, inside)? {
            Some(status) => Ok(status),
            None => thread::with(id, park),
        }
    })
}

/// Ends the last jita_park of the calling thread: it runs code again. Works after
/// the arena was destroyed, too. As wait-free as jita_enter and jita_exit.
///
/// Errors: JITA_ERROR_STATE if it is not parked, or has entered code since.
#[unsafe(no_mangle)]
pub extern "C" fn jita_unpark(arena: *mut jita_arena) -> jita_status {
    border(|| {
        let outside = || state("the thread is not parked here: call jita_park first");
        let done = thread::with_known(Id::of(arena), |attached| {
            if !attached.running.is_parked_here() {
                return Err(outside());
            }
            drop(attached.running.parks.pop());
            Ok(JITA_OK)
        })?;
        done.ok_or_else(outside)
    })
}

/// Attaches the calling thread: gives it what it needs to install and run code.
/// Counted: as many jita_detach take it back. A thread that exits detaches, so
/// calling neither is fine, unless the arena has JITA_EXPLICIT_ATTACH. Allocates.
#[unsafe(no_mangle)]
pub extern "C" fn jita_attach(arena: *mut jita_arena) -> jita_status {
    border(|| thread::attach(Id::of(arena)).map(|()| JITA_OK))
}

/// Ends one jita_attach of the calling thread, or one that a call did unasked.
/// With the last the thread lets go of the arena: blocks that it has not
/// published are given back.
///
/// Errors: JITA_ERROR_STATE if the thread is not attached, or with the last is parked,
/// inside code or inside a write scope.
#[unsafe(no_mangle)]
pub extern "C" fn jita_detach(arena: *mut jita_arena) -> jita_status {
    border(|| {
        if thread::detach(Id::of(arena))? {
            Ok(JITA_OK)
        } else {
            Err(state("the thread is not attached to this arena: it cannot detach"))
        }
    })
}
