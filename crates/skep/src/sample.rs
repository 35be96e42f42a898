//! `skep sample`: what `skep demo` runs in its containers. A web front that asks an API, which counts in a store that keeps its data in a file; and a
//! client that tries what it is told to and says what happened.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};

/// How long one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);
/// Largest answer that is read.
const ANSWER_MAX_BYTES: usize = 64 * 1024;
/// How long the client tries to get what should be there: others may still be starting.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it tries.
const PAUSE: Duration = Duration::from_millis(300);

/// The parts of the sample.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    part: Part,
}

#[derive(Debug, clap::Subcommand)]
enum Part {
    /// The web front.
    Web {
        #[command(flatten)]
        common: Common,
        /// Where the API is, http://HOST:PORT.
        #[arg(long)]
        api: Uri,
    },
    /// The API.
    Api {
        #[command(flatten)]
        common: Common,
        /// Where the store is, http://HOST:PORT.
        #[arg(long)]
        store: Uri,
    },
    /// The store.
    Store {
        #[command(flatten)]
        common: Common,
        /// Where it keeps its data.
        #[arg(long, default_value = "/data")]
        data: PathBuf,
    },
    /// Tries things, and says what happened.
    Client {
        /// POST to this address, so many times: URL=TIMES.
        #[arg(long)]
        post: Vec<String>,
        /// The answer of this address must contain a text: URL=TEXT.
        #[arg(long)]
        expect: Vec<String>,
        /// Say what this address answers.
        #[arg(long)]
        show: Vec<Uri>,
        /// Nobody may answer at this address.
        #[arg(long)]
        silent: Vec<Uri>,
        /// This address must not give an answer that contains a text: URL=TEXT. No answer at all is as good.
        #[arg(long)]
        never: Vec<String>,
    },
}

#[derive(Debug, clap::Args)]
struct Common {
    /// Where it listens.
    #[arg(long, default_value = "0.0.0.0:8080")]
    listen: SocketAddr,
    /// Whose it is: said in every answer.
    #[arg(long, env = "OWNER", default_value = "nobody")]
    owner: String,
}

enum Work {
    Web { owner: String, api: Uri },
    Api { owner: String, store: Uri },
    Store { owner: String, file: PathBuf, lock: tokio::sync::Mutex<()> },
}

/// Runs until it is ended, or the client is done.
///
/// # Errors
/// When it cannot listen; of the client, when something was not as it should be.
pub(crate) fn run(options: Options) -> anyhow::Result<()> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the runtime")?;
    runtime.block_on(async move {
        match options.part {
            Part::Client { post, expect, never, show, silent } => {
                client(&Wishes { post, expect, never, show, silent }).await
            }
            Part::Web { common, api } => serve(common.listen, Work::Web { owner: common.owner, api }).await,
            Part::Api { common, store } => {
                serve(common.listen, Work::Api { owner: common.owner, store }).await
            }
            Part::Store { common, data } => {
                std::fs::create_dir_all(&data).with_context(|| format!("making {}", data.display()))?;
                let (file, lock) = (data.join("visits"), tokio::sync::Mutex::new(()));
                serve(common.listen, Work::Store { owner: common.owner, file, lock }).await
            }
        }
    })
}

async fn serve(listen: SocketAddr, work: Work) -> anyhow::Result<()> {
    let listener = TcpListener::bind(listen).await.with_context(|| format!("listening on {listen}"))?;
    tracing::info!(%listen, "ready");
    let work = Arc::new(work);
    let down = crate::signals::shutdown();
    let ended = crate::signals::ended(down);
    tokio::pin!(ended);
    loop {
        let stream = tokio::select! {
            () = &mut ended => return Ok(()),
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a connection cannot be accepted");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            },
        };
        let work = work.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let work = work.clone();
                async move { Ok::<_, Infallible>(respond(&work, request).await) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(Some(REQUEST_TIMEOUT))
                .serve_connection(TokioIo::new(stream), service);
            // A client that leaves early is its own affair.
            let _ = connection.await;
        });
    }
}

async fn respond(work: &Work, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (status, text) = match (request.method(), request.uri().path()) {
        (_, "/healthz") => (StatusCode::OK, "ok\n".to_owned()),
        (&Method::GET | &Method::POST, "/" | "/visits") => {
            match visits(work, request.method().clone()).await {
                Ok(text) => (StatusCode::OK, text),
                Err(error) => (StatusCode::BAD_GATEWAY, format!("{error:#}\n")),
            }
        }
        _ => (StatusCode::NOT_FOUND, "not found\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response
}

async fn visits(work: &Work, method: Method) -> anyhow::Result<String> {
    match work {
        Work::Web { owner, api } => {
            let said = ask(method, &joined(api)?).await.context("asking the API")?;
            Ok(format!("This is {owner}'s shop. {said}"))
        }
        Work::Api { owner, store } => {
            let said = ask(method, &joined(store)?).await.context("asking the store")?;
            Ok(format!("{owner}'s API says: {said}"))
        }
        Work::Store { owner, file, lock } => {
            let _one = lock.lock().await;
            let mut count = read_count(file)?;
            if method == Method::POST {
                count += 1;
                let new = file.with_extension("new");
                // Counted when it is on the disk.
                std::fs::write(&new, count.to_string()).context("writing the count")?;
                std::fs::File::open(&new).and_then(|f| f.sync_all()).context("writing the count")?;
                std::fs::rename(&new, file).context("writing the count")?;
            }
            Ok(format!("{owner}'s store has {count} visits\n"))
        }
    }
}

fn read_count(file: &Path) -> anyhow::Result<u64> {
    match std::fs::read_to_string(file) {
        Ok(text) => text.trim().parse().context("the count is damaged"),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(0),
        Err(e) => Err(e).context("reading the count"),
    }
}

fn joined(base: &Uri) -> anyhow::Result<Uri> {
    format!("{}/visits", base.to_string().trim_end_matches('/')).parse().context("that is no address")
}

/// Sends a request, and returns the answer's text if it is a good one.
async fn ask(method: Method, uri: &Uri) -> anyhow::Result<String> {
    let exchange = async {
        let (host, port) = (uri.host().context("an address needs a host")?, uri.port_u16().unwrap_or(80));
        let stream = TcpStream::connect((host, port)).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(async move {
            // What goes wrong shows in the request.
            let _ = connection.await;
        });
        let path = uri.path_and_query().map_or("/", |p| p.as_str());
        let request =
            Request::builder().method(method).uri(path).header("host", host).body(Empty::<Bytes>::new())?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_MAX_BYTES).collect().await;
        let body = body.map_err(|e| anyhow::anyhow!("the answer broke off: {e}"))?.to_bytes();
        let text = String::from_utf8_lossy(&body).into_owned();
        if !status.is_success() {
            bail!("it answers {status}: {}", text.trim());
        }
        Ok(text)
    };
    tokio::time::timeout(REQUEST_TIMEOUT, exchange)
        .await
        .with_context(|| format!("no answer within {} s", REQUEST_TIMEOUT.as_secs()))?
}

fn pair(text: &str) -> anyhow::Result<(Uri, &str)> {
    let (uri, rest) = text.split_once('=').with_context(|| format!("{text:?}: write URL=TEXT"))?;
    Ok((uri.parse().with_context(|| format!("{uri:?} is no address"))?, rest))
}

async fn patiently(method: Method, uri: &Uri) -> anyhow::Result<String> {
    let begun = Instant::now();
    loop {
        match ask(method.clone(), uri).await {
            Ok(text) => return Ok(text),
            Err(error) if begun.elapsed() > PATIENCE => return Err(error),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// What the client is to try.
#[derive(Default)]
struct Wishes {
    post: Vec<String>,
    expect: Vec<String>,
    never: Vec<String>,
    show: Vec<Uri>,
    silent: Vec<Uri>,
}

async fn client(wishes: &Wishes) -> anyhow::Result<()> {
    let Wishes { post, expect, never, show, silent } = wishes;
    let mut wrong = 0;
    for text in post {
        let (uri, times) = pair(text)?;
        for _ in 0..times.parse::<u32>().context("how many times?")? {
            patiently(Method::POST, &uri).await.with_context(|| format!("POST {uri}"))?;
        }
        println!("ok: {uri} was visited {times} times");
    }
    for uri in show {
        let said = patiently(Method::GET, uri).await.with_context(|| format!("GET {uri}"))?;
        println!("ok: {uri} answers: {}", said.trim());
    }
    for text in expect {
        let (uri, wanted) = pair(text)?;
        match patiently(Method::GET, &uri).await {
            Ok(said) if said.contains(wanted) => println!("ok: {uri} answers: {}", said.trim()),
            Ok(said) => {
                wrong += 1;
                println!("WRONG: {uri} answers without {wanted:?}: {}", said.trim());
            }
            Err(error) => {
                wrong += 1;
                println!("WRONG: {uri} does not answer: {error:#}");
            }
        }
    }
    for text in never {
        let (uri, unwanted) = pair(text)?;
        match ask(Method::GET, &uri).await {
            Ok(said) if said.contains(unwanted) => {
                wrong += 1;
                println!("WRONG: {uri} answers: {}", said.trim());
            }
            // Tenants' addresses may be the same: it is the own one that answers.
            Ok(said) => println!("ok: at {uri} is something of one's own: {}", said.trim()),
            Err(error) => println!("ok: {uri} cannot be reached: {error:#}"),
        }
    }
    for uri in silent {
        match ask(Method::GET, uri).await {
            Ok(said) => {
                wrong += 1;
                println!("WRONG: {uri} answers: {}", said.trim());
            }
            Err(error) => println!("ok: nobody answers at {uri}: {error:#}"),
        }
    }
    if wrong > 0 {
        bail!("{wrong} things are not as they should be");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn part(work: Work) -> Uri {
        let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        tokio::spawn(serve(([127, 0, 0, 1], port).into(), work));
        format!("http://127.0.0.1:{port}").parse().unwrap()
    }

    #[tokio::test]
    async fn the_parts_work_together_and_the_client_tells_right_from_wrong() {
        let dir = tempfile::tempdir().unwrap();
        let owner = || "blue".to_owned();
        let file = dir.path().join("visits");
        let store =
            part(Work::Store { owner: owner(), file: file.clone(), lock: tokio::sync::Mutex::new(()) }).await;
        let api = part(Work::Api { owner: owner(), store }).await;
        let web = part(Work::Web { owner: owner(), api }).await.to_string();
        let web = web.trim_end_matches('/');
        let all = |list: &[&str]| list.iter().map(|text| format!("{web}/={text}")).collect::<Vec<_>>();
        let wishes = Wishes {
            post: all(&["3"]),
            expect: all(&["3 visits"]),
            never: all(&["green"]),
            show: vec![web.parse().unwrap()],
            silent: vec!["http://127.0.0.1:1/".parse().unwrap()],
        };
        client(&wishes).await.unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "3");
        assert!(client(&Wishes { expect: all(&["green"]), ..Wishes::default() }).await.is_err());
        assert!(client(&Wishes { never: all(&["blue"]), ..Wishes::default() }).await.is_err());
        assert!(client(&Wishes { silent: vec![web.parse().unwrap()], ..Wishes::default() }).await.is_err());
    }
}
