//! Perf maps: `/tmp/perf-PID.map`, a line `start length name` for each piece of
//! code, in hexadecimal.
//!
//! perf reads the file when it reports, so names of recycled code stay in it:
//! samples taken while it lived are still its own. They go where their memory
//! was used again, since one address has one name in such a file; a
//! [`Jitdump`](crate::Jitdump) has times as well. What goes is taken out by
//! writing the file anew, when that is much of it and at the end.
//!
//! A forked child has a file of its own, from the first code on that it publishes:
//! that and what its parent had published before.
//!
//! perf reads it only for code in anonymous memory: build the arena with
//! [`anonymous`](jit_arena::Builder::anonymous).
//!
//! Source: tools/perf/Documentation/jit-interface.txt in the kernel's sources.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use jit_arena::{CodeInfo, Span, Symbol, Tool};

use crate::lock;
use crate::place::{OwnFile, Place};

/// Lines that are no longer true before the file is written anew, at least.
const STALE: usize = 256;

/// Writes a perf map.
#[derive(Debug)]
pub struct PerfMap {
    place: Place,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    own: OwnFile,
    /// By entry.
    lines: BTreeMap<usize, Line>,
    /// Lines of the file that are not in `lines`.
    stale: usize,
    error: Option<io::Error>,
}

#[derive(Debug)]
struct Line {
    len: usize,
    name: String,
}

impl PerfMap {
    /// Starts the file where perf looks for it, in `/tmp`, for the user alone to
    /// read. Arenas of a process share it.
    ///
    /// # Errors
    ///
    /// The file cannot be made, or not be put in the place of one that lies there;
    /// or the process has a perf map in that directory already
    /// ([`AlreadyExists`](io::ErrorKind::AlreadyExists)).
    pub fn create() -> io::Result<Arc<Self>> {
        Self::create_in(Path::new("/tmp"))
    }

    /// Starts the file in another directory, under the same name.
    ///
    /// # Errors
    ///
    /// As [`create`](Self::create).
    pub fn create_in(directory: &Path) -> io::Result<Arc<Self>> {
        let place = Place::take(directory, "perf", "map")?;
        let own = OwnFile::create(&place.path())?;
        let state = State { own, lines: BTreeMap::new(), stale: 0, error: None };
        Ok(Arc::new(Self { place, state: Mutex::new(state) }))
    }

    /// The file of the calling process. In a forked child it is there once something
    /// was published in the child.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.place.path()
    }

    /// The first error since the last call: the file may lack lines.
    pub fn take_error(&self) -> Option<io::Error> {
        lock(&self.state).error.take()
    }
}

impl State {
    /// Takes out what lies where new code does: all of it is recycled.
    fn displace(&mut self, code: Span) {
        while let Some((&entry, line)) = self.lines.range(..code.end()).next_back()
            && entry + line.len > code.start
        {
            self.lines.remove(&entry);
            self.stale += 1;
        }
    }

    /// Writes all lines, beside the file and then in its place: perf may be reading.
    fn rewrite(&mut self, place: &Place) -> io::Result<()> {
        let mut text = String::new();
        for (entry, line) in &self.lines {
            text.push_str(&line_of(*entry, line));
        }
        let path = place.path();
        let new = path.with_extension("map.new");
        let mut own = OwnFile::create(&new)?;
        own.file.write_all(text.as_bytes())?;
        std::fs::rename(&new, path)?;
        (self.own, self.stale) = (own, 0);
        Ok(())
    }

    fn note(&mut self, result: io::Result<()>) {
        if let Err(error) = result {
            self.error.get_or_insert(error);
        }
    }
}

fn line_of(entry: usize, line: &Line) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = write!(text, "{entry:x} {:x} ", line.len);
    // A name ends where its line does.
    text.extend(line.name.chars().map(|c| if c.is_control() { ' ' } else { c }));
    text.push('\n');
    text
}

impl Tool for PerfMap {
    fn published(&self, code: &CodeInfo, _: &[u8], symbol: &Symbol<'_>) {
        let mut state = lock(&self.state);
        state.displace(code.code);
        let line = Line { len: code.code.len, name: symbol.name().to_owned() };
        let text = line_of(code.entry(), &line);
        state.lines.insert(code.entry(), line);
        let is_inherited = state.own.is_inherited();
        if is_inherited || state.stale > STALE.max(state.lines.len()) {
            let written = state.rewrite(&self.place);
            let is_written = written.is_ok();
            state.note(written);
            // The parent's file is the parent's.
            if is_written || is_inherited {
                return;
            }
        }
        let written = state.own.file.write_all(text.as_bytes());
        state.note(written);
    }

    fn recycled(&self, _: usize) {
        // Samples taken while it lived are still its own. What comes to lie there
        // displaces it.
    }

    fn unmapped(&self, _: Span) {
        let mut state = lock(&self.state);
        if state.stale > 0 && !state.own.is_inherited() {
            let written = state.rewrite(&self.place);
            state.note(written);
        }
    }
}
