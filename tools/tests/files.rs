//! Perf maps and jitdumps: what is in the files, and what real perf makes of
//! them.

#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

mod common;

use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use common::{counts_down, function, has, install, is_child, no_frame, not_run, said, text, under};
use jit_arena::{Arena, CodeLayout, Line, Symbol, Tool};
use jit_arena_tools::{Jitdump, PerfMap};
use linux_perf_data::jitdump::{JitDumpReader, JitDumpRecord};

fn arena_with(tool: Arc<dyn Tool>) -> Arena {
    Arena::builder().tool(tool).build().unwrap()
}

/// The lines of a perf map: start, length, name.
fn lines(path: &Path) -> Vec<(usize, usize, String)> {
    let parse = |line: &str| {
        let mut words = line.splitn(3, ' ');
        let mut hex = || usize::from_str_radix(words.next().unwrap(), 16).unwrap();
        (hex(), hex(), words.next().unwrap().to_owned())
    };
    text(path).lines().map(parse).collect()
}

#[test]
fn n1_a_perf_map_has_one_name_for_each_address() {
    let directory = tempfile::tempdir().unwrap();
    let map = PerfMap::create_in(directory.path()).unwrap();
    let arena = arena_with(map.clone());
    let mut thread = arena.attach().unwrap();
    let kept = install(&mut thread, &[0xC3; 100], "kept\nin one line", no_frame);
    assert_eq!(lines(map.path()), [(kept.addr(), 100, "kept in one line".to_owned())]);
    let mut last = Vec::new();
    for n in 0..2000 {
        let code = install(&mut thread, &[0xC3; 50], &format!("f{n}"), no_frame);
        last.push((code.addr(), 50, format!("f{n}")));
        drop(code);
        if n % 10 == 0 {
            thread.collect();
        }
    }
    drop((kept, thread, arena));
    assert!(map.take_error().is_none());
    let mut lines = lines(map.path());
    lines.sort();
    assert!(lines.windows(2).all(|two| two[0].0 + two[0].1 <= two[1].0), "two names: {lines:?}");
    assert!(lines.len() < 200, "{} lines for some ten executors at a time", lines.len());
    // The last to lie somewhere is the one that is named.
    for (start, _, name) in &lines {
        let expected = last.iter().rev().find(|(entry, ..)| entry == start);
        assert!(name.starts_with("kept") || Some(name) == expected.map(|it| &it.2), "{name}");
    }
}

/// The rights that a file gives.
fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn links_in_the_place_of_a_file_are_not_followed() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let precious = directory.join("precious");
    fs::write(&precious, "kept").unwrap();
    let id = std::process::id();
    let (map, dump) =
        (directory.join(format!("perf-{id}.map")), directory.join(format!("jit-{id}.dump")));
    symlink(&precious, &map).unwrap();
    symlink(&precious, &dump).unwrap();
    let refused = PerfMap::create_in(directory).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::ELOOP));
    let refused = Jitdump::create_in(directory).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::ELOOP));
    assert_eq!(text(&precious), "kept");

    fs::remove_file(&map).unwrap();
    fs::remove_file(&dump).unwrap();
    let tool = PerfMap::create_in(directory).unwrap();
    let _dump = Jitdump::create_in(directory).unwrap();
    assert_eq!((mode(&map), mode(&dump)), (0o600, 0o600));

    // One in the place of the file that takes the map's.
    let new = directory.join(format!("perf-{id}.map.new"));
    symlink(&precious, &new).unwrap();
    fs::set_permissions(&precious, Permissions::from_mode(0o640)).unwrap();
    let arena = arena_with(tool.clone());
    let mut thread = arena.attach().unwrap();
    for n in 0..2000 {
        drop(install(&mut thread, &[0xC3; 50], &format!("f{n}"), no_frame));
        thread.collect();
    }
    drop((thread, arena));
    assert!(tool.take_error().is_none());
    assert!(lines(&map).len() < 1000, "the map was not written anew");
    assert!(fs::symlink_metadata(&new).is_err() && !map.is_symlink());
    assert_eq!((mode(&map), mode(&precious)), (0o600, 0o640));
    assert_eq!(text(&precious), "kept");
}

#[test]
fn a_jitdump_reads_back_as_it_was_written() {
    let directory = tempfile::tempdir().unwrap();
    let dump = Jitdump::create_in(directory.path()).unwrap();
    let arena = arena_with(dump.clone());
    let mut thread = arena.attach().unwrap();
    let code = counts_down();
    let mut place = thread.reserve(CodeLayout::new(code.len())).unwrap();
    thread.write().write_at(&mut place, 0, &code).unwrap();
    let source = [
        Line { offset: 0, file: "count.py", line: 7 },
        Line { offset: 2, file: "count.py", line: 8 },
    ];
    let symbol = Symbol::new("py::count").lines(&source);
    let executor = thread.publish_named(place, &symbol).unwrap();
    let entry = executor.addr() as u64;
    let other = install(&mut thread, &[0xC3], "other", no_frame);
    drop((executor, other, thread, arena));
    assert!(dump.take_error().is_none());
    let path = dump.path().to_owned();
    drop(dump);

    let mut reader = JitDumpReader::new(std::fs::File::open(&path).unwrap()).unwrap();
    assert_eq!(reader.header().pid, std::process::id());
    assert_eq!(reader.header().elf_machine_arch, 62);
    let mut names = Vec::new();
    let mut times = Vec::new();
    let mut seen_lines = Vec::new();
    while let Some(record) = reader.next_record().unwrap() {
        times.push(record.timestamp);
        match record.parse().unwrap() {
            JitDumpRecord::CodeLoad(load) => {
                names.push(String::from_utf8(load.function_name.as_slice().to_vec()).unwrap());
                if load.vma == entry {
                    assert_eq!(load.code_bytes.as_slice().as_ref(), &code[..]);
                    assert_eq!(load.code_addr, entry);
                }
            }
            JitDumpRecord::CodeDebugInfo(info) => {
                assert_eq!(info.code_addr, entry);
                seen_lines.extend(info.entries.iter().map(|line| {
                    let file = String::from_utf8(line.file_path.as_slice().to_vec()).unwrap();
                    (line.code_addr - entry, file, line.line)
                }));
            }
            _ => {}
        }
    }
    assert_eq!(names, ["py::count", "other"]);
    assert_eq!(seen_lines, [(0, "count.py".to_owned(), 7), (2, "count.py".to_owned(), 8)]);
    assert!(times.is_sorted());
}

/// Runs named code for a second or so.
fn busy(tool: Arc<dyn Tool>, anonymous: bool) {
    let arena = Arena::builder().tool(tool).anonymous(anonymous).build().unwrap();
    let mut thread = arena.attach().unwrap();
    let code = install(&mut thread, &counts_down(), "py::busy_loop", no_frame);
    let guard = thread.pin();
    function(&code)(3_000_000_000);
    drop(guard);
}

/// Records child `name` in `directory`; `None` if perf cannot.
fn record(directory: &Path, name: &str, clock: &[&str]) -> Option<()> {
    if !has("perf") {
        return None;
    }
    let data = directory.join("perf.data");
    let data = data.to_str().unwrap();
    let mut args = vec!["record", "-q", "-e", "cpu-clock:u", "-F", "199", "-o", data];
    args.extend(clock);
    args.push("--");
    let mut command = under("perf", &args, name);
    let output = command.env("TOOLS_DIRECTORY", directory).output().unwrap();
    if !output.status.success() {
        not_run("perf", said(&output).lines().next().unwrap_or("it failed"));
        return None;
    }
    Some(())
}

/// What perf reports of a recording in `directory`.
fn report(directory: &Path, data: &str) -> String {
    let args = ["report", "--stdio", "-s", "sym", "--percent-limit", "5", "-i", data];
    said(&Command::new("perf").args(args).current_dir(directory).output().unwrap())
}

fn child_directory() -> std::path::PathBuf {
    std::env::var_os("TOOLS_DIRECTORY").unwrap().into()
}

#[test]
fn perf_inject_reads_the_jitdump() {
    if is_child("perf_inject_reads_the_jitdump") {
        return busy(Jitdump::create_in(&child_directory()).unwrap(), false);
    }
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let Some(()) = record(directory, "perf_inject_reads_the_jitdump", &["-k", "mono"]) else {
        return;
    };
    let args = ["inject", "--jit", "-i", "perf.data", "-o", "injected.data"];
    let output = Command::new("perf").args(args).current_dir(directory).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let report = report(directory, "injected.data");
    assert!(report.contains("py::busy_loop"), "{report}");
}

#[test]
fn perf_report_reads_the_map() {
    if is_child("perf_report_reads_the_map") {
        // Where perf looks for it; the memory is one that it takes for JIT code.
        let map = PerfMap::create().unwrap();
        std::fs::write(child_directory().join("map"), map.path().as_os_str().as_bytes()).unwrap();
        return busy(map, true);
    }
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    if record(directory, "perf_report_reads_the_map", &[]).is_some() {
        let report = report(directory, "perf.data");
        // It lies where other tests' maps do.
        std::fs::remove_file(text(&directory.join("map"))).unwrap();
        assert!(report.contains("py::busy_loop"), "{report}");
    }
}
