//! `skep bench services`: what a change of services costs a node, what of it depends on other tenants, and how long connections through
//! a service take to be made, beside a rule set as kube-proxy makes it in its nftables mode.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::{Value, json};
use skep_bench::Latencies;
use skep_client::{Client, ObjectPath, Patch, Resource, Tenants};
use skep_net::machine::{MachineConfig, MachineNetwork, PodConfig};
use skep_net::service::Services;
use skep_net::{MacAddr, Namespace, nft};
use skep_netplan::service::{
    Endpoint, EndpointPort, EndpointSlice, L4, Place, Service, ServicePort, Table, desired,
};

use super::cloud::{Cloud, Node, create_all};
use super::network::figure;

/// What is measured.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Tenants.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    tenants: u32,
    /// Services of each.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(20..=1000))]
    services: u32,
    /// Changes that are made.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    changes: u64,
    /// Connections that are made, in turns.
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u64).range(10..=20_000))]
    connections: u64,
}

const SERVICES: Resource = Resource::new("", "v1", "services");
const SLICES: Resource = Resource::new("discovery.k8s.io", "v1", "endpointslices");
/// Endpoints of each service.
const ENDPOINTS: u32 = 5;
/// Services, spread over all, that really have somebody behind them.
const REAL: u32 = 20;
const PORT: u16 = 80;
/// Where endpoints listen: this and the next.
const TARGET_PORT: u16 = 8080;
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 64, 1, 1);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 64, 1, 2);
const MACHINE: Ipv4Addr = Ipv4Addr::new(10, 64, 0, 1);
const SUBNET_LENGTH: u8 = 14;
const MTU: u32 = 1450;
/// The promise: how long one change takes until it holds.
const PROMISED_MS: f64 = 20.0;
/// What other tenants may add to the cost of a change, as a share: what measuring twice differs by.
const ALLOWANCE: f64 = 0.25;
/// How long anything that is to happen soon is waited for.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long one attempt to connect may take before the next: a packet that was dropped is sent again after a second. As long as
/// that is not known sooner what was begun in vain is waited for, so it is short; a connection takes a hundredth of it.
const ATTEMPT: Duration = Duration::from_millis(5);

/// Measures, and prints what it finds.
///
/// # Errors
/// When something cannot be measured.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let version = Command::new("nft").arg("--version").output();
    version.context("starting nft; it must be installed (`make tools`)")?;
    let mut misses = 0;
    misses += beside_other_tenants(options)?;
    println!();
    misses += beside_kube_proxy(options)?;
    println!();
    match misses {
        0 => println!("everything is as promised"),
        n => println!("{n} figures are NOT MET"),
    }
    Ok(())
}

fn ms(all: &Latencies, share: f64) -> f64 {
    all.percentile(share).as_secs_f64() * 1e3
}

// --- a node among other tenants ---------------------------------------------------------------------------------

/// What a node has and needs when there are so many tenants.
struct Seen {
    tenants: u32,
    rules: usize,
    elements: usize,
    changes: Latencies,
}

/// Whole path of a change, from before it is written to the API until a pod's connection takes it, with more and more tenants.
fn beside_other_tenants(options: &Options) -> anyhow::Result<usize> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let cloud = runtime.block_on(Cloud::start())?;
    let mut own: Option<Client> = None;
    let mut rows: Vec<Seen> = Vec::new();
    let mut made = 0;
    let mut stages: Vec<u32> =
        [1, 10, options.tenants].into_iter().filter(|n| *n <= options.tenants).collect();
    stages.dedup();
    for tenants in stages {
        runtime.block_on(async {
            while made < tenants {
                let client = cloud.tenant(&format!("t{made}")).await?;
                create_all(&client, objects(options.services)).await?;
                own.get_or_insert(client);
                made += 1;
            }
            anyhow::Ok(())
        })?;
        let client = own.clone().context("there is no tenant")?;
        let node = Node::start(client.clone(), cloud.folder(), 2, None)?;
        let (rules, elements) = held(node.machine())?;
        let changes = runtime.block_on(changed(&client, &node, options.changes))?;
        rows.push(Seen { tenants, rules, elements, changes });
    }
    println!(
        "W3: a node of one tenant with {} services and {} endpoints; other tenants have as many",
        options.services,
        options.services * ENDPOINTS
    );
    println!(
        "{:<10} {:>10} {:>12} {:>8} {:>10} {:>24}",
        "tenants", "services", "endpoints", "rules", "entries", "one change: p50, p99 ms"
    );
    for row in &rows {
        let all = row.tenants * options.services;
        println!(
            "{:<10} {all:>10} {:>12} {:>8} {:>10} {:>15.1}, {:.1}",
            row.tenants,
            all * ENDPOINTS,
            row.rules,
            row.elements,
            ms(&row.changes, 0.5),
            ms(&row.changes, 0.99)
        );
    }
    let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return Ok(0) };
    let mut misses = figure(
        "one change, from before it is written until it holds",
        &format!("p99 {:.1} ms", ms(&last.changes, 0.99)),
        "under 20 ms",
        ms(&last.changes, 0.99) < PROMISED_MS,
    );
    let same = first.rules == last.rules && first.elements == last.elements;
    misses += figure("rules and entries of other tenants", if same { "none" } else { "some" }, "none", same);
    let growth = ms(&last.changes, 0.5) / ms(&first.changes, 0.5).max(f64::MIN_POSITIVE) - 1.0;
    misses += figure(
        "what other tenants add to a change, p50",
        &format!("{:+.0} %", growth * 100.0),
        "nothing (within 25 %)",
        growth < ALLOWANCE,
    );
    Ok(misses)
}

fn objects(services: u32) -> Vec<(ObjectPath, Value)> {
    let at = |resource: Resource| resource.at(Tenants::Own).namespace("default");
    let mut all = Vec::new();
    for n in 0..services {
        let name = format!("s{n}");
        let ports = json!([{"name": "http", "port": PORT, "protocol": "TCP"}]);
        all.push((
            at(SERVICES),
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"ports": ports}}),
        ));
        let addresses: Vec<Ipv4Addr> = (0..ENDPOINTS).map(|e| fictive(n, e)).collect();
        all.push((at(SLICES), slice(&name, &addresses)));
    }
    all
}

/// The address of an endpoint that nobody connects to.
fn fictive(service: u32, endpoint: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0a41_0000 + service * 8 + endpoint)
}

fn slice(service: &str, addresses: &[Ipv4Addr]) -> Value {
    let endpoint = |ip: &Ipv4Addr| json!({"addresses": [ip.to_string()], "conditions": {"ready": true}});
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": service, "labels": {"kubernetes.io/service-name": service}},
        "endpoints": addresses.iter().map(endpoint).collect::<Vec<_>>(),
        "ports": [{"name": "http", "port": TARGET_PORT, "protocol": "TCP"}],
    })
}

/// Rules and entries of sets and maps in a machine's table of services.
fn held(machine: &Namespace) -> anyhow::Result<(usize, usize)> {
    const TABLE: nft::Table = nft::Table { family: nft::Family::Ip, name: "skep-services" };
    const SETS: [&str; 7] = ["frontends", "nodeports", "groups", "endpoints", "hairpin", "reject", "drop"];
    let mut kernel = nft::Nft::open(machine)?;
    let mut entries = 0;
    for set in SETS {
        entries += kernel.elements(TABLE, set)?.len();
    }
    Ok((kernel.count_rules(TABLE)?, entries))
}

/// How long each of many changes takes: the only endpoint of a service comes, and goes again.
async fn changed(client: &Client, node: &Node, changes: u64) -> anyhow::Result<Latencies> {
    let (from, there) = (node.pod(0)?, node.pod(1)?);
    let name = "s0";
    let at = |resource: Resource| resource.at(Tenants::Own).namespace("default").name(name);
    let service: Value = client.read(&at(SERVICES)).await.context("reading a service")?;
    let ip: IpAddr =
        service["spec"]["clusterIP"].as_str().unwrap_or_default().parse().context("a service")?;
    let target = SocketAddr::new(ip, PORT);
    let listener = there.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, TARGET_PORT)))?;
    let listener = listener.context("listening in a pod")?;
    let own = there.run(own_address)??;
    let end = serve(listener);
    let set = async |addresses: &[Ipv4Addr]| -> anyhow::Result<()> {
        let patch = Patch::Merge(json!({"endpoints": slice(name, addresses)["endpoints"]}));
        client.patch::<Value>(&at(SLICES), &patch).await.context("writing an endpoint")?;
        Ok(())
    };
    let wait = async |wanted: bool| -> anyhow::Result<()> {
        let asks = from.try_clone()?;
        let waits = tokio::task::spawn_blocking(move || asks.run(|| connects(target, wanted)));
        waits.await.context("connecting")???;
        Ok(())
    };
    let mut all = Latencies::default();
    set(&[]).await?;
    wait(false).await?;
    for _ in 0..changes {
        let asks = from.try_clone()?;
        let waits = tokio::task::spawn_blocking(move || asks.run(|| connects(target, true)));
        let begun = Instant::now();
        set(&[own]).await?;
        waits.await.context("connecting")???;
        all.add(begun.elapsed());
        set(&[]).await?;
        wait(false).await?;
    }
    let first: Vec<Ipv4Addr> = (0..ENDPOINTS).map(|e| fictive(0, e)).collect();
    set(&first).await?;
    drop(end);
    Ok(all)
}

/// Connects until it succeeds, or does not any more.
pub(super) fn connects(target: SocketAddr, wanted: bool) -> anyhow::Result<()> {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        if TcpStream::connect_timeout(&target, ATTEMPT).is_ok() == wanted {
            return Ok(());
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    bail!("{target} does not become what it is to be")
}

/// The address of the namespace that this is called in.
pub(super) fn own_address() -> anyhow::Result<Ipv4Addr> {
    let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("opening a socket")?;
    socket.connect((skep_nodenet::DNS_IP, 53)).context("choosing whom to ask")?;
    match socket.local_addr().context("reading an address")? {
        SocketAddr::V4(address) => Ok(*address.ip()),
        SocketAddr::V6(_) => bail!("the pod has no address"),
    }
}

/// Takes connections and lets them go, until this is dropped.
struct Served {
    end: std::sync::Arc<std::sync::atomic::AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

fn serve(listener: TcpListener) -> Served {
    let end = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let ended = end.clone();
    let thread = std::thread::spawn(move || {
        // Asked again and again whether it is over: nobody may connect any more.
        let _ = listener.set_nonblocking(true);
        while !ended.load(std::sync::atomic::Ordering::Relaxed) {
            if listener.accept().is_err() {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    });
    Served { end, thread: Some(thread) }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.end.store(true, std::sync::atomic::Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It only takes connections.
            let _ = thread.join();
        }
    }
}

// --- beside kube-proxy ------------------------------------------------------------------------------------------

/// One way to have services.
struct Way {
    name: String,
    machine: MachineNetwork,
    client: Namespace,
    rules: Rules,
    /// Where connections go, in turns.
    targets: Vec<SocketAddr>,
    loaded: Duration,
    changes: Latencies,
    connected: Latencies,
    _served: Vec<Served>,
}

enum Rules {
    None,
    Skep(Box<(Services, Table)>),
    KubeProxy,
}

fn beside_kube_proxy(options: &Options) -> anyhow::Result<usize> {
    let folder = tempfile::tempdir().context("making a folder")?;
    let (own, all) = (options.services, options.tenants * options.services);
    let ways = [
        ("no service: the endpoint itself".to_owned(), None),
        (format!("a node of one tenant: {own} services"), Some((true, own))),
        (format!("the same tables with {all} services"), Some((true, all))),
        (format!("kube-proxy's layout, {own} services"), Some((false, own))),
        (format!("kube-proxy's layout, {all} services"), Some((false, all))),
    ];
    let mut made = Vec::new();
    for (n, (name, kind)) in ways.into_iter().enumerate() {
        made.push(Way::new(name, kind, folder.path(), n)?);
    }
    // In turns, so that all of them meet what else the computer does.
    const TURNS: u64 = 40;
    // Of each turn: what else the computer does changes from second to second, and only what was measured right after each other is compared.
    let mut ratios = Vec::new();
    for _ in 0..TURNS {
        let mut medians = Vec::new();
        for way in &mut made {
            medians.push(way.connect((options.connections / TURNS).max(1))?);
        }
        ratios.push(medians[1] / medians[4].max(f64::MIN_POSITIVE));
        for way in &mut made {
            way.change((options.changes / TURNS).max(1))?;
        }
    }
    ratios.sort_by(f64::total_cmp);
    println!(
        "W3: connections through services beside kube-proxy's layout in nf_tables, each with {ENDPOINTS} endpoints"
    );
    println!(
        "{:<46} {:>10} {:>26} {:>26}",
        "", "loaded in", "connected: p50, p99 µs", "one change: p50, p99 ms"
    );
    for way in &made {
        let us = |share: f64| ms(&way.connected, share) * 1e3;
        let changes = if way.changes.is_empty() {
            String::new()
        } else {
            format!("{:.2}, {:.2}", ms(&way.changes, 0.5), ms(&way.changes, 0.99))
        };
        println!(
            "{:<46} {:>8} ms {:>17.0}, {:>7.0} {changes:>26}",
            way.name,
            way.loaded.as_millis(),
            us(0.5),
            us(0.99)
        );
    }
    let skep = &made[1];
    let mut misses = figure(
        "one change in the kernel's tables",
        &format!("p99 {:.2} ms", ms(&skep.changes, 0.99)),
        "under 20 ms",
        ms(&skep.changes, 0.99) < PROMISED_MS,
    );
    let ratio = ratios[ratios.len() / 2];
    misses += figure(
        "a connection beside kube-proxy's layout, p50, median of turns",
        &format!("{:.0} %", ratio * 100.0),
        "not slower (within 10 %)",
        ratio < 1.1,
    );
    Ok(misses)
}

impl Way {
    fn new(name: String, kind: Option<(bool, u32)>, folder: &Path, n: usize) -> anyhow::Result<Way> {
        let machine = machine()?;
        let mut way = Way {
            name,
            machine,
            client: Namespace::new()?,
            rules: Rules::None,
            targets: vec![SocketAddr::from((SERVER, TARGET_PORT))],
            loaded: Duration::ZERO,
            changes: Latencies::default(),
            connected: Latencies::default(),
            _served: Vec::new(),
        };
        let mut pods = Vec::new();
        for (m, ip) in [(1, CLIENT), (2, SERVER)] {
            let path = folder.join(format!("way-{n}-{m}"));
            way.machine.set_up_pod(&pod(m, ip, &path))?;
            pods.push(Namespace::open(&path)?);
            // It lives as long as its handle and its interface.
            Namespace::remove(&path)?;
        }
        let server = pods.pop().context("there is no pod")?;
        way.client = pods.pop().context("there is no pod")?;
        for port in 0..ENDPOINTS as u16 {
            let listener = server.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, TARGET_PORT + port)))?;
            way._served.push(serve(listener.context("listening in a pod")?));
        }
        let Some((ours, services)) = kind else { return Ok(way) };
        way.targets = (0..REAL).map(|r| SocketAddr::from((address(real(r, services)), PORT))).collect();
        let begun = Instant::now();
        way.rules = if ours {
            let (mut table, mut kernel) = (Table::default(), Services::open(way.machine.namespace())?);
            let plans = (0..services).map(|n| (n, endpoints(n, services)));
            let changes: Vec<_> = plans.flat_map(|(n, e)| table.set(&key(n), &plan(n, &e))).collect();
            kernel.replace(&changes)?;
            Rules::Skep(Box::new((kernel, table)))
        } else {
            say(way.machine.namespace(), &kube_proxy(services))?;
            Rules::KubeProxy
        };
        way.loaded = begun.elapsed();
        Ok(way)
    }

    /// Makes connections; gives what half of them took at most, in milliseconds.
    fn connect(&mut self, count: u64) -> anyhow::Result<f64> {
        let targets = &self.targets;
        let took = self.client.run(|| -> anyhow::Result<Vec<Duration>> {
            let mut took = Vec::new();
            for n in 0..count {
                let begun = Instant::now();
                let stream = TcpStream::connect(targets[n as usize % targets.len()]).context("connecting")?;
                took.push(begun.elapsed());
                drop(stream);
            }
            Ok(took)
        })??;
        let mut turn = Latencies::default();
        took.into_iter().for_each(|t| turn.add(t));
        let median = ms(&turn, 0.5);
        self.connected.append(turn);
        Ok(median)
    }

    /// Replaces an endpoint of a service that nobody connects to, and puts it back.
    fn change(&mut self, count: u64) -> anyhow::Result<()> {
        const SERVICE: u32 = 1;
        for n in 0..count {
            let mut wanted = endpoints(SERVICE, u32::MAX);
            if n % 2 == 0 {
                wanted[0] = SocketAddr::from((fictive(SERVICE, 7), TARGET_PORT));
            }
            let begun = Instant::now();
            match &mut self.rules {
                Rules::None => return Ok(()),
                Rules::Skep(all) => {
                    let (kernel, table) = &mut **all;
                    let changes = table.set(&key(SERVICE), &plan(SERVICE, &wanted));
                    kernel.apply(&changes)?;
                }
                Rules::KubeProxy => {
                    // What it writes for a service that has changed: its chain anew.
                    let chain = chain(SERVICE);
                    let words = format!(
                        "flush chain ip kube-proxy {chain}\nadd rule ip kube-proxy {chain} {}\n",
                        spread(&wanted)
                    );
                    say(self.machine.namespace(), &words)?;
                }
            }
            self.changes.add(begun.elapsed());
        }
        Ok(())
    }
}

fn machine() -> anyhow::Result<MachineNetwork> {
    let config = MachineConfig {
        bridge: "skep0".into(),
        mac: MacAddr([2, 0x53, 10, 64, 0, 1]),
        mtu: MTU,
        addresses: vec![format!("{MACHINE}/{SUBNET_LENGTH}").parse().context("an address")?],
        uplink: None,
        gateways: Vec::new(),
    };
    let inside = Namespace::new().context("making a machine's namespace; this needs root")?;
    let mut machine = MachineNetwork::set_up(inside, config)?;
    machine.add_routes(&["10.96.0.0/16".parse().context("a range")?])?;
    Ok(machine)
}

fn pod(n: u8, ip: Ipv4Addr, path: &Path) -> PodConfig {
    PodConfig {
        id: format!("way-{n}"),
        namespace: PathBuf::from(path),
        mac: MacAddr([2, 0x53, 10, 64, 1, n]),
        addresses: vec![
            ipnet::IpNet::new(ip.into(), SUBNET_LENGTH).unwrap_or_else(|_| IpAddr::V4(ip).into()),
        ],
        pairs: Vec::new(),
        gateways: vec![MACHINE.into()],
        mtu: MTU,
    }
}

fn key(n: u32) -> (String, String) {
    ("default".to_owned(), format!("s{n}"))
}

/// A service's address: those of the API server and of the name server are below.
fn address(n: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0a60_0100 + n)
}

/// Which services have somebody behind them.
fn real(n: u32, services: u32) -> u32 {
    n * (services / REAL)
}

fn endpoints(n: u32, services: u32) -> Vec<SocketAddr> {
    let is_real = n.is_multiple_of((services / REAL).max(1)) && n / (services / REAL).max(1) < REAL;
    (0..ENDPOINTS)
        .map(|e| match is_real {
            true => SocketAddr::from((SERVER, TARGET_PORT + e as u16)),
            false => SocketAddr::from((fictive(n, e), TARGET_PORT)),
        })
        .collect()
}

fn plan(n: u32, endpoints: &[SocketAddr]) -> skep_netplan::service::Desired {
    let service = Service {
        cluster_ips: vec![address(n).into()],
        ports: vec![ServicePort { protocol: L4::Tcp, port: PORT, ..ServicePort::default() }],
        ..Service::default()
    };
    // Endpoints of one address have ports of their own: a slice for each port.
    let of = |e: &SocketAddr| EndpointSlice {
        v6: false,
        ports: vec![EndpointPort { name: String::new(), protocol: L4::Tcp, port: Some(e.port()) }],
        endpoints: vec![Endpoint {
            address: Some(e.ip()),
            ready: true,
            serving: true,
            ..Endpoint::default()
        }],
    };
    let slices: Vec<EndpointSlice> = endpoints.iter().map(of).collect();
    desired(&service, &slices.iter().collect::<Vec<_>>(), &Place { node: "n".into(), zone: None })
}

/// The chain of a service, named as there: a hash, namespace, name, protocol, port.
fn chain(n: u32) -> String {
    format!("service-{:08X}-default/s{n}/tcp/http", n.wrapping_mul(0x9e37_79b1))
}

fn spread(endpoints: &[SocketAddr]) -> String {
    let elements: Vec<String> =
        endpoints.iter().enumerate().map(|(n, e)| format!("{n} : {} . {}", e.ip(), e.port())).collect();
    format!(
        "meta l4proto tcp dnat ip addr . port to numgen random mod {} map {{ {} }}",
        endpoints.len(),
        elements.join(" , ")
    )
}

/// A rule set of the layout that kube-proxy documents for its nftables mode: base chains at the same hooks and priorities, a map from
/// addresses and ports to a chain for each service, in which a random number chooses the endpoint. (Priorities are numbers: not every nft
/// takes their names at every hook.)
fn kube_proxy(services: u32) -> String {
    let mut text = String::from(
        "add table ip kube-proxy
add chain ip kube-proxy filter-prerouting-pre-dnat { type filter hook prerouting priority -110 ; }
add chain ip kube-proxy filter-output-pre-dnat { type filter hook output priority -110 ; }
add chain ip kube-proxy filter-input { type filter hook input priority 0 ; }
add chain ip kube-proxy filter-forward { type filter hook forward priority 0 ; }
add chain ip kube-proxy filter-output { type filter hook output priority 0 ; }
add chain ip kube-proxy nat-prerouting { type nat hook prerouting priority -100 ; }
add chain ip kube-proxy nat-output { type nat hook output priority -100 ; }
add chain ip kube-proxy nat-postrouting { type nat hook postrouting priority 100 ; }
add chain ip kube-proxy nodeport-endpoints-check
add chain ip kube-proxy service-endpoints-check
add chain ip kube-proxy firewall-check
add chain ip kube-proxy services
add chain ip kube-proxy masquerading
add chain ip kube-proxy cluster-ips-check
add set ip kube-proxy cluster-ips { type ipv4_addr ; }
add set ip kube-proxy hairpin-connections { type ipv4_addr . ipv4_addr . inet_proto . inet_service ; }
add map ip kube-proxy no-endpoint-services { type ipv4_addr . inet_proto . inet_service : verdict ; }
add map ip kube-proxy no-endpoint-nodeports { type inet_proto . inet_service : verdict ; }
add map ip kube-proxy firewall-ips { type ipv4_addr . inet_proto . inet_service : verdict ; }
add map ip kube-proxy service-ips { type ipv4_addr . inet_proto . inet_service : verdict ; }
add map ip kube-proxy service-nodeports { type inet_proto . inet_service : verdict ; }
add rule ip kube-proxy filter-input ct state new jump nodeport-endpoints-check
add rule ip kube-proxy filter-input ct state new jump service-endpoints-check
add rule ip kube-proxy filter-forward ct state new jump service-endpoints-check
add rule ip kube-proxy filter-output ct state new jump service-endpoints-check
add rule ip kube-proxy filter-prerouting-pre-dnat ct state new jump firewall-check
add rule ip kube-proxy filter-output-pre-dnat ct state new jump firewall-check
add rule ip kube-proxy nat-output jump services
add rule ip kube-proxy nat-prerouting jump services
add rule ip kube-proxy nat-postrouting jump masquerading
add rule ip kube-proxy filter-forward ct state new jump cluster-ips-check
add rule ip kube-proxy filter-output ct state new jump cluster-ips-check
add rule ip kube-proxy masquerading mark and 0x4000 != 0 mark set mark xor 0x4000 masquerade fully-random
add rule ip kube-proxy masquerading ct status dnat ip saddr . ip daddr . meta l4proto . th dport @hairpin-connections masquerade fully-random
add rule ip kube-proxy cluster-ips-check ip daddr @cluster-ips reject
add rule ip kube-proxy cluster-ips-check ip daddr { 10.96.0.0/12 } drop
add rule ip kube-proxy service-endpoints-check ip daddr . meta l4proto . th dport vmap @no-endpoint-services
add rule ip kube-proxy nodeport-endpoints-check ip daddr != 127.0.0.0/8 meta l4proto . th dport vmap @no-endpoint-nodeports
add rule ip kube-proxy firewall-check ip daddr . meta l4proto . th dport vmap @firewall-ips
add rule ip kube-proxy services ip daddr @cluster-ips ip saddr != 10.64.0.0/14 mark set mark or 0x4000
add rule ip kube-proxy services ip daddr . meta l4proto . th dport vmap @service-ips
add rule ip kube-proxy services fib daddr type local ip daddr != 127.0.0.0/8 meta l4proto . th dport vmap @service-nodeports
",
    );
    for n in 0..services {
        let (chain, ip) = (chain(n), address(n));
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "add chain ip kube-proxy {chain}\nadd rule ip kube-proxy {chain} {}\n\
             add element ip kube-proxy cluster-ips {{ {ip} }}\n\
             add element ip kube-proxy service-ips {{ {ip} . tcp . {PORT} : goto {chain} }}",
            spread(&endpoints(n, services))
        );
    }
    text
}

/// Says something to the kernel as kube-proxy does: through nft, which reads it from its input.
fn say(namespace: &Namespace, words: &str) -> anyhow::Result<()> {
    let mut command = Command::new("nft");
    command.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = namespace.run(|| command.spawn())?.context("starting nft")?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(words.as_bytes()).context("speaking to nft")?;
    }
    let output = child.wait_with_output().context("waiting for nft")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("nft: {}", said.lines().next().unwrap_or("it failed"));
    }
    Ok(())
}
