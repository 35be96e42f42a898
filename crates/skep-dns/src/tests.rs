use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use parking_lot::RwLock;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use crate::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn port(name: &str, protocol: &'static str, port: u16) -> NamedPort {
    NamedPort { name: name.into(), protocol, port }
}

fn endpoint(host: Option<&str>, address: &str) -> EndpointName {
    EndpointName { hostname: host.map(Into::into), ip: ip(address), ports: vec![port("db", "tcp", 5432)] }
}

fn names() -> Names {
    let mut names = Names::default();
    let mut set = |name: &str, target| names.set("shop", name, Some(ServiceNames { target }));
    set(
        "web",
        Target::Service(
            vec![ip("10.96.0.7"), ip("fd96::7")],
            vec![port("http", "tcp", 80), port("dns", "udp", 53)],
        ),
    );
    set("db", Target::Headless(vec![endpoint(Some("db-0"), "10.64.0.5"), endpoint(None, "10.64.0.6")]));
    set("empty", Target::Headless(Vec::new()));
    set("out", Target::Alias("example.org".into()));
    names
}

fn query(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::query();
    message.metadata.id = 7;
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.to_vec().unwrap()
}

/// The answers as text, sorted, or the reason why there are none.
fn ask(names: &Names, name: &str, kind: RecordType) -> Vec<String> {
    match answer(&query(name, kind), names, "cluster.local", 0, true) {
        Reply::Answer(bytes) => shown(&bytes),
        Reply::Forward(name) => vec![format!("forward {name}")],
        Reply::Nothing => vec!["nothing".into()],
    }
}

fn shown(bytes: &[u8]) -> Vec<String> {
    let message = Message::from_vec(bytes).unwrap();
    assert_eq!((message.metadata.id, message.queries.len()), (7, 1));
    assert!(message.metadata.recursion_available && message.metadata.recursion_desired);
    match (message.metadata.response_code, message.answers.is_empty()) {
        (ResponseCode::NoError, false) => {
            let mut all: Vec<String> = message.answers.iter().map(|r| r.data.to_string()).collect();
            all.sort();
            all
        }
        (ResponseCode::NoError, true) => {
            assert_eq!(message.authorities[0].record_type(), RecordType::SOA);
            vec!["no data".into()]
        }
        (ResponseCode::NXDomain, _) => {
            assert_eq!(message.authorities[0].record_type(), RecordType::SOA);
            vec!["no name".into()]
        }
        (code, _) => vec![code.to_string()],
    }
}

#[test]
fn names_are_answered_as_specified() {
    use RecordType::{A, AAAA, CNAME, MX, PTR, SOA, SRV, TXT};
    let names = names();
    for (name, kind, expected) in [
        ("web.shop.svc.cluster.local.", A, &["10.96.0.7"][..]),
        ("WEB.Shop.svc.Cluster.local.", A, &["10.96.0.7"]),
        ("web.shop.svc.cluster.local.", AAAA, &["fd96::7"]),
        ("web.shop.svc.cluster.local.", MX, &["no data"]),
        ("none.shop.svc.cluster.local.", A, &["no name"]),
        ("web.none.svc.cluster.local.", A, &["no name"]),
        ("shop.svc.cluster.local.", A, &["no data"]),
        ("none.svc.cluster.local.", A, &["no name"]),
        ("svc.cluster.local.", A, &["no data"]),
        ("cluster.local.", A, &["no data"]),
        ("x.cluster.local.", A, &["no name"]),
        ("_http._tcp.web.shop.svc.cluster.local.", SRV, &["0 100 80 web.shop.svc.cluster.local."]),
        ("_http._tcp.web.shop.svc.cluster.local.", A, &["no data"]),
        ("_http._udp.web.shop.svc.cluster.local.", SRV, &["no name"]),
        ("_tcp.web.shop.svc.cluster.local.", SRV, &["no data"]),
        ("db.shop.svc.cluster.local.", A, &["10.64.0.5", "10.64.0.6"]),
        ("db.shop.svc.cluster.local.", AAAA, &["no data"]),
        ("db-0.db.shop.svc.cluster.local.", A, &["10.64.0.5"]),
        ("10-64-0-6.db.shop.svc.cluster.local.", A, &["10.64.0.6"]),
        ("db-9.db.shop.svc.cluster.local.", A, &["no name"]),
        ("x.web.shop.svc.cluster.local.", A, &["no name"]),
        (
            "_db._tcp.db.shop.svc.cluster.local.",
            SRV,
            &[
                "0 100 5432 10-64-0-6.db.shop.svc.cluster.local.",
                "0 100 5432 db-0.db.shop.svc.cluster.local.",
            ],
        ),
        ("empty.shop.svc.cluster.local.", A, &["no name"]),
        ("out.shop.svc.cluster.local.", A, &["example.org."]),
        ("out.shop.svc.cluster.local.", CNAME, &["example.org."]),
        ("7.0.96.10.in-addr.arpa.", PTR, &["web.shop.svc.cluster.local."]),
        ("5.0.64.10.in-addr.arpa.", PTR, &["db-0.db.shop.svc.cluster.local."]),
        ("5.0.64.10.in-addr.arpa.", A, &["no data"]),
        ("9.9.9.9.in-addr.arpa.", PTR, &["forward 9.9.9.9.in-addr.arpa"]),
        ("10-64-0-9.shop.pod.cluster.local.", A, &["10.64.0.9"]),
        ("x.shop.pod.cluster.local.", A, &["no name"]),
        ("dns-version.cluster.local.", TXT, &["1.1.0"]),
        ("Example.org.", A, &["forward example.org"]),
        ("web.shop.svc.cluster.local.example.org.", A, &["forward web.shop.svc.cluster.local.example.org"]),
    ] {
        assert_eq!(ask(&names, name, kind), expected, "{name} {kind}");
    }
    assert_eq!(ask(&names, "cluster.local.", SOA).len(), 1);
    let six = "7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.d.f.ip6.arpa.";
    assert_eq!(ask(&names, six, PTR), ["web.shop.svc.cluster.local."]);
}

#[test]
fn what_goes_is_not_known_any_more() {
    let mut names = names();
    names.set("shop", "db", None);
    assert_eq!(ask(&names, "db.shop.svc.cluster.local.", RecordType::A), ["no name"]);
    assert_eq!(ask(&names, "5.0.64.10.in-addr.arpa.", RecordType::PTR), ["forward 5.0.64.10.in-addr.arpa"]);
    names.set("shop", "web", Some(ServiceNames { target: Target::Service(vec![ip("10.96.0.8")], vec![]) }));
    assert_eq!(ask(&names, "7.0.96.10.in-addr.arpa.", RecordType::PTR), ["forward 7.0.96.10.in-addr.arpa"]);
    for name in ["web", "empty", "out"] {
        names.set("shop", name, None);
    }
    assert!(names.is_empty());
    assert_eq!(ask(&names, "shop.svc.cluster.local.", RecordType::A), ["no name"]);
}

#[test]
fn long_answers_are_cut_in_packets_only() {
    let mut names = Names::default();
    let all = (0..100u8).map(|n| endpoint(None, &format!("10.64.1.{n}"))).collect();
    names.set("shop", "many", Some(ServiceNames { target: Target::Headless(all) }));
    let question = query("many.shop.svc.cluster.local.", RecordType::A);
    let of = |is_packet, turn| match answer(&question, &names, "cluster.local", turn, is_packet) {
        Reply::Answer(bytes) => Message::from_vec(&bytes).unwrap(),
        other => panic!("{other:?}"),
    };
    let cut = of(true, 0);
    assert!(cut.metadata.truncation && cut.answers.is_empty());
    let whole = of(false, 0);
    assert_eq!((whole.metadata.truncation, whole.answers.len()), (false, 100));
    assert_ne!(of(false, 1).answers[0].data, whole.answers[0].data, "the order changes");
}

#[test]
fn what_is_no_question_is_not_answered() {
    let names = names();
    let of = |bytes: &[u8]| answer(bytes, &names, "cluster.local", 0, true);
    assert_eq!(of(b""), Reply::Nothing);
    assert_eq!(of(&[0; 11]), Reply::Nothing);
    let good = query("web.shop.svc.cluster.local.", RecordType::A);
    let Reply::Answer(response) = of(&good) else { panic!() };
    assert_eq!(of(&response), Reply::Nothing, "an answer is no question");
    for end in 0..good.len() {
        // Whatever is cut off, nothing breaks.
        let _ = of(&good[..end]);
    }
}

async fn udp(server: SocketAddr, name: &str, kind: RecordType) -> Vec<String> {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(&query(name, kind), server).await.unwrap();
    let mut buf = [0; 1500];
    let (len, _) =
        tokio::time::timeout(Duration::from_secs(10), socket.recv_from(&mut buf)).await.unwrap().unwrap();
    shown(&buf[..len])
}

fn config(upstreams: Vec<SocketAddr>, stubs: Vec<Stub>) -> Config {
    Config { listen: vec!["127.0.0.1:0".parse().unwrap()], domain: "cluster.local".into(), upstreams, stubs }
}

#[tokio::test]
async fn others_are_asked_for_other_names() {
    // Two more of our own kind play the others: one for the world, one for a stub domain.
    let mut world = Names::default();
    world.set("a", "b", Some(ServiceNames { target: Target::Service(vec![ip("192.0.2.1")], vec![]) }));
    let mut inner = Names::default();
    inner.set("a", "b", Some(ServiceNames { target: Target::Service(vec![ip("192.0.2.2")], vec![]) }));
    let start = |names, domain: &str| {
        Server::start(
            Arc::new(RwLock::new(names)),
            Config { domain: domain.into(), ..config(vec![], vec![]) },
        )
    };
    let world = start(world, "example.org").await.unwrap();
    let inner = start(inner, "corp").await.unwrap();
    let nobody: SocketAddr = "127.0.0.1:9".parse().unwrap();
    let stub = Stub { domain: "corp".into(), servers: inner.addresses().to_vec() };
    let ours =
        Server::start(Arc::new(RwLock::new(names())), config(vec![nobody, world.addresses()[0]], vec![stub]))
            .await
            .unwrap();
    let address = ours.addresses()[0];
    assert_eq!(udp(address, "web.shop.svc.cluster.local.", RecordType::A).await, ["10.96.0.7"]);
    assert_eq!(udp(address, "b.a.svc.example.org.", RecordType::A).await, ["192.0.2.1"]);
    assert_eq!(udp(address, "b.a.svc.corp.", RecordType::A).await, ["192.0.2.2"]);
    // Over TCP, two questions in one connection.
    let mut stream = TcpStream::connect(address).await.unwrap();
    for (name, expected) in
        [("web.shop.svc.cluster.local.", "10.96.0.7"), ("b.a.svc.example.org.", "192.0.2.1")]
    {
        let question = query(name, RecordType::A);
        stream.write_u16(question.len() as u16).await.unwrap();
        stream.write_all(&question).await.unwrap();
        let len = stream.read_u16().await.unwrap();
        let mut bytes = vec![0; len.into()];
        stream.read_exact(&mut bytes).await.unwrap();
        assert_eq!(shown(&bytes), [expected]);
    }
}

#[tokio::test]
async fn when_nobody_knows_the_client_is_told() {
    let ours = Server::start(Arc::new(RwLock::new(names())), config(vec![], vec![])).await.unwrap();
    assert_eq!(udp(ours.addresses()[0], "example.org.", RecordType::A).await, ["Server Failure"]);
}

/// What was answered once, that there is no such name too, holds until names change; each answer has its own question's number.
#[tokio::test]
async fn answers_that_are_kept_end_with_a_change() {
    let names = Arc::new(RwLock::new(names()));
    let ours = Server::start(names.clone(), config(vec![], vec![])).await.unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(ours.addresses()[0]).await.unwrap();
    let numbered = async |number: u16, padding: usize| {
        let mut question = query("new.shop.svc.cluster.local.", RecordType::A);
        question[..2].copy_from_slice(&number.to_be_bytes());
        // Behind a question may stand what nobody reads.
        question.resize(question.len() + padding, 0);
        socket.send(&question).await.unwrap();
        let mut buf = [0; 1500];
        let len =
            tokio::time::timeout(Duration::from_secs(10), socket.recv(&mut buf)).await.unwrap().unwrap();
        assert_eq!(buf[..2], number.to_be_bytes());
        buf[..2].copy_from_slice(&query("a.", RecordType::A)[..2]);
        shown(&buf[..len])
    };
    for (round, address) in [None, Some("10.96.0.9"), Some("10.96.0.10"), None].into_iter().enumerate() {
        let service = address.map(|a| ServiceNames { target: Target::Service(vec![ip(a)], vec![]) });
        names.write().set("shop", "new", service);
        for number in 0..3 {
            // The last is too long to be kept, and answered all the same.
            let said = numbered(round as u16 * 3 + number, if number == 2 { 400 } else { 0 }).await;
            assert_eq!(said, [address.unwrap_or("no name")], "{round} {number}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_is_answered_at_once_under_load() {
    let names = Arc::new(RwLock::new(names()));
    let ours = Server::start(names.clone(), config(vec![], vec![])).await.unwrap();
    let address = ours.addresses()[0];
    let load: Vec<_> = (0..4)
        .map(|_| {
            tokio::spawn(async move {
                let mut count = 0;
                let end = Instant::now() + Duration::from_millis(500);
                while Instant::now() < end {
                    assert_eq!(
                        udp(address, "web.shop.svc.cluster.local.", RecordType::A).await,
                        ["10.96.0.7"]
                    );
                    count += 1;
                }
                count
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(100)).await;
    names.write().set(
        "shop",
        "new",
        Some(ServiceNames { target: Target::Service(vec![ip("10.96.0.9")], vec![]) }),
    );
    assert_eq!(udp(address, "new.shop.svc.cluster.local.", RecordType::A).await, ["10.96.0.9"]);
    for task in load {
        assert!(task.await.unwrap() > 10);
    }
}
