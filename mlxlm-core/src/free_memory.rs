//! How much memory this process may still take: the least of what the machine has, what its control group leaves it, and what its
//! own limit of addresses leaves it. Only Linux says so.
//!
//! A number that is asked for before a long run, so that what cannot fit is refused at once. Others take memory meanwhile, so what
//! fits by this number can still be refused later.

use std::path::{Path, PathBuf};

/// Bytes that can still be had, where that is known.
pub fn bytes() -> Option<u64> {
    [of_machine(), of_groups(), of_addresses()].into_iter().flatten().min()
}

fn read(path: impl AsRef<Path>) -> Option<String> {
    crate::io::read_to_string(path).ok()
}

/// What the machine could give without ending another process.
fn of_machine() -> Option<u64> {
    in_meminfo(&read("/proc/meminfo")?)
}

fn in_meminfo(text: &str) -> Option<u64> {
    let kilobytes = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).and_then(first_number);
    let swap = kilobytes("SwapFree:").unwrap_or(0);
    Some(kilobytes("MemAvailable:")?.saturating_add(swap).saturating_mul(1024))
}

/// What the control groups leave that this process is in, of version 2 of their interface and of version 1.
fn of_groups() -> Option<u64> {
    let mut least = None::<u64>;
    for line in read("/proc/self/cgroup")?.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let (root, names) = match controllers {
            "" => ("/sys/fs/cgroup", ["memory.max", "memory.current"]),
            "memory" => ("/sys/fs/cgroup/memory", ["memory.limit_in_bytes", "memory.usage_in_bytes"]),
            _ => continue,
        };
        // In a container the path may be that of the host, and the group's files lie at the root.
        let own = Path::new(root).join(path.trim_start_matches('/'));
        let groups = own.ancestors().take_while(|group| group.starts_with(root)).map(PathBuf::from);
        for group in groups {
            let [limit, used] = names.map(|name| read(group.join(name)).and_then(|text| first_number(&text)));
            if let (Some(limit), Some(used)) = (limit, used) {
                let files = read(group.join("memory.stat")).map_or(0, |stat| pages_of_files(&stat));
                let left = limit.saturating_sub(used.saturating_sub(files));
                least = Some(least.map_or(left, |least| least.min(left)));
            }
        }
    }
    least
}

/// The pages of files among those that count as used: the system takes them back when memory is short.
fn pages_of_files(stat: &str) -> u64 {
    let of = |key: &str| stat.lines().find_map(|line| line.strip_prefix(key)).and_then(first_number).unwrap_or(0);
    of("active_file ").saturating_add(of("inactive_file "))
}

/// What `ulimit -v` leaves.
fn of_addresses() -> Option<u64> {
    let limit = address_limit(&read("/proc/self/limits")?)?;
    let used = read("/proc/self/status")?;
    let used = used.lines().find_map(|line| line.strip_prefix("VmSize:")).and_then(first_number)?;
    Some(limit.saturating_sub(used.saturating_mul(1024)))
}

fn address_limit(limits: &str) -> Option<u64> {
    first_number(limits.lines().find_map(|line| line.strip_prefix("Max address space"))?)
}

/// The first word as a number; `max` and `unlimited` are none.
fn first_number(text: &str) -> Option<u64> {
    text.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_linux_says_is_read() {
        let meminfo = "MemTotal:  9 kB\nMemAvailable:    5 kB\nSwapFree:  2 kB\n";
        assert_eq!(in_meminfo(meminfo), Some(7 * 1024));
        assert_eq!(in_meminfo("MemTotal: 9 kB\n"), None);
        let limits = "Max data size   7   7   bytes\nMax address space         4096      unlimited       bytes\n";
        assert_eq!(address_limit(limits), Some(4096));
        assert_eq!(address_limit("Max address space  unlimited  unlimited  bytes\n"), None);
        assert_eq!(pages_of_files("file 9\nactive_file 3\ninactive_file 4\n"), 7);
        assert_eq!((first_number("max\n"), first_number("")), (None, None));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_machine_has_some() {
        assert!(bytes().is_some_and(|bytes| bytes > 1 << 20));
    }
}
