//! A control group with too little memory for what an arena is filled with: the
//! system may refuse, which is a typed error, or end the process. Nothing else may
//! come of it: no code that is not what was written, and no hang.
//!
//! The group is the test's own, made for it at the root of the hierarchy and removed
//! behind it. It is made only where the test itself is at the root: a process that
//! somebody has put in a group is not to leave it.

#![cfg(target_os = "linux")]

mod common;

use std::fs;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};

use common::child::{self, Ended};
use common::{KIB, MIB, arena_of, call, constant, not_run};
use jit_arena::{Arena, InstallError, ReserveError, Strategy};

/// What the group may have, the test's program included.
const ROOM: usize = 8 * MIB;

/// Address space of the arena, and seconds that filling it takes at the most.
const REGION: usize = 64 * MIB;
const SECONDS: u32 = 300;

/// The root of the hierarchy, of the second version.
const ROOT: &str = "/sys/fs/cgroup";

/// Why a process here may not be put in a group of the test's, if it may not.
fn why_not() -> Result<(), String> {
    let groups = fs::read_to_string("/proc/self/cgroup").map_err(|error| error.to_string())?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::"));
    match own {
        None => return Err("there are no control groups of the second version".into()),
        Some("/") => {}
        Some(own) => return Err(format!("this process is in {own}, which it is not to leave")),
    }
    let file = Path::new(ROOT).join("cgroup.controllers");
    let controllers =
        fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    if !names_memory(&controllers) {
        return Err(format!("no memory controller in {ROOT}"));
    }
    Ok(())
}

fn names_memory(controllers: &str) -> bool {
    controllers.split_whitespace().any(|controller| controller == "memory")
}

fn write(file: PathBuf, text: &str) -> Result<(), String> {
    fs::write(&file, text).map_err(|error| format!("{}: {error}", file.display()))
}

/// A group of the test's own, removed when this is dropped.
struct Group {
    at: PathBuf,
}

impl Group {
    fn new() -> Result<Self, String> {
        why_not()?;
        let root = Path::new(ROOT);
        let switch = root.join("cgroup.subtree_control");
        if !fs::read_to_string(&switch).is_ok_and(|controllers| names_memory(&controllers)) {
            write(switch, "+memory")?;
        }
        let at = root.join(format!("jit-arena-{}", std::process::id()));
        fs::create_dir(&at).map_err(|error| format!("{}: {error}", at.display()))?;
        let group = Self { at };
        write(group.at.join("memory.max"), &ROOM.to_string())?;
        // What is swapped out would not count. Not there without swap.
        let _ = fs::write(group.at.join("memory.swap.max"), "0");
        Ok(group)
    }

    /// Processes that the kernel ended for want of memory.
    fn killed(&self) -> usize {
        let text = fs::read_to_string(self.at.join("memory.events")).unwrap();
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.unwrap().trim().parse().unwrap()
    }

    /// Runs `test` in a child that is in the group.
    fn run(&self, test: &str, strategy: Strategy) -> Ended {
        let processes = self.at.join("cgroup.procs");
        child::run_with(test, strategy.name(), |command| {
            // SAFETY: makes system calls, and allocates in a child that this thread
            // alone is copied to, as the C library allows.
            unsafe { command.pre_exec(move || fs::write(&processes, "0")) }
        })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Also on unwinding, where a second panic would hide the first.
        let removed = fs::remove_dir(&self.at);
        assert!(std::thread::panicking() || removed.is_ok(), "{removed:?}: {}", self.at.display());
    }
}

/// Fills the arena, calls all that is in it again and again, and says how far it came.
fn fill(strategy: Strategy) {
    // SAFETY: has no preconditions; nobody here handles its signal, so that a hang
    // ends the process by another one than want of memory does.
    unsafe { libc::alarm(SECONDS) };
    child::report_faults();
    let arena = Arena::builder().reserve(REGION).strategy(strategy).build().unwrap();
    let mut thread = arena.attach().unwrap();
    let mut all = Vec::with_capacity(REGION / (2 * KIB));
    let error = loop {
        let value = all.len() as u32;
        let code = [constant(value), vec![0x90; 2 * KIB]].concat();
        match thread.install(&code, &[]) {
            Ok(executor) => all.push(executor),
            Err(error) => break error,
        }
        if all.len().is_multiple_of(256) {
            for (value, executor) in all.iter().enumerate() {
                assert_eq!(call(&thread, executor), value as u32);
            }
            println!("\nright: {}", all.len());
        }
    };
    // Refused, then, and not because of the region.
    assert!(
        matches!(error, InstallError::Reserve(ReserveError::Os(_)))
            || matches!(error, InstallError::Write(_)),
        "{error}"
    );
    println!("\nrefused: {error}");
    all.truncate(all.len() / 2);
    thread.collect();
    for (value, executor) in all.iter().enumerate() {
        assert_eq!(call(&thread, executor), value as u32);
    }
    let again = thread.install(&constant(7), &[]).unwrap();
    assert_eq!(call(&thread, &again), 7);
    drop((again, all));
    thread.collect();
    arena.verify().unwrap();
    println!("\nended: whole");
}

#[test]
fn a_full_memory_group_is_a_typed_error_or_the_end_of_the_process() {
    if let Some(strategy) = child::part() {
        return fill(strategy.parse().unwrap());
    }
    let group = match Group::new() {
        Ok(group) => group,
        Err(why) => return not_run(&format!("no memory group can be had: {why}")),
    };
    for strategy in Strategy::ALL {
        if arena_of(strategy).is_none() {
            continue;
        }
        let before = group.killed();
        let test = "a_full_memory_group_is_a_typed_error_or_the_end_of_the_process";
        let ended = group.run(test, strategy);
        let right = ended.output.lines().filter(|line| line.starts_with("right: ")).count();
        let killed = group.killed() - before;
        println!("{strategy}: {:?}, {right} times all right, {killed} killed", ended.status);
        assert!(right > 0, "it has not come far enough to say anything: {ended:?}");
        if ended.status.success() {
            assert_eq!(ended.said("ended"), Some("whole"), "{ended:?}");
        } else {
            assert_eq!((ended.status.signal(), killed), (Some(libc::SIGKILL), 1), "{ended:?}");
        }
    }
}
