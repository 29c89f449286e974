//! The machine's system calls and instructions: [`Platform`] for [`Machine`].

use super::*;
use crate::sync::mutant;

fn refuse<T>(call: &'static str, bytes: usize, errno: i32) -> OsResult<T> {
    Err(OsError { call, bytes, errno })
}

impl Machine {
    fn new_memory(step: &mut Step<'_>, len: usize, open: bool) -> usize {
        let page = step.machine.options.system_page;
        step.state.memories.push(Memory::new(len, page, open));
        step.state.memories.len() - 1
    }
}

// SAFETY: addresses are never dereferenced, ranges come from a counter and so
// never overlap, and views of one memory share its content.
unsafe impl Platform for Machine {
    fn system_page(&self) -> usize {
        self.options.system_page
    }

    fn create_file(&self, _name: &str, len: usize) -> OsResult<MemoryFile> {
        if !self.options.files {
            return refuse("memfd_create", 0, libc::ENOSYS);
        }
        self.step(Call::CreateFile(len), |step| {
            let memory = Self::new_memory(step, len, true);
            Ok(MemoryFile(i32::try_from(memory).unwrap_or(i32::MAX)))
        })
    }

    fn seal_file(&self, file: MemoryFile) -> OsResult<()> {
        self.step(Call::SealFile, |step| {
            step.open_file(file);
            Ok(())
        })
    }

    fn close_file(&self, file: MemoryFile) {
        self.step(Call::CloseFile, |step| {
            let memory = step.open_file(file);
            step.state.memories[memory].open = false;
        });
    }

    fn map(&self, backing: Backing, place: Place, len: usize, access: Access) -> OsResult<usize> {
        let page = self.options.system_page;
        if len == 0 || (backing == Backing::Jit && !self.options.jit) {
            return refuse("mmap", len, libc::EINVAL);
        }
        let len = len.next_multiple_of(page);
        let near = match place {
            Place::Anywhere | Place::Aligned(_) => None,
            Place::Near(addr) => Some(addr),
            Place::Random { near, .. } => near,
        };
        let start = self.state.with(|state| state.pages.place(near, len));
        self.step(Call::Map(start, len, access), |step| {
            let (memory, offset) = match backing {
                Backing::File(file, offset) => {
                    let memory = step.open_file(file);
                    let end = step.state.memories[memory].len.next_multiple_of(page);
                    if !offset.is_multiple_of(page) || offset + len > end {
                        step.fault("would map beyond the end of the file", start);
                    }
                    (memory, offset)
                }
                Backing::SharedAnonymous | Backing::Private | Backing::Jit => {
                    (Self::new_memory(step, len, false), 0)
                }
            };
            step.insert(Mapping {
                start,
                len,
                access,
                key: Key(0),
                memory,
                offset,
                jit: backing == Backing::Jit,
                shared: matches!(backing, Backing::File(..) | Backing::SharedAnonymous),
            });
            Ok(start)
        })
    }

    unsafe fn duplicate(&self, addr: usize, len: usize) -> OsResult<usize> {
        if !self.options.duplicates {
            return refuse("mremap", len, libc::EINVAL);
        }
        let start = self.state.with(|state| state.pages.place(None, len));
        self.step(Call::Duplicate(addr, len, start), |step| {
            step.whole_pages(addr, len);
            let from = step.mapping(addr);
            if !from.shared || addr + len > from.end() {
                step.fault("is not inside one shared mapping", addr);
            }
            let offset = from.offset + (addr - from.start);
            step.insert(Mapping { start, len, offset, ..from });
            Ok(start)
        })
    }

    unsafe fn unmap(&self, addr: usize, len: usize) -> OsResult<()> {
        self.step(Call::Unmap(addr, len), |step| {
            step.whole_pages(addr, len);
            if mutant("window-stays-mapped") {
                return Ok(());
            }
            step.state.pages.take(addr, len);
            step.change_entries(addr, len);
            step.state.pages.forget(addr, len);
            step.state.caches.forget(addr, addr + len);
            Ok(())
        })
    }

    unsafe fn protect(
        &self,
        addr: usize,
        len: usize,
        access: Access,
        key: Option<Key>,
    ) -> OsResult<()> {
        self.step(Call::Protect(addr, len, access, key), |step| {
            step.whole_pages(addr, len);
            if access == Access::ReadExecute && mutant("window-stays-writable") {
                return Ok(());
            }
            if let Some(Key(key)) = key
                && step.state.keys & (1 << key) == 0
            {
                step.fault("cannot be put under a key that is not allocated", addr);
            }
            for piece in step.state.pages.take(addr, len) {
                step.insert(Mapping { access, key: key.unwrap_or(piece.key), ..piece });
            }
            step.change_entries(addr, len);
            Ok(())
        })
    }

    unsafe fn populate(&self, addr: usize, len: usize) -> OsResult<()> {
        self.step(Call::Populate(addr, len), |step| {
            step.whole_pages(addr, len);
            let page = self.options.system_page;
            let mut left = self.options.memory.saturating_sub(step.state.present(page));
            for at in (addr..addr + len).step_by(page) {
                let mapping = step.mapping(at);
                if matches!(mapping.access, Access::None | Access::ReadExecute) {
                    step.fault("cannot be populated for writing", at);
                }
                let State { memories, next_watch, .. } = &mut *step.state;
                let mut watches = Watches { pool: &self.watched, next: next_watch };
                let offset = mapping.offset + (at - mapping.start);
                let frame = memories[mapping.memory].frame(offset, &mut watches);
                if !frame.present {
                    if left < page {
                        return refuse("madvise", len, libc::ENOMEM);
                    }
                    left -= page;
                }
                frame.populate(step.thread, &mut watches);
            }
            Ok(())
        })
    }

    unsafe fn discard(&self, addr: usize, len: usize) -> OsResult<()> {
        self.announce_write();
        self.step(Call::Discard(addr, len), |step| {
            step.whole_pages(addr, len);
            for at in (addr..addr + len).step_by(self.options.system_page) {
                let mapping = step.mapping(at);
                // Private pages can go without a right to write them.
                if mapping.shared && matches!(mapping.access, Access::None | Access::ReadExecute) {
                    step.fault("cannot be discarded through a view that is not writable", at);
                }
                step.fill_page(&mapping, at, 0, Some(false));
            }
            Ok(())
        })
    }

    unsafe fn hide_from_children(&self, addr: usize, len: usize) -> OsResult<()> {
        self.step(Call::Hide(addr, len), |step| {
            step.whole_pages(addr, len);
            Ok(())
        })
    }

    fn key_alloc(&self) -> OsResult<Key> {
        if self.options.keys == 0 {
            return refuse("pkey_alloc", 0, libc::EINVAL);
        }
        self.step(Call::KeyAlloc, |step| {
            let key = step.state.keys.trailing_ones();
            if key as usize > self.options.keys {
                return refuse("pkey_alloc", 0, libc::ENOSPC);
            }
            step.state.keys |= 1 << key;
            step.state.threads[step.thread].rights.set_key(Key(key), KeyAccess::Closed);
            Ok(Key(key))
        })
    }

    unsafe fn key_free(&self, key: Key) {
        self.step(Call::KeyFree(key), |step| {
            if let Some(mapping) = step.state.pages.all().iter().find(|one| one.key == key) {
                step.fault("is still under the key", mapping.start);
            }
            step.state.keys &= !(1 << key.0);
        });
    }

    fn key_access(&self, key: Key) -> KeyAccess {
        self.rights().key(key)
    }

    fn set_key_access(&self, key: Key, access: KeyAccess) {
        self.step(Call::SetKey(key, access), |step| {
            if access == KeyAccess::Closed && mutant("key-stays-open") {
                return;
            }
            let rights = &mut step.state.threads[step.thread].rights;
            rights.set_key(key, access);
            step.check_all();
        });
    }

    fn set_jit_writable(&self, writable: bool) {
        self.step(Call::SetJitWritable(writable), |step| {
            if !writable && mutant("toggle-stays-writable") {
                return;
            }
            step.state.threads[step.thread].rights.set_jit_writable(writable);
            step.check_all();
        });
    }

    fn register_sync_core(&self) -> OsResult<()> {
        self.step(Call::RegisterSyncCore, |step| {
            step.state.sync_registered = true;
            Ok(())
        })
    }

    fn sync_core(&self) -> OsResult<()> {
        self.step(Call::SyncCore, |step| {
            if !step.state.sync_registered {
                return refuse("membarrier", 0, libc::EPERM);
            }
            if !mutant("cores-not-synchronised") {
                step.state.caches.synchronise();
            }
            Ok(())
        })
    }

    unsafe fn copy_in(&self, to: usize, bytes: &[u8]) {
        self.announce_write();
        self.step(Call::Write(to, bytes.len()), |step| {
            step.granules(to, bytes.len(), |step, mapping, at, len| {
                step.write_granule(&mapping, at, &bytes[at - to..][..len]);
            });
        });
    }

    unsafe fn fill_traps(&self, to: usize, len: usize) {
        self.announce_write();
        self.step(Call::Traps(to, len), |step| {
            if !to.is_multiple_of(4) || !len.is_multiple_of(4) {
                step.fault("does not begin or end a range of whole instructions", to);
            }
            if mutant("no-traps") {
                return;
            }
            let page = self.options.system_page;
            let mut at = to;
            while at < to + len {
                let mapping = step.mapping(at);
                let left = to + len - at;
                if at.is_multiple_of(page) && left >= page {
                    step.writable(&mapping, at);
                    step.fill_page(&mapping, at, TRAP, None);
                    at += page;
                } else {
                    let part = (GRANULE - at % GRANULE).min(left);
                    step.write_granule(&mapping, at, &[TRAP; GRANULE][..part]);
                    at += part;
                }
            }
        });
    }

    unsafe fn load_word(&self, addr: usize) -> u64 {
        self.step(Call::Load(addr), |step| {
            let mapping = step.mapping(addr);
            if !addr.is_multiple_of(8) {
                step.fault("is not the address of an aligned word", addr);
            }
            if !step.rights().effective(&mapping).read {
                step.fault("is not readable to it", addr);
            }
            let State { pages, memories, next_watch, .. } = &mut *step.state;
            let mut watches = Watches { pool: &self.watched, next: next_watch };
            pages.used(addr, &mut watches);
            let offset = mapping.offset + (addr - mapping.start);
            let frame = memories[mapping.memory].frame(offset, &mut watches);
            let granule = frame.read(offset % self.options.system_page / GRANULE, &mut watches);
            let mut word = [0; 8];
            word.copy_from_slice(&granule.bytes[offset % GRANULE..][..8]);
            u64::from_le_bytes(word)
        })
    }

    unsafe fn peek_word(&self, addr: usize) -> u64 {
        assert!(self.options.peeks, "a model that peeks must say so in its options");
        // Relaxed: as in `announce_write`. Any write that nothing orders before
        // or after this may be the last one seen.
        let version = self.writes.load(Ordering::Relaxed);
        self.step(Call::Load(addr), |step| {
            let mapping = step.mapping(addr);
            if !addr.is_multiple_of(8) {
                step.fault("is not the address of an aligned word", addr);
            }
            if !step.rights().effective(&mapping).read {
                step.fault("is not readable to it", addr);
            }
            let State { memories, next_watch, .. } = &mut *step.state;
            let mut watches = Watches { pool: &self.watched, next: next_watch };
            let offset = mapping.offset + (addr - mapping.start);
            let frame = memories[mapping.memory].frame(offset, &mut watches);
            let granule = frame.peek(offset % self.options.system_page / GRANULE, version);
            let mut word = [0; 8];
            word.copy_from_slice(&granule[offset % GRANULE..][..8]);
            u64::from_le_bytes(word)
        })
    }

    unsafe fn clean_data_cache(&self, addr: usize, len: usize) {
        if mutant("data-cache-not-cleaned") {
            return;
        }
        self.step(Call::Clean(addr, len), |step| {
            step.granules(addr, len, |step, mapping, at, _| {
                if !step.rights().effective(&mapping).read {
                    step.fault("is not readable to it", at);
                }
                let State { memories, next_watch, .. } = &mut *step.state;
                let mut watches = Watches { pool: &self.watched, next: next_watch };
                let offset = mapping.offset + (at - mapping.start);
                let page = self.options.system_page;
                memories[mapping.memory].frame(offset, &mut watches).clean(offset % page / GRANULE);
            });
        });
    }

    unsafe fn invalidate_instruction_cache(&self, addr: usize, len: usize) {
        self.step(Call::Invalidate(addr, len), |step| {
            step.granules(addr, len, |step, mapping, at, _| {
                // Not by the thread's own rights: its toggle may say that it
                // writes there just now, a right to read is enough.
                if !matches!(mapping.access, Access::ReadExecute | Access::ReadWriteExecute) {
                    step.fault("is invalidated by an address that nothing runs at", at);
                }
            });
            if !mutant("instruction-cache-not-invalidated") {
                step.state.caches.invalidate(step.thread, addr, addr + len);
            }
        });
    }
}

impl Step<'_> {
    /// The memory behind a file that still is open.
    fn open_file(&self, file: MemoryFile) -> usize {
        let memory = usize::try_from(file.0).unwrap_or(usize::MAX);
        match self.state.memories.get(memory) {
            Some(object) if object.open => memory,
            _ => panic!("model machine: thread {} uses {file:?}, which is not open", self.thread),
        }
    }

    fn change_entries(&mut self, addr: usize, len: usize) {
        let State { pages, next_watch, .. } = &mut *self.state;
        pages.changed(addr, len, &Watches { pool: &self.machine.watched, next: next_watch });
    }
}
