//! Results: a number that every function returns which can fail, a message of the
//! thread's, a log; and the border that no panic passes.

use core::ffi::{CStr, c_char, c_int, c_void};
use core::fmt::Display;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use std::error::Error;
use std::ffi::CString;
use std::io::{self, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};

use jit_arena::{
    AttachError, BuildError, InstallError, PublishError, PublishErrorKind, ReserveError,
    RetireError, TrampolineError, WriteError,
};

use crate::thread::with_thread;

/// What functions return that can fail: JITA_OK, JITA_EMPTY, or an error, which is
/// below zero. After an error nothing has changed, where the function does not say
/// otherwise. Of the functions that cannot fail, jita_contains returns 1 or 0,
/// jita_version, jita_error_name and jita_last_error return text, and jita_set_log and
/// jita_abort_on_misuse nothing.
pub type jita_status = c_int;

/// It was done.
pub const JITA_OK: c_int = 0;
/// There was nothing to enter. Not an error.
pub const JITA_EMPTY: c_int = 1;
/// A pointer is null that must not be.
pub const JITA_ERROR_NULL: c_int = -1;
/// An argument is out of range: a size, an alignment, an option, a name.
pub const JITA_ERROR_INVALID: c_int = -2;
/// No arena has this handle: it was destroyed, or never was.
pub const JITA_ERROR_HANDLE: c_int = -3;
/// The call is out of order: an exit without an enter, code entered inside a
/// write scope, a detach in the middle of something. The message says what.
pub const JITA_ERROR_STATE: c_int = -4;
/// The address is not in the code memory of any arena.
pub const JITA_ERROR_FOREIGN: c_int = -5;
/// The address is in the middle of code, not its first instruction.
pub const JITA_ERROR_MIDDLE: c_int = -6;
/// The code was freed before.
pub const JITA_ERROR_FREED: c_int = -7;
/// The address is code memory, and no code starts there: it was freed before and
/// its memory recycled, or it is another thread's and not published yet.
pub const JITA_ERROR_NOT_CODE: c_int = -8;
/// No write scope was open and closed since the block was allocated.
pub const JITA_ERROR_UNWRITTEN: c_int = -9;
/// The block was written after the write scope it was allocated in. With the
/// strategy mprotect that is too late.
pub const JITA_ERROR_SEALED: c_int = -10;
/// No room is left in the arena, or in its budget. Free code.
pub const JITA_ERROR_EXHAUSTED: c_int = -11;
/// The operating system refused something, or the environment asks for what there
/// is not.
pub const JITA_ERROR_OS: c_int = -12;
/// The thread is not attached, and the arena was created with
/// JITA_EXPLICIT_ATTACH.
pub const JITA_ERROR_NOT_ATTACHED: c_int = -13;
/// There are as many arenas already as there can be.
pub const JITA_ERROR_TOO_MANY: c_int = -14;
/// No trampoline can serve the branch: it is outside the arena, or the arena is
/// longer than branches reach.
pub const JITA_ERROR_REACH: c_int = -15;
/// The size of a struct is none that the library knows, or what lies beyond the
/// part that it knows is not zero.
pub const JITA_ERROR_VERSION: c_int = -16;
/// An invariant does not hold, or the library has panicked: a bug, or memory
/// that was written by somebody else.
pub const JITA_ERROR_BUG: c_int = -17;

/// Level of a log message: something was refused.
pub const JITA_LOG_ERROR: c_int = 1;
/// Level of a log message: something is odd.
pub const JITA_LOG_WARNING: c_int = 2;
/// Level of a log message: what was chosen and done.
pub const JITA_LOG_INFO: c_int = 3;

/// Receives log messages: the context it was set with, a level (JITA_LOG_ERROR
/// and so on) and a text that is valid during the call only. It is called on any
/// thread, several at a time. It must neither call the library, but for
/// jita_error_name, nor throw, nor jump out.
pub type jita_log_fn =
    Option<unsafe extern "C" fn(context: *mut c_void, level: c_int, message: *const c_char)>;

/// An error on its way to the border.
#[derive(Debug)]
pub(crate) struct Failure {
    code: jita_status,
    message: String,
}

impl Failure {
    pub(crate) fn new(code: jita_status, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// An error with all that is below it.
    fn of(code: jita_status, error: &dyn Error) -> Self {
        let mut message = error.to_string();
        let mut below = error.source();
        while let Some(error) = below {
            message = format!("{message}: {error}");
            below = error.source();
        }
        Self { code, message }
    }
}

pub(crate) fn null(what: impl Display) -> Failure {
    Failure::new(JITA_ERROR_NULL, format!("{what} is null"))
}

impl From<AttachError> for Failure {
    fn from(error: AttachError) -> Self {
        Self::of(JITA_ERROR_OS, &error)
    }
}

impl From<BuildError> for Failure {
    fn from(error: BuildError) -> Self {
        let code = match error {
            BuildError::OutOfRange { .. } | BuildError::Unaligned { .. } => JITA_ERROR_INVALID,
            // A strategy that the environment names, too: the one that the caller
            // may name was looked up before.
            _ => JITA_ERROR_OS,
        };
        Self::of(code, &error)
    }
}

impl From<ReserveError> for Failure {
    fn from(error: ReserveError) -> Self {
        let code = match error {
            ReserveError::Exhausted { .. } | ReserveError::OverBudget { .. } => {
                JITA_ERROR_EXHAUSTED
            }
            ReserveError::Os(_) => JITA_ERROR_OS,
            _ => JITA_ERROR_INVALID,
        };
        Self::of(code, &error)
    }
}

impl From<WriteError> for Failure {
    fn from(error: WriteError) -> Self {
        let code = match error {
            WriteError::Os(_) => JITA_ERROR_OS,
            WriteError::Sealed => JITA_ERROR_SEALED,
            _ => JITA_ERROR_INVALID,
        };
        Self::of(code, &error)
    }
}

impl From<&PublishError> for Failure {
    fn from(error: &PublishError) -> Self {
        let code = match error.kind {
            PublishErrorKind::Os(_) => JITA_ERROR_OS,
            PublishErrorKind::Unwritten => JITA_ERROR_UNWRITTEN,
            _ => JITA_ERROR_STATE,
        };
        Self::of(code, error)
    }
}

impl From<InstallError> for Failure {
    fn from(error: InstallError) -> Self {
        match error {
            InstallError::Reserve(error) => error.into(),
            InstallError::Write(error) => error.into(),
            error => Self::of(JITA_ERROR_OS, &error),
        }
    }
}

impl From<RetireError> for Failure {
    fn from(error: RetireError) -> Self {
        let code = match error {
            RetireError::Outside { .. } => JITA_ERROR_FOREIGN,
            RetireError::NotAnEntry { inside: Some(_), .. } => JITA_ERROR_MIDDLE,
            RetireError::NotAnEntry { inside: None, .. } => JITA_ERROR_NOT_CODE,
            RetireError::Retired { .. } => JITA_ERROR_FREED,
            _ => JITA_ERROR_OS,
        };
        Self::of(code, &error)
    }
}

impl From<TrampolineError> for Failure {
    fn from(error: TrampolineError) -> Self {
        let code = match error {
            TrampolineError::Exhausted { .. } | TrampolineError::OverBudget { .. } => {
                JITA_ERROR_EXHAUSTED
            }
            TrampolineError::BeyondReach { .. } | TrampolineError::Outside { .. } => {
                JITA_ERROR_REACH
            }
            _ => JITA_ERROR_OS,
        };
        Self::of(code, &error)
    }
}

/// A function and what it is called with.
struct Log {
    call: jita_log_fn,
    context: *mut c_void,
    /// The one that was set before. Never freed: somebody may be calling it.
    before: *mut Log,
}

/// The log in use.
static LOG: AtomicPtr<Log> = AtomicPtr::new(ptr::null_mut());

static ABORTS: AtomicBool = AtomicBool::new(false);

pub(crate) fn log(level: c_int, message: &str) {
    // Acquire: pairs with the Release in `jita_set_log`.
    let log = LOG.load(Ordering::Acquire);
    // SAFETY: a box that is never freed, or null.
    let Some(log) = (unsafe { log.as_ref() }) else { return };
    let Some(call) = log.call else { return };
    let message = to_c(message);
    // SAFETY: the caller of `jita_set_log` vouches for function and context.
    unsafe { call(log.context, level, message.as_ptr()) };
}

/// Text without the zeros in it.
fn to_c(text: &str) -> CString {
    let bytes: Vec<u8> = text.bytes().filter(|byte| *byte != 0).collect();
    CString::new(bytes).unwrap_or_default()
}

/// Runs what a function of the interface does. Panics end here.
pub(crate) fn border(f: impl FnOnce() -> Result<jita_status, Failure>) -> jita_status {
    let failure = match catch_unwind(AssertUnwindSafe(f)) {
        Ok(Ok(code)) => return code,
        Ok(Err(failure)) => failure,
        Err(panic) => {
            let text = panic.downcast_ref::<&str>().copied().map(str::to_owned);
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
            // Its destructor could panic as well.
            core::mem::forget(panic);
            let text = text.unwrap_or_else(|| "no text".to_owned());
            Failure::new(JITA_ERROR_BUG, format!("the library panicked: {text}"))
        }
    };
    // The log is a client's and may not panic, but formatting is ours.
    let told = catch_unwind(AssertUnwindSafe(|| tell(&failure)));
    core::mem::forget(told);
    failure.code
}

fn tell(failure: &Failure) {
    log(JITA_LOG_ERROR, &failure.message);
    // Relaxed: a setting.
    if is_misuse(failure.code) && ABORTS.load(Ordering::Relaxed) {
        // Also where nobody can be told why.
        let _ = writeln!(io::stderr(), "jita: {}: {}", name(failure.code), failure.message);
        std::process::abort();
    }
    let message = to_c(&failure.message);
    with_thread(|thread| thread.last.replace(Some(message)));
}

/// Whether the caller is to blame, not the machine, the environment or the library.
fn is_misuse(code: jita_status) -> bool {
    matches!(
        code,
        JITA_ERROR_NULL
            | JITA_ERROR_INVALID
            | JITA_ERROR_HANDLE
            | JITA_ERROR_STATE
            | JITA_ERROR_FOREIGN
            | JITA_ERROR_MIDDLE
            | JITA_ERROR_FREED
            | JITA_ERROR_NOT_CODE
            | JITA_ERROR_UNWRITTEN
            | JITA_ERROR_SEALED
            | JITA_ERROR_NOT_ATTACHED
            | JITA_ERROR_VERSION
    )
}

fn name(code: jita_status) -> &'static str {
    name_c(code).to_str().unwrap_or("?")
}

fn name_c(code: jita_status) -> &'static CStr {
    match code {
        JITA_OK => c"ok",
        JITA_EMPTY => c"empty",
        JITA_ERROR_NULL => c"null pointer",
        JITA_ERROR_INVALID => c"invalid argument",
        JITA_ERROR_HANDLE => c"no such arena",
        JITA_ERROR_STATE => c"call out of order",
        JITA_ERROR_FOREIGN => c"foreign address",
        JITA_ERROR_MIDDLE => c"middle of code",
        JITA_ERROR_FREED => c"freed before",
        JITA_ERROR_NOT_CODE => c"no code there",
        JITA_ERROR_UNWRITTEN => c"not written",
        JITA_ERROR_SEALED => c"written too late",
        JITA_ERROR_EXHAUSTED => c"exhausted",
        JITA_ERROR_OS => c"refused by the system",
        JITA_ERROR_NOT_ATTACHED => c"thread not attached",
        JITA_ERROR_TOO_MANY => c"too many arenas",
        JITA_ERROR_REACH => c"out of reach",
        JITA_ERROR_VERSION => c"unknown struct size",
        JITA_ERROR_BUG => c"bug",
        _ => c"unknown status",
    }
}

/// What a status is called, in a few words. Never null; valid for ever. Any
/// thread, signal handlers too.
#[unsafe(no_mangle)]
pub extern "C" fn jita_error_name(status: jita_status) -> *const c_char {
    name_c(status).as_ptr()
}

/// What the last error of the calling thread was and what to do about it; empty
/// if there was none. Never null; owned by the library; valid on this thread
/// until its next call that returns an error, or its end.
#[unsafe(no_mangle)]
pub extern "C" fn jita_last_error() -> *const c_char {
    let last = with_thread(|thread| {
        let last = thread.last.borrow();
        last.as_ref().map_or(c"".as_ptr(), |last| last.as_ptr())
    });
    last.unwrap_or(c"the system has no place for a thread's state".as_ptr())
}

/// Has `log` called with messages from now on, for all arenas of the process;
/// null for none, which is how it begins. Any thread; a message of before may
/// still be on its way to the function that was set before.
///
/// # Safety
///
/// `log` is null or a function as jita_log_fn describes, which may be called
/// with `context` until the process ends.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jita_set_log(log: jita_log_fn, context: *mut c_void) {
    // Relaxed: only compared, and kept.
    let mut before = LOG.load(Ordering::Relaxed);
    let new = Box::into_raw(Box::new(Log { call: log, context, before }));
    // Release: pairs with the Acquire in `log`.
    while let Err(now) = LOG.compare_exchange(before, new, Ordering::Release, Ordering::Relaxed) {
        before = now;
        // SAFETY: made above, and not shared yet.
        unsafe { (*new).before = before };
    }
}

/// Whether misuse (an error that only a bug of the caller's can cause, such as a
/// double free) writes its message to standard error and aborts the process in
/// place of returning; 0 for no, which is how it begins. What the system, the
/// environment or a bug of the library's is to blame for is returned all the same.
/// Any thread; for all arenas of the process.
#[unsafe(no_mangle)]
pub extern "C" fn jita_abort_on_misuse(aborts: c_int) {
    // Relaxed: a setting.
    ABORTS.store(aborts != 0, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last() -> String {
        // SAFETY: text of the library's, until the next error of this thread.
        unsafe { CStr::from_ptr(jita_last_error()) }.to_string_lossy().into_owned()
    }

    #[test]
    fn panics_end_at_the_border() {
        assert_eq!(last(), "");
        assert_eq!(border(|| panic!("from {}", "inside")), JITA_ERROR_BUG);
        assert_eq!(last(), "the library panicked: from inside");
        assert_eq!(border(|| std::panic::panic_any(7)), JITA_ERROR_BUG);
        assert_eq!(last(), "the library panicked: no text");
        assert_eq!(border(|| Err(Failure::new(JITA_ERROR_STATE, "a \0 b"))), JITA_ERROR_STATE);
        assert_eq!(last(), "a  b");
        assert_eq!(border(|| Ok(JITA_EMPTY)), JITA_EMPTY);
        assert_eq!(last(), "a  b", "what is no error leaves the message");
        let other = std::thread::spawn(last).join().unwrap();
        assert_eq!(other, "", "another thread has its own");
    }

    #[test]
    fn every_status_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<_> =
            (JITA_ERROR_BUG..=JITA_EMPTY).map(name).collect();
        assert_eq!(names.len() as i32, JITA_EMPTY - JITA_ERROR_BUG + 1);
        assert!(!names.contains(name(99)));
    }

    #[test]
    fn only_the_callers_bugs_are_misuse() {
        assert!(is_misuse(JITA_ERROR_FREED) && is_misuse(JITA_ERROR_INVALID));
        for code in [JITA_ERROR_BUG, JITA_ERROR_OS, JITA_ERROR_EXHAUSTED, JITA_EMPTY, JITA_OK] {
            assert!(!is_misuse(code), "{}", name(code));
        }
    }
}
