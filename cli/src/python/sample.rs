//! Looking on: what the arena holds over the time of a run.

use std::collections::VecDeque;
use std::time::Duration;

use jit_arena::{Arena, Stats};
use jit_arena_python::Runtime;

use super::crew::Crew;
use crate::failure::Check;
use crate::human::{bytes, count};

/// One look.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) time: Duration,
    pub(crate) stats: Stats,
    pub(crate) invalidated: u64,
    pub(crate) lag: Duration,
    /// Calls made so far by each thread of the crew.
    pub(crate) calls: Vec<u64>,
    threads: usize,
}

/// What is in the code pages, by granules of 64 bytes: live code by its first
/// page on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Map {
    /// For each code page that has anything, the part of each 16th of it that
    /// is live code.
    pub(crate) pages: Vec<Vec<f64>>,
}

/// Parts of a page in the map.
pub(crate) const PARTS: usize = 64;

/// Bytes of a code page.
pub(crate) const PAGE: usize = 64 << 10;

/// All looks.
#[derive(Clone, Debug)]
pub(crate) struct Samples {
    pub(crate) all: Vec<Sample>,
    /// Only one look in so many is kept in `all`, and how many there were.
    every: usize,
    looks: usize,
    /// The looks of the last second or so.
    recent: VecDeque<Sample>,
    pub(crate) peak_live: u64,
    pub(crate) peak_committed: u64,
    pub(crate) peak_retired: u64,
    pub(crate) peak_lag: Duration,
    /// Threads that install, at most: those of the crew and of programs.
    pub(crate) peak_threads: u64,
    pub(crate) map: Option<Map>,
}

/// Looks that are kept; if there are more, every second is let go, and from then
/// on every second of what is to come.
const KEPT: usize = 2400;

/// Looks that what is going on is told by.
const RECENT: usize = 24;

impl Samples {
    pub(crate) fn new() -> Self {
        Self {
            all: Vec::new(),
            every: 1,
            looks: 0,
            recent: VecDeque::new(),
            peak_live: 0,
            peak_committed: 0,
            peak_retired: 0,
            peak_lag: Duration::ZERO,
            peak_threads: 0,
            map: None,
        }
    }

    pub(crate) fn take(&mut self, time: Duration, runtime: &Runtime, crew: &Crew) {
        let stats = runtime.arena().stats();
        self.peak_live = self.peak_live.max(stats.live_bytes);
        self.peak_committed = self.peak_committed.max(stats.committed_bytes);
        self.peak_retired = self.peak_retired.max(stats.retired_bytes);
        // Each has one handle to run code and one to make it.
        self.peak_threads = self.peak_threads.max(stats.attached_threads / 2);
        let (lag, invalidated) = (runtime.lag(), runtime.done().invalidated);
        self.peak_lag = self.peak_lag.max(lag);
        let sample =
            Sample { time, stats, invalidated, lag, calls: crew.calls(), threads: crew.alive() };
        self.keep(sample);
    }

    fn keep(&mut self, sample: Sample) {
        self.recent.push_back(sample.clone());
        while self.recent.len() > RECENT {
            self.recent.pop_front();
        }
        if self.looks.is_multiple_of(self.every) {
            self.all.push(sample);
        }
        self.looks += 1;
        if self.all.len() >= KEPT {
            let mut keep = false;
            self.all.retain(|_| {
                keep = !keep;
                keep
            });
            self.every *= 2;
        }
    }

    /// Maps the code pages, the first time that it is time.
    pub(crate) fn map_once(&mut self, now: bool, arena: &Arena) {
        if !now || self.map.is_some() {
            return;
        }
        let Ok(dump) = arena.dump() else { return };
        let mut map = Map::default();
        for code in &dump.executors {
            let end = (code.info.data.start + code.info.data.len)
                .max(code.info.code.start + code.info.code.len);
            let mut at = code.info.code.start - dump.region.start;
            let end = end - dump.region.start;
            let part = PAGE / PARTS;
            while at < end {
                let next = ((at / part + 1) * part).min(end);
                let page = at / PAGE;
                if map.pages.len() <= page {
                    map.pages.resize(page + 1, vec![0.0; PARTS]);
                }
                map.pages[page][at % PAGE / part] += (next - at) as f64 / part as f64;
                at = next;
            }
        }
        self.map = Some(map);
    }

    pub(crate) fn time(&self) -> Duration {
        self.recent.back().map_or(Duration::ZERO, |sample| sample.time)
    }

    /// What is going on, in a line.
    pub(crate) fn line(&self) -> String {
        let Some(now) = self.recent.back() else { return String::new() };
        let before = self.recent.front().unwrap_or(now);
        let time = (now.time - before.time).as_secs_f64().max(0.001);
        let rate = |now: u64, before: u64| count(((now - before) as f64 / time) as u64);
        format!(
            "{} threads, {} installs/s, {} invalidations/s, live {}, committed {}, lag {} ms",
            now.threads,
            rate(now.stats.installs, before.stats.installs),
            rate(now.invalidated, before.invalidated),
            bytes(now.stats.live_bytes),
            bytes(now.stats.committed_bytes),
            now.lag.as_millis(),
        )
    }

    /// Checks that code memory was never much more than what was live at its
    /// most, besides `claims`.
    pub(crate) fn check_committed(&self, claims: u64) -> Result<(), Check> {
        let most = self.peak_live + self.peak_live / 4 + claims;
        if self.peak_committed <= most {
            return Ok(());
        }
        Err(Check::TooMuchMemory { committed: self.peak_committed, most, live: self.peak_live })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_that_are_kept_lie_even() {
        let mut samples = Samples::new();
        for tick in 0..20_000 {
            samples.keep(Sample {
                time: Duration::from_millis(tick),
                stats: Stats::default(),
                invalidated: 0,
                lag: Duration::ZERO,
                calls: Vec::new(),
                threads: 0,
            });
        }
        let kept = &samples.all;
        assert!((KEPT / 2..KEPT).contains(&kept.len()), "{}", kept.len());
        let gap = kept[1].time - kept[0].time;
        assert!(kept.windows(2).all(|pair| pair[1].time - pair[0].time == gap), "{gap:?}");
        assert_eq!(samples.time(), Duration::from_millis(19_999));
    }
}
