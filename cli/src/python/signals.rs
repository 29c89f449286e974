//! Signals: to threads in the middle of anything, whose handler looks up where
//! they were; and those that freed code raises, which end the run as a finding.

use std::io;
use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};

use jit_arena::Arena;

use crate::failure::Check;

/// The signal whose handler looks up the interrupted place.
pub(crate) const LOOK: libc::c_int = libc::SIGUSR1;

/// Signals that a thread gets that runs what is no code of its own.
const FATAL: [libc::c_int; 4] = [libc::SIGTRAP, libc::SIGILL, libc::SIGSEGV, libc::SIGBUS];

/// The arena that handlers ask; null when there is none.
static ARENA: AtomicPtr<Arena> = AtomicPtr::new(std::ptr::null_mut());

/// Handlers that are looking at [`ARENA`].
static LOOKING: AtomicUsize = AtomicUsize::new(0);

/// Signals that interrupted machine code, and those of which the executor was
/// found.
static INSIDE: AtomicU64 = AtomicU64::new(0);
static FOUND: AtomicU64 = AtomicU64::new(0);

/// Places in the arena at which no executor was found: trampolines, or a fault.
static MISSED: [AtomicUsize; 64] = [const { AtomicUsize::new(0) }; 64];
static MISSES: AtomicUsize = AtomicUsize::new(0);

/// What the handlers have counted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) inside: u64,
    pub(crate) found: u64,
}

pub(crate) fn counts() -> Counts {
    // Relaxed: counts.
    Counts { inside: INSIDE.load(Ordering::Relaxed), found: FOUND.load(Ordering::Relaxed) }
}

/// Checks that every interrupted executor was found.
pub(crate) fn check(arena: &Arena) -> Result<(), Check> {
    let trampolines = arena.trampolines();
    for missed in &MISSED {
        let at = missed.load(Ordering::Relaxed);
        let known = |t: &jit_arena::Trampoline| (t.address..t.address + 16).contains(&at);
        if at != 0 && !trampolines.iter().any(known) {
            return Err(Check::NotFound { at });
        }
    }
    Ok(())
}

/// Where a thread was when it got a signal.
fn interrupted(context: *mut libc::c_void) -> usize {
    let context = context.cast::<libc::ucontext_t>();
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    // SAFETY: the kernel's context of the interrupted thread.
    return unsafe { (*context).uc_mcontext.gregs[libc::REG_RIP as usize] } as usize;
    #[cfg(all(target_os = "linux", target_arch = "aarch64"))]
    // SAFETY: as above.
    return unsafe { (*context).uc_mcontext.pc } as usize;
    #[cfg(not(target_os = "linux"))]
    {
        let _ = context;
        0
    }
}

/// Runs `f` with the arena, if there is one: async-signal-safe if `f` is.
fn with_arena<R>(f: impl FnOnce(&Arena) -> R) -> Option<R> {
    // SeqCst, here and in `drop`: who clears the pointer sees who may have it.
    LOOKING.fetch_add(1, Ordering::SeqCst);
    let arena = ARENA.load(Ordering::SeqCst);
    // SAFETY: `Handlers` clears the pointer and waits before the arena goes.
    let result = unsafe { arena.as_ref() }.map(f);
    LOOKING.fetch_sub(1, Ordering::SeqCst);
    result
}

extern "C" fn look(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let at = interrupted(context);
    with_arena(|arena| {
        if !arena.contains(at) {
            return;
        }
        INSIDE.fetch_add(1, Ordering::Relaxed);
        match arena.lookup(at) {
            Some(info) if (info.code.start..info.code.start + info.code.len).contains(&at) => {
                FOUND.fetch_add(1, Ordering::Relaxed);
            }
            _ => {
                let number = MISSES.fetch_add(1, Ordering::Relaxed);
                if let Some(place) = MISSED.get(number) {
                    place.store(at, Ordering::Relaxed);
                }
            }
        }
    });
}

/// Tells where it happened and ends the process: the arena has let code go that
/// somebody ran, or worse.
extern "C" fn fatal(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let at = interrupted(context);
    let inside = with_arena(|arena| arena.contains(at)) == Some(true);
    let mut text = [0_u8; 96];
    let mut len = 0;
    let mut put = |bytes: &[u8]| {
        for byte in bytes {
            if len < text.len() {
                text[len] = *byte;
                len += 1;
            }
        }
    };
    put(b"jit-arena: a thread got signal ");
    put(&[b'0' + (signal / 10) as u8, b'0' + (signal % 10) as u8]);
    put(if inside { b" in code memory, at 0x" } else { b" outside code memory, at 0x" });
    for shift in (0..16).rev() {
        put(&[b"0123456789abcdef"[at >> (4 * shift) & 15]]);
    }
    put(b"\n");
    let _ = info;
    // SAFETY: of a buffer; async-signal-safe, as is what follows.
    unsafe { libc::write(2, text.as_ptr().cast(), len) };
    // SAFETY: nothing runs behind it.
    unsafe { libc::_exit(1) };
}

/// The handlers, until this is dropped.
#[derive(Debug)]
pub(crate) struct Handlers {
    arena: *mut Arena,
    before: Vec<(libc::c_int, libc::sigaction)>,
}

type Handler = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);

impl Handlers {
    pub(crate) fn install(arena: &Arena) -> io::Result<Self> {
        let arena = Box::into_raw(Box::new(arena.clone()));
        ARENA.store(arena, Ordering::SeqCst);
        let mut handlers = Self { arena, before: Vec::new() };
        for place in &MISSED {
            place.store(0, Ordering::Relaxed);
        }
        for count in [&INSIDE, &FOUND] {
            count.store(0, Ordering::Relaxed);
        }
        handlers.set(LOOK, look)?;
        for signal in FATAL {
            handlers.set(signal, fatal)?;
        }
        Ok(handlers)
    }

    fn set(&mut self, signal: libc::c_int, handler: Handler) -> io::Result<()> {
        // SAFETY: all zero is a valid one.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: as above.
        let mut before: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART | libc::SA_ONSTACK;
        // SAFETY: the handler is async-signal-safe, and both are valid.
        if unsafe { libc::sigaction(signal, &raw const action, &raw mut before) } != 0 {
            return Err(io::Error::last_os_error());
        }
        self.before.push((signal, before));
        Ok(())
    }
}

impl Drop for Handlers {
    fn drop(&mut self) {
        for (signal, before) in &self.before {
            // SAFETY: what was there before.
            unsafe { libc::sigaction(*signal, before, std::ptr::null_mut()) };
        }
        ARENA.store(std::ptr::null_mut(), Ordering::SeqCst);
        while LOOKING.load(Ordering::SeqCst) > 0 {
            std::thread::yield_now();
        }
        // SAFETY: made by `install`, and nobody has it any more.
        drop(unsafe { Box::from_raw(self.arena) });
    }
}
