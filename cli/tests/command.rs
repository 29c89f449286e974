//! The program as a user runs it: what it prints where, and its exit status.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output};
use std::time::Instant;

use jit_arena::Strategy;
use serde_json::Value;

const HEADER: &str = "t_ns,thread,op,id,code_bytes,data_bytes,padded_bytes\n";

/// The program, in an environment that chooses nothing.
fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jit-arena"));
    command.env_remove("JIT_ARENA_STRATEGY");
    command
}

fn run(args: &[&str]) -> Output {
    program().args(args).output().expect("the program starts")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Every line of standard output as JSON.
#[track_caller]
fn objects(output: &Output) -> Vec<Value> {
    assert_eq!(output.status.code(), Some(0), "{}", stderr(output));
    let stdout = std::str::from_utf8(&output.stdout).expect("UTF-8");
    stdout.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

#[track_caller]
fn object(args: &[&str]) -> Value {
    let mut objects = objects(&run(args));
    assert_eq!(objects.len(), 1);
    objects.remove(0)
}

#[track_caller]
fn ends_with(args: &[&str], status: i32, told: &str) {
    let output = run(args);
    assert_eq!(output.status.code(), Some(status), "{args:?}: {}", stderr(&output));
    assert!(stderr(&output).contains(told), "{args:?}: {}", stderr(&output));
}

/// A file that is gone at the end of the test.
fn file(name: &str, text: &str) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join(name);
    fs::write(&path, text).expect("a file");
    let path = path.to_str().expect("UTF-8").to_owned();
    (dir, path)
}

fn number(object: &Value, key: &str) -> f64 {
    object[key].as_f64().unwrap_or_else(|| panic!("{key} in {object}"))
}

/// Strategies that can be had here, as the program itself says.
fn strategies() -> Vec<(Strategy, bool)> {
    let report = object(&["doctor", "--json"]);
    let offers = report["strategies"].as_array().expect("a list").clone();
    let offer = |offer: &Value| {
        let name = offer["name"].as_str().expect("a name");
        (name.parse().expect("known"), offer["works"].as_bool().expect("works"))
    };
    offers.iter().map(offer).collect()
}

#[test]
fn replay_tells_what_it_promises() {
    let report = object(&["replay", "bm_richards", "--json"]);
    assert_eq!(report["kind"], "replay");
    assert_eq!(report["trace"], "bm_richards");
    assert_eq!(report["threads"], 1);
    assert_eq!(report["executors"], 272);
    assert_eq!(report["retired"], 272);
    assert_eq!(report["recycled"], 272);
    assert!(report["strategy"].as_str().expect("a name").parse::<Strategy>().is_ok());
    // Once when installed, and once more when freed.
    assert!(number(&report, "calls_verified") >= 272.0 + 62.0);
    assert!(number(&report, "installs_per_s") > 0.0);
    assert!(number(&report, "committed_over_live") >= 1.0);
    assert!(number(&report, "peak_committed_over_live") >= 1.0);
    assert!((number(&report, "stock_4k_over_live") - 3.55).abs() < 0.01);
    assert!((number(&report, "stock_16k_over_live") - 12.94).abs() < 0.01);
    let quantiles = ["install_p50_ns", "install_p99_ns", "install_p999_ns", "install_max_ns"];
    let quantiles = quantiles.map(|key| number(&report, key));
    assert!(quantiles[0] > 0.0 && quantiles.is_sorted(), "{quantiles:?}");
    if cfg!(target_os = "linux") {
        let resident = number(&report, "rss_over_live");
        // Memory is held before it is touched, and may be given back between
        // two looks at it; but not by much, in a trace that only grows.
        assert!(
            (0.9..=number(&report, "committed_over_live") + 0.1).contains(&resident),
            "{report}"
        );
        if report["strategy"] != "single-pkey" {
            assert_eq!(report["wx_mappings_seen"], 0);
        }
        assert!(number(&report, "wx_readings") >= 2.0);
    }
}

#[test]
fn replay_on_many_threads_installs_everything_once() {
    for threads in ["2", "8"] {
        let report = object(&["replay", "w_reload_nl", "--threads", threads, "--json"]);
        assert_eq!(report["threads"].to_string(), threads);
        assert_eq!(report["executors"], 4517);
        assert_eq!(report["recycled"], 4517);
        assert!(number(&report, "calls_verified") >= 4517.0 + 4317.0);
    }
}

#[test]
fn several_traces_give_a_line_each() {
    let reports = objects(&run(&["--json", "replay", "bm_richards", "bm_sympy"]));
    let names: Vec<_> = reports.iter().map(|report| report["trace"].clone()).collect();
    assert_eq!(names, ["bm_richards", "bm_sympy"]);
}

#[test]
fn recorded_speed_takes_the_recorded_time() {
    let rows = "5,0,a,0,451,104,4096\n200000005,0,a,1,700,8,4096\n400000005,1,f,0\n";
    let (_dir, path) = file("slow.csv", &format!("{HEADER}{rows}"));
    for threads in ["1", "3"] {
        let report =
            object(&["replay", &path, "--speed", "recorded", "--threads", threads, "--json"]);
        assert_eq!(report["speed"], "recorded");
        assert_eq!(report["trace"], "slow");
        assert!(number(&report, "wall_s") >= 0.4, "{report}");
    }
}

#[test]
fn extreme_sizes_replay() {
    let mut rows = String::new();
    for (id, (code, data)) in (1..60)
        .map(|n| (n, n % 9))
        .chain([(4 << 20, 0), (1, (4 << 20) - 1), (3 << 20, 1 << 20)])
        .enumerate()
    {
        rows.push_str(&format!("{id},0,a,{id},{code},{data},4096\n"));
    }
    rows.push_str("99,0,f,59\n99,0,f,60\n");
    let (_dir, path) = file("sizes.csv", &format!("{HEADER}{rows}"));
    let report = object(&["replay", &path, "--json"]);
    assert_eq!(report["executors"], 62);
    assert_eq!(report["recycled"], 62);
}

#[test]
fn no_time_at_all_still_has_an_average() {
    let (_dir, path) = file("still.csv", &format!("{HEADER}7,0,a,0,451,104,4096\n"));
    let report = object(&["replay", &path, "--json"]);
    assert!((number(&report, "stock_4k_over_live") - 4096.0 / 555.0).abs() < 1e-9);
    assert!(number(&report, "committed_over_live") >= 1.0);
}

#[test]
fn every_strategy_works_by_flag_or_is_refused() {
    for (strategy, works) in strategies() {
        let args =
            ["replay", "bm_richards", "--json", "--threads", "2", "--strategy", strategy.name()];
        if works {
            let report = object(&args);
            assert_eq!(report["strategy"], strategy.name());
            let audit = report["wx_audit"].as_str().expect("a text");
            assert_eq!(
                audit.starts_with("not run"),
                !strategy.never_wx() || cfg!(not(target_os = "linux"))
            );
        } else {
            ends_with(&args, 2, strategy.name());
        }
    }
}

#[test]
fn the_environment_chooses_a_strategy_and_the_flag_overrides_it() {
    let open = Strategy::DualOpen.name();
    let environment = program().env("JIT_ARENA_STRATEGY", open).args(["doctor", "--json"]).output();
    assert_eq!(objects(&environment.expect("starts"))[0]["strategy"], open);
    let both = program()
        .env("JIT_ARENA_STRATEGY", open)
        .args(["doctor", "--json", "--strategy", "mprotect"])
        .output();
    assert_eq!(objects(&both.expect("starts"))[0]["strategy"], "mprotect");
    let unknown =
        program().env("JIT_ARENA_STRATEGY", "rwx").arg("doctor").output().expect("starts");
    assert_eq!(unknown.status.code(), Some(2));
    assert!(stderr(&unknown).contains("unknown protection strategy `rwx`"), "{}", stderr(&unknown));
}

#[test]
fn requests_that_cannot_be_carried_out_end_with_2() {
    ends_with(&["replay"], 2, "TRACE");
    ends_with(&["dance"], 2, "dance");
    ends_with(&["replay", "bm_richards", "--strategy", "rwx"], 2, "dual-transient");
    ends_with(&["replay", "bm_richards", "--threads", "0"], 2, "1..=256");
    ends_with(&["replay", "bm_richards", "--speed", "warp"], 2, "recorded");
    ends_with(&["stress", "--seconds", "0"], 2, "more than 0");
    ends_with(&["stress", "--seconds", "NaN"], 2, "more than 0");
    ends_with(&["replay", "no/such/trace.csv"], 2, "no/such/trace.csv: cannot read");
    let (_dir, path) = file("bad.csv", &format!("{HEADER}1,0,a,0,10,0,4096\n2,0,f,5\n"));
    ends_with(
        &["replay", "bm_richards", &path],
        2,
        &format!("{path}:3: id 5 is freed before it is allocated"),
    );
    // Before the run: this one would take a day.
    let day = ["stress", "--seconds", "86400", "--report"];
    let page = "no/such/page.html";
    ends_with(&[&day[..], &[page]].concat(), 2, "cannot open no/such/page.html for the page: ");
    let directory = std::env::temp_dir();
    ends_with(&["replay", directory.to_str().expect("UTF-8")], 2, "cannot read");
}

#[test]
fn every_check_of_a_replay_can_fail() {
    for (sabotage, told) in [
        ("wrong-answer", "bm_richards: executor 0 called with"),
        ("wrong-byte", "bm_richards: executor 0 has other bytes than were written"),
        ("leak", "bytes live at the end"),
        ("wx", "writable and executable"),
        ("panic", "as it was asked to"),
    ] {
        if sabotage == "wx" && cfg!(not(target_os = "linux")) {
            println!("not run: every_check_of_a_replay_can_fail: wx: no list of mappings here");
            continue;
        }
        ends_with(&["replay", "bm_richards", "--json", "--sabotage", sabotage], 1, told);
        ends_with(
            &["replay", "bm_richards", "--threads", "3", "--sabotage", sabotage],
            1,
            told_with_threads(told),
        );
    }
}

/// On several threads any executor may be the first.
fn told_with_threads(told: &str) -> &str {
    told.split("executor 0").last().unwrap_or(told).trim()
}

#[test]
fn every_check_of_the_stress_test_can_fail() {
    for (sabotage, told) in [
        ("wrong-answer", "returned"),
        ("leak", "bytes live at the end"),
        ("wx", "writable and executable"),
        ("wrong-lookup", "in a signal handler found parts of two executors"),
    ] {
        if sabotage.starts_with('w') && sabotage != "wrong-answer" && cfg!(not(target_os = "linux"))
        {
            println!(
                "not run: every_check_of_the_stress_test_can_fail: {sabotage}: not on this system"
            );
            continue;
        }
        ends_with(
            &[
                "stress",
                "--synthetic",
                "--seconds",
                "0.3",
                "--threads",
                "2",
                "--sabotage",
                sabotage,
            ],
            1,
            told,
        );
    }
}

#[test]
fn a_seed_repeats_every_threads_operations() {
    let fingerprints = |seed: &str, threads: &str| {
        let report = object(&[
            "stress",
            "--synthetic",
            "--seconds",
            "2",
            "--threads",
            threads,
            "--seed",
            seed,
            "--json",
        ]);
        assert_eq!(report["kind"], "stress");
        assert_eq!(report["seed"].to_string(), seed);
        assert_eq!(report["installs"], report["recycled"]);
        assert!(number(&report, "calls_verified") > 0.0);
        let fingerprints = report["fingerprints"].as_array().expect("a list").clone();
        assert!(
            fingerprints.iter().all(Value::is_string),
            "a thousand operations of each: {report}"
        );
        fingerprints
    };
    let two = fingerprints("11", "2");
    assert_ne!(two[0], two[1]);
    assert_eq!(fingerprints("11", "3")[..2], two);
    assert_ne!(fingerprints("12", "2"), two);
}

#[test]
fn programs_run_under_chaos_and_the_page_stands_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("report.html");
    let path = path.to_str().expect("UTF-8");
    let report = object(&[
        "stress",
        "--threads",
        "16",
        "--seconds",
        "3",
        "--chaos",
        "--seed",
        "7",
        "--json",
        "--report",
        path,
    ]);
    assert_eq!((&report["kind"], &report["chaos"]), (&Value::from("python"), &Value::from(true)));
    assert!(number(&report, "programs") >= 12.0);
    assert!(number(&report, "calls_verified") > 0.0);
    assert_eq!(report["installs"], report["recycled"]);
    if cfg!(target_arch = "x86_64") {
        for done in ["installs", "invalidated", "exits", "rebound", "signals"] {
            assert!(number(&report, done) > 0.0, "{done}: {report}");
        }
    }
    assert_eq!(report["children_failed"], 0);
    for done in ["children", "children_calls"] {
        assert!(number(&report, done) > 0.0, "{done}: {report}");
    }
    if cfg!(target_os = "linux") && report["strategy"] != "single-pkey" {
        assert_eq!(report["wx_mappings_seen"], 0);
    }
    let page = fs::read_to_string(path).expect("a page");
    assert!(page.matches("<svg").count() >= 3, "plots");
    // Nothing is fetched: the only addresses are names.
    let names = page.matches("http://www.w3.org/2000/svg").count();
    assert_eq!(page.matches("http").count(), names);
    assert!(!page.contains("<script") && !page.contains("<link"));
}

/// The program, where `python3` is this script; what it says of that.
fn with_python(script: &str) -> String {
    let (dir, path) = file("python3", script);
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("our file");
    let output = program()
        .env("PATH", dir.path())
        .args(["stress", "--seconds", "86400"])
        .output()
        .expect("the program starts");
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    stderr(&output)
}

#[test]
fn a_python_that_fails_is_told_from_one_that_disagrees() {
    let said = with_python("#!/bin/sh\necho no module named encodings >&2\nexit 3\n");
    assert!(said.contains("python3 is there but failed to run program "), "{said}");
    assert!(said.contains("exit status: 3: no module named encodings"), "{said}");
    let said = with_python("#!/bin/sh\necho something else\n");
    assert!(said.contains("expected \"something else\\n\""), "{said}");
}

#[test]
fn a_page_that_cannot_be_written_takes_no_results_along() {
    if !std::path::Path::new("/dev/full").exists() {
        println!("not run: a_page_that_cannot_be_written_takes_no_results_along: no /dev/full");
        return;
    }
    let output = run(&["stress", "--seconds", "0.1", "--json", "--report", "/dev/full"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let told = stderr(&output);
    assert!(told.contains("cannot write the page /dev/full: No space left on device"), "{told}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
    assert_eq!((&report["kind"], &report["failure"]), (&Value::from("python"), &Value::Null));
}

/// Dropped code is used again at once, as an environment variable has it: a
/// thread runs into traps or into other code, and the stress test ends with a
/// finding.
#[test]
fn the_stress_test_finds_a_reclaimer_that_does_not_wait() {
    if cfg!(not(target_arch = "x86_64")) {
        println!(
            "not run: the_stress_test_finds_a_reclaimer_that_does_not_wait: machine code is \
             x86-64's"
        );
        return;
    }
    let started = Instant::now();
    let output = program()
        .env("JIT_ARENA_MUTANT", "no-grace-period")
        .args(["stress", "--threads", "32", "--seconds", "50", "--chaos"])
        .output()
        .expect("the program starts");
    let said = stderr(&output);
    assert!(said.contains("mutant reached: no-grace-period"), "{said}");
    assert_ne!(output.status.code(), Some(0), "not found: {said}");
    assert_ne!(output.status.code(), Some(2), "not a finding: {said}");
    println!("found after {:?}: {}", started.elapsed(), said.lines().last().unwrap_or_default());
}

#[test]
fn the_stress_test_holds_with_every_strategy() {
    for (strategy, works) in strategies() {
        if !works {
            println!(
                "not run: the_stress_test_holds_with_every_strategy: {strategy}: not on this machine"
            );
            continue;
        }
        let args = [
            "stress",
            "--synthetic",
            "--seconds",
            "0.5",
            "--threads",
            "4",
            "--json",
            "--strategy",
            strategy.name(),
        ];
        let report = object(&args);
        assert_eq!(report["strategy"], strategy.name());
        assert!(number(&report, "installs") > 0.0);
        if cfg!(target_os = "linux") {
            assert!(number(&report, "profiled_signals") > 0.0);
        }
    }
}

#[test]
fn doctor_says_what_was_chosen_and_why() {
    let report = object(&["doctor", "--json"]);
    let attempts = report["attempts"].as_array().expect("a list");
    let last = attempts.last().expect("at least one");
    assert_eq!(
        (&last["outcome"], &last["strategy"]),
        (&Value::from("chosen"), &report["strategy"])
    );
    let text = run(&["doctor"]);
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    for attempt in &attempts[..attempts.len() - 1] {
        // What was passed over stands there with its reason.
        assert!(text.contains(attempt["outcome"].as_str().expect("a text")), "{text}");
    }
    for strategy in Strategy::ALL {
        assert!(text.contains(strategy.name()), "{text}");
    }
}

#[test]
fn the_main_job_does_it_all() {
    let reports = objects(&run(&["--json"]));
    let kinds: Vec<_> =
        reports.iter().map(|report| report["kind"].as_str().expect("a kind")).collect();
    assert_eq!(kinds[0], "doctor");
    assert_eq!(kinds[kinds.len() - 1], "stress");
    assert!(kinds[1..kinds.len() - 1].iter().all(|kind| *kind == "replay"));
    for name in jit_arena_cli::bundled::names() {
        assert!(reports.iter().any(|report| report["trace"] == name), "{name}");
    }
}

#[test]
fn text_ends_in_tables_and_a_verdict() {
    let output = run(&["replay", "bm_richards"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for told in
        ["bm_richards", "own mapping", "3.55", "12.94", "272", "W^X audit: ", "every check held"]
    {
        assert!(text.contains(told), "{told}: {text}");
    }
    assert!(!text.contains('\u{1b}'), "no escape sequences where there is no terminal");
    assert!(!stderr(&output).contains('\u{1b}'));
    assert!(stderr(&output).contains("replay bm_richards, 1 thread"));
}

#[test]
fn output_that_cannot_be_written_is_a_failure_and_no_panic() {
    let Ok(full) = fs::File::options().write(true).open("/dev/full") else {
        println!("not run: output_that_cannot_be_written: no /dev/full");
        return;
    };
    let output =
        program().args(["doctor", "--json"]).stdout(full).output().expect("the program ends");
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(
        stderr(&output).starts_with("jit-arena: cannot write the output"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_reader_that_hangs_up_is_told_nothing() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    // Before it starts: nobody will ever read what it prints.
    drop(reader);
    let output =
        program().args(["dump", "--json"]).stdout(writer).output().expect("the program ends");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stderr(&output), "");
}

#[test]
fn trampolines_pay_for_their_islands() {
    let trace = format!("{HEADER}0,1,a,1,76000,24000,114688\n10,1,f,1,,,\n");
    let (_dir, path) = file("one.csv", &trace);
    let saved =
        object(&["trampolines", &path, "--helpers", "100", "--json", "--strategy", "dual-open"]);
    assert_eq!(number(&saved, "data_part"), 0.24);
    let islands = number(&saved, "island_bytes");
    assert!((1600.0..=4096.0).contains(&islands), "{saved}");
    let parts: Vec<f64> =
        saved["saved_parts"].as_array().expect("a list").iter().filter_map(Value::as_f64).collect();
    let expected = [0.5, 0.75, 1.0].map(|part| (24_000.0 * part - islands) / 100_000.0);
    assert_eq!(parts, expected);
}

#[test]
fn dumps_show_code_with_names() {
    let dump = object(&["dump", "bm_richards", "--executors", "2", "--json"]);
    assert_eq!((number(&dump, "executors"), number(&dump, "trampolines") <= 1.0), (3.0, true));
    let output = run(&["dump", "--executors", "2"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for part in ["executor 0: ", "executor 1: ", "calls helper: ", "tag 0x1"] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    if cfg!(target_arch = "x86_64") {
        assert!(text.contains("jmp 0x") && text.contains("helper>"), "{text}");
        assert!(text.contains(": ret"), "{text}");
    }
}
