//! Pod and PodTemplate, and what all workloads need to know about pod templates.
//!
//! - [`default_pod_template`], [`default_pod_spec`]: defaults.
//! - [`validate_pod_template_spec`], [`validate_pod_spec`]: validation.
//! - [`template_warnings`]: advice about templates.
//! - [`qos_class`], [`deletion_grace_s`]: facts about a pod that the server decides on.
//! - [`Binding`], [`bind`]: putting a pod on a node.
//!
//! Behaviour and messages: k8s.io/kubernetes 1.36, `pkg/apis/core/v1`, `pkg/apis/core/validation`,
//! `pkg/registry/core/pod`, with the feature gates at their defaults. Upstream also tolerates in an update
//! what older versions once let in; no older version of Skep exists, so every stored pod satisfies these
//! rules and nothing needs to be tolerated.

mod binding;
mod checks;
mod claims;
mod columns;
mod containers;
mod defaults;
mod image;
mod probes;
mod resize;
mod resources;
mod scheduling;
mod security;
mod spec;
mod status;
mod strategy;
mod template;
mod update;
mod view;
pub(in crate::kinds::core) mod volumes;
mod warnings;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodSpec, PodStatus};

use crate::context::Context;
use crate::field::Errors;
use crate::kind::{Fields, Kind, KindInfo, Subresource, Verb};
use crate::meta;
use crate::table::{Cell, Column};
use view::{items, text, yes};

pub use binding::{Binding, bind, validate_binding};
pub use defaults::{default_pod_spec, default_pod_template};
pub use resources::{qos_class, validate_overhead};
pub use scheduling::{validate_node_selector, validate_tolerations};
pub use spec::{validate_pod_spec, validate_pod_template_spec};
pub use strategy::deletion_grace_s;
pub use warnings::template_warnings;

impl Kind for Pod {
    fn info() -> KindInfo {
        const UPDATE: &[Verb] = Verb::READ_WRITE;
        let body =
            |name, group, version, kind| Subresource { name, group, version, kind, verbs: Verb::CREATE };
        let stream = |name| Subresource {
            name,
            group: "",
            version: "v1",
            kind: match name {
                "exec" => "PodExecOptions",
                "attach" => "PodAttachOptions",
                _ => "PodPortForwardOptions",
            },
            verbs: Verb::CONNECT,
        };
        KindInfo::of::<Pod>()
            .short("po")
            .category("all")
            .status()
            .sub(body("binding", "", "v1", "Binding"))
            .sub(body("eviction", "policy", "v1", "Eviction"))
            .sub(Subresource::of_self("ephemeralcontainers", UPDATE))
            .sub(Subresource::of_self("resize", UPDATE))
            .sub(Subresource::of_self("log", &[Verb::Get]))
            .sub(stream("exec"))
            .sub(stream("attach"))
            .sub(stream("portforward"))
            .sub(super::proxy("PodProxyOptions"))
            .select("spec.nodeName")
            .select("spec.restartPolicy")
            .select("spec.schedulerName")
            .select("spec.serviceAccountName")
            .select("spec.hostNetwork")
            .select("status.phase")
            .select("status.podIP")
            .select("status.podIPs")
            .select("status.nominatedNodeName")
    }

    fn set_defaults(&mut self) {
        defaults::default_pod(self);
    }

    fn prepare_create(&mut self, cx: &Context<'_>) {
        strategy::prepare_create(self, cx.now);
    }

    fn prepare_update(&mut self, old: &Self, cx: &Context<'_>) {
        strategy::prepare_update(self, old, cx);
    }

    fn validate(&self, _: &Context<'_>, errors: &mut Errors) {
        spec::validate_create(self, errors);
    }

    fn validate_update(&self, old: &Self, cx: &Context<'_>, errors: &mut Errors) {
        match cx.subresource {
            "status" => status::validate(self, old, errors),
            "ephemeralcontainers" => update::validate_ephemeral_containers(self, old, errors),
            "resize" => resize::validate(self, old, errors),
            _ => update::validate(self, old, errors),
        }
    }

    fn warnings(&self, old: Option<&Self>, cx: &Context<'_>) -> Vec<String> {
        match (old, cx.subresource) {
            (None, _) => warnings::on_create(self),
            (Some(_), "status") => warnings::on_status(self),
            // Updates of pods are made by programs, which read no warnings.
            (Some(_), _) => Vec::new(),
        }
    }

    fn generation_changed(&self, old: Option<&Self>) -> Option<bool> {
        Some(old.is_none_or(|old| !meta::same(&self.spec, &old.spec)))
    }

    fn fields(&self, fields: &mut Fields) {
        let (no_spec, no_status) = (PodSpec::default(), PodStatus::default());
        let spec = self.spec.as_ref().unwrap_or(&no_spec);
        let status = self.status.as_ref().unwrap_or(&no_status);
        fields.add_indexed("spec.nodeName", text(&spec.node_name));
        fields.add("spec.restartPolicy", text(&spec.restart_policy));
        fields.add("spec.schedulerName", text(&spec.scheduler_name));
        fields.add("spec.serviceAccountName", text(&spec.service_account_name));
        fields.add("spec.hostNetwork", if yes(spec.host_network) { "true" } else { "false" });
        fields.add("status.phase", text(&status.phase));
        fields.add("status.podIP", items(&status.pod_ips).first().map_or("", |ip| ip.ip.as_str()));
        // Upstream accepts this name in a selector, but gives the field no value.
        fields.add("status.podIPs", "");
        fields.add("status.nominatedNodeName", text(&status.nominated_node_name));
    }

    fn columns() -> Vec<Column> {
        columns::columns()
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        columns::row(self, now)
    }
}

#[cfg(test)]
mod columns_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod update_tests;
