//! Executes programs: one thread calls, and others that come and go in between.

use std::sync::{Mutex, PoisonError};
use std::vec;

use jita::{JITA_ERROR_HANDLE, JITA_ERROR_NOT_ATTACHED, JITA_OK, jita_stats, jita_status};

use super::model::{Model, Part};
use super::ops::{Addr, Op, Which};
use super::raw;
use crate::Outcome;
use crate::code;
use crate::ops::Pick;
use crate::world::TRACE_VARIABLE;

/// Arenas ever, and at a time.
pub(super) const MAX_ARENAS: usize = 8;
/// Of each: code, and blocks of a thread.
pub(super) const MAX_CODE: usize = 64;
/// Threads ever beside the first.
const MAX_VISITS: usize = 8;

/// What a program has made.
#[derive(Debug)]
pub struct World {
    pub(super) model: Model,
    ops: vec::IntoIter<Op>,
    pub(super) seed: u64,
    visits: usize,
    /// The figures of open arenas before the operation.
    before: Vec<Option<jita_stats>>,
    /// Whether a call has returned an error in this operation.
    failed: bool,
    trace: bool,
}

/// The library's state is the process's: one program at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// Executes a program, beginning with an arena of some strategy, and ends what it
/// leaves.
///
/// # Panics
///
/// If something is not as the header says.
pub fn run(strategy: u8, ops: Vec<Op>) -> Outcome {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let trace = std::env::var_os(TRACE_VARIABLE).is_some();
    let mut world = World {
        model: Model { threads: vec![Vec::new()], ..Model::default() },
        ops: ops.into_iter(),
        seed: 0,
        visits: 0,
        before: Vec::new(),
        failed: false,
        trace,
    };
    world.create_plain(strategy);
    while world.step() {}
    let steps = world.model.now as usize;
    world.end();
    Outcome::Ran { steps }
}

impl World {
    /// Executes the next operation and checks everything; false at the end.
    fn step(&mut self) -> bool {
        let Some(op) = self.ops.next() else { return false };
        if self.trace {
            eprintln!("{:4} {}{op:?}", self.model.now, "  ".repeat(self.model.threads.len() - 1));
        }
        self.model.now += 1;
        self.seed = self.seed.wrapping_add(0x1_0001);
        self.before = self.figures();
        self.failed = false;
        self.execute(op);
        self.forget_destroyed();
        self.check();
        true
    }

    fn execute(&mut self, op: Op) {
        match op {
            Op::Create(options) => self.create(options),
            Op::Destroy(which) => self.destroy(which),
            Op::Attach(which) => self.attach(which),
            Op::Detach(which) => self.detach(which),
            Op::Open(which) => self.open(which),
            Op::Close(which) => self.close(which),
            Op::Alloc(which, code, data, align, nulls) => {
                self.alloc(which, code, data, align, nulls);
            }
            Op::AllocLayout(which, lens, aligns, size, nulls) => {
                self.alloc_layout(which, lens, aligns, size, nulls);
            }
            Op::Fill(which, block, seed) => self.fill(which, block, seed),
            Op::Make(which, len, seed) => self.make(which, len, seed),
            Op::Publish(which, addr) => self.publish(which, addr),
            Op::Install(which, code, data, seed, nulls) => {
                self.install(which, code, data, seed, nulls);
            }
            Op::Enter(which) => self.enter(which),
            Op::EnterCode(which, code, nulls) => self.enter_code(which, code, nulls),
            Op::EnterEmpty(which) => self.enter_empty(which),
            Op::Exit(which) => self.exit(which),
            Op::Safepoint(which) => self.safepoint(which),
            Op::Park(which) => self.park(which),
            Op::Unpark(which) => self.unpark(which),
            Op::Call(which, code) => self.call(which, code),
            Op::Outlive(which, code, how) => self.outlive(which, code, how),
            Op::Free(addr) => self.free(addr, false),
            Op::FreeQuiescent(addr) => self.free(addr, true),
            Op::Collect(which) => self.collect(which),
            Op::Verify(which) => self.verify(which),
            Op::Lookup(addr, nulls) => self.lookup(addr, nulls),
            Op::Contains(which, addr) => self.contains(which, addr),
            Op::Trampoline(which, target, nulls) => self.trampoline(which, target, nulls),
            Op::CallTarget(which, from, target, nulls) => {
                self.call_target(which, from, target, nulls);
            }
            Op::MakeTrampolines(which, count, nulls) => {
                self.make_trampolines(which, count, nulls);
            }
            Op::Text(which, json, room, nulls) => self.text(which, json, room, nulls),
            Op::Stats(which, size) => self.stats(which, size),
            Op::Offset(which, nulls) => self.offset(which, nulls),
            Op::Name(status) => self.name(status),
            Op::Visit(count) => self.visit(count),
        }
    }

    /// What an operation of several calls does between them: what has failed so far has
    /// changed nothing.
    pub(super) fn go_on(&mut self) {
        self.check();
        self.before = self.figures();
        self.failed = false;
    }

    /// Executes operations on another thread, which ends.
    fn visit(&mut self, count: u8) {
        if self.model.threads.len() > 1 || self.visits >= MAX_VISITS {
            return;
        }
        self.visits += 1;
        self.model.threads.push(vec![Part::default(); self.model.arenas.len()]);
        std::thread::scope(|scope| {
            let ran = scope.spawn(|| {
                for _ in 0..=count % 12 {
                    if !self.step() {
                        break;
                    }
                }
            });
            ran.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        });
        // It lets go of all it has, in the middle of whatever it was.
        let parts = self.model.threads.pop().unwrap_or_default();
        for (arena, part) in parts.iter().enumerate() {
            if part.attached {
                self.let_go(arena);
            }
        }
    }

    /// An arena's number, if it has one, and the handle to pass.
    pub(super) fn which(&self, which: Which) -> (Option<usize>, usize) {
        let count = self.model.arenas.len();
        match which.0 {
            250 => (None, 0),
            251 => (None, 1),
            252 => (None, usize::MAX),
            253 => (None, self.model.arenas[0].handle ^ 0x100_0000_0000),
            254 => (None, self.model.arenas[0].handle + 1),
            255 => (None, self.model.arenas[0].region.start),
            // The last ones more often: they are open.
            n => {
                let at = count - 1 - usize::from(n) % (count * 2) / 2;
                (Some(at), self.model.arenas[at].handle)
            }
        }
    }

    /// Code that lives, of one arena or any.
    pub(super) fn pick_code(&self, pick: Pick, arena: Option<usize>) -> Option<usize> {
        let of = |arena: &usize, of: usize| *arena == of;
        let all = || {
            let all = self.model.live.values();
            all.filter(move |code| arena.is_none_or(|arena| of(&arena, code.arena)))
        };
        pick.of(all().count()).and_then(|at| all().nth(at)).map(|code| code.rx)
    }

    pub(super) fn address(&self, addr: Addr) -> usize {
        let model = &self.model;
        match addr {
            Addr::Null => 0,
            Addr::Any(address) => address,
            Addr::Block(pick, by) => {
                let parts = &model.threads[model.threads.len() - 1];
                let all: Vec<_> = parts.iter().flat_map(|part| &part.pending).collect();
                // Mostly at its start.
                let by = usize::from(by.saturating_sub(200));
                pick.of(all.len()).map_or(1, |at| all[at].code.rx + by)
            }
            Addr::Code(pick, by) => {
                self.pick_code(pick, None).map_or(2, |rx| rx.wrapping_sub(16) + usize::from(by))
            }
            Addr::Freed(pick, by) => {
                let by = usize::from(by.saturating_sub(200));
                pick.of(model.freed.len()).map_or(3, |at| model.freed[at].code.rx + by)
            }
            Addr::Region(which, by) => {
                let at = self.which(which).0.unwrap_or(0);
                let region = &model.arenas[at].region;
                (region.start - 64).wrapping_add(by as usize % (region.len() + 128))
            }
            Addr::Trampoline(pick) => {
                let mut all = model.arenas.iter().filter(|arena| arena.open);
                let all = all.find(|arena| !arena.trampolines.is_empty());
                let all: Vec<_> = all.into_iter().flat_map(|it| it.trampolines.values()).collect();
                pick.of(all.len()).map_or(4, |at| *all[at])
            }
            Addr::Entry(pick) => self.pick_code(pick, None).unwrap_or(5),
        }
    }

    /// Notes what a call has returned. `errors` are those that apply; it succeeds
    /// with `good` if there is none. Whether it succeeded.
    #[track_caller]
    pub(super) fn expect(
        &mut self,
        status: jita_status,
        good: jita_status,
        errors: &[jita_status],
    ) -> bool {
        if errors.is_empty() {
            assert_eq!(status, good, "{}", last_error());
            return true;
        }
        assert!(errors.contains(&status), "{status} where {errors:?}: {}", last_error());
        assert!(!last_error().is_empty(), "an error has a message");
        self.failed = true;
        false
    }

    /// The errors that a handle is cause for, in calls that need no attaching.
    pub(super) fn handle_errors(&self, arena: Option<usize>) -> Vec<jita_status> {
        match arena {
            Some(at) if self.model.arenas[at].open => Vec::new(),
            _ => vec![JITA_ERROR_HANDLE],
        }
    }

    /// The same, in calls that attach the thread if they may.
    pub(super) fn attach_errors(&self, arena: Option<usize>) -> Vec<jita_status> {
        let mut errors = self.handle_errors(arena);
        if let Some(at) = arena.filter(|at| self.model.arenas[*at].open)
            && self.model.arenas[at].explicit
            && !self.model.part(at).attached
        {
            errors.push(JITA_ERROR_NOT_ATTACHED);
        }
        errors
    }

    /// The thread has used an arena with success, and is attached since.
    pub(super) fn attached(&mut self, arena: usize) {
        self.model.part_mut(arena).attached = true;
    }

    /// Figures of the open arenas.
    fn figures(&self) -> Vec<Option<jita_stats>> {
        let read = |arena: &super::model::Arena| arena.open.then(|| stats_of(arena.handle));
        self.model.arenas.iter().map(read).collect()
    }

    /// What must be true after every operation.
    pub(super) fn check(&mut self) {
        for (at, now) in self.figures().into_iter().enumerate() {
            let Some(now) = now else { continue };
            // A call may attach the thread and fail for another reason.
            let attached = self.model.parts(at).filter(|part| part.attached).count() as u64;
            let is_new = now.attached_threads == attached + 1
                && !self.model.part(at).attached
                && !self.model.arenas[at].explicit;
            if is_new {
                self.attached(at);
            } else {
                assert_eq!(now.attached_threads, attached, "arena {at}: {now:?}");
            }
            self.check_figures(at, &now);
            let before = self.before.get(at).copied().flatten();
            if let Some(before) = before.filter(|_| self.failed) {
                let counts =
                    |it: &jita_stats| (it.installs, it.retires, it.live_executors, it.live_bytes);
                assert_eq!(counts(&before), counts(&now), "an error has changed something");
            }
        }
        self.check_bytes();
    }

    fn check_figures(&self, at: usize, now: &jita_stats) {
        let arena = &self.model.arenas[at];
        let [installs, retires] = arena.counts;
        assert_eq!((now.installs, now.retires), (installs, retires), "arena {at}: {now:?}");
        let live = self.model.live.values().filter(|code| code.arena == at);
        let bytes: usize = live.clone().map(|code| code.code_len + code.data_len).sum();
        assert_eq!(now.live_executors, live.count() as u64, "arena {at}: {now:?}");
        assert_eq!(now.live_bytes, bytes as u64, "arena {at}: {now:?}");
        assert_eq!(now.reserved_bytes, arena.region.len() as u64);
        assert_eq!(now.refusals, 0, "the system refused something: {now:?}");
        let freed = self.model.freed.iter().filter(|it| it.code.arena == at);
        let kept = freed.filter(|it| self.model.is_kept(it)).count() as u64;
        assert!(now.retired_executors >= kept, "{kept} are kept: {now:?}");
    }

    /// Code that lives, or that somebody keeps, holds what was written.
    fn check_bytes(&self) {
        let model = &self.model;
        let there = |arena: usize| model.arenas[arena].open || model.is_entered(arena);
        let kept = model.freed.iter().filter(|it| model.is_kept(it)).map(|it| &it.code);
        for code in model.live.values().chain(kept).filter(|code| there(code.arena)) {
            let Some(bytes) = &code.bytes else { continue };
            // SAFETY: published code that lives or is kept, and nobody writes.
            let found = unsafe { code::read(code.rx, code.code_len) };
            assert!(found == &bytes[..code.code_len], "{:#x}: code has changed", code.rx);
            if code.data_len > 0 {
                let data = code.rx + code.data;
                // SAFETY: as above.
                let found = unsafe { code::read(data, code.data_len) };
                assert!(found == &bytes[code.data..], "{:#x}: data has changed", code.rx);
            }
        }
    }
}

impl Drop for World {
    /// After a failure: the next program finds nothing of this one.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for arena in &self.model.arenas {
            let handle = raw::handle(arena.handle);
            let ends = [jita::jita_unpark, jita::jita_exit, jita::jita_write_close];
            // As often as a program can have opened something, and no more: what has failed
            // may be that there is no end to it.
            for _ in 0..64 {
                ends.iter().for_each(|end| _ = end(handle));
            }
            jita::jita_destroy(handle);
        }
    }
}

/// The message of the thread's last error.
pub(super) fn last_error() -> String {
    // SAFETY: text of the library's, until the thread's next error.
    unsafe { core::ffi::CStr::from_ptr(jita::jita_last_error()) }.to_string_lossy().into_owned()
}

/// An open arena's figures.
pub(super) fn stats_of(handle: usize) -> jita_stats {
    // SAFETY: numbers, for which zero is a value.
    let mut stats: jita_stats = unsafe { core::mem::zeroed() };
    stats.size = size_of::<jita_stats>();
    // SAFETY: a struct of the size it says.
    let status = unsafe { jita::jita_stats_read(raw::handle(handle), &raw mut stats) };
    assert_eq!(status, JITA_OK, "{}", last_error());
    stats
}
