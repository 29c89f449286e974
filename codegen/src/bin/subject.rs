//! The traced program: one scenario, named on the command line, each between
//! two marks. Scenarios named `broken-…` do on purpose what must not be done,
//! to show that it is seen.

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
fn main() {}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let scenario = arguments.next().ok_or("which scenario?")?;
    let len = arguments.next().map_or(Ok(100), |it| it.parse())?;
    scenarios::run(&scenario, len)
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod scenarios {
    use std::error::Error;
    use std::hint::black_box;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Arc, Mutex};

    use jit_arena::{
        Arena, CodeInfo, CodeLayout, Executor, Pressure, Reservation, Span, Strategy, Symbol,
        ThreadHandle, Tool,
    };

    type Done<T> = Result<T, Box<dyn Error>>;

    /// Stops for the tracer: what follows is looked at.
    #[inline(always)]
    fn begin() {
        // SAFETY: a breakpoint; the tracer goes on behind it.
        unsafe { std::arch::asm!("int3", in("edi") 1) };
    }

    /// Stops for the tracer: what follows is not.
    #[inline(always)]
    fn end() {
        // SAFETY: as above.
        unsafe { std::arch::asm!("int3", in("edi") 2) };
    }

    pub(crate) fn run(scenario: &str, len: usize) -> Done<()> {
        let arena = Arena::builder().reserve(16 << 20).strategy(Strategy::DualPkey).build()?;
        let mut thread = arena.attach()?;
        let code = black_box(vec![0x90; len]);
        match scenario {
            "slice" => {
                let mut reservation = thread.reserve(CodeLayout::new(len))?;
                begin();
                slice(&mut thread, &mut reservation, &code)?;
                end();
                drop(thread.publish(reservation)?);
            }
            "patched" => {
                let mut reservation = thread.reserve(CodeLayout::new(len))?;
                begin();
                patched(&mut thread, &mut reservation, black_box(0x1122_3344_5566_7788))?;
                end();
                drop(thread.publish(reservation)?);
            }
            "write-at" => {
                let mut reservation = thread.reserve(CodeLayout::new(len))?;
                begin();
                write_at(&mut thread, &mut reservation, &code)?;
                end();
                drop(thread.publish(reservation)?);
            }
            "batch" => {
                begin();
                let batch = batch(&mut thread, &code)?;
                end();
                drop(batch);
            }
            // Traps over what is dead, and memory given back.
            "recycle" => {
                let executor = install(&mut thread, &code)?;
                let kept = install(&mut thread, &code)?;
                drop(executor);
                begin();
                thread.collect();
                end();
                drop(kept);
            }
            "broken-store-after-close" => {
                let mut reservation = thread.reserve(CodeLayout::new(len))?;
                begin();
                store_after_close(&mut thread, &mut reservation)?;
                end();
                drop(thread.publish(reservation)?);
            }
            "broken-reference-across-windows" => {
                let mut reservation = thread.reserve(CodeLayout::new(64))?;
                let mut scope = thread.write();
                let first = scope.bytes(&mut reservation)?.as_mut_ptr().cast::<u64>();
                drop(scope);
                // SAFETY: mapped, aligned as entries are, and nobody else's.
                let count = unsafe { &mut *first };
                begin();
                reference_across_windows(count, black_box(3));
                end();
            }
            "around" => around(&arena, &code)?,
            "install" => in_two_claims(&arena, &mut thread, &code, install)?,
            "broken-install-counts" => {
                in_two_claims(&arena, &mut thread, &code, |thread, code| {
                    static COUNT: AtomicU64 = AtomicU64::new(0);
                    COUNT.fetch_add(1, Ordering::Relaxed);
                    install(thread, code)
                })?
            }
            "broken-install-locks" => in_two_claims(&arena, &mut thread, &code, |thread, code| {
                static LOCK: Mutex<()> = Mutex::new(());
                let _locked = LOCK.lock().map_err(|_| "poisoned")?;
                install(thread, code)
            })?,
            "broken-install-stores" => {
                in_two_claims(&arena, &mut thread, &code, |thread, code| {
                    static LAST: AtomicU64 = AtomicU64::new(0);
                    black_box(&LAST).store(code.len() as u64, Ordering::Relaxed);
                    install(thread, code)
                })?
            }
            "broken-install-calls" => in_two_claims(&arena, &mut thread, &code, |thread, code| {
                // SAFETY: takes nothing.
                unsafe { libc::getppid() };
                install(thread, code)
            })?,
            other => return Err(format!("no scenario `{other}`").into()),
        }
        Ok(())
    }

    /// Plain stores through the slice of a scope.
    #[inline(never)]
    fn slice(thread: &mut ThreadHandle, reservation: &mut Reservation, code: &[u8]) -> Done<()> {
        let mut scope = thread.write();
        scope.bytes(reservation)?.copy_from_slice(code);
        Ok(())
    }

    /// Copy and patch: single words stored through the slice, the last of them
    /// right before the scope ends, and read back within.
    #[inline(never)]
    fn patched(thread: &mut ThreadHandle, reservation: &mut Reservation, word: u64) -> Done<()> {
        let mut scope = thread.write();
        let bytes = scope.bytes(reservation)?;
        let mut sum = word;
        for hole in bytes.chunks_exact_mut(8) {
            hole.copy_from_slice(&sum.to_le_bytes());
            sum = sum.wrapping_add(u64::from(hole[0]));
        }
        if let Some(first) = bytes.first_chunk_mut() {
            *first = sum.to_le_bytes();
        }
        Ok(())
    }

    #[inline(never)]
    fn write_at(thread: &mut ThreadHandle, reservation: &mut Reservation, code: &[u8]) -> Done<()> {
        let mut scope = thread.write();
        scope.write_at(reservation, 0, code)?;
        Ok(())
    }

    /// Several executors and a scope within the scope.
    #[inline(never)]
    fn batch(thread: &mut ThreadHandle, code: &[u8]) -> Done<Vec<Executor>> {
        let mut reserved = Vec::new();
        let mut scope = thread.write();
        for _ in 0..3 {
            let mut reservation = scope.reserve(CodeLayout::new(code.len()))?;
            scope.nest().write_at(&mut reservation, 0, code)?;
            scope.bytes(&mut reservation)?[0] = 0xC3;
            reserved.push(reservation);
        }
        drop(scope);
        reserved.into_iter().map(|it| Ok(thread.publish(it)?)).collect()
    }

    /// What no safe client can do, and what a compiler might.
    #[inline(never)]
    fn store_after_close(thread: &mut ThreadHandle, reservation: &mut Reservation) -> Done<()> {
        let mut scope = thread.write();
        let first = scope.bytes(reservation)?.as_mut_ptr();
        drop(scope);
        // SAFETY: mapped, and where the tracer stands in for the key, open.
        unsafe { first.write(0x90) };
        Ok(())
    }

    /// Hazard 1 itself: rights changed by instructions that clobber memory, and
    /// a reference held across them. The compiler may take what is behind a
    /// `&mut` to be out of the instructions' reach, and here it loads the count
    /// once, before the first window.
    #[inline(never)]
    fn reference_across_windows(count: &mut u64, windows: u64) {
        const CLOSED: u32 = 0x5555_5554;
        const OPEN: u32 = 0x5555_5550;
        for at in 0..windows {
            for rights in [OPEN, CLOSED] {
                if rights == CLOSED {
                    *count += at;
                }
                // SAFETY: stepped over by the tracer.
                unsafe {
                    std::arch::asm!("wrpkru", in("eax") rights, in("ecx") 0, in("edx") 0);
                }
            }
        }
    }

    /// The same on an arena that has nothing around it and on one that has
    /// everything: a tool, a budget and callbacks. Then what finds code.
    fn around(plain: &Arena, code: &[u8]) -> Done<()> {
        let full = Arena::builder()
            .reserve(16 << 20)
            .strategy(Strategy::DualPkey)
            .tool(Arc::new(Quiet))
            .code_budget(8 << 20)
            .on_pressure(Pressure::Committed, 4 << 20, |_, _| ())
            .on_pressure(Pressure::Retired, 4 << 20, |_, _| ())
            .build()?;
        for arena in [plain, &full] {
            let mut thread = arena.attach()?;
            // The first takes a claim, the second finds all code loaded.
            let kept = [install(&mut thread, code)?, install(&mut thread, code)?];
            drop(install(&mut thread, code)?);
            begin();
            let executor = install(&mut thread, code)?;
            end();
            begin();
            drop(black_box(executor));
            end();
            for name in [None, Some("named"), None, Some("named")] {
                begin();
                let executor = install_named(&mut thread, code, name)?;
                end();
                drop(executor);
            }
            drop(kept);
        }
        let mut thread = plain.attach()?;
        let executor = install(&mut thread, code)?;
        let last = executor.addr() + code.len() - 1;
        for _ in 0..2 {
            begin();
            let found = plain.contains(black_box(last));
            end();
            begin();
            let info = black_box(plain.lookup(black_box(last)));
            end();
            assert!(found && info.is_some());
        }
        Ok(())
    }

    /// A tool that does nothing with what it hears.
    #[derive(Debug)]
    struct Quiet;

    impl Tool for Quiet {
        fn published(&self, _: &CodeInfo, _: &[u8], _: &Symbol<'_>) {}
        fn recycled(&self, _: usize) {}
        fn unmapped(&self, _: Span) {}
    }

    /// An install step by step, with a name if there is one.
    #[inline(never)]
    fn install_named(thread: &mut ThreadHandle, code: &[u8], name: Option<&str>) -> Done<Executor> {
        let mut reservation = thread.reserve(CodeLayout::new(code.len()))?;
        thread.write().write_at(&mut reservation, 0, code)?;
        Ok(match name {
            Some(name) => thread.publish_named(reservation, &Symbol::new(name))?,
            None => thread.publish(reservation)?,
        })
    }

    #[inline(never)]
    fn install(thread: &mut ThreadHandle, code: &[u8]) -> Done<Executor> {
        Ok(thread.install(code, &[])?)
    }

    /// An install within the claim of each of two handles, whose claims are
    /// far apart: what both write is what all threads write.
    fn in_two_claims(
        arena: &Arena,
        near: &mut ThreadHandle,
        code: &[u8],
        install: impl Fn(&mut ThreadHandle, &[u8]) -> Done<Executor>,
    ) -> Done<()> {
        // What is reserved and dropped stays in the claim: there is room.
        let room = |thread: &mut ThreadHandle| {
            let reservation = thread.reserve(CodeLayout::new(code.len()))?;
            Ok::<_, Box<dyn Error>>(reservation.entry())
        };
        let mut kept = vec![install(near, code)?];
        let here = room(near)?;
        let mut far = arena.attach()?;
        for _ in 0..1000 {
            kept.push(far.install(&[0x90; 1500], &[])?);
        }
        // The holes between them come first.
        while room(&mut far)?.abs_diff(here) < 512 * 1024 {
            kept.push(install(&mut far, code)?);
        }
        for thread in [near, &mut far] {
            begin();
            let executor = install(thread, code)?;
            end();
            kept.push(executor);
        }
        Ok(())
    }
}
