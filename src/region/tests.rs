//! The ladder as it goes on the machine at hand.

use super::*;
use crate::platform::native;
use crate::units::{KIB, MIB};

fn request(strategy: Option<Strategy>) -> RegionRequest<'static> {
    RegionRequest {
        name: "region-test",
        reserve: MIB,
        near: None,
        seeds: None,
        strategy,
        huge_pages: false,
        anonymous: false,
    }
}

#[test]
fn r1_the_default_ladder_ends_in_a_strategy_that_keeps_w_xor_x() {
    let (region, report) = Region::create(native(), &request(None)).unwrap();
    assert!(report.strategy.never_wx() && report.strategy.by_default(), "{report}");
    assert_eq!(region.protection().strategy(), report.strategy);
    assert_eq!(region.span(), report.span);
    assert_eq!(report.span.len, MIB);
    let (last, before) = report.attempts.split_last().unwrap();
    assert_eq!(last.outcome, Outcome::Chosen, "{report}");
    assert!(before.iter().all(|attempt| attempt.outcome != Outcome::Chosen), "{report}");
    assert!(!before.iter().any(|attempt| !attempt.strategy.by_default()), "{report}");
}

#[test]
fn a_forced_strategy_is_tried_alone() {
    for strategy in Strategy::ALL {
        let attempts = match Region::create(native(), &request(Some(strategy))) {
            Ok((region, report)) => {
                assert_eq!(region.protection().strategy(), strategy);
                report.attempts
            }
            Err(RegionError::Refused { forced, attempts, .. }) => {
                assert_eq!(forced, Some(strategy));
                assert!(attempts.iter().all(|a| a.outcome != Outcome::Chosen));
                attempts
            }
            Err(error) => panic!("{strategy}: {error}"),
        };
        assert!(!attempts.is_empty());
        assert!(attempts.iter().all(|attempt| attempt.strategy == strategy));
    }
}

#[test]
fn strategies_that_need_nothing_special_work_here() {
    for strategy in [Strategy::DualTransient, Strategy::DualOpen, Strategy::Mprotect] {
        if let Err(error) = Region::create(native(), &request(Some(strategy))) {
            panic!("{strategy}: {error}");
        }
    }
}

#[test]
fn no_apple_memory_on_linux() {
    let error = Region::create(native(), &request(Some(Strategy::MapJit))).unwrap_err();
    let RegionError::Refused { attempts, .. } = &error else { panic!("{error}") };
    let refused = OsError { call: "mmap(MAP_JIT)", bytes: MIB, errno: libc::EOPNOTSUPP };
    assert_eq!(attempts[0].outcome, Outcome::Refused(refused));
    assert!(error.to_string().contains("map-jit on jit: refused: mmap(MAP_JIT)"), "{error}");
}

#[test]
fn the_reserve_is_rounded_up_to_whole_pages() {
    let odd = RegionRequest { reserve: 100 * KIB + 1, ..request(None) };
    let (region, report) = Region::create(native(), &odd).unwrap();
    assert_eq!(report.reserve, 100 * KIB + 1);
    assert!(region.span().len >= report.reserve);
    assert!(region.span().len - report.reserve < report.system_page);
    assert_eq!(region.span().start % report.system_page, 0);
}

#[test]
fn impossible_reserves_are_typed_errors_with_an_errno() {
    for (reserve, errno) in [(0, libc::EINVAL), (usize::MAX, libc::ENOMEM)] {
        let error =
            Region::create(native(), &RegionRequest { reserve, ..request(None) }).unwrap_err();
        let RegionError::BadReserve { error: os, .. } = error else { panic!("{error}") };
        assert_eq!(os.errno, errno);
    }
    // Fits the type, but no address space.
    let reserve = isize::MAX as usize & !(MIB - 1);
    let error = Region::create(native(), &RegionRequest { reserve, ..request(None) }).unwrap_err();
    let RegionError::Refused { attempts, .. } = &error else { panic!("{error}") };
    assert!(attempts.iter().any(|attempt| {
        matches!(attempt.outcome, Outcome::Refused(OsError { errno: libc::ENOMEM, .. }))
    }));
    assert!(error.to_string().contains("Ask for a smaller reserve"), "{error}");
}

#[test]
fn near_means_within_reach_of_a_call() {
    let here = whole_pages as fn(usize, usize) -> _ as usize;
    let near = RegionRequest { near: Some(here), reserve: 64 * MIB, ..request(None) };
    let (_region, report) = Region::create(native(), &near).unwrap();
    assert!(report.reach().unwrap() < 2048 * MIB, "{report}");
}

#[test]
fn dropping_a_region_unmaps_it() {
    let (region, report) = Region::create(native(), &request(None)).unwrap();
    let mapped = |span: Span| {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let start = format!("{:x}-{:x} ", span.start, span.end());
        maps.lines().any(|line| line.starts_with(&start) && line.contains("region-test"))
    };
    assert!(mapped(report.span) || report.memory != MemoryKind::Memfd);
    drop(region);
    assert!(!mapped(report.span));
}
