//! From an address to the executor it lies in: exact for what is there.

mod common;

use std::collections::BTreeMap;

use common::code::{is_whole, place};
use common::{MIB, Random, constant, each_strategy, each_strategy_with};
use jit_arena::{Arena, CodeLayout, Executor, GRANULE, MAX_EXECUTOR};

fn random_layout(random: &mut Random) -> CodeLayout {
    let most = [100, 1000, 6000, 200_000][random.below(4)];
    let code = 16 + random.below(most);
    let align = [16, 32, 64, 4096][random.below(4)];
    let layout = CodeLayout::new(code).align(align);
    if random.below(2) == 0 {
        return layout;
    }
    layout.data(random.below(300), [1, 8, 64, 512][random.below(4)])
}

/// What `lookup` must say of each address of `executor`, and of those around.
fn check_edges(arena: &Arena, executor: &Executor) {
    let entry = executor.addr();
    let found = arena.lookup(entry).unwrap();
    assert_eq!((found.entry(), found.code.len), (entry, executor.code_len()));
    assert_eq!(
        (found.data.start, found.data.len),
        (entry + executor.data_offset(), executor.data_len())
    );
    assert_eq!(found.tag, executor.tag());
    let last = if found.data.len == 0 { found.code.end() } else { found.data.end() } - 1;
    for inside in [entry + found.code.len - 1, found.data.start.min(last), last, (entry + last) / 2]
    {
        assert_eq!(arena.lookup(inside), Some(found), "{inside:#x} of {found:x?}");
    }
    for outside in [entry - 1, entry - 16, last + 1] {
        assert_ne!(arena.lookup(outside), Some(found), "{outside:#x} of {found:x?}");
    }
}

#[test]
fn l1_every_byte_of_an_executor_finds_it_and_none_beside() {
    each_strategy(|arena| {
        let mut thread = arena.attach().unwrap();
        let mut kept = Vec::new();
        for align in [16, 32, 48 + 16, 128, 4096] {
            for (code, data, data_align) in
                [(16, 0, 1), (47, 1, 1), (48, 0, 1), (49, 64, 64), (1000, 77, 512), (70_000, 9, 8)]
            {
                let layout = CodeLayout::new(code).align(align).data(data, data_align);
                kept.push(place(&mut thread, &constant(1), layout));
            }
        }
        for executor in &kept {
            check_edges(&arena, executor);
        }
        let span = arena.span();
        for outside in [0, span.start - 1, span.end(), usize::MAX] {
            assert!(!arena.contains(outside) && arena.lookup(outside).is_none());
        }
        assert!(arena.contains(span.start) && arena.contains(span.end() - 1));
    });
}

#[test]
fn l1_the_longest_executor_is_found_from_its_last_byte() {
    each_strategy(|arena| {
        let mut thread = arena.attach().unwrap();
        let data = 4096;
        let layout = CodeLayout::new(MAX_EXECUTOR - data).align(4096).data(data, 4096);
        let executor = place(&mut thread, &constant(1), layout);
        check_edges(&arena, &executor);
    });
}

#[test]
fn l1_lookup_agrees_with_a_naive_map() {
    for seed in 0..3 {
        each_strategy_with(
            |builder| builder.reserve(4 * MIB).code_page(64 * GRANULE * 4),
            |arena| agree_with_a_map(&arena, seed),
        );
    }
}

fn agree_with_a_map(arena: &Arena, seed: u64) {
    let mut random = Random::new(seed);
    let mut thread = arena.attach().unwrap();
    // By entry: the executor, and the first address behind it.
    let mut live: BTreeMap<usize, (Executor, usize)> = BTreeMap::new();
    for step in 0..400 {
        if live.len() > 40 || random.below(3) == 0 && !live.is_empty() {
            let nth = random.below(live.len());
            let entry = *live.keys().nth(nth).unwrap();
            live.remove(&entry);
        } else {
            let layout = random_layout(&mut random);
            let executor = place(&mut thread, &constant(1), layout);
            let len = match layout.data_len() {
                0 => layout.code_len(),
                data => layout.data_offset() + data,
            };
            let end = executor.addr() + len;
            live.insert(executor.addr(), (executor, end));
        }
        let collected = step % 10 == 0;
        if collected {
            // Nothing is pinned, so that nothing that was dropped is left.
            thread.collect();
        }
        for _ in 0..50 {
            let address = arena.span().start + random.below(arena.span().len);
            let expected = live
                .range(..=address)
                .next_back()
                .filter(|(_, (_, end))| address < *end)
                .map(|(entry, _)| *entry);
            let found = arena.lookup(address);
            assert!(found.as_ref().is_none_or(is_whole), "{found:x?}");
            match (expected, found) {
                (Some(entry), Some(found)) => assert_eq!(entry, found.entry()),
                (Some(entry), None) => panic!("{address:#x} of {entry:#x} was not found"),
                (None, Some(found)) => {
                    assert!(!collected, "{found:x?} was collected");
                    assert!(
                        !live.contains_key(&found.entry()),
                        "{address:#x} is not of {found:x?}"
                    );
                }
                (None, None) => {}
            }
        }
        if collected {
            for (executor, _) in live.values() {
                check_edges(arena, executor);
            }
        }
    }
}
