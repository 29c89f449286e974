//! What debuggers and unwinders are told, against readers: the ELF files of gdb's JIT
//! interface with their symbols, line tables and unwind information, the unwinder's own
//! answers, and the names for dumps. Code comes and goes meanwhile, and what was
//! recycled is told of no more.
//!
//! The readers are other people's: `object`, `gimli`, and the unwinder that the
//! program is linked with. The list of files is read where gdb finds it.

use std::collections::BTreeMap;

use arbitrary::{Arbitrary, Unstructured};
use jit_arena::{Arena, CodeLayout, Executor, Line, Strategy, Symbol, ThreadHandle};
use jit_arena_tools::{Gdb, Names, Unwind};

use crate::Outcome;
use crate::ops::Pick;

pub mod files;
pub mod frames;

use frames::{Entry, Frames};

/// Pieces of code at a time, and operations.
const MAX_PIECES: usize = 40;
const MAX_OPS: usize = 120;

/// A name.
#[derive(Arbitrary, Debug)]
enum Text {
    /// Any.
    Any(String),
    /// A long one.
    Long(char, u16),
}

impl Text {
    fn get(&self) -> String {
        match self {
            Self::Any(text) => text.clone(),
            Self::Long(of, count) => std::iter::repeat_n(*of, usize::from(*count) % 9000).collect(),
        }
    }
}

/// A piece of code to publish.
#[derive(Arbitrary, Debug)]
struct Piece {
    name: Text,
    len: u16,
    long: bool,
    lines: Vec<(u16, Text, u32)>,
    frames: Option<Frames>,
}

/// One operation.
#[derive(Arbitrary, Debug)]
enum Op {
    /// Publishes a piece of code.
    Publish(Piece),
    /// Drops one.
    Drop(Pick),
    /// Frees what was dropped.
    Collect,
}

/// What tools must say of a piece of code.
#[derive(Debug)]
pub struct Expected {
    /// Bytes of it.
    pub len: usize,
    /// As it was published.
    pub name: String,
    /// Those of its lines that lie in it, by rising offset.
    pub lines: Vec<(usize, String, u32)>,
    /// How to unwind through its parts.
    pub frames: Vec<Entry>,
    executor: Option<Executor>,
}

/// The tools with code that they know of.
struct World {
    gdb: std::sync::Arc<Gdb>,
    unwind: Option<std::sync::Arc<Unwind>>,
    names: std::sync::Arc<Names>,
    /// By entry.
    pieces: BTreeMap<usize, Expected>,
}

/// Publishes what `data` says under the tools, and reads what they tell.
///
/// # Panics
///
/// If that is something else.
pub fn run(data: &[u8]) -> Outcome {
    let mut u = Unstructured::new(data);
    let Ok([first, second]) = u.arbitrary::<[u8; 2]>() else { return Outcome::NotRun };
    let gdb = Gdb::batched(usize::from(first % 4));
    // It knows no entries of 64 bits.
    let unwind = (second & 1 == 0).then(Unwind::new);
    let names = Names::new();
    let mut builder = Arena::builder()
        .reserve(4 << 20)
        .strategy(Strategy::DualOpen)
        .tool(gdb.clone())
        .tool(names.clone());
    if let Some(unwind) = &unwind {
        builder = builder.tool(unwind.clone());
    }
    let arena = builder.build().expect("an arena");
    let mut thread = arena.attach().expect("a handle");
    let mut world = World { gdb, unwind, names, pieces: BTreeMap::new() };
    let mut steps = 0;
    while !u.is_empty() && steps < MAX_OPS {
        let Ok(op) = u.arbitrary() else { break };
        world.execute(&mut thread, op);
        world.check(&arena);
        steps += 1;
    }
    // Some live on to the end of the arena.
    if second & 2 == 0 {
        world.pieces.clear();
    }
    let region = arena.span();
    let entries: Vec<_> = world.pieces.keys().copied().collect();
    world.pieces.clear();
    drop((thread, arena));
    assert_eq!(world.gdb.files(), 0);
    assert!(files::registered(region).is_empty(), "files of an arena that is gone");
    assert!(world.names.is_empty() && world.unwind.is_none_or(|it| it.is_empty()));
    for entry in entries {
        assert_eq!(frames::found(entry), None, "{entry:#x} is gone, and can be unwound");
    }
    Outcome::Ran { steps }
}

impl World {
    fn execute(&mut self, thread: &mut ThreadHandle, op: Op) {
        match op {
            Op::Publish(piece) if self.pieces.len() < MAX_PIECES => self.publish(thread, &piece),
            Op::Publish(_) => {}
            Op::Drop(piece) => {
                if let Some(at) = piece.of(self.pieces.len()) {
                    let expected = self.pieces.values_mut().nth(at).expect("picked of them");
                    // Until it is recycled somebody may be inside.
                    expected.executor = None;
                }
            }
            Op::Collect => {
                thread.collect();
                thread.collect();
                self.pieces.retain(|_, piece| piece.executor.is_some());
            }
        }
    }

    fn publish(&mut self, thread: &mut ThreadHandle, piece: &Piece) {
        // What is dropped may go by the way: from here on it has.
        self.execute(thread, Op::Collect);
        let len = 1 + usize::from(piece.len) % if piece.long { 60_000 } else { 700 };
        let layout = CodeLayout::new(len);
        let Ok(mut place) = thread.reserve(layout) else { return };
        thread.write().write_at(&mut place, 0, &vec![0xC3; len]).expect("a window");
        let entry = place.entry();
        let mut lines: Vec<(usize, String, u32)> = piece
            .lines
            .iter()
            .map(|(offset, file, line)| (usize::from(*offset) % (len + 2), file.get(), *line))
            .collect();
        lines.sort_by_key(|line| line.0);
        let given: Vec<Line<'_>> = lines
            .iter()
            .map(|(offset, file, line)| Line { offset: *offset, file, line: *line })
            .collect();
        let eh_frame = piece
            .frames
            .as_ref()
            .map(|frames| frames.bytes(entry, len, self.unwind.is_some()))
            .unwrap_or_default();
        let name = piece.name.get();
        // SAFETY: entries of the code's parts; that what they say of registers is
        // true matters to nobody, for the code is never run.
        let symbol = unsafe { Symbol::new(&name).lines(&given).eh_frame(&eh_frame) };
        let executor = thread.publish_named(place, &symbol).expect("published");
        assert_eq!(executor.addr(), entry);
        drop(given);
        lines.retain(|line| line.0 < len);
        let frames = frames::entries(&eh_frame);
        let expected = Expected { len, name, lines, frames, executor: Some(executor) };
        assert!(self.pieces.insert(entry, expected).is_none());
    }

    fn check(&self, arena: &Arena) {
        self.gdb.flush();
        files::check(&files::registered(arena.span()), &self.pieces);
        for (entry, piece) in &self.pieces {
            for address in [*entry, entry + piece.len - 1] {
                assert_eq!(self.names.name_of(address).as_ref(), Some(&piece.name));
            }
            assert_ne!(self.names.name_of(entry.wrapping_sub(1)).as_ref(), Some(&piece.name));
            if self.unwind.is_some() {
                check_unwinder(*entry, piece);
            }
        }
        assert_eq!(self.names.len(), self.pieces.len());
        let unwound = self.pieces.values().filter(|piece| !piece.frames.is_empty()).count();
        let registered = self.unwind.as_ref().map_or(unwound, |unwind| unwind.len());
        assert!(registered >= unwound, "{registered} are registered, {unwound} can be unwound");
    }
}

/// What the unwinder finds is what was published, where that was, and nothing
/// elsewhere in the code.
fn check_unwinder(entry: usize, piece: &Expected) {
    let mut covered = entry;
    for frame in &piece.frames {
        for address in [frame.start, frame.start + frame.len - 1] {
            assert_eq!(frames::found(address), Some((frame.start, frame.len)), "{address:#x}");
        }
        if covered < frame.start {
            assert_eq!(frames::found(frame.start - 1), None);
        }
        covered = frame.start + frame.len;
    }
    if covered < entry + piece.len {
        assert_eq!(frames::found(entry + piece.len - 1), None);
    }
}
