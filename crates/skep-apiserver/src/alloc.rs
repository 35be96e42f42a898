//! Addresses and node ports of services: each given out once per tenant. What networks are given is in
//! [`alloc_network`].
//!
//! What is taken is a key in the store, written in the same transaction as the service that takes it, on the
//! condition that it is absent: no two services can have the same, whatever happens at the same time, and a
//! crash leaves neither half.

use std::net::Ipv4Addr;
use std::sync::LazyLock;

use k8s_openapi::api::core::v1::Service;
use rand::Rng;
use skep_api::kinds::core::service::{
    ClusterFamilies, IpFamily, WantedIp, WantedPort, init_ip_families, wanted_allocations,
};
use skep_api::{Errors, Object};
use skep_base::{GroupResource, Key, TenantName};
use skep_store::{AttrsBuilder, Expect, NewValue, Op};

use crate::alloc_network;
use crate::objects::Objects;
use crate::status::ApiError;

static ADDRESSES: LazyLock<GroupResource> =
    LazyLock::new(|| GroupResource::new("allocations.skep.io", "serviceaddresses"));
static PORTS: LazyLock<GroupResource> =
    LazyLock::new(|| GroupResource::new("allocations.skep.io", "nodeports"));

/// The range of service addresses in every tenant, 10.96.0.0/16 as kubeadm's default is wider: 65,000 services
/// are more than one tenant has. Tenants' networks are apart, so they all have the same.
const SERVICE_RANGE: (Ipv4Addr, u32) = (Ipv4Addr::new(10, 96, 0, 0), 16);

/// The address of the `kubernetes` service, and that of every node's name server: they have no entries of their own.
const FIXED: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 96, 0, 1), Ipv4Addr::new(10, 96, 0, 10)];

/// The range of node ports, as upstream.
const NODE_PORTS: std::ops::RangeInclusive<i32> = 30_000..=32_767;

/// Random places that are looked at before the whole range is searched in order.
const RANDOM_PROBES: usize = 16;

/// Whether a conflict was about something that was chosen freely, or looked at in choosing: then another choice may
/// do. `own` is the key of the object itself.
#[must_use]
pub fn is_allocation(key: &Key, own: &Key) -> bool {
    key.resource == *ADDRESSES || key.resource == *PORTS || alloc_network::is_allocation(key, own)
}

pub(crate) fn taken(owner: &str) -> NewValue {
    let body = format!(r#"{{"metadata":{{"resourceVersion":""}},"owner":"{owner}"}}"#).into_bytes();
    // No labels, no fields: a header only.
    let attrs = AttrsBuilder::default().build().unwrap_or_default();
    NewValue { body, revision_at: 32, meta_start: 12, meta_end: 34, attrs }
}

fn key(resource: &GroupResource, tenant: &TenantName, name: &str) -> Key {
    Key::new(resource.clone(), tenant.clone(), "", name)
}

fn in_range(ip: Ipv4Addr) -> bool {
    let mask = u32::MAX << (32 - SERVICE_RANGE.1);
    let (ip, network) = (u32::from(ip), u32::from(SERVICE_RANGE.0));
    // Neither the network's own address nor its last.
    ip & mask == network && ip != network && ip != network | !mask
}

/// Fills in what a new or changed service asks for; the writes that take and give back belong into the
/// transaction that stores it. For other kinds there is nothing to do.
///
/// # Errors
/// 422 when what the user asks for by name cannot be had, 500 when the range is used up.
pub fn allocate(
    objects: &Objects,
    tenant: &TenantName,
    old: Option<&dyn Object>,
    new: &mut dyn Object,
) -> Result<Vec<Op>, ApiError> {
    let Some(service) = new.downcast_mut::<Service>() else {
        // What networks are given, they keep until they are deleted.
        return if old.is_none() { alloc_network::allocate(objects, tenant, new) } else { Ok(Vec::new()) };
    };
    let old = old.and_then(|o| o.downcast_ref::<Service>());
    let name = service.metadata.name.clone().unwrap_or_default();
    let invalid = |errors: Errors| ApiError::invalid("", "Service", &name, errors);
    let families = ClusterFamilies { primary: IpFamily::V4, dual: false };
    init_ip_families(service, old, families).map_err(invalid)?;
    let wanted = wanted_allocations(old, Some(service));
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let owner = format!("{}/{name}", service.metadata.namespace.as_deref().unwrap_or(""));
    let mut ops = Vec::new();
    let mut errors = Errors::new();
    for ip in &wanted.cluster_ips {
        if let Some(found) = take_ip(objects, tenant, ip, service, &mut errors)? {
            ip.fill(service, &found);
            let key = key(&ADDRESSES, tenant, &found);
            ops.push(Op::Put { key, value: taken(&owner), expect: Expect::Absent, ttl_s: None });
        }
    }
    let mut chosen: Vec<i32> = Vec::new();
    for port in &wanted.node_ports {
        if let Some(found) = take_port(objects, tenant, port, &chosen, &mut errors)? {
            port.fill(service, found);
            chosen.push(found);
            let key = key(&PORTS, tenant, &found.to_string());
            ops.push(Op::Put { key, value: taken(&owner), expect: Expect::Absent, ttl_s: None });
        }
    }
    if !errors.is_empty() {
        return Err(invalid(errors));
    }
    ops.extend(give_back(tenant, &wanted.release_ips, &wanted.release_ports));
    Ok(ops)
}

/// The writes that give back what a service had that is being deleted.
#[must_use]
pub fn release(tenant: &TenantName, old: &dyn Object) -> Vec<Op> {
    let Some(old) = old.downcast_ref::<Service>() else { return alloc_network::release(tenant, old) };
    let wanted = wanted_allocations(Some(old), None);
    give_back(tenant, &wanted.release_ips, &wanted.release_ports).collect()
}

fn give_back(tenant: &TenantName, ips: &[String], ports: &[i32]) -> impl Iterator<Item = Op> {
    let ips = ips.iter().map(|ip| key(&ADDRESSES, tenant, ip)).collect::<Vec<_>>();
    let ports = ports.iter().map(|p| key(&PORTS, tenant, &p.to_string())).collect::<Vec<_>>();
    ips.into_iter().chain(ports).map(|key| Op::Delete { key, expect: Expect::Any })
}

fn take_ip(
    objects: &Objects,
    tenant: &TenantName,
    wanted: &WantedIp,
    service: &Service,
    errors: &mut Errors,
) -> Result<Option<String>, ApiError> {
    let free = |ip: Ipv4Addr| {
        !FIXED.contains(&ip) && objects.get(&key(&ADDRESSES, tenant, &ip.to_string())).is_none()
    };
    if let Some(requested) = &wanted.requested {
        let reason = match requested.parse::<Ipv4Addr>() {
            Ok(ip) if !in_range(ip) => {
                format!(
                    "the provided IP ({ip}) is not in the valid range. The range of valid IPs is {}/{}",
                    SERVICE_RANGE.0, SERVICE_RANGE.1
                )
            }
            Ok(ip) if !free(ip) => "provided IP is already allocated".to_owned(),
            Ok(ip) => return Ok(Some(ip.to_string())),
            Err(_) => format!(
                "the provided IP ({requested}) is not in the valid range. The range of valid IPs is {}/{}",
                SERVICE_RANGE.0, SERVICE_RANGE.1
            ),
        };
        wanted.refuse(service, &reason, errors);
        return Ok(None);
    }
    let (first, size) = (u32::from(SERVICE_RANGE.0), 1u32 << (32 - SERVICE_RANGE.1));
    let mut rng = rand::rng();
    let random = (0..RANDOM_PROBES).map(|_| rng.random_range(2..size - 1)).collect::<Vec<_>>();
    let found = random.into_iter().chain(2..size - 1).map(|n| Ipv4Addr::from(first + n)).find(|ip| free(*ip));
    match found {
        Some(ip) => Ok(Some(ip.to_string())),
        None => Err(ApiError::internal("failed to allocate a serviceIP: range is full")),
    }
}

fn take_port(
    objects: &Objects,
    tenant: &TenantName,
    wanted: &WantedPort,
    chosen: &[i32],
    errors: &mut Errors,
) -> Result<Option<i32>, ApiError> {
    let free =
        |port: i32| !chosen.contains(&port) && objects.get(&key(&PORTS, tenant, &port.to_string())).is_none();
    if let Some(port) = wanted.requested {
        if !NODE_PORTS.contains(&port) {
            wanted.refuse(
                &format!(
                    "provided port is not in the valid range. The range of valid ports is {}-{}",
                    NODE_PORTS.start(),
                    NODE_PORTS.end()
                ),
                errors,
            );
        } else if !free(port) {
            wanted.refuse("provided port is already allocated", errors);
        } else {
            return Ok(Some(port));
        }
        return Ok(None);
    }
    let mut rng = rand::rng();
    let random = (0..RANDOM_PROBES).map(|_| rng.random_range(NODE_PORTS)).collect::<Vec<_>>();
    match random.into_iter().chain(NODE_PORTS).find(|p| free(*p)) {
        Some(port) => Ok(Some(port)),
        None => Err(ApiError::internal("failed to allocate a nodePort: range is full")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_range_has_no_ends() {
        let ip = |text: &str| text.parse().unwrap();
        assert!(in_range(ip("10.96.0.2")) && in_range(ip("10.96.255.254")));
        for outside in ["10.96.0.0", "10.96.255.255", "10.97.0.1", "10.95.255.255"] {
            assert!(!in_range(ip(outside)), "{outside}");
        }
    }
}
