//! What a forked child replaces: it belonged to threads that are not there.

use core::cell::UnsafeCell;
use core::fmt;
use core::mem::ManuallyDrop;
use core::ops::Deref;
use core::ptr;

/// A value that is replaced in a forked child, without ending the old one: what
/// that would do was for threads that are gone.
pub(crate) struct Renewable<T>(UnsafeCell<ManuallyDrop<T>>);

// SAFETY: shared as a `T` is; `renew` and `end` have the caller see to it that
// nobody else is there.
unsafe impl<T: Sync> Sync for Renewable<T> {}

impl<T> Renewable<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(UnsafeCell::new(ManuallyDrop::new(value)))
    }

    /// Replaces the value and forgets the old one.
    ///
    /// # Safety
    ///
    /// Nobody else uses the value, or a reference to it, now or later.
    pub(crate) unsafe fn renew(&self, value: T) {
        // SAFETY: nobody else looks (caller).
        unsafe { ptr::write(self.0.get(), ManuallyDrop::new(value)) };
    }

    /// Takes the value out, for its owner to end it.
    ///
    /// # Safety
    ///
    /// As for [`renew`](Self::renew), and the value is not used in place again.
    pub(crate) unsafe fn take(&self) -> T {
        // SAFETY: nobody else looks (caller).
        let value = unsafe { &mut *self.0.get() };
        // SAFETY: taken once (caller).
        unsafe { ManuallyDrop::take(value) }
    }
}

impl<T> Deref for Renewable<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: changed only where nobody has a reference (`renew`, `take`).
        unsafe { &*self.0.get() }
    }
}

impl<T> fmt::Debug for Renewable<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Renewable")
    }
}
