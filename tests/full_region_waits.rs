//! A region is full while what was retired in it waits for a thread that is pinned:
//! one that comes back in a moment is waited for.

mod common;

use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

use common::{MIB, each_strategy_with};
use jit_arena::{Arena, ThreadHandle};
#[cfg(target_os = "linux")]
use jit_arena::{CodeLayout, ReserveError};

/// Bytes of code that fit only where what was retired is free again.
const MOST: usize = MIB / 2;

/// Installs and drops most of what fits.
fn retire_most(thread: &mut ThreadHandle) {
    (0..200).for_each(|_| drop(thread.install(&[0x90; 4000], &[]).unwrap()));
}

/// Pins and says so; unpins so much later than it is told to, or than whoever
/// would have told it failed.
fn stay_pinned(arena: &Arena, say: &Sender<()>, told: &Receiver<()>, longer: Duration) {
    let handle = arena.attach().unwrap();
    let guard = handle.pin();
    say.send(()).unwrap();
    let _ = told.recv();
    thread::sleep(longer);
    drop(guard);
}

/// As a thread that lost its processor, while nobody else wants this one: yielding
/// to it returns at once.
#[test]
fn a_thread_that_is_pinned_for_a_moment_is_waited_for() {
    each_strategy_with(
        |builder| builder.reserve(MIB),
        |arena| {
            let (say, said) = mpsc::channel();
            thread::scope(|threads| {
                // Here, so that an assertion that fails ends the other thread.
                let (tell, told) = mpsc::channel();
                let arena = &arena;
                threads.spawn(move || stay_pinned(arena, &say, &told, Duration::from_millis(100)));
                let mut handle = arena.attach().unwrap();
                said.recv().unwrap();
                retire_most(&mut handle);
                tell.send(()).unwrap();
                drop(handle.install(&[0x90; MOST], &[]).expect("a moment is waited for"));
            });
        },
    );
}

/// How often this thread has given up the processor to wait.
#[cfg(target_os = "linux")]
fn switches() -> i64 {
    // SAFETY: all zeros is a value of the type.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: a local that is valid.
    assert_eq!(unsafe { libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage) }, 0);
    usage.ru_nvcsw
}

/// A thread that has several handles, one of them pinned, would wait for itself.
#[cfg(target_os = "linux")]
#[test]
fn a_thread_does_not_wait_for_itself() {
    each_strategy_with(
        |builder| builder.reserve(MIB),
        |arena| {
            let other = arena.attach().unwrap();
            let guard = other.pin();
            let mut handle = arena.attach().unwrap();
            retire_most(&mut handle);
            let before = switches();
            let error = handle.reserve(CodeLayout::new(MOST)).unwrap_err();
            assert!(matches!(error, ReserveError::Exhausted { .. }), "{error:?}");
            // Fewer than it would have slept, whatever else the machine does.
            assert!(switches() - before < 50, "{} switches", switches() - before);
            drop(guard);
            drop(handle.install(&[0x90; MOST], &[]).unwrap());
        },
    );
}

/// Who has waited for it in vain finds the region full at once, until more waits.
#[cfg(target_os = "linux")]
#[test]
fn a_thread_that_stays_pinned_is_waited_for_once() {
    each_strategy_with(
        |builder| builder.reserve(MIB),
        |arena| {
            let (say, said) = mpsc::channel();
            thread::scope(|threads| {
                let (tell, told) = mpsc::channel::<()>();
                let arena = &arena;
                threads.spawn(move || stay_pinned(arena, &say, &told, Duration::ZERO));
                let mut handle = arena.attach().unwrap();
                said.recv().unwrap();
                retire_most(&mut handle);
                let mut refused = || {
                    let before = switches();
                    let error = handle.reserve(CodeLayout::new(MOST)).unwrap_err();
                    assert!(matches!(error, ReserveError::Exhausted { .. }), "{error:?}");
                    switches() - before
                };
                let (first, second) = (refused(), refused());
                assert!(first >= 100, "slept {first} times only");
                assert!(second < 50, "slept {second} times again");
                tell.send(()).unwrap();
            });
            let mut handle = arena.attach().unwrap();
            drop(handle.install(&[0x90; MOST], &[]).expect("it has left"));
        },
    );
}

/// A region full of what lives is nothing that was waited for in vain.
#[test]
fn a_moment_is_waited_for_where_the_region_was_full_before() {
    each_strategy_with(
        |builder| builder.reserve(256 << 10),
        |arena| {
            let (say, said) = mpsc::channel();
            thread::scope(|threads| {
                let (tell, told) = mpsc::channel();
                let arena = &arena;
                let mut handle = arena.attach().unwrap();
                // One that could have something, so that it is looked for often.
                let (attached, is_attached) = mpsc::channel();
                let (end, ended) = mpsc::channel::<()>();
                threads.spawn(move || {
                    let _handle = arena.attach().unwrap();
                    attached.send(()).unwrap();
                    let _ = ended.recv();
                });
                is_attached.recv().unwrap();
                let mut full = Vec::new();
                while let Ok(executor) = handle.install(&[0x90; 4000], &[]) {
                    full.push(executor);
                }
                threads.spawn(move || stay_pinned(arena, &say, &told, Duration::from_millis(100)));
                said.recv().unwrap();
                full.truncate(full.len() - 20);
                tell.send(()).unwrap();
                drop(handle.install(&[0x90; 4000], &[]).expect("a moment is waited for"));
                drop(end);
            });
        },
    );
}
