//! What ports' statuses are to say, and when: a pure plan, and the loop that writes it.
//!
//! A network may have 65,000 ports, and everything that follows ports is told of each write. So a host writes at most
//! [`WRITES_PER_S`] of them, each port at most every [`REPORT_EVERY`], the one that has waited longest first; and one that nothing goes
//! through is told of once more, with a rate of nothing, and then not at all. With a thousand busy ports on a host a port's status
//! is some minutes old, and never wrong: it says when it was true.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use skep_client::Patch;
use skep_net::bandwidth::PortTraffic;
use skep_net::switch::Forged;
use skep_netplan::bandwidth::Limits;

use crate::bandwidth::Reading;
use crate::{PORTS, Shared};

/// Writes of statuses, in a second, of one host. With a hundred hosts that is a fiftieth of what the API server writes.
pub(crate) const WRITES_PER_S: u32 = 5;
/// A port's status is at least so old when it is written again for what went through.
const REPORT_EVERY_MS: i64 = 15_000;
/// How often counters are read.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// A kernel's counter of 64 bits is never full; the object's numbers are signed.
const MAX: u64 = i64::MAX as u64;

/// Sums since the port was made, over all processes that have counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Totals(PortTraffic);

impl Totals {
    /// What a counter says that was `before` when it was read last; one that is lower has begun anew.
    fn add(&mut self, before: &PortTraffic, now: &PortTraffic) {
        let fields: [fn(&mut PortTraffic) -> &mut u64; 8] = [
            |t| &mut t.sent_packets,
            |t| &mut t.sent_bytes,
            |t| &mut t.received_packets,
            |t| &mut t.received_bytes,
            |t| &mut t.sent_over_limit,
            |t| &mut t.received_over_limit,
            |t| &mut t.sent_over_maximum,
            |t| &mut t.received_over_maximum,
        ];
        let (mut before, mut now) = (*before, *now);
        for field in fields {
            let (before, now) = (*field(&mut before), *field(&mut now));
            let more = if now >= before { now - before } else { now };
            let sum = field(&mut self.0);
            *sum = sum.saturating_add(more).min(MAX);
        }
        let counts = before.forged.counts().iter().zip(now.forged.counts().iter());
        for (sum, (before, now)) in self.0.forged.counts().iter_mut().zip(counts) {
            let more = if now >= before { now - before } else { *now };
            *sum = sum.saturating_add(more).min(MAX);
        }
    }

    fn dropped(&self) -> Vec<(&'static str, u64)> {
        let PortTraffic {
            sent_over_limit,
            received_over_limit,
            sent_over_maximum,
            received_over_maximum,
            mut forged,
            ..
        } = self.0;
        let mut all = vec![
            ("EgressPacketLimit", sent_over_limit),
            ("IngressPacketLimit", received_over_limit),
            ("EgressMaximum", sent_over_maximum),
            ("IngressMaximum", received_over_maximum),
        ];
        all.extend(Forged::REASONS.into_iter().zip(*forged.counts()));
        all
    }
}

/// A port's status, as far as it is read: what earlier processes have counted.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Earlier {
    status: EarlierStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct EarlierStatus {
    sent_bytes: u64,
    sent_packets: u64,
    received_bytes: u64,
    received_packets: u64,
    dropped: BTreeMap<String, u64>,
    conditions: Vec<EarlierCondition>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct EarlierCondition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    last_transition_time: String,
}

impl Earlier {
    fn totals(&self) -> Totals {
        let status = &self.status;
        let dropped = |reason: &str| status.dropped.get(reason).copied().unwrap_or_default();
        Totals(PortTraffic {
            sent_packets: status.sent_packets,
            sent_bytes: status.sent_bytes,
            received_packets: status.received_packets,
            received_bytes: status.received_bytes,
            sent_over_limit: dropped("EgressPacketLimit"),
            received_over_limit: dropped("IngressPacketLimit"),
            sent_over_maximum: dropped("EgressMaximum"),
            received_over_maximum: dropped("IngressMaximum"),
            forged: Forged::new(Forged::REASONS.map(dropped)),
        })
    }
}

/// What is in effect: everything that a status says beside numbers.
#[derive(Clone, Debug, PartialEq)]
struct Effect {
    qos: Value,
    guaranteed: Option<(bool, &'static str, String)>,
}

fn effect(reading: &Reading) -> Effect {
    let identity = &reading.identity;
    let Some(name) = &identity.policy_name else { return Effect { qos: Value::Null, guaranteed: None } };
    let Some(policy) = &identity.policy else {
        let why = format!("there is no QosPolicy {name:?}; nothing of it is in effect");
        return Effect { qos: Value::Null, guaranteed: Some((false, "PolicyNotFound", why)) };
    };
    let granted = [reading.granted.sending_bits_per_s, reading.granted.receiving_bits_per_s];
    let side = |limits: &Limits, granted: u64| {
        json!({
            "guaranteed": limits.guaranteed_bits_per_s.map(|_| quantity(granted)),
            "maximum": limits.maximum_bits_per_s.map(quantity),
            "packets": limits.packets_per_s,
        })
    };
    let qos = json!({
        "policyName": name, "egress": side(&policy.sending, granted[0]), "ingress": side(&policy.receiving, granted[1]),
    });
    let asked = [policy.sending.guaranteed_bits_per_s, policy.receiving.guaranteed_bits_per_s];
    let guaranteed = if asked == [None, None] {
        None
    } else if asked.iter().zip(granted).all(|(asked, granted)| asked.is_none_or(|a| granted >= a)) {
        Some((true, "Granted", String::new()))
    } else if !reading.uplink_known {
        let why =
            "the host does not know what its uplink carries; its operator can say so with --uplink-mbit";
        Some((false, "UplinkUnknown", why.to_owned()))
    } else {
        let why =
            "the host's uplink has been promised to others; the port has what is granted, and what is idle";
        Some((false, "Overcommitted", why.to_owned()))
    };
    Effect { qos, guaranteed }
}

/// As policies are mostly written.
fn quantity(bits: u64) -> String {
    let units = [(1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")];
    let fits = units.iter().find(|(unit, _)| bits > 0 && bits.is_multiple_of(*unit));
    fits.map_or_else(|| bits.to_string(), |(unit, name)| format!("{}{name}", bits / unit))
}

#[derive(Debug)]
struct Known {
    uid: String,
    /// What the counters said when they were read last.
    last: PortTraffic,
    totals: Totals,
    begun_ms: i64,
    since: HashMap<String, (String, String)>,
    reported: Option<Reported>,
}

#[derive(Clone, Debug)]
struct Reported {
    at_ms: i64,
    totals: Totals,
    rates: [u64; 2],
    effect: Effect,
}

/// What is known of this host's ports.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    known: HashMap<String, Known>,
}

fn name_of(reading: &Reading) -> String {
    let key = &reading.identity.key;
    format!("{}/{}/{}", key.tenant, key.namespace, key.name)
}

impl Reports {
    /// Whether a port was not heard of before: what was counted before this process is then to be said with [`Reports::begin`].
    fn is_new(&self, reading: &Reading) -> bool {
        self.known.get(&name_of(reading)).is_none_or(|k| k.uid != reading.identity.uid)
    }

    fn begin(&mut self, reading: &Reading, earlier: &Earlier, now: Timestamp) {
        let condition =
            |c: &EarlierCondition| (c.kind.clone(), (c.status.clone(), c.last_transition_time.clone()));
        self.known.insert(
            name_of(reading),
            Known {
                uid: reading.identity.uid.clone(),
                last: PortTraffic::default(),
                totals: earlier.totals(),
                begun_ms: now.as_millisecond(),
                since: earlier.status.conditions.iter().map(condition).collect(),
                reported: None,
            },
        );
    }

    /// Takes up what counters say, forgets ports that are not here any more, and gives those to be reported now, the
    /// most urgent first, at most so many.
    fn due<'a>(&mut self, readings: &'a [Reading], now: Timestamp, budget: usize) -> Vec<&'a Reading> {
        let names: HashMap<String, &Reading> = readings.iter().map(|r| (name_of(r), r)).collect();
        self.known.retain(|name, _| names.contains_key(name));
        let mut due = Vec::new();
        for (name, reading) in names {
            let Some(known) = self.known.get_mut(&name) else { continue };
            known.totals.add(&known.last, &reading.traffic);
            known.last = reading.traffic;
            let at = match &known.reported {
                None => i64::MIN,
                Some(told) if told.effect != effect(reading) => i64::MIN + 1,
                Some(told) => {
                    let old = now.as_millisecond() - told.at_ms >= REPORT_EVERY_MS;
                    let moves = told.totals != known.totals || told.rates != [0, 0];
                    if !(old && moves) {
                        continue;
                    }
                    told.at_ms
                }
            };
            due.push((at, name, reading));
        }
        due.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        due.into_iter().take(budget).map(|(_, _, reading)| reading).collect()
    }

    /// What a port's status is to say; it counts as said.
    fn say(&mut self, reading: &Reading, now: Timestamp) -> Option<Value> {
        let known = self.known.get_mut(&name_of(reading))?;
        let now_ms = now.as_millisecond();
        let (before, since) = known
            .reported
            .as_ref()
            .map_or((Totals::default(), known.begun_ms), |told| (told.totals, told.at_ms));
        let Totals(total) = known.totals;
        // The first report tells no rate: what was counted before this process has no time.
        let rate = |now: u64, before: u64| match known.reported {
            Some(_) if now_ms > since => {
                let ms = u64::try_from(now_ms - since).unwrap_or(1);
                now.saturating_sub(before).saturating_mul(8_000) / ms
            }
            _ => 0,
        };
        let rates = [
            rate(total.sent_bytes, before.0.sent_bytes),
            rate(total.received_bytes, before.0.received_bytes),
        ];
        let effect = effect(reading);
        let dropped = known.totals.dropped();
        let mut conditions = vec![("Ready", true, "Programmed", String::new())];
        if let Some((holds, reason, message)) = &effect.guaranteed {
            conditions.push(("BandwidthGuaranteed", *holds, reason, message.clone()));
        }
        let conditions: Vec<Value> = conditions
            .into_iter()
            .map(|(kind, holds, reason, message)| {
                let status = if holds { "True" } else { "False" };
                let since = known.since.entry(kind.to_owned()).or_default();
                if since.0 != status {
                    *since = (status.to_owned(), now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
                }
                json!({"type": kind, "status": status, "reason": reason, "message": message,
                       "lastTransitionTime": since.1})
            })
            .collect();
        let status = json!({
            "reportTime": now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            "sentBytes": total.sent_bytes,
            "receivedBytes": total.received_bytes,
            "sentPackets": total.sent_packets,
            "receivedPackets": total.received_packets,
            "sentBitsPerSecond": rates[0],
            "receivedBitsPerSecond": rates[1],
            "droppedPackets": dropped.iter().map(|(_, n)| n).sum::<u64>().min(MAX),
            "dropped": dropped.iter().filter(|(_, n)| *n > 0).map(|(r, n)| ((*r).to_owned(), json!(n))).collect::<serde_json::Map<_, _>>(),
            "qos": effect.qos,
            "conditions": conditions,
        });
        known.reported = Some(Reported { at_ms: now_ms, totals: known.totals, rates, effect });
        Some(status)
    }

    /// What was to be said did not arrive: it is said again in its turn.
    fn unsaid(&mut self, reading: &Reading) {
        if let Some(known) = self.known.get_mut(&name_of(reading)) {
            known.reported = None;
        }
    }
}

/// Reads counters and writes statuses, until the task is dropped.
pub(crate) async fn run(shared: Arc<Shared>) {
    let budget = WRITES_PER_S as usize * LOOK_EVERY.as_secs() as usize;
    let mut reports = Reports::default();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let readings = shared.readings().await;
        let at = |reading: &Reading| {
            let key = &reading.identity.key;
            PORTS.at(&key.tenant).namespace(&key.namespace).name(&key.name)
        };
        // What new ports have counted before costs a read each, and counts as a write.
        let mut left = budget;
        for reading in &readings {
            if left == 0 || !reports.is_new(reading) {
                continue;
            }
            left -= 1;
            match shared.client.read::<Earlier>(&at(reading)).await {
                Ok(earlier) => reports.begin(reading, &earlier, Timestamp::now()),
                Err(error) if error.is_not_found() => {}
                Err(error) => tracing::debug!(%error, "a port's status cannot be read"),
            }
        }
        let now = Timestamp::now();
        for reading in reports.due(&readings, now, left) {
            let Some(status) = reports.say(reading, now) else { continue };
            let patch = Patch::Merge(json!({"metadata": {"uid": reading.identity.uid}, "status": status}));
            match shared.client.patch_bytes(&at(reading).subresource("status"), &patch).await {
                Ok(_) => {}
                // It is gone, or another by now.
                Err(error) if error.is_not_found() || error.is_conflict() => {}
                Err(error) => {
                    tracing::debug!(%error, "a port's status cannot be written; it is tried again");
                    reports.unsaid(reading);
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
