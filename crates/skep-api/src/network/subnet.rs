//! `Subnet`: the addresses of a network.

use std::net::IpAddr;

use ipnet::IpNet;
use jiff::Timestamp;
use k8s_openapi::ClusterResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::addresses::{Candidates, parse_range};
use super::{DEFAULT_NETWORK, split_status, validate_reference};
use crate::context::Context;
use crate::field::{Errors, Path};
use crate::kind::{Kind, KindInfo};
use crate::meta;
use crate::table::{Cell, Column};

/// Most reserved ranges: they are looked through for each address.
const MAX_RESERVED: usize = 64;
/// A shorter prefix is a network that nobody has.
const MIN_PREFIX_V4: u8 = 8;
/// A shorter prefix is a network that nobody has.
const MIN_PREFIX_V6: u8 = 32;
/// Smaller subnets have no room for a gateway and a port beside their first and last address.
const SMALLEST_HOST_BITS: u8 = 2;

/// The addresses of a network, of one family.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Subnet {
    /// Its name.
    pub metadata: ObjectMeta,
    /// Which addresses.
    pub spec: SubnetSpec,
    /// What is to be said about it.
    pub status: Option<SubnetStatus>,
}

/// Which addresses a subnet has.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "io.skep.network.v1.SubnetSpec")]
pub struct SubnetSpec {
    /// The network that they are in; `default` if none is named.
    #[serde(default)]
    pub network_name: String,
    /// The addresses, `10.1.0.0/16`.
    #[serde(default)]
    pub cidr: String,
    /// The address through which everything else is reached, the same in every machine. The first if none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    /// Addresses that are only given to who asks for them by name: `10.1.0.5`, `10.1.0.5-10.1.0.9`, `10.1.9.0/24`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reserved: Option<Vec<String>>,
}

/// What is to be said about a subnet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "io.skep.network.v1.SubnetStatus")]
pub struct SubnetStatus {
    /// What is to be said about its state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Vec<Condition>>,
}

crate::own::own_object!(
    Subnet, spec: SubnetSpec, status: SubnetStatus, scope: ClusterResourceScope,
    group: "network.skep.io", version: "v1", plural: "subnets", list: "SubnetList",
    schema: "io.skep.network.v1.Subnet", doc: "The addresses of a network, of one family.",
);

impl Subnet {
    /// The addresses; nothing if what is written is none, which validation refuses.
    #[must_use]
    pub fn net(&self) -> Option<IpNet> {
        self.spec.cidr.parse().ok()
    }

    /// The address through which everything else is reached.
    #[must_use]
    pub fn gateway(&self) -> Option<IpAddr> {
        match &self.spec.gateway {
            Some(gateway) => gateway.parse().ok(),
            None => self.net().and_then(first),
        }
    }

    /// What can be given to ports.
    #[must_use]
    pub fn candidates(&self) -> Option<Candidates> {
        let reserved = self.spec.reserved.iter().flatten().filter_map(|r| parse_range(r).ok()).collect();
        Some(Candidates::new(self.net()?, self.gateway(), reserved))
    }
}

/// The address after the network's own.
fn first(net: IpNet) -> Option<IpAddr> {
    Candidates::new(net, None, Vec::new()).at(1)
}

impl Kind for Subnet {
    fn info() -> KindInfo {
        KindInfo::of::<Subnet>().status()
    }

    fn set_defaults(&mut self) {
        if self.spec.network_name.is_empty() {
            DEFAULT_NETWORK.clone_into(&mut self.spec.network_name);
        }
        if self.spec.gateway.is_none() {
            self.spec.gateway = self.net().and_then(first).map(|ip| ip.to_string());
        }
    }

    split_status!();

    fn validate(&self, _: &Context<'_>, errors: &mut Errors) {
        let path = Path::root("spec");
        validate_reference(&self.spec.network_name, &path.child("networkName"), errors);
        let cidr = &self.spec.cidr;
        let before = errors.len();
        for message in meta::cidr_errors(cidr) {
            errors.invalid(&path.child("cidr"), cidr, &message);
        }
        let Some(net) = self.net().filter(|_| errors.len() == before) else { return };
        let (min, max) = match net {
            IpNet::V4(_) => (MIN_PREFIX_V4, net.max_prefix_len() - SMALLEST_HOST_BITS),
            IpNet::V6(_) => (MIN_PREFIX_V6, net.max_prefix_len() - SMALLEST_HOST_BITS),
        };
        if !(min..=max).contains(&net.prefix_len()) {
            errors.invalid(
                &path.child("cidr"),
                cidr,
                &format!("the prefix must be between {min} and {max} bits long"),
            );
        }
        if net.network().is_loopback() || net.network().is_multicast() {
            errors.invalid(
                &path.child("cidr"),
                cidr,
                "must be unicast addresses, and not those of the loopback",
            );
        }
        if let Some(gateway) = &self.spec.gateway {
            let path = path.child("gateway");
            match gateway.parse::<IpAddr>() {
                Ok(ip) if !Candidates::new(net, None, Vec::new()).usable(ip) => {
                    errors.invalid(
                        &path,
                        gateway,
                        "must be an address of the subnet, neither its first nor its last",
                    );
                }
                Ok(_) => {}
                Err(_) => errors.invalid(&path, gateway, "must be an IP address"),
            }
        }
        let reserved = self.spec.reserved.as_deref().unwrap_or_default();
        let path = path.child("reserved");
        if reserved.len() > MAX_RESERVED {
            errors.too_many(&path, reserved.len(), MAX_RESERVED);
        }
        for (i, text) in reserved.iter().enumerate() {
            let path = path.index(i);
            match parse_range(text) {
                Ok(range) if net.contains(&range.first) && net.contains(&range.last) => {}
                Ok(_) => errors.invalid(&path, text, "must be addresses of the subnet"),
                Err(_) => {
                    errors.invalid(&path, text, "must be an address, two with a dash between, or a CIDR")
                }
            }
        }
    }

    fn validate_update(&self, old: &Self, cx: &Context<'_>, errors: &mut Errors) {
        if cx.is_status() {
            let conditions = self.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
            meta::validate_conditions(conditions, &Path::root("status").child("conditions"), errors);
            return;
        }
        use meta::validate_immutable_field as immutable;
        self.validate(cx, errors);
        // Ports have their addresses and routes from these.
        let path = Path::root("spec");
        immutable(&self.spec.network_name, &old.spec.network_name, &path.child("networkName"), errors);
        immutable(&self.spec.cidr, &old.spec.cidr, &path.child("cidr"), errors);
        immutable(&self.spec.gateway, &old.spec.gateway, &path.child("gateway"), errors);
    }

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::string("Network", "The network that the addresses are in."),
            Column::string("CIDR", "The addresses."),
            Column::string("Gateway", "The address through which everything else is reached.").wide(),
            Column::AGE,
        ]
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        vec![
            meta::name_cell(&self.metadata),
            self.spec.network_name.clone().into(),
            self.spec.cidr.clone().into(),
            self.spec.gateway.clone().unwrap_or_default().into(),
            meta::age_cell(&self.metadata, now),
        ]
    }
}
