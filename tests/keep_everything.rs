//! The watermark has no upper end: a client may keep all free memory.

mod common;

use common::each_strategy_with;

#[test]
fn the_largest_watermark_keeps_what_is_free() {
    each_strategy_with(
        |builder| builder.reserve(1 << 20).keep_free(usize::MAX),
        |arena| {
            let mut thread = arena.attach().unwrap();
            for _ in 0..20 {
                let all: Vec<_> =
                    (0..50).map(|_| thread.install(&[0x90; 4000], &[]).unwrap()).collect();
                drop(all);
            }
            let stats = arena.stats();
            assert!(stats.recycles > 0, "{stats:?}");
            assert_eq!(stats.trimmed_bytes, 0, "{stats:?}");
            // Collecting gives back what is free whatever the watermark.
            thread.collect();
            assert_eq!(arena.stats().committed_bytes, 0);
        },
    );
}
