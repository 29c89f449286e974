//! Every strategy on every kind of memory against the promises of
//! [`Protection`]: one suite for all in `conformance`, what must kill a process
//! in `faults`, what only a machine with protection keys can show in `keys`, and
//! what limits and refusals do in `limits`.
//!
//! What a machine lacks is said on standard error (`not run: ...`), or fails
//! the test where the environment's `JIT_ARENA_REQUIRE` lists it.

use std::io::Write;
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::*;
use crate::platform::{Access, Backing, Place, native};
use crate::region::Region;
use crate::report::MemoryKind;
use crate::units::{GRANULE, MIB};

mod conformance;
mod faults;
mod keys;
mod limits;

/// Every strategy this system has on every memory that can serve it.
const RUNGS: [(Strategy, MemoryKind); 8] = [
    (Strategy::DualPkey, MemoryKind::Memfd),
    (Strategy::DualPkey, MemoryKind::SharedAnonymous),
    (Strategy::DualTransient, MemoryKind::Memfd),
    (Strategy::DualTransient, MemoryKind::SharedAnonymous),
    (Strategy::DualOpen, MemoryKind::Memfd),
    (Strategy::DualOpen, MemoryKind::SharedAnonymous),
    (Strategy::Mprotect, MemoryKind::Private),
    (Strategy::SinglePkey, MemoryKind::Private),
];

/// Held by whoever has keys allocated: there are 15 for the whole process, and
/// tests run in parallel.
static KEYS: Mutex<()> = Mutex::new(());

fn hold_keys() -> MutexGuard<'static, ()> {
    KEYS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Says that a test cannot run here, or fails if it must be able to.
fn missing(test: &str, capability: &str, why: &dyn fmt::Display) {
    let required = std::env::var("JIT_ARENA_REQUIRE").unwrap_or_default();
    let required = required.split(',').any(|name| name.trim() == capability);
    assert!(!required, "{test}: {capability} is required, but {why}");
    // Not eprintln!, which the test runner hides when a test passes; and in one
    // write, since tests run in parallel.
    let line = format!("not run: {test}: {why}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
}

fn rung(strategy: Strategy, memory: MemoryKind) -> OsResult<Region> {
    let platform = native();
    let wanted = Wanted {
        name: "protect-test",
        len: MIB,
        guard: platform.guard(),
        place: Place::Anywhere,
        aside: Place::Anywhere,
    };
    let region = Region::attempt(&platform, strategy, memory, &wanted)?;
    region.protection().close_rights(&*platform);
    Ok(region)
}

/// This test binary as a command; by the runner that cargo was told to use for
/// the target, if any, since the kernel cannot start a foreign binary itself.
fn this_binary() -> Command {
    let binary = std::env::current_exe().unwrap();
    let arch = std::env::consts::ARCH.to_uppercase();
    let runner = format!("CARGO_TARGET_{arch}_UNKNOWN_LINUX_GNU_RUNNER");
    let runner = std::env::var(runner).unwrap_or_default();
    let mut words = runner.split_whitespace();
    let Some(program) = words.next() else {
        return Command::new(binary);
    };
    let mut command = Command::new(program);
    command.args(words).arg(binary);
    command
}

/// Whether a kernel of this processor runs the process, and not an emulator of
/// single processes, which ignores advice on memory, reports success, and takes
/// limits for its own.
pub(crate) fn on_a_kernel(test: &str) -> bool {
    let platform = native();
    let len = platform.system_page();
    let addr = platform.map(Backing::Private, Place::Anywhere, len, Access::ReadWrite);
    let page = Span::new(addr.unwrap(), len);
    // SAFETY: a writable mapping of ours.
    unsafe { platform.populate(page.start, page.len) }.unwrap();
    let obeyed = is_present(page);
    // SAFETY: ours, not used again.
    unsafe { platform.unmap(page.start, page.len) }.unwrap();
    if !obeyed {
        missing(test, "kernel", &"advice on memory is ignored");
    }
    obeyed
}

/// Runs one test of this binary again, alone, in a process of its own.
fn rerun(test: &str, variable: &str, value: &str) -> Output {
    this_binary().args(["--exact", test, "--nocapture"]).env(variable, value).output().unwrap()
}

/// Runs `body`, the rest of test `name` of module `module`, in a process of its
/// own: for what is a whole process's, such as limits and handlers. Forking
/// instead would leave the test runner's other threads' locks held for ever.
fn in_own_process(module: &str, name: &str, body: fn()) {
    const ALONE: &str = "JIT_ARENA_TEST_ALONE";
    if std::env::var(ALONE).is_ok_and(|test| test == name) {
        return body();
    }
    let child = rerun(&format!("protect::tests::{module}::{name}"), ALONE, name);
    let output = String::from_utf8_lossy(&child.stdout);
    assert!(
        child.status.success() && output.contains("1 passed"),
        "{name}: {}: {output}{}",
        child.status,
        String::from_utf8_lossy(&child.stderr),
    );
    // What the child could not run is said here.
    for line in String::from_utf8_lossy(&child.stderr).lines() {
        if line.starts_with("not run: ") {
            let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
        }
    }
}

/// The rung's region, or word of what this machine lacks for it.
fn rung_for(test: &str, strategy: Strategy, memory: MemoryKind) -> Option<Region> {
    let why = match rung(strategy, memory) {
        Ok(region) => return Some(region),
        Err(why) => why,
    };
    let no_key = why.call == "pkey_alloc";
    let capability = if no_key { "pkey" } else { memory.name() };
    missing(&format!("{test} on {strategy}/{memory}"), capability, &why);
    None
}

/// Runs `body` on each rung that this machine has.
fn each_rung(test: &str, body: impl Fn(&Region)) {
    let _keys = hold_keys();
    for (strategy, memory) in RUNGS {
        if let Some(region) = rung_for(test, strategy, memory) {
            body(&region);
        }
    }
}

/// Machine code of a function that returns `value`.
fn returning(value: u16) -> Vec<u8> {
    if cfg!(target_arch = "x86_64") {
        // mov eax, imm32; ret
        let mut code = vec![0xB8];
        code.extend(u32::from(value).to_le_bytes());
        code.push(0xC3);
        code
    } else {
        // movz w0, #imm16; ret
        let movz = 0x5280_0000 | (u32::from(value) << 5);
        [movz.to_le_bytes(), 0xD65F_03C0_u32.to_le_bytes()].concat()
    }
}

/// Calls a function written by [`write`].
fn call(addr: usize) -> u32 {
    let entry = core::ptr::with_exposed_provenance::<()>(addr);
    // SAFETY: tests call only what they have written: a function without
    // arguments that returns a 32-bit number.
    let entry = unsafe { core::mem::transmute::<*const (), extern "C" fn() -> u32>(entry) };
    entry()
}

/// Does `body` with a window on `span`, as a write scope does.
fn in_window<R>(region: &Region, span: Span, body: impl FnOnce(Window) -> R) -> R {
    let (platform, protection) = (region.platform(), region.protection());
    let before = protection.open(platform);
    // SAFETY: tests hold the whole region and give out disjoint spans.
    let window = unsafe { protection.window(platform, span) }.unwrap();
    let result = body(window);
    // SAFETY: opened above, not used again.
    unsafe { protection.close_window(platform, &window) }.unwrap();
    protection.close(platform, before);
    result
}

/// Writes code at an offset of the region; returns where it runs.
fn write(region: &Region, offset: usize, code: &[u8]) -> usize {
    let span = Span::new(region.span().start + offset, code.len());
    let platform = region.platform();
    in_window(region, span, |window| {
        let to = window.writable_at(span.start);
        // SAFETY: inside an open window of ours.
        unsafe { platform.copy_in(to, code) };
        // SAFETY: just written.
        unsafe { platform.clean_data_cache(to, code.len()) };
    });
    // SAFETY: inside the executable view.
    unsafe { platform.invalidate_instruction_cache(span.start, code.len()) };
    span.start
}

fn load(region: &Region, addr: usize) -> u64 {
    // SAFETY: tests pass aligned addresses of the region.
    unsafe { region.protection().load_word(region.platform(), addr) }
}

fn populate(region: &Region, span: Span) {
    // SAFETY: whole system pages of the region.
    unsafe { region.protection().populate(region.platform(), span) }.unwrap();
}

fn discard(region: &Region, span: Span) {
    // SAFETY: whole system pages of the region that the test is done with.
    unsafe { region.protection().discard(region.platform(), span) }.unwrap();
}

/// System page `index` of the region.
fn page(region: &Region, index: usize) -> Span {
    let size = region.platform().system_page();
    Span::new(region.span().start + index * size, size)
}

/// Whether the memory behind a mapped page exists, whoever has touched it.
pub(crate) fn is_present(page: Span) -> bool {
    let mut present = 0_u8;
    let addr = core::ptr::with_exposed_provenance_mut(page.start);
    // SAFETY: one mapped system page, and a byte for its answer.
    let status = unsafe { libc::mincore(addr, page.len, &raw mut present) };
    assert_eq!(status, 0, "{}", std::io::Error::last_os_error());
    present & 1 == 1
}

/// What /proc/self/maps says of an address, such as `r-xs`; `----` if it is
/// not mapped.
fn rights_at(addr: usize) -> String {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let found = maps.lines().find_map(|line| {
        let (range, rest) = line.split_once(' ')?;
        let (start, end) = range.split_once('-')?;
        let start = usize::from_str_radix(start, 16).ok()?;
        let end = usize::from_str_radix(end, 16).ok()?;
        (start..end).contains(&addr).then(|| rest[..4].to_owned())
    });
    found.unwrap_or_else(|| "----".to_owned())
}
