//! `skep bench dns`: how many names a machine's name server answers on one CPU, how fast, and how soon a new endpoint is known.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::event::epoll;
use rustix::net::sockopt;
use serde_json::{Value, json};
use skep_bench::Latencies;
use skep_client::{Client, ObjectPath, Patch, Resource, Tenants};

use super::cloud::{Cloud, Node, cpus, create_all, pin};
use super::network::figure;
use super::services::{connects, own_address};

/// What is measured.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// How long each measurement takes, in seconds.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Questions a second.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    rate: u64,
    /// Services that have names.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    services: u64,
    /// New endpoints that are waited for.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    rounds: u64,
}

const SERVICES: Resource = Resource::new("", "v1", "services");
const SLICES: Resource = Resource::new("discovery.k8s.io", "v1", "endpointslices");
const A: u16 = 1;
const AAAA: u16 = 28;
const SRV: u16 = 33;
const NO_ERROR: u8 = 0;
const NO_NAME: u8 = 3;
/// Endpoints of the headless service.
const HEADLESS: usize = 10;
/// Where a question's type ends what a client says of itself.
const HEADER_BYTES: usize = 12;
/// Where what is sent comes back, and how much is: as long as a question.
const ECHO_PORT: u16 = 5353;
const ECHO_BYTES: usize = 50;
/// An answer that has not come after this is lost.
const LOST_AFTER: Duration = Duration::from_secs(1);
/// Of the promise: how many questions a second are answered, how fast, and how soon a new endpoint is.
const PROMISED_RATE: f64 = 20_000.0;
const PROMISED_P99_MS: f64 = 2.0;
const PROMISED_NEW_MS: f64 = 100.0;
/// Questions under way at once when it is asked as fast as it answers.
const WINDOW: usize = 64;
/// What the client's socket may leave lying, in bytes of the kernel's memory.
const WAITING_BYTES: usize = 4 << 20;
/// Sockets that are read at a time.
const READY: usize = 256;

/// Measures, and prints what it finds.
///
/// # Errors
/// When something cannot be measured.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let cpus = cpus()?;
    let (ours, theirs) = (*cpus.first().context("asking for CPUs")?, cpus.get(1).copied());
    if theirs.is_none() {
        println!("There is one CPU only: the client takes from what the server has.");
    }
    let (cloud, client) = runtime.block_on(async {
        let cloud = Cloud::start().await?;
        let client = cloud.tenant("shop").await?;
        create_all(&client, objects(options.services)).await?;
        anyhow::Ok((cloud, client))
    })?;
    let node = Node::start(client.clone(), cloud.folder(), 2, Some(ours))?;
    println!(
        "W4: {} services; a node's network as its agent runs it, on one CPU; the client is a pod on another",
        options.services
    );
    let questions = questions(options.services);
    // Beside it, who does nothing: what is late there is not the name server.
    let echo = echo(&node, ours)?;
    let mut misses = 0;
    for (how, fresh) in [("from one port", false), ("each from a port of its own", true)] {
        let rate = Some(options.rate);
        let asked = Asked { questions: &questions, rate, seconds: 1, fresh, to: names() };
        let control = Asked { questions: &[], to: echo, ..asked };
        let (mut found, mut echoed, mut worked) = (Found::default(), Found::default(), Vec::new());
        for _ in 0..options.seconds {
            let (part, work) = measured(&node, theirs, &asked)?;
            found.add(part);
            worked.push(work);
            // Each of its packets would be a connection to the kernel, of which it remembers so many only.
            if !fresh {
                echoed.add(measured(&node, theirs, &control)?.0);
            }
        }
        let worked = worked.iter().sum::<f64>() / worked.len().max(1) as f64;
        misses += report(how, options.rate, &found, worked);
        if !fresh {
            echoed.print("  a thread that sends back what it gets, in its place");
        }
    }
    let asked =
        Asked { questions: &questions, rate: None, seconds: options.seconds, fresh: false, to: names() };
    let (found, worked) = measured(&node, theirs, &asked)?;
    misses += figure(
        "as fast as it answers, from one port",
        &format!("{:.0}/s, {:.1} µs of CPU each", found.per_s(), worked),
        "at least 20000/s",
        found.per_s() >= PROMISED_RATE && found.wrong == 0,
    );
    misses += runtime.block_on(new_endpoints(&client, &node, options.rounds))?;
    println!();
    match misses {
        0 => println!("everything is as promised"),
        n => println!("{n} figures are NOT MET"),
    }
    Ok(())
}

fn report(how: &str, rate: u64, found: &Found, worked_us: f64) -> usize {
    let ms = |share: f64| found.latencies.percentile(share).as_secs_f64() * 1e3;
    let mut misses = figure(
        &format!("{rate} questions a second, {how}: answered"),
        &format!("{:.0}/s, {} lost", found.per_s(), found.lost),
        "all of them",
        found.lost == 0 && found.wrong == 0 && found.per_s() >= 0.99 * rate as f64,
    );
    misses += figure(
        "  p50, p99, worst",
        &format!("{:.2}, {:.2}, {:.1} ms", ms(0.5), ms(0.99), ms(1.0)),
        "p99 under 2 ms",
        ms(0.99) < PROMISED_P99_MS,
    );
    found.print("  of that");
    println!("{:<58} {worked_us:.1} µs", "  CPU of the server's thread for each");
    misses
}

/// Who sends back what it gets, where the name server is and on its CPU, until the process ends.
fn echo(node: &Node, cpu: usize) -> anyhow::Result<SocketAddr> {
    let address = SocketAddr::from((skep_nodenet::DNS_IP, ECHO_PORT));
    let socket = node.machine().run(|| UdpSocket::bind(address))?.context("opening a socket")?;
    sockopt::set_socket_recv_buffer_size_force(&socket, WAITING_BYTES).context("opening a socket")?;
    std::thread::spawn(move || {
        let mut buffer = [0u8; 4096];
        // It is slower on another CPU, and that is all.
        let _ = pin(cpu);
        while let Ok((len, from)) = socket.recv_from(&mut buffer) {
            // As the name server: what there is no room for is lost.
            let _ = socket.send_to(&buffer[..len], from);
        }
    });
    Ok(address)
}

fn names() -> SocketAddr {
    (skep_nodenet::DNS_IP, 53).into()
}

fn measured(node: &Node, cpu: Option<usize>, asked: &Asked<'_>) -> anyhow::Result<(Found, f64)> {
    let before = node.worked_ns()?;
    let found = node.pod(0)?.run(|| ask(cpu, asked))??;
    if found.wrong > 0 {
        bail!("{} answers are wrong", found.wrong);
    }
    let worked_us = (node.worked_ns()? - before) as f64 / 1e3 / found.answered.max(1) as f64;
    Ok((found, worked_us))
}

fn slice(service: &str, addresses: &[Ipv4Addr], port: u16) -> Value {
    let endpoints: Vec<Value> = addresses
        .iter()
        .map(|ip| json!({"addresses": [ip.to_string()], "conditions": {"ready": true}}))
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": service, "labels": {"kubernetes.io/service-name": service}},
        "endpoints": endpoints, "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
    })
}

fn service(name: &str, headless: bool) -> Value {
    let mut spec = json!({"ports": [{"name": "http", "port": 80, "protocol": "TCP"}]});
    if headless {
        spec["clusterIP"] = "None".into();
    }
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})
}

fn services() -> ObjectPath {
    SERVICES.at(Tenants::Own).namespace("default")
}

fn slices() -> ObjectPath {
    SLICES.at(Tenants::Own).namespace("default")
}

/// Services with an address and an endpoint each, and two headless ones.
fn objects(count: u64) -> Vec<(ObjectPath, Value)> {
    let mut all = Vec::new();
    for n in 0..count {
        let name = format!("svc-{n}");
        all.push((services(), service(&name, false)));
        all.push((slices(), slice(&name, &[Ipv4Addr::from(0x0a40_8000 + n as u32)], 8080)));
    }
    all.push((services(), service("headless", true)));
    let many: Vec<Ipv4Addr> = (0..HEADLESS as u32).map(|n| Ipv4Addr::from(0x0a41_0000 + n)).collect();
    all.push((slices(), slice("headless", &many, 8080)));
    for (name, headless) in [("new", true), ("door", false)] {
        all.push((services(), service(name, headless)));
        all.push((slices(), slice(name, &[], NEW_PORT)));
    }
    all
}

/// A question as bytes, and what its answer says: the code and the number of records.
struct Question {
    bytes: Vec<u8>,
    code: u8,
    records: u16,
}

/// What a client asks with a search list, for services with an address, headless ones and ports by name.
fn questions(count: u64) -> Vec<Question> {
    let mut all = Vec::new();
    for n in 0..count {
        let name = format!("svc-{n}.default.svc.cluster.local");
        all.push(question(&name, A, NO_ERROR, 1));
        all.push(question(&name, AAAA, NO_ERROR, 0));
        match n % 4 {
            0 => all.push(question("headless.default.svc.cluster.local", A, NO_ERROR, HEADLESS as u16)),
            1 => all.push(question(&format!("_http._tcp.{name}"), SRV, NO_ERROR, 1)),
            _ => all.push(question(&format!("{name}.default.svc.cluster.local"), A, NO_NAME, 0)),
        }
    }
    all
}

fn question(name: &str, kind: u16, code: u8, records: u16) -> Question {
    // Recursion is desired; one question.
    let mut bytes = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend(kind.to_be_bytes());
    bytes.extend(1u16.to_be_bytes());
    Question { bytes, code, records }
}

/// How questions are asked.
struct Asked<'a> {
    questions: &'a [Question],
    /// So many a second, whether or not earlier ones are answered; without it as fast as they are.
    rate: Option<u64>,
    seconds: u64,
    /// Each from a port of its own, as a resolver asks.
    fresh: bool,
    /// Who is asked.
    to: SocketAddr,
}

/// What came back.
#[derive(Default)]
struct Found {
    answered: usize,
    lost: usize,
    wrong: usize,
    took: Duration,
    latencies: Latencies,
    /// How late the client sent.
    late: Latencies,
    /// How long after it was sent a question was answered.
    answers: Latencies,
    /// The 99th percentile of latencies of each second.
    rounds_ms: Vec<f64>,
}

impl Found {
    fn add(&mut self, part: Found) {
        self.rounds_ms.push(part.latencies.percentile(0.99).as_secs_f64() * 1e3);
        self.answered += part.answered;
        self.lost += part.lost;
        self.wrong += part.wrong;
        self.took += part.took;
        self.latencies.append(part.latencies);
        self.late.append(part.late);
        self.answers.append(part.answers);
    }

    /// Where time went.
    fn print(&self, what: &str) {
        let ms = |of: &Latencies, share: f64| of.percentile(share).as_secs_f64() * 1e3;
        let mut rounds = self.rounds_ms.clone();
        rounds.sort_by(f64::total_cmp);
        let of_rounds =
            |part: usize| rounds.get((rounds.len() * part / 4).min(rounds.len().saturating_sub(1)));
        let of_rounds = |part| of_rounds(part).copied().unwrap_or_default();
        println!(
            "{what:<58} p99 {:.2} ms, of seconds: best {:.2}, median {:.2}, worst {:.2}; sent late p99 {:.2}; from then p99 {:.2}",
            ms(&self.latencies, 0.99),
            of_rounds(0),
            of_rounds(2),
            of_rounds(4),
            ms(&self.late, 0.99),
            ms(&self.answers, 0.99),
        );
    }

    fn per_s(&self) -> f64 {
        self.answered as f64 / self.took.as_secs_f64().max(f64::MIN_POSITIVE)
    }
}

/// A question that waits for its answer.
struct Waiting {
    /// When it was to be sent: a client that is late has waited too.
    due: Instant,
    sent: Instant,
    question: usize,
    /// Its own, which goes with the answer.
    socket: Option<UdpSocket>,
}

/// Questions that wait, by their numbers, and the order in which they were asked. However many are lost, an answer costs the same.
struct Asking {
    by_number: Vec<Option<Waiting>>,
    order: VecDeque<u16>,
    epoll: OwnedFd,
}

impl Asking {
    fn new() -> anyhow::Result<Asking> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).context("opening a list of sockets")?;
        let by_number = std::iter::repeat_with(|| None).take(1 << 16).collect();
        Ok(Asking { by_number, order: VecDeque::new(), epoll })
    }

    fn add(&mut self, number: u16, one: Waiting) -> anyhow::Result<()> {
        if let Some(socket) = &one.socket {
            let data = epoll::EventData::new_u64(number.into());
            epoll::add(&self.epoll, socket, data, epoll::EventFlags::IN).context("waiting for an answer")?;
        }
        self.by_number[usize::from(number)] = Some(one);
        self.order.push_back(number);
        Ok(())
    }

    /// Which questions with a socket of their own have something to read.
    fn ready(&self, found: &mut Vec<epoll::Event>) -> anyhow::Result<()> {
        found.clear();
        let now = rustix::event::Timespec::default();
        let buffer = rustix::buffer::spare_capacity(found);
        epoll::wait(&self.epoll, buffer, Some(&now)).context("waiting for answers")?;
        Ok(())
    }

    fn take(&mut self, number: u16) -> Option<Waiting> {
        self.by_number[usize::from(number)].take()
    }

    /// Gives up those that have waited too long; how many they are.
    fn give_up(&mut self) -> usize {
        let mut lost = 0;
        while let Some(first) = self.order.front().copied() {
            match &self.by_number[usize::from(first)] {
                Some(one) if one.due.elapsed() <= LOST_AFTER => break,
                Some(_) => {
                    self.by_number[usize::from(first)] = None;
                    lost += 1;
                }
                None => {}
            }
            self.order.pop_front();
        }
        lost
    }
}

fn socket(to: SocketAddr) -> anyhow::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("opening a socket")?;
    socket.connect(to).context("choosing whom to ask")?;
    socket.set_nonblocking(true).context("opening a socket")?;
    Ok(socket)
}

/// Takes an answer if there is one: its number.
fn take(socket: &UdpSocket, buffer: &mut [u8]) -> anyhow::Result<Option<usize>> {
    match socket.recv(buffer) {
        Ok(len) if len >= HEADER_BYTES => Ok(Some(len)),
        Ok(_) => bail!("an answer is too short to be one"),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error).context("asking the name server"),
    }
}

fn ask(cpu: Option<usize>, asked: &Asked<'_>) -> anyhow::Result<Found> {
    if let Some(cpu) = cpu {
        pin(cpu)?;
    }
    let shared = socket(asked.to)?;
    // What is measured is not how much the client can leave lying.
    sockopt::set_socket_recv_buffer_size_force(&shared, WAITING_BYTES).context("opening a socket")?;
    let mut buffer = [0u8; 4096];
    let mut found = Found::default();
    let mut asking = Asking::new()?;
    let mut ready = Vec::with_capacity(READY);
    let (begun, length) = (Instant::now(), Duration::from_secs(asked.seconds));
    let mut sent = 0_u64;
    let judge = |found: &mut Found, bytes: &[u8], one: &Waiting| {
        let Some(question) = asked.questions.get(one.question) else {
            found.answered += 1;
            found.latencies.add(one.due.elapsed());
            found.answers.add(one.sent.elapsed());
            return;
        };
        let right = bytes[3] & 0xf == question.code && bytes[6..8] == question.records.to_be_bytes();
        found.wrong += usize::from(!right);
        found.answered += 1;
        found.latencies.add(one.due.elapsed());
        found.answers.add(one.sent.elapsed());
    };
    loop {
        let now = Instant::now();
        let over = now.duration_since(begun) >= length;
        // Some at a time: who is late reads answers in between.
        for _ in 0..WINDOW {
            let due = match asked.rate {
                Some(rate) => begun + Duration::from_nanos(sent * 1_000_000_000 / rate),
                None => now,
            };
            let may = asked.rate.is_some() || (sent as usize - found.answered - found.lost) < WINDOW;
            if over || due > now || !may || due.duration_since(begun) >= length {
                break;
            }
            let id = sent as u16;
            let question = (sent as usize).wrapping_mul(7919) % asked.questions.len().max(1);
            let mut bytes =
                asked.questions.get(question).map_or_else(|| vec![0; ECHO_BYTES], |q| q.bytes.clone());
            bytes[..2].copy_from_slice(&id.to_be_bytes());
            let own = if asked.fresh { Some(socket(asked.to)?) } else { None };
            let at = Instant::now();
            match own.as_ref().unwrap_or(&shared).send(&bytes) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error).context("asking the name server"),
            }
            sent += 1;
            found.late.add(at.saturating_duration_since(due));
            asking.add(id, Waiting { due, sent: at, question, socket: own })?;
        }
        if asked.fresh {
            asking.ready(&mut ready)?;
            for event in &ready {
                let number = event.data.u64() as u16;
                let Some(one) = asking.take(number) else { continue };
                let Some(socket) = &one.socket else { continue };
                if take(socket, &mut buffer)?.is_some() {
                    judge(&mut found, &buffer, &one);
                }
            }
        } else {
            while take(&shared, &mut buffer)?.is_some() {
                let id = u16::from_be_bytes([buffer[0], buffer[1]]);
                if let Some(one) = asking.take(id) {
                    judge(&mut found, &buffer, &one);
                }
            }
        }
        found.lost += asking.give_up();
        if over && found.took.is_zero() {
            found.took = begun.elapsed();
        }
        if over && asking.order.is_empty() {
            break;
        }
    }
    Ok(found)
}

/// Where the new endpoint listens.
const NEW_PORT: u16 = 8080;

/// How soon an endpoint that is written is answered by name, and takes connections of its service.
async fn new_endpoints(client: &Client, node: &Node, rounds: u64) -> anyhow::Result<usize> {
    let (mut named, mut connected) = (Latencies::default(), Latencies::default());
    let (asker, there) = (node.pod(0)?, node.pod(1)?);
    let door: Value = client.read(&services().name("door")).await.context("reading a service")?;
    let door: IpAddr = door["spec"]["clusterIP"].as_str().unwrap_or_default().parse().context("a service")?;
    let listener = there.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, NEW_PORT)))?;
    let listener = listener.context("listening in a pod")?;
    let address = there.run(own_address)??;
    // Whoever connects is taken, and let go.
    std::thread::spawn(move || listener.incoming().for_each(drop));
    let question = question("new.default.svc.cluster.local", A, NO_ERROR, 0).bytes;
    for round in 0..rounds {
        let ip = Ipv4Addr::from(0x0a42_0000 + round as u32);
        let (begun, asked) = (Instant::now(), question.clone());
        let asks = asker.try_clone()?;
        let waits = tokio::task::spawn_blocking(move || asks.run(|| knows(&asked, ip)));
        set(client, "new", &[ip]).await?;
        waits.await.context("asking by name")???;
        named.add(begun.elapsed());
        let (begun, target) = (Instant::now(), SocketAddr::new(door, 80));
        let asks = asker.try_clone()?;
        let waits = tokio::task::spawn_blocking(move || asks.run(|| connects(target, true)));
        set(client, "door", &[address]).await?;
        waits.await.context("connecting")???;
        connected.add(begun.elapsed());
        set(client, "door", &[]).await?;
        let asks = asker.try_clone()?;
        tokio::task::spawn_blocking(move || asks.run(|| connects(target, false)))
            .await
            .context("connecting")???;
    }
    let mut misses = 0;
    for (what, all) in [("answered by name", &named), ("connected to through its service", &connected)] {
        let ms = |share: f64| all.percentile(share).as_secs_f64() * 1e3;
        misses += figure(
            &format!("a new endpoint, from before it is written until {what}"),
            &format!("p50 {:.1}, worst {:.1} ms", ms(0.5), ms(1.0)),
            "within 100 ms",
            ms(1.0) < PROMISED_NEW_MS,
        );
    }
    Ok(misses)
}

async fn set(client: &Client, service: &str, addresses: &[Ipv4Addr]) -> anyhow::Result<()> {
    let wanted = slice(service, addresses, NEW_PORT);
    let patch = Patch::Merge(json!({"endpoints": wanted["endpoints"]}));
    client.patch::<Value>(&slices().name(service), &patch).await.context("writing an endpoint")?;
    Ok(())
}

/// How long anything that is to happen soon is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// Asks until the answer is one address.
fn knows(question: &[u8], ip: Ipv4Addr) -> anyhow::Result<()> {
    let socket = socket(names())?;
    let (begun, mut buffer) = (Instant::now(), [0u8; 4096]);
    while begun.elapsed() < PATIENCE {
        socket.send(question).context("asking the name server")?;
        let asked = Instant::now();
        while asked.elapsed() < LOST_AFTER {
            if let Some(len) = take(&socket, &mut buffer)? {
                if buffer[..len].ends_with(&ip.octets()) {
                    return Ok(());
                }
                break;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }
    bail!("{ip} is not answered")
}
