//! The pod network as the agent needs it: addresses for a pod's namespace.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::BoxFuture;
use skep_net::machine::{MachineConfig, MachineNetwork, PodConfig};
use skep_net::{MacAddr, Namespace};

/// Which pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodIdentity {
    /// Its uid.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its annotations, which may ask for an address.
    pub annotations: std::collections::BTreeMap<String, String>,
    /// For a static pod the uid of its node: the API server does not know the pod itself.
    pub static_of: Option<String>,
}

/// What a pod got.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PodAddresses {
    /// Its addresses, the primary one first.
    pub ips: Vec<String>,
}

/// A network that cannot do what is asked: a sentence for the event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NetworkError(pub String);

/// Gives pods their network.
pub trait PodNetwork: Send + Sync + 'static {
    /// Makes the pod's namespace at `netns` (unless it is there), and in it an interface with addresses. May be called
    /// again, and then gives the same addresses.
    fn set_up<'a>(
        &'a self,
        pod: &'a PodIdentity,
        netns: &'a Path,
    ) -> BoxFuture<'a, Result<PodAddresses, NetworkError>>;

    /// Takes the pod's network away, its namespace too. What is not there is fine.
    fn tear_down<'a>(&'a self, uid: &'a str, netns: &'a Path) -> BoxFuture<'a, Result<(), NetworkError>>;

    /// Why the network is not ready; nothing when it is.
    fn not_ready(&self) -> Option<String> {
        None
    }

    /// The servers that know the tenant's services; none leaves pods with the node's own.
    fn dns_servers(&self) -> Vec<String> {
        Vec::new()
    }
}

/// A network of this machine alone: a bridge with addresses from a range that the agent hands out itself. For a
/// single node, and for tests.
pub struct Standalone {
    inner: Arc<Mutex<Inner>>,
    records: PathBuf,
}

struct Inner {
    network: MachineNetwork,
    range: Range,
}

/// A range of IPv4 addresses; the first is the bridge's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    first: u32,
    prefix: u8,
}

impl std::str::FromStr for Range {
    type Err = String;

    fn from_str(text: &str) -> Result<Range, String> {
        let bad = || format!("{text:?} is not a range of IPv4 addresses such as 10.244.0.0/24");
        let (address, prefix) = text.split_once('/').ok_or_else(bad)?;
        let address: Ipv4Addr = address.parse().map_err(|_| bad())?;
        let prefix: u8 = prefix.parse().ok().filter(|p| (8..=29).contains(p)).ok_or_else(bad)?;
        let mask = u32::MAX << (32 - u32::from(prefix));
        Ok(Range { first: u32::from(address) & mask, prefix })
    }
}

impl Range {
    fn address(self, n: u32) -> Option<Ipv4Addr> {
        let size = 1u32 << (32 - u32::from(self.prefix));
        // Neither the range's own address nor the broadcast one.
        (n > 0 && n < size - 1).then(|| Ipv4Addr::from(self.first + n))
    }

    /// The lowest address that nobody has.
    fn free(self, taken: &BTreeSet<Ipv4Addr>) -> Option<Ipv4Addr> {
        (2..).map_while(|n| self.address(n)).find(|a| !taken.contains(a))
    }
}

fn failed(doing: &str) -> impl Fn(skep_net::Error) -> NetworkError + '_ {
    move |e| {
        let mut text = format!("{doing}: {e}");
        let mut source = std::error::Error::source(&e);
        while let Some(s) = source {
            text.push_str(&format!(": {s}"));
            source = s.source();
        }
        NetworkError(text)
    }
}

/// A locally administered hardware address that follows from the IP address.
fn mac_of(address: Ipv4Addr) -> MacAddr {
    let [a, b, c, d] = address.octets();
    MacAddr([0x0a, 0x58, a, b, c, d])
}

/// What the bridge carries.
const MTU: u32 = 1500;

impl Standalone {
    /// Makes the bridge in the namespace that the agent is in. `records` is a directory that says who has which address.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn open(bridge: &str, range: Range, records: PathBuf) -> Result<Standalone, NetworkError> {
        std::fs::create_dir_all(&records)
            .map_err(|e| NetworkError(format!("making {}: {e}", records.display())))?;
        let own = range.address(1).ok_or_else(|| NetworkError("the range is too small".to_owned()))?;
        let namespace = Namespace::current().map_err(failed("opening this network namespace"))?;
        let config = MachineConfig {
            bridge: bridge.to_owned(),
            mac: mac_of(own),
            mtu: MTU,
            addresses: vec![with_prefix(own, range.prefix)?],
            uplink: None,
            gateways: Vec::new(),
        };
        let network = MachineNetwork::set_up(namespace, config).map_err(failed("making the bridge"))?;
        Ok(Standalone { inner: Arc::new(Mutex::new(Inner { network, range })), records })
    }
}

fn with_prefix(address: Ipv4Addr, prefix: u8) -> Result<ipnet::IpNet, NetworkError> {
    ipnet::IpNet::new(IpAddr::V4(address), prefix).map_err(|e| NetworkError(e.to_string()))
}

/// The address of a pod, from its record; a new one is written before it is used.
fn assign(records: &Path, uid: &str, range: Range) -> Result<Ipv4Addr, NetworkError> {
    let failed = |e: std::io::Error| NetworkError(format!("keeping addresses in {}: {e}", records.display()));
    let mut taken = BTreeSet::new();
    for entry in std::fs::read_dir(records).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let address = std::fs::read_to_string(&path).ok().and_then(|t| t.trim().parse::<Ipv4Addr>().ok());
        if path.file_name().is_some_and(|n| n == uid)
            && let Some(address) = address
        {
            return Ok(address);
        }
        taken.extend(address);
    }
    let address =
        range.free(&taken).ok_or_else(|| NetworkError("all addresses of the range are taken".to_owned()))?;
    std::fs::write(records.join(uid), address.to_string()).map_err(failed)?;
    Ok(address)
}

impl PodNetwork for Standalone {
    fn set_up<'a>(
        &'a self,
        pod: &'a PodIdentity,
        netns: &'a Path,
    ) -> BoxFuture<'a, Result<PodAddresses, NetworkError>> {
        let (inner, records) = (self.inner.clone(), self.records.clone());
        let (uid, netns) = (pod.uid.clone(), netns.to_owned());
        Box::pin(async move {
            tokio::task::spawn_blocking(move || {
                let mut inner = inner.lock().unwrap_or_else(PoisonError::into_inner);
                let range = inner.range;
                let address = assign(&records, &uid, range)?;
                let gateway = range.address(1).map(IpAddr::V4);
                let config = PodConfig {
                    id: uid,
                    namespace: netns,
                    mac: mac_of(address),
                    addresses: vec![with_prefix(address, range.prefix)?],
                    pairs: Vec::new(),
                    gateways: gateway.into_iter().collect(),
                    mtu: MTU,
                };
                inner.network.set_up_pod(&config).map_err(failed("connecting the pod"))?;
                Ok(PodAddresses { ips: vec![address.to_string()] })
            })
            .await
            .map_err(|e| NetworkError(e.to_string()))?
        })
    }

    fn tear_down<'a>(&'a self, uid: &'a str, netns: &'a Path) -> BoxFuture<'a, Result<(), NetworkError>> {
        let (inner, record) = (self.inner.clone(), self.records.join(uid));
        let (uid, netns) = (uid.to_owned(), netns.to_owned());
        Box::pin(async move {
            tokio::task::spawn_blocking(move || {
                let mut inner = inner.lock().unwrap_or_else(PoisonError::into_inner);
                inner.network.tear_down_pod(&uid, &netns).map_err(failed("disconnecting the pod"))?;
                match std::fs::remove_file(&record) {
                    Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                        Err(NetworkError(format!("freeing an address: {e}")))
                    }
                    _ => Ok(()),
                }
            })
            .await
            .map_err(|e| NetworkError(e.to_string()))?
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_handed_out_once() {
        let dir = tempfile::tempdir().unwrap();
        let range: Range = "10.1.2.77/29".parse().unwrap();
        let mut got: Vec<String> =
            (0..5).map(|n| assign(dir.path(), &format!("u{n}"), range).unwrap().to_string()).collect();
        assert_eq!(got, ["10.1.2.74", "10.1.2.75", "10.1.2.76", "10.1.2.77", "10.1.2.78"]);
        assert!(assign(dir.path(), "u9", range).is_err(), "no address is left");
        assert_eq!(assign(dir.path(), "u3", range).unwrap().to_string(), "10.1.2.77", "the same again");
        std::fs::remove_file(dir.path().join("u1")).unwrap();
        got[1] = assign(dir.path(), "u9", range).unwrap().to_string();
        assert_eq!(got[1], "10.1.2.75");
        for bad in ["10.0.0.0", "10.0.0.0/30", "x/24", "10.0.0.0/33"] {
            assert!(bad.parse::<Range>().is_err(), "{bad}");
        }
    }
}
