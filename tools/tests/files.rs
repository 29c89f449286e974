//! Perf maps and jitdumps: what is in the files, and what real perf makes of
//! them.

#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

mod common;

use std::fs::{self, Permissions};
use std::io::ErrorKind;
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
fn lines(path: impl AsRef<Path>) -> Vec<(usize, usize, String)> {
    let parse = |line: &str| {
        let mut words = line.splitn(3, ' ');
        let mut hex = || usize::from_str_radix(words.next().unwrap(), 16).unwrap();
        (hex(), hex(), words.next().unwrap().to_owned())
    };
    text(path.as_ref()).lines().map(parse).collect()
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
fn what_lies_in_the_place_of_a_file_is_neither_followed_nor_shared() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let precious = directory.join("precious");
    fs::write(&precious, "kept").unwrap();
    fs::set_permissions(&precious, Permissions::from_mode(0o640)).unwrap();
    let id = std::process::id();
    let (map, dump) =
        (directory.join(format!("perf-{id}.map")), directory.join(format!("jit-{id}.dump")));
    symlink(&precious, &map).unwrap();
    // Of a process of the same number, for all to read.
    fs::write(&dump, "old").unwrap();
    fs::set_permissions(&dump, Permissions::from_mode(0o666)).unwrap();
    let tool = PerfMap::create_in(directory).unwrap();
    let _dump = Jitdump::create_in(directory).unwrap();
    assert!(!map.is_symlink());
    assert_eq!((mode(&map), mode(&dump)), (0o600, 0o600));
    assert!(!fs::read(&dump).unwrap().starts_with(b"old"));

    // One in the place of the file that takes the map's.
    let new = directory.join(format!("perf-{id}.map.new"));
    symlink(&precious, &new).unwrap();
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
fn one_file_a_process_and_directory() {
    let directory = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    let (map, dump) = (PerfMap::create_in(directory.path()), Jitdump::create_in(directory.path()));
    let map = map.unwrap();
    for directory in [directory.path().to_owned(), directory.path().join(".")] {
        let refused = PerfMap::create_in(&directory).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::AlreadyExists);
        let refused = Jitdump::create_in(&directory).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::AlreadyExists);
    }
    let _elsewhere = PerfMap::create_in(other.path()).unwrap();
    // Two arenas share one.
    let arenas = [arena_with(map.clone()), arena_with(map.clone())];
    let mut threads = arenas.each_ref().map(|arena| arena.attach().unwrap());
    let made = [install(&mut threads[0], &[0xC3], "one", no_frame)];
    let also = [install(&mut threads[1], &[0xC3], "two", no_frame)];
    let names: Vec<_> = lines(map.path()).into_iter().map(|(.., name)| name).collect();
    assert_eq!(names, ["one", "two"]);
    drop((made, also, threads, arenas, map, dump));
    PerfMap::create_in(directory.path()).unwrap();
    Jitdump::create_in(directory.path()).unwrap();
}

/// Names in a jitdump, and the process that it says it is of.
fn dumped(path: &Path) -> (u32, Vec<String>) {
    let mut reader = JitDumpReader::new(fs::File::open(path).unwrap()).unwrap();
    let (of, mut names) = (reader.header().pid, Vec::new());
    while let Some(record) = reader.next_record().unwrap() {
        if let JitDumpRecord::CodeLoad(load) = record.parse().unwrap() {
            assert_eq!(load.pid, of);
            names.push(String::from_utf8(load.function_name.as_slice().to_vec()).unwrap());
        }
    }
    (of, names)
}

#[test]
fn a_forked_child_has_files_of_its_own() {
    const NAME: &str = "a_forked_child_has_files_of_its_own";
    if !is_child(NAME) {
        let directory = tempfile::tempdir().unwrap();
        let mut command = under("env", &[], NAME);
        let output = command.env("TOOLS_DIRECTORY", directory.path()).output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
        return;
    }
    let directory = child_directory();
    let map = PerfMap::create_in(&directory).unwrap();
    let dump = Jitdump::create_in(&directory).unwrap();
    let arena = Arena::builder().tool(map.clone()).tool(dump.clone()).build().unwrap();
    let mut thread = arena.attach().unwrap();
    let before = install(&mut thread, &[0xC3; 70], "before", no_frame);
    // SAFETY: the child ends with `_exit`, and uses what the library gives it.
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    if child == 0 {
        let passed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            // Written anew in the parent, it would be the child's.
            for _ in 0..1000 {
                drop(install(&mut thread, &[0xC3; 50], "child", no_frame));
                thread.collect();
            }
            assert!(map.take_error().is_none() && dump.take_error().is_none());
        }));
        drop((before, thread, arena, map, dump));
        // SAFETY: ends the child.
        unsafe { libc::_exit(passed.is_err().into()) };
    }
    let mut status = 0;
    // SAFETY: a child of this process, and a place for its status.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status, 0);
    let after = install(&mut thread, &[0xC3; 70], "after", no_frame);
    let names =
        |path: &Path| -> Vec<String> { lines(path).into_iter().map(|(.., name)| name).collect() };
    assert_eq!(names(&map.path()), ["before", "after"]);
    let of_child = names(&directory.join(format!("perf-{child}.map")));
    assert_eq!(of_child.iter().filter(|name| *name == "before").count(), 1);
    assert!(of_child.iter().all(|name| name == "before" || name == "child"), "{of_child:?}");
    drop((before, after, thread, arena));
    assert!(map.take_error().is_none() && dump.take_error().is_none());
    let own = std::process::id();
    assert_eq!(dumped(&dump.path()), (own, vec!["before".to_owned(), "after".to_owned()]));
    let of_child = dumped(&directory.join(format!("jit-{child}.dump")));
    assert_eq!(of_child, (child as u32, vec!["child".to_owned(); 1000]));
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
