//! The header that is checked in is the one that the sources make, and says what
//! each thing in it is.
//!
//! To make it anew: `JITA_WRITE_HEADER=1 cargo test -p jit-arena-capi --test header`.

use std::path::Path;
use std::{env, fs};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn generate() -> String {
    let config = cbindgen::Config::from_file(Path::new(ROOT).join("cbindgen.toml")).unwrap();
    let mut builder = cbindgen::Builder::new().with_config(config);
    for name in ["status", "registry", "options", "arenas", "run", "write", "code", "look", "stats"]
    {
        builder = builder.with_src(Path::new(ROOT).join(format!("src/{name}.rs")));
    }
    let mut header = Vec::new();
    builder.generate().unwrap().write(&mut header);
    // What rustdoc calls safety is about pointers here.
    String::from_utf8(header).unwrap().replace("// # Safety\n", "// Pointers:\n")
}

fn checked_in() -> String {
    fs::read_to_string(Path::new(ROOT).join("include/jita.h")).unwrap_or_default()
}

#[test]
fn the_header_is_what_the_sources_make() {
    let made = generate();
    if env::var_os("JITA_WRITE_HEADER").is_some() {
        fs::write(Path::new(ROOT).join("include/jita.h"), &made).unwrap();
    }
    assert!(made == checked_in(), "include/jita.h is not what the sources make; see this file");
}

/// What a line declares, if it begins something that needs a comment before it.
fn declared(line: &str, in_struct: bool) -> Option<&str> {
    let text = line.trim();
    let is_field = in_struct && text.ends_with(';') && !text.starts_with('}');
    let begins =
        ["#define JITA_", "typedef ", "jita_status jita_", "const char *jita_", "int jita_"];
    let is_item = begins.iter().any(|begin| line.starts_with(begin));
    let is_guard = text == "#define JITA_H";
    ((is_field || is_item || line.starts_with("void jita_")) && !is_guard).then_some(text)
}

#[test]
fn the_header_has_nothing_undocumented() {
    let header = checked_in();
    let mut before = "";
    let (mut in_struct, mut found) = (false, 0);
    for line in header.lines() {
        if let Some(text) = declared(line, in_struct) {
            found += 1;
            assert!(before.trim().starts_with("//"), "no comment before `{text}`");
        }
        in_struct |= line.starts_with("typedef struct") && line.ends_with('{');
        in_struct &= !line.starts_with('}');
        if !line.trim().is_empty() {
            before = line;
        }
    }
    assert!(found > 90, "{found} declarations were found: has the form of the header changed?");
}

#[test]
fn every_exported_function_is_in_the_header() {
    let header = checked_in();
    let mut functions = 0;
    for file in fs::read_dir(Path::new(ROOT).join("src")).unwrap() {
        let source = fs::read_to_string(file.unwrap().path()).unwrap();
        for line in source.lines().filter(|line| line.contains("extern \"C\" fn jita_")) {
            let name = line.split("fn ").nth(1).unwrap().split('(').next().unwrap();
            assert!(header.contains(&format!("{name}(")), "{name} is not in the header");
            functions += 1;
        }
    }
    assert!(functions > 30, "{functions} functions were found");
}
