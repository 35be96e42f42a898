//! Capabilities, by name.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

macro_rules! capabilities {
    ($($name:ident = $text:literal),+ $(,)?) => {
        /// A capability of Linux. The order is the kernel's numbering.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        #[repr(u8)]
        #[allow(missing_docs)] // capabilities(7) describes each.
        pub enum Capability { $(#[serde(rename = $text)] $name),+ }

        impl Capability {
            /// All of them, in the kernel's order.
            pub const ALL: &'static [Capability] = &[$(Capability::$name),+];

            /// The name, as in `CAP_CHOWN`.
            pub fn name(self) -> &'static str {
                match self { $(Capability::$name => $text),+ }
            }
        }
    };
}

capabilities! {
    Chown = "CAP_CHOWN", DacOverride = "CAP_DAC_OVERRIDE", DacReadSearch = "CAP_DAC_READ_SEARCH",
    Fowner = "CAP_FOWNER", Fsetid = "CAP_FSETID", Kill = "CAP_KILL", Setgid = "CAP_SETGID",
    Setuid = "CAP_SETUID", Setpcap = "CAP_SETPCAP", LinuxImmutable = "CAP_LINUX_IMMUTABLE",
    NetBindService = "CAP_NET_BIND_SERVICE", NetBroadcast = "CAP_NET_BROADCAST", NetAdmin = "CAP_NET_ADMIN",
    NetRaw = "CAP_NET_RAW", IpcLock = "CAP_IPC_LOCK", IpcOwner = "CAP_IPC_OWNER",
    SysModule = "CAP_SYS_MODULE", SysRawio = "CAP_SYS_RAWIO", SysChroot = "CAP_SYS_CHROOT",
    SysPtrace = "CAP_SYS_PTRACE", SysPacct = "CAP_SYS_PACCT", SysAdmin = "CAP_SYS_ADMIN",
    SysBoot = "CAP_SYS_BOOT", SysNice = "CAP_SYS_NICE", SysResource = "CAP_SYS_RESOURCE",
    SysTime = "CAP_SYS_TIME", SysTtyConfig = "CAP_SYS_TTY_CONFIG", Mknod = "CAP_MKNOD", Lease = "CAP_LEASE",
    AuditWrite = "CAP_AUDIT_WRITE", AuditControl = "CAP_AUDIT_CONTROL", Setfcap = "CAP_SETFCAP",
    MacOverride = "CAP_MAC_OVERRIDE", MacAdmin = "CAP_MAC_ADMIN", Syslog = "CAP_SYSLOG",
    WakeAlarm = "CAP_WAKE_ALARM", BlockSuspend = "CAP_BLOCK_SUSPEND", AuditRead = "CAP_AUDIT_READ",
    Perfmon = "CAP_PERFMON", Bpf = "CAP_BPF", CheckpointRestore = "CAP_CHECKPOINT_RESTORE",
}

impl Capability {
    /// By name, with or without `CAP_`, in any case.
    pub fn from_name(name: &str) -> Option<Capability> {
        let upper = name.to_ascii_uppercase();
        let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
        Self::ALL.iter().copied().find(|c| &c.name()[4..] == bare)
    }

    /// Its bit in the kernel's sets.
    pub(crate) fn bit(self) -> u64 {
        1 << (self as u8)
    }
}

/// What a container has when nothing is said: the list of the common runtimes.
pub fn default_set() -> BTreeSet<Capability> {
    use Capability::*;
    [
        Chown,
        DacOverride,
        Fsetid,
        Fowner,
        Mknod,
        NetRaw,
        Setgid,
        Setuid,
        Setfcap,
        Setpcap,
        NetBindService,
        SysChroot,
        Kill,
        AuditWrite,
    ]
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_kernels_numbers() {
        assert_eq!(Capability::Chown as u8, 0);
        assert_eq!(Capability::SysAdmin as u8, 21);
        assert_eq!(Capability::Mknod as u8, 27);
        assert_eq!(Capability::CheckpointRestore as u8, 40);
        assert_eq!(Capability::from_name("sys_admin"), Some(Capability::SysAdmin));
        assert_eq!(Capability::from_name("CAP_NET_RAW"), Some(Capability::NetRaw));
        assert_eq!(Capability::from_name("ALL"), None);
    }
}
