//! `skep bench network`: guarantees, maxima, packet limits, and TCP beside bare devices.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::Value;
use skep_net::Namespace;
use skep_netplan::bandwidth::{Limits, Policy, WIRE_MPU_BYTES, WIRE_OVERHEAD_BYTES};

use super::testbed::{Pod, Testbed, address};

/// What is measured.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// How long each measurement takes, in seconds.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// How often TCP is measured beside bare devices, in turns.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=100))]
    rounds: u64,
    /// Only this row of SPECIFICATION.md.
    #[arg(long, value_parser = ["W1", "W2"])]
    only: Option<String>,
}

const MBIT: u64 = 1_000_000;
const UPLINK: u64 = 500;
/// The first pods of two tenants on the first host, and where they send to on the second.
const RED: Pod = (0, 1, 1, 1);
const BLUE: Pod = (1, 1, 1, 1);
/// On the first host, in the same machine and in another.
const SAME_MACHINE: Pod = (0, 1, 1, 2);
const OTHER_MACHINE: Pod = (0, 1, 2, 1);
const OTHER_HOST: Pod = (0, 2, 1, 1);
const BLUE_OTHER_HOST: Pod = (1, 2, 1, 1);
/// Ethernet, IP and UDP in front of what is sent.
const UDP_HEADERS: u64 = 14 + 20 + 8;
/// What makes a frame of 64 bytes, its checksum included.
const SMALL: usize = 18;
const LARGE: usize = 1400;
/// How long nothing is counted at first: what may come at once comes in this time.
/// What each of two senders offers an uplink by UDP, in Mbit/s: more than the whole of it. As much as there is time for would measure who has the CPU.
const OFFERED: u64 = 600;
/// Packets between looks at the clock.
const TOGETHER: u64 = 16;
const BEFORE: Duration = Duration::from_millis(500);
/// Where iperf3 listens.
const IPERF_PORT: u16 = 5201;

/// Measures, and prints what it finds.
///
/// # Errors
/// When something cannot be measured.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let version = Command::new("iperf3").arg("--version").output();
    let version = version.context("starting iperf3; it must be installed (`make tools`)")?;
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    let iperf = String::from_utf8_lossy(&version.stdout);
    println!("Linux {}, {cpus} CPUs, {}", kernel.trim(), iperf.lines().next().unwrap_or_default());
    let mut bed = Testbed::new()?;
    let mut misses = 0;
    if options.only.as_deref() != Some("W1") {
        misses += beside_bare_devices(&bed, options)?;
    }
    if options.only.as_deref() != Some("W2") {
        misses += policies(&mut bed, options)?;
    }
    println!();
    match misses {
        0 => println!("everything is as promised"),
        n => println!("{n} figures are NOT MET"),
    }
    Ok(())
}

/// Prints a figure; 1 if it is not met.
pub(super) fn figure(what: &str, found: &str, promised: &str, met: bool) -> usize {
    println!("{:<58} {found:<26} {promised:<24} {}", what, if met { "met" } else { "NOT MET" });
    usize::from(!met)
}

/// W2.
fn beside_bare_devices(bed: &Testbed, options: &Options) -> anyhow::Result<usize> {
    let bare = |end: &str| Namespace::open(&bed.bare_path(end));
    let ip = |pod: Pod| IpAddr::V4(address(pod.1, pod.2, pod.3));
    let ways = [
        ("bare veth", bare("a")?, bare("b")?, IpAddr::from([10, 1, 0, 2])),
        ("pods of one machine", bed.open(RED)?, bed.open(SAME_MACHINE)?, ip(SAME_MACHINE)),
        ("pods of two machines of one host", bed.open(RED)?, bed.open(OTHER_MACHINE)?, ip(OTHER_MACHINE)),
        (
            "  as many pairs and bridges as that, without any rule",
            bare("c")?,
            bare("d")?,
            IpAddr::from([10, 1, 2, 2]),
        ),
        ("bare VXLAN device", bed.host(1)?, bed.host(2)?, IpAddr::from([10, 1, 1, 2])),
        ("pods of two hosts", bed.open(RED)?, bed.open(OTHER_HOST)?, ip(OTHER_HOST)),
    ];
    let mut rates: Vec<Vec<f64>> = vec![Vec::new(); ways.len()];
    for _ in 0..options.rounds {
        for (i, (_, from, to, target)) in ways.iter().enumerate() {
            rates[i].push(iperf(&[(from, to, *target)], options.seconds)?[0].bits_per_s);
        }
    }
    println!();
    println!(
        "W2: one TCP stream, {} rounds of {} s; medians of rates, and of each round's ratios",
        options.rounds, options.seconds
    );
    // What else the computer does changes from second to second: only what was measured right after each other is compared.
    let median = |mut all: Vec<f64>| {
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    let mut misses = 0;
    for (i, (name, ..)) in ways.iter().enumerate() {
        let base = match i {
            0 | 4 => {
                println!("{name:<58} {:.2} Gbit/s", median(rates[i].clone()) / 1e9);
                continue;
            }
            1..=3 => 0,
            _ => 4,
        };
        let ratio = median(rates[i].iter().zip(&rates[base]).map(|(rate, base)| rate / base).collect());
        let found = format!("{:.2} Gbit/s, {:.0} %", median(rates[i].clone()) / 1e9, ratio * 100.0);
        if i == 3 {
            println!("{name:<58} {found}");
        } else {
            misses += figure(name, &found, "at least 90 %", ratio >= 0.9);
        }
    }
    Ok(misses)
}

fn limits(guaranteed: Option<u64>, maximum: Option<u64>, packets: Option<u64>) -> Limits {
    Limits {
        guaranteed_bits_per_s: guaranteed.map(|m| m * MBIT),
        maximum_bits_per_s: maximum.map(|m| m * MBIT),
        packets_per_s: packets,
    }
}

fn sending(limits: Limits) -> Policy {
    Policy { sending: limits, receiving: Limits::default(), mpu_bytes: WIRE_MPU_BYTES }
}

fn receiving(limits: Limits) -> Policy {
    Policy { sending: Limits::default(), receiving: limits, mpu_bytes: WIRE_MPU_BYTES }
}

fn within(found: f64, wanted: f64, part: f64) -> bool {
    (found - wanted).abs() <= wanted * part
}

/// W1.
fn policies(bed: &mut Testbed, options: &Options) -> anyhow::Result<usize> {
    println!();
    println!("W1: an uplink of {UPLINK} Mbit/s; rates are what a wire counts, VXLAN's headers included");
    let mut misses = 0;
    let mbit = |bits: f64| format!("{:.1} Mbit/s", bits / 1e6);
    // Both at once, by TCP and by packets that nobody slows down: of these a small computer carries no more than the whole line takes, so at
    // a fifth of everything too.
    for (how, part) in [("UDP, a fifth of all", 5), ("TCP", 1), ("UDP", 1)] {
        let [line, first, second] = [UPLINK, 300, 100].map(|m| m / part);
        bed.shape(
            1,
            Some(line * MBIT),
            &[
                (RED, sending(limits(Some(first), None, None))),
                (BLUE, sending(limits(Some(second), None, None))),
            ],
        )?;
        let (from, to) =
            ([bed.open(RED)?, bed.open(BLUE)?], [bed.open(OTHER_HOST)?, bed.open(BLUE_OTHER_HOST)?]);
        let target = IpAddr::V4(address(2, 1, 1));
        let time = Duration::from_secs(options.seconds);
        let wire = if how == "TCP" {
            let all = iperf(&[(&from[0], &to[0], target), (&from[1], &to[1], target)], options.seconds)?;
            all.iter().map(Stream::on_wire).collect::<Vec<_>>()
        } else {
            let mut senders = Senders::default();
            for (from, port) in from.iter().zip([6001, 6002]) {
                senders.start(from, SocketAddr::new(target, port), LARGE, Some(OFFERED / part * MBIT))?;
            }
            let sent = || -> anyhow::Result<[u64; 2]> { Ok([bed.on_wire(RED)?, bed.on_wire(BLUE)?]) };
            std::thread::sleep(BEFORE);
            let (before, begin) = (sent()?, Instant::now());
            std::thread::sleep(time);
            let (after, took) = (sent()?, begin.elapsed().as_secs_f64());
            before.iter().zip(after).map(|(b, a)| (a - b) as f64 * 8.0 / took).collect()
        };
        for (found, guaranteed) in [(wire[0], first), (wire[1], second)] {
            let least = 0.95 * (guaranteed * MBIT) as f64;
            let what = format!("{how}: {guaranteed} Mbit/s guaranteed, both at once");
            misses += figure(&what, &mbit(found), "at least 95 %", found >= least);
        }
        let all = wire[0] + wire[1];
        let line = (line * MBIT) as f64;
        misses += figure(
            &format!("{how}: both together"),
            &mbit(all),
            "the uplink, within 5 %",
            within(all, line, 0.05),
        );
        let rest = [(wire[0], first), (wire[1], second)].map(|(found, m)| found - (m * MBIT) as f64);
        println!(
            "{:<58} {} and {}",
            format!("{how}: of what is idle each has"),
            mbit(rest[0]),
            mbit(rest[1])
        );
    }
    let alone = iperf(
        &[(&bed.open(BLUE)?, &bed.open(BLUE_OTHER_HOST)?, IpAddr::V4(address(2, 1, 1)))],
        options.seconds,
    )?;
    let found = alone[0].on_wire();
    misses += figure(
        "the second alone, what the first does not use",
        &mbit(found),
        "the uplink, within 5 %",
        within(found, (UPLINK * MBIT) as f64, 0.05),
    );

    // Without the uplink's part in it: between two machines of one host.
    for (what, red, other) in [
        ("sends", Some(sending(limits(None, Some(100), None))), None),
        ("receives", None, Some(receiving(limits(None, Some(100), None)))),
    ] {
        let policies: Vec<_> =
            red.map(|p| (RED, p)).into_iter().chain(other.map(|p| (OTHER_MACHINE, p))).collect();
        bed.shape(1, Some(UPLINK * MBIT), &policies)?;
        let per_s = packets(bed, RED, OTHER_MACHINE, LARGE, options.seconds)?;
        let found = per_s * (LARGE as u64 + UDP_HEADERS + u64::from(WIRE_OVERHEAD_BYTES)) as f64 * 8.0;
        let what = format!("at most 100 Mbit/s that a port {what}, UDP");
        misses += figure(&what, &mbit(found), "within 3 %", within(found, 100e6, 0.03));
        let tcp = iperf(
            &[(&bed.open(RED)?, &bed.open(OTHER_MACHINE)?, IpAddr::V4(address(1, 2, 1)))],
            options.seconds,
        )?;
        let found = tcp[0].inside();
        misses += figure(&format!("{what}, TCP"), &mbit(found), "at most 103 Mbit/s", found <= 103e6);
    }
    bed.shape(1, Some(UPLINK * MBIT), &[(RED, sending(limits(None, Some(10), None)))])?;
    let per_s = packets(bed, RED, OTHER_MACHINE, SMALL, options.seconds)?;
    let wanted = 10e6 / 8.0 / f64::from(WIRE_MPU_BYTES);
    let promised = format!("{wanted:.0}, within 3 %");
    let found = format!("{per_s:.0} packets/s");
    misses += figure(
        "frames of 64 bytes at 10 Mbit/s, each counted as 84",
        &found,
        &promised,
        within(per_s, wanted, 0.03),
    );
    let large_unit = Policy { mpu_bytes: 1000, ..sending(limits(None, Some(10), None)) };
    bed.shape(1, Some(UPLINK * MBIT), &[(RED, large_unit)])?;
    let per_s = packets(bed, RED, OTHER_MACHINE, SMALL, options.seconds)?;
    misses += figure(
        "the same with a minimum packet unit of 1000",
        &format!("{per_s:.0} packets/s"),
        "1250, within 3 %",
        within(per_s, 1250.0, 0.03),
    );
    for (what, red, other) in [
        ("sent", Some(sending(limits(None, None, Some(10_000)))), None),
        ("received", None, Some(receiving(limits(None, None, Some(10_000))))),
    ] {
        let policies: Vec<_> =
            red.map(|p| (RED, p)).into_iter().chain(other.map(|p| (OTHER_MACHINE, p))).collect();
        bed.shape(1, Some(UPLINK * MBIT), &policies)?;
        let per_s = packets(bed, RED, OTHER_MACHINE, SMALL, options.seconds)?;
        misses += figure(
            &format!("at most 10,000 packets a second {what}, frames of 64 bytes"),
            &format!("{per_s:.0} packets/s"),
            "10000, within 3 %",
            within(per_s, 10_000.0, 0.03),
        );
    }
    Ok(misses)
}

/// A stream of iperf3, as its receiver saw it.
struct Stream {
    bits_per_s: f64,
    mss_bytes: f64,
}

impl Stream {
    /// What the stream takes of a machine's interface, as a wire would count it.
    fn inside(&self) -> f64 {
        // TCP with times, IP, Ethernet.
        const HEADERS: f64 = 32.0 + 20.0 + 14.0;
        // The size that is told has room for the times already.
        let payload = self.mss_bytes;
        self.bits_per_s * (payload + HEADERS + f64::from(WIRE_OVERHEAD_BYTES)) / payload
    }

    /// The same on the wire between hosts.
    fn on_wire(&self) -> f64 {
        // Ethernet, IP, UDP, VXLAN.
        const OUTSIDE: f64 = 50.0;
        const HEADERS: f64 = 32.0 + 20.0 + 14.0;
        let payload = self.mss_bytes;
        self.bits_per_s * (payload + HEADERS + OUTSIDE + f64::from(WIRE_OVERHEAD_BYTES)) / payload
    }
}

/// Ended when it is dropped.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Streams at the same time, each from a namespace to an address in another.
fn iperf(ways: &[(&Namespace, &Namespace, IpAddr)], seconds: u64) -> anyhow::Result<Vec<Stream>> {
    let mut servers = Vec::new();
    for (_, to, target) in ways {
        let mut server = Command::new("iperf3");
        server.args(["--server", "--one-off", "--port", &IPERF_PORT.to_string()]);
        let child = to.run(|| server.stdout(Stdio::null()).stderr(Stdio::null()).spawn())?;
        servers.push(Ended(child.context("starting iperf3")?));
        listens(to, SocketAddr::new(*target, IPERF_PORT))?;
    }
    let mut clients = Vec::new();
    for (from, _, target) in ways {
        let mut client = Command::new("iperf3");
        client.args([
            "--json",
            "--omit",
            "1",
            "--time",
            &seconds.to_string(),
            "--client",
            &target.to_string(),
        ]);
        client.args(["--port", &IPERF_PORT.to_string()]);
        let child = from.run(|| client.stdin(Stdio::null()).stdout(Stdio::piped()).spawn())?;
        clients.push(child.context("starting iperf3")?);
    }
    let mut streams = Vec::new();
    for client in clients {
        let output = client.wait_with_output().context("waiting for iperf3")?;
        let said: Value = serde_json::from_slice(&output.stdout).context("reading what iperf3 says")?;
        if let Some(error) = said["error"].as_str() {
            bail!("iperf3: {error}");
        }
        let number = |value: &Value| value.as_f64().context("iperf3 does not say what is needed");
        streams.push(Stream {
            bits_per_s: number(&said["end"]["sum_received"]["bits_per_second"])?,
            mss_bytes: number(&said["start"]["tcp_mss_default"])?,
        });
    }
    Ok(streams)
}

/// Waits until somebody listens. Nothing is connected: a server that serves one client would take it for that.
fn listens(namespace: &Namespace, address: SocketAddr) -> anyhow::Result<()> {
    let port = format!(":{:04X} ", address.port());
    let begun = Instant::now();
    loop {
        let found = namespace.run(|| {
            // Its own view of the namespace: that of the thread.
            ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"]
                .map(|path| std::fs::read_to_string(path).unwrap_or_default())
        })?;
        const LISTENS: &str = " 0A ";
        if found.iter().any(|t| t.lines().any(|l| l.contains(&port) && l.contains(LISTENS))) {
            return Ok(());
        }
        if begun.elapsed() > Duration::from_secs(10) {
            bail!("iperf3 does not listen at {address}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Threads that send packets as fast as they can, until this is dropped.
#[derive(Default)]
struct Senders {
    end: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Senders {
    /// `bits_per_s` is what is sent, without headers; as much as there is time for if it is not said.
    fn start(
        &mut self,
        from: &Namespace,
        target: SocketAddr,
        bytes: usize,
        bits_per_s: Option<u64>,
    ) -> anyhow::Result<()> {
        let socket = from.run(|| UdpSocket::bind("0.0.0.0:0"))?.context("opening a socket")?;
        socket.connect(target).context("choosing where packets go")?;
        let end = self.end.clone();
        self.threads.push(std::thread::spawn(move || {
            let packet = vec![0; bytes];
            let begun = Instant::now();
            let mut sent = 0_u64;
            while !end.load(Ordering::Relaxed) {
                if let Some(bits_per_s) = bits_per_s {
                    let due =
                        begun + Duration::from_secs_f64((sent * bytes as u64 * 8) as f64 / bits_per_s as f64);
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                }
                for _ in 0..TOGETHER {
                    // What is refused (a full queue, nobody there) is part of what is measured.
                    let _ = socket.send(&packet);
                }
                sent += TOGETHER;
            }
        }));
        Ok(())
    }
}

impl Drop for Senders {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // It only counts.
            let _ = thread.join();
        }
    }
}

/// How many packets of a size arrive in a second of all that one pod can send.
fn packets(bed: &Testbed, from: Pod, to: Pod, bytes: usize, seconds: u64) -> anyhow::Result<f64> {
    let target = SocketAddr::new(address(to.1, to.2, to.3).into(), 6000);
    let server = bed.open(to)?.run(|| UdpSocket::bind(target))?.context("opening a socket")?;
    server.set_read_timeout(Some(Duration::from_millis(200))).context("setting a time limit")?;
    let mut senders = Senders::default();
    senders.start(&bed.open(from)?, target, bytes, None)?;
    let mut buffer = vec![0; 2048];
    let begun = Instant::now();
    while begun.elapsed() < BEFORE {
        // Nothing is counted yet.
        let _ = server.recv(&mut buffer);
    }
    let (from, mut count) = (Instant::now(), 0_u64);
    while from.elapsed() < Duration::from_secs(seconds) {
        count += u64::from(server.recv(&mut buffer).is_ok());
    }
    Ok(count as f64 / from.elapsed().as_secs_f64())
}
