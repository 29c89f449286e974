//! Compiling and running programs in C and C++ against the libraries that cargo has
//! built beside the test.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::{env, fs};

/// The package's directory.
pub(crate) const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Where programs are put.
pub(crate) const OUT: &str = env!("CARGO_TARGET_TMPDIR");

/// What a program is written in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Language {
    C,
    Cpp,
}

/// Where cargo has put the libraries.
pub(crate) fn library(name: &str) -> PathBuf {
    let test = env::current_exe().unwrap();
    let path = test.parent().unwrap().join(name);
    assert!(path.exists(), "cargo has not built {}", path.display());
    path
}

/// What the system's linker needs besides the static library: as the pkg-config file
/// says.
pub(crate) fn private_libraries() -> Vec<String> {
    let text = fs::read_to_string(Path::new(ROOT).join("jita.pc")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("Libs.private: ")).unwrap();
    line.split(' ').map(str::to_owned).collect()
}

/// Compiles sources, relative to the package or absolute, to a program of this name,
/// with warnings as errors and these arguments besides; `None` if the system has no
/// compiler.
pub(crate) fn compile(
    name: &str,
    language: Language,
    sources: &[&str],
    arguments: &[String],
) -> Option<PathBuf> {
    let (compiler, standard) = match language {
        Language::C => ("cc", "-std=c11"),
        Language::Cpp => ("c++", "-std=c++17"),
    };
    if !has(compiler) {
        return None;
    }
    let program = Path::new(OUT).join(name);
    let mut command = Command::new(compiler);
    command.args([standard, "-Wall", "-Wextra", "-Werror", "-D_GNU_SOURCE", "-g", "-O1"]);
    command.current_dir(ROOT).args(["-Iinclude", "-Iexamples", "-Itests/c"]);
    command.args(sources).args(arguments).arg("-o").arg(&program);
    let output = command.output().unwrap_or_else(|error| panic!("{compiler}: {error}"));
    assert_success(&output, &format!("{command:?}"));
    Some(program)
}

/// The arguments that link a program to the static library.
pub(crate) fn linked() -> Vec<String> {
    let library = library("libjita.a").to_str().unwrap().to_owned();
    [vec![library], private_libraries()].concat()
}

/// Runs a program, passes what it prints on, and returns it.
pub(crate) fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert_success(&output, &format!("{command:?}"));
    let text = String::from_utf8(output.stdout).unwrap();
    print!("{text}");
    text
}

fn assert_success(output: &Output, what: &str) {
    assert!(
        output.status.success(),
        "{what}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Whether the system has a program that some tests are run with; says so if not.
///
/// # Panics
///
/// If it is missing and `JIT_ARENA_REQUIRE` lists it.
pub(crate) fn has(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok_and(|it| it.status.success());
    if !found {
        not_run(program, "it is not here");
    }
    found
}

/// What makes a compiler check a program as it runs.
const SANITIZERS: [&str; 2] = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"];

/// The arguments that have sanitizers in a program; `None` if the compiler is there
/// and what they need is not: then it does not even link a program without content.
///
/// # Panics
///
/// If so, and `JIT_ARENA_REQUIRE` lists `sanitizers`.
pub(crate) fn sanitizers() -> Option<Vec<String>> {
    if !has("cc") {
        return None;
    }
    let thread = std::thread::current();
    let stem = format!("empty-{}", thread.name().unwrap_or("test"));
    let source = Path::new(OUT).join(format!("{stem}.c"));
    fs::write(&source, "int main(void) { return 0; }\n").unwrap();
    let links = |arguments: &[&str]| {
        let mut command = Command::new("cc");
        command.args(arguments).arg(&source).arg("-o").arg(Path::new(OUT).join(&stem));
        command.output().unwrap()
    };
    let checked = links(&SANITIZERS);
    if !checked.status.success() && links(&[]).status.success() {
        let said = String::from_utf8_lossy(&checked.stderr);
        not_run("sanitizers", said.lines().next().unwrap_or("cc has none"));
        return None;
    }
    Some(SANITIZERS.map(str::to_owned).to_vec())
}

fn not_run(capability: &str, why: &str) {
    let required = env::var("JIT_ARENA_REQUIRE").unwrap_or_default();
    let required = required.split(',').any(|item| item == capability);
    assert!(!required, "{capability} is required: {why}");
    let thread = std::thread::current();
    println!("not run: {}: {capability}: {why}", thread.name().unwrap_or("test"));
}
