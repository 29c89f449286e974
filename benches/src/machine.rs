//! What the machine is, for records.

use std::fs;

/// The facts that a reader of a result needs, one a line.
#[must_use]
pub fn facts() -> Vec<(&'static str, String)> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown", |rest| rest.trim_start_matches(['\t', ' ', ':']));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = meminfo.lines().next().and_then(|line| line.strip_prefix("MemTotal:"));
    let cache = |index: u32| {
        let folder = format!("/sys/devices/system/cpu/cpu0/cache/index{index}");
        let read = |name| fs::read_to_string(format!("{folder}/{name}")).ok();
        let text = |name| read(name).map(|it| it.trim().to_owned());
        Some(format!("L{} {}", text("level")?, text("size")?))
    };
    let caches: Vec<String> = [0, 2, 3].into_iter().filter_map(cache).collect();
    let huge = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/shmem_enabled");
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    vec![
        ("processor", model.to_owned()),
        ("cores", cores.to_string()),
        ("kernel", kernel.trim().to_owned()),
        ("memory", memory.unwrap_or("unknown").trim().to_owned()),
        ("caches", caches.join(", ")),
        ("huge pages of shared memory", huge.unwrap_or_default().trim().to_owned()),
        ("compiler", env!("RUSTC_VERSION").to_owned()),
        ("load when it began", load.split(' ').next().unwrap_or_default().to_owned()),
        ("protection keys", if has_keys() { "yes" } else { "no" }.to_owned()),
    ]
}

/// Whether a protection key can be had.
#[must_use]
pub fn has_keys() -> bool {
    // SAFETY: pkey_alloc(2) takes two numbers.
    let key = unsafe { libc::syscall(libc::SYS_pkey_alloc, 0, 0) };
    if key < 0 {
        return false;
    }
    // SAFETY: allocated just now, and on no mapping.
    unsafe { libc::syscall(libc::SYS_pkey_free, key) };
    true
}
