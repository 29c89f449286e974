//! Claims where a write unit is four words of the bitmaps, as system pages of 16 KiB
//! are: nobody gets a part of one.

use std::sync::Arc;

use super::*;
use crate::platform::Platform;
use crate::platform::model::{Machine, Options};
use crate::protect::Strategy;
use crate::region::RegionRequest;

/// Granules of a system page of this machine.
const UNIT: usize = 16 * 1024 / GRANULE;

/// A page of four units.
fn pages() -> (Region, Pages) {
    let machine = Machine::new(Options { system_page: UNIT * GRANULE, ..Options::default() });
    let request = RegionRequest {
        name: "pages",
        reserve: 4 * UNIT * GRANULE,
        near: None,
        strategy: Some(Strategy::Mprotect),
        seeds: None,
        huge_pages: false,
        anonymous: false,
    };
    let (region, _) = Region::create(machine as Arc<dyn Platform>, &request).unwrap();
    let pages = Pages::new(&region, 4 * UNIT * GRANULE, 0);
    (region, pages)
}

/// Takes what another thread has of a unit while it is taking all of it.
fn take_part(pages: &Pages, start: usize, len: usize) -> Run {
    bitmap::take(pages.taken(0), Run::new(start, len), len).unwrap()
}

#[test]
fn w3_a_unit_that_is_being_taken_is_no_hole() {
    let (_region, pages) = pages();
    let part = take_part(&pages, 0, 2 * WORD);
    assert_eq!(pages.claim(UNIT, UNIT), Some(Run::new(UNIT, UNIT)));
    assert_eq!(pages.claim(3 * UNIT, 3 * UNIT), None);
    pages.release(part);
    assert_eq!(pages.claim(UNIT, UNIT), Some(Run::new(0, UNIT)), "[P4] it was not filed");
}

#[test]
fn w3_a_claim_ends_before_a_unit_of_which_a_part_is_taken() {
    let (_region, pages) = pages();
    let part = take_part(&pages, UNIT + 3 * WORD, WORD);
    assert_eq!(pages.claim(UNIT, 4 * UNIT), Some(Run::new(0, UNIT)));
    pages.release(part);
    assert_eq!(pages.claim(3 * UNIT, 3 * UNIT), Some(Run::new(UNIT, 3 * UNIT)), "[B1]");
}

#[test]
fn w3_what_is_taken_around_and_behind_is_whole_units() {
    let (region, pages) = pages();
    let own = pages.claim(UNIT, UNIT).unwrap();
    let part = take_part(&pages, 2 * UNIT + WORD, WORD);
    let behind = pages.claim_behind(own, 3 * UNIT);
    assert_eq!(behind, Some(Run::new(UNIT, UNIT)));
    pages.release(own);
    assert_eq!(pages.claim_behind(Run::new(UNIT, UNIT), UNIT), None);
    let all = Run::new(0, 4 * UNIT);
    assert!(pages.commit(&region, all, &mut 0).is_ok());
    let around = pages.claim_around(&region, behind.unwrap(), 4 * UNIT);
    assert_eq!(around, Run::new(0, 2 * UNIT));
    pages.release(around);
    pages.release(part);
    assert!(pages.is_filed(0));
    assert!(bitmap::is_clear(pages.taken(0)), "[B1]");
}
