//! The process's mappings, as the system tells them.

use std::fs;
use std::ops::Range;

/// A line of /proc/self/maps.
#[derive(Clone, Debug)]
pub(crate) struct Mapping {
    pub(crate) range: Range<usize>,
    /// `rwxp`, with `-` for what is missing.
    pub(crate) rights: String,
    pub(crate) name: String,
}

impl Mapping {
    pub(crate) fn is_writable_and_executable(&self) -> bool {
        self.rights.contains('w') && self.rights.contains('x')
    }
}

fn parse_line(line: &str) -> Option<Mapping> {
    let (range, rest) = line.split_once(' ')?;
    let (start, end) = range.split_once('-')?;
    let start = usize::from_str_radix(start, 16).ok()?;
    let end = usize::from_str_radix(end, 16).ok()?;
    let mut words = rest.split_whitespace();
    let rights = words.next()?.to_owned();
    let name = words.skip(3).collect::<Vec<_>>().join(" ");
    Some(Mapping { range: start..end, rights, name })
}

/// All mappings of the process.
pub(crate) fn all() -> Vec<Mapping> {
    let text = fs::read_to_string("/proc/self/maps").unwrap();
    let maps: Vec<_> = text.lines().filter_map(parse_line).collect();
    assert_eq!(maps.len(), text.lines().count(), "a line of /proc/self/maps has another form");
    maps
}

/// The mappings that are writable and executable at once.
pub(crate) fn writable_and_executable() -> Vec<Mapping> {
    all().into_iter().filter(Mapping::is_writable_and_executable).collect()
}

/// The mapping that holds `addr`.
pub(crate) fn at(addr: usize) -> Option<Mapping> {
    all().into_iter().find(|mapping| mapping.range.contains(&addr))
}

/// Bytes of `range` that the system has memory for, whoever uses it.
///
/// mincore(2) tells for shared memory whether the page is in the page cache,
/// which is what "held from the system" means; for private memory whether it
/// is in this process's page table.
pub(crate) fn resident_bytes(range: Range<usize>) -> usize {
    // SAFETY: sysconf(3) has no preconditions.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
    let mut present = vec![0_u8; range.len().div_ceil(page)];
    let start = std::ptr::with_exposed_provenance_mut(range.start);
    // SAFETY: the vector has a byte for each page; mincore reads no page.
    let status = unsafe { libc::mincore(start, range.len(), present.as_mut_ptr().cast()) };
    assert_eq!(status, 0, "mincore: {}", std::io::Error::last_os_error());
    present.iter().filter(|byte| *byte & 1 == 1).count() * page
}

/// Bytes of a range that page tables map by huge pages (proc_pid_smaps(5)).
pub(crate) fn huge_bytes(range: Range<usize>) -> usize {
    let text = fs::read_to_string("/proc/self/smaps").unwrap();
    let (mut inside, mut huge) = (false, 0);
    for line in text.lines() {
        if let Some(mapping) = parse_line(line) {
            inside = mapping.range.start >= range.start && mapping.range.end <= range.end;
        } else if let Some((name, rest)) = line.split_once(':')
            && inside
            && ["ShmemPmdMapped", "FilePmdMapped", "AnonHugePages"].contains(&name)
        {
            let kib = rest.split_whitespace().next().and_then(|word| word.parse().ok());
            huge += kib.unwrap_or(0) * 1024;
        }
    }
    huge
}
