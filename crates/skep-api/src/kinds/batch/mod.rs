//! The `batch` group.

pub mod cron;
mod cron_job;
mod indexes;
mod job;
mod job_policy;
mod job_status;
#[cfg(test)]
mod tests;
mod time_zone;

use k8s_openapi::api::batch::v1;

use crate::registry::Registry;

pub(super) fn register(registry: &mut Registry) {
    registry.add::<v1::CronJob>();
    registry.add::<v1::Job>();
}
