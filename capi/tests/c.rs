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
use common::{OUT, ROOT, compile, has, library, linked, private_libraries, run, sanitizers};

/// Compiles a program of `tests/c`: as it is, which is also left for valgrind and for
/// use by hand, and with sanitizers. Either may be what this system cannot do.
fn both(name: &str, more_sources: &[&str]) -> [Option<PathBuf>; 2] {
    let source = format!("tests/c/{name}.c");
    let sources = [&[source.as_str()], more_sources].concat();
    let checked = |more| {
        let name = format!("{name}-sanitized");
        compile(&name, C, &sources, &[linked(), more].concat())
    };
    [compile(name, C, &sources, &linked()), sanitizers().and_then(checked)]
}

/// Runs both; the one without sanitizers.
fn run_both(name: &str) -> Option<PathBuf> {
    let both = both(name, &[]);
    for program in both.iter().flatten() {
        run(&mut Command::new(program));
    }
    let [plain, _] = both;
    plain
}

/// Code memory is mapped twice, so valgrind looks whether code has changed each time it
/// runs some.
fn run_under_valgrind(program: &Path) {
    if has("valgrind") {
        let mut command = Command::new("valgrind");
        command.args(["-q", "--error-exitcode=9", "--smc-check=all", "--leak-check=full"]);
        run(command.arg("--errors-for-leak-kinds=definite").arg(program));
    }
}

#[test]
fn basics() {
    if let Some(program) = run_both("basics") {
        run_under_valgrind(&program);
    }
}

#[test]
fn misuse() {
    if let Some(program) = run_both("misuse") {
        run_under_valgrind(&program);
    }
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
    if let Some(plain) = plain {
        for strategy in ["dual-pkey", "dual-transient", "mprotect", "dual-open"] {
            run(Command::new(&plain).args(["0.4", "6", strategy]));
        }
    }
    if let Some(sanitized) = sanitized {
        run(Command::new(sanitized).args(["0.4", "20"]));
    }
}

#[test]
fn the_shim_serves_what_cpython_does() {
    let shim = fs::read_to_string(Path::new(ROOT).join("examples/cpython_shim.c")).unwrap();
    assert!(shim.lines().count() < 150);
    let both = both("shim", &["examples/cpython_shim.c"]);
    for program in both.iter().flatten() {
        run(&mut Command::new(program));
    }
    let [Some(plain), _] = both else { return };
    for strategy in ["dual-transient", "mprotect", "dual-open"] {
        run(Command::new(&plain).env("JIT_ARENA_STRATEGY", strategy));
    }
}

#[test]
fn the_header_is_cpp_too() {
    if let Some(program) = compile("wrapper", Cpp, &["tests/c/wrapper.cpp"], &linked()) {
        run(&mut Command::new(program));
    }
}

#[test]
fn the_shared_library_stays_under_its_threads() {
    if let Some(program) = compile("unload", C, &["tests/c/unload.c"], &["-ldl".to_owned()]) {
        run(Command::new(program).arg(library("libjita.so")));
    }
}

/// Installs what cargo has built beside the test.
fn install(variables: &[(&str, &Path)]) {
    let mut command = Command::new(Path::new(ROOT).join("install"));
    for name in ["PREFIX", "LIBDIR", "DESTDIR"] {
        command.env_remove(name);
    }
    command.envs(variables.iter().copied());
    run(command.arg(library("libjita.so").parent().unwrap()));
}

/// What pkg-config says of the library that is installed here; `None` without it.
fn flags_of(prefix: &Path, arguments: &[&str]) -> Option<Vec<String>> {
    if !has("pkg-config") {
        return None;
    }
    let mut command = Command::new("pkg-config");
    command.env("PKG_CONFIG_PATH", prefix.join("lib/pkgconfig"));
    let flags = run(command.args(arguments).args(["--cflags", "--libs", "jita"]));
    Some(flags.split_whitespace().map(str::to_owned).collect())
}

#[test]
fn what_is_installed_is_found_and_starts() {
    let prefix = Path::new(OUT).join("prefix");
    install(&[("PREFIX", &prefix)]);
    let lib = prefix.join("lib");
    // Programs ask for this name; cargo makes the other one only.
    assert_eq!(fs::read_link(lib.join("libjita.so")).unwrap(), Path::new("libjita.so.0"));
    let Some(flags) = flags_of(&prefix, &[]) else { return };
    let Some(program) = compile("shared", C, &["tests/c/basics.c"], &flags) else { return };
    run(Command::new(program).env("LD_LIBRARY_PATH", &lib));
    let mut flags = flags_of(&prefix, &["--static"]).unwrap();
    for flag in &mut flags {
        if flag == "-ljita" {
            "-l:libjita.a".clone_into(flag);
        }
    }
    let Some(program) = compile("static", C, &["tests/c/basics.c"], &flags) else { return };
    run(Command::new(program).env_remove("LD_LIBRARY_PATH"));
}

#[test]
fn a_package_has_all_under_its_root() {
    let root = Path::new(OUT).join("package root");
    let (prefix, libdir) = (Path::new("/opt/a&b"), Path::new("/opt/lib|64"));
    install(&[("DESTDIR", &root), ("PREFIX", prefix), ("LIBDIR", libdir)]);
    let file = fs::read_to_string(root.join("opt/lib|64/pkgconfig/jita.pc")).unwrap();
    let expected = "prefix=/opt/a&b\nlibdir=/opt/lib|64\nincludedir=${prefix}/include\n";
    assert!(file.starts_with(expected), "{file}");
    let version = env!("CARGO_PKG_VERSION");
    assert!(file.contains(&format!("\nVersion: {version}\n")), "{file}");
    for name in ["libjita.a", "libjita.so", "libjita.so.0", &format!("libjita.so.{version}")] {
        assert!(root.join("opt/lib|64").join(name).exists(), "{name}");
    }
    let rest = ["include/jita.h", "share/licenses/jita/LICENSE-MIT"];
    for name in rest {
        assert!(root.join("opt/a&b").join(name).exists(), "{name}");
    }
}

/// `Libs.private` is what the compiler says that a static library of Rust needs.
#[test]
fn the_pkg_config_file_has_what_the_static_library_needs() {
    if cfg!(not(all(target_os = "linux", target_env = "gnu"))) || !has("rustc") {
        return;
    }
    let source = Path::new(OUT).join("empty.rs");
    fs::write(&source, "").unwrap();
    let mut command = Command::new("rustc");
    command.args(["--crate-type", "staticlib", "--print", "native-static-libs"]).arg(&source);
    let output = command.arg("-o").arg(Path::new(OUT).join("libempty.a")).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    let needed = said.lines().find_map(|line| line.strip_prefix("note: native-static-libs: "));
    assert_eq!(needed, Some(private_libraries().join(" ").as_str()), "{said}");
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
    if let (true, Some(program)) = (cfg!(target_arch = "x86_64"), program) {
        let text = run(&mut Command::new(program));
        assert_eq!(text, "42\n");
    }
}
