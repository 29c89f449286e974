//! What the calling thread has of each arena: its handle, and in a fixed order
//! of ending all that borrows it.
//!
//! It ends with the thread: what the thread runs, then its write scope, then what
//! it has not published, then the handle, which hands over what it has retired. It
//! is reached by a plain thread-local and ended by the destructor of a pthread key,
//! not of the thread-local: those run first, and clients free code in destructors
//! of their own keys. What comes after the end of a thread's state gives it a new
//! one, and the system calls the key's destructor again.

use core::cell::{Cell, RefCell};
use core::ffi::c_void;
use core::mem;
use core::ptr::{self, NonNull};
use std::ffi::CString;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

use jit_arena::{Arena, ThreadHandle, WriteScope};

use crate::registry::{self, Id, Open, no_such};
use crate::run::Running;
use crate::status::{Failure, JITA_ERROR_NOT_ATTACHED, JITA_ERROR_OS, JITA_ERROR_STATE};
use crate::write::Pending;

/// A thread's part in one arena. Fields end in order.
pub(crate) struct Attached {
    pub(crate) running: Running,
    scope: Option<WriteScope<'static>>,
    /// Write scopes open now: they nest.
    pub(crate) scopes: usize,
    /// Allocated and not published.
    pub(crate) pending: Vec<Pending>,
    /// Attaches that the client has asked for.
    pub(crate) attaches: usize,
    handle: Handle,
    pub(crate) arena: Arena,
    pub(crate) id: Id,
}

/// An owned handle, by a pointer: guards and scopes are kept beside it.
struct Handle(NonNull<ThreadHandle>);

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: a box of `Attached::new`. All that borrows it is in fields
        // that end before this one.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

/// What the library keeps for a thread.
#[derive(Default)]
pub(crate) struct Thread {
    /// Its last error.
    pub(crate) last: RefCell<Option<CString>>,
    attached: RefCell<Vec<Attached>>,
}

thread_local! {
    /// A box, or null. Has no destructor, so it can be had at any time.
    static THREAD: Cell<*mut Thread> = const { Cell::new(ptr::null_mut()) };
}

/// The key whose destructor ends a thread's state; `None` if there are no more.
fn key() -> Option<libc::pthread_key_t> {
    static KEY: OnceLock<Option<libc::pthread_key_t>> = OnceLock::new();
    *KEY.get_or_init(|| {
        let mut key = 0;
        // SAFETY: writes the key. The destructor takes what `with_thread` has set.
        let status = unsafe { libc::pthread_key_create(&raw mut key, Some(end)) };
        (status == 0).then_some(key)
    })
}

/// Ends the state of the calling thread.
unsafe extern "C" fn end(thread: *mut c_void) {
    // First, so that what ends below finds nothing to use.
    THREAD.set(ptr::null_mut());
    // SAFETY: set by `with_thread`, a box, and given to this once.
    let thread = unsafe { Box::from_raw(thread.cast::<Thread>()) };
    // Nothing in it panics; if it does, it is leaked and not passed to C.
    let result = catch_unwind(AssertUnwindSafe(|| drop(thread)));
    mem::forget(result);
}

/// Runs `f` with the calling thread's state; `None` if the system gives it none.
pub(crate) fn with_thread<R>(f: impl FnOnce(&Thread) -> R) -> Option<R> {
    let mut thread = THREAD.get();
    if thread.is_null() {
        let key = key()?;
        thread = Box::into_raw(Box::default());
        // SAFETY: a key of the process's, and a box for its destructor.
        if unsafe { libc::pthread_setspecific(key, thread.cast()) } != 0 {
            // SAFETY: made above, and given to nobody.
            drop(unsafe { Box::from_raw(thread) });
            return None;
        }
        THREAD.set(thread);
    }
    // SAFETY: a box that lives until the thread's key destructor, which does not
    // run during a call of the thread's.
    Some(f(unsafe { &*thread }))
}

impl Attached {
    fn new(id: Id, arena: Arena) -> Result<Self, Failure> {
        let handle = NonNull::from(Box::leak(Box::new(arena.attach()?)));
        Ok(Self {
            running: Running::default(),
            scope: None,
            scopes: 0,
            pending: Vec::new(),
            attaches: 0,
            handle: Handle(handle),
            arena,
            id,
        })
    }

    /// The handle, for what is kept beside it.
    pub(crate) fn lasting(&self) -> &'static ThreadHandle {
        // SAFETY: the box is freed after all that `Attached` keeps; nothing
        // else gets this reference.
        unsafe { self.handle.0.as_ref() }
    }

    /// The handle, to change.
    pub(crate) fn handle(&mut self) -> &mut ThreadHandle {
        // SAFETY: this thread's alone, borrowed through `self`. Guards and the
        // scope refer to what the handle points to, not to the handle.
        unsafe { self.handle.0.as_mut() }
    }

    /// The write scope that is open, and what is to be written in it.
    pub(crate) fn writing(&mut self) -> Option<(&mut WriteScope<'static>, &mut Vec<Pending>)> {
        let scope = self.scope.as_mut()?;
        Some((scope, &mut self.pending))
    }

    /// Opens the thread's rights.
    pub(crate) fn open_scope(&mut self) {
        // SAFETY: freed after the scope, which ends before it in `self`.
        let handle: &'static mut ThreadHandle = unsafe { &mut *self.handle.0.as_ptr() };
        self.scope = Some(handle.write());
    }

    /// Closes them.
    pub(crate) fn close_scope(&mut self) {
        self.scope = None;
    }

    /// What the thread is in the middle of, if anything.
    pub(crate) fn unfinished(&self) -> Option<&'static str> {
        if self.running.depth() > 0 {
            Some("inside code: call jita_exit first")
        } else if self.running.is_parked() {
            Some("parked: call jita_unpark first")
        } else if self.scopes > 0 {
            Some("inside a write scope: call jita_write_close first")
        } else {
            None
        }
    }
}

pub(crate) fn state(message: impl Into<String>) -> Failure {
    Failure::new(JITA_ERROR_STATE, message)
}

/// Borrows what the thread has.
fn with_all<R>(f: impl FnOnce(&mut Vec<Attached>) -> Result<R, Failure>) -> Result<R, Failure> {
    let result = with_thread(|thread| match thread.attached.try_borrow_mut() {
        Ok(mut all) => f(&mut all),
        Err(_) => Err(state("the library is in the middle of another call on this thread")),
    });
    let refused = || Failure::new(JITA_ERROR_OS, "the system has no place for a thread's state");
    result.unwrap_or_else(|| Err(refused()))
}

/// Runs `f` with the thread's part in an open arena, which it attaches to if
/// that may be done unasked.
pub(crate) fn with<R>(
    id: Id,
    f: impl FnOnce(&mut Attached) -> Result<R, Failure>,
) -> Result<R, Failure> {
    with_all(|all| {
        if let Some(attached) = all.iter_mut().find(|attached| attached.id == id) {
            return if id.is_open() { f(attached) } else { Err(no_such(id)) };
        }
        f(attach_new(all, id, false)?)
    })
}

/// Runs `f` with what the thread has of an arena, open or not, to end something
/// there; `None` if it has nothing.
pub(crate) fn with_known<R>(
    id: Id,
    f: impl FnOnce(&mut Attached) -> Result<R, Failure>,
) -> Result<Option<R>, Failure> {
    with_all(|all| {
        let Some(at) = all.iter().position(|attached| attached.id == id) else { return Ok(None) };
        let result = f(&mut all[at]);
        forget_closed(all);
        result.map(Some)
    })
}

/// Runs `f` with the thread's part in the arena whose memory `address` is in.
pub(crate) fn with_arena_at<R>(
    address: usize,
    f: impl FnOnce(&mut Attached) -> Result<R, Failure>,
) -> Result<Option<R>, Failure> {
    with_all(|all| {
        let found = all.iter_mut().find(|it| it.arena.contains(address) && it.id.is_open());
        found.map(f).transpose()
    })
}

/// Attaches as the client asks for it.
pub(crate) fn attach(id: Id) -> Result<(), Failure> {
    with_all(|all| {
        let attached = match all.iter().position(|attached| attached.id == id) {
            Some(at) if id.is_open() => &mut all[at],
            Some(_) => return Err(no_such(id)),
            None => attach_new(all, id, true)?,
        };
        attached.attaches += 1;
        Ok(())
    })
}

/// Lets go of an arena once per `attach`; whether the thread had it.
pub(crate) fn detach(id: Id) -> Result<bool, Failure> {
    let gone = with_all(|all| {
        let Some(at) = all.iter().position(|attached| attached.id == id) else { return Ok(None) };
        let attached = &mut all[at];
        if attached.attaches > 1 {
            attached.attaches -= 1;
            return Ok(Some(None));
        }
        if let Some(what) = attached.unfinished() {
            return Err(state(format!("the thread cannot detach, it is {what}")));
        }
        Ok(Some(Some(all.swap_remove(at))))
    })?;
    // Outside the borrow: it may free the arena.
    Ok(gone.is_some())
}

/// What the thread is in the middle of in an arena.
pub(crate) fn unfinished(id: Id) -> Result<Option<&'static str>, Failure> {
    with_all(|all| {
        let attached = all.iter().find(|attached| attached.id == id);
        Ok(attached.and_then(|attached| attached.unfinished()))
    })
}

/// As [`detach`], whatever was attached how often.
pub(crate) fn leave(id: Id) -> Result<(), Failure> {
    let gone = with_all(|all| {
        let at = all.iter().position(|attached| attached.id == id);
        Ok(at.map(|at| all.swap_remove(at)))
    });
    // Dropped here, outside the borrow: it may free the arena.
    gone.map(drop)
}

fn attach_new(all: &mut Vec<Attached>, id: Id, asked: bool) -> Result<&mut Attached, Failure> {
    forget_closed(all);
    let known = |open: &Open| {
        let refused = open.explicit && !asked;
        (!refused).then(|| open.arena.clone())
    };
    let Some(arena) = registry::with(id, known)? else {
        return Err(Failure::new(
            JITA_ERROR_NOT_ATTACHED,
            "the thread is not attached, and the arena has JITA_EXPLICIT_ATTACH: call jita_attach",
        ));
    };
    all.push(Attached::new(id, arena)?);
    all.last_mut().ok_or_else(|| no_such(id))
}

/// Lets go of arenas that were destroyed, but for those the thread is inside.
fn forget_closed(all: &mut Vec<Attached>) {
    all.retain(|attached| attached.id.is_open() || attached.unfinished().is_some());
}

/// A reference whose lifetime the caller sees to.
///
/// # Safety
///
/// What is made with it is dropped before `value` is moved, dropped or used
/// otherwise.
pub(crate) unsafe fn lasting_mut<T>(value: &mut T) -> &'static mut T {
    // SAFETY: from the caller.
    unsafe { mem::transmute(value) }
}
