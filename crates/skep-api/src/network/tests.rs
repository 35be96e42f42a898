use std::net::IpAddr;

use serde_json::json;

use super::*;
use crate::context::{Context, UserInfo};
use crate::kind::Kind;

fn check<T: Kind>(json: serde_json::Value) -> Result<T, Vec<String>> {
    let mut object: T = serde_json::from_value(json).map_err(|e| vec![e.to_string()])?;
    object.set_defaults();
    let user = UserInfo::default();
    let cx = Context { now: jiff::Timestamp::UNIX_EPOCH, user: &user, subresource: "" };
    let mut errors = Errors::new();
    object.validate(&cx, &mut errors);
    if errors.is_empty() { Ok(object) } else { Err(errors.iter().map(ToString::to_string).collect()) }
}

fn fields<T: Kind>(json: serde_json::Value) -> Vec<String> {
    let errors = check::<T>(json).err().unwrap_or_default();
    errors.into_iter().map(|e| e.split(": ").next().unwrap_or_default().to_owned()).collect()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn networks_have_an_mtu_that_fits() {
    let network: Network = check(json!({"metadata": {"name": "a"}})).unwrap();
    assert_eq!(network.spec.mtu, Some(1450));
    assert_eq!(fields::<Network>(json!({"spec": {"mtu": 1279}})), ["spec.mtu"]);
    assert_eq!(fields::<Network>(json!({"spec": {"mtu": 9147}})), ["spec.mtu"]);
    assert_eq!(fields::<Network>(json!({"spec": {"vni": 4095}})), ["spec.vni"]);
    assert_eq!(fields::<Network>(json!({"spec": {"vni": 16_777_216}})), ["spec.vni"]);
    assert!(check::<Network>(json!({"spec": {"mtu": 9000, "vni": 16_777_215}})).is_ok());
}

#[test]
fn subnets_know_what_they_can_give() {
    let subnet: Subnet =
        check(json!({"spec": {"cidr": "10.1.0.0/29", "reserved": ["10.1.0.3", "10.1.0.6-10.1.0.7"]}}))
            .unwrap();
    assert_eq!(
        (subnet.spec.network_name.as_str(), subnet.spec.gateway.as_deref()),
        ("default", Some("10.1.0.1"))
    );
    let candidates = subnet.candidates().unwrap();
    let free: Vec<_> = (0..candidates.len()).filter_map(|n| candidates.at(n)).collect();
    assert_eq!(free, ["10.1.0.2", "10.1.0.4", "10.1.0.5"].map(ip));
    // Reserved ones can be asked for; the gateway, the first and the last cannot.
    let usable: Vec<_> = (0..10).filter(|n| candidates.usable(ip(&format!("10.1.0.{n}")))).collect();
    assert_eq!(usable, [2, 3, 4, 5, 6]);
    assert_eq!(candidates.at(8), None);
}

#[test]
fn the_default_subnet_is_valid_and_large() {
    let subnet = default_subnet();
    let subnet: Subnet = check(serde_json::to_value(&subnet).unwrap()).unwrap();
    assert!(subnet.candidates().unwrap().len() > 65_000 * 4);
}

#[test]
fn large_subnets_give_from_their_beginning() {
    let subnet: Subnet = check(json!({"spec": {"cidr": "fd00:1::/64"}})).unwrap();
    let candidates = subnet.candidates().unwrap();
    assert_eq!(candidates.len(), 1 << 40);
    assert_eq!(candidates.at(2), Some(ip("fd00:1::2")));
    assert_eq!((candidates.at(0), candidates.at(1)), (None, None));
    assert_eq!(candidates.at(candidates.len() - 1), Some(ip("fd00:1::ff:ffff:ffff")));
    assert!(candidates.usable(ip("fd00:1:0:0:8000::")));
    assert!(!candidates.usable(ip("fd00:2::5")));
}

#[test]
fn bad_subnets_are_refused() {
    for (spec, field) in [
        (json!({}), "spec.cidr"),
        (json!({"cidr": "10.1.0.1/16"}), "spec.cidr"),
        (json!({"cidr": "10.1.0.0/31"}), "spec.cidr"),
        (json!({"cidr": "10.0.0.0/7"}), "spec.cidr"),
        (json!({"cidr": "127.0.0.0/8"}), "spec.cidr"),
        (json!({"cidr": "10.1.0.0/16", "gateway": "10.2.0.1"}), "spec.gateway"),
        (json!({"cidr": "10.1.0.0/16", "gateway": "10.1.0.0"}), "spec.gateway"),
        (json!({"cidr": "10.1.0.0/16", "gateway": "x"}), "spec.gateway"),
        (json!({"cidr": "10.1.0.0/16", "reserved": ["10.2.0.1"]}), "spec.reserved[0]"),
        (json!({"cidr": "10.1.0.0/16", "reserved": ["10.1.0.1", "10.1.0.9-10.1.0.1"]}), "spec.reserved[1]"),
        (json!({"cidr": "10.1.0.0/16", "networkName": "A"}), "spec.networkName"),
    ] {
        let got = fields::<Subnet>(json!({"spec": spec.clone()}));
        assert!(!got.is_empty() && got.iter().all(|f| f == field), "{spec}: {got:?}");
    }
}

#[test]
fn ranges_are_read_in_three_forms() {
    let range = |text| parse_range(text).map(|r| (r.first.to_string(), r.last.to_string()));
    assert_eq!(range("10.0.0.1"), Ok(("10.0.0.1".into(), "10.0.0.1".into())));
    assert_eq!(range("10.0.0.1-10.0.0.3"), Ok(("10.0.0.1".into(), "10.0.0.3".into())));
    assert_eq!(range("10.0.0.0/30"), Ok(("10.0.0.0".into(), "10.0.0.3".into())));
    for bad in ["", "10.0.0.3-10.0.0.1", "10.0.0.1-fd00::1", "10.0.0", "a-b"] {
        assert_eq!(range(bad), Err(BadRange), "{bad:?}");
    }
    let range = parse_range("10.0.0.0/30").unwrap();
    assert!(range.contains(ip("10.0.0.2")) && !range.contains(ip("10.0.0.4")) && !range.contains(ip("::1")));
}

#[test]
fn ports_have_addresses_in_one_form() {
    let port: Port = check(json!({"spec": {"addresses": ["FD00:0::1", "10.0.0.1"]}})).unwrap();
    assert_eq!(port.spec.addresses.as_deref().unwrap(), ["fd00::1", "10.0.0.1"]);
    assert_eq!(
        fields::<Port>(json!({"spec": {"addresses": ["fd00::1", "FD00:0::1"]}})),
        ["spec.addresses[1]"]
    );
    assert_eq!(fields::<Port>(json!({"spec": {"addresses": ["10.0.0.256"]}})), ["spec.addresses[0]"]);
    for mac in ["02:00:00:00:00:0A", "02:00:00:00:00", "03:00:00:00:00:01", "020000000001"] {
        assert_eq!(fields::<Port>(json!({"spec": {"mac": mac}})), ["spec.mac"], "{mac}");
    }
    assert_eq!(fields::<Port>(json!({"spec": {"nodeInterface": true}})), ["spec.nodeName"]);
    let pairs = json!({"spec": {"allowedPairs": [{"address": "10.9.0.0/16"}, {"address": "x"}]}});
    assert_eq!(fields::<Port>(pairs), ["spec.allowedPairs[1].address"]);
}

#[test]
fn ports_show_what_went_through() {
    let port: Port = check(json!({"metadata": {"name": "p"}, "spec": {"qosPolicyName": "gold"}})).unwrap();
    let status = serde_json::from_value(json!({
        "sentBytes": 1536, "receivedBytes": 3_000_000_000_i64, "droppedPackets": 7,
        "sentBitsPerSecond": 12_300_000, "receivedBitsPerSecond": 999,
    }));
    let port = Port { status: Some(status.unwrap()), ..port };
    let row = port.row(jiff::Timestamp::UNIX_EPOCH);
    for (column, text) in [
        ("Sent", "1.5Ki"),
        ("Received", "2.8Gi"),
        ("Dropped", "7"),
        ("QoS", "gold"),
        ("Sending", "12.3M"),
        ("Receiving", "999"),
    ] {
        let index = Port::columns().iter().position(|c| c.name == column).unwrap();
        assert_eq!(row[index], json!(text), "{column}");
    }
}

#[test]
fn the_ethernet_address_says_which_ip_address() {
    assert_eq!(port_mac(ip("10.64.1.2")), "02:53:0a:40:01:02");
    assert_eq!(port_mac(ip("fd00::aa:bbcc:ddee")), "06:aa:bb:cc:dd:ee");
}

#[test]
fn security_groups_and_rates_are_checked() {
    let group = |rule| fields::<SecurityGroup>(json!({"spec": {"ingress": [rule]}}));
    assert!(group(json!({"protocol": "TCP", "ports": [{"first": 80}], "cidrs": ["10.0.0.0/8"]})).is_empty());
    assert_eq!(group(json!({"ports": [{"first": 80}]})), ["spec.ingress[0].ports"]);
    assert_eq!(group(json!({"protocol": "ICMP", "ports": [{"first": 80}]})), ["spec.ingress[0].ports"]);
    let backwards = json!({"protocol": "UDP", "ports": [{"first": 80, "last": 79}]});
    assert_eq!(group(backwards), ["spec.ingress[0].ports[0].last"]);
    assert_eq!(group(json!({"cidrs": ["10.0.0.0"]})), ["spec.ingress[0].cidrs[0]"]);

    let rate = |egress| fields::<QosPolicy>(json!({"spec": {"egress": egress}}));
    assert!(rate(json!({"guaranteed": "300M", "maximum": "500M", "packets": 1000})).is_empty());
    assert_eq!(rate(json!({"guaranteed": "300M", "maximum": "299M"})), ["spec.egress.maximum"]);
    assert_eq!(rate(json!({"maximum": "7999"})), ["spec.egress.maximum"]);
    assert_eq!(rate(json!({"packets": 0})), ["spec.egress.packets"]);
    let unit = |bytes: i32| fields::<QosPolicy>(json!({"spec": {"minimumPacketUnit": bytes}}));
    assert!(unit(84).is_empty() && unit(1000).is_empty());
    assert_eq!(unit(83), ["spec.minimumPacketUnit"]);

    assert_eq!(fields::<PublicPool>(json!({"spec": {}})), ["spec.ranges"]);
    assert_eq!(fields::<PublicPool>(json!({"spec": {"ranges": ["192.0.2.0/24", "x"]}})), ["spec.ranges[1]"]);
    let limited = json!({"spec": {"ranges": ["192.0.2.1"], "tenants": ["a", "B/"], "maxPerTenant": -1}});
    assert_eq!(fields::<PublicPool>(limited), ["spec.tenants[1]", "spec.maxPerTenant"]);
    assert_eq!(fields::<PublicIP>(json!({"spec": {"address": "x"}})), ["spec.address"]);
    let twice = json!({"spec": {"podName": "a", "serviceName": "b"}});
    assert_eq!(fields::<PublicIP>(twice), ["spec"]);
    assert_eq!(fields::<PublicIP>(json!({"spec": {"podSelector": {}}})), ["spec.podSelector"]);
    let other = json!({"spec": {"address": "192.0.2.1", "ipFamily": "IPv6"}});
    assert_eq!(fields::<PublicIP>(other), ["spec.ipFamily"]);
}
