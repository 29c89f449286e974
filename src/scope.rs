//! Write scopes: the time in which a thread may write code memory.
//!
//! A scope opens the thread's rights, then a window on each claim it writes
//! to. What it hands out borrows the scope, so it is gone when the rights are,
//! `[W2]`; every slice is derived from a raw pointer inside the scope, so the
//! compiler has no licence to move a store past the close, `[W4]`.

use core::cell::Cell;
use core::fmt;
use core::marker::PhantomData;

use crate::error::{ReserveError, WriteError};
use crate::layout::{CodeLayout, header_of};
use crate::protect::Window;
use crate::reservation::Reservation;
use crate::stats;
use crate::sync::mutant;
use crate::thread::{self, ThreadState};
use crate::units::Span;

/// The window a thread has open, and what was written through it. In cells, for
/// each write looks at two of them and changes two.
#[derive(Debug)]
pub(crate) struct OpenWindow {
    /// In the executable view; empty while no window is open.
    start: Cell<usize>,
    end: Cell<usize>,
    /// Address of the span's first byte for writing.
    writable: Cell<usize>,
    /// What was written, in the executable view; nothing if `low >= high`.
    low: Cell<usize>,
    high: Cell<usize>,
}

impl OpenWindow {
    /// None.
    pub(crate) const fn none() -> Self {
        Self {
            start: Cell::new(0),
            end: Cell::new(0),
            writable: Cell::new(0),
            low: Cell::new(0),
            high: Cell::new(0),
        }
    }

    /// The window, if one is open.
    #[inline]
    pub(crate) fn get(&self) -> Option<Window> {
        let span = Span::new(self.start.get(), self.end.get() - self.start.get());
        (span.len > 0).then_some(Window { span, writable: self.writable.get() })
    }

    /// Takes the window for gone.
    pub(crate) fn forget(&self) {
        self.end.set(self.start.get());
    }

    fn set(&self, window: Window) {
        self.start.set(window.span.start);
        self.end.set(window.span.end());
        self.writable.set(window.writable);
        self.low.set(usize::MAX);
        self.high.set(0);
    }

    #[inline]
    fn covers(&self, span: Span) -> bool {
        span.start >= self.start.get() && span.end() <= self.end.get()
    }

    /// Counts a span as written.
    #[inline]
    fn note(&self, span: Span) {
        self.low.set(self.low.get().min(span.start));
        self.high.set(self.high.get().max(span.end()));
    }

    fn written(&self) -> Span {
        Span::new(self.low.get(), self.high.get().saturating_sub(self.low.get()))
    }

    /// As [`Window::writable_at`], of the window that is open.
    #[inline]
    fn writable_at(&self, addr: usize) -> usize {
        debug_assert!(self.covers(Span::new(addr, 0)));
        self.writable.get() + (addr - self.start.get())
    }
}

/// The calling thread may write what it reserved, until this is dropped.
///
/// Closes on unwinding too; one that is forgotten, when its handle is used again.
/// Stays on its thread:
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
    _not_send: PhantomData<*mut ()>,
}

impl<'t> WriteScope<'t> {
    #[inline]
    pub(crate) fn open(thread: &'t ThreadState) -> Self {
        if thread.open_scopes.get() == 0 {
            thread.scopes.set(thread.scopes.get() + 1);
        }
        thread.open_scopes.set(thread.open_scopes.get() + 1);
        let region = &thread.shared().region;
        // Also inside another: who left a signal handler by a jump has lost them.
        region.protection().open(region.platform());
        Self { thread, _not_send: PhantomData }
    }

    /// Writes `bytes` at `offset` from the entry of the reservation.
    ///
    /// No system call unless the strategy maps or re-protects a window.
    ///
    /// # Errors
    ///
    /// A reservation of another handle, or of an earlier scope where that
    /// sealed it; bytes outside it; a window that the system refused.
    #[inline]
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
        let to = self.window(reservation)?.writable_at(reservation.entry() + offset);
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
    ///
    /// The reservation stays as long as the slice does:
    ///
    /// ```compile_fail
    /// # use jit_arena::CodeLayout;
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let mut thread = jit_arena::Arena::new()?.attach()?;
    /// let mut reservation = thread.reserve(CodeLayout::new(1))?;
    /// let mut scope = thread.write();
    /// let bytes = scope.bytes(&mut reservation)?;
    /// drop(reservation); // its place may be another's from here on
    /// bytes[0] = 0xC3;
    /// # Ok(())
    /// # }
    /// ```
    pub fn bytes<'a>(
        &'a mut self,
        reservation: &'a mut Reservation,
    ) -> Result<&'a mut [u8], WriteError> {
        let at = self.window(reservation)?.writable_at(reservation.entry());
        let to = core::ptr::with_exposed_provenance_mut(at);
        // SAFETY: [W1] the window is open and covers the reservation. Nobody else
        // writes there, and nobody reads what is not published: the slice borrows
        // the reservation. It borrows the scope, [W2], and comes from a raw
        // pointer, [W4].
        Ok(unsafe { core::slice::from_raw_parts_mut(to, reservation.len()) })
    }

    /// Makes the reservation smaller, down to `code_len` bytes of code and
    /// `data_len` of data. The data stays where it was reserved, so it can be
    /// dropped (0) or cut, and code can shrink only if there is no data left.
    ///
    /// Whole granules of 64 bytes that fall off are filled with traps and become
    /// free: at once if nothing was reserved behind them, otherwise as those of a
    /// reservation that is dropped. Up to 63 bytes that fall off stay in the last
    /// granule as they are. Equal sizes change nothing.
    ///
    /// # Errors
    ///
    /// Sizes that are larger, no code, or less code with data behind it; otherwise
    /// as [`write_at`](Self::write_at).
    pub fn shrink(
        &mut self,
        reservation: &mut Reservation,
        code_len: usize,
        data_len: usize,
    ) -> Result<(), WriteError> {
        let mut block = reservation.block();
        if (code_len, data_len) == (block.code_len, block.data_len) {
            return self.window(reservation).map(drop);
        }
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
        self.write_header(reservation, window);
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
    #[inline]
    fn window(&mut self, reservation: &mut Reservation) -> Result<&'t OpenWindow, WriteError> {
        let thread = self.thread;
        if !reservation.is_of(thread) {
            return Err(WriteError::Foreign);
        }
        let units = &thread.shared().units;
        let of_this_scope = reservation.scope() == thread.scopes.get();
        if units.are_coarse() && reservation.scope() != 0 && !of_this_scope {
            return Err(WriteError::Sealed);
        }
        let (open, span) = (&thread.window, reservation.span());
        if !open.covers(span) {
            thread.open_window(span)?;
        }
        open.note(span);
        if !reservation.is_written() {
            reservation.set_written();
            self.write_header(reservation, open);
        }
        Ok(open)
    }

    #[inline]
    fn write_header(&self, reservation: &Reservation, window: &OpenWindow) {
        let words = reservation.block().encode(reservation.entry());
        let to = window.writable_at(header_of(reservation.entry()));
        // SAFETY: [W1] the window covers the reservation's granules, and the
        // header starts the first of them.
        unsafe { self.thread.shared().region.platform().store_words(to, words) };
    }
}

impl ThreadState {
    /// Opens a window on a reservation, and on the whole claim that it lies in, in
    /// place of the one that is open.
    #[inline(never)]
    fn open_window(&self, reserved: Span) -> Result<(), WriteError> {
        if let Some(&lost) = self.shared().lost.get() {
            // Nothing there is this process's to write, `[F3]`.
            return Err(lost.into());
        }
        self.close_window();
        let claim = self.claim.get().span();
        let around = if claim.contains(reserved) { claim } else { reserved };
        let span = around.round_out(self.shared().units.bytes());
        let region = &self.shared().region;
        // SAFETY: [W1] the span is this thread's claim or reservation, in
        // whole units none of which has been published.
        let window = unsafe { region.protection().window(region.platform(), span) }?;
        self.window.set(window);
        Ok(())
    }

    /// Closes the window, if one is open. If the system refuses, the window is
    /// kept for `publish` to close, and counted.
    #[inline]
    pub(crate) fn close_window(&self) {
        if let Some(window) = self.window.get() {
            self.close_open_window(&window);
        }
    }

    #[inline(never)]
    fn close_open_window(&self, window: &Window) {
        let region = &self.shared().region;
        let written = self.window.written();
        if written.len > 0 {
            let at = window.writable_at(written.start);
            // SAFETY: the window is still open and covers what was written.
            unsafe { region.platform().clean_data_cache(at, written.len) };
        }
        self.window.forget();
        // SAFETY: opened by `open_window`, and empty now.
        let closed = unsafe { region.protection().close_window(region.platform(), window) };
        if closed.is_err() {
            self.keep_unsealed(*window);
        }
    }

    /// Keeps a window that the system refused to close, to try again.
    pub(crate) fn keep_unsealed(&self, window: Window) {
        stats::add(&self.tallies().refusals, 1);
        self.unsealed.borrow_mut().push(window);
    }

    /// Ends scopes that were forgotten, `mem::forget`, and not dropped. Whoever
    /// can reach the thread's handle is in none of its scopes, so what is open
    /// then is one of those, `[W2]`.
    #[inline]
    pub(crate) fn end_forgotten_scopes(&self) {
        if self.open_scopes.get() > 0 && !mutant("forgotten-scope-left-open") {
            self.end_scopes();
        }
    }

    #[cold]
    fn end_scopes(&self) {
        self.open_scopes.set(0);
        self.close_scope();
    }

    /// What the end of the handle's outermost scope does.
    #[inline]
    fn close_scope(&self) {
        self.close_window();
        self.close_unit();
        self.abandon_withheld();
        self.share_long_claim();
        self.close_rights();
    }

    /// Gives the thread the rights it has in no scope, unless it is in one of
    /// another handle's that has the same, `[W2]`.
    #[inline]
    pub(crate) fn close_rights(&self) {
        let region = &self.shared().region;
        let protection = region.protection();
        let shares = |other: &Self| other.shared().region.protection().shares_rights();
        let counts = |other: &Self| {
            other.is_of(self.shared().into()) || (protection.shares_rights() && shares(other))
        };
        if !thread::is_in_another_scope(self, counts) || mutant("anothers-scope-ended") {
            protection.close_rights(region.platform());
        }
    }
}

impl Drop for WriteScope<'_> {
    #[inline]
    fn drop(&mut self) {
        let thread = self.thread;
        thread.open_scopes.set(thread.open_scopes.get() - 1);
        if thread.open_scopes.get() == 0 {
            thread.close_scope();
        }
    }
}

impl fmt::Debug for WriteScope<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriteScope")
            .field("window", &self.thread.window.get())
            .finish_non_exhaustive()
    }
}
