//! Who owns objects.
//!
//! Objects are freed in bulk: those that a call from outside makes when the
//! call is over, and those that it may have left behind (in a global, or in a
//! list that was there before) with the program's world. There are no reference
//! counts, so that machine code copies values as plain words and threads share
//! objects without writing to them.

use super::list::List;
use super::objects::{Exception, Function, Lock, Thread, Tuple};
use super::{Value, tag};

/// An object and how it is freed.
#[derive(Debug)]
struct Owned {
    object: *mut u8,
    // A function and not a trait object: the types have nothing in common.
    free: unsafe fn(*mut u8),
}

/// Owns objects until it is dropped.
#[derive(Debug, Default)]
pub(crate) struct Heap {
    objects: Vec<Owned>,
}

// SAFETY: every object in it is `Send` and `Sync`, see `add`.
unsafe impl Send for Heap {}
// SAFETY: as above; a shared heap gives no access to anything.
unsafe impl Sync for Heap {}

/// Frees a `T`.
///
/// # Safety
///
/// `object` came from a `Box<T>`, and nobody uses it any more.
unsafe fn free<T>(object: *mut u8) {
    // SAFETY: the caller's promise.
    drop(unsafe { Box::from_raw(object.cast::<T>()) });
}

impl Heap {
    /// The reference is good for as long as the heap lives: whoever drops a
    /// heap knows that nobody can name its objects any more.
    fn add<T: Send + Sync + 'static>(&mut self, object: T) -> &'static T {
        let object = Box::into_raw(Box::new(object));
        self.objects.push(Owned { object: object.cast(), free: free::<T> });
        // SAFETY: just allocated; freed by this heap alone.
        unsafe { &*object }
    }

    pub(crate) fn str(&mut self, text: String) -> Value {
        Value::object(tag::STR, self.add(text))
    }

    pub(crate) fn list(&mut self, list: List) -> Value {
        Value::object(tag::LIST, self.add(list))
    }

    pub(crate) fn tuple(&mut self, items: Vec<Value>) -> Value {
        Value::object(tag::TUPLE, self.add(Tuple { items }))
    }

    pub(crate) fn function(&mut self, function: Function) -> Value {
        Value::object(tag::FUNCTION, self.add(function))
    }

    pub(crate) fn lock(&mut self) -> Value {
        Value::object(tag::LOCK, self.add(Lock::default()))
    }

    pub(crate) fn thread(&mut self, thread: Thread) -> Value {
        Value::object(tag::THREAD, self.add(thread))
    }

    pub(crate) fn exception(&mut self, exception: Exception) -> Value {
        Value::object(tag::EXCEPTION, self.add(exception))
    }

    /// A value in memory of its own, for lists of anything.
    pub(crate) fn boxed(&mut self, value: Value) -> &'static Value {
        self.add(value)
    }

    /// Takes over what another heap owns.
    pub(crate) fn append(&mut self, other: &mut Self) {
        self.objects.append(&mut other.objects);
    }
}

// SAFETY: a tag and bits; what they refer to is shared between threads.
unsafe impl Send for Value {}

impl Drop for Heap {
    fn drop(&mut self) {
        for owned in self.objects.drain(..) {
            // SAFETY: `add` put both there, and they belong together; whoever
            // drops the heap vouches that nobody names the objects.
            unsafe { (owned.free)(owned.object) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_live_as_long_as_their_heap() {
        let mut heap = Heap::default();
        let mut other = Heap::default();
        let text = other.str("abc".to_owned());
        heap.append(&mut other);
        drop(other);
        assert_eq!(text.as_str(), Some("abc"));
        assert!(text.as_list().is_none());
    }
}
