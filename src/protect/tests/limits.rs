//! Where the system refuses: limits on files and address space, kernels that
//! deny code that was ever writable, and that nothing is left behind.

use super::*;
use crate::platform::OsError;
use crate::region::{RegionError, RegionRequest};
use crate::report::{Attempt, Outcome, Report};

const RESERVE: usize = 64 * MIB;

fn create(strategy: Option<Strategy>) -> Result<(Region, Report), RegionError> {
    let request = RegionRequest {
        name: "limits",
        reserve: RESERVE,
        near: None,
        seeds: None,
        strategy,
        huge_pages: false,
        anonymous: false,
    };
    Region::create(native(), &request)
}

fn limit(resource: libc::__rlimit_resource_t, bytes: usize) {
    let bytes = u64::try_from(bytes).unwrap();
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
    // SAFETY: a live rlimit; the process is this test's own.
    assert_eq!(unsafe { libc::setrlimit(resource, &raw const limit) }, 0);
}

/// The answer of the first attempt of `strategy` on `memory`.
fn answer(attempts: &[Attempt], strategy: Strategy, memory: MemoryKind) -> Outcome {
    let attempt =
        attempts.iter().find(|attempt| attempt.strategy == strategy && attempt.memory == memory);
    attempt.unwrap().outcome.clone()
}

/// ftruncate beyond the limit would end the process by SIGXFSZ.
#[test]
fn a_file_size_limit_is_an_errno_and_no_signal() {
    if !on_a_kernel("a_file_size_limit_is_an_errno_and_no_signal") {
        return;
    }
    in_own_process("limits", "a_file_size_limit_is_an_errno_and_no_signal", || {
        limit(libc::RLIMIT_FSIZE, MIB);
        let refused = OsError { call: "ftruncate", bytes: RESERVE, errno: libc::EFBIG };
        match create(Some(Strategy::DualOpen)) {
            Ok((region, report)) => {
                let memfd = answer(&report.attempts, Strategy::DualOpen, MemoryKind::Memfd);
                assert_eq!(memfd, Outcome::Refused(refused));
                assert_eq!(report.memory, MemoryKind::SharedAnonymous, "no file, no limit");
                assert_eq!(call(write(&region, 0, &returning(2))), 2);
            }
            // Emulators may lack the duplication of mappings.
            Err(RegionError::Refused { attempts, .. }) => {
                let memfd = answer(&attempts, Strategy::DualOpen, MemoryKind::Memfd);
                assert_eq!(memfd, Outcome::Refused(refused));
                missing("shared-anonymous under RLIMIT_FSIZE", "shared-anonymous", &attempts[1]);
            }
            Err(error) => panic!("{error}"),
        }
    });
}

#[test]
fn an_address_space_limit_is_a_typed_error() {
    if !on_a_kernel("an_address_space_limit_is_a_typed_error") {
        return;
    }
    in_own_process("limits", "an_address_space_limit_is_a_typed_error", || {
        limit(libc::RLIMIT_AS, RESERVE / 2);
        let error = create(None).unwrap_err();
        let RegionError::Refused { attempts, forced: None, .. } = &error else { panic!("{error}") };
        for memory in [MemoryKind::Memfd, MemoryKind::SharedAnonymous] {
            let outcome = answer(attempts, Strategy::DualTransient, memory);
            // With its guards.
            let bytes = RESERVE + 2 * native().guard();
            let no_room = OsError { call: "mmap", bytes, errno: libc::ENOMEM };
            assert_eq!(outcome, Outcome::Refused(no_room));
        }
        assert!(error.to_string().contains("Ask for a smaller reserve"), "{error}");
    });
}

/// Linux 6.3's memory-deny-write-execute, as systemd and others set it: no
/// mapping becomes executable that was not from the start.
#[test]
fn two_views_work_where_the_kernel_denies_write_then_execute() {
    if !on_a_kernel("two_views_work_where_the_kernel_denies_write_then_execute") {
        return;
    }
    in_own_process("limits", "two_views_work_where_the_kernel_denies_write_then_execute", || {
        const PR_SET_MDWE: i32 = 65;
        const PR_MDWE_REFUSE_EXEC_GAIN: libc::c_ulong = 1;
        // SAFETY: restricts this process, which is this test's own.
        let status = unsafe {
            libc::prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0_usize, 0_usize, 0_usize)
        };
        if status != 0 {
            let why = std::io::Error::last_os_error();
            return missing("memory-deny-write-execute", "mdwe", &why);
        }
        let error = create(Some(Strategy::Mprotect)).unwrap_err();
        let RegionError::Refused { attempts, .. } = &error else { panic!("{error}") };
        let outcome = answer(attempts, Strategy::Mprotect, MemoryKind::Private);
        let Outcome::Refused(refused) = outcome else { panic!("{error}") };
        assert_eq!((refused.call, refused.errno), ("mprotect", libc::EACCES));
        for memory in [MemoryKind::Memfd, MemoryKind::SharedAnonymous] {
            for strategy in [Strategy::DualTransient, Strategy::DualOpen] {
                let region = rung(strategy, memory).unwrap();
                assert_eq!(call(write(&region, 0, &returning(4))), 4);
            }
        }
    });
}

/// Descriptors, keys and mappings all go back: by drop and by refusal.
#[test]
fn r2_nothing_is_left_behind() {
    if !on_a_kernel("r2_nothing_is_left_behind") {
        return;
    }
    in_own_process("limits", "r2_nothing_is_left_behind", || {
        let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        let ours = || {
            let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
            maps.lines().filter(|line| line.contains("protect-test")).count()
        };
        let before = descriptors();
        // More than there are keys.
        for _ in 0..20 {
            for (strategy, memory) in RUNGS {
                let _region = rung(strategy, memory);
            }
        }
        assert_eq!((descriptors(), ours()), (before, 0));
        // Refused at the last step: room for one view of two.
        let mapped = std::fs::read_to_string("/proc/self/statm").unwrap();
        let pages: usize = mapped.split(' ').next().unwrap().parse().unwrap();
        let page = native().system_page();
        limit(libc::RLIMIT_AS, pages * page + MIB + MIB / 2);
        for memory in [MemoryKind::Memfd, MemoryKind::SharedAnonymous] {
            assert!(rung(Strategy::DualOpen, memory).is_err());
        }
        assert_eq!((descriptors(), ours()), (before, 0));
        rung(Strategy::Mprotect, MemoryKind::Private).unwrap();
    });
}
