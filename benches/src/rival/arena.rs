//! Ours, in one of its strategies.

use jit_arena::{Arena, Executor, Strategy, ThreadHandle};

use super::{NotHere, Rival, RivalThread, Room, Usage};

/// See the module.
#[derive(Clone, Debug)]
pub struct Ours(Arena, &'static str);

/// Of names of strategies in huge pages.
const HUGE: &str = "-huge";

impl Ours {
    /// An arena with room for `room` in the strategy called `name`, which ends
    /// with `-huge` if it is to be in huge pages.
    pub fn new(name: &str, room: Room) -> Result<Self, NotHere> {
        let (name, huge) = match name.strip_suffix(HUGE) {
            Some(name) => (name, HUGE),
            None => (name, ""),
        };
        let strategy: Strategy = name.parse().map_err(|error| NotHere(format!("{error}")))?;
        // Address space, not memory. With more threads than cores, one that
        // loses the processor while pinned keeps what all others retire until
        // it runs again.
        let reserve = (4 * room.bytes).next_multiple_of(64 << 20);
        let reserve = (reserve + (room.threads - 1) * (32 << 20)).min(2 << 30);
        let builder = Arena::builder().reserve(reserve).strategy(strategy);
        let arena = builder.huge_pages(!huge.is_empty()).build().map_err(|error| {
            let mut cause: &dyn std::error::Error = &error;
            while let Some(next) = cause.source() {
                cause = next;
            }
            NotHere(cause.to_string())
        })?;
        match arena.report().huge_pages {
            Some(Err(why)) => Err(NotHere(format!("no huge pages: {why}"))),
            _ => Ok(Self(arena, huge)),
        }
    }

    /// The arena itself.
    #[must_use]
    pub fn arena(&self) -> &Arena {
        &self.0
    }
}

impl Rival for Ours {
    type Thread = OursThread;

    fn name(&self) -> String {
        format!("{}{}", self.0.report().strategy, self.1)
    }

    fn attach(&self) -> OursThread {
        OursThread(self.0.attach().expect("attach"))
    }

    fn usage(&self) -> Usage {
        let stats = self.0.stats();
        Usage {
            live: stats.live_bytes as usize,
            committed: stats.committed_bytes as usize,
            retired: stats.retired_bytes as usize,
            holes: stats.hole_bytes as usize,
        }
    }

    fn populates(&self) -> bool {
        true
    }

    fn note(&self) -> String {
        let stats = self.0.stats();
        let per = |count: u64| count as f64 / stats.installs.max(1) as f64;
        format!(
            "per install: claims {:.3}, lots {:.4}, bytes trimmed {:.1}",
            per(stats.claims),
            per(stats.recycled_lots),
            per(stats.trimmed_bytes)
        )
    }
}

/// See the module.
#[derive(Debug)]
pub struct OursThread(ThreadHandle);

impl RivalThread for OursThread {
    type Code = Executor;

    #[inline]
    fn install(&mut self, code: &[u8]) -> Executor {
        self.0.install(code, &[]).expect("install")
    }

    #[inline]
    fn free(&mut self, code: Executor) {
        self.0.retire(code);
    }

    fn addr(code: &Executor) -> usize {
        code.addr()
    }

    fn collect(&mut self) {
        self.0.collect();
    }
}
