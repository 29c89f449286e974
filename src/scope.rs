//! Write scopes: the time in which a thread may write code memory.
//!
//! A scope opens the thread's rights, then a window on each claim it writes
//! to. What it hands out borrows the scope, so it is gone when the rights are,
//! `[W2]`; every slice is derived from a raw pointer inside the scope, so the
//! compiler has no licence to move a store past the close, `[W4]`.

use core::fmt;
use core::marker::PhantomData;

use crate::error::{ReserveError, WriteError};
use crate::layout::{CodeLayout, header_of};
use crate::protect::{Rights, Window};
use crate::reservation::Reservation;
use crate::stats;
use crate::thread::ThreadState;
use crate::units::Span;

/// The window a thread has open, and what was written through it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpenWindow {
    window: Window,
    /// Addresses in the executable view; empty if `low >= high`.
    low: usize,
    high: usize,
}

impl OpenWindow {
    pub(crate) fn window(&self) -> Window {
        self.window
    }
}

/// The calling thread may write what it reserved, until this is dropped.
///
/// Closes on unwinding too. Stays on its thread:
///
/// ```compile_fail
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut thread = jit_arena::Arena::new()?.attach()?;
/// let scope = thread.write();
/// std::thread::scope(|s| { s.spawn(move || drop(scope)); });
/// # Ok(())
/// # }
/// ```
#[must_use = "the scope closes when it is dropped"]
pub struct WriteScope<'t> {
    thread: &'t ThreadState,
    before: Rights,
    _not_send: PhantomData<*mut ()>,
}

impl<'t> WriteScope<'t> {
    pub(crate) fn open(thread: &'t ThreadState) -> Self {
        let region = &thread.shared().region;
        if thread.open_scopes.get() == 0 {
            thread.scopes.set(thread.scopes.get() + 1);
        }
        thread.open_scopes.set(thread.open_scopes.get() + 1);
        let before = region.protection().open(region.platform());
        Self { thread, before, _not_send: PhantomData }
    }

    /// Writes `bytes` at `offset` from the entry of the reservation.
    ///
    /// No system call unless the strategy maps or re-protects a window.
    ///
    /// # Errors
    ///
    /// A reservation of another handle, or of an earlier scope where that
    /// sealed it; bytes outside it; a window that the system refused.
    pub fn write_at(
        &mut self,
        reservation: &mut Reservation,
        offset: usize,
        bytes: &[u8],
    ) -> Result<(), WriteError> {
        let reserved = reservation.len();
        if offset > reserved || bytes.len() > reserved - offset {
            return Err(WriteError::OutOfBounds { offset, len: bytes.len(), reserved });
        }
        let window = self.window(reservation)?;
        let to = window.writable_at(reservation.entry() + offset);
        // SAFETY: [W1] the window is open and covers the reservation, which
        // the caller borrows exclusively; the bounds were checked.
        unsafe { self.thread.shared().region.platform().copy_in(to, bytes) };
        Ok(())
    }

    /// The reservation's bytes for writing: code, then what lies between, then
    /// data. What the code is to run at is
    /// [`Reservation::entry`](Reservation::entry); add the difference to
    /// relative patches made by address.
    ///
    /// # Errors
    ///
    /// As [`write_at`](Self::write_at).
    pub fn bytes(&mut self, reservation: &mut Reservation) -> Result<&mut [u8], WriteError> {
        let window = self.window(reservation)?;
        let to = core::ptr::with_exposed_provenance_mut(window.writable_at(reservation.entry()));
        // SAFETY: [W1] the window is open and covers the reservation; nobody
        // else writes there, and nobody reads what is not published. The
        // slice borrows the scope, [W2], and comes from a raw pointer, [W4].
        Ok(unsafe { core::slice::from_raw_parts_mut(to, reservation.len()) })
    }

    /// Makes the reservation smaller, down to `code_len` bytes of code and
    /// `data_len` of data. The data stays where it was reserved, so it can be
    /// dropped (0) or cut, and code can shrink only if there is no data left.
    ///
    /// What falls off is filled with traps and can be reserved again at once.
    ///
    /// # Errors
    ///
    /// Sizes that are not smaller; otherwise as [`write_at`](Self::write_at).
    pub fn shrink(
        &mut self,
        reservation: &mut Reservation,
        code_len: usize,
        data_len: usize,
    ) -> Result<(), WriteError> {
        let mut block = reservation.block();
        let moves_data = data_len > 0 && code_len != block.code_len;
        if code_len == 0 || code_len > block.code_len || data_len > block.data_len || moves_data {
            return Err(WriteError::BadShrink);
        }
        if data_len == 0 {
            block.data_offset = code_len;
        }
        (block.code_len, block.data_len) = (code_len, data_len);
        let window = self.window(reservation)?;
        let tail = reservation.shrink(block);
        self.write_header(reservation, &window);
        if tail.len > 0 {
            let platform = self.thread.shared().region.platform();
            // SAFETY: [W1] the tail lies in the window, and belonged to the
            // reservation until now.
            unsafe { platform.fill_traps(window.writable_at(tail.start), tail.len) };
            self.thread.unreserved_part(tail);
            if !self.thread.unbump(tail) {
                self.thread.abandon(tail);
            }
        }
        Ok(())
    }

    /// Reserves place for another executor, to be written in this scope.
    ///
    /// # Errors
    ///
    /// As [`ThreadHandle::reserve`](crate::ThreadHandle::reserve).
    pub fn reserve(&mut self, layout: CodeLayout) -> Result<Reservation, ReserveError> {
        self.thread.reserve(layout)
    }

    /// A scope inside this one. Rights end with the outermost.
    pub fn nest(&mut self) -> WriteScope<'_> {
        WriteScope::open(self.thread)
    }

    /// The window to write `reservation` through; writes its header when it is
    /// first asked for.
    fn window(&mut self, reservation: &mut Reservation) -> Result<Window, WriteError> {
        let thread = self.thread;
        if !reservation.is_of(thread) {
            return Err(WriteError::Foreign);
        }
        let units = &thread.shared().units;
        let of_this_scope = reservation.scope() == thread.scopes.get();
        if units.are_coarse() && reservation.scope() != 0 && !of_this_scope {
            return Err(WriteError::Sealed);
        }
        let span = reservation.span();
        let mut open = match thread.window.get() {
            Some(open) if open.window.span.contains(span) => open,
            _ => {
                thread.close_window();
                let claim = thread.claim.get().span();
                let around = if claim.contains(span) { claim } else { span };
                thread.open_window(around.round_out(units.bytes()))?
            }
        };
        open.low = open.low.min(span.start);
        open.high = open.high.max(span.end());
        thread.window.set(Some(open));
        if !reservation.is_written() {
            reservation.set_written();
            self.write_header(reservation, &open.window);
        }
        Ok(open.window)
    }

    fn write_header(&self, reservation: &Reservation, window: &Window) {
        let words = reservation.block().encode(reservation.entry());
        let to = window.writable_at(header_of(reservation.entry()));
        // SAFETY: [W1] the window covers the reservation's granules, and the
        // header starts the first of them.
        unsafe { self.thread.shared().region.platform().store_words(to, words) };
    }
}

impl ThreadState {
    fn open_window(&self, span: Span) -> Result<OpenWindow, WriteError> {
        let region = &self.shared().region;
        // SAFETY: [W1] the span is this thread's claim or reservation, in
        // whole units none of which has been published.
        let window = unsafe { region.protection().window(region.platform(), span) }?;
        Ok(OpenWindow { window, low: usize::MAX, high: 0 })
    }

    /// Closes the window, if one is open. If the system refuses, the window is
    /// kept for `publish` to close, and counted.
    pub(crate) fn close_window(&self) {
        let Some(open) = self.window.take() else { return };
        let region = &self.shared().region;
        if open.low < open.high {
            let written = open.window.writable_at(open.low);
            // SAFETY: the window is still open and covers what was written.
            unsafe { region.platform().clean_data_cache(written, open.high - open.low) };
        }
        // SAFETY: opened by `open_window`, and taken out of its cell.
        let closed = unsafe { region.protection().close_window(region.platform(), open.window) };
        if closed.is_err() {
            stats::add(&self.tallies().refusals, 1);
            self.unsealed.borrow_mut().push(open.window);
        }
    }

    /// Ends scopes that were forgotten, `mem::forget`, and not dropped. Whoever
    /// can reach the thread's handle is in none of its scopes, so what is open
    /// then is one of those, `[W2]`.
    #[inline]
    pub(crate) fn end_forgotten_scopes(&self) {
        if self.open_scopes.get() > 0 {
            self.end_scopes();
        }
    }

    #[cold]
    fn end_scopes(&self) {
        self.open_scopes.set(0);
        self.seal_scope();
        let region = &self.shared().region;
        // What it had before is forgotten, too: what a thread has in no scope.
        region.protection().attach(region.platform());
    }

    /// What the end of the outermost scope does beside giving the rights back.
    #[inline]
    fn seal_scope(&self) {
        self.close_window();
        self.close_unit();
        self.abandon_withheld();
    }
}

impl Drop for WriteScope<'_> {
    fn drop(&mut self) {
        let thread = self.thread;
        thread.open_scopes.set(thread.open_scopes.get() - 1);
        if thread.open_scopes.get() == 0 {
            thread.seal_scope();
        }
        let region = &thread.shared().region;
        region.protection().close(region.platform(), self.before);
    }
}

impl fmt::Debug for WriteScope<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriteScope")
            .field("window", &self.thread.window.get())
            .finish_non_exhaustive()
    }
}
