//! How much of a code region is in memory, by the kernel's account.
//!
//! `/proc/self/smaps` (proc_pid_smaps(5)) reports on every mapping. Two of
//! them may show the same memory: the executable and the writable view. Adding
//! up their `Rss` would count a page twice that both views have touched, and
//! either one alone would miss pages that only the other has. `Pss` is made for
//! this: a page counts for a mapping by one over the number of mappings that
//! have it, in any process, so the sum over all mappings of one memory object
//! counts every page that is in any of them once. The kernel rounds it down to
//! whole KiB for each mapping.
//!
//! Pages in no view's page tables are not seen. A view mapped for a moment and
//! gone again leaves its pages to the executable view, which has them as soon
//! as the code runs or is read.

use std::io;

/// Bytes in memory of the region whose executable view is `[start, start +
/// len)`, each page once, whatever views show it.
///
/// # Errors
///
/// The system does not tell.
pub fn resident_bytes(start: usize, len: usize) -> io::Result<u64> {
    let smaps = std::fs::read_to_string("/proc/self/smaps")?;
    Ok(sum(&smaps, start..start + len))
}

/// A mapping as far as it matters here.
#[derive(Debug)]
struct Mapping<'s> {
    in_span: bool,
    /// Device and inode of what it shows; inode 0 is no file.
    object: (&'s str, &'s str),
    pss_kib: u64,
}

fn sum(smaps: &str, span: std::ops::Range<usize>) -> u64 {
    let mut mappings = Vec::<Mapping<'_>>::new();
    for line in smaps.lines() {
        if let Some((addr, object)) = header(line) {
            mappings.push(Mapping { in_span: span.contains(&addr), object, pss_kib: 0 });
        } else if let Some(mapping) = mappings.last_mut()
            && let Some(kib) =
                line.strip_prefix("Pss:").and_then(|rest| rest.trim().strip_suffix(" kB"))
        {
            mapping.pss_kib = kib.trim().parse().unwrap_or(0);
        }
    }
    let objects: Vec<_> =
        mappings.iter().filter(|m| m.in_span && m.object.1 != "0").map(|m| m.object).collect();
    let of_region = |m: &&Mapping<'_>| m.in_span || objects.contains(&m.object);
    mappings.iter().filter(of_region).map(|m| m.pss_kib * 1024).sum()
}

/// First address, device and inode of a mapping's first line: `start-end
/// rights offset device inode [path]`. Lines of details have a colon behind
/// their first word and no address.
fn header(line: &str) -> Option<(usize, (&str, &str))> {
    let mut fields = line.split_ascii_whitespace();
    let (start, _) = fields.next()?.split_once('-')?;
    let start = usize::from_str_radix(start, 16).ok()?;
    let mut fields = fields.skip(2);
    Some((start, (fields.next()?, fields.next()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_views_of_the_region_count_and_nothing_else() {
        let smaps = "\
1000-3000 r-xs 00000000 00:01 77 /memfd:jit (deleted)
Rss:                   8 kB
Pss:                   6 kB
Pss_Dirty:             6 kB
3000-5000 r-xs 00002000 00:01 77 /memfd:jit (deleted)
Pss:                   0 kB
9000-b000 rw-s 00000000 00:01 77 /memfd:jit (deleted)
Pss:                   2 kB
VmFlags: rd wr sh mr mw me ms sd
b000-c000 rw-s 00000000 00:01 78 /memfd:other (deleted)
Pss:                 100 kB
c000-d000 rw-p 00000000 00:00 0
Pss:                1000 kB
";
        assert_eq!(sum(smaps, 0x1000..0x5000), 8 * 1024);
        // A private region has no object to be recognised by.
        assert_eq!(sum(smaps, 0xc000..0xd000), 1000 * 1024);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_page_in_two_views_counts_once() {
        let page = 16 * 4096;
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping wherever the system likes.
        let first = unsafe { libc::mmap(core::ptr::null_mut(), page, rights, flags, -1, 0) };
        assert_ne!(first, libc::MAP_FAILED);
        // SAFETY: duplicates the shared mapping above.
        let second = unsafe { libc::mremap(first, 0, page, libc::MREMAP_MAYMOVE) };
        assert_ne!(second, libc::MAP_FAILED);
        let touch = |view: *mut libc::c_void, pages: std::ops::Range<usize>| {
            for at in pages {
                // SAFETY: inside the mapping, which is writable.
                unsafe { view.cast::<u8>().wrapping_add(at * 4096).write_volatile(1) };
            }
        };
        touch(first, 0..5);
        touch(second, 3..8);
        let resident = resident_bytes(first as usize, page).expect("smaps");
        // SAFETY: both ours alone, mapped above.
        unsafe { libc::munmap(second, page) };
        // SAFETY: as above.
        unsafe { libc::munmap(first, page) };
        assert_eq!(resident, 8 * 4096);
    }
}
