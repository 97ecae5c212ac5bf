//! The memory that the system lets this process take: the limits of its control group and of all enclosing ones, and `ulimit
//! -v`.
//!
//! Invariant: every number is read from files below a root, which tests create themselves; a missing or empty file means no
//! limit. Page cache of a group counts as free, because the kernel reclaims it before it kills a process. To respect another
//! limit, add it to [`free`].

use std::path::{Path, PathBuf};

/// The bytes that the process may still take; none if there is no limit.
pub(super) fn free() -> Option<u64> {
    [of_groups(Path::new("/")), of_addresses(Path::new("/"))]
        .into_iter()
        .flatten()
        .min()
}

/// The two versions of control groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CgroupVersion {
    /// One hierarchy for each controller (v1); here that of memory.
    First,
    /// A single hierarchy (v2).
    Unified,
}

impl CgroupVersion {
    /// The files with the limits of a group.
    fn limits(self) -> &'static [&'static str] {
        match self {
            Self::First => &["memory.limit_in_bytes"],
            // Beyond `high` the kernel throttles processes almost to a standstill.
            Self::Unified => &["memory.max", "memory.high"],
        }
    }

    /// The file with a group's usage, page cache included.
    fn usage(self) -> &'static str {
        match self {
            Self::First => "memory.usage_in_bytes",
            Self::Unified => "memory.current",
        }
    }

    /// The lines of `memory.stat` for reclaimable memory, including that of nested groups.
    fn cache(self) -> [&'static str; 2] {
        match self {
            Self::First => ["total_inactive_file", "total_active_file"],
            Self::Unified => ["inactive_file", "active_file"],
        }
    }
}

/// The smallest remaining memory of the process's own group and all enclosing ones.
fn of_groups(root: &Path) -> Option<u64> {
    let own = read(root, "proc/self/cgroup")?;
    let mounts = read(root, "proc/self/mountinfo")?;
    let rooms = [CgroupVersion::First, CgroupVersion::Unified].map(|layout| {
        let path = path_in(layout, &own)?;
        let (mounted, at) = mount_of(layout, &mounts)?;
        let top = root.join(at.trim_start_matches('/'));
        around(&top, below(&mounted, path))
            .iter()
            .filter_map(|group| room(layout, group))
            .min()
    });
    rooms.into_iter().flatten().min()
}

/// The path of the process in a hierarchy: `4:memory:/a/b`, `0::/a/b`.
fn path_in(layout: CgroupVersion, own: &str) -> Option<&str> {
    own.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (number, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        let here = match layout {
            CgroupVersion::First => controllers.split(',').any(|c| c == "memory"),
            CgroupVersion::Unified => number == "0" && controllers.is_empty(),
        };
        here.then_some(path)
    })
}

/// Which part of a hierarchy is mounted, and where (proc_pid_mountinfo(5)).
fn mount_of(layout: CgroupVersion, mounts: &str) -> Option<(String, String)> {
    mounts.lines().find_map(|line| {
        let (first, last) = line.split_once(" - ")?;
        let mut last = last.split(' ');
        let (kind, options) = (last.next()?, last.nth(1)?);
        let here = match layout {
            CgroupVersion::First => kind == "cgroup" && options.split(',').any(|o| o == "memory"),
            CgroupVersion::Unified => kind == "cgroup2",
        };
        let mut first = first.split(' ').skip(3);
        let (mounted, at) = (first.next()?, first.next()?);
        here.then(|| (unescaped(mounted), unescaped(at)))
    })
}

/// Decodes blanks, which the kernel writes as `\040`.
fn unescaped(word: &str) -> String {
    word.replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\134", "\\")
}

/// The path of a group below the mounted part of the hierarchy. In a container the mount may begin at the group itself, or not
/// contain the process at all (`/../other`); then only the mounted part is visible.
fn below<'a>(mounted: &str, path: &'a str) -> &'a str {
    let rest = if mounted == "/" {
        Some(path)
    } else {
        path.strip_prefix(mounted)
    };
    rest.filter(|r| !r.split('/').any(|part| part == ".."))
        .unwrap_or_default()
}

/// The folders of a group and all enclosing ones, as far as they are visible.
fn around(top: &Path, path: &str) -> Vec<PathBuf> {
    let mut folder = top.to_path_buf();
    let mut all = vec![folder.clone()];
    for part in path.split('/').filter(|p| !p.is_empty()) {
        folder.push(part);
        all.push(folder.clone());
    }
    all
}

/// The remaining memory of a group; none if it has no limit.
fn room(layout: CgroupVersion, group: &Path) -> Option<u64> {
    let number = |name: &str| read(group, name)?.trim().parse::<u64>().ok();
    let limit = layout.limits().iter().filter_map(|l| number(l)).min()?;
    // v1 expresses "no limit" as the largest number of pages.
    if limit >= 1 << 62 {
        return None;
    }
    let stat = read(group, "memory.stat").unwrap_or_default();
    let cache: u64 = stat
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter(|(name, _)| layout.cache().contains(name))
        .filter_map(|(_, n)| n.trim().parse::<u64>().ok())
        .sum();
    let used = number(layout.usage()).unwrap_or(0).saturating_sub(cache);
    Some(limit.saturating_sub(used))
}

/// What `ulimit -v` leaves of the address space.
fn of_addresses(root: &Path) -> Option<u64> {
    let limits = read(root, "proc/self/limits")?;
    let line = limits
        .lines()
        .find_map(|l| l.strip_prefix("Max address space"))?;
    let limit: u64 = line.split_whitespace().next()?.parse().ok()?;
    let status = read(root, "proc/self/status")?;
    let size = status.lines().find_map(|l| l.strip_prefix("VmSize:"))?;
    let kib: u64 = size.split_whitespace().next()?.parse().ok()?;
    Some(limit.saturating_sub(kib.saturating_mul(1024)))
}

fn read(folder: &Path, name: &str) -> Option<String> {
    std::fs::read_to_string(folder.join(name)).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// A simulated `/proc` and `/sys`.
    struct Machine(tempfile::TempDir);

    impl Machine {
        fn new(own: &str, mounts: &str) -> Self {
            let machine = Self(tempfile::tempdir().unwrap());
            machine.put("proc/self/cgroup", own);
            machine.put("proc/self/mountinfo", mounts);
            machine
        }

        fn put(&self, path: &str, content: &str) {
            let path = self.0.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }

        /// A group of version 2, in MiB.
        fn second(&self, folder: &str, max: &str, used: u64, cache: u64) {
            self.put(&format!("{folder}/memory.max"), &format!("{max}\n"));
            self.put(
                &format!("{folder}/memory.current"),
                &format!("{}\n", used * MIB),
            );
            let stat = format!(
                "anon 5\ninactive_file {}\nactive_file {}\nfile_mapped 7\n",
                cache * MIB / 2,
                cache * MIB / 2
            );
            self.put(&format!("{folder}/memory.stat"), &stat);
        }

        /// A group of version 1, in MiB.
        fn first(&self, folder: &str, limit: u64, used: u64, cache: u64) {
            self.put(
                &format!("{folder}/memory.limit_in_bytes"),
                &format!("{limit}\n"),
            );
            self.put(
                &format!("{folder}/memory.usage_in_bytes"),
                &format!("{}\n", used * MIB),
            );
            let stat = format!(
                "inactive_file 1\ntotal_inactive_file {}\ntotal_active_file 0\n",
                cache * MIB
            );
            self.put(&format!("{folder}/memory.stat"), &stat);
        }

        fn room(&self) -> Option<u64> {
            of_groups(self.0.path()).map(|bytes| bytes / MIB)
        }
    }

    fn bytes(mib: u64) -> String {
        (mib * MIB).to_string()
    }

    const UNIFIED: &str =
        "25 1 0:22 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

    #[test]
    fn the_tightest_group_around_counts_not_the_root() {
        let machine = Machine::new("0::/system.slice/run-1.service/inner\n", UNIFIED);
        let top = "sys/fs/cgroup";
        machine.second(&format!("{top}/system.slice"), "max", 5000, 0);
        machine.second(
            &format!("{top}/system.slice/run-1.service"),
            &bytes(400),
            150,
            30,
        );
        machine.second(
            &format!("{top}/system.slice/run-1.service/inner"),
            &bytes(900),
            100,
            10,
        );
        assert_eq!(machine.room(), Some(400 - 120));
        // Another group does not limit this one.
        machine.second(&format!("{top}/other"), &bytes(1), 0, 0);
        assert_eq!(machine.room(), Some(280));
        machine.put(
            &format!("{top}/system.slice/run-1.service/inner/memory.high"),
            &bytes(200),
        );
        assert_eq!(machine.room(), Some(200 - 90));
        machine.second(&format!("{top}/system.slice"), &bytes(5010), 5000, 0);
        assert_eq!(machine.room(), Some(10));
        machine.second(&format!("{top}/system.slice"), &bytes(100), 5000, 0);
        assert_eq!(machine.room(), Some(0), "more than all of it is used");
    }

    #[test]
    fn no_limit_is_none() {
        let machine = Machine::new("0::/user.slice\n", UNIFIED);
        assert_eq!(machine.room(), None, "nothing to read");
        machine.second("sys/fs/cgroup/user.slice", "max", 10, 0);
        assert_eq!(machine.room(), None);
        assert_eq!(Machine::new("", "").room(), None);
        assert_eq!(Machine::new("0:x", "- - -\n").room(), None);
        let empty = tempfile::tempdir().unwrap();
        assert_eq!(of_groups(empty.path()), None);
    }

    #[test]
    fn the_first_layout_is_read_under_its_own_mount() {
        let mounts = "30 23 0:26 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                      35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let own =
            "5:cpu,cpuacct:/else\n4:hugetlb,memory:/slurm/uid_1/job_2\n1:name=systemd:/\n0::/\n";
        let machine = Machine::new(own, mounts);
        let top = "sys/fs/cgroup/memory";
        machine.first(top, 9_223_372_036_854_771_712, 90_000, 0);
        machine.first(&format!("{top}/slurm/uid_1"), 300 * MIB, 100, 20);
        machine.first(&format!("{top}/slurm/uid_1/job_2"), 120 * MIB, 60, 10);
        assert_eq!(machine.room(), Some(70));
        machine.first(&format!("{top}/slurm"), 90 * MIB, 85, 0);
        assert_eq!(machine.room(), Some(5));
    }

    #[test]
    fn in_a_container_what_is_mounted_is_the_group() {
        // The mount contains a part of the hierarchy, and the path is that of the host.
        let mounts = "25 1 0:22 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup2 rw\n";
        let machine = Machine::new("0::/docker/abc/worker\n", mounts);
        machine.second("sys/fs/cgroup", &bytes(500), 100, 0);
        assert_eq!(machine.room(), Some(400));
        machine.second("sys/fs/cgroup/worker", &bytes(50), 10, 0);
        assert_eq!(machine.room(), Some(40));
        // With a namespace of its own, the path is relative to it, or leads outside of it.
        for own in ["0::/\n", "0::/../elsewhere\n"] {
            let machine = Machine::new(own, UNIFIED);
            machine.second("sys/fs/cgroup", &bytes(64), 4, 0);
            assert_eq!(machine.room(), Some(60), "{own}");
        }
        // A mount point that contains a blank.
        let mounts = "25 1 0:22 / /sys/my\\040groups rw - cgroup2 cgroup2 rw\n";
        let machine = Machine::new("0::/a\n", mounts);
        machine.second("sys/my groups/a", &bytes(8), 1, 0);
        assert_eq!(machine.room(), Some(7));
    }

    #[test]
    fn addresses_are_limited_by_ulimit() {
        let machine = Machine::new("", "");
        let limits = |soft: &str| {
            machine.put(
                "proc/self/limits",
                &format!("Limit                     Soft Limit           Hard Limit           Units     \nMax address space         {soft}            unlimited            bytes     \n"),
            );
            of_addresses(machine.0.path())
        };
        machine.put(
            "proc/self/status",
            "Name:\tx\nVmPeak:\t 9 kB\nVmSize:\t    2048 kB\n",
        );
        assert_eq!(limits("unlimited"), None);
        assert_eq!(limits("10485760"), Some(8 * MIB));
        assert_eq!(limits("1024"), Some(0));
    }
}
