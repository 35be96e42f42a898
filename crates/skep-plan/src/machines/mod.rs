//! Which machines tenants get, and on which hosts they are placed.
//!
//! Three planners: [`scale`] decides for one tenant which machines are to be made for the pods that fit nowhere and which
//! ones are to be returned; [`place`] finds hosts for machines that have none; [`fit`] says whether a pod could run on a
//! machine that does not exist yet.

pub mod fit;
pub mod place;
pub mod scale;

use std::ops::{Add, AddAssign};

use serde::{Deserialize, Serialize};

/// What machines have and pods ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Amounts {
    /// Thousandths of a CPU.
    pub cpu_millis: u64,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Bytes of disk.
    pub disk_bytes: u64,
    /// Pods.
    pub pods: u64,
}

impl Amounts {
    /// Whether this is there where `self` is what there is.
    #[must_use]
    pub fn holds(&self, wanted: &Amounts) -> bool {
        self.cpu_millis >= wanted.cpu_millis
            && self.memory_bytes >= wanted.memory_bytes
            && self.disk_bytes >= wanted.disk_bytes
            && self.pods >= wanted.pods
    }

    /// What is left; nothing of what there is less of.
    #[must_use]
    pub fn less(&self, taken: &Amounts) -> Amounts {
        Amounts {
            cpu_millis: self.cpu_millis.saturating_sub(taken.cpu_millis),
            memory_bytes: self.memory_bytes.saturating_sub(taken.memory_bytes),
            disk_bytes: self.disk_bytes.saturating_sub(taken.disk_bytes),
            pods: self.pods.saturating_sub(taken.pods),
        }
    }

    /// How much of the scarcest resource `self` takes of `all`, in thousandths; disk and pods do not count, for they are
    /// hardly ever scarce.
    #[must_use]
    pub fn share_permille(&self, all: &Amounts) -> u64 {
        let share = |part: u64, whole: u64| part.saturating_mul(1000).checked_div(whole).unwrap_or(1000);
        share(self.cpu_millis, all.cpu_millis).max(share(self.memory_bytes, all.memory_bytes))
    }
}

impl Add for Amounts {
    type Output = Amounts;
    fn add(self, other: Amounts) -> Amounts {
        Amounts {
            cpu_millis: self.cpu_millis.saturating_add(other.cpu_millis),
            memory_bytes: self.memory_bytes.saturating_add(other.memory_bytes),
            disk_bytes: self.disk_bytes.saturating_add(other.disk_bytes),
            pods: self.pods.saturating_add(other.pods),
        }
    }
}

impl AddAssign for Amounts {
    fn add_assign(&mut self, other: Amounts) {
        *self = *self + other;
    }
}
