//! The `dump` command: installs executors of a trace's first sizes, and shows
//! what the arena then holds, disassembled and with names.
//!
//! Beside them stands one executor that jumps to a far helper, directly or
//! through a trampoline, so that a listing has what all listings are about.

use jit_arena::{Arena, CodeLayout, Executor, Reservation, Strategy, Symbol, ThreadHandle};
use jit_arena_tools::{Names, disassemble};
use serde::Serialize;

use crate::code::Program;
use crate::failure::{Check, Failure, Request};
use crate::trace::{Shape, Trace};

/// What the arena holds. The fields are the keys of the JSON object.
#[derive(Clone, Debug, Serialize)]
pub struct DumpReport {
    kind: &'static str,
    /// Name of the trace.
    pub trace: String,
    /// Live executors.
    pub executors: usize,
    /// Bytes of their code.
    pub code_bytes: usize,
    /// Trampolines.
    pub trampolines: usize,
    /// The listing.
    pub text: String,
}

/// The helper that trampolines of a dump lead to.
extern "C" fn helper() {}

/// Installs the first `count` executors of `trace` and dumps the arena.
///
/// # Errors
///
/// The arena cannot be built, or has no room.
pub fn dump(
    trace: &Trace,
    count: usize,
    strategy: Option<Strategy>,
) -> Result<DumpReport, Failure> {
    let names = Names::new();
    let builder = Arena::builder().tool(names.clone());
    let builder = match strategy {
        Some(strategy) => builder.strategy(strategy),
        None => builder,
    };
    let arena = builder.build().map_err(Request::from)?;
    let mut thread = arena.attach().map_err(|e| Check::operation("attaching", e))?;
    let mut executors = vec![install_jump(&arena, &mut thread)?];
    for (at, shape) in trace.executors.iter().take(count).enumerate() {
        executors.push(install(&mut thread, at, *shape)?);
    }
    let dump = arena.dump().map_err(|e| Check::operation("dumping", e))?;
    let helper = helper as extern "C" fn() as usize;
    let name = |address| {
        if address == helper { Some("helper".to_owned()) } else { names.name_of(address) }
    };
    Ok(DumpReport {
        kind: "dump",
        trace: trace.name.clone(),
        executors: dump.executors.len(),
        code_bytes: dump.executors.iter().map(|it| it.code.len()).sum(),
        trampolines: dump.trampolines.len(),
        text: disassemble(&dump, &name),
    })
}

/// An executor of the trace, of code that checks itself.
fn install(thread: &mut ThreadHandle, at: usize, shape: Shape) -> Result<Executor, Failure> {
    let program = Program { seed: at as u64 + 1, shape };
    let layout = CodeLayout::new(shape.code as usize).data(shape.data as usize, 8).tag(at as u64);
    let (mut code, mut data) = (Vec::new(), Vec::new());
    program.emit(layout.data_offset() - layout.code_len(), &mut code, &mut data);
    let parts = [(0, code), (layout.data_offset(), data)];
    let place = written(thread, layout, &parts)?;
    publish(thread, place, &format!("executor {at}"))
}

/// An executor that goes on in the helper.
fn install_jump(arena: &Arena, thread: &mut ThreadHandle) -> Result<Executor, Failure> {
    let helper = helper as extern "C" fn() as usize;
    let len = if cfg!(target_arch = "x86_64") { 5 } else { 4 };
    let mut place =
        thread.reserve(CodeLayout::new(len)).map_err(|e| Check::operation("reserving", e))?;
    let to = arena.call_target(place.entry(), helper).map_err(Request::from)?;
    let distance = to.wrapping_sub(place.entry());
    let code = if cfg!(target_arch = "x86_64") {
        // jmp to
        [&[0xE9][..], &(distance.wrapping_sub(len) as u32).to_le_bytes()].concat()
    } else {
        // b to
        (0x1400_0000 | (distance / 4) as u32 & 0x03FF_FFFF).to_le_bytes().to_vec()
    };
    let write = thread.write().write_at(&mut place, 0, &code);
    write.map_err(|e| Check::operation("writing", e))?;
    publish(thread, place, "calls helper")
}

fn written(
    thread: &mut ThreadHandle,
    layout: CodeLayout,
    parts: &[(usize, Vec<u8>)],
) -> Result<Reservation, Failure> {
    let mut place = thread.reserve(layout).map_err(|e| Check::operation("reserving", e))?;
    let mut scope = thread.write();
    for (offset, bytes) in parts.iter().filter(|(_, bytes)| !bytes.is_empty()) {
        let write = scope.write_at(&mut place, *offset, bytes);
        write.map_err(|e| Check::operation("writing", e))?;
    }
    drop(scope);
    Ok(place)
}

fn publish(thread: &mut ThreadHandle, place: Reservation, name: &str) -> Result<Executor, Failure> {
    thread
        .publish_named(place, &Symbol::new(name))
        .map_err(|e| Check::operation("publishing", e.to_string()).into())
}
