//! What a replay decides before it starts: which thread performs which event,
//! how long each event's outcome counts, and what one mapping per executor
//! would have held.
//!
//! All of it follows from the trace and the number of threads alone, so two
//! replays of one trace on as many threads do the same.

use crate::code::Words;
use crate::trace::{Op, Trace};

/// Most times a replay asks the kernel what is resident, which takes it a
/// walk through page tables.
const RESIDENT_SAMPLES: u64 = 200;

/// Of so many frees, one happens on the thread that allocated; the rest go to
/// others, as in the recorded program with threads.
const LOCAL_FREE_OF: u64 = 5;

/// The decisions.
#[derive(Debug)]
pub(super) struct Plan {
    /// For each thread the events it performs, in order: indices into
    /// [`Trace::events`].
    pub(super) per_thread: Vec<Vec<u32>>,
    /// How far a thread may run ahead of the slowest, in events of the trace.
    pub(super) window: usize,
    /// How long what an event leaves behind counts, in nanoseconds of the
    /// trace: until the next event.
    pub(super) weight: Vec<u64>,
    /// After which events the kernel is asked what is resident, and how long
    /// the answer counts; 0 elsewhere.
    pub(super) resident_weight: Vec<u64>,
}

impl Plan {
    pub(super) fn new(trace: &Trace, threads: usize) -> Self {
        let weight = weights(trace);
        Self {
            per_thread: spread(trace, threads),
            window: window(trace.events.len(), threads),
            resident_weight: sample(&weight),
            weight,
        }
    }
}

/// Threads must stay close together in the trace, or the live bytes of the
/// replay are not those of any moment of the recording; but a thread that waits
/// at every event measures the scheduler. A sixty-fourth of the trace blurs
/// little; a few events for each thread are the least that lets all run.
fn window(events: usize, threads: usize) -> usize {
    (events / 64).clamp(2 * threads, 64 * threads)
}

fn spread(trace: &Trace, threads: usize) -> Vec<Vec<u32>> {
    let mut per_thread = vec![Vec::new(); threads];
    let count = threads as u64;
    let mut words = Words::new(count);
    let mut owner = vec![0; trace.executors.len()];
    for (index, event) in (0..).zip(&trace.events) {
        let chance = words.next_word();
        let thread = match event.op {
            Op::Alloc => chance % count,
            Op::Free => {
                let allocated_on = owner[event.executor as usize];
                if threads == 1 || chance.is_multiple_of(LOCAL_FREE_OF) {
                    allocated_on
                } else {
                    (allocated_on + 1 + chance / LOCAL_FREE_OF % (count - 1)) % count
                }
            }
        };
        if event.op == Op::Alloc {
            owner[event.executor as usize] = thread;
        }
        per_thread[thread as usize].push(index);
    }
    per_thread
}

/// Time to the next event; if no time passes at all in the trace, every event
/// counts the same.
fn weights(trace: &Trace) -> Vec<u64> {
    let until_next = trace.events.windows(2).map(|pair| pair[1].t_ns - pair[0].t_ns);
    let weight: Vec<u64> = until_next.chain([0]).collect();
    if weight.iter().all(|w| *w == 0) { vec![1; weight.len()] } else { weight }
}

/// Cuts the time of the trace into equal parts and picks of each part the
/// event whose outcome lasts longest, to stand for the whole part.
fn sample(weight: &[u64]) -> Vec<u64> {
    let total: u64 = weight.iter().sum();
    let part = total.div_ceil(RESIDENT_SAMPLES).max(1);
    let mut sampled = vec![0; weight.len()];
    let (mut elapsed, mut first) = (0, 0);
    while first < weight.len() {
        // An event that lasts for several parts fills them all.
        let end = (elapsed / part + 1).saturating_mul(part);
        let (mut chosen, mut sum, mut next) = (first, 0, first);
        while next < weight.len() && (next == first || elapsed + sum < end) {
            if weight[next] > weight[chosen] {
                chosen = next;
            }
            sum += weight[next];
            next += 1;
        }
        sampled[chosen] = sum;
        elapsed += sum;
        first = next;
    }
    sampled
}

/// Bytes one mapping per executor holds over the bytes needed, over the time of
/// the trace, with pages of `page` bytes.
pub(super) fn stock_over_live(trace: &Trace, page: u64) -> f64 {
    let (mut live, mut held) = (0_u64, 0_u64);
    let (mut live_time, mut held_time) = (0.0, 0.0);
    for (event, weight) in trace.events.iter().zip(weights(trace)) {
        let shape = trace.executors[event.executor as usize];
        match event.op {
            Op::Alloc => {
                live += shape.bytes();
                held += shape.padded(page);
            }
            Op::Free => {
                live -= shape.bytes();
                held -= shape.padded(page);
            }
        }
        live_time += live as f64 * weight as f64;
        held_time += held as f64 * weight as f64;
    }
    held_time / live_time
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundled;
    use crate::trace::{Event, Shape};

    fn trace(times: &[u64]) -> Trace {
        let executors = vec![Shape { code: 100, data: 0 }; times.len()];
        let events =
            (0..).zip(times).map(|(executor, t_ns)| Event { t_ns: *t_ns, executor, op: Op::Alloc });
        Trace { name: "t".to_owned(), events: events.collect(), executors, recorded_threads: 1 }
    }

    #[test]
    fn every_event_is_performed_by_one_thread_in_order() {
        let trace = bundled::open("w_reload_nl").expect("bundled").expect("readable");
        for threads in [1, 2, 8, 64] {
            let plan = Plan::new(&trace, threads);
            assert_eq!(plan.per_thread.len(), threads);
            let mut all: Vec<u32> = plan.per_thread.concat();
            assert!(plan.per_thread.iter().all(|events| events.is_sorted() && !events.is_empty()));
            all.sort_unstable();
            assert!(all.into_iter().eq(0..trace.events.len() as u32));
        }
    }

    #[test]
    fn four_frees_in_five_are_remote() {
        let trace = bundled::open("w_threads_nl").expect("bundled").expect("readable");
        let plan = Plan::new(&trace, 8);
        let mut thread_of = vec![0; trace.events.len()];
        for (thread, events) in plan.per_thread.iter().enumerate() {
            events.iter().for_each(|index| thread_of[*index as usize] = thread);
        }
        let (mut allocated_on, mut remote, mut frees) = (vec![0; trace.executors.len()], 0, 0);
        for (event, thread) in trace.events.iter().zip(thread_of) {
            match event.op {
                Op::Alloc => allocated_on[event.executor as usize] = thread,
                Op::Free => {
                    frees += 1;
                    remote += usize::from(allocated_on[event.executor as usize] != thread);
                }
            }
        }
        assert!((75..=85).contains(&(100 * remote / frees)), "{remote} of {frees}");
    }

    #[test]
    fn resident_samples_stand_for_all_of_the_time() {
        for trace in
            bundled::names().map(|name| bundled::open(name).expect("bundled").expect("readable"))
        {
            let plan = Plan::new(&trace, 1);
            assert_eq!(plan.weight.iter().sum::<u64>(), trace.duration_ns());
            assert_eq!(plan.resident_weight.iter().sum::<u64>(), trace.duration_ns());
            let samples = plan.resident_weight.iter().filter(|w| **w > 0).count() as u64;
            assert!((5..=RESIDENT_SAMPLES).contains(&samples), "{}: {samples}", trace.name);
        }
        let still = Plan::new(&trace(&[7, 7, 7]), 1);
        assert_eq!(still.weight, [1, 1, 1]);
        assert_eq!(still.resident_weight.iter().sum::<u64>(), 3);
        let gap = Plan::new(&trace(&[0, 1, 2, 1_000_000]), 1);
        assert_eq!(gap.resident_weight, [0, 0, 1_000_000, 0]);
        // As long as a trace can last, in one step and in some.
        let longest = Plan::new(&trace(&[0, u64::MAX]), 1);
        assert_eq!(longest.resident_weight, [u64::MAX, 0]);
        let steps = Plan::new(&trace(&[0, u64::MAX / 2, u64::MAX - 2, u64::MAX - 1, u64::MAX]), 1);
        let sum = steps.resident_weight.iter().try_fold(0_u64, |sum, w| sum.checked_add(*w));
        assert_eq!(sum, Some(u64::MAX));
    }

    #[test]
    fn own_mappings_cost_what_was_measured_at_the_recording() {
        let close = |got: f64, expected: f64| (got - expected).abs() < 0.005;
        for (name, small, large) in [("bm_richards", 3.55, 12.94), ("w_reload_nl", 1.70, 4.84)] {
            let trace = bundled::open(name).expect("bundled").expect("readable");
            let got = (stock_over_live(&trace, 4096), stock_over_live(&trace, 16 * 1024));
            assert!(close(got.0, small) && close(got.1, large), "{name}: {got:?}");
        }
    }
}
