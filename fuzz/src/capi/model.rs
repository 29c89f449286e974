//! What the header says there is: arenas, code in them, and what each thread has
//! of each arena.

use std::collections::BTreeMap;
use std::ops::Range;

use jit_arena::GRANULE;

use crate::sizes::HEADER;

/// Code that was published.
#[derive(Clone, Debug)]
pub struct Code {
    /// Its arena, by number.
    pub arena: usize,
    /// Address of its first instruction.
    pub rx: usize,
    /// Bytes of code.
    pub code_len: usize,
    /// Where the data begins, from `rx`.
    pub data: usize,
    /// Bytes of data.
    pub data_len: usize,
    /// The client's word.
    pub tag: u64,
    /// What it holds, if it was ever written.
    pub bytes: Option<Vec<u8>>,
}

impl Code {
    /// Bytes from the first instruction to the end of the data.
    #[must_use]
    pub fn len(&self) -> usize {
        if self.data_len == 0 { self.code_len } else { self.data + self.data_len }
    }

    /// Whether there is nothing in it, which never is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What is its own: whole granules, with what stands before it.
    #[must_use]
    pub fn granules(&self) -> Range<usize> {
        (self.rx - HEADER) / GRANULE * GRANULE..(self.rx + self.len()).next_multiple_of(GRANULE)
    }

    /// Its first byte to its last.
    #[must_use]
    pub fn range(&self) -> Range<usize> {
        self.rx..self.rx + self.len()
    }
}

/// A block that is not published. Its content is that of the code.
#[derive(Clone, Debug)]
pub struct Block {
    /// What it will be.
    pub code: Code,
    /// Where it is written.
    pub rw: usize,
    /// Whether it was allocated in a write scope.
    pub scoped: bool,
    /// Whether a scope has closed on it.
    pub written: bool,
    /// With `mprotect`: what it held as the scope closed in which it was allocated.
    pub sealed: Option<Option<Vec<u8>>>,
}

/// Freed code, which somebody may be inside.
#[derive(Clone, Debug)]
pub struct Freed {
    /// What it was.
    pub code: Code,
    /// When.
    pub at: u64,
}

/// Of an enter that is parked: a time that does not come.
pub const PARKED: u64 = u64::MAX;

/// An enter that is open.
#[derive(Clone, Copy, Debug)]
pub enum Frame {
    /// With a word: the code in it.
    Holds(usize),
    /// Without: what was there then stays.
    Since(u64),
}

/// What a thread has of an arena.
#[derive(Clone, Debug, Default)]
pub struct Part {
    /// Whether the thread is attached.
    pub attached: bool,
    /// Attaches that were asked for.
    pub attaches: usize,
    /// Write scopes open.
    pub scopes: usize,
    /// Enters open, innermost last.
    pub frames: Vec<Frame>,
    /// Parks, each with the enters that were open.
    pub parks: Vec<usize>,
    /// Blocks that are not published.
    pub pending: Vec<Block>,
    /// Bytes of blocks that were freed in the scopes that are open: the thread may keep
    /// them until the last one ends.
    pub kept: usize,
}

impl Part {
    /// Whether the thread is in the middle of something.
    #[must_use]
    pub fn is_unfinished(&self) -> bool {
        !self.frames.is_empty() || !self.parks.is_empty() || self.scopes > 0
    }

    /// Frees a block; `used` is what it takes at most.
    pub fn free(&mut self, block: usize, used: usize) {
        self.pending.swap_remove(block);
        if self.scopes > 0 {
            self.kept += used;
        }
    }

    /// The innermost scope ends.
    pub fn close(&mut self) {
        self.scopes -= 1;
        if self.scopes == 0 {
            self.kept = 0;
        }
    }

    /// Whether the innermost thing open is a park.
    #[must_use]
    pub fn is_parked_here(&self) -> bool {
        self.parks.last() == Some(&self.frames.len())
    }

    /// Whether an enter without a word is open around the innermost, and not parked.
    fn is_kept_by_outer(&self) -> bool {
        let outer = self.frames.len().saturating_sub(1);
        let keeps = |frame: &Frame| matches!(frame, Frame::Since(since) if *since != PARKED);
        self.frames[..outer].iter().any(keeps)
    }

    /// The thread lets go of what its innermost enter without a word protects, and
    /// protects what is freed `from` then on.
    pub fn refresh(&mut self, from: u64) {
        if self.is_kept_by_outer() {
            return;
        }
        if let Some(Frame::Since(since)) = self.frames.last_mut() {
            *since = from;
        }
    }

    /// Whether it keeps code that was freed `at` a time from being used again.
    fn keeps(&self, freed: &Freed) -> bool {
        self.frames.iter().any(|frame| match frame {
            Frame::Holds(rx) => *rx == freed.code.rx,
            Frame::Since(since) => *since <= freed.at,
        })
    }
}

/// An arena that was created.
#[derive(Clone, Debug)]
pub struct Arena {
    /// Its handle.
    pub handle: usize,
    /// Whether it was not destroyed.
    pub open: bool,
    /// Whether it was destroyed while a thread had it that was in the middle of nothing,
    /// and lets go whenever it next uses the library.
    pub lingers: bool,
    /// Whether threads attach only by `jita_attach`.
    pub explicit: bool,
    /// Whether blocks must be written in the scope they are of.
    pub seals: bool,
    /// What to add to `rx` to have `rw`, if it is the same for all blocks.
    pub offset: Option<isize>,
    /// Its code memory.
    pub region: Range<usize>,
    /// Size of a code page.
    pub page: usize,
    /// Whether a budget bounds it.
    pub bounded: bool,
    /// Trampolines by target.
    pub trampolines: BTreeMap<usize, usize>,
    /// Code ever published, and ever freed.
    pub counts: [u64; 2],
}

/// Everything.
#[derive(Debug, Default)]
pub struct Model {
    /// In the order they were created.
    pub arenas: Vec<Arena>,
    /// Code that lives, by address.
    pub live: BTreeMap<usize, Code>,
    /// Code that was freed, as long as its place was not seen to be used again.
    pub freed: Vec<Freed>,
    /// What each thread there is has of each arena.
    pub threads: Vec<Vec<Part>>,
    /// Counts operations.
    pub now: u64,
}

/// What is at an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// No arena.
    Foreign,
    /// A block of the thread's, by the numbers of arena and block.
    Block(usize, usize),
    /// Code, at its start.
    Code(usize),
    /// The middle of code.
    Middle {
        /// Whether it is certainly an instruction's, and not data or a gap.
        sure: bool,
    },
    /// Code that was freed, at its start.
    Freed {
        /// Whether somebody keeps it.
        kept: bool,
    },
    /// In an arena, and no code: the middle of what was freed, perhaps.
    Nothing {
        /// Whether it may still be taken for the middle of code.
        was_code: bool,
    },
}

impl Model {
    /// What is at an address, for the thread that runs.
    #[must_use]
    pub fn place(&self, address: usize) -> Place {
        let Some(arena) = self.arena_at(address) else { return Place::Foreign };
        let part = self.part(arena);
        if let Some(at) = part.pending.iter().position(|block| block.code.rx == address) {
            return Place::Block(arena, at);
        }
        let below = self.live.range(..=address).next_back();
        if let Some((rx, code)) = below.filter(|(_, code)| code.range().contains(&address)) {
            let sure = address - rx < code.code_len;
            return if *rx == address { Place::Code(*rx) } else { Place::Middle { sure } };
        }
        let was = self.freed.iter().filter(|it| it.code.range().contains(&address));
        let mut was_code = false;
        for freed in was {
            if freed.code.rx == address {
                return Place::Freed { kept: self.is_kept(freed) };
            }
            was_code = true;
        }
        Place::Nothing { was_code }
    }

    /// The open arena that an address is in.
    #[must_use]
    pub fn arena_at(&self, address: usize) -> Option<usize> {
        self.arenas.iter().position(|arena| arena.open && arena.region.contains(&address))
    }

    /// What the running thread has of an arena.
    #[must_use]
    pub fn part(&self, arena: usize) -> &Part {
        &self.threads[self.threads.len() - 1][arena]
    }

    /// The same, to change.
    pub fn part_mut(&mut self, arena: usize) -> &mut Part {
        let last = self.threads.len() - 1;
        &mut self.threads[last][arena]
    }

    /// What all threads have of an arena.
    pub fn parts(&self, arena: usize) -> impl Iterator<Item = &Part> {
        self.threads.iter().map(move |thread| &thread[arena])
    }

    /// Whether a thread is inside code of an arena, parked or not.
    #[must_use]
    pub fn is_entered(&self, arena: usize) -> bool {
        self.parts(arena).any(|part| !part.frames.is_empty())
    }

    /// Whether somebody keeps freed code from being used again, for certain.
    #[must_use]
    pub fn is_kept(&self, freed: &Freed) -> bool {
        self.parts(freed.code.arena).any(|part| part.keeps(freed))
    }

    /// Code that is being published lives from here on.
    pub fn publish(&mut self, code: Code) {
        self.arenas[code.arena].counts[0] += 1;
        self.live.insert(code.rx, code);
    }

    /// Code was freed.
    pub fn free(&mut self, rx: usize) {
        let code = self.live.remove(&rx).expect("it lived");
        self.arenas[code.arena].counts[1] += 1;
        self.freed.push(Freed { code, at: self.now });
    }

    /// Memory was given to a new block: nothing else may be there.
    ///
    /// # Panics
    ///
    /// If something is.
    pub fn occupy(&mut self, code: &Code) {
        let new = code.granules();
        let meets = |other: &Code| {
            let other = other.granules();
            new.start < other.end && other.start < new.end
        };
        let pending = self.parts(code.arena).flat_map(|part| &part.pending);
        for other in self.live.values().chain(pending.map(|block| &block.code)) {
            assert!(!meets(other), "{code:?} is on {other:?}");
        }
        for freed in self.freed.iter().filter(|freed| meets(&freed.code)) {
            assert!(!self.is_kept(freed), "{code:?} is on {freed:?}, which is kept");
        }
        self.freed.retain(|freed| !meets(&freed.code));
    }
}
