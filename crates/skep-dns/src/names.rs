//! What is known by name.

use std::net::IpAddr;

use rustc_hash::FxHashMap;

/// A port that has a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedPort {
    /// `http`.
    pub name: String,
    /// `tcp`, `udp`, `sctp`.
    pub protocol: &'static str,
    /// The number.
    pub port: u16,
}

/// An endpoint of a headless service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointName {
    /// Its name below the service's; one is made from the address if it has none.
    pub hostname: Option<String>,
    /// Its address.
    pub ip: IpAddr,
    /// Its ports.
    pub ports: Vec<NamedPort>,
}

/// What a service's name leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The service's own addresses, and its ports.
    Service(Vec<IpAddr>, Vec<NamedPort>),
    /// Its endpoints.
    Headless(Vec<EndpointName>),
    /// Another name.
    Alias(String),
}

/// What is known of one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceNames {
    /// What its name leads to.
    pub target: Target,
}

/// The names of all services of one tenant.
#[derive(Debug, Default)]
pub struct Names {
    /// By namespace, then by name: both are asked for alone too.
    services: FxHashMap<String, FxHashMap<String, ServiceNames>>,
    /// Addresses backwards: the labels before the domain. One address may be an endpoint of several services.
    reverse: FxHashMap<IpAddr, Vec<(String, String, Option<String>)>>,
    /// How often anything has changed.
    changes: u64,
}

/// The name of an endpoint that has none: its address with dashes.
pub(crate) fn dashed(ip: IpAddr) -> String {
    ip.to_string().replace(['.', ':'], "-")
}

impl EndpointName {
    pub(crate) fn label(&self) -> String {
        self.hostname.as_ref().map_or_else(|| dashed(self.ip), |h| h.to_ascii_lowercase())
    }
}

impl Names {
    /// How many services there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.services.values().map(FxHashMap::len).sum()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.services.is_empty()
    }

    /// Sets, changes or removes a service.
    pub fn set(&mut self, namespace: &str, name: &str, service: Option<ServiceNames>) {
        self.changes += 1;
        let old = self.services.get_mut(namespace).and_then(|all| all.remove(name));
        for (ip, _) in old.iter().flat_map(addresses) {
            if let Some(list) = self.reverse.get_mut(&ip) {
                list.retain(|(n, s, _)| !(n == namespace && s == name));
                if list.is_empty() {
                    self.reverse.remove(&ip);
                }
            }
        }
        match service {
            Some(service) => {
                for (ip, host) in addresses(&service) {
                    let place = (namespace.to_owned(), name.to_owned(), host);
                    self.reverse.entry(ip).or_default().push(place);
                }
                self.services.entry(namespace.to_owned()).or_default().insert(name.to_owned(), service);
            }
            None if self.services.get(namespace).is_some_and(FxHashMap::is_empty) => {
                self.services.remove(namespace);
            }
            None => {}
        }
    }

    /// A service.
    #[must_use]
    pub fn get(&self, namespace: &str, name: &str) -> Option<&ServiceNames> {
        self.services.get(namespace)?.get(name)
    }

    /// Another number whenever anything has changed: what was answered before holds as long as it is the same.
    pub(crate) fn changes(&self) -> u64 {
        self.changes
    }

    pub(crate) fn has_namespace(&self, namespace: &str) -> bool {
        self.services.contains_key(namespace)
    }

    /// What an address is called: namespace, service, and the endpoint's own name.
    pub(crate) fn reverse(&self, ip: IpAddr) -> &[(String, String, Option<String>)] {
        self.reverse.get(&ip).map_or(&[], Vec::as_slice)
    }
}

fn addresses(service: &ServiceNames) -> Vec<(IpAddr, Option<String>)> {
    match &service.target {
        Target::Service(ips, _) => ips.iter().map(|ip| (*ip, None)).collect(),
        Target::Headless(endpoints) => endpoints.iter().map(|e| (e.ip, Some(e.label()))).collect(),
        Target::Alias(_) => Vec::new(),
    }
}
