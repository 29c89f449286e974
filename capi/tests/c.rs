//! The programs in `tests/c`, compiled with warnings as errors and run: plainly, with
//! the address and undefined-behaviour sanitizers, and under valgrind.
//!
//! On machines without protection keys the strategies that need them do not run. Linked
//! statically (`cc -static … libjita.a -lgcc_eh`), the programs run on the machine that
//! `.ci/pkey-emulated` boots, given as its arguments.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::Language::{C, Cpp};
use common::{OUT, ROOT, compile, has, library, linked, private_libraries, run};

/// Compiles a program of `tests/c`: as it is, which is also left for valgrind and for
/// use by hand, and with sanitizers.
fn both(name: &str, more_sources: &[&str]) -> [PathBuf; 2] {
    let source = format!("tests/c/{name}.c");
    let sources = [&[source.as_str()], more_sources].concat();
    let sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"];
    let sanitized = [linked(), sanitizers.map(str::to_owned).to_vec()].concat();
    let checked = format!("{name}-sanitized");
    [compile(name, C, &sources, &linked()), compile(&checked, C, &sources, &sanitized)]
}

fn run_both(name: &str) {
    for program in both(name, &[]) {
        run(&mut Command::new(program));
    }
}

/// Code memory is mapped twice, so valgrind looks whether code has changed each time it
/// runs some.
fn run_under_valgrind(name: &str) {
    if has("valgrind") {
        let mut command = Command::new("valgrind");
        command.args(["-q", "--error-exitcode=9", "--smc-check=all", "--leak-check=full"]);
        run(command.arg("--errors-for-leak-kinds=definite").arg(Path::new(OUT).join(name)));
    }
}

#[test]
fn basics() {
    run_both("basics");
    run_under_valgrind("basics");
}

#[test]
fn misuse() {
    run_both("misuse");
    run_under_valgrind("misuse");
}

#[test]
fn flags() {
    run_both("flags");
}

#[test]
fn threads() {
    run_both("threads");
}

#[test]
fn stress() {
    let [plain, sanitized] = both("stress", &[]);
    for strategy in ["dual-pkey", "dual-transient", "mprotect", "dual-open"] {
        run(Command::new(&plain).args(["0.4", "6", strategy]));
    }
    run(Command::new(sanitized).args(["0.4", "20"]));
}

#[test]
fn the_shim_serves_what_cpython_does() {
    let programs = both("shim", &["examples/cpython_shim.c"]);
    for program in &programs {
        run(&mut Command::new(program));
    }
    let shim = fs::read_to_string(Path::new(ROOT).join("examples/cpython_shim.c")).unwrap();
    assert!(shim.lines().count() < 150);
    for strategy in ["dual-transient", "mprotect", "dual-open"] {
        run(Command::new(&programs[0]).env("JIT_ARENA_STRATEGY", strategy));
    }
}

#[test]
fn the_header_is_cpp_too() {
    run(&mut Command::new(compile("wrapper", Cpp, &["tests/c/wrapper.cpp"], &linked())));
}

#[test]
fn the_shared_library_stays_under_its_threads() {
    let program = compile("unload", C, &["tests/c/unload.c"], &["-ldl".to_owned()]);
    run(Command::new(program).arg(library("libjita.so")));
}

/// As a packager would install it, found by the pkg-config file.
#[test]
fn the_pkg_config_file_leads_to_both_libraries() {
    let prefix = Path::new(OUT).join("prefix");
    for part in ["include", "lib/pkgconfig"] {
        fs::create_dir_all(prefix.join(part)).unwrap();
    }
    fs::copy(Path::new(ROOT).join("include/jita.h"), prefix.join("include/jita.h")).unwrap();
    fs::copy(library("libjita.a"), prefix.join("lib/libjita.a")).unwrap();
    for name in ["lib/libjita.so", "lib/libjita.so.0"] {
        fs::copy(library("libjita.so"), prefix.join(name)).unwrap();
    }
    let file = fs::read_to_string(Path::new(ROOT).join("jita.pc")).unwrap();
    let version = format!("Version: {}\n", env!("CARGO_PKG_VERSION"));
    assert!(file.contains(&version) && !private_libraries().is_empty());
    let file = file.replace("prefix=/usr/local", &format!("prefix={}", prefix.display()));
    fs::write(prefix.join("lib/pkgconfig/jita.pc"), file).unwrap();
    if !has("pkg-config") {
        return;
    }
    let mut command = Command::new("pkg-config");
    command.env("PKG_CONFIG_PATH", prefix.join("lib/pkgconfig"));
    let flags = run(command.args(["--cflags", "--libs", "jita"]));
    let flags: Vec<String> = flags.split_whitespace().map(str::to_owned).collect();
    let program = compile("shared", C, &["tests/c/basics.c"], &flags);
    run(Command::new(program).env("LD_LIBRARY_PATH", prefix.join("lib")));
}

/// The program in README's C section, compiled as it stands there.
#[test]
fn the_readmes_program_runs_as_written() {
    let readme = fs::read_to_string(Path::new(ROOT).join("../README.md")).unwrap();
    let section = readme.split("\n## From C\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let program = section.split("```c\n").nth(1).unwrap().split("```").next().unwrap();
    let source = Path::new(OUT).join("readme.c");
    fs::write(&source, program).unwrap();
    let program = compile("readme", C, &[source.to_str().unwrap()], &linked());
    if cfg!(target_arch = "x86_64") {
        let text = run(&mut Command::new(program));
        assert_eq!(text, "42\n");
    }
}
