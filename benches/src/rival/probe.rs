//! The limit: the least any allocator of protected code memory must do.
//!
//! Bumps through a warm region of about the size of the live bytes, wrapping
//! around; copies the code; stores the address with release order. With a key,
//! one pair of rights changes around the copy. Nothing is ever reclaimed, and
//! code still in use is overwritten: no allocator, but its time is the floor
//! under all of them, and the region's size gives it their cache misses.
//!
//! Scattered it copies to a place anywhere in the region, as whoever uses freed
//! places again must: what is between the two no allocator can save, only a
//! processor that guesses where the next place is.
//!
//! Threads get equal parts of the region and share nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::view::{self, Key, TwoViews};
use super::{NotHere, Rival, RivalThread, Room, Usage};

/// See the module.
#[derive(Clone, Debug)]
pub struct Probe(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    views: TwoViews,
    key: Option<Key>,
    order: Order,
    /// Bytes a thread uses.
    part: usize,
    attached: AtomicUsize,
}

/// Where the next executor goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Behind the one before.
    InTurn,
    /// Anywhere.
    Scattered,
}

impl Probe {
    /// A probe with so much room.
    pub fn new(room: Room, keyed: bool, order: Order) -> Result<Self, NotHere> {
        let refuse = |error| NotHere(format!("probe: {error}"));
        let part = (room.bytes / room.threads).max(LEAST).next_multiple_of(view::PAGE);
        let views = TwoViews::new(part * room.threads).map_err(refuse)?;
        let key = if keyed {
            let rights = libc::PROT_READ | libc::PROT_WRITE;
            Some(
                Key::on(&views.writable, rights)
                    .map_err(|e| NotHere(format!("pkey_alloc: {e}")))?,
            )
        } else {
            None
        };
        Ok(Self(Arc::new(Shared { views, key, order, part, attached: AtomicUsize::new(0) })))
    }
}

/// Smallest part of a thread, in bytes: the longest executor fits.
const LEAST: usize = 64 * 1024;

impl Rival for Probe {
    type Thread = ProbeThread;

    fn name(&self) -> String {
        match (self.0.order, self.0.key) {
            (Order::InTurn, None) => "probe",
            (Order::InTurn, Some(_)) => "probe-pkey",
            (Order::Scattered, None) => "probe-scattered",
            (Order::Scattered, Some(_)) => "probe-scattered-pkey",
        }
        .to_owned()
    }

    fn is_probe(&self) -> bool {
        true
    }

    fn attach(&self) -> ProbeThread {
        let part = self.0.part;
        let parts = self.0.views.writable.len / part;
        let start = self.0.attached.fetch_add(1, Ordering::Relaxed) % parts * part;
        if let Some(key) = self.0.key {
            key.set(false);
        }
        ProbeThread {
            shared: Arc::clone(&self.0),
            start,
            end: start + part,
            cursor: start,
            random: SmallRng::seed_from_u64(start as u64),
            published: Box::default(),
        }
    }

    fn usage(&self) -> Usage {
        let committed = self.0.views.writable.len;
        Usage { live: committed, committed, ..Usage::default() }
    }
}

/// See the module.
#[derive(Debug)]
pub struct ProbeThread {
    shared: Arc<Shared>,
    start: usize,
    end: usize,
    cursor: usize,
    random: SmallRng,
    published: Box<AtomicUsize>,
}

impl RivalThread for ProbeThread {
    type Code = usize;

    #[inline]
    fn install(&mut self, code: &[u8]) -> usize {
        let need = code.len().next_multiple_of(64);
        if self.cursor + need > self.end {
            self.cursor = self.start;
            assert!(self.cursor + need <= self.end, "code longer than the probe's region");
        }
        let at = match self.shared.order {
            Order::InTurn => self.cursor,
            Order::Scattered => self.random.random_range(self.start..=self.end - need) & !63,
        };
        self.cursor += need;
        if let Some(key) = self.shared.key {
            key.set(true);
        }
        // SAFETY: inside this thread's part of the writable view.
        unsafe { view::copy(self.shared.views.writable.start + at, code) };
        if let Some(key) = self.shared.key {
            key.set(false);
        }
        let addr = self.shared.views.executable.start + at;
        self.published.store(addr, Ordering::Release);
        addr
    }

    #[inline]
    fn free(&mut self, _code: usize) {}

    fn addr(code: &usize) -> usize {
        *code
    }
}
