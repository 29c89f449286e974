//! Free addresses: near a given one, or left to chance.
//!
//! Direct calls reach 2 GiB on x86-64 and 128 MiB on aarch64, so a region is
//! best placed beside the host's own functions. mmap(2) takes a hint but, if
//! anything is in the way, ignores it altogether: so the gaps between the
//! process's mappings are read from /proc/self/maps (proc_pid_maps(5)) and
//! tried, nearest first, with MAP_FIXED_NOREPLACE. Another thread may map
//! something meanwhile; then the call fails and the next gap is tried.

use crate::arch::BRANCH_REACH;
use crate::units::{KIB, MIB, Span};

/// Candidates tried before the kernel is left to choose.
const TRIES: usize = 16;

/// Alignment of a candidate, so that code pages lie on addresses of their own
/// size, whatever the system page; of one that could hold a huge page, that of
/// huge pages.
const fn align(len: usize) -> usize {
    if len >= 2 * MIB { 2 * MIB } else { 64 * KIB }
}

/// Lowest address a process may map (`vm.mmap_min_addr` by default).
const FLOOR: usize = 64 * KIB;

/// Room left for the heap to grow up from its end.
const HEAP_ROOM: usize = 512 * MIB;

/// Room left for the main stack to grow down from its start.
const STACK_ROOM: usize = 64 * MIB;

/// Start addresses at which `len` bytes would fit, nearest to `near` first.
/// None if the list of mappings cannot be read.
pub(super) fn candidates_now(len: usize, near: usize) -> Vec<usize> {
    std::fs::read_to_string("/proc/self/maps")
        .map(|maps| candidates(&maps, len, near))
        .unwrap_or_default()
}

/// Every mapping of what is mapped at `addr`, told by device and inode (shared
/// anonymous memory has them, too): address and length. None if the list cannot
/// be read.
pub(super) fn mappings_of(addr: usize) -> Vec<(usize, usize)> {
    std::fs::read_to_string("/proc/self/maps").map(|maps| same_as(&maps, addr)).unwrap_or_default()
}

fn same_as(maps: &str, addr: usize) -> Vec<(usize, usize)> {
    let all: Vec<_> = maps.lines().filter_map(mapping).collect();
    let of = all.iter().find(|(span, _)| span.contains(Span::new(addr, 1))).map(|(_, of)| of);
    let Some(of) = of.filter(|(_, inode)| *inode != "0") else { return Vec::new() };
    let same = all.iter().filter(|(_, other)| other == of);
    same.map(|(span, _)| (span.start, span.len)).collect()
}

/// Where the mapping of one line is, and its device and inode.
fn mapping(line: &str) -> Option<(Span, (&str, &str))> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let start = usize::from_str_radix(start, 16).ok()?;
    let end = usize::from_str_radix(end, 16).ok()?;
    let (device, inode) = (words.nth(2)?, words.next()?);
    Some((Span::new(start, end.checked_sub(start)?), (device, inode)))
}

fn candidates(maps: &str, len: usize, near: usize) -> Vec<usize> {
    let mut starts: Vec<usize> = gaps(maps).filter_map(|gap| nearest_in(gap, len, near)).collect();
    starts.sort_unstable_by_key(|&start| reach(start, len, near));
    starts.truncate(TRIES);
    starts
}

/// Multiples of `align` at which `len` bytes would fit, drawn by `seed`; if there
/// is a `near`, those of which every byte is within a branch's reach of it. None if
/// there are none, or if the list of mappings cannot be read.
pub(super) fn random_now(len: usize, near: Option<usize>, align: usize, seed: u64) -> Vec<usize> {
    std::fs::read_to_string("/proc/self/maps")
        .map(|maps| random(&maps, len, near, align, seed))
        .unwrap_or_default()
}

fn random(maps: &str, len: usize, near: Option<usize>, align: usize, seed: u64) -> Vec<usize> {
    // What lies above the stack need not be a process's at all.
    let below_stack = maps.find("[stack]").map_or("", |end| &maps[..end + "[stack]".len()]);
    let (lowest, highest) = near.map_or((0, usize::MAX), |near| {
        (near.saturating_sub(BRANCH_REACH), near.saturating_add(BRANCH_REACH))
    });
    // First start of each gap, and how many there are.
    let rooms: Vec<(usize, u64)> = gaps(below_stack)
        .filter_map(|gap| {
            let first = gap.start.max(lowest).checked_next_multiple_of(align)?;
            let last = gap.end().min(highest).checked_sub(len)?;
            Some((first, (last.checked_sub(first)? / align + 1) as u64))
        })
        .collect();
    let all: u64 = rooms.iter().map(|(_, starts)| starts).sum();
    let draw = |state: &mut u64| {
        let mut number = next_random(state) % all.max(1);
        rooms.iter().find_map(|&(first, starts)| {
            let here = (number < starts).then(|| first + number as usize * align);
            number = number.wrapping_sub(starts);
            here
        })
    };
    let mut state = seed;
    (0..TRIES).filter_map(|_| draw(&mut state)).collect()
}

/// `SplitMix64` (Steele, Lea and Flood, OOPSLA 2014): draws again where a place was
/// taken meanwhile.
fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// How far the farthest byte of `[start, start + len)` is from `near`: what a
/// direct call must span.
fn reach(start: usize, len: usize, near: usize) -> usize {
    near.abs_diff(start).max(near.abs_diff(start.saturating_add(len)))
}

/// The aligned start in `gap` with the smallest reach.
fn nearest_in(gap: Span, len: usize, near: usize) -> Option<usize> {
    let align = align(len);
    let lowest = gap.start.checked_next_multiple_of(align)?;
    let highest = gap.end().checked_sub(len)? & !(align - 1);
    let centred = near.saturating_sub(len / 2) & !(align - 1);
    (lowest <= highest).then(|| centred.clamp(lowest, highest))
}

/// The free ranges between the mappings listed, less the room that heap and
/// stack need.
fn gaps(maps: &str) -> impl Iterator<Item = Span> {
    let mut free_from = FLOOR;
    maps.lines().filter_map(move |line| {
        let (range, rest) = line.split_once(' ')?;
        let (start, end) = range.split_once('-')?;
        let start = usize::from_str_radix(start, 16).ok()?;
        let end = usize::from_str_radix(end, 16).ok()?;
        let room = if rest.ends_with("[stack]") { STACK_ROOM } else { 0 };
        let gap = start.saturating_sub(room).checked_sub(free_from);
        let gap = gap.map(|len| Span::new(free_from, len));
        free_from = if rest.ends_with("[heap]") { end.saturating_add(HEAP_ROOM) } else { end };
        gap
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "\
00400000-00500000 r-xp 00000000 00:01 1 /bin/host
00500000-00600000 rw-p 00000000 00:00 0 [heap]
40000000-40100000 r-xp 00000000 00:01 2 /lib/libc.so
40200000-40300000 r--p 00000000 00:01 2 /lib/libc.so
7ffc00000000-7ffc00100000 rw-p 00000000 00:00 0 [stack]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0 [vsyscall]
";

    #[test]
    fn gaps_leave_room_for_heap_and_stack() {
        let gaps: Vec<_> = gaps(MAPS).collect();
        assert_eq!(gaps[0], Span::new(FLOOR, 0x40_0000 - FLOOR));
        assert!(gaps.contains(&Span::new(0x4010_0000, 0x10_0000)));
        let heap_end = 0x60_0000;
        assert!(gaps.iter().any(|gap| gap.start == heap_end + HEAP_ROOM));
        assert!(gaps.iter().all(|gap| gap.start <= 0x50_0000 || gap.start >= heap_end + HEAP_ROOM));
        assert!(gaps.iter().any(|gap| gap.end() == 0x7ffc_0000_0000 - STACK_ROOM));
    }

    #[test]
    fn mappings_of_one_file_are_found_and_no_others() {
        let two = vec![(0x4000_0000, 0x10_0000), (0x4020_0000, 0x10_0000)];
        assert_eq!(same_as(MAPS, 0x4025_0000), two);
        assert_eq!(same_as(MAPS, 0x45_0000), [(0x40_0000, 0x10_0000)]);
        assert_eq!(same_as(MAPS, 0x55_0000), [], "of no file");
        assert_eq!(same_as(MAPS, 0x1000), [], "nothing is there");
    }

    #[test]
    fn candidates_fit_and_come_nearest_first() {
        let near = 0x402C_0000;
        let len = MIB;
        let starts = candidates(MAPS, len, near);
        assert_eq!(starts[0], 0x4030_0000, "the gap above the function is nearest");
        assert_eq!(starts[1], 0x4010_0000, "then the one-megabyte gap below it");
        let mut last = 0;
        for start in starts {
            assert_eq!(start % align(len), 0);
            assert!(reach(start, len, near) >= last);
            last = reach(start, len, near);
        }
        assert!(!candidates(MAPS, 2 * MIB, near).contains(&0x4010_0000), "too small for two");
        assert!(candidates(MAPS, usize::MAX, near).is_empty());
        assert!(candidates("", len, near).is_empty());
    }

    #[test]
    fn random_places_are_free_and_spread_and_within_reach() {
        let (len, align) = (MIB, 64 * KIB);
        let far: Vec<_> = (0..256).flat_map(|seed| random(MAPS, len, None, align, seed)).collect();
        let is_free = |start| gaps(MAPS).any(|gap| gap.contains(Span::new(start, len)));
        assert!(far.iter().all(|&start| start.is_multiple_of(align) && is_free(start)));
        // Far apart, in all of the address space below the stack.
        let distinct: std::collections::BTreeSet<_> = far.iter().collect();
        assert!(distinct.len() > far.len() * 9 / 10);
        assert!(far.iter().all(|&start| start < 0x7FFC_0000_0000));
        assert!((0..8).all(|part| far.iter().any(|start| start >> 44 == part)));

        let near = 0x4015_0000;
        for seed in 0..256 {
            let starts = random(MAPS, len, Some(near), align, seed);
            assert_eq!(starts.len(), TRIES);
            assert!(starts.iter().all(|&start| reach(start, len, near) <= BRANCH_REACH));
            assert!(starts.iter().all(|&start| is_free(start)));
        }
        assert_eq!(
            random(MAPS, len, Some(near), align, 1),
            random(MAPS, len, Some(near), align, 1)
        );
        assert!(random(MAPS, usize::MAX, None, align, 1).is_empty());
        assert!(random("", len, None, align, 1).is_empty());
    }

    #[test]
    fn a_free_range_near_this_function_is_found() {
        let here = gaps as fn(&'static str) -> _ as usize;
        let starts = candidates_now(64 * MIB, here);
        assert!(!starts.is_empty());
        assert!(reach(starts[0], 64 * MIB, here) < 2 * 1024 * MIB);
    }
}
