//! The generated code, as releases have it and with fat LTO. See the crate's
//! page for what is stepped through and how.

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use jit_arena_codegen::trace::{self, Event, Trace};

/// Lengths of code: within a word, a granule, some system pages; `memcpy`
/// takes another path for each.
const LENGTHS: [&str; 4] = ["1", "64", "451", "20000"];

/// Bytes that the arena puts in front of each executor.
const HEADER: u64 = 16;

/// How the subject is compiled.
#[derive(Clone, Copy, Debug)]
enum Build {
    Release,
    /// Everything in one unit, inlined across crates.
    Fat,
}

impl Build {
    const BOTH: [Self; 2] = [Self::Release, Self::Fat];

    /// The subject, compiled once.
    fn subject(self) -> &'static Path {
        static SUBJECTS: [OnceLock<PathBuf>; 2] = [OnceLock::new(), OnceLock::new()];
        SUBJECTS[self as usize].get_or_init(|| {
            let package = Path::new(env!("CARGO_MANIFEST_DIR"));
            let target = package.join("../target/codegen").join(format!("{self:?}").to_lowercase());
            let mut cargo = Command::new(env!("CARGO"));
            cargo.current_dir(package).args(["build", "--quiet", "--release", "--bin", "subject"]);
            cargo.arg("--target-dir").arg(&target);
            // What the tests themselves are compiled with is not asked about.
            cargo.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
            cargo.env_remove("CARGO_BUILD_TARGET");
            if let Self::Fat = self {
                cargo.env("CARGO_PROFILE_RELEASE_LTO", "fat");
                cargo.env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1");
            }
            assert!(cargo.status().unwrap().success(), "the subject does not compile");
            target.join("release/subject")
        })
    }

    /// What the subject does between its marks; `None`, and a line that says
    /// so, where the system lets nobody trace.
    fn trace(self, arguments: &[&str]) -> Option<Vec<Trace>> {
        match trace::run(self.subject(), arguments) {
            Ok(traces) => Some(traces),
            Err(error) => {
                let denied = error
                    .downcast_ref::<std::io::Error>()
                    .is_some_and(|it| it.kind() == std::io::ErrorKind::PermissionDenied);
                let required = env::var("JIT_ARENA_REQUIRE")
                    .is_ok_and(|list| list.split(',').any(|it| it == "ptrace"));
                assert!(denied && !required, "{self:?} {arguments:?}: {error}");
                println!("not run: {arguments:?}: tracing is not allowed: {error}");
                None
            }
        }
    }
}

/// Stores and loads of code memory while the key was closed.
fn outside(trace: &Trace) -> Vec<&Event> {
    trace.events.iter().filter(|it| matches!(it, Event::View { open: false, .. })).collect()
}

/// Bytes stored to code memory.
fn stored(trace: &Trace) -> u64 {
    let bytes = |event: &Event| match event {
        Event::View { access, store: true, .. } => access.range.end - access.range.start,
        _ => 0,
    };
    trace.events.iter().map(bytes).sum()
}

/// How often the key was opened, and closed again.
fn windows(trace: &Trace) -> usize {
    let changes: Vec<bool> = trace
        .events
        .iter()
        .filter_map(|it| if let Event::Rights(open) = it { Some(*open) } else { None })
        .collect();
    assert!(changes.chunks(2).all(|it| it == [true, false]), "not opened and closed: {changes:?}");
    changes.len() / 2
}

#[test]
fn w4_stores_lie_between_the_two_changes_of_rights() {
    for build in Build::BOTH {
        for scenario in ["slice", "patched", "write-at", "batch", "install", "recycle"] {
            for len in LENGTHS {
                let Some(traces) = build.trace(&[scenario, len]) else { return };
                for trace in &traces {
                    let what = format!("{build:?} {scenario} {len}");
                    // Populating new memory for a claim opens one, too.
                    let claims = scenario == "batch" && len == "20000";
                    assert!(windows(trace) == 1 || claims, "{what}: {}", windows(trace));
                    assert_eq!(outside(trace), Vec::<&Event>::new(), "{what}");
                    // `patched` stores whole words only.
                    let len: u64 = len.parse().unwrap();
                    let least = match scenario {
                        "patched" => HEADER + (len & !7),
                        _ => HEADER + len,
                    };
                    assert!(stored(trace) >= least, "{what}: {} stored", stored(trace));
                }
            }
        }
    }
}

#[test]
fn w4_a_store_behind_the_window_is_seen() {
    for build in Build::BOTH {
        let Some(traces) = build.trace(&["broken-store-after-close"]) else { return };
        let outside = outside(&traces[0]);
        assert!(matches!(outside[..], [Event::View { store: true, .. }]), "{build:?}: {outside:?}");
    }
}

/// What the library would suffer if it handed a `&mut` across its windows.
#[test]
fn w4_an_access_that_the_compiler_moved_is_seen() {
    for build in Build::BOTH {
        let Some(traces) = build.trace(&["broken-reference-across-windows"]) else { return };
        assert_eq!(windows(&traces[0]), 3, "{build:?}");
        assert_ne!(outside(&traces[0]), Vec::<&Event>::new(), "{build:?}");
    }
}

#[test]
fn an_install_shares_nothing_and_calls_nobody() {
    for build in Build::BOTH {
        let Some(traces) = build.trace(&["install"]) else { return };
        let [near, far] = &traces[..] else { panic!("two installs: {}", traces.len()) };
        for trace in [near, far] {
            assert!(!calls_system(trace), "{build:?}: {:?}", trace.functions);
        }
        let shared = trace::shared(near, far);
        assert!(shared.is_empty(), "{build:?}: lines that both wrote: {shared:#?}");
        // On lines of its own either: it would wait for the copy of the code.
        assert!(near.atomics().is_empty(), "{build:?}: {:#?}", near.atomics());
        println!("{build:?}: {} instructions", near.instructions);
        println!("instructions by function: {:#?}", near.functions);
    }
}

/// What is around the code costs nobody who does not use it: an arena that has a
/// tool, a budget and callbacks runs the same number of instructions for an
/// install and for a drop as one that has none.
#[test]
fn what_is_around_code_costs_an_install_nothing() {
    for build in Build::BOTH {
        let Some(traces) = build.trace(&["around", "451"]) else { return };
        let counts: Vec<usize> = traces.iter().map(|it| it.instructions).collect();
        let [
            install,
            retire,
            _,
            _,
            steps,
            named,
            install_full,
            retire_full,
            _,
            _,
            steps_full,
            told,
            _,
            _,
            contains,
            lookup,
        ] = counts[..]
        else {
            panic!("{} traces", counts.len())
        };
        println!(
            "{build:?}, instructions with nothing around the code, and with everything:\n  \
             install {install}, {install_full}\n  drop {retire}, {retire_full}\n  \
             install in steps {steps}, {steps_full}\n  \
             the same with a name {named}, {told}\n  \
             contains {contains}; lookup {lookup}"
        );
        assert_eq!(install, install_full, "{build:?}");
        assert_eq!(retire, retire_full, "{build:?}");
        assert_eq!(steps, steps_full, "{build:?}");
        assert!(told > named, "{build:?}: the tool hears nothing");
        assert!(traces.iter().take(12).all(|it| !calls_system(it)), "{build:?}");
        // Finding code stores nothing, locks nothing, calls nobody.
        for trace in &traces[12..] {
            assert_eq!(trace.lines().len(), 0, "{build:?}: {:?}", trace.lines());
            assert!(!calls_system(trace), "{build:?}");
        }
    }
}

fn calls_system(trace: &Trace) -> bool {
    trace.events.iter().any(|it| matches!(it, Event::System(_)))
}

#[test]
fn an_install_that_shares_or_calls_is_seen() {
    for build in Build::BOTH {
        for scenario in ["broken-install-counts", "broken-install-locks", "broken-install-stores"] {
            let Some(traces) = build.trace(&[scenario]) else { return };
            let shared = trace::shared(&traces[0], &traces[1]);
            assert!(!shared.is_empty(), "{build:?} {scenario}");
        }
        let Some(traces) = build.trace(&["broken-install-calls"]) else { return };
        assert!(calls_system(&traces[0]), "{build:?}");
    }
}
