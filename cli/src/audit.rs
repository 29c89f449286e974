//! The W^X audit: reads what mappings the kernel says this process has, over
//! and over while others work, and keeps every one that is writable and
//! executable at once, `[W1]`.
//!
//! The kernel is the witness here, not the arena: `/proc/self/maps`
//! (proc_pid_maps(5)) lists all mappings with their rights.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use jit_arena::Strategy;

use crate::failure::Check;

/// Pause between two readings: short against any mapping that stays, long
/// enough that the audit does not compete for the lock on the address space.
const PAUSE: Duration = Duration::from_millis(2);

/// What an audit saw.
#[derive(Clone, Debug, Default)]
pub struct Audit {
    /// How often the mappings were read from beginning to end.
    pub readings: u64,
    /// Each mapping that was writable and executable: first address, and its
    /// line as the kernel printed it.
    pub wx: BTreeMap<usize, String>,
    /// Why the mappings could not be read, if so.
    pub not_run: Option<String>,
}

impl Audit {
    /// How many different mappings were writable and executable; `None` where
    /// they could not be read.
    #[must_use]
    pub fn wx_mappings_seen(&self) -> Option<usize> {
        self.not_run.is_none().then_some(self.wx.len())
    }

    /// The verdict in a few words.
    #[must_use]
    pub fn describe(&self, strategy: Strategy) -> String {
        if let Some(why) = &self.not_run {
            format!("not run: {why}")
        } else if strategy.never_wx() {
            format!("{} mappings writable and executable", self.wx.len())
        } else {
            format!(
                "not run against {strategy}, which has such mappings by design: {} seen",
                self.wx.len()
            )
        }
    }

    /// Checks that no mapping was writable and executable, where the strategy
    /// promises it.
    ///
    /// # Errors
    ///
    /// There was one.
    pub fn check(&self, strategy: Strategy) -> Result<(), Check> {
        match self.wx.values().next() {
            Some(first) if strategy.never_wx() => {
                Err(Check::WritableAndExecutable { count: self.wx.len(), first: first.clone() })
            }
            _ => Ok(()),
        }
    }

    /// Adds what another audit saw.
    pub fn add(&mut self, other: Self) {
        self.readings += other.readings;
        self.wx.extend(other.wx);
        self.not_run = self.not_run.take().or(other.not_run);
    }

    fn read(&mut self) -> io::Result<()> {
        self.take(&std::fs::read_to_string("/proc/self/maps")?);
        Ok(())
    }

    /// Takes in one reading.
    fn take(&mut self, maps: &str) {
        self.readings += 1;
        for line in maps.lines() {
            let Some((start, rights)) = start_and_rights(line) else {
                continue;
            };
            if rights.contains('w') && rights.contains('x') {
                self.wx.entry(start).or_insert_with(|| line.to_owned());
            }
        }
    }
}

/// The first two fields of a line: `start-end rights offset …`.
fn start_and_rights(line: &str) -> Option<(usize, &str)> {
    let mut fields = line.split_ascii_whitespace();
    let (start, _) = fields.next()?.split_once('-')?;
    Some((usize::from_str_radix(start, 16).ok()?, fields.next()?))
}

/// A thread that audits until it is told to stop.
#[derive(Debug)]
pub struct Auditor {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<Audit>,
}

impl Auditor {
    /// Starts auditing. The mappings have been read once when this returns.
    ///
    /// # Errors
    ///
    /// The system refuses a thread.
    pub fn start() -> io::Result<Self> {
        let mut audit = Audit::default();
        if let Err(e) = audit.read() {
            audit.not_run = Some(format!("/proc/self/maps: {e}"));
        }
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = thread::Builder::new().name("auditor".to_owned()).spawn(move || {
            while audit.not_run.is_none() {
                // Relaxed: only says when to stop; join orders the rest.
                let last = told.load(Ordering::Relaxed);
                if let Err(e) = audit.read() {
                    audit.not_run = Some(format!("/proc/self/maps: {e}"));
                }
                if last {
                    break;
                }
                thread::park_timeout(PAUSE);
            }
            audit
        })?;
        Ok(Self { stop, thread })
    }

    /// Reads the mappings a last time and stops.
    #[must_use]
    pub fn finish(self) -> Audit {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.thread().unpark();
        self.thread.join().unwrap_or_else(|_| Audit {
            not_run: Some("the auditor panicked".to_owned()),
            ..Audit::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writable_and_executable_line_is_kept_once() {
        let maps = "\
5571a000-5571b000 r-xp 00000000 08:01 42 /usr/bin/x
7f0000000000-7f0000010000 rw-p 00000000 00:00 0
7f0000010000-7f0000020000 rwxp 00000000 00:00 0
7f0000020000-7f0000030000 -w-s 00000000 00:01 7 /memfd:jit (deleted)
7f0000030000-7f0000040000 -wxs 00000000 00:01 7 /memfd:jit (deleted)
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0 [vsyscall]
";
        let mut audit = Audit::default();
        audit.take(maps);
        audit.take(maps);
        assert_eq!(audit.readings, 2);
        assert_eq!(
            audit.wx.keys().copied().collect::<Vec<_>>(),
            [0x7f00_0001_0000, 0x7f00_0003_0000]
        );
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_auditor_sees_a_mapping_of_this_process() {
        let auditor = Auditor::start().expect("a thread");
        let audit = auditor.finish();
        assert_eq!(audit.wx_mappings_seen(), Some(0), "{audit:?}");

        let auditor = Auditor::start().expect("a thread");
        let rights = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping wherever the system likes.
        let wx = unsafe { libc::mmap(core::ptr::null_mut(), 4096, rights, flags, -1, 0) };
        if wx == libc::MAP_FAILED {
            println!(
                "not run: the_auditor_sees_a_mapping_of_this_process: the system refuses W+X mappings"
            );
            return;
        }
        let audit = auditor.finish();
        // SAFETY: ours alone, mapped above.
        unsafe { libc::munmap(wx, 4096) };
        // The kernel may have merged it with a neighbour, but not lost it.
        assert_eq!(audit.wx_mappings_seen(), Some(1), "{audit:?}");
    }
}
