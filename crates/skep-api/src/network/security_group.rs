//! `SecurityGroup`: whom ports may talk to.

use ipnet::IpNet;
use k8s_openapi::ClusterResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{split_status, validate_reference};
use crate::context::Context;
use crate::field::{Errors, Path};
use crate::kind::{Kind, KindInfo};
use crate::meta;

/// Most rules of one direction: each is some elements in the filters of every host with a port of the group.
const MAX_RULES: usize = 128;
/// Most addresses or groups in one rule.
const MAX_PEERS: usize = 256;

/// Whom ports may talk to. Connections that are allowed in one direction are answered in the other.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SecurityGroup {
    /// Its name is what ports and other groups refer to.
    pub metadata: ObjectMeta,
    /// Its rules.
    pub spec: SecurityGroupSpec,
    /// What is to be said about it.
    pub status: Option<SecurityGroupStatus>,
}

/// The rules of a group. What no rule of any of a port's groups allows is dropped.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "io.skep.network.v1.SecurityGroupSpec")]
pub struct SecurityGroupSpec {
    /// Who may connect to the group's ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<Vec<SecurityGroupRule>>,
    /// Whom the group's ports may connect to; everybody if there is no list, nobody if it is empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Vec<SecurityGroupRule>>,
}

/// One thing that is allowed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "io.skep.network.v1.SecurityGroupRule")]
pub struct SecurityGroupRule {
    /// `TCP`, `UDP`, `SCTP` or `ICMP` (of both families); all if none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// The destination's ports; all if none are named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<Vec<PortRange>>,
    /// The addresses of the other side.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cidrs: Option<Vec<String>>,
    /// The groups that the other side's port may be in. With neither addresses nor groups, everybody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_names: Option<Vec<String>>,
}

/// What a connection is spoken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
#[schemars(rename = "io.skep.network.v1.Protocol")]
#[allow(missing_docs)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
    Icmp,
}

/// Ports from the first to the last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "io.skep.network.v1.PortRange")]
pub struct PortRange {
    /// The first.
    #[serde(default)]
    pub first: i32,
    /// The last; the first if none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<i32>,
}

/// What is to be said about a group.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "io.skep.network.v1.SecurityGroupStatus")]
pub struct SecurityGroupStatus {
    /// What is to be said about its state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Vec<Condition>>,
}

crate::own::own_object!(
    SecurityGroup, spec: SecurityGroupSpec, status: SecurityGroupStatus, scope: ClusterResourceScope,
    group: "network.skep.io", version: "v1", plural: "securitygroups", list: "SecurityGroupList",
    schema: "io.skep.network.v1.SecurityGroup", doc: "Whom ports may talk to.",
);

impl Kind for SecurityGroup {
    fn info() -> KindInfo {
        KindInfo::of::<SecurityGroup>().short("sg").status()
    }

    split_status!();

    fn validate(&self, _: &Context<'_>, errors: &mut Errors) {
        let path = Path::root("spec");
        for (field, rules) in [("ingress", &self.spec.ingress), ("egress", &self.spec.egress)] {
            let (path, rules) = (path.child(field), rules.as_deref().unwrap_or_default());
            if rules.len() > MAX_RULES {
                errors.too_many(&path, rules.len(), MAX_RULES);
            }
            for (i, rule) in rules.iter().enumerate() {
                validate_rule(rule, &path.index(i), errors);
            }
        }
    }

    fn validate_update(&self, _: &Self, cx: &Context<'_>, errors: &mut Errors) {
        if cx.is_status() {
            let conditions = self.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
            meta::validate_conditions(conditions, &Path::root("status").child("conditions"), errors);
            return;
        }
        self.validate(cx, errors);
    }
}

fn validate_rule(rule: &SecurityGroupRule, path: &Path<'_>, errors: &mut Errors) {
    let ports = rule.ports.as_deref().unwrap_or_default();
    if !ports.is_empty() && !matches!(rule.protocol, Some(Protocol::Tcp | Protocol::Udp | Protocol::Sctp)) {
        errors.forbidden(&path.child("ports"), "only TCP, UDP and SCTP have ports");
    }
    for (i, range) in ports.iter().enumerate() {
        let path = path.child("ports");
        let path = path.index(i);
        meta::validate_port_num(range.first, &path.child("first"), errors);
        if let Some(last) = range.last {
            meta::validate_port_num(last, &path.child("last"), errors);
            if last < range.first {
                errors.invalid(&path.child("last"), last, "must not be before the first");
            }
        }
    }
    let cidrs = rule.cidrs.as_deref().unwrap_or_default();
    if cidrs.len() > MAX_PEERS {
        errors.too_many(&path.child("cidrs"), cidrs.len(), MAX_PEERS);
    }
    for (i, cidr) in cidrs.iter().enumerate() {
        if cidr.parse::<IpNet>().is_err() {
            errors.invalid(&path.child("cidrs").index(i), cidr, "must be a CIDR like 10.0.0.0/8");
        }
    }
    let groups = rule.group_names.as_deref().unwrap_or_default();
    if groups.len() > MAX_PEERS {
        errors.too_many(&path.child("groupNames"), groups.len(), MAX_PEERS);
    }
    for (i, group) in groups.iter().enumerate() {
        validate_reference(group, &path.child("groupNames").index(i), errors);
    }
}
