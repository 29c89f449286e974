//! What every strategy promises, on every kind of memory: one suite.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

#[test]
fn code_written_through_a_window_runs() {
    each_rung("code_written_through_a_window_runs", |region| {
        let unit = region.protection().write_unit();
        let page_size = region.platform().system_page();
        assert!(unit.is_power_of_two() && unit >= GRANULE && unit <= page_size);
        populate(region, region.span());
        let last = region.span().len - unit;
        for (value, offset) in
            [0, unit, page_size, 5 * page_size + 3 * unit, last].into_iter().enumerate()
        {
            let value = u16::try_from(value).unwrap() + 1000;
            let entry = write(region, offset, &returning(value));
            assert_eq!(call(entry), u32::from(value));
        }
        // One window over several system pages.
        let long = [vec![0x90_u8; 3 * page_size], returning(7)].concat();
        let entry = write(region, 16 * page_size, &long);
        assert_eq!(call(entry + 3 * page_size), 7);
    });
}

#[test]
fn windows_cover_their_span_in_whole_units_or_exactly() {
    each_rung("windows_cover_their_span", |region| {
        let unit = region.protection().write_unit();
        let span = Span::new(region.span().start + 3 * unit, unit);
        in_window(region, span, |window| {
            assert!(window.span.contains(span));
            assert!(region.span().contains(window.span));
            let single_view = window.writable == window.span.start;
            let strategy = region.protection().strategy();
            let expected = matches!(strategy, Strategy::Mprotect | Strategy::SinglePkey);
            assert_eq!(single_view, expected);
        });
    });
}

/// In a process of its own: an address that a window has left may at once be
/// another thread's stack.
#[test]
fn w1_no_mapping_is_ever_writable_and_executable() {
    const NAME: &str = "w1_no_mapping_is_ever_writable_and_executable";
    in_own_process("conformance", NAME, || each_rung(NAME, audit));
}

fn audit(region: &Region) {
    let strategy = region.protection().strategy();
    let span = Span::new(region.span().start, GRANULE);
    let look = |addr| {
        let rights = rights_at(addr);
        let both = rights.contains('w') && rights.contains('x');
        assert_eq!(both, !strategy.never_wx(), "{strategy}: {rights}");
        rights
    };
    let outside = if strategy.never_wx() { "r-x" } else { "rwx" };
    populate(region, page(region, 0));
    assert!(look(span.start).starts_with(outside));
    let writable = in_window(region, span, |window| {
        look(span.start);
        assert!(look(window.writable).contains('w'));
        window.writable
    });
    assert!(look(span.start).starts_with(outside));
    if strategy == Strategy::DualTransient {
        assert_eq!(rights_at(writable), "----", "the window is unmapped");
    }
}

#[test]
fn discarded_pages_go_back_and_read_as_zeros() {
    if !on_a_kernel("discarded_pages_go_back_and_read_as_zeros") {
        return;
    }
    each_rung("discarded_pages_go_back_and_read_as_zeros", |region| {
        let (first, second) = (page(region, 0), page(region, 1));
        let both = Span::new(first.start, 2 * first.len);
        populate(region, both);
        write(region, 0, &vec![0x5A; both.len]);
        assert!(is_present(first) && is_present(second));
        discard(region, first);
        assert!(!is_present(first), "the page is still held");
        assert_eq!(load(region, first.start), 0);
        assert_eq!(load(region, first.end() - 8), 0);
        let kept = u64::from_ne_bytes([0x5A; 8]);
        assert_eq!(load(region, second.start), kept, "the neighbour stays");
        // Usable again.
        populate(region, first);
        assert_eq!(call(write(region, 0, &returning(9))), 9);
    });
}

#[test]
fn populating_makes_pages_present_and_changes_no_byte() {
    if !on_a_kernel("populating_makes_pages_present_and_changes_no_byte") {
        return;
    }
    each_rung("populating_makes_pages_present", |region| {
        write(region, 0, &[0x77; 64]);
        let two = Span::new(region.span().start, 2 * page(region, 0).len);
        populate(region, two);
        assert_eq!(load(region, two.start), u64::from_ne_bytes([0x77; 8]));
        if region.protection().strategy() != Strategy::Mprotect {
            assert!(is_present(page(region, 1)));
        }
    });
}

/// Where the unit is a granule, writing one leaves its neighbours runnable and
/// two threads may write the same system page at once.
#[test]
fn neighbours_run_while_a_granule_is_written() {
    each_rung("neighbours_run_while_a_granule_is_written", |region| {
        let protection = region.protection();
        if protection.write_unit() != GRANULE {
            return;
        }
        populate(region, page(region, 0));
        let neighbour = write(region, 0, &returning(11));
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                protection.close_rights(region.platform());
                while !stop.load(Ordering::Relaxed) {
                    assert_eq!(call(neighbour), 11);
                }
            });
            let writers: Vec<_> = (1..3_u16)
                .map(|writer| {
                    scope.spawn(move || {
                        protection.close_rights(region.platform());
                        for round in 0..200_u16 {
                            let offset = GRANULE * usize::from(writer + 2 * (round % 20));
                            let value = writer * 1000 + round;
                            let entry = write(region, offset, &returning(value));
                            assert_eq!(call(entry), u32::from(value));
                        }
                    })
                })
                .collect();
            let outcomes: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
            stop.store(true, Ordering::Relaxed);
            assert!(outcomes.iter().all(Result::is_ok));
        });
    });
}

#[test]
fn two_windows_over_one_system_page_show_each_others_bytes() {
    each_rung("two_windows_over_one_system_page", |region| {
        let protection = region.protection();
        if protection.write_unit() != GRANULE {
            return;
        }
        let start = region.span().start;
        let (one, two) = (Span::new(start, GRANULE), Span::new(start + GRANULE, GRANULE));
        in_window(region, one, |first| {
            in_window(region, two, |second| {
                for (window, span, byte) in [(first, one, 1), (second, two, 2)] {
                    let to = window.writable_at(span.start);
                    // SAFETY: a granule of its own in an open window each.
                    unsafe { region.platform().copy_in(to, &[byte; GRANULE]) };
                }
            });
        });
        assert_eq!(load(region, one.start), u64::from_ne_bytes([1; 8]));
        assert_eq!(load(region, two.start), u64::from_ne_bytes([2; 8]));
    });
}

/// The kernel obeys page tables and keys when it copies on a thread's behalf.
#[test]
fn w1_the_kernel_does_not_write_code_for_a_thread_outside_a_scope() {
    each_rung("w1_the_kernel_does_not_write_code", |region| {
        populate(region, page(region, 0));
        let zeros = std::fs::File::open("/dev/zero").unwrap();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&zeros);
        let at = core::ptr::with_exposed_provenance_mut(region.span().start);
        // SAFETY: the kernel checks the address; nothing else uses the page.
        let read = unsafe { libc::read(fd, at, 8) };
        let errno = std::io::Error::last_os_error().raw_os_error();
        assert_eq!((read, errno), (-1, Some(libc::EFAULT)), "{:?}", region);
    });
}

/// Shared memory's executable view cannot be written even by the road that
/// debuggers take.
#[test]
fn w1_proc_self_mem_does_not_write_shared_executable_memory() {
    use std::os::unix::fs::FileExt;
    if !on_a_kernel("w1_proc_self_mem_does_not_write_shared_executable_memory") {
        return;
    }
    each_rung("w1_proc_self_mem_does_not_write", |region| {
        let shared =
            !matches!(region.protection().strategy(), Strategy::Mprotect | Strategy::SinglePkey);
        populate(region, page(region, 0));
        let memory = std::fs::File::options().write(true).open("/proc/self/mem").unwrap();
        let at = u64::try_from(region.span().start).unwrap();
        let written = memory.write_at(&[0x5A; 8], at);
        // Private memory is written by force, as it is for breakpoints.
        assert_eq!(written.is_err(), shared, "{written:?}");
        if shared {
            assert_eq!(load(region, region.span().start), 0);
        }
    });
}

#[test]
fn traps_can_be_filled_and_seen_in_the_executable_view() {
    each_rung("traps_can_be_filled", |region| {
        let unit = region.protection().write_unit();
        write(region, 0, &vec![0x5A; 3 * unit]);
        let span = Span::new(region.span().start + unit, unit);
        in_window(region, span, |window| {
            // SAFETY: the whole unit, inside an open window of ours.
            unsafe { region.platform().fill_traps(window.writable_at(span.start), unit) };
        });
        let trap = [crate::arch::TRAP, crate::arch::TRAP].concat();
        let trap = u64::from_ne_bytes(trap.try_into().unwrap());
        for addr in (span.start..span.end()).step_by(8) {
            assert_eq!(load(region, addr), trap);
        }
        let around = u64::from_ne_bytes([0x5A; 8]);
        assert_eq!(load(region, span.start - 8), around);
        assert_eq!(load(region, span.end()), around);
    });
}

/// Shows that regions work through the trait alone, from any thread.
#[test]
fn a_region_is_shared_by_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Region>();
    shared::<Arc<dyn Platform>>();
}
