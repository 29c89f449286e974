//! The writers of perf maps and jitdumps against readers: whatever code is called
//! and wherever its lines are, what was written is read back.

use std::fs;
use std::io::Cursor;
use std::sync::atomic::{AtomicUsize, Ordering};

use arbitrary::{Arbitrary, Unstructured};
use jit_arena::{Arena, CodeLayout, Executor, Line, Strategy, Symbol, Tool};
use jit_arena_tools::{Jitdump, PerfMap};
use linux_perf_data::jitdump::{JitDumpReader, JitDumpRecord};

use crate::Outcome;

/// A piece of code to publish.
#[derive(Arbitrary, Debug)]
struct Piece {
    name: String,
    code: Vec<u8>,
    lines: Vec<(u8, String, u32)>,
}

/// Makes directories' names differ.
static RUNS: AtomicUsize = AtomicUsize::new(0);

/// What a jitdump should say of a piece.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    entry: u64,
    name: Vec<u8>,
    code: Vec<u8>,
    lines: Vec<(u64, Vec<u8>, u32)>,
}

/// Publishes what `data` says under both tools and reads their files.
///
/// # Panics
///
/// If a file says something else than was published.
pub fn run(data: &[u8]) -> Outcome {
    let Ok(pieces) = Vec::<Piece>::arbitrary_take_rest(Unstructured::new(data)) else {
        return Outcome::NotRun;
    };
    let number = RUNS.fetch_add(1, Ordering::Relaxed);
    let directory = std::env::temp_dir().join(format!("jit-arena-{}-{number}", std::process::id()));
    fs::create_dir_all(&directory).expect("a directory of our own");
    let dump = Jitdump::create_in(&directory).expect("a jitdump");
    let map = PerfMap::create_in(&directory).expect("a perf map");
    let (dump_path, map_path) = (dump.path().to_owned(), map.path().to_owned());
    let tools: [std::sync::Arc<dyn Tool>; 2] = [dump.clone(), map.clone()];
    let mut builder = Arena::builder().reserve(8 << 20).strategy(Strategy::DualOpen);
    for tool in tools {
        builder = builder.tool(tool);
    }
    let arena = builder.build().expect("an arena");
    let mut thread = arena.attach().expect("a handle");
    let mut kept: Vec<Executor> = Vec::new();
    let mut said = Vec::new();
    for piece in pieces.iter().take(50) {
        let code = if piece.code.is_empty() { &[0xC3][..] } else { &piece.code[..] };
        let mut place = thread.reserve(CodeLayout::new(code.len())).expect("room");
        thread.write().write_at(&mut place, 0, code).expect("a window");
        let mut lines: Vec<Line<'_>> = piece
            .lines
            .iter()
            .map(|(offset, file, line)| Line { offset: (*offset).into(), file, line: *line })
            .collect();
        lines.sort_by_key(|line| line.offset);
        let symbol = Symbol::new(&piece.name).lines(&lines);
        let executor = thread.publish_named(place, &symbol).expect("published");
        let entry = executor.addr() as u64;
        let told = |line: &Line<'_>| {
            (entry + line.offset as u64, without_nul(line.file.as_bytes()), line.line)
        };
        said.push(Said {
            entry,
            name: without_nul(piece.name.as_bytes()),
            code: code.to_vec(),
            lines: lines.iter().map(told).collect(),
        });
        kept.push(executor);
    }
    drop((kept, thread, arena));
    assert!(dump.take_error().is_none() && map.take_error().is_none());
    drop((dump, map));
    let steps = said.len();
    check_dump(&fs::read(dump_path).expect("the jitdump"), &said);
    check_map(&fs::read(map_path).expect("the perf map"), &said);
    fs::remove_dir_all(directory).expect("our directory");
    Outcome::Ran { steps }
}

/// As a string of C ends.
fn without_nul(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().copied().filter(|byte| *byte != 0).collect()
}

fn check_dump(bytes: &[u8], said: &[Said]) {
    let mut reader = JitDumpReader::new(Cursor::new(bytes)).expect("a header");
    let mut expected = said.iter();
    let mut lines = Vec::new();
    while let Some(record) = reader.next_record().expect("a record") {
        match record.parse().expect("a whole record") {
            JitDumpRecord::CodeDebugInfo(info) => {
                lines = info
                    .entries
                    .iter()
                    .map(|it| (it.code_addr, it.file_path.as_slice().to_vec(), it.line))
                    .collect();
            }
            JitDumpRecord::CodeLoad(load) => {
                let read = Said {
                    entry: load.code_addr,
                    name: load.function_name.as_slice().to_vec(),
                    code: load.code_bytes.as_slice().to_vec(),
                    lines: std::mem::take(&mut lines),
                };
                assert_eq!(Some(&read), expected.next());
            }
            _ => {}
        }
    }
    assert_eq!(expected.next(), None, "published and not in the file");
}

/// One line each, with start, length and a name that stays on its line.
fn check_map(bytes: &[u8], said: &[Said]) {
    let text = String::from_utf8(bytes.to_vec()).expect("names are text");
    let mut seen = 0;
    for line in text.split_terminator('\n') {
        let mut words = line.splitn(3, ' ');
        let mut hex = || {
            let word = words.next().expect("a number");
            u64::from_str_radix(word, 16).expect("a number in base 16")
        };
        let (start, len) = (hex(), hex());
        assert!(words.next().is_some(), "{line:?} has no name");
        let of = said.iter().find(|said| said.entry == start).expect("an entry");
        assert_eq!(len, of.code.len() as u64);
        seen += 1;
    }
    assert_eq!(seen, said.len());
}
