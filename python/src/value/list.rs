//! Lists: words of one kind, in memory that never moves.
//!
//! Threads read and write elements of one list without a lock. So a list never
//! moves what it holds: it grows by *segments*, each as long as all before it
//! together, and what was stored in one stays there. A list that is not
//! appended to is one segment, and machine code goes straight into it.
//!
//! Each element is one word, so a load never sees half of one value and half of
//! another: the elements of a list are all ints, all floats, all bools, or all
//! addresses of values that never change. What the first element is decides;
//! storing another kind into a list of numbers is an error of the subset.

use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::heap::Heap;
use super::{ExcKind, Value, tag};

/// What the words of a list are: the tags of numbers, or one of these.
pub(crate) mod kind {
    pub(crate) use crate::value::tag::{BOOL, FLOAT, INT};
    /// The list has never had an element.
    pub(crate) const EMPTY: u64 = 0;
    /// Addresses of values.
    pub(crate) const ANY: u64 = 99;
}

/// Segments behind the first: as many as an index has bits.
const SEGMENTS: usize = 40;

/// Elements of the first segment of a list that is empty at first, and so is
/// about to be appended to.
const EMPTY_ROOM: usize = 64;

/// The fewest elements of any other first segment.
const SMALLEST: usize = 8;

/// A list. Machine code knows the first three fields.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct List {
    pub(crate) kind: AtomicU64,
    /// Elements in the first segment.
    pub(crate) near: AtomicU64,
    pub(crate) first: *const AtomicU64,
    first_len: usize,
    len: AtomicU64,
    more: [AtomicPtr<AtomicU64>; SEGMENTS],
    growing: Mutex<()>,
    /// The call that made it.
    pub(crate) owner: u64,
}

// SAFETY: made of atomics and a lock; `first` is written once, before the list
// is shared, and what it points to are atomics.
unsafe impl Send for List {}
// SAFETY: as above.
unsafe impl Sync for List {}

type Raised = (ExcKind, String);

fn segment(len: usize) -> *mut AtomicU64 {
    let words: Box<[AtomicU64]> = (0..len).map(|_| AtomicU64::new(0)).collect();
    Box::into_raw(words).cast()
}

/// # Safety
///
/// From [`segment`] with this length, and no longer in use.
unsafe fn free_segment(first: *mut AtomicU64, len: usize) {
    // SAFETY: the caller's promise.
    drop(unsafe { Box::from_raw(ptr::slice_from_raw_parts_mut(first, len)) });
}

/// The list kind that elements like `value` make.
fn kind_of(value: Value) -> u64 {
    match value.tag {
        tag::INT | tag::FLOAT | tag::BOOL => value.tag,
        _ => kind::ANY,
    }
}

impl List {
    /// A list of these.
    pub(crate) fn new(items: &[Value], owner: u64, heap: &mut Heap) -> Self {
        let kind = match items.split_first() {
            None => kind::EMPTY,
            Some((one, rest)) if rest.iter().all(|v| v.tag == one.tag) => kind_of(*one),
            Some(_) => kind::ANY,
        };
        let list = Self::with_room(kind, items.len(), owner);
        for (at, item) in items.iter().enumerate() {
            let word = if kind == kind::ANY { boxed(*item, heap) } else { item.bits };
            // Relaxed: nobody else knows the list yet.
            list.word(at).store(word, Ordering::Relaxed);
        }
        list
    }

    /// `len` elements of a kind, all zero.
    fn with_room(kind: u64, len: usize, owner: u64) -> Self {
        let first_len = if len == 0 { EMPTY_ROOM } else { len.max(SMALLEST) };
        Self {
            kind: AtomicU64::new(kind),
            near: AtomicU64::new(len as u64),
            first: segment(first_len),
            first_len,
            len: AtomicU64::new(len as u64),
            more: [const { AtomicPtr::new(ptr::null_mut()) }; SEGMENTS],
            growing: Mutex::new(()),
            owner,
        }
    }

    /// `n` times the elements of this.
    pub(crate) fn repeated(&self, n: usize, owner: u64) -> Self {
        let len = self.len();
        // Acquire: as in `get`.
        let list = Self::with_room(self.kind.load(Ordering::Acquire), len * n, owner);
        for at in 0..len * n {
            // Relaxed: single words; nobody else knows the new list.
            let word = self.word(at % len).load(Ordering::Relaxed);
            list.word(at).store(word, Ordering::Relaxed);
        }
        list
    }

    pub(crate) fn len(&self) -> usize {
        // Acquire: pairs with the Release in `append`: who sees the length sees
        // the segments and the kind.
        self.len.load(Ordering::Acquire) as usize
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The word of an index that was once below the length.
    fn word(&self, at: usize) -> &AtomicU64 {
        if at < self.first_len {
            // SAFETY: inside the first segment.
            let word = unsafe { self.first.add(at) };
            // SAFETY: as above.
            return unsafe { &*word };
        }
        let (number, start) = self.place(at);
        // Acquire: pairs with the Release in `append`.
        let segment = self.more[number].load(Ordering::Acquire);
        // SAFETY: `append` made the segment before the length reached into it,
        // and `place` says that the index lies in it.
        let word = unsafe { segment.add(at - start) };
        // SAFETY: as above.
        unsafe { &*word }
    }

    /// Which segment behind the first an index is in, and where that starts.
    fn place(&self, at: usize) -> (usize, usize) {
        let number = (at / self.first_len).ilog2() as usize;
        (number, self.first_len << number)
    }

    /// The index that `index` means; negative ones count from the end.
    fn index(&self, index: i64) -> Option<usize> {
        let len = self.len() as i64;
        let at = if index < 0 { index + len } else { index };
        (0..len).contains(&at).then_some(at as usize)
    }

    pub(crate) fn get(&self, index: i64) -> Result<Value, Raised> {
        let at = self
            .index(index)
            .ok_or_else(|| (ExcKind::IndexError, "list index out of range".to_owned()))?;
        Ok(self.value(at))
    }

    fn value(&self, at: usize) -> Value {
        // Acquire: with the Release of whoever stored an address here.
        let word = self.word(at).load(Ordering::Acquire);
        // Relaxed: it was set before the length that let us in.
        match self.kind.load(Ordering::Relaxed) {
            // SAFETY: words of this kind are addresses of values that live as
            // long as the list can be named.
            kind::ANY => unsafe { *ptr::with_exposed_provenance::<Value>(word as usize) },
            kind => Value { tag: kind, bits: word },
        }
    }

    /// The word for an element, of the list's kind.
    fn word_of(&self, value: Value, heap: &mut Heap) -> Result<u64, Raised> {
        // Relaxed: as in `value`.
        match self.kind.load(Ordering::Relaxed) {
            kind::ANY => Ok(boxed(value, heap)),
            kind if kind == value.tag => Ok(value.bits),
            _ => Err((
                ExcKind::TypeError,
                format!("a list of numbers of one type cannot hold a '{}'", value.type_name()),
            )),
        }
    }

    pub(crate) fn set(&self, index: i64, value: Value, heap: &mut Heap) -> Result<(), Raised> {
        let at = self.index(index).ok_or_else(|| {
            (ExcKind::IndexError, "list assignment index out of range".to_owned())
        })?;
        let word = self.word_of(value, heap)?;
        // Release: pairs with the Acquire in `value`.
        self.word(at).store(word, Ordering::Release);
        Ok(())
    }

    pub(crate) fn append(&self, value: Value, heap: &mut Heap) -> Result<(), Raised> {
        let _growing = self.growing.lock().unwrap_or_else(PoisonError::into_inner);
        // Relaxed, here and below: only written under the lock.
        if self.kind.load(Ordering::Relaxed) == kind::EMPTY {
            self.kind.store(kind_of(value), Ordering::Relaxed);
        }
        let word = self.word_of(value, heap)?;
        let at = self.len.load(Ordering::Relaxed) as usize;
        if at >= self.first_len {
            let (number, start) = self.place(at);
            if number >= SEGMENTS {
                return Err((ExcKind::OverflowError, "list too long".to_owned()));
            }
            if self.more[number].load(Ordering::Relaxed).is_null() {
                // Release: pairs with the Acquire in `word`.
                self.more[number].store(segment(start), Ordering::Release);
            }
        }
        self.word(at).store(word, Ordering::Release);
        if at < self.first_len {
            // Release: machine code that sees it sees the element.
            self.near.store(at as u64 + 1, Ordering::Release);
        }
        // Release: pairs with the Acquire in `len`.
        self.len.store(at as u64 + 1, Ordering::Release);
        Ok(())
    }

    pub(crate) fn pop(&self) -> Result<Value, Raised> {
        let _growing = self.growing.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(at) = self.len().checked_sub(1) else {
            return Err((ExcKind::IndexError, "pop from empty list".to_owned()));
        };
        let value = self.value(at);
        // Release: as in `append`.
        self.len.store(at as u64, Ordering::Release);
        self.near.store(at.min(self.first_len) as u64, Ordering::Release);
        Ok(value)
    }

    /// What it holds, at some moment each.
    pub(crate) fn items(&self) -> Vec<Value> {
        (0..self.len()).map(|at| self.value(at)).collect()
    }
}

fn boxed(value: Value, heap: &mut Heap) -> u64 {
    (&raw const *heap.boxed(value)).expose_provenance() as u64
}

impl Drop for List {
    fn drop(&mut self) {
        // SAFETY: made by `segment` with this length; the list is going.
        unsafe { free_segment(self.first.cast_mut(), self.first_len) };
        for (number, segment) in self.more.iter_mut().enumerate() {
            let segment = *segment.get_mut();
            if !segment.is_null() {
                // SAFETY: as above.
                unsafe { free_segment(segment, self.first_len << number) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_grows_without_moving() {
        let mut heap = Heap::default();
        let list = List::new(&[], 0, &mut heap);
        let first = list.first;
        for i in 0..1000 {
            list.append(Value::int(i), &mut heap).expect("room");
        }
        assert_eq!(list.first, first);
        assert!((0..1000).all(|i| list.get(i).expect("there").as_int() == Some(i)));
        assert_eq!(list.get(-1).expect("there").as_int(), Some(999));
        assert!(list.get(1000).is_err() && list.get(-1001).is_err());
        assert!(list.set(5, Value::float(1.0), &mut heap).is_err());
        while let Ok(value) = list.pop() {
            assert_eq!(value.as_int(), Some(list.len() as i64));
        }
        assert!(list.is_empty());
    }

    #[test]
    fn mixed_lists_hold_anything() {
        let mut heap = Heap::default();
        let list = List::new(&[Value::int(1), Value::NONE], 0, &mut heap);
        list.set(0, Value::float(2.5), &mut heap).expect("anything goes");
        let twice = list.repeated(2, 0);
        assert_eq!(twice.get(2).expect("there").as_float(), Some(2.5));
        assert_eq!(twice.len(), 4);
    }
}
