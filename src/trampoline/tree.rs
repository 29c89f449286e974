//! Targets and their trampolines: a tree of fours that only grows.
//!
//! A node's place is the first empty one on the path that its target's hash
//! spells, two bits a level, so finding follows one path and inserting is one
//! compare-and-swap at the end of it (an open hash trie; after Wellons, *Hash-tries*,
//! 2023). Nodes never move, change or leave while the tree lives, so readers
//! need no protection.
//!
//! Progress: finding is wait-free, inserting lock-free.

use core::ptr;

use crate::sync::{AtomicPtr, Ordering, mutant};

/// Children a node.
const FAN: usize = 4;
const BITS: u32 = 2;

struct Node {
    target: usize,
    address: usize,
    children: [AtomicPtr<Node>; FAN],
}

/// See the module.
pub(super) struct Tree {
    root: AtomicPtr<Node>,
}

/// Spreads targets, which differ in few bits, over all of a word. Odd factors
/// make it one to one: two targets part ways within 32 levels.
const fn hash(target: usize) -> u64 {
    let spread = (target as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (spread ^ spread >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93)
}

impl Tree {
    pub(super) fn new() -> Self {
        Self { root: AtomicPtr::new(ptr::null_mut()) }
    }

    /// The trampoline to `target`, if it was inserted.
    pub(super) fn find(&self, target: usize) -> Option<usize> {
        self.descend(target).ok()
    }

    /// The address for `target`, or else the place where it belongs.
    fn descend(&self, target: usize) -> Result<usize, &AtomicPtr<Node>> {
        let (mut place, mut path) = (&self.root, hash(target));
        loop {
            // Acquire [T1]: pairs with the Release in `insert`: who finds a
            // trampoline finds it written.
            let at = place.load(Ordering::Acquire);
            // SAFETY: nodes are freed only with the tree, which is borrowed.
            let Some(node) = (unsafe { at.as_ref() }) else { return Err(place) };
            if node.target == target {
                return Ok(node.address);
            }
            place = &node.children[(path >> (u64::BITS - BITS)) as usize];
            path = path.rotate_left(BITS);
        }
    }

    /// Notes that the trampoline to `target` is at `address`, unless there is
    /// one; returns the one there is, `[T2]`.
    pub(super) fn insert(&self, target: usize, address: usize) -> usize {
        let mut new: *mut Node = ptr::null_mut();
        loop {
            let place = match self.descend(target) {
                Ok(found) => {
                    if !new.is_null() {
                        // SAFETY: ours: made below and never shared.
                        drop(unsafe { Box::from_raw(new) });
                    }
                    return found;
                }
                Err(place) => place,
            };
            if new.is_null() {
                let children = core::array::from_fn(|_| AtomicPtr::new(ptr::null_mut()));
                new = Box::into_raw(Box::new(Node { target, address, children }));
            }
            // Release [T1]: pairs with the Acquire in `descend`. Relaxed on
            // failure: `descend` loads what is there.
            let null = ptr::null_mut();
            if mutant("trampoline-entered-twice") {
                place.store(new, Ordering::Release);
                return address;
            }
            if place.compare_exchange(null, new, Ordering::Release, Ordering::Relaxed).is_ok() {
                return address;
            }
        }
    }

    /// Calls `f` with each target and its trampoline, in no order.
    pub(super) fn for_each(&self, mut f: impl FnMut(usize, usize)) {
        // Acquire: as in `descend`.
        let mut rest = vec![self.root.load(Ordering::Acquire)];
        while let Some(at) = rest.pop() {
            // SAFETY: as in `descend`.
            let Some(node) = (unsafe { at.as_ref() }) else { continue };
            f(node.target, node.address);
            // Acquire: as in `descend`.
            rest.extend(node.children.iter().map(|child| child.load(Ordering::Acquire)));
        }
    }
}

// SAFETY: nodes are written before they are shared and only read after; the
// rest is atomic.
unsafe impl Send for Tree {}
// SAFETY: as above.
unsafe impl Sync for Tree {}

impl Drop for Tree {
    fn drop(&mut self) {
        // Relaxed: dropping is exclusive.
        let mut rest = vec![self.root.load(Ordering::Relaxed)];
        while let Some(at) = rest.pop() {
            if at.is_null() {
                continue;
            }
            // SAFETY: inserted as a box, and nobody borrows the tree any more.
            let node = unsafe { Box::from_raw(at) };
            // Relaxed: as above.
            rest.extend(node.children.iter().map(|child| child.load(Ordering::Relaxed)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn what_went_in_is_found_and_nothing_else() {
        let tree = Tree::new();
        let mut naive = BTreeMap::new();
        for n in 0..5000_usize {
            // Functions of a program, and addresses that differ in high bits.
            for target in [0x5555_0000_0000 + n * 16, n << 40] {
                let first = *naive.entry(target).or_insert(n);
                assert_eq!(tree.insert(target, n), first);
            }
        }
        for (target, address) in &naive {
            assert_eq!(tree.find(*target), Some(*address));
        }
        assert_eq!(tree.find(0x5555_0000_0008), None);
        let mut seen = BTreeMap::new();
        tree.for_each(|target, address| assert_eq!(seen.insert(target, address), None));
        assert_eq!(seen, naive);
    }

    #[test]
    fn paths_stay_short() {
        let tree = Tree::new();
        for n in 0..100_000_usize {
            tree.insert(0x7f00_0000_0000 + n * 64, n);
        }
        let depth = |target| {
            let (mut place, mut path, mut depth) = (&tree.root, hash(target), 0);
            // SAFETY: as in `descend`.
            while let Some(node) = unsafe { place.load(Ordering::Acquire).as_ref() } {
                if node.target == target {
                    break;
                }
                place = &node.children[(path >> (u64::BITS - BITS)) as usize];
                path = path.rotate_left(BITS);
                depth += 1;
            }
            depth
        };
        let deepest = (0..100_000).map(|n| depth(0x7f00_0000_0000 + n * 64)).max();
        assert!(deepest < Some(24), "{deepest:?} levels for 100,000 targets");
    }

    #[test]
    fn t2_threads_that_insert_one_target_agree() {
        let tree = Tree::new();
        let seen: Vec<Vec<usize>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|me| {
                    let tree = &tree;
                    let insert = move |target| tree.insert(target, me * 10_000 + target);
                    scope.spawn(move || (0..10_000).map(insert).collect())
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(seen.iter().all(|one| *one == seen[0]));
    }
}
