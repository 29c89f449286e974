//! The life of executors, in every strategy that works here.

mod common;

use common::{
    MIB, RESERVE, Random, bytes_at, call, call_at, child, code, constant, each_strategy,
    each_strategy_with, install, maps,
};
use jit_arena::{Arena, CodeLayout, GRANULE, MAX_ALIGN, MAX_EXECUTOR, ReserveError, Strategy};

/// Nothing is left of anything, and the books agree.
fn expect_empty(arena: &Arena) {
    arena.collect().unwrap();
    arena.verify().unwrap();
    let stats = arena.stats();
    assert_eq!(stats.live_executors, 0, "{stats:?}");
    assert_eq!(stats.live_bytes, 0, "{stats:?}");
    assert_eq!(stats.retired_executors, 0, "{stats:?}");
    assert_eq!(stats.retired_bytes, 0, "{stats:?}");
    assert_eq!(stats.recycles, stats.installs, "{stats:?}");
    assert_eq!(stats.refusals, 0, "{stats:?}");
}

#[test]
fn installed_code_runs_and_its_bytes_come_back() {
    each_strategy(|arena| {
        let mut thread = arena.attach().unwrap();
        let mut all = Vec::new();
        for round in 0..4_u32 {
            for i in 0..500 {
                let executor = thread.install(&constant(round * 1000 + i), &[7; 40]).unwrap();
                assert_eq!(call(&thread, &executor), round * 1000 + i);
                all.push((round * 1000 + i, executor));
            }
            for (value, executor) in &all {
                assert_eq!(call(&thread, executor), *value);
            }
            arena.verify().unwrap();
            // Every other one dies, so that holes form between the living.
            let mut index = 0;
            all.retain(|_| {
                index += 1;
                index % 2 == 0
            });
        }
        all.clear();
        thread.collect();
        expect_empty(&arena);
        let stats = arena.stats();
        assert_eq!(stats.recycles, 2000);
        assert_eq!(stats.committed_bytes, 0, "{stats:?}");
    });
}

#[test]
fn an_executor_goes_through_its_steps_one_by_one() {
    each_strategy(|arena| {
        let mut thread = arena.attach().unwrap();
        // An upper bound first, as a compiler has it.
        let layout = CodeLayout::new(1000).tag(0xDEAD_BEEF_0BAD_CAFE);
        let mut reservation = thread.reserve(layout).unwrap();
        let entry = reservation.entry();
        assert_eq!(reservation.len(), 1000);
        assert!(arena.span().contains(jit_arena::Span::new(entry, 1000)));
        let code = constant(7);

        let mut scope = thread.write();
        scope.write_at(&mut reservation, 0, &code).unwrap();
        scope.shrink(&mut reservation, code.len(), 0).unwrap();
        drop(scope);
        assert_eq!((reservation.code_len(), reservation.data_len()), (code.len(), 0));
        assert_eq!(reservation.entry(), entry, "shrinking moves nothing");

        let before = arena.stats();
        assert_eq!((before.live_executors, before.installs), (0, 0), "not published yet");
        let executor = thread.publish(reservation).unwrap();
        assert_eq!(executor.addr(), entry);
        assert_eq!(executor.code_len(), code.len());
        assert_eq!(executor.data_len(), 0);
        assert_eq!(executor.tag(), 0xDEAD_BEEF_0BAD_CAFE);
        assert_eq!(call(&thread, &executor), 7);
        let stats = arena.stats();
        assert_eq!((stats.live_executors, stats.live_bytes), (1, code.len() as u64));
        arena.verify().unwrap();

        drop(executor);
        let stats = arena.stats();
        assert_eq!((stats.live_executors, stats.retired_executors), (0, 1));
        thread.collect();
        expect_empty(&arena);
    });
}

#[test]
fn shrinking_to_equal_sizes_changes_nothing() {
    each_strategy(|arena| {
        let mut thread = arena.attach().unwrap();
        let code = constant(7);
        let mut reservation = thread.reserve(CodeLayout::new(code.len()).data(0, 64)).unwrap();
        let data = reservation.data();
        assert_eq!(data % 64, 0);
        let mut scope = thread.write();
        scope.write_at(&mut reservation, 0, &code).unwrap();
        scope.shrink(&mut reservation, code.len(), 0).unwrap();
        drop(scope);
        assert_eq!((reservation.data(), reservation.data_len()), (data, 0));
        let executor = thread.publish(reservation).unwrap();
        assert_eq!((call(&thread, &executor), executor.data_len()), (7, 0));
    });
}

#[test]
fn what_shrinking_cuts_off_is_reserved_next() {
    each_strategy(|arena| {
        let mut thread = arena.attach().unwrap();
        let mut scope = thread.write();
        let mut first = scope.reserve(CodeLayout::new(2000)).unwrap();
        scope.write_at(&mut first, 0, &[0x90; 2000]).unwrap();
        scope.write_at(&mut first, 0, &constant(1)).unwrap();
        scope.shrink(&mut first, constant(1).len(), 0).unwrap();
        let mut second = scope.reserve(CodeLayout::new(constant(2).len())).unwrap();
        assert!(
            second.entry() - first.entry() <= 2 * GRANULE,
            "{:#x} follows {:#x}",
            second.entry(),
            first.entry()
        );
        scope.write_at(&mut second, 0, &constant(2)).unwrap();
        drop(scope);
        let first = thread.publish(first).unwrap();
        let second = thread.publish(second).unwrap();
        assert_eq!((call(&thread, &first), call(&thread, &second)), (1, 2));
        arena.verify().unwrap();
        drop((first, second));
        thread.collect();
        expect_empty(&arena);
    });
}

#[test]
fn data_can_be_cut_or_dropped_but_stays_where_it_is() {
    each_strategy(|arena| {
        let mut thread = arena.attach().unwrap();
        let len = code::LOAD_DATA_LEN;
        let layout = CodeLayout::new(len).data(400, 64);
        let mut cut = thread.reserve(layout).unwrap();
        let mut dropped = thread.reserve(layout).unwrap();
        let offset = cut.data() - cut.entry();
        assert_eq!(offset, 64);
        let mut scope = thread.write();
        for reservation in [&mut cut, &mut dropped] {
            scope.write_at(reservation, 0, &code::load_data(offset)).unwrap();
            scope.write_at(reservation, offset, &77_u32.to_le_bytes()).unwrap();
        }
        scope.shrink(&mut cut, len, 4).unwrap();
        scope.shrink(&mut dropped, len, 0).unwrap();
        drop(scope);
        assert_eq!(cut.data() - cut.entry(), 64);
        assert_eq!(cut.len(), 68);
        assert_eq!(dropped.len(), len);
        let cut = thread.publish(cut).unwrap();
        let dropped = thread.publish(dropped).unwrap();
        assert_eq!((cut.data_len(), cut.data_offset()), (4, 64));
        assert_eq!(dropped.data_len(), 0);
        assert_eq!(call(&thread, &cut), 77);
        arena.verify().unwrap();
        drop((cut, dropped));
        thread.collect();
        expect_empty(&arena);
    });
}

#[test]
fn addresses_are_known_before_bytes() {
    // A ring: each function but the last jumps to the next, which had no bytes
    // when the jump was written.
    each_strategy(|arena| {
        let mut thread = arena.attach().unwrap();
        let len = code::jump(0).len().max(constant(0).len());
        let mut ring: Vec<_> =
            (0..50).map(|_| thread.reserve(CodeLayout::new(len)).unwrap()).collect();
        let mut next = ring[1..].iter().map(|next| next.entry()).collect::<Vec<_>>().into_iter();
        let mut scope = thread.write();
        for reservation in &mut ring {
            let code = next.next().map_or_else(|| constant(0x5EED), code::jump);
            scope.write_at(reservation, 0, &code).unwrap();
        }
        drop(scope);
        let ring: Vec<_> = ring.into_iter().map(|it| thread.publish(it).unwrap()).collect();
        for executor in &ring {
            assert_eq!(call(&thread, executor), 0x5EED);
        }
    });
}

#[test]
fn a_batch_is_reserved_and_written_in_one_scope() {
    each_strategy(|arena| {
        let mut thread = arena.attach().unwrap();
        let mut scope = thread.write();
        let batch: Vec<_> = (0..300_u32)
            .map(|value| {
                let code = constant(value);
                let layout = CodeLayout::new(code.len()).data(100, 4).tag(value.into());
                let mut reservation = scope.reserve(layout).unwrap();
                scope.write_at(&mut reservation, 0, &code).unwrap();
                reservation
            })
            .collect();
        drop(scope);
        let batch: Vec<_> = batch.into_iter().map(|it| thread.publish(it).unwrap()).collect();
        for (value, executor) in (0..).zip(&batch) {
            assert_eq!(call(&thread, executor), value);
            assert_eq!(executor.tag(), value.into());
        }
        arena.verify().unwrap();
        drop(batch);
        thread.collect();
        expect_empty(&arena);
    });
}

#[test]
fn executors_of_a_batch_share_pages_in_every_strategy() {
    each_strategy(|arena| {
        let mut thread = arena.attach().unwrap();
        let mut scope = thread.write();
        let mut batch = Vec::new();
        for value in 0..64 {
            let mut reservation = scope.reserve(CodeLayout::new(40)).unwrap();
            scope.write_at(&mut reservation, 0, &constant(value)).unwrap();
            batch.push(reservation);
        }
        drop(scope);
        let batch: Vec<_> = batch.into_iter().map(|it| thread.publish(it).unwrap()).collect();
        let stats = arena.stats();
        assert!(stats.committed_bytes <= 4 * 4096, "64 executors of a granule each: {stats:?}");
        drop(batch);
    });
}

#[test]
fn data_lies_behind_code_at_its_own_alignment() {
    each_strategy(|arena| {
        let mut thread = arena.attach().unwrap();
        let mut all = Vec::new();
        for power in 2..=MAX_ALIGN.ilog2() {
            let align = 1 << power;
            let layout = CodeLayout::new(code::LOAD_DATA_LEN).data(12, align);
            let mut reservation = thread.reserve(layout).unwrap();
            assert_eq!(reservation.data() % align, 0);
            let offset = layout.data_offset();
            assert_eq!(reservation.data(), reservation.entry() + offset);
            assert_eq!(reservation.len(), offset + 12);
            let mut scope = thread.write();
            let bytes = scope.bytes(&mut reservation).unwrap();
            bytes[..code::LOAD_DATA_LEN].copy_from_slice(&code::load_data(offset));
            bytes[offset..][..4].copy_from_slice(&(1000 + power).to_le_bytes());
            drop(scope);
            let executor = thread.publish(reservation).unwrap();
            assert_eq!(executor.data_offset(), offset);
            all.push((1000 + power, executor));
        }
        for (value, executor) in &all {
            assert_eq!(call(&thread, executor), *value);
        }
        arena.verify().unwrap();
    });
}

#[test]
fn entries_are_aligned_as_asked() {
    each_strategy(|arena| {
        let mut thread = arena.attach().unwrap();
        let mut all = Vec::new();
        for round in 0..3 {
            for power in 0..=MAX_ALIGN.ilog2() {
                let align = 1_usize << power;
                let code = constant(round * 100 + power);
                // Odd lengths, so that the cursor is nowhere convenient.
                let layout = CodeLayout::new(code.len() + 60 * round as usize).align(align);
                let mut reservation = thread.reserve(layout).unwrap();
                assert_eq!(reservation.entry() % align.max(16), 0);
                let mut scope = thread.write();
                scope.write_at(&mut reservation, 0, &code).unwrap();
                drop(scope);
                all.push((round * 100 + power, thread.publish(reservation).unwrap()));
            }
        }
        for (value, executor) in &all {
            assert_eq!(call(&thread, executor), *value);
        }
        arena.verify().unwrap();
        all.clear();
        thread.collect();
        expect_empty(&arena);
    });
}

#[test]
fn abandoned_reservations_give_their_bytes_back() {
    each_strategy(|arena| {
        let mut thread = arena.attach().unwrap();
        // Never written: the very same bytes are reserved next.
        let mut scope = thread.write();
        let unwritten = scope.reserve(CodeLayout::new(500)).unwrap();
        let entry = unwritten.entry();
        drop(unwritten);
        let mut written = scope.reserve(CodeLayout::new(500)).unwrap();
        assert_eq!(written.entry(), entry);
        // Written: they are filled with traps first.
        scope.write_at(&mut written, 0, &[0x90; 500]).unwrap();
        drop(written);
        drop(scope);
        thread.collect();
        let stats = arena.stats();
        assert_eq!((stats.installs, stats.retires, stats.live_bytes), (0, 0, 0));
        assert_eq!((stats.padding_bytes, stats.committed_bytes), (0, 0), "{stats:?}");
        arena.verify().unwrap();

        // Many of them cost no memory in the long run.
        for _ in 0..500 {
            let mut reservation = thread.reserve(CodeLayout::new(12_000)).unwrap();
            let mut scope = thread.write();
            scope.write_at(&mut reservation, 0, &[0x90; 12_000]).unwrap();
        }
        let committed = arena.stats().committed_bytes;
        assert!(committed <= MIB as u64, "{committed} bytes held for nothing");
        thread.collect();
        expect_empty(&arena);
    });
}

#[test]
fn a_reservation_may_outlive_the_handle_that_made_it() {
    each_strategy(|arena| {
        let mut thread = arena.attach().unwrap();
        let unwritten = thread.reserve(CodeLayout::new(100)).unwrap();
        let mut written = thread.reserve(CodeLayout::new(100)).unwrap();
        let mut scope = thread.write();
        scope.write_at(&mut written, 0, &constant(1)).unwrap();
        drop(scope);
        drop(thread);
        drop((unwritten, written));
        arena.attach().unwrap().collect();
        arena.verify().unwrap();
        let stats = arena.stats();
        assert_eq!((stats.padding_bytes, stats.committed_bytes), (0, 0), "{stats:?}");
    });
}

#[test]
fn executors_larger_than_a_page_up_to_the_largest() {
    each_strategy_with(
        |builder| builder.reserve(32 * MIB),
        |arena| {
            let mut thread = arena.attach().unwrap();
            let page = 64 * 1024;
            let mut all = Vec::new();
            for (value, len) in (0..).zip([
                page - 64,
                page - 16,
                page,
                page + 4,
                3 * page,
                1_000_000,
                MAX_EXECUTOR - 4,
                MAX_EXECUTOR,
            ]) {
                // The first instruction jumps to the last ones.
                let tail = constant(value);
                let at = (len - tail.len()) & !3;
                let mut reservation = thread.reserve(CodeLayout::new(len)).unwrap();
                let mut scope = thread.write();
                let bytes = scope.bytes(&mut reservation).unwrap();
                assert_eq!(bytes.len(), len);
                bytes.fill(0x90);
                bytes[at..][..tail.len()].copy_from_slice(&tail);
                let head = code::jump_ahead(at);
                bytes[..head.len()].copy_from_slice(&head);
                drop(scope);
                let executor = thread.publish(reservation).unwrap();
                assert_eq!(executor.code_len(), len);
                // Small ones between them.
                all.push((value + 100, install(&mut thread, value + 100)));
                all.push((value, executor));
            }
            for (value, executor) in &all {
                assert_eq!(call(&thread, executor), *value);
            }
            arena.verify().unwrap();
            all.clear();
            thread.collect();
            expect_empty(&arena);
            assert_eq!(arena.stats().committed_bytes, 0);
        },
    );
}

#[test]
fn executors_beyond_the_largest_are_too_large() {
    each_strategy(|arena| {
        let mut thread = arena.attach().unwrap();
        for (code, data) in [(MAX_EXECUTOR + 1, 0), (MAX_EXECUTOR, 1), (1, MAX_EXECUTOR)] {
            let refused = thread.reserve(CodeLayout::new(code).data(data, 1)).unwrap_err();
            let too_large = ReserveError::TooLarge { bytes: code + data, max: MAX_EXECUTOR };
            assert_eq!(refused, too_large);
        }
        assert_eq!(arena.stats().committed_bytes, 0);
    });
}

#[test]
fn the_order_of_steps_does_not_matter() {
    each_strategy(|arena| {
        let mut thread = arena.attach().unwrap();
        let mut random = Random::new(2);
        for _ in 0..10 {
            let mut reserved: Vec<_> = (0..60_u32)
                .map(|value| {
                    let layout = CodeLayout::new(20 + random.below(3000)).tag(value.into());
                    (value, thread.reserve(layout).unwrap())
                })
                .collect();
            random.shuffle(&mut reserved);
            let mut scope = thread.write();
            for (value, reservation) in &mut reserved {
                scope.write_at(reservation, 0, &constant(*value)).unwrap();
            }
            drop(scope);
            // A second scope over what the first has written.
            let mut scope = thread.write();
            for (value, reservation) in &mut reserved {
                scope.write_at(reservation, 0, &constant(*value + 1)).unwrap();
            }
            drop(scope);
            random.shuffle(&mut reserved);
            // Some are given up.
            reserved.truncate(50);
            let mut published: Vec<_> = reserved
                .into_iter()
                .map(|(value, reservation)| (value, thread.publish(reservation).unwrap()))
                .collect();
            arena.verify().unwrap();
            for (value, executor) in &published {
                assert_eq!(call(&thread, executor), *value + 1);
                assert_eq!(executor.tag(), u64::from(*value));
            }
            random.shuffle(&mut published);
        }
        thread.collect();
        expect_empty(&arena);
    });
}

#[test]
fn dead_code_is_traps_until_it_is_used_again() {
    each_strategy(|arena| {
        let mut thread = arena.attach().unwrap();
        let dead = thread.install(&[0x90; 200], &[]).unwrap();
        // Keeps the system page.
        let neighbour = install(&mut thread, 1);
        let at = dead.addr();
        drop(dead);
        thread.collect();
        if arena.report().strategy == Strategy::Mprotect {
            // Its system page died with it, and has gone back to the system.
            assert_eq!(bytes_at(at, 4), [0; 4]);
        } else {
            let traps = code::TRAPS.to_le_bytes().repeat(50);
            assert_eq!(bytes_at(at, 200), traps);
        }
        assert_eq!(call(&thread, &neighbour), 1);
    });
}

#[test]
fn everything_outlives_the_arena_handle() {
    let body = |arena: Arena| {
        let span = arena.span();
        let mut thread = arena.attach().unwrap();
        let slot = arena.slot();
        let executor = install(&mut thread, 5);
        drop(arena);

        assert_eq!(call(&thread, &executor), 5);
        slot.install(executor).unwrap();
        drop(slot.replace(install(&mut thread, 6)).unwrap());
        thread.collect();
        let executor = slot.invalidate().unwrap();
        drop((slot, thread));
        // The last of it.
        assert_eq!(call_at(executor.addr()), 6);
        assert!(maps::at(span.start).is_some());
        drop(executor);
        assert!(maps::at(span.start).is_none(), "the region is unmapped with its last handle");
    };
    child::each_strategy("everything_outlives_the_arena_handle", body, |_, ended| {
        ended.expect_success();
    });
}

#[test]
fn a_kept_handle_lets_go_of_an_arena_that_is_gone() {
    let body = |arena: Arena| {
        let span = arena.span();
        let executor = arena.with_thread(|thread| install(thread, 9)).unwrap();
        assert_eq!(call_at(executor.addr()), 9);
        drop((executor, arena));
        // The next use of any kept handle finds the old one abandoned.
        let other = Arena::builder().reserve(RESERVE).build().unwrap();
        other.with_thread(|_| ()).unwrap();
        assert!(maps::at(span.start).is_none());
    };
    child::each_strategy("a_kept_handle_lets_go_of_an_arena_that_is_gone", body, |_, ended| {
        ended.expect_success();
    });
}

#[test]
fn slots_own_what_is_in_them() {
    each_strategy(|arena| {
        let mut thread = arena.attach().unwrap();
        let slot = arena.slot();
        assert!(slot.is_empty());
        assert!(slot.load(&thread.pin()).is_none());
        assert!(slot.invalidate().is_none());

        let [one, two, three] = [1, 2, 3].map(|value| install(&mut thread, value));
        slot.install(one).unwrap();
        assert!(!slot.is_empty());
        let load = |slot: &jit_arena::Slot| {
            let guard = thread.pin();
            slot.load(&guard).map(|entry| call_at(entry.addr()))
        };
        assert_eq!(load(&slot), Some(1));
        let one = slot.replace(two).unwrap().unwrap();
        assert_eq!((load(&slot), call(&thread, &one)), (Some(2), 1));
        let two = slot.invalidate().unwrap();
        assert_eq!((load(&slot), call(&thread, &two)), (None, 2));
        assert!(slot.replace(three).unwrap().is_none());
        drop((one, two));
        assert_eq!(arena.stats().live_executors, 1);
        drop(slot);
        assert_eq!(arena.stats().live_executors, 0, "a slot retires what is in it");
        thread.collect();
        expect_empty(&arena);
    });
}

#[test]
fn retiring_is_dropping() {
    each_strategy(|arena| {
        let other = Arena::builder().reserve(RESERVE).build().unwrap();
        let mut others_thread = other.attach().unwrap();
        let mut thread = arena.attach().unwrap();
        let executor = install(&mut thread, 1);
        thread.retire(executor);
        // One of another arena finds its own way.
        let foreign = install(&mut others_thread, 2);
        thread.retire(foreign);
        assert_eq!((arena.stats().retires, other.stats().retires), (1, 1));
        thread.collect();
        others_thread.collect();
        expect_empty(&arena);
        expect_empty(&other);
    });
}

#[test]
fn handles_of_one_thread_nest() {
    each_strategy(|arena| {
        let sum = arena
            .with_thread(|outer| {
                let one = install(outer, 1);
                // The kept handle is away, so this is another.
                let two = arena.with_thread(|inner| install(inner, 2)).unwrap();
                call(outer, &one) + call(outer, &two)
            })
            .unwrap();
        assert_eq!(sum, 3);
        // Handles dropped out of order.
        let first = arena.attach().unwrap();
        let mut second = arena.attach().unwrap();
        let third = arena.attach().unwrap();
        drop(first);
        let executor = install(&mut second, 3);
        drop(third);
        assert_eq!(call(&second, &executor), 3);
        drop(executor);
        drop(second);
        expect_empty(&arena);
    });
}
