//! From a question to its answer. Pure: what is not known here is said to be somebody else's.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use crate::names::{NamedPort, Names, Target};

/// How long clients may keep an answer, in seconds: as short as cluster DNS usually says, for endpoints move.
const TTL_S: u32 = 5;
/// Longest answer in one packet that we say we take and that we send: what passes every network without fragments.
pub(crate) const MAX_PACKET_BYTES: u16 = 1232;
/// Longest answer to those who say nothing.
const PLAIN_PACKET_BYTES: u16 = 512;
/// The version of the specification of names, which clients can ask for.
const SPECIFICATION: &str = "1.1.0";

/// What becomes of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Its answer.
    Answer(Vec<u8>),
    /// Others know it: its name, in small letters.
    Forward(String),
    /// It is no question, and not to be answered.
    Nothing,
}

enum Found {
    Records(Vec<RData>),
    /// The name is there, but nothing of the type.
    NoData,
    NoName,
}

/// Answers a question about the names below `domain` (`cluster.local`, without a dot at its end). `turn` makes the order
/// of addresses change from answer to answer. Over TCP, `is_packet` is false and the answer may be long.
#[must_use]
pub fn answer(query: &[u8], names: &Names, domain: &str, turn: usize, is_packet: bool) -> Reply {
    answer_in_turn(query, names, domain, turn, is_packet).0
}

/// The same, and whether `turn` has a part in it.
pub(crate) fn answer_in_turn(
    query: &[u8],
    names: &Names,
    domain: &str,
    turn: usize,
    is_packet: bool,
) -> (Reply, bool) {
    let mut takes_turns = false;
    let reply = answer_to(query, names, domain, turn, is_packet, &mut takes_turns);
    (reply, takes_turns)
}

fn answer_to(
    query: &[u8],
    names: &Names,
    domain: &str,
    turn: usize,
    is_packet: bool,
    takes_turns: &mut bool,
) -> Reply {
    let Ok(query) = Message::from_vec(query) else { return Reply::Nothing };
    if query.metadata.message_type != MessageType::Query {
        return Reply::Nothing;
    }
    let mut response = Message::response(query.metadata.id, query.metadata.op_code);
    response.metadata.recursion_desired = query.metadata.recursion_desired;
    response.metadata.recursion_available = true;
    response.add_queries(query.queries.iter().cloned());
    let mut room = PLAIN_PACKET_BYTES;
    if let Some(edns) = &query.edns {
        room = edns.max_payload().clamp(PLAIN_PACKET_BYTES, MAX_PACKET_BYTES);
        let mut ours = Edns::new();
        ours.set_max_payload(MAX_PACKET_BYTES);
        response.set_edns(ours);
    }
    let finish = |mut response: Message, code| {
        response.metadata.response_code = code;
        let whole = response.to_vec();
        let bytes = match whole {
            Ok(bytes) if is_packet && bytes.len() > usize::from(room) => response.truncate().to_vec(),
            other => other,
        };
        bytes.map_or(Reply::Nothing, Reply::Answer)
    };
    if query.metadata.op_code != OpCode::Query {
        return finish(response, ResponseCode::NotImp);
    }
    let [question] = query.queries.as_slice() else { return finish(response, ResponseCode::FormErr) };
    let Some(labels) = labels(question.name()) else { return finish(response, ResponseCode::FormErr) };
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    let found = match question.query_class() {
        DNSClass::IN | DNSClass::ANY => find(&labels, question.query_type(), names, domain, turn),
        _ => return finish(response, ResponseCode::Refused),
    };
    let Some(found) = found else { return Reply::Forward(labels.join(".")) };
    response.metadata.authoritative = true;
    let code = match found {
        Found::Records(all) => {
            *takes_turns = all.len() > 1;
            let records =
                all.into_iter().map(|data| Record::from_rdata(question.name().clone(), TTL_S, data));
            response.add_answers(records);
            ResponseCode::NoError
        }
        Found::NoData | Found::NoName => {
            if let Some(record) = authority(domain) {
                response.add_authority(record);
            }
            if matches!(found, Found::NoName) { ResponseCode::NXDomain } else { ResponseCode::NoError }
        }
    };
    finish(response, code)
}

/// The parts of a name in small letters; nothing when one is no text, which no name here is.
fn labels(name: &Name) -> Option<Vec<String>> {
    name.iter().map(|l| std::str::from_utf8(l).ok().map(str::to_ascii_lowercase)).collect()
}

fn name(text: &str) -> Option<Name> {
    Name::from_ascii(format!("{text}.")).ok()
}

fn authority(domain: &str) -> Option<Record> {
    let origin = name(domain)?;
    let server = name(&format!("ns.dns.{domain}"))?;
    let contact = name(&format!("hostmaster.{domain}"))?;
    // How long "there is no such name" may be kept is the last of them.
    let soa = SOA::new(server, contact, 1, 7200, 1800, 86_400, TTL_S);
    Some(Record::from_rdata(origin, TTL_S, RData::SOA(soa)))
}

/// Nothing when the name is not ours.
fn find(labels: &[&str], kind: RecordType, names: &Names, domain: &str, turn: usize) -> Option<Found> {
    if let Some(ip) = backwards(labels) {
        return reverse(ip, kind, names, domain);
    }
    let parts: Vec<&str> = domain.split('.').collect();
    let rest = labels.strip_suffix(parts.as_slice())?;
    Some(match rest {
        [] => match kind {
            RecordType::SOA => Found::Records(authority(domain).map(|r| r.data).into_iter().collect()),
            RecordType::NS => {
                let server = name(&format!("ns.dns.{domain}"));
                Found::Records(server.map(|n| RData::NS(NS(n))).into_iter().collect())
            }
            _ => Found::NoData,
        },
        ["dns-version"] => match kind {
            RecordType::TXT => Found::Records(vec![RData::TXT(TXT::new(vec![SPECIFICATION.to_owned()]))]),
            _ => Found::NoData,
        },
        ["svc"] | ["pod"] => Found::NoData,
        [namespace, "svc"] => exists(names.has_namespace(namespace)),
        [service, namespace, "svc"] => of_service(names, namespace, service, kind, turn),
        [port, protocol, service, namespace, "svc"] if port.starts_with('_') && protocol.starts_with('_') => {
            ports(names, namespace, service, (&port[1..], &protocol[1..]), kind, domain)
        }
        [protocol, service, namespace, "svc"] if protocol.starts_with('_') => {
            exists(names.get(namespace, service).is_some())
        }
        [host, service, namespace, "svc"] => of_endpoint(names, namespace, service, host, kind),
        [_, "pod"] => Found::NoData,
        [pod, _, "pod"] => match undashed(pod) {
            // The name says the address.
            Some(ip) => of_addresses(&[ip], kind),
            None => Found::NoName,
        },
        _ => Found::NoName,
    })
}

fn exists(yes: bool) -> Found {
    if yes { Found::NoData } else { Found::NoName }
}

fn of_addresses(ips: &[IpAddr], kind: RecordType) -> Found {
    let data = |ip: &IpAddr| match (ip, kind) {
        (IpAddr::V4(ip), RecordType::A) => Some(RData::A(A(*ip))),
        (IpAddr::V6(ip), RecordType::AAAA) => Some(RData::AAAA(AAAA(*ip))),
        _ => None,
    };
    let records: Vec<RData> = ips.iter().filter_map(data).collect();
    if records.is_empty() { Found::NoData } else { Found::Records(records) }
}

fn of_service(names: &Names, namespace: &str, service: &str, kind: RecordType, turn: usize) -> Found {
    let Some(found) = names.get(namespace, service) else { return Found::NoName };
    match &found.target {
        Target::Service(ips, _) => of_addresses(ips, kind),
        Target::Headless(endpoints) => {
            let mut ips: Vec<IpAddr> = endpoints.iter().map(|e| e.ip).collect();
            if ips.is_empty() {
                return Found::NoName;
            }
            ips.dedup();
            let first = turn % ips.len();
            ips.rotate_left(first);
            of_addresses(&ips, kind)
        }
        Target::Alias(other) => match (kind, name(other.trim_end_matches('.'))) {
            // Who asks for an address asks for the other name next.
            (RecordType::A | RecordType::AAAA | RecordType::CNAME, Some(other)) => {
                Found::Records(vec![RData::CNAME(CNAME(other))])
            }
            _ => Found::NoData,
        },
    }
}

fn of_endpoint(names: &Names, namespace: &str, service: &str, host: &str, kind: RecordType) -> Found {
    let Some(Target::Headless(endpoints)) = names.get(namespace, service).map(|s| &s.target) else {
        return Found::NoName;
    };
    let ips: Vec<IpAddr> = endpoints.iter().filter(|e| e.label() == host).map(|e| e.ip).collect();
    if ips.is_empty() { Found::NoName } else { of_addresses(&ips, kind) }
}

fn ports(
    names: &Names,
    namespace: &str,
    service: &str,
    (port, protocol): (&str, &str),
    kind: RecordType,
    domain: &str,
) -> Found {
    let Some(found) = names.get(namespace, service) else { return Found::NoName };
    let is_it = |p: &&NamedPort| p.name.eq_ignore_ascii_case(port) && p.protocol == protocol;
    let record = |number: u16, host: &str| {
        let target = name(&format!("{host}{service}.{namespace}.svc.{domain}"))?;
        Some(RData::SRV(SRV::new(0, 100, number, target)))
    };
    let all: Vec<RData> = match &found.target {
        Target::Service(_, ports) => ports.iter().filter(is_it).filter_map(|p| record(p.port, "")).collect(),
        Target::Headless(endpoints) => endpoints
            .iter()
            .filter_map(|e| record(e.ports.iter().find(is_it)?.port, &format!("{}.", e.label())))
            .collect(),
        Target::Alias(_) => Vec::new(),
    };
    match (all.is_empty(), kind) {
        (true, _) => Found::NoName,
        (false, RecordType::SRV) => Found::Records(all),
        (false, _) => Found::NoData,
    }
}

fn reverse(ip: IpAddr, kind: RecordType, names: &Names, domain: &str) -> Option<Found> {
    let places = names.reverse(ip);
    if places.is_empty() {
        return None;
    }
    if kind != RecordType::PTR {
        return Some(Found::NoData);
    }
    let of = |(namespace, service, host): &(String, String, Option<String>)| {
        let host = host.as_ref().map(|h| format!("{h}.")).unwrap_or_default();
        name(&format!("{host}{service}.{namespace}.svc.{domain}")).map(|n| RData::PTR(PTR(n)))
    };
    Some(Found::Records(places.iter().filter_map(of).collect()))
}

/// The address of `4.3.2.1.in-addr.arpa`, or of 32 digits before `ip6.arpa`.
fn backwards(labels: &[&str]) -> Option<IpAddr> {
    match labels {
        [a, b, c, d, "in-addr", "arpa"] => format!("{d}.{c}.{b}.{a}").parse().ok(),
        [digits @ .., "ip6", "arpa"] if digits.len() == 32 => {
            let mut number = 0u128;
            for digit in digits.iter().rev() {
                let [one] = digit.as_bytes() else { return None };
                number = number << 4 | u128::from(char::from(*one).to_digit(16)?);
            }
            Some(IpAddr::V6(number.into()))
        }
        _ => None,
    }
}

/// The address that a label with dashes says.
fn undashed(label: &str) -> Option<IpAddr> {
    if label.split('-').count() == 4 && label.bytes().all(|b| b.is_ascii_digit() || b == b'-') {
        return label.replace('-', ".").parse().ok();
    }
    label.replace('-', ":").parse().ok().filter(IpAddr::is_ipv6)
}
