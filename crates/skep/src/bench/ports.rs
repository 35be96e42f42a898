//! `skep bench ports`: very many pods in one network. What their ports cost the control plane, whether each has an address of its own,
//! and what a host's switch that knows all of them costs.

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use serde::Deserialize;
use serde_json::{Value, json};
use skep_bench::Latencies;
use skep_client::{Client, ListParams, Resource, Tenants};
use skep_net::switch::{Switch, SwitchConfig};
use skep_net::{MacAddr, Namespace};
use skep_netplan::fabric::{Place, Port, plan};

use super::cloud::Cloud;
use super::network::figure;

/// What is measured.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Pods of the network.
    #[arg(long, default_value_t = 65_000, value_parser = clap::value_parser!(u32).range(100..=260_000))]
    count: u32,
    /// Requests that are under way at once.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1000))]
    concurrency: u32,
    /// Only the control plane, for which root is not needed.
    #[arg(long)]
    no_switch: bool,
}

const PORTS: Resource = Resource::new("network.skep.io", "v1", "ports");
const NETWORKS: Resource = Resource::new("network.skep.io", "v1", "networks");
const SUBNETS: Resource = Resource::new("network.skep.io", "v1", "subnets");
const NETWORK: &str = "large";
/// Where the network's addresses begin.
const FIRST: Ipv4Addr = Ipv4Addr::new(10, 128, 0, 0);
/// Of a subnet, what no port gets: the first address, the last, and the gateway's.
const NOT_GIVEN: u32 = 3;
/// Nodes that the pods are spread over.
const NODES: u32 = 1000;
/// How often what a change costs the switch is measured.
const CHANGES: usize = 20;

/// Measures, and prints what it finds.
///
/// # Errors
/// When something cannot be measured.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut misses = runtime.block_on(control_plane(options))?;
    drop(runtime);
    if !options.no_switch {
        misses += switch(options.count)?;
    }
    println!();
    match misses {
        0 => println!("everything is as promised"),
        n => println!("{n} figures are NOT MET"),
    }
    Ok(())
}

/// What this process has in memory.
fn resident_bytes() -> anyhow::Result<u64> {
    let text = std::fs::read_to_string("/proc/self/status").context("reading /proc/self/status")?;
    let line = text.lines().find_map(|l| l.strip_prefix("VmRSS:")).context("reading /proc/self/status")?;
    let kb: u64 = line.trim().trim_end_matches(" kB").parse().context("reading /proc/self/status")?;
    Ok(kb * 1024)
}

/// The smallest subnet that has room for so many.
fn subnet_length(count: u32) -> u32 {
    32 - (count + NOT_GIVEN).next_power_of_two().trailing_zeros()
}

async fn control_plane(options: &Options) -> anyhow::Result<usize> {
    let cloud = Cloud::start().await?;
    let client = cloud.tenant("shop").await?;
    let length = subnet_length(options.count);
    let room = (1 << (32 - length)) - NOT_GIVEN;
    let object = |kind: &str, spec: Value| json!({"apiVersion": "network.skep.io/v1", "kind": kind, "metadata": {"name": NETWORK}, "spec": spec});
    let cidr = format!("{FIRST}/{length}");
    client.create::<Value>(&NETWORKS.at(Tenants::Own), &object("Network", json!({}))).await?;
    let subnet = object("Subnet", json!({"networkName": NETWORK, "cidr": cidr}));
    client.create::<Value>(&SUBNETS.at(Tenants::Own), &subnet).await?;
    println!("W5: {} pods in one network, {cidr}, with room for {room}", options.count);
    let before = resident_bytes()?;
    let begun = Instant::now();
    let all = make(&client, 0..options.count, options.concurrency).await?;
    let took = begun.elapsed();
    let grown = resident_bytes()?.saturating_sub(before);
    let ms = |share: f64| all.percentile(share).as_secs_f64() * 1e3;
    println!(
        "{:<58} {:.1} s, {:.0}/s; p50 {:.2}, p99 {:.2} ms",
        "ports made",
        took.as_secs_f64(),
        f64::from(options.count) / took.as_secs_f64(),
        ms(0.5),
        ms(0.99)
    );
    println!(
        "{:<58} {:.1} MiB, {:.0} bytes a port",
        "memory that they take in the control plane",
        grown as f64 / f64::from(1 << 20),
        grown as f64 / f64::from(options.count)
    );
    let mut misses = exact(&client, options.count, length).await?;
    // Until there is none left, and no further.
    let begun = Instant::now();
    let rest = make(&client, options.count..room, options.concurrency).await?;
    println!(
        "{:<58} {} in {:.1} s; p99 {:.2} ms",
        "the rest of the subnet, until it is full",
        rest.len(),
        begun.elapsed().as_secs_f64(),
        rest.percentile(0.99).as_secs_f64() * 1e3
    );
    misses += exact(&client, room, length).await?;
    let more = make(&client, room..room + 1, 1).await;
    misses += figure(
        "one more",
        if more.is_err() { "refused" } else { "given an address" },
        "refused",
        more.err().is_some_and(|e| format!("{e:#}").contains("are full")),
    );
    Ok(misses)
}

/// Makes ports, some at a time; how long each took.
async fn make(client: &Client, which: std::ops::Range<u32>, concurrency: u32) -> anyhow::Result<Latencies> {
    let next = Arc::new(AtomicUsize::new(which.start as usize));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..concurrency {
        let (client, next, end) = (client.clone(), next.clone(), which.end as usize);
        tasks.spawn(async move {
            let at = PORTS.at(Tenants::Own).namespace("default");
            let mut all = Latencies::default();
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= end {
                    return anyhow::Ok(all);
                }
                let port = json!({
                    "apiVersion": "network.skep.io/v1", "kind": "Port",
                    "metadata": {"name": format!("p{n}")},
                    "spec": {"networkName": NETWORK, "nodeName": format!("node-{}", n % NODES as usize)},
                });
                let begun = Instant::now();
                client.create_bytes(&at, port.to_string().into()).await.context("making a port")?;
                all.add(begun.elapsed());
            }
        });
    }
    let mut all = Latencies::default();
    while let Some(done) = tasks.join_next().await {
        all.append(done.map_err(|_| anyhow!("a task that makes ports has ended"))??);
    }
    Ok(all)
}

/// Whether so many ports have an address of the subnet each, and no two the same.
async fn exact(client: &Client, count: u32, length: u32) -> anyhow::Result<usize> {
    #[derive(Deserialize)]
    struct Read {
        spec: Spec,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Spec {
        #[serde(default)]
        network_name: String,
        addresses: Vec<Ipv4Addr>,
        mac: String,
    }
    let all: skep_client::List<Read> =
        client.list_all(&PORTS.at(Tenants::Own).namespace("default"), ListParams::default()).await?;
    let ours: Vec<Read> = all.items.into_iter().filter(|p| p.spec.network_name == NETWORK).collect();
    let first = u32::from(FIRST);
    let last = first + (1 << (32 - length)) - 1;
    // The gateway is the first that could be given.
    let given = |ip: &Ipv4Addr| (first + 2..last).contains(&u32::from(*ip));
    let addresses: HashSet<Ipv4Addr> = ours.iter().flat_map(|p| p.spec.addresses.clone()).collect();
    let macs: HashSet<&str> = ours.iter().map(|p| p.spec.mac.as_str()).collect();
    let each = ours.iter().all(|p| p.spec.addresses.len() == 1);
    let right = addresses.len() == count as usize
        && ours.len() == count as usize
        && macs.len() == count as usize
        && each
        && addresses.iter().all(given);
    Ok(figure(
        "addresses and Ethernet addresses that are different",
        &format!("{} and {} of {}", addresses.len(), macs.len(), ours.len()),
        &format!("{count}"),
        right,
    ))
}

/// A switch that knows all of a network, with a machine on it and the rest elsewhere.
fn switch(count: u32) -> anyhow::Result<usize> {
    let folder = tempfile::tempdir().context("making a folder")?;
    let path = folder.path().join("switch");
    let host = Namespace::new().context("making a host's namespace; this needs root")?;
    let config = SwitchConfig { vni: 5000, mtu: 1450, local: IpAddr::V4(Ipv4Addr::LOCALHOST), port: 4789 };
    let result = measure_switch(&host, &path, &config, count);
    if let Err(error) = Switch::remove_at(&path) {
        eprintln!("skep: something of the measurement stays: {error}");
    }
    result
}

fn port(n: u32) -> Port {
    let ip = Ipv4Addr::from(u32::from(FIRST) + 2 + n);
    let [a, b, c, d] = ip.octets();
    Port {
        mac: MacAddr([2, 0x53, a, b, c, d]).0,
        addresses: vec![ip.into()],
        pairs: Vec::new(),
        machine: format!("node-{}", n % NODES),
        is_machine: false,
    }
}

fn measure_switch(
    host: &Namespace,
    path: &std::path::Path,
    config: &SwitchConfig,
    count: u32,
) -> anyhow::Result<usize> {
    let mut switch = Switch::set_up(host, path, config)?;
    let machine = Namespace::new()?;
    switch.attach("m0", &machine, "eth0")?;
    let mut places: BTreeMap<String, Place> = BTreeMap::new();
    for n in 0..NODES {
        let there = Place::There(Ipv4Addr::from(0x0a64_0001 + n).into());
        places.insert(format!("node-{n}"), if n == 0 { Place::Here("m0".into()) } else { there });
    }
    let mut ports: Vec<Port> = (0..count).map(port).collect();
    let places = places.into_iter().collect();
    let before = kernel_bytes()?;
    let begun = Instant::now();
    let whole = plan(&ports, &places);
    let planned = begun.elapsed();
    switch.set(&whole)?;
    println!(
        "{:<58} {:.2} s, {:.0} ms of it planning; {:.1} MiB of the kernel",
        "a switch that knows all of them",
        begun.elapsed().as_secs_f64(),
        planned.as_secs_f64() * 1e3,
        kernel_bytes()?.saturating_sub(before) as f64 / f64::from(1 << 20)
    );
    let mut changes = Latencies::default();
    for n in 0..CHANGES {
        // One comes, or goes, elsewhere.
        if n % 2 == 0 {
            ports.push(port(count + 1))
        } else {
            drop(ports.pop())
        }
        let begun = Instant::now();
        let changed = switch.set(&plan(&ports, &places))?;
        changes.add(begun.elapsed());
        if changed == 0 {
            bail!("a port that came changed nothing");
        }
    }
    let ms = |share: f64| changes.percentile(share).as_secs_f64() * 1e3;
    println!(
        "{:<58} p50 {:.0}, worst {:.0} ms",
        "one pod more or less on it, planned whole",
        ms(0.5),
        ms(1.0)
    );
    Ok(0)
}

/// What the kernel itself has in memory. Other work on the computer changes it too.
fn kernel_bytes() -> anyhow::Result<u64> {
    // What was given back is counted a little later.
    std::thread::sleep(Duration::from_millis(200));
    let text = std::fs::read_to_string("/proc/meminfo").context("reading /proc/meminfo")?;
    let of = |name: &str| -> u64 {
        let line = text.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_default();
        line.trim().trim_end_matches(" kB").parse().unwrap_or(0)
    };
    Ok((of("SUnreclaim:") + of("VmallocUsed:") + of("Percpu:")) * 1024)
}
