//! What networks are given: numbers, addresses, public addresses. Each only once.
//!
//! As for services: what is taken is a key, written in the transaction of the object that takes it, on the
//! condition that it is absent. The number of a network and a public address are the whole cloud's, so their keys
//! are the operator's tenant's; the address of a port is its network's. An address is looked for at random places
//! first, which in a subnet that is not nearly full finds one at once, whatever its size.

use std::net::IpAddr;
use std::sync::LazyLock;

use rand::Rng;
use serde::de::DeserializeOwned;
use skep_api::network::{
    AddressRange, Candidates, DEFAULT_NETWORK, Network, Port, PublicIP, PublicPool, Subnet, VNI_RANGE,
    port_mac,
};
use skep_api::{Errors, Object, Path};
use skep_base::{GroupResource, Key, Scope, TenantName};
use skep_store::{Expect, ListOptions, Op};

use crate::alloc::taken;
use crate::objects::Objects;
use crate::status::ApiError;

const ALLOCATIONS: &str = "allocations.skep.io";
static VNIS: LazyLock<GroupResource> = LazyLock::new(|| GroupResource::new(ALLOCATIONS, "networknumbers"));
/// The key's namespace is the network's name.
static ADDRESSES: LazyLock<GroupResource> =
    LazyLock::new(|| GroupResource::new(ALLOCATIONS, "portaddresses"));
/// The key's namespace is the network's name. Only of ports whose first address does not say it all.
static MACS: LazyLock<GroupResource> = LazyLock::new(|| GroupResource::new(ALLOCATIONS, "portmacs"));
/// Of the whole cloud, whatever pools they are in: an address that two pools have is given once too.
static PUBLIC: LazyLock<GroupResource> = LazyLock::new(|| GroupResource::new(ALLOCATIONS, "publicaddresses"));
/// The places that a tenant takes in a pool, counted from nothing: the key's namespace is the pool's name. A limit for each tenant
/// is a number that places stay below, so that two addresses that are asked for at the same time cannot exceed it.
static PLACES: LazyLock<GroupResource> = LazyLock::new(|| GroupResource::new(ALLOCATIONS, "publicplaces"));
/// Written by every new subnet of a network: two at the same time cannot overlap unseen.
static TURNS: LazyLock<GroupResource> = LazyLock::new(|| GroupResource::new(ALLOCATIONS, "subnetturns"));

static NETWORKS: LazyLock<GroupResource> =
    LazyLock::new(|| GroupResource::new(skep_api::network::GROUP, "networks"));
static SUBNETS: LazyLock<GroupResource> =
    LazyLock::new(|| GroupResource::new(skep_api::network::GROUP, "subnets"));
static POOLS: LazyLock<GroupResource> =
    LazyLock::new(|| GroupResource::new(skep_api::network::GROUP, "publicpools"));

/// Random places that are looked at before the whole range is searched in order, from a random place on. With nine
/// of ten addresses taken, one of two searches finds a free one here.
const RANDOM_PROBES: usize = 16;
/// How many addresses a tenant can have in one pool, also where the operator sets no limit: places are looked at in order.
const PLACES_MAX: i64 = 4096;
/// What remains of the locally administered addresses for those that are given without an IPv4 address.
const MAC_PROBES: usize = 64;

/// Whether a key is one of these, or of something that must stay while it is allocated from.
pub(crate) fn is_allocation(key: &Key, own: &Key) -> bool {
    let given = [&*VNIS, &*ADDRESSES, &*MACS, &*PUBLIC, &*PLACES, &*TURNS].contains(&&key.resource);
    given || (key != own && [&*NETWORKS, &*SUBNETS, &*POOLS].contains(&&key.resource))
}

fn key(resource: &GroupResource, tenant: &TenantName, namespace: &str, name: &str) -> Key {
    Key::new(resource.clone(), tenant.clone(), namespace, name)
}

/// As [`take`], and says in the value which address it is: who deletes a subnet looks for them.
fn take_address(key: Key, owner: &str, ip: IpAddr) -> Op {
    let body =
        format!(r#"{{"metadata":{{"resourceVersion":""}},"owner":"{owner}","ip":"{ip}"}}"#).into_bytes();
    let value = skep_store::NewValue { body, ..taken("") };
    Op::Put { key, value, expect: Expect::Absent, ttl_s: None }
}

fn take(key: Key, owner: &str) -> Op {
    Op::Put { key, value: taken(owner), expect: Expect::Absent, ttl_s: None }
}

fn give_back(key: Key) -> Op {
    Op::Delete { key, expect: Expect::Any }
}

fn read<T: DeserializeOwned>(objects: &Objects, key: &Key) -> Result<Option<T>, ApiError> {
    let Some(value) = objects.get(key) else { return Ok(None) };
    serde_json::from_slice(value.json()).map(Some).map_err(ApiError::internal)
}

/// Fills in what a new object asks for, and gives the writes that take it. For kinds that ask for nothing there is
/// nothing to do.
///
/// # Errors
/// 422 when what is asked for by name cannot be had, 500 when everything is taken.
pub(crate) fn allocate(
    objects: &Objects,
    tenant: &TenantName,
    new: &mut dyn Object,
) -> Result<Vec<Op>, ApiError> {
    if new.downcast_mut::<Port>().is_none()
        && new.downcast_mut::<Network>().is_none()
        && new.downcast_mut::<Subnet>().is_none()
        && new.downcast_mut::<PublicIP>().is_none()
    {
        return Ok(Vec::new());
    }
    let name = new.meta().name.clone().unwrap_or_default();
    let owner = format!("{}/{name}", new.meta().namespace.as_deref().unwrap_or(""));
    let asking = Asking { objects, tenant, owner: &owner };
    let mut errors = Errors::new();
    let (kind, ops) = if let Some(port) = new.downcast_mut::<Port>() {
        ("Port", asking.port(port, &mut errors)?)
    } else if let Some(network) = new.downcast_mut::<Network>() {
        ("Network", asking.network(network, &mut errors)?)
    } else if let Some(subnet) = new.downcast_mut::<Subnet>() {
        ("Subnet", asking.subnet(subnet, &mut errors)?)
    } else if let Some(address) = new.downcast_mut::<PublicIP>() {
        ("PublicIP", asking.public(address, &mut errors)?)
    } else {
        return Ok(Vec::new());
    };
    if errors.is_empty() {
        Ok(ops)
    } else {
        Err(ApiError::invalid(skep_api::network::GROUP, kind, &name, errors))
    }
}

/// The writes that give back what an object had that is being deleted.
pub(crate) fn release(tenant: &TenantName, old: &dyn Object) -> Vec<Op> {
    if let Some(port) = old.downcast_ref::<Port>() {
        let network = &port.spec.network_name;
        let mut ops: Vec<Op> =
            port.addresses().map(|ip| give_back(key(&ADDRESSES, tenant, network, &ip.to_string()))).collect();
        if let Some(mac) = port.spec.mac.as_deref().filter(|mac| !is_implied(mac, port)) {
            ops.push(give_back(key(&MACS, tenant, network, mac)));
        }
        ops
    } else if let Some(network) = old.downcast_ref::<Network>() {
        let system = TenantName::system();
        network.spec.vni.map(|vni| give_back(key(&VNIS, &system, "", &vni.to_string()))).into_iter().collect()
    } else if let Some(address) = old.downcast_ref::<PublicIP>() {
        let system = TenantName::system();
        let found = address.spec.address.as_deref().map(|ip| give_back(key(&PUBLIC, &system, "", ip)));
        let place = address
            .status
            .as_ref()
            .and_then(|s| s.place)
            .map(|place| give_back(key(&PLACES, tenant, &address.spec.pool_name, &place.to_string())));
        found.into_iter().chain(place).collect()
    } else {
        Vec::new()
    }
}

/// The writes that give back to the cloud what a stored object had, when its whole tenant is removed: the keys of
/// the tenant itself are removed with it.
pub(crate) fn release_to_cloud(key: &Key, json: &[u8]) -> Vec<Op> {
    fn read<T: DeserializeOwned>(key: &Key, json: &[u8]) -> Option<T> {
        serde_json::from_slice(json)
            .map_err(|error| tracing::debug!(%key, %error, "nothing that has a number: a deleted default"))
            .ok()
    }
    if key.resource.group() != skep_api::network::GROUP {
        return Vec::new();
    }
    match key.resource.resource() {
        "networks" => read::<Network>(key, json).map(|n| release(&key.tenant, &n)).unwrap_or_default(),
        "publicips" => read::<PublicIP>(key, json).map(|p| release(&key.tenant, &p)).unwrap_or_default(),
        _ => Vec::new(),
    }
}

/// The number of a new tenant's first network, and the write that takes it.
///
/// # Errors
/// 500 when all are taken.
pub fn first_network(objects: &Objects, tenant: &TenantName) -> Result<(i64, Op), ApiError> {
    let asking = Asking { objects, tenant, owner: DEFAULT_NETWORK };
    let vni = asking.free_vni()?;
    Ok((
        vni,
        take(key(&VNIS, &TenantName::system(), "", &vni.to_string()), &format!("{tenant}/{DEFAULT_NETWORK}")),
    ))
}

/// Whether a port's Ethernet address follows from its first address: then the address is its guard.
fn is_implied(mac: &str, port: &Port) -> bool {
    port.addresses().next().is_some_and(|ip| ip.is_ipv4() && port_mac(ip) == mac)
}

struct Asking<'a> {
    objects: &'a Objects,
    tenant: &'a TenantName,
    owner: &'a str,
}

impl Asking<'_> {
    fn is_free(&self, key: &Key) -> bool {
        self.objects.get(key).is_none()
    }

    /// The subnets of a network, each with its key, in the order of their names.
    fn subnets(&self, network: &str) -> Result<Vec<(Key, Subnet)>, ApiError> {
        let scope = Scope::Tenant(SUBNETS.clone(), self.tenant.clone());
        let listing = self.objects.list(&scope, &ListOptions::default()).map_err(ApiError::internal)?;
        let mut found = Vec::new();
        for (key, value) in listing.items {
            let subnet: Subnet = serde_json::from_slice(value.json()).map_err(ApiError::internal)?;
            if subnet.spec.network_name == network {
                found.push((key, subnet));
            }
        }
        Ok(found)
    }

    fn free_vni(&self) -> Result<i64, ApiError> {
        let system = TenantName::system();
        let free = |vni: &i64| self.is_free(&key(&VNIS, &system, "", &vni.to_string()));
        let mut rng = rand::rng();
        let random: Vec<i64> = (0..RANDOM_PROBES).map(|_| rng.random_range(VNI_RANGE)).collect();
        let found = random.into_iter().chain(VNI_RANGE).find(free);
        found.ok_or_else(|| ApiError::internal("failed to allocate a network number: all are in use"))
    }

    fn network(&self, network: &mut Network, errors: &mut Errors) -> Result<Vec<Op>, ApiError> {
        let vni = match network.spec.vni {
            None => self.free_vni()?,
            Some(vni) => {
                if !self.is_free(&key(&VNIS, &TenantName::system(), "", &vni.to_string())) {
                    errors.invalid(&Path::root("spec").child("vni"), vni, "is in use by another network");
                    return Ok(Vec::new());
                }
                vni
            }
        };
        network.spec.vni = Some(vni);
        let owner = format!("{}{}", self.tenant, self.owner);
        Ok(vec![take(key(&VNIS, &TenantName::system(), "", &vni.to_string()), &owner)])
    }

    /// A subnet takes nothing, but no address may be in two of one network.
    fn subnet(&self, subnet: &Subnet, errors: &mut Errors) -> Result<Vec<Op>, ApiError> {
        let name = &subnet.spec.network_name;
        let path = Path::root("spec");
        let network = key(&NETWORKS, self.tenant, "", name);
        if !name.is_empty() && self.is_free(&network) {
            errors.not_found(&path.child("networkName"), name);
            return Ok(Vec::new());
        }
        let Some(net) = subnet.net() else { return Ok(Vec::new()) };
        // Looked at before the others: whoever comes between changes it, and then this write is tried again.
        let turn = key(&TURNS, self.tenant, "", name);
        let expect = self.objects.get(&turn).map_or(Expect::Absent, |v| Expect::Revision(v.revision()));
        for (_, other) in self.subnets(name)? {
            let Some(other_net) = other.net() else { continue };
            if net.contains(&other_net) || other_net.contains(&net) {
                let other = other.metadata.name.unwrap_or_default();
                let why = format!("overlaps with {other_net} of the subnet {other:?}");
                errors.invalid(&path.child("cidr"), &subnet.spec.cidr, &why);
            }
        }
        Ok(vec![
            Op::Check { key: network, expect: Expect::Exists },
            Op::Put { key: turn, value: taken(self.owner), expect, ttl_s: None },
        ])
    }

    fn port(&self, port: &mut Port, errors: &mut Errors) -> Result<Vec<Op>, ApiError> {
        let network = port.spec.network_name.clone();
        let path = Path::root("spec");
        let network_key = key(&NETWORKS, self.tenant, "", &network);
        if self.is_free(&network_key) {
            errors.not_found(&path.child("networkName"), &network);
            return Ok(Vec::new());
        }
        let mut ops = vec![Op::Check { key: network_key, expect: Expect::Exists }];
        let mut subnets = Vec::new();
        for (key, subnet) in self.subnets(&network)? {
            if let Some(candidates) = subnet.candidates() {
                subnets.push((key, candidates));
            }
        }
        let mut chosen = Vec::new();
        match port.spec.addresses.as_deref().unwrap_or_default() {
            [] => {
                for v4 in [true, false] {
                    let of_family: Vec<_> =
                        subnets.iter().filter(|(_, c)| c.net().addr().is_ipv4() == v4).collect();
                    if of_family.is_empty() {
                        continue;
                    }
                    let found =
                        of_family.iter().find_map(|(k, c)| Some((k, self.free_address(&network, c)?)));
                    let Some((subnet, ip)) = found else {
                        let family = if v4 { "IPv4" } else { "IPv6" };
                        let why = format!(
                            "failed to allocate an {family} address: the subnets of the network {network:?} are full"
                        );
                        return Err(ApiError::internal(why));
                    };
                    chosen.push((subnet.clone(), ip));
                }
                if chosen.is_empty() {
                    errors.invalid(
                        &path.child("networkName"),
                        &network,
                        "the network has no subnet to take an address from",
                    );
                }
            }
            wanted => {
                for (i, text) in wanted.iter().enumerate() {
                    let path = path.child("addresses");
                    let path = path.index(i);
                    // What is no address, validation refuses.
                    let Ok(ip) = text.parse::<IpAddr>() else { continue };
                    match subnets.iter().find(|(_, c)| c.usable(ip)) {
                        None => errors.invalid(
                            &path,
                            text,
                            "is not an address that a subnet of the network can give",
                        ),
                        Some(_)
                            if !self.is_free(&key(&ADDRESSES, self.tenant, &network, &ip.to_string())) =>
                        {
                            errors.invalid(&path, text, "is in use by another port");
                        }
                        Some((subnet, _)) => chosen.push((subnet.clone(), ip)),
                    }
                }
            }
        }
        let Some((_, first)) = chosen.first() else { return Ok(Vec::new()) };
        if port.spec.mac.is_none() {
            port.spec.mac = self.free_mac(&network, *first);
        }
        let mut checked: Vec<&Key> = Vec::new();
        for (subnet, ip) in &chosen {
            if !checked.contains(&subnet) {
                checked.push(subnet);
                ops.push(Op::Check { key: subnet.clone(), expect: Expect::Exists });
            }
            let guard = key(&ADDRESSES, self.tenant, &network, &ip.to_string());
            ops.push(take_address(guard, self.owner, *ip));
        }
        port.spec.addresses = Some(chosen.iter().map(|(_, ip)| ip.to_string()).collect());
        if let Some(mac) = port.spec.mac.clone().filter(|mac| !is_implied(mac, port)) {
            let guard = key(&MACS, self.tenant, &network, &mac);
            if self.is_free(&guard) {
                ops.push(take(guard, self.owner));
            } else {
                errors.invalid(&path.child("mac"), &mac, "is in use by another port");
            }
        }
        Ok(ops)
    }

    fn free_address(&self, network: &str, candidates: &Candidates) -> Option<IpAddr> {
        let len = candidates.len();
        let mut rng = rand::rng();
        let random: Vec<u64> = (0..RANDOM_PROBES).map(|_| rng.random_range(0..len)).collect();
        let start = rng.random_range(0..len);
        // Of the very large ones not everything is looked at: they are never that full.
        const SEARCHED: u64 = 1 << 20;
        let in_order = (0..len.min(SEARCHED)).map(|n| (start + n) % len);
        random
            .into_iter()
            .chain(in_order)
            .filter_map(|place| candidates.at(place))
            .find(|ip| self.is_free(&key(&ADDRESSES, self.tenant, network, &ip.to_string())))
    }

    /// The Ethernet address that an IPv4 address says; for another, that or a random one. Nothing only when all
    /// that were tried are taken.
    fn free_mac(&self, network: &str, ip: IpAddr) -> Option<String> {
        if ip.is_ipv4() {
            return Some(port_mac(ip));
        }
        let mut rng = rand::rng();
        let random = (0..MAC_PROBES).map(|_| {
            let [a, b, c, d, e] = rng.random::<[u8; 5]>();
            format!("06:{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}")
        });
        std::iter::once(port_mac(ip))
            .chain(random)
            .find(|mac| self.is_free(&key(&MACS, self.tenant, network, mac)))
    }

    fn public(&self, address: &mut PublicIP, errors: &mut Errors) -> Result<Vec<Op>, ApiError> {
        let system = TenantName::system();
        let name = address.spec.pool_name.clone();
        let path = Path::root("spec");
        let pool_key = key(&POOLS, &system, "", &name);
        let pool = read::<PublicPool>(self.objects, &pool_key)?;
        // One that serves others is none to this tenant.
        let Some(pool) = pool.filter(|p| p.serves(self.tenant.as_str())) else {
            errors.not_found(&path.child("poolName"), &name);
            return Ok(Vec::new());
        };
        let ranges = pool.ranges();
        let free = |ip: IpAddr| self.is_free(&key(&PUBLIC, &system, "", &ip.to_string()));
        let family = address.spec.ip_family;
        let found = match &address.spec.address {
            Some(text) => {
                let Ok(ip) = text.parse::<IpAddr>() else { return Ok(Vec::new()) };
                if !ranges.iter().any(|r| r.contains(ip)) {
                    errors.invalid(&path.child("address"), text, "is not an address of the pool");
                } else if !free(ip) {
                    errors.invalid(&path.child("address"), text, "is in use");
                }
                Some(ip)
            }
            None if pool.spec.retired == Some(true) => {
                errors.invalid(&path.child("poolName"), &name, "gives no new addresses");
                return Ok(Vec::new());
            }
            None => {
                let of_family = ranges.iter().filter(|r| family.is_none_or(|f| f.has(r.first)));
                of_family.clone().find_map(|range| free_in(range, free))
            }
        };
        let Some(ip) = found else {
            return Err(ApiError::internal(format!(
                "failed to allocate a public address: the pool {name:?} is used up"
            )));
        };
        let Some(place) = self.free_place(&pool, &name)? else {
            let most = pool.spec.max_per_tenant.unwrap_or(PLACES_MAX);
            errors.forbidden(
                &path.child("poolName"),
                &format!("the pool gives each tenant {most} addresses, and they are given"),
            );
            return Ok(Vec::new());
        };
        address.spec.address = Some(ip.to_string());
        address.status.get_or_insert_default().place = Some(place);
        let owner = format!("{}:{}", self.tenant, self.owner);
        Ok(vec![
            Op::Check { key: pool_key, expect: Expect::Exists },
            take_address(key(&PUBLIC, &system, "", &ip.to_string()), &owner, ip),
            take(key(&PLACES, self.tenant, &name, &place.to_string()), self.owner),
        ])
    }

    /// The first place of the tenant's in a pool that is free; none when it has as many addresses from it as it may.
    fn free_place(&self, pool: &PublicPool, name: &str) -> Result<Option<i64>, ApiError> {
        let most = pool.spec.max_per_tenant.unwrap_or(PLACES_MAX).min(PLACES_MAX);
        let scope = Scope::Namespace(PLACES.clone(), self.tenant.clone(), name.into());
        let taken = self.objects.list(&scope, &ListOptions::default()).map_err(ApiError::internal)?.items;
        // Places above a limit that was lowered count too.
        if taken.len() as i64 >= most {
            return Ok(None);
        }
        let places: std::collections::BTreeSet<&str> = taken.iter().map(|(key, _)| &*key.name).collect();
        Ok((0..most).find(|place| !places.contains(place.to_string().as_str())))
    }
}

/// A free address of a range: at random places first, then in order.
fn free_in(range: &AddressRange, free: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
    /// What is searched of a range: a pool of IPv6 addresses has more than anybody counts.
    const SEARCHED: u64 = 1 << 20;
    let len = range.len().min(SEARCHED);
    let mut rng = rand::rng();
    let random: Vec<u64> = (0..RANDOM_PROBES).map(|_| rng.random_range(0..len)).collect();
    random.into_iter().chain(0..len).filter_map(|n| range.at(n)).find(|ip| free(*ip))
}
