//! The nine targets of DESIGN.md, each with what was measured, its limit, and
//! whether it was met. Everything is a ratio of interleaved rounds.
//!
//! With protection keys the arena is measured as `dual-pkey`, against the probe
//! under a key; without them as `dual-open`, the same path without the two
//! changes of rights, against the probe without a key.

use std::fmt::Write as _;
use std::hint::black_box;
use std::path::PathBuf;
use std::time::Instant;

use clap::Parser;
use jit_arena::{Arena, CodeLayout, Executor, Strategy, ThreadHandle};
use jit_arena_benches::machine;
use jit_arena_benches::rival::{self, NotHere, Rival, RivalThread, Room, Visit, arena::Ours};
use jit_arena_benches::round::{Crew, Frees, Plan, Race, Round, cpu_time, median};
use jit_arena_benches::trace;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

/// Measures all nine targets.
#[derive(Debug, Parser)]
struct Options {
    /// Only these targets, by number.
    only: Vec<usize>,
    /// Seconds in all, to see that it runs; the figures mean little.
    #[arg(long)]
    smoke: bool,
    /// Folder of the recorded traces.
    #[arg(long, default_value = "traces")]
    traces: PathBuf,
    /// Also write the results here, as CSV.
    #[arg(long)]
    record: Option<PathBuf>,
}

/// What a target comes to.
enum Verdict {
    Met,
    Missed,
    /// Measured, and nothing was promised.
    Told,
    NotRun(String),
}

struct Bench {
    smoke: bool,
    traces: PathBuf,
    /// Our fastest strategy here that keeps what it promises, and its limit.
    ours: &'static str,
    probe: &'static str,
    record: String,
}

const PEERS: &[&str] =
    &["asmjit", "jit-allocator", "talc-rwx", "alias", "flip", "mapping", "cranelift"];

impl Bench {
    fn rounds(&self) -> usize {
        if self.smoke { 3 } else { 31 }
    }

    fn millis(&self) -> f64 {
        if self.smoke { 1.0 } else { 10.0 }
    }

    fn race(&self, rivals: &[&str], plan: Plan) -> Race {
        Race::run(rivals, plan, self.rounds(), self.millis())
    }

    fn say(&mut self, target: usize, what: &str, measured: f64, limit: &str, verdict: &Verdict) {
        let verdict = match verdict {
            Verdict::Met => "met".to_owned(),
            Verdict::Missed => "missed".to_owned(),
            Verdict::Told => String::new(),
            Verdict::NotRun(why) => format!("not run: {why}"),
        };
        println!("{target}  {what:62} {measured:10.3}  {limit:10} {verdict}");
        let _ = writeln!(self.record, "{target},\"{what}\",{measured},\"{limit}\",\"{verdict}\"");
    }

    fn at_most(&mut self, target: usize, what: &str, measured: Option<f64>, limit: f64) {
        self.compare(target, what, measured, &format!("<= {limit}"), |it| it <= limit);
    }

    fn at_least(&mut self, target: usize, what: &str, measured: Option<f64>, limit: f64) {
        self.compare(target, what, measured, &format!(">= {limit}"), |it| it >= limit);
    }

    fn compare(
        &mut self,
        target: usize,
        what: &str,
        measured: Option<f64>,
        limit: &str,
        met: impl Fn(f64) -> bool,
    ) {
        let verdict = match measured {
            None => Verdict::NotRun("one side cannot run here".to_owned()),
            Some(it) if met(it) => Verdict::Met,
            Some(_) => Verdict::Missed,
        };
        self.say(target, what, measured.unwrap_or(f64::NAN), limit, &verdict);
    }

    fn tell(&mut self, target: usize, what: &str, measured: f64) {
        self.say(target, what, measured, "", &Verdict::Told);
    }

    fn not_run(&mut self, target: usize, race: &Race) {
        for (name, why) in &race.missing {
            self.say(target, name, f64::NAN, "", &Verdict::NotRun(why.clone()));
        }
    }

    /// Against the limit, by the number of live executors.
    fn churn(&mut self) {
        let (ours, probe) = (self.ours, self.probe);
        let mut first = None;
        for live in [512, 4096, 32_768] {
            let race = self.race(&[probe, ours], plan(1, live));
            let ratio = race.ratio(ours, probe, Round::cpu_ns);
            self.at_most(1, &format!("{ours} / {probe}, {live} live"), ratio, 1.5);
            first = first.or(ratio);
            if live == 32_768 {
                let growth = ratio.zip(first).map(|(last, first)| last / first);
                self.at_most(1, "growth of that ratio from 512 to 32,768 live", growth, 1.1);
            }
        }
    }

    /// Against peers.
    fn peers(&mut self) {
        let ours = self.ours;
        let mut rivals = vec![ours];
        rivals.extend(PEERS);
        let race = self.race(&rivals, plan(1, 4096));
        self.not_run(2, &race);
        for peer in PEERS {
            let ratio = race.ratio(peer, ours, Round::cpu_ns);
            let what = format!("{peer} / {ours}, one thread");
            match *peer {
                "asmjit" => self.at_least(2, &what, ratio, 6.0),
                "mapping" => self.at_least(2, &what, ratio, 60.0),
                _ => ratio.into_iter().for_each(|ratio| self.tell(2, &what, ratio)),
            }
        }
        let rivals = [ours, "asmjit", "talc-rwx"];
        let race = self.race(&rivals, plan(2, 4096));
        let what = format!("asmjit / {ours}, two threads");
        self.at_least(2, &what, race.ratio("asmjit", ours, Round::wall_ns), 25.0);
        let race = self.race(&rivals, Plan { latency: true, ..plan(2, 4096) });
        let what = format!("{ours} / asmjit, p99.9 of one replacement, two threads");
        self.at_most(2, &what, race.ratio(ours, "asmjit", tail), 0.1);
    }

    /// Threads.
    fn threads(&mut self) {
        let (ours, probe) = (self.ours, self.probe);
        let many: &[usize] = if self.smoke { &[2, 8] } else { &[2, 8, 32, 128] };
        let live = 4096;
        let mut of_two = None;
        for &threads in many {
            // One thread's rounds beside those of many, for the same hour.
            let (one, all): (Vec<_>, Vec<_>) = [probe, ours]
                .iter()
                .map(|name| {
                    (self.race(&[name], plan(1, live)), self.race(&[name], plan(threads, live)))
                })
                .unzip();
            let gain = |at: usize, name: &str| {
                let best = |race: &Race| {
                    Some(race.of(name)?.iter().map(Round::wall_ns).fold(f64::MAX, f64::min))
                };
                Some(best(&one[at])? / best(&all[at])?)
            };
            let least = gain(0, probe);
            if let Some(least) = least {
                self.tell(3, &format!("throughput of {threads} threads / one, {probe}"), least);
            }
            let gain = gain(1, ours);
            if let Some((gain, least)) = gain.zip(least) {
                self.tell(3, &format!("the same of {ours}, over that of {probe}"), gain / least);
            }
            let what = format!("throughput of {threads} threads / one, {ours}");
            if threads == 2 {
                of_two = gain;
                self.at_least(3, &what, gain, 1.9);
            } else {
                let relative = gain.zip(of_two).map(|(gain, two)| gain / two);
                self.at_least(3, &format!("{what}, over that of two"), relative, 0.9);
            }
            let race = self.race(&[probe, ours], Plan { latency: true, ..plan(threads, live) });
            if let (Some(mine), Some(least)) = (race.of(ours), race.of(probe)) {
                let us = |rounds: &[Round]| median(rounds.iter().map(tail)) / 1000.0;
                let (mine, least) = (us(mine), us(least));
                self.tell(
                    3,
                    &format!("p99.9 of one replacement, {threads} threads, us, {ours}"),
                    mine,
                );
                self.tell(3, "  the scheduler's own delay: the same of the probe, us", least);
            }
        }
    }

    /// Frees by another thread.
    fn remote(&mut self) {
        let mailed =
            |to_other| Plan { frees: Frees::Mailed { percent: 80, to_other }, ..plan(2, 4096) };
        let ours = self.ours;
        let mut ratios = Vec::new();
        for _ in 0..if self.smoke { 1 } else { 5 } {
            let local = self.race(&[ours], mailed(false));
            let remote = self.race(&[ours], mailed(true));
            if let (Some(local), Some(remote)) = (local.of(ours), remote.of(ours)) {
                let cost = |rounds: &[Round]| median(rounds.iter().map(Round::cpu_ns));
                ratios.push(cost(remote) / cost(local));
            }
        }
        let ratio = (!ratios.is_empty()).then(|| median(ratios));
        self.at_most(4, "80 % of frees remote / all local, two threads", ratio, 1.2);
    }

    /// Entering and leaving code.
    fn pins(&mut self) {
        let Some((_, mut thread)) = self.attach() else { return };
        let executor = thread.install(RETURN, &[]).expect("install");
        let collector = crossbeam_epoch::Collector::new();
        let local = collector.register();
        let count = if self.smoke { 10_000 } else { 1_000_000 };
        let guard = thread.pin();
        // SAFETY: a function without arguments or result, called under a guard.
        let function: extern "C" fn() = unsafe { executor.entry(&guard).cast() };
        let (mut empty, mut nested, mut ours, mut theirs) = (vec![], vec![], vec![], vec![]);
        for _ in 0..self.rounds() {
            empty.push(per(count, || {
                black_box(&thread);
            }));
            nested.push(per(count, || drop(black_box(thread.pin()))));
        }
        drop(guard);
        for _ in 0..self.rounds() {
            ours.push(per(count, || {
                let _guard = black_box(thread.pin());
                function();
            }));
            theirs.push(per(count, || {
                let _guard = black_box(local.pin());
                function();
            }));
        }
        let outer = local.pin();
        let theirs_nested: Vec<f64> =
            (0..self.rounds()).map(|_| per(count, || drop(black_box(local.pin())))).collect();
        drop(outer);
        let empty = median(empty);
        let (nested, theirs_nested) = (median(nested) - empty, median(theirs_nested) - empty);
        self.at_most(5, "nested pin and unpin, ns", Some(nested), 2.0);
        self.tell(5, "the same / that of crossbeam-epoch", nested / theirs_nested);
        let ratio = median(ours.iter().zip(&theirs).map(|(ours, theirs)| ours / theirs));
        self.at_most(
            5,
            "outermost pin, call, unpin / the same of crossbeam-epoch",
            Some(ratio),
            1.0,
        );
    }

    /// First touch.
    fn touch(&mut self) {
        let Some((arena, mut thread)) = self.attach() else { return };
        let count = if self.smoke { 1000 } else { 20_000 };
        let source = jit_arena_benches::workload::source();
        let mut churn = jit_arena_benches::workload::Churn::new(3, 1, 0);
        let mut all = Vec::with_capacity(count);
        let before = faults();
        for _ in 0..count {
            let size = churn.next(1)[0].size as usize;
            all.push(thread.install(&source[..size], &[]).expect("install"));
        }
        let per = |it: u64| it as f64 / count as f64;
        let faults = per(faults() - before);
        self.tell(6, "page faults a fresh install, those of populating included", faults);
        let claims = per(arena.stats().claims);
        self.at_most(
            6,
            "claims (at most one system call each) a fresh install",
            Some(claims),
            0.25,
        );
    }

    /// Memory.
    fn memory(&mut self) {
        let mut logs = Vec::new();
        let mut paths: Vec<PathBuf> = self.traces.read_dir().map_or_else(
            |_| Vec::new(),
            |dir| dir.filter_map(|entry| Some(entry.ok()?.path())).collect(),
        );
        paths.retain(|path| path.to_string_lossy().ends_with(".csv.gz"));
        paths.sort();
        if self.smoke {
            paths.truncate(1);
        }
        for path in paths {
            let Ok(events) = trace::read(&path) else { continue };
            let Ok(ours) = Ours::new(self.ours, 64 << 20) else { continue };
            let memory = trace::replay(&ours, &events);
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let small = memory.curve.iter().map(|it| it.1).max().unwrap_or(0) < 512 << 10;
            let limit = if small { 1.35 } else { 1.3 };
            let ratio = memory.committed_over_live;
            self.at_most(7, &format!("committed over live, {name}"), Some(ratio), limit);
            logs.push(ratio.ln());
        }
        let mean = (!logs.is_empty()).then(|| (logs.iter().sum::<f64>() / logs.len() as f64).exp());
        self.at_most(7, "the same, geometric mean", mean, 1.10);
        for name in [self.ours, "asmjit", "talc-rwx", "mapping"] {
            let mut thin = Thin(None);
            rival::visit(name, Room { bytes: 10 << 20, threads: 1 }, &mut thin);
            let what = format!("committed over live once 90 % of 4,096 died, {name}");
            match thin.0 {
                Some(ratio) if name == self.ours => self.at_most(7, &what, Some(ratio), 2.5),
                Some(ratio) if ratio.is_finite() => self.tell(7, &what, ratio),
                _ => {}
            }
        }
    }

    /// Code that is packed runs faster.
    fn execute(&mut self) {
        if !cfg!(target_arch = "x86_64") {
            let why = Verdict::NotRun("the functions are written for x86-64".to_owned());
            return self.say(8, "packed against one a page", f64::NAN, "", &why);
        }
        let Ok(packed) = Ours::new(self.ours, 64 << 20) else { return };
        let count = if self.smoke { 500 } else { 20_000 };
        let (mut packed, mut apart) = (packed.attach(), rival::mapping::Mappings::new());
        let mut rng = SmallRng::seed_from_u64(8);
        let codes: Vec<Vec<u8>> = (0..count).map(|_| body(rng.random_range(500..1500))).collect();
        let packed_codes: Vec<_> = codes.iter().map(|code| packed.install(code)).collect();
        let apart_codes: Vec<_> = codes.iter().map(|code| apart.install(code)).collect();
        fn functions<T: RivalThread>(codes: &[T::Code]) -> Vec<extern "C" fn() -> u64> {
            let function = |code: &T::Code| {
                // SAFETY: such a function was written there, and stays.
                unsafe { std::mem::transmute::<usize, extern "C" fn() -> u64>(T::addr(code)) }
            };
            codes.iter().map(function).collect()
        }
        let mut order: Vec<usize> = (0..count).collect();
        order.shuffle(&mut rng);
        let packed_functions = functions::<rival::arena::OursThread>(&packed_codes);
        let apart_functions = functions::<rival::mapping::Mappings>(&apart_codes);
        let run = |functions: &[extern "C" fn() -> u64]| {
            let start = cpu_time();
            for &at in &order {
                black_box(functions[at]());
            }
            (cpu_time() - start).as_nanos() as f64
        };
        // Warm, both of them.
        run(&packed_functions);
        run(&apart_functions);
        let ratios = (0..self.rounds()).map(|_| run(&apart_functions) / run(&packed_functions));
        let ratio = median(ratios.collect::<Vec<_>>());
        self.tell(8, &format!("one a page / packed, {count} functions, whole bodies"), ratio);
        let why = Verdict::NotRun("no option of the builder turns them on yet".to_owned());
        self.say(8, "the same with huge pages", f64::NAN, "", &why);
    }

    /// Write scopes, by strategy and executors in one.
    fn scopes(&mut self) {
        for strategy in Strategy::ALL {
            let name = strategy.name();
            let Ok(ours) = Ours::new(name, 64 << 20) else {
                let why = Verdict::NotRun("the machine refuses the strategy".to_owned());
                self.say(9, name, f64::NAN, "", &why);
                continue;
            };
            let mut thread = ours.arena().attach().expect("attach");
            for batch in [1, 8, 64] {
                let rounds = if self.smoke { 3 } else { 200 };
                let each = (0..rounds).map(|_| batch_ns(&mut thread, batch));
                let each = median(each.collect::<Vec<_>>());
                self.tell(9, &format!("ns an executor of 1 KiB, {batch} in a scope, {name}"), each);
            }
        }
    }

    fn attach(&self) -> Option<(Arena, ThreadHandle)> {
        let arena = Ours::new(self.ours, 64 << 20).ok()?.arena().clone();
        let thread = arena.attach().ok()?;
        Some((arena, thread))
    }
}

/// How much is held for a live byte once most died.
struct Thin(Option<f64>);

impl Visit for Thin {
    fn rival<R: Rival + Clone>(&mut self, rival: R) {
        let crew = Crew::new(rival, plan(1, 4096));
        let live = crew.usage().live.max((4096.0 * jit_arena_benches::workload::MEAN) as usize);
        crew.thin(90);
        let usage = crew.usage();
        let live = if usage.live > 0 { usage.live } else { live / 10 };
        self.0 = Some(usage.committed as f64 / live as f64);
    }

    fn missing(&mut self, _name: &str, _why: NotHere) {}
}

fn plan(threads: usize, live: usize) -> Plan {
    Plan { threads, live, frees: Frees::Direct, latency: false }
}

/// p99.9 of one operation, in nanoseconds.
fn tail(round: &Round) -> f64 {
    round.latency.as_ref().map_or(f64::NAN, |it| it.value_at_quantile(0.999) as f64)
}

/// Processor time of an executor written in a scope of `batch` of them.
fn batch_ns(thread: &mut ThreadHandle, batch: usize) -> f64 {
    let code = [0x90; 1024];
    let start = cpu_time();
    let mut scope = thread.write();
    let mut reserved: Vec<_> =
        (0..batch).map(|_| scope.reserve(CodeLayout::new(code.len())).expect("reserve")).collect();
    for reservation in &mut reserved {
        scope.write_at(reservation, 0, &code).expect("write");
    }
    drop(scope);
    let published = reserved.into_iter().map(|it| thread.publish(it).expect("publish"));
    let published: Vec<Executor> = published.collect();
    let spent = (cpu_time() - start).as_nanos() as f64 / batch as f64;
    drop(published);
    spent
}

/// A function that returns at once.
#[cfg(target_arch = "x86_64")]
const RETURN: &[u8] = &[0xC3];
/// A function that returns at once.
#[cfg(target_arch = "aarch64")]
const RETURN: &[u8] = &[0xC0, 0x03, 0x5F, 0xD6];

/// x86-64 code of about `len` bytes that adds numbers and returns.
fn body(len: usize) -> Vec<u8> {
    // add rax, 1
    let mut code: Vec<u8> = [0x48, 0x83, 0xC0, 0x01].repeat(len / 4);
    code.push(0xC3);
    code
}

/// Nanoseconds of `work`, done `count` times.
fn per(count: u32, mut work: impl FnMut()) -> f64 {
    let start = Instant::now();
    (0..count).for_each(|_| work());
    start.elapsed().as_nanos() as f64 / f64::from(count)
}

/// Page faults of the calling thread that needed no input.
fn faults() -> u64 {
    // SAFETY: an all-zero rusage is one.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: writes one rusage.
    unsafe { libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage) };
    usage.ru_minflt as u64
}

fn main() -> std::io::Result<()> {
    let options = Options::parse();
    for (what, value) in machine::facts() {
        println!("{what}: {value}");
    }
    let keys = machine::has_keys();
    let (ours, probe) = if keys { ("dual-pkey", "probe-pkey") } else { ("dual-open", "probe") };
    if !keys {
        println!("not run: dual-pkey, single-pkey, probe-pkey: the machine has no protection keys");
    }
    let mut bench = Bench {
        smoke: options.smoke,
        traces: options.traces,
        ours,
        probe,
        record: "target,what,measured,limit,verdict\n".to_owned(),
    };
    let all: [fn(&mut Bench); 9] = [
        Bench::churn,
        Bench::peers,
        Bench::threads,
        Bench::remote,
        Bench::pins,
        Bench::touch,
        Bench::memory,
        Bench::execute,
        Bench::scopes,
    ];
    for (at, target) in all.iter().enumerate() {
        if options.only.is_empty() || options.only.contains(&(at + 1)) {
            target(&mut bench);
        }
    }
    if let Some(path) = options.record {
        let facts = machine::facts();
        let facts = facts.iter().map(|(what, value)| format!("# {what}: {value}\n"));
        std::fs::write(path, facts.collect::<String>() + &bench.record)?;
    }
    Ok(())
}
