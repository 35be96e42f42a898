use skep_base::TenantName;
use skep_client::ObjectKey;
use skep_netplan::bandwidth::{Granted, Policy, WIRE_MPU_BYTES};

use super::*;
use crate::bandwidth::Identity;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + seconds).unwrap()
}

fn reading(n: u32, sent_bytes: u64) -> Reading {
    let tenant = TenantName::new("shop").unwrap();
    Reading {
        identity: Identity {
            key: ObjectKey::new(&tenant, "default", &format!("p{n}")),
            uid: format!("u{n}"),
            policy_name: None,
            policy: None,
            machine: None,
        },
        traffic: PortTraffic { sent_bytes, sent_packets: sent_bytes / 100, ..PortTraffic::default() },
        granted: Granted::default(),
        uplink_known: true,
    }
}

/// Goes through all that is due; how many were told of.
fn turn(reports: &mut Reports, readings: &[Reading], now: Timestamp, budget: usize) -> Vec<Value> {
    for reading in readings {
        if reports.is_new(reading) {
            reports.begin(reading, &Earlier::default(), now);
        }
    }
    let due: Vec<Reading> = reports.due(readings, now, budget).into_iter().cloned().collect();
    due.iter().filter_map(|r| reports.say(r, now)).collect()
}

#[test]
fn a_port_is_told_of_while_something_goes_through_and_once_more() {
    let mut reports = Reports::default();
    assert_eq!(turn(&mut reports, &[reading(1, 0)], at(0), 10)[0]["sentBytes"], 0);
    assert!(turn(&mut reports, &[reading(1, 0)], at(60), 10).is_empty(), "nothing happened");
    assert_eq!(turn(&mut reports, &[reading(1, 1000)], at(100), 10)[0]["sentBitsPerSecond"], 80);
    assert!(turn(&mut reports, &[reading(1, 5000)], at(105), 10).is_empty(), "not so soon");
    let told = turn(&mut reports, &[reading(1, 9000)], at(120), 10);
    assert_eq!((&told[0]["sentBytes"], &told[0]["sentBitsPerSecond"]), (&json!(9000), &json!(3200)));
    assert_eq!(turn(&mut reports, &[reading(1, 9000)], at(200), 10)[0]["sentBitsPerSecond"], 0);
    assert!(turn(&mut reports, &[reading(1, 9000)], at(300), 10).is_empty());
}

#[test]
fn a_thousand_busy_ports_are_told_of_in_turn_within_the_budget() {
    let mut reports = Reports::default();
    let mut told: HashMap<String, u32> = HashMap::new();
    for step in 0..400_i64 {
        let readings: Vec<Reading> =
            (0..1000).map(|n| reading(n, u64::try_from(step).unwrap() * 1000)).collect();
        for r in &readings {
            if reports.is_new(r) {
                reports.begin(r, &Earlier::default(), at(0));
            }
        }
        let due: Vec<Reading> = reports.due(&readings, at(step * 2), 10).into_iter().cloned().collect();
        assert!(due.len() <= 10);
        for r in &due {
            reports.say(r, at(step * 2)).unwrap();
            *told.entry(name_of(r)).or_default() += 1;
        }
    }
    let (least, most) = (told.values().min().unwrap(), told.values().max().unwrap());
    assert_eq!((told.len(), *least, *most), (1000, 4, 4), "everybody has the same turns");
}

#[test]
fn totals_go_on_over_restarts_and_begin_anew_with_another_port() {
    let mut reports = Reports::default();
    let earlier: Earlier = serde_json::from_value(json!({"status": {
        "sentBytes": 5000, "sentPackets": 50, "dropped": {"EgressPacketLimit": 3},
        "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2020-01-01T00:00:00Z"}]}}))
    .unwrap();
    let first = reading(1, 700);
    reports.begin(&first, &earlier, at(0));
    assert_eq!(reports.due(std::slice::from_ref(&first), at(1), 10).len(), 1);
    let status = reports.say(&first, at(1)).unwrap();
    assert_eq!((&status["sentBytes"], &status["sentBitsPerSecond"]), (&json!(5700), &json!(0)));
    assert_eq!((&status["dropped"]["EgressPacketLimit"], &status["droppedPackets"]), (&json!(3), &json!(3)));
    assert_eq!(status["conditions"][0]["lastTransitionTime"], "2020-01-01T00:00:00Z");
    // Counters that were made anew.
    let again = reading(1, 100);
    reports.due(std::slice::from_ref(&again), at(30), 10);
    assert_eq!(reports.say(&again, at(30)).unwrap()["sentBytes"], 5800);
    let mut other = reading(1, 10);
    other.identity.uid = "another".into();
    assert!(reports.is_new(&other));
}

#[test]
fn what_is_in_effect_is_said_at_once() {
    let limits =
        Limits { guaranteed_bits_per_s: Some(300), maximum_bits_per_s: Some(500), packets_per_s: Some(9) };
    let policy = Policy { sending: limits, receiving: Limits::default(), mpu_bytes: WIRE_MPU_BYTES };
    let mut port = reading(1, 0);
    let mut reports = Reports::default();
    assert_eq!(turn(&mut reports, &[port.clone()], at(0), 10)[0]["qos"], Value::Null);
    port.identity.policy_name = Some("gold".into());
    let missing = turn(&mut reports, &[port.clone()], at(1), 10);
    assert_eq!(missing[0]["conditions"][1]["reason"], "PolicyNotFound");
    port.identity.policy = Some(policy);
    let over = turn(&mut reports, &[port.clone()], at(2), 10);
    assert_eq!(over[0]["conditions"][1]["reason"], "Overcommitted");
    assert_eq!(over[0]["qos"]["egress"], json!({"guaranteed": "0", "maximum": "500", "packets": 9}));
    port.granted.sending_bits_per_s = 300;
    let granted = turn(&mut reports, &[port.clone()], at(3), 10);
    assert_eq!(granted[0]["conditions"][1]["status"], "True");
    assert_eq!(granted[0]["conditions"][1]["lastTransitionTime"], "1970-01-12T13:46:43Z");
    port.uplink_known = false;
    port.granted.sending_bits_per_s = 0;
    assert_eq!(turn(&mut reports, &[port], at(4), 10)[0]["conditions"][1]["reason"], "UplinkUnknown");
}

#[test]
fn what_a_machine_forges_is_told_by_reason_and_outlives_a_daemon() {
    let mut reports = Reports::default();
    let mut machine = reading(1, 100);
    machine.traffic.forged = Forged::new([2, 0, 0, 3, 0, 0]);
    let told = turn(&mut reports, &[machine.clone()], at(0), 1);
    let wanted = json!({"ForgedEthernetAddress": 2, "ForgedAddress": 3});
    assert_eq!((&told[0]["dropped"], &told[0]["droppedPackets"]), (&wanted, &json!(5)));
    // Another daemon, whose counters begin anew, goes on from there.
    let earlier: Earlier = serde_json::from_value(json!({"status": told[0]})).unwrap();
    let mut reports = Reports::default();
    machine.traffic.forged = Forged::new([1, 0, 0, 0, 0, 4]);
    reports.begin(&machine, &earlier, at(10));
    let told = turn(&mut reports, &[machine], at(20), 1);
    assert_eq!(
        told[0]["dropped"],
        json!({"ForgedEthernetAddress": 3, "ForgedAddress": 3, "UnknownProtocol": 4})
    );
}
