//! Reading recorded allocation traces: CSV, plain or gzip, into a compact list
//! of checked events.
//!
//! First step of a replay; [`crate::replay`] takes the [`Trace`] on. The format
//! is described in `traces/README.md`. The reader is liberal where the format
//! leaves room (order of columns, further columns, missing fields behind the
//! id of a free, gaps in the ids, line ends, several gzip members) and strict
//! where a file can only be damaged: a [`Trace`] that exists can be replayed.
//!
//! What a [`Trace`] promises: time never goes down; every executor is
//! allocated by exactly one event and freed by at most one, later; executors
//! are numbered without gaps in the order of their allocation; each has at
//! least one byte of code and no more than [`MAX_EXECUTOR`] bytes in all.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, BufReader, Cursor, Read};
use std::path::Path;

use csv::{ByteRecord, ReaderBuilder, Terminator};
use flate2::read::MultiGzDecoder;
use jit_arena::MAX_EXECUTOR;

mod error;

pub use error::{TraceError, TraceErrorKind};

/// What a program needed for one executor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Bytes of code, at least 1.
    pub code: u32,
    /// Bytes of data behind the code.
    pub data: u32,
}

impl Shape {
    /// Bytes in all.
    #[must_use]
    pub fn bytes(self) -> u64 {
        u64::from(self.code) + u64::from(self.data)
    }

    /// Bytes a mapping of its own takes: whole pages of `page` bytes, and
    /// always at least one byte of padding, as CPython's JIT rounds.
    #[must_use]
    pub fn padded(self, page: u64) -> u64 {
        (self.bytes() / page + 1) * page
    }
}

/// What happened to an executor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// It was allocated.
    Alloc,
    /// It was freed.
    Free,
}

/// One row of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Nanoseconds since the start of the recording.
    pub t_ns: u64,
    /// The executor: index into [`Trace::executors`].
    pub executor: u32,
    /// What happened to it.
    pub op: Op,
}

/// A checked trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// Name for people and reports: the file's, without directory and ending.
    pub name: String,
    /// All events, in order of time.
    pub events: Vec<Event>,
    /// All executors, in order of allocation.
    pub executors: Vec<Shape>,
    /// How many threads the recorded program allocated and freed on.
    pub recorded_threads: usize,
}

impl Trace {
    /// Reads the trace at `path`.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or is no trace; says where and why.
    pub fn open(path: &Path) -> Result<Self, TraceError> {
        let file = path.display().to_string();
        let fail = |e| TraceError { file: file.clone(), line: None, kind: TraceErrorKind::Read(e) };
        Self::read(&file, File::open(path).map_err(fail)?)
    }

    /// Reads a trace from `input`; `file` names it in errors and, without
    /// directory and ending, in reports.
    ///
    /// # Errors
    ///
    /// As for [`open`](Self::open).
    pub fn read(file: &str, input: impl Read) -> Result<Self, TraceError> {
        let at = |line| move |kind| TraceError { file: file.to_owned(), line, kind };
        // The first two bytes tell gzip from text; a name may say anything.
        let mut input = BufReader::new(input);
        let mut head = Vec::new();
        input
            .by_ref()
            .take(2)
            .read_to_end(&mut head)
            .map_err(|e| at(None)(TraceErrorKind::Read(e)))?;
        let gzip = head == [0x1f, 0x8b];
        let whole = Cursor::new(head).chain(input);
        let text: Box<dyn Read + '_> =
            if gzip { Box::new(MultiGzDecoder::new(whole)) } else { Box::new(whole) };

        // Every row ends in one `\n`, so that the reader's position behind a row
        // gives the row's line, whatever empty lines came before it. The `\r`
        // of other systems is blank space at the end of the last field.
        let text = text.chain(&b"\n"[..]);
        let mut rows = ReaderBuilder::new()
            .flexible(true)
            .has_headers(false)
            // One that is not closed would swallow the rows behind it.
            .quoting(false)
            .terminator(Terminator::Any(b'\n'))
            .from_reader(text);
        let mut row = ByteRecord::new();
        let mut reading = None;
        loop {
            match rows.read_byte_record(&mut row) {
                Ok(true) => {}
                Ok(false) => break,
                Err(e) => return Err(at(Some(rows.position().line()))(read_failed(e, gzip))),
            }
            let line = rows.position().line() - 1;
            if row.iter().all(|field| field.trim_ascii().is_empty()) {
                continue;
            }
            match &mut reading {
                None => reading = Some(Reading::new(&row).map_err(at(Some(line)))?),
                Some(reading) => reading.row(&row).map_err(at(Some(line)))?,
            }
        }
        match reading {
            Some(reading) if !reading.events.is_empty() => Ok(reading.finish(stem(file))),
            _ => Err(at(None)(TraceErrorKind::Empty)),
        }
    }

    /// Nanoseconds from the first event to the last.
    #[must_use]
    pub fn duration_ns(&self) -> u64 {
        match (self.events.first(), self.events.last()) {
            (Some(first), Some(last)) => last.t_ns - first.t_ns,
            _ => 0,
        }
    }

    /// The most bytes of executors live at once.
    #[must_use]
    pub fn peak_live(&self) -> u64 {
        let (mut live, mut peak) = (0, 0);
        for event in &self.events {
            let bytes = self.executors[event.executor as usize].bytes();
            match event.op {
                Op::Alloc => live += bytes,
                Op::Free => live -= bytes,
            }
            peak = peak.max(live);
        }
        peak
    }
}

/// The name of a file without directory and endings.
fn stem(file: &str) -> &str {
    let name = file.rsplit('/').next().unwrap_or(file);
    let name = name.strip_suffix(".gz").unwrap_or(name);
    name.strip_suffix(".csv").unwrap_or(name)
}

fn read_failed(error: csv::Error, gzip: bool) -> TraceErrorKind {
    let error = match error.into_kind() {
        csv::ErrorKind::Io(e) => e,
        // The reader is flexible and deals in bytes: nothing else is left.
        other => io::Error::other(format!("{other:?}")),
    };
    match error.kind() {
        io::ErrorKind::UnexpectedEof if gzip => TraceErrorKind::GzipTruncated,
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData if gzip => {
            TraceErrorKind::GzipDamaged(error)
        }
        _ => TraceErrorKind::Read(error),
    }
}

/// Where each column stands in a row.
#[derive(Debug)]
struct Columns {
    t_ns: usize,
    thread: usize,
    op: usize,
    id: usize,
    code_bytes: usize,
    data_bytes: usize,
}

impl Columns {
    fn find(header: &ByteRecord) -> Result<Self, TraceErrorKind> {
        const NAMES: [&str; 6] = ["t_ns", "thread", "op", "id", "code_bytes", "data_bytes"];
        let mut found = [None; NAMES.len()];
        for (position, field) in header.iter().enumerate() {
            // Editors and spreadsheets like to put a byte-order mark in front.
            let field = if position == 0 {
                field.strip_prefix(b"\xef\xbb\xbf").unwrap_or(field)
            } else {
                field
            };
            let field = unquoted(field);
            if let Some(column) = NAMES.iter().position(|name| name.as_bytes() == field)
                && found[column].replace(position).is_some()
            {
                return Err(TraceErrorKind::RepeatedColumn(NAMES[column]));
            }
        }
        let [Some(t_ns), Some(thread), Some(op), Some(id), Some(code_bytes), Some(data_bytes)] =
            found
        else {
            let missing =
                NAMES.into_iter().zip(found).filter(|(_, at)| at.is_none()).map(|(name, _)| name);
            return Err(TraceErrorKind::MissingColumns(missing.collect()));
        };
        Ok(Self { t_ns, thread, op, id, code_bytes, data_bytes })
    }
}

/// A trace as far as it has been read.
#[derive(Debug)]
struct Reading {
    columns: Columns,
    events: Vec<Event>,
    executors: Vec<Shape>,
    /// The file's ids: our number for each, and whether it still lives.
    ids: HashMap<u64, (u32, bool)>,
    threads: HashSet<u64>,
}

impl Reading {
    fn new(header: &ByteRecord) -> Result<Self, TraceErrorKind> {
        Ok(Self {
            columns: Columns::find(header)?,
            events: Vec::new(),
            executors: Vec::new(),
            ids: HashMap::new(),
            threads: HashSet::new(),
        })
    }

    fn row(&mut self, row: &ByteRecord) -> Result<(), TraceErrorKind> {
        let columns = &self.columns;
        let t_ns = number(row, columns.t_ns, "t_ns")?;
        let before = self.events.last().map_or(0, |event| event.t_ns);
        if t_ns < before {
            return Err(TraceErrorKind::TimeGoesBack { from: before, to: t_ns });
        }
        let thread = number(row, columns.thread, "thread")?;
        let id = number(row, columns.id, "id")?;
        let op = field(row, columns.op, "op")?;
        let event = match op {
            b"a" => {
                let code = number(row, columns.code_bytes, "code_bytes")?;
                let data = number(row, columns.data_bytes, "data_bytes")?;
                let executor = self.alloc(id, code, data)?;
                Event { t_ns, executor, op: Op::Alloc }
            }
            b"f" => Event { t_ns, executor: self.free(id)?, op: Op::Free },
            _ => return Err(TraceErrorKind::UnknownOp(lossy(op))),
        };
        self.threads.insert(thread);
        self.events.push(event);
        Ok(())
    }

    fn alloc(&mut self, id: u64, code: u64, data: u64) -> Result<u32, TraceErrorKind> {
        if code == 0 {
            return Err(TraceErrorKind::NoCode(id));
        }
        let bytes = code.saturating_add(data);
        let too_large = || TraceErrorKind::TooLarge { id, bytes };
        if bytes > MAX_EXECUTOR as u64 {
            return Err(too_large());
        }
        let code = u32::try_from(code).map_err(|_| too_large())?;
        let data = u32::try_from(data).map_err(|_| too_large())?;
        let executor = u32::try_from(self.executors.len()).map_err(|_| TraceErrorKind::TooMany)?;
        if self.ids.insert(id, (executor, true)).is_some() {
            return Err(TraceErrorKind::IdReused(id));
        }
        self.executors.push(Shape { code, data });
        Ok(executor)
    }

    fn free(&mut self, id: u64) -> Result<u32, TraceErrorKind> {
        let (executor, live) = self.ids.get_mut(&id).ok_or(TraceErrorKind::FreeBeforeAlloc(id))?;
        if !std::mem::replace(live, false) {
            return Err(TraceErrorKind::DoubleFree(id));
        }
        Ok(*executor)
    }

    fn finish(self, name: &str) -> Trace {
        Trace {
            name: name.to_owned(),
            events: self.events,
            executors: self.executors,
            recorded_threads: self.threads.len(),
        }
    }
}

/// A field without blanks and quotes around it.
fn unquoted(field: &[u8]) -> &[u8] {
    let field = field.trim_ascii();
    let inside = field.strip_prefix(b"\"").and_then(|field| field.strip_suffix(b"\""));
    inside.map_or(field, <[u8]>::trim_ascii)
}

fn field<'r>(
    row: &'r ByteRecord,
    at: usize,
    column: &'static str,
) -> Result<&'r [u8], TraceErrorKind> {
    match row.get(at).map(unquoted) {
        Some(field) if !field.is_empty() => Ok(field),
        _ => Err(TraceErrorKind::MissingField(column)),
    }
}

fn number(row: &ByteRecord, at: usize, column: &'static str) -> Result<u64, TraceErrorKind> {
    let field = field(row, at, column)?;
    std::str::from_utf8(field)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| TraceErrorKind::NotANumber { column, field: lossy(field) })
}

/// A field for an error message: short, whatever the file holds.
fn lossy(field: &[u8]) -> String {
    String::from_utf8_lossy(&field[..field.len().min(40)]).into_owned()
}
