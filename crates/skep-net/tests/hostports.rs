//! Ports of a machine that lead to its pods, with real connections in real namespaces.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use common::{Mounts, can, machine, pod};
use skep_net::Namespace;
use skep_net::hostport::{HostPort, replace};

const TCP: u8 = 6;
const UDP: u8 = 17;

/// Answers each connection with a name and who it sees.
fn serve(ns: &Namespace, name: &'static str, at: &str) {
    let at: SocketAddr = at.parse().unwrap();
    let listener = ns.run(|| TcpListener::bind(at)).unwrap().unwrap();
    // Ends with the test's process.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let from = stream.peer_addr().map(|a| a.ip().to_string()).unwrap_or_default();
            let _ = write!(stream, "{name} {from}");
        }
    });
}

fn ask(from: &Namespace, to: &str) -> std::io::Result<String> {
    let to: SocketAddr = to.parse().unwrap();
    let mut stream = from.run(|| TcpStream::connect_timeout(&to, Duration::from_secs(3))).unwrap()?;
    stream.set_read_timeout(Some(Duration::from_secs(3)))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

#[test]
fn ports_of_the_machine_are_pods() {
    if !can() {
        return;
    }
    let (mut machine, mounts) = (machine(), Mounts::new());
    let mut pods = Vec::new();
    for n in 1..=2 {
        let config = pod(n, &mounts.path(&format!("p{n}")));
        machine.set_up_pod(&config).unwrap();
        pods.push(Namespace::open(&config.namespace).unwrap());
    }
    serve(&pods[0], "first", "0.0.0.0:8080");
    serve(&pods[0], "first", "[::]:8081");
    serve(&pods[1], "second", "0.0.0.0:8080");
    serve(machine.namespace(), "machine", "0.0.0.0:80");
    let port = |host_ip: Option<&str>, protocol, port, pod: &str| HostPort {
        host_ip: host_ip.map(|ip| ip.parse().unwrap()),
        protocol,
        port,
        pod: pod.parse().unwrap(),
    };
    let first = port(None, TCP, 80, "10.7.1.1:8080");
    replace(machine.namespace(), std::slice::from_ref(&first)).unwrap();
    // From a pod, from the machine itself, from the pod that it is; the client is seen as who it is.
    assert_eq!(ask(&pods[1], "10.7.0.1:80").unwrap(), "first 10.7.1.2");
    assert_eq!(ask(&pods[1], "10.7.0.2:80").unwrap(), "first 10.7.1.2", "all addresses of the machine");
    assert_eq!(ask(machine.namespace(), "10.7.0.1:80").unwrap(), "first 10.7.0.1");
    assert_eq!(ask(&pods[0], "10.7.0.1:80").unwrap(), "first 10.7.0.1");
    // A port of one address, beside one of all, and one of IPv6; another protocol's is another port.
    let all = [
        first,
        port(Some("10.7.0.2"), TCP, 80, "10.7.1.2:8080"),
        port(None, TCP, 81, "[fd07::1:1]:8081"),
        port(None, UDP, 82, "10.7.1.1:8080"),
    ];
    replace(machine.namespace(), &all).unwrap();
    assert_eq!(ask(&pods[1], "10.7.0.1:80").unwrap(), "first 10.7.1.2");
    assert_eq!(ask(&pods[0], "10.7.0.2:80").unwrap(), "second 10.7.1.1");
    assert_eq!(ask(&pods[1], "[fd07::1]:81").unwrap(), "first fd07::1:2");
    assert!(ask(&pods[1], "10.7.0.1:82").is_err());
    // What passes through the machine is not for it.
    assert!(ask(&pods[0], "10.7.1.2:80").is_err());
    // Without any, the machine's own are reached again.
    replace(machine.namespace(), &[]).unwrap();
    assert_eq!(ask(&pods[1], "10.7.0.1:80").unwrap(), "machine 10.7.1.2");
    replace(machine.namespace(), &[]).unwrap();
}
