//! Which hosts this computer is: itself, or several, each a network namespace with an address of its own on a wire that joins them.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use skep_net::Namespace;
use skep_net::underlay::{HOSTS_MAX, Underlay, free_subnet};

/// Where the folders of hosts are.
const FOLDER: &str = "hosts";
/// Where in a host's folder its network namespace is mounted.
const NAMESPACE: &str = "namespace";
/// What hosts of one computer share: images, and how registries are reached.
const SHARED: [&str; 2] = ["images", "registries.json"];
/// What is kept, so that the next start makes the same hosts.
const FILE: &str = "hosts.json";

/// Several hosts, as they were asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hosts {
    pub(super) count: u8,
    subnet: Ipv4Net,
    bridge: String,
}

/// One host of this computer.
#[derive(Clone, Debug, Default)]
pub(super) struct Place {
    /// Its data directory.
    pub(super) data: PathBuf,
    /// Which of several it is, from 1.
    pub(super) number: Option<u8>,
    /// Its network namespace, if it has one of its own.
    pub(super) namespace: Option<PathBuf>,
    /// Its address, if it is not to be found out.
    pub(super) address: Option<IpAddr>,
}

impl Hosts {
    /// As they were at the last start.
    pub(super) fn read(data: &Path) -> Option<Hosts> {
        serde_json::from_slice(&std::fs::read(data.join(FILE)).ok()?).ok()
    }

    /// Decides on hosts, and keeps what was decided: so many if a number is given, as many as last time if none is; nothing when the
    /// computer itself is the host.
    pub(super) fn decide(data: &Path, asked: Option<u8>) -> anyhow::Result<Option<Hosts>> {
        let before = Hosts::read(data);
        let hosts = match (asked, before) {
            (None, before) => return Ok(before),
            (Some(0), before) => {
                if let Some(before) = before {
                    before.remove(data)?;
                    std::fs::remove_file(data.join(FILE))
                        .context("forgetting the hosts of the last start")?;
                }
                return Ok(None);
            }
            (Some(count), _) if count > HOSTS_MAX => bail!("at most {HOSTS_MAX} hosts fit on one wire"),
            (Some(count), Some(before)) => {
                if count < before.count {
                    bail!(
                        "there were {} hosts; with fewer the machines of the others would be lost: use another data directory, or --hosts {} or more",
                        before.count,
                        before.count
                    );
                }
                Hosts { count, ..before }
            }
            (Some(count), None) => {
                let seed: u16 = rand::random();
                let subnet = free_subnet(seed.into()).context("looking for addresses for the hosts' wire")?;
                let [_, b, c, _] = subnet.network().octets();
                Hosts { count, subnet, bridge: format!("skw{b:x}{c:02x}") }
            }
        };
        let new = data.join(FILE).with_extension("new");
        std::fs::write(&new, serde_json::to_vec(&hosts)?)
            .and_then(|()| std::fs::rename(&new, data.join(FILE)))
            .with_context(|| format!("keeping the hosts in {}", data.display()))?;
        Ok(Some(hosts))
    }

    pub(super) fn underlay(&self) -> Underlay {
        Underlay { bridge: self.bridge.clone(), subnet: self.subnet }
    }

    /// The computer's address on the wire, where the hosts reach the control plane.
    pub(super) fn gateway(&self) -> IpAddr {
        self.underlay().gateway().into()
    }

    fn place(&self, data: &Path, number: u8) -> Place {
        let folder = data.join(FOLDER).join(number.to_string());
        Place {
            namespace: Some(folder.join(NAMESPACE)),
            data: folder,
            number: Some(number),
            address: Some(self.underlay().address(number).into()),
        }
    }

    fn places(&self, data: &Path) -> Vec<Place> {
        (1..=self.count).map(|n| self.place(data, n)).collect()
    }

    /// Makes wire, namespaces and folders; what is there stays. Hosts of one computer share its images.
    pub(super) fn set_up(&self, data: &Path) -> anyhow::Result<()> {
        let underlay = self.underlay();
        underlay.set_up().context("making the wire between hosts; that needs root")?;
        for place in self.places(data) {
            std::fs::create_dir_all(&place.data)
                .with_context(|| format!("making {}", place.data.display()))?;
            std::fs::create_dir_all(data.join("images")).context("making the folder of images")?;
            for name in SHARED {
                match std::os::unix::fs::symlink(data.join(name), place.data.join(name)) {
                    Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                        return Err(e).with_context(|| format!("sharing {name} between hosts"));
                    }
                    _ => {}
                }
            }
            if let (Some(number), Some(namespace)) = (place.number, &place.namespace) {
                underlay.plug(number, namespace).with_context(|| format!("making the host {number}"))?;
            }
        }
        Ok(())
    }

    /// Removes wire and namespaces. Folders stay: the next start goes on with them.
    pub(super) fn remove(&self, data: &Path) -> anyhow::Result<()> {
        for place in self.places(data) {
            if let Some(namespace) = &place.namespace {
                Namespace::remove(namespace)
                    .with_context(|| format!("removing the host at {}", place.data.display()))?;
            }
        }
        self.underlay().remove().context("removing the wire between hosts")
    }

    /// What is missing of them, for `skep doctor`.
    pub(super) fn missing(&self, data: &Path) -> Vec<String> {
        let mut missing = Vec::new();
        match self.underlay().is_there() {
            Ok(true) => {}
            Ok(false) => missing.push(format!("the bridge {}", self.bridge)),
            Err(error) => missing.push(format!("the bridge {} ({error})", self.bridge)),
        }
        for place in self.places(data) {
            if let (Some(number), Some(path)) = (place.number, &place.namespace)
                && !matches!(interface(path), Ok(Some(_)))
            {
                missing.push(format!("the network namespace of host {number}"));
            }
        }
        missing
    }
}

/// A host's interface.
fn interface(namespace: &Path) -> Result<Option<skep_net::Link>, skep_net::Error> {
    Namespace::open(namespace)?.run(|| skep_net::Net::here()?.link("eth0"))?
}

/// All hosts of a data directory.
pub(super) fn places(data: &Path) -> Vec<Place> {
    match Hosts::read(data) {
        Some(hosts) => hosts.places(data),
        None => vec![Place { data: data.to_owned(), ..Place::default() }],
    }
}

impl Place {
    /// Runs something where the host's network is.
    pub(super) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> anyhow::Result<Option<T>> {
        let Some(path) = &self.namespace else { return Ok(Some(work())) };
        if !path.exists() {
            return Ok(None);
        }
        let namespace = Namespace::open(path).context("opening the host's network namespace")?;
        Ok(Some(namespace.run(work).context("entering the host's network namespace")?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_stay_as_they_were_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path();
        assert_eq!(Hosts::decide(data, None).unwrap(), None);
        assert_eq!(places(data)[0].data, data);
        let three = Hosts::decide(data, Some(3)).unwrap().unwrap();
        assert_eq!(Hosts::decide(data, None).unwrap().unwrap(), three);
        assert!(three.bridge.len() <= 10, "{}", three.bridge);
        let four = Hosts::decide(data, Some(4)).unwrap().unwrap();
        assert_eq!((four.count, four.subnet), (4, three.subnet));
        assert!(Hosts::decide(data, Some(3)).unwrap_err().to_string().contains("would be lost"));
        assert!(Hosts::decide(data, Some(101)).is_err());
        let all = places(data);
        assert_eq!(all.len(), 4);
        assert_eq!(all[3].data, data.join("hosts/4"));
        assert_ne!(all[2].address, all[3].address);
    }
}
