//! Making machine code and putting it where it is found.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use jit_arena::{CodeLayout, Executor, ReserveError, Symbol};

use super::evict::evict;
use super::site::Site;
use super::types::Ty;
use super::unit::{Exit, Home, Unit};
use crate::jit::{self, Blueprint, Request};
use crate::run::context::{Context, Frame};
use crate::runtime::Shared;
use crate::value::objects::{Function, locked};

/// Makes code for a site that is hot; the site was told that this is under way.
pub(super) fn for_site(
    context: &mut Context,
    function: &'static Function,
    site: &Arc<Site>,
    frame: Frame,
) {
    let home = Home::Site(Arc::downgrade(site));
    let put = |executor| site.put(executor, function.code.is_leaf);
    let unit = make(context, function, frame, site.pc as usize, home, 0, put);
    site.made(unit);
}

/// Makes a side trace for a way out that is taken often.
pub(super) fn for_exit(
    context: &mut Context,
    function: &'static Function,
    parent: &Unit,
    number: usize,
    frame: Frame,
) {
    let exit = &parent.exits[number];
    // Relaxed: decides only who makes it.
    if parent.is_dead() || exit.making.swap(true, Ordering::Relaxed) {
        return;
    }
    let known = {
        let units = locked(&context.world().units);
        units.iter().rev().find(|unit| core::ptr::eq(Arc::as_ptr(unit), parent)).map(Arc::downgrade)
    };
    if let Some(parent_ref) = known {
        let home = Home::Exit { parent: parent_ref, number };
        let depth = parent.depth + 1;
        // Of the same arena.
        let put = |executor| exit.slot.replace(executor).ok().flatten();
        let unit = make(context, function, frame, exit.pc as usize, home, depth, put);
        if let Some(unit) = unit {
            context.runtime.counts.sides.fetch_add(1, Ordering::Relaxed);
            if !parent.adopt(number, &unit) {
                unit.kill();
            }
        }
    }
    exit.making.store(false, Ordering::Relaxed);
}

/// Compiles from `pc` on and puts the executor where it belongs. `None` if there is
/// no room for it, or it would not be right any more.
fn make(
    context: &mut Context,
    function: &'static Function,
    frame: Frame,
    pc: usize,
    home: Home,
    depth: u32,
    put: impl FnOnce(Executor) -> Option<Executor>,
) -> Option<Arc<Unit>> {
    let started = Instant::now();
    let runtime = Arc::clone(&context.runtime);
    let world = context.world();
    let code = &*function.code;
    let look = |slot| Ty::of(frame.get(slot));
    let address = (&raw const *function).expose_provenance();
    let forced = runtime.options.force_exits.is_some();
    let request = Request::new(code, address, world, pc, look, forced);
    let mut blueprint = jit::compile(&request)?;
    let exits = blueprint.exits.iter().map(|pc| Exit::new(&runtime.arena, *pc)).collect();
    let unit = Arc::new(Unit::new(&runtime, exits, home, depth));
    blueprint.data[jit::UNIT] = Arc::as_ptr(&unit).expose_provenance() as u64;
    let Some(executor) = install(context, &runtime, &mut blueprint, &code.name) else {
        runtime.counts.refused.fetch_add(1, Ordering::Relaxed);
        return None;
    };
    // From here on the address of the unit may be in somebody's hands.
    locked(&world.units).push(Arc::clone(&unit));
    locked(&runtime.units).push(Arc::downgrade(&unit));
    if let Some(replaced) = put(executor) {
        runtime.recorder.died(replaced.addr());
        drop(replaced);
    }
    // Watched only now: whoever changes a global from here on finds the code
    // in its place. What has changed meanwhile is seen here.
    let current = |(g, version): &(u16, u64)| {
        world.globals[usize::from(*g)].watch(*version, Arc::downgrade(&unit))
    };
    if !blueprint.globals.iter().all(current) {
        unit.kill();
        runtime.counts.refused.fetch_add(1, Ordering::Relaxed);
        return None;
    }
    runtime.counts.compiled.fetch_add(1, Ordering::Relaxed);
    context.record.compiled();
    runtime.installs.record(started.elapsed().as_nanos() as u64);
    Some(unit)
}

/// Reserves, patches, writes and publishes; drops cold code if memory is short.
fn install(
    context: &mut Context,
    runtime: &Shared,
    blueprint: &mut Blueprint,
    name: &str,
) -> Option<Executor> {
    let data: Vec<u8> = blueprint.data.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let layout = CodeLayout::new(blueprint.code.len()).data(data.len(), 8);
    if let Some(goal) = runtime.options.live_goal
        && runtime.arena.stats().live_bytes > goal
    {
        evict(runtime);
    }
    let reserved = context.maker.reserve(layout).or_else(|error| match error {
        ReserveError::OverBudget { .. } | ReserveError::Exhausted { .. } => {
            evict(runtime);
            context.maker.collect();
            context.maker.reserve(layout)
        }
        other => Err(other),
    });
    let mut place = reserved.ok()?;
    let target = |from, to| runtime.arena.call_target(from, to);
    blueprint.place(place.entry(), layout.data_offset(), target).ok()?;
    let mut scope = context.maker.write();
    let written = scope
        .write_at(&mut place, 0, &blueprint.code)
        .and_then(|()| scope.write_at(&mut place, layout.data_offset(), &data));
    drop(scope);
    written.ok()?;
    context.maker.publish_named(place, &Symbol::new(name)).ok()
}
