//! Public addresses of tenants that have machines here: which lead in, and what went through them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::json;
use skep_base::TenantName;
use skep_client::{ObjectKey, Patch};
use skep_net::switch::PublicTraffic;
use skep_netplan::public::{Holder, Public};
use skep_netplan::service::L4;

use crate::copies::Copies;
use crate::view::PortView;
use crate::{NetworkKey, PUBLICS, Shared};

/// How often what went through is written. Each address that something went through costs a write.
const REPORT_EVERY: Duration = Duration::from_secs(15);
/// Most writes of one report; the others have their turn in the next, those first that have waited longest.
const WRITES: usize = 50;
/// The object's numbers are signed.
const MAX: u64 = i64::MAX as u64;

/// A public address, as far as hosts care: without its counters, which they write themselves.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct PublicView {
    spec: PublicSpec,
    pub(crate) status: PublicStatus,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct PublicSpec {
    address: String,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PublicStatus {
    pub(crate) node_name: Option<String>,
    pub(crate) pod_name: Option<String>,
    pod_uid: Option<String>,
    ports: Option<Vec<Port>>,
    source_ranges: Option<Vec<String>>,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Port {
    protocol: L4,
    port: u16,
}

impl PublicView {
    pub(crate) fn address(&self) -> Option<IpAddr> {
        self.spec.address.parse().ok()
    }

    /// As plans see it; nothing for one that leads nowhere.
    pub(crate) fn public(&self) -> Option<Public> {
        let status = &self.status;
        let holder = match (&status.pod_uid, &status.ports) {
            (Some(_), _) => Holder::Pod,
            (None, Some(ports)) => {
                let ranges = status.source_ranges.iter().flatten();
                // What is no range at all lets nobody in.
                let sources: Vec<IpNet> = ranges.clone().filter_map(|r| r.parse().ok()).collect();
                if sources.is_empty() && ranges.count() > 0 {
                    return None;
                }
                Holder::Service { ports: ports.iter().map(|p| (p.protocol, p.port)).collect(), sources }
            }
            (None, None) => return None,
        };
        Some(Public { address: self.address()?, machine: status.node_name.clone()?, holder })
    }
}

/// The public addresses that pods have, by namespace and name of the pod and by its node.
#[derive(Debug, Default)]
pub(crate) struct OfPods(HashMap<(String, String, String), Vec<IpAddr>>);

impl OfPods {
    pub(crate) fn of(copies: &Copies, tenant: &TenantName) -> OfPods {
        let mut all: HashMap<_, Vec<IpAddr>> = HashMap::new();
        for public in copies.publics.of_tenant(tenant) {
            let status = &public.view.status;
            let (Some(pod), Some(node)) = (&status.pod_name, &status.node_name) else { continue };
            if let Some(ip) = public.view.address() {
                let key = (public.key.namespace.to_string(), pod.clone(), node.clone());
                all.entry(key).or_default().push(ip);
            }
        }
        OfPods(all)
    }

    /// Those of a port's pod.
    pub(crate) fn of_port(&self, namespace: &str, port: &PortView) -> &[IpAddr] {
        if self.0.is_empty() {
            return &[];
        }
        let (Some(pod), Some(node)) = (&port.spec.pod_name, &port.spec.node_name) else { return &[] };
        self.0.get(&(namespace.to_owned(), pod.clone(), node.clone())).map_or(&[], Vec::as_slice)
    }
}

/// The public addresses of a tenant, by the machine that each leads to.
pub(crate) fn publics_of(copies: &Copies, tenant: &TenantName) -> HashMap<String, Vec<Public>> {
    let mut all: HashMap<String, Vec<Public>> = HashMap::new();
    for public in copies.publics.of_tenant(tenant).iter().filter_map(|p| p.view.public()) {
        all.entry(public.machine.clone()).or_default().push(public);
    }
    all
}

/// Sums over all hosts and processes that have counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Totals {
    received_bytes: u64,
    sent_bytes: u64,
}

impl Totals {
    fn add(&mut self, before: PublicTraffic, now: PublicTraffic) {
        // One that is lower has begun anew.
        let more = |before: u64, now: u64| if now >= before { now - before } else { now };
        let sum = |total: u64, more: u64| total.saturating_add(more).min(MAX);
        self.received_bytes = sum(self.received_bytes, more(before.received_bytes, now.received_bytes));
        self.sent_bytes = sum(self.sent_bytes, more(before.sent_bytes, now.sent_bytes));
    }
}

#[derive(Debug)]
struct Known {
    uid: String,
    last: PublicTraffic,
    totals: Totals,
    told: Totals,
    /// In which report it was written last.
    turn: u64,
}

/// A public address whose status may be to be written.
#[derive(Clone, Debug)]
struct Reading {
    key: ObjectKey,
    uid: String,
    traffic: PublicTraffic,
}

/// What is known of the addresses that lead in here.
#[derive(Debug, Default)]
struct Reports {
    known: HashMap<ObjectKey, Known>,
    turn: u64,
}

impl Reports {
    /// Those that were not heard of before: what was counted elsewhere is then to be said with [`Reports::begin`].
    fn new_of<'a>(&self, readings: &'a [Reading]) -> Vec<&'a Reading> {
        readings.iter().filter(|r| self.known.get(&r.key).is_none_or(|k| k.uid != r.uid)).collect()
    }

    fn begin(&mut self, reading: &Reading, told: Totals) {
        let (uid, last) = (reading.uid.clone(), PublicTraffic::default());
        self.known.insert(reading.key.clone(), Known { uid, last, totals: told, told, turn: self.turn });
    }

    /// Takes up what counters say, forgets addresses that lead elsewhere by now, and gives those to be written.
    fn due(&mut self, readings: &[Reading]) -> Vec<(ObjectKey, String, Totals)> {
        self.turn += 1;
        let here: HashMap<&ObjectKey, &Reading> = readings.iter().map(|r| (&r.key, r)).collect();
        self.known.retain(|key, _| here.contains_key(key));
        let mut due = Vec::new();
        for (key, known) in &mut self.known {
            let Some(reading) = here.get(key) else { continue };
            known.totals.add(known.last, reading.traffic);
            known.last = reading.traffic;
            if known.totals != known.told {
                due.push((known.turn, key.clone(), known.uid.clone(), known.totals));
            }
        }
        due.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        due.truncate(WRITES);
        due.into_iter().map(|(_, key, uid, totals)| (key, uid, totals)).collect()
    }

    fn told(&mut self, key: &ObjectKey, totals: Totals) {
        if let Some(known) = self.known.get_mut(key) {
            (known.told, known.turn) = (totals, self.turn);
        }
    }
}

impl Shared {
    /// What went through each public address that leads in here.
    async fn public_readings(&self) -> Vec<Reading> {
        let all = self.networks();
        let work = move || {
            let mut found = Vec::new();
            for (NetworkKey { tenant, .. }, here) in all {
                let mut here = here.lock();
                let traffic: HashMap<IpAddr, PublicTraffic> =
                    here.programmed.switch.public_traffic()?.into_iter().collect();
                if traffic.is_empty() {
                    continue;
                }
                for public in here.copies.publics.of_tenant(&tenant) {
                    let Some(traffic) = public.view.address().and_then(|ip| traffic.get(&ip)) else {
                        continue;
                    };
                    found.push(Reading {
                        key: public.key.clone(),
                        uid: public.uid.to_string(),
                        traffic: *traffic,
                    });
                }
            }
            Ok(found)
        };
        self.in_kernel("", work).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "what went through public addresses could not be read; it is tried again");
            Vec::new()
        })
    }
}

/// Reads counters and writes statuses, until the task is dropped.
pub(crate) async fn run(shared: Arc<Shared>) {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Earlier {
        status: Totals,
    }
    let mut reports = Reports::default();
    loop {
        tokio::time::sleep(REPORT_EVERY).await;
        let readings = shared.public_readings().await;
        let at = |key: &ObjectKey| PUBLICS.at(&key.tenant).namespace(&key.namespace).name(&key.name);
        let new: Vec<Reading> = reports.new_of(&readings).into_iter().cloned().collect();
        for reading in new {
            match shared.client.read::<Earlier>(&at(&reading.key)).await {
                Ok(earlier) => reports.begin(&reading, earlier.status),
                Err(error) => tracing::debug!(%error, "a public address cannot be read"),
            }
        }
        for (key, uid, totals) in reports.due(&readings) {
            let status = json!({"receivedBytes": totals.received_bytes, "sentBytes": totals.sent_bytes});
            let patch = Patch::Merge(json!({"metadata": {"uid": uid}, "status": status}));
            match shared.client.patch_bytes(&at(&key).subresource("status"), &patch).await {
                Ok(_) => reports.told(&key, totals),
                // It is gone, or another by now.
                Err(error) if error.is_not_found() || error.is_conflict() => {}
                Err(error) => {
                    tracing::debug!(%error, "a public address's status cannot be written; it is tried again")
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(status: serde_json::Value) -> PublicView {
        serde_json::from_value(json!({"spec": {"address": "192.0.2.1"}, "status": status})).unwrap()
    }

    #[test]
    fn an_address_leads_to_a_pod_or_a_service() {
        let pod =
            view(json!({"nodeName": "n", "podName": "p", "podUid": "u", "sentBytes": 5})).public().unwrap();
        assert_eq!((pod.machine.as_str(), pod.holder), ("n", Holder::Pod));
        let service = json!({"nodeName": "n", "ports": [{"protocol": "UDP", "port": 53}], "sourceRanges": ["10.0.0.0/8"]});
        let sources = vec!["10.0.0.0/8".parse().unwrap()];
        let expected = Holder::Service { ports: vec![(L4::Udp, 53)], sources };
        assert_eq!(view(service).public().unwrap().holder, expected);
        let none =
            json!({"nodeName": "n", "ports": [{"protocol": "TCP", "port": 80}], "sourceRanges": ["nowhere"]});
        assert_eq!(view(none).public(), None, "what is no range opens nothing");
        for nowhere in [json!({}), json!({"nodeName": "n"}), json!({"podUid": "u"})] {
            assert_eq!(view(nowhere).public(), None);
        }
        assert_eq!(view(json!({"sentBytes": 1})), view(json!({"sentBytes": 2})), "counters are no news");
    }

    #[test]
    fn sums_go_on_over_processes() {
        let reading = |received_bytes, sent_bytes| Reading {
            key: ObjectKey::new(&TenantName::new("t").unwrap(), "ns", "p"),
            uid: "u".into(),
            traffic: PublicTraffic { received_bytes, sent_bytes },
        };
        let mut reports = Reports::default();
        let first = [reading(10, 1)];
        assert_eq!(reports.new_of(&first).len(), 1);
        reports.begin(&first[0], Totals { received_bytes: 100, sent_bytes: 7 });
        assert!(reports.new_of(&first).is_empty());
        let due = reports.due(&first);
        let sum = Totals { received_bytes: 110, sent_bytes: 8 };
        assert_eq!(due.iter().map(|d| d.2).collect::<Vec<_>>(), [sum]);
        // What was not written is written with the next.
        let due = reports.due(&[reading(15, 1)]);
        assert_eq!(due[0].2, Totals { received_bytes: 115, sent_bytes: 8 });
        reports.told(&due[0].0, due[0].2);
        assert!(reports.due(&[reading(15, 1)]).is_empty(), "nothing went through");
        // The switch was set up anew, and counts from nothing.
        assert_eq!(reports.due(&[reading(4, 0)])[0].2, Totals { received_bytes: 119, sent_bytes: 8 });
        // It leads elsewhere, and comes back: others have counted since.
        assert!(reports.due(&[]).is_empty());
        assert_eq!(reports.new_of(&[reading(1, 1)]).len(), 1);
    }
}
