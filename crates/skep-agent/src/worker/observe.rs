//! What the runtime has of the pod.

use std::collections::BTreeMap;
use std::path::Path;

use jiff::Timestamp;
use skep_runtime::spec::{ContainerState, ContainerStatus};
use skep_runtime::{Event, Found};

use super::Worker;
use crate::container::{self, labels};
use crate::network::PodAddresses;
use crate::spec;
use crate::state::{Instance, InstanceState};

/// Longest last words, and how much of a log stands in for them: as upstream.
const MAX_MESSAGE_BYTES: usize = 4096;
const MAX_LOG_BYTES: usize = 2048;
const MAX_LOG_LINES: usize = 80;
/// The exit code of a container whose end nobody saw.
const UNSEEN_EXIT_CODE: i32 = 137;

fn time(ns: u64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(ns)).unwrap_or_default()
}

/// The id of the pod's sandbox.
pub(super) fn sandbox_id(uid: &str, attempt: u32) -> String {
    format!("{uid}-{attempt}")
}

/// The pod and attempt of a sandbox's id.
pub(crate) fn parse_sandbox_id(id: &str) -> Option<(&str, u32)> {
    let (uid, attempt) = id.rsplit_once('-')?;
    Some((uid, attempt.parse().ok()?))
}

impl Worker {
    /// Finds what a former agent left running.
    pub(super) async fn adopt(&mut self) {
        let found = std::mem::take(&mut self.found);
        let uid = spec::uid(&self.pod).to_owned();
        let mut newest: Option<(u32, skep_runtime::Sandbox)> = None;
        for one in found {
            let id = match &one {
                Found::Running(sandbox) => sandbox.id().to_owned(),
                Found::Dead(dead) => dead.id.clone(),
            };
            let Some((_, attempt)) = parse_sandbox_id(&id).filter(|(of, _)| *of == uid) else { continue };
            self.facts.attempt = Some(self.facts.attempt.map_or(attempt, |a| a.max(attempt)));
            match one {
                Found::Running(sandbox) => {
                    let older = newest.replace((attempt, sandbox));
                    if let Some((_, older)) = older {
                        self.remove_sandbox(older.id()).await;
                    }
                }
                Found::Dead(dead) => {
                    self.remember(&dead.containers, attempt);
                    self.remove_sandbox(&dead.id).await;
                }
            }
        }
        if let Some((attempt, sandbox)) = newest {
            self.facts.attempt = Some(attempt);
            self.facts.ips = self.recorded_addresses();
            self.facts.ready = true;
            self.hold_sandbox(sandbox);
        }
    }

    /// Takes a sandbox as the pod's own, and has its events wake the worker.
    pub(super) fn hold_sandbox(&mut self, sandbox: skep_runtime::Sandbox) {
        let mut events = sandbox.events();
        let wake = self.wake.clone();
        let task = tokio::spawn(async move {
            use tokio::sync::broadcast::error::RecvError;
            loop {
                match events.recv().await {
                    Ok(Event::Gone) | Err(RecvError::Closed) => {
                        wake.notify_one();
                        return;
                    }
                    Ok(_) | Err(RecvError::Lagged(_)) => wake.notify_one(),
                }
            }
        });
        if let Some(old) = self.events_task.replace(task) {
            old.abort();
        }
        self.sandbox = Some(sandbox);
    }

    async fn remove_sandbox(&self, id: &str) {
        if let Err(error) = self.node.runtime.remove(id).await {
            tracing::warn!(sandbox = id, error = %error.full(), "a sandbox cannot be removed yet");
        }
    }

    pub(super) fn recorded_addresses(&self) -> Vec<String> {
        let path = self.node.layout.pod(spec::uid(&self.pod)).join("network.json");
        std::fs::read(path)
            .ok()
            .and_then(|text| serde_json::from_slice::<PodAddresses>(&text).ok())
            .map(|a| a.ips)
            .unwrap_or_default()
    }

    /// Keeps runs whose sandbox is gone: nobody saw the end of those that ran.
    pub(super) fn remember(&mut self, containers: &[ContainerStatus], attempt: u32) {
        for status in containers {
            let Some(mut run) = self.instance(status, attempt) else { continue };
            if !matches!(run.state, InstanceState::Exited { .. }) {
                let started_at = match run.state {
                    InstanceState::Running { started_at } => Some(started_at),
                    _ => None,
                };
                run.state = InstanceState::Exited {
                    started_at,
                    finished_at: Timestamp::now(),
                    exit_code: UNSEEN_EXIT_CODE,
                    reason: "ContainerStatusUnknown".to_owned(),
                    message: "The container could not be located when the pod was terminated".to_owned(),
                };
            }
            self.past.retain(|p| p.id != run.id);
            self.past.push(run);
        }
    }

    /// Looks at what runs.
    pub(super) async fn observe(&mut self) {
        let mut now = Vec::new();
        if let Some(sandbox) = self.sandbox.clone() {
            match sandbox.status().await {
                Ok(statuses) => {
                    self.facts.ready = true;
                    let attempt = self.facts.attempt.unwrap_or(0);
                    for status in &statuses {
                        now.extend(self.instance(status, attempt));
                    }
                    self.labels = statuses.into_iter().map(|s| (s.id, s.labels)).collect();
                }
                Err(_) => self.lost(&sandbox).await,
            }
        }
        now.extend(
            self.past
                .iter()
                .filter(|p| !now.iter().any(|n: &Instance| n.id == p.id))
                .cloned()
                .collect::<Vec<_>>(),
        );
        self.finished.retain(|id, _| now.iter().any(|i| i.id == *id));
        self.instances = now;
        self.note_hashes();
    }

    /// The shim does not answer: reach it anew, or take the pod's processes as ended.
    async fn lost(&mut self, sandbox: &skep_runtime::Sandbox) {
        match self.node.runtime.find(sandbox.id()).await {
            Found::Running(again) => {
                self.hold_sandbox(again);
                self.wake.notify_one();
            }
            Found::Dead(dead) => {
                self.sandbox = None;
                self.facts.ready = false;
                let attempt = self.facts.attempt.unwrap_or(0);
                self.remember(&dead.containers, attempt);
                self.remove_sandbox(&dead.id).await;
            }
        }
    }

    fn instance(&mut self, status: &ContainerStatus, attempt: u32) -> Option<Instance> {
        if let Some(known) = self.finished.get(&status.id) {
            return Some(known.clone());
        }
        let label = |key: &str| status.labels.get(key).cloned();
        let mut run = Instance {
            id: status.id.clone(),
            name: label(labels::CONTAINER)?,
            restart_count: label(labels::RESTART_COUNT).and_then(|t| t.parse().ok()).unwrap_or(0),
            created_at: time(status.created_at_ns),
            state: InstanceState::Created,
            image: label(labels::IMAGE).unwrap_or_default(),
            image_id: label(labels::IMAGE_ID).unwrap_or_default(),
            spec_hash: label(labels::HASH).unwrap_or_default(),
            user: None,
            sandbox_attempt: label(labels::SANDBOX_ATTEMPT).and_then(|t| t.parse().ok()).unwrap_or(attempt),
        };
        let started_at = status.started_at_ns.map(time);
        match status.state {
            ContainerState::Created | ContainerState::Starting => {}
            ContainerState::Running => {
                run.state = InstanceState::Running { started_at: started_at.unwrap_or(run.created_at) };
            }
            ContainerState::Exited => {
                let exit = status.exit.as_ref();
                let exit_code = exit.map_or(UNSEEN_EXIT_CODE, |e| e.code);
                let error = exit.and_then(|e| e.error.clone());
                let reason = if exit.is_some_and(|e| e.oom_killed) {
                    "OOMKilled"
                } else if error.is_some() {
                    "StartError"
                } else if exit_code == 0 {
                    "Completed"
                } else {
                    "Error"
                };
                run.state = InstanceState::Exited {
                    started_at,
                    finished_at: status.finished_at_ns.map_or_else(Timestamp::now, time),
                    exit_code,
                    reason: reason.to_owned(),
                    message: error.unwrap_or_default(),
                };
                let words = last_words(&status.labels, &run);
                if let InstanceState::Exited { message, .. } = &mut run.state
                    && !words.is_empty()
                {
                    if !message.is_empty() {
                        message.push_str(": ");
                    }
                    message.push_str(&words);
                }
                self.finished.insert(run.id.clone(), run.clone());
            }
        }
        Some(run)
    }
}

/// What a container left as its last words: its file, or the end of its log where that is asked for.
fn last_words(labels: &BTreeMap<String, String>, run: &Instance) -> String {
    let file = labels.get(labels::TERMINATION_LOG).map(Path::new);
    let words = match file.map(|f| tail(f, MAX_MESSAGE_BYTES)) {
        Some(Ok(words)) => words,
        Some(Err(e)) if e.kind() != std::io::ErrorKind::NotFound => {
            return format!(
                "Error on reading termination log {}: {e}",
                file.unwrap_or(Path::new("")).display()
            );
        }
        _ => String::new(),
    };
    if !words.is_empty() || !container::falls_back_to_logs(labels, run) {
        return words;
    }
    let Some(log) = container::log_of(labels) else { return words };
    let text = tail(&log, MAX_LOG_BYTES * 4).unwrap_or_default();
    log_end(&text)
}

/// The messages at the end of a log in CRI's format: the last lines, and not too much of them.
fn log_end(text: &str) -> String {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.drain(..lines.len().saturating_sub(MAX_LOG_LINES));
    let mut out = String::new();
    for line in lines {
        let mut parts = line.splitn(4, ' ');
        let (_, stream, tag, message) = (parts.next(), parts.next(), parts.next(), parts.next());
        if matches!(stream, Some("stdout" | "stderr")) {
            out.push_str(message.unwrap_or_default());
            if tag.is_some_and(|t| !t.starts_with('P')) {
                out.push('\n');
            }
        }
    }
    let mut begin = out.len().saturating_sub(MAX_LOG_BYTES);
    while !out.is_char_boundary(begin) {
        begin += 1;
    }
    out.split_off(begin)
}

/// The end of a file that a container may have written: never followed out of its place, never read in full.
fn tail(path: &Path, limit: usize) -> std::io::Result<String> {
    use std::io::{Read, Seek, SeekFrom};
    use std::os::unix::fs::OpenOptionsExt;
    // Its name is the agent's, but what lies there may have been replaced through the container's mount.
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let mut file = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(i32::try_from(flags.bits()).unwrap_or(0))
        .open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Ok(String::new());
    }
    let limit = limit as u64;
    if meta.len() > limit {
        file.seek(SeekFrom::Start(meta.len() - limit))?;
    }
    let mut data = Vec::new();
    file.take(limit).read_to_end(&mut data)?;
    Ok(String::from_utf8_lossy(&data).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_of_logs() {
        let line = |n: usize| format!("2026-01-01T00:00:00.000000000Z stderr F line {n}\n");
        let text: String = (0..100).map(line).collect();
        let end = log_end(&text);
        assert!(end.starts_with("line 20\n") && end.ends_with("line 99\n"), "{end}");
        assert_eq!(log_end("t stdout P half\nt stdout F whole\nt x F y\n"), "halfwhole\n");
        assert_eq!(log_end(&format!("t stdout F {}\n", "é".repeat(3000))).len(), MAX_LOG_BYTES - 1);
    }

    #[test]
    fn last_words_are_bounded_and_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, "x".repeat(5000) + "end").unwrap();
        let words = tail(&path, MAX_MESSAGE_BYTES).unwrap();
        assert_eq!(words.len(), MAX_MESSAGE_BYTES);
        assert!(words.ends_with("end"));
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("/etc/passwd", &link).unwrap();
        assert!(tail(&link, 100).is_err());
    }

    #[test]
    fn sandbox_ids() {
        let id = sandbox_id("0a-1b", 7);
        assert_eq!(parse_sandbox_id(&id), Some(("0a-1b", 7)));
        assert_eq!(parse_sandbox_id("x"), None);
    }
}
