//! PodSecurity: what pods of a namespace may do to the machine that they run on, by the level in the
//! namespace's labels. A level is enforced, warned about, or noted in the audit log.

mod checks;
mod restricted;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::collections::{BTreeMap, HashSet};
use std::fmt;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{
    Namespace, Pod, PodSpec, PodTemplate, PodTemplateSpec, ReplicationController,
};
use skep_api::{Errors, Path};

use crate::refusal::Refusal;
use crate::review::{NAMESPACES, Operation, PODS, Review, decode, mentions};
use checks::{Finding, Subject, evaluate};

const LABEL_PREFIX: &str = "pod-security.kubernetes.io/";

/// Writes through these do not change what a pod may do.
const IGNORED_SUBRESOURCES: [&str; 8] =
    ["exec", "attach", "binding", "eviction", "log", "portforward", "proxy", "status"];

/// How many of a namespace's pods are checked when its level changes, as upstream: it is advice, and must not
/// hold up the write.
const MAX_PODS: usize = 3000;

/// The last version in which the checks changed; later ones mean the same.
const NEWEST_MINOR: u32 = 35;

/// How much pods may do, from most to least.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    #[default]
    Privileged,
    Baseline,
    Restricted,
}

impl Level {
    /// The level; when it is not one, the strictest and an error.
    fn parse(text: &str) -> Result<Level, &'static str> {
        match text {
            "privileged" => Ok(Level::Privileged),
            "baseline" => Ok(Level::Baseline),
            "restricted" => Ok(Level::Restricted),
            _ => Err("must be one of privileged, baseline, restricted"),
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        })
    }
}

/// The version of Kubernetes whose checks apply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Version {
    #[default]
    Latest,
    /// A minor version of major version 1.
    Minor(u32),
}

impl Version {
    fn parse(text: &str) -> Result<Version, &'static str> {
        const FORM: &str = "must be \"latest\" or \"v1.x\"";
        if text == "latest" {
            return Ok(Version::Latest);
        }
        let minor = text.strip_prefix("v1.").ok_or(FORM)?;
        let plain = minor.bytes().all(|b| b.is_ascii_digit()) && (minor == "0" || !minor.starts_with('0'));
        minor.parse().ok().filter(|_| plain).map(Version::Minor).ok_or(FORM)
    }

    fn is_at_least(self, minor: u32) -> bool {
        match self {
            Version::Latest => minor <= NEWEST_MINOR,
            Version::Minor(own) => minor <= own,
        }
    }
}

/// A level as of a version; `baseline:latest`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Standard {
    level: Level,
    version: Version,
}

impl fmt::Display for Standard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.version {
            Version::Latest => write!(f, "{}:latest", self.level),
            Version::Minor(minor) => write!(f, "{}:v1.{minor}", self.level),
        }
    }
}

/// What a namespace asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Policy {
    enforce: Standard,
    audit: Standard,
    warn: Standard,
}

impl Policy {
    /// What labels say, and what is wrong with them. A level that is not one enforces the strictest, and
    /// neither warns nor is noted.
    fn of(labels: Option<&BTreeMap<String, String>>) -> (Policy, Errors) {
        let (mut policy, mut errors) = (Policy::default(), Errors::new());
        let Some(labels) = labels.filter(|l| !l.is_empty()) else { return (policy, errors) };
        let metadata = Path::root("metadata");
        let path = metadata.child("labels");
        let label = |name: &str| {
            let key = format!("{LABEL_PREFIX}{name}");
            labels.get(&key).map(|value| (key, value.as_str()))
        };
        let mut complain = |key: &str, value: &str, why: &str| errors.invalid(&path.key(key), value, why);
        let mut read = |mode: &str, otherwise: Level| {
            let mut standard = Standard::default();
            let mut valid = false;
            if let Some((key, value)) = label(mode) {
                match Level::parse(value) {
                    Ok(level) => (standard.level, valid) = (level, true),
                    Err(why) => {
                        standard.level = otherwise;
                        complain(&key, value, why);
                    }
                }
            }
            if let Some((key, value)) = label(&format!("{mode}-version")) {
                match Version::parse(value) {
                    Ok(version) => standard.version = version,
                    Err(why) => complain(&key, value, why),
                }
            }
            (standard, valid)
        };
        let (enforce, explicit) = read("enforce", Level::Restricted);
        policy.enforce = enforce;
        policy.audit = read("audit", Level::Privileged).0;
        policy.warn = read("warn", Level::Privileged).0;
        // Who enforces a level on pods is warned about the workloads that will make such pods.
        if label("warn").is_none() && explicit && policy.enforce.level > policy.warn.level {
            policy.warn.level = policy.enforce.level;
            if label("warn-version").is_none() {
                policy.warn.version = policy.enforce.version;
            }
        }
        (policy, errors)
    }
}

/// The policy of the request's namespace.
fn policy(review: &Review<'_>) -> Result<Policy, Refusal> {
    let Some(stored) = review.lookup.get(&NAMESPACES, "", review.namespace) else {
        return Err(Refusal::internal(format!("failed to lookup namespace {:?}", review.namespace)));
    };
    // Most namespaces have no such labels: then there is nothing to decode.
    if !mentions(&stored.json, LABEL_PREFIX) {
        return Ok(Policy::default());
    }
    let namespace: Namespace = decode(&stored.json)?;
    Ok(Policy::of(namespace.metadata.labels.as_ref()).0)
}

pub(crate) fn validate(review: &Review<'_>, object: &dyn Any) -> Result<(), Refusal> {
    if !matches!(review.operation, Operation::Create | Operation::Update) {
        return Ok(());
    }
    if let Some(namespace) = object.downcast_ref::<Namespace>() {
        return validate_namespace(review, namespace);
    }
    if let Some(pod) = object.downcast_ref::<Pod>() {
        return validate_pod(review, pod);
    }
    let Some(template) = template(object).filter(|_| review.is_main()) else { return Ok(()) };
    let Some(spec) = &template.spec else { return Ok(()) };
    let policy = policy(review)?;
    let annotations = template.metadata.as_ref().and_then(|m| m.annotations.as_ref());
    warn(review, policy.warn, Subject { annotations, spec });
    Ok(())
}

/// What a workload makes its pods of.
fn template(object: &dyn Any) -> Option<&PodTemplateSpec> {
    fn of<T: 'static>(object: &dyn Any) -> Option<&T> {
        object.downcast_ref()
    }
    None.or_else(|| of::<ReplicaSet>(object)?.spec.as_ref()?.template.as_ref())
        .or_else(|| Some(&of::<Deployment>(object)?.spec.as_ref()?.template))
        .or_else(|| Some(&of::<DaemonSet>(object)?.spec.as_ref()?.template))
        .or_else(|| Some(&of::<StatefulSet>(object)?.spec.as_ref()?.template))
        .or_else(|| Some(&of::<Job>(object)?.spec.as_ref()?.template))
        .or_else(|| Some(&of::<CronJob>(object)?.spec.job_template.spec.as_ref()?.template))
        .or_else(|| of::<ReplicationController>(object)?.spec.as_ref()?.template.as_ref())
        .or_else(|| of::<PodTemplate>(object)?.template.as_ref())
}

fn warn(review: &Review<'_>, standard: Standard, subject: Subject<'_>) {
    let findings = evaluate(standard.level, standard.version, subject);
    if !findings.is_empty() {
        (review.warn)(format!("would violate PodSecurity \"{standard}\": {}", details(&findings)));
    }
}

/// Reasons with their details.
fn details(findings: &[Finding]) -> String {
    let each = |f: &Finding| {
        if f.detail.is_empty() { f.reason.to_owned() } else { format!("{} ({})", f.reason, f.detail) }
    };
    findings.iter().map(each).collect::<Vec<_>>().join(", ")
}

fn validate_pod(review: &Review<'_>, pod: &Pod) -> Result<(), Refusal> {
    if IGNORED_SUBRESOURCES.contains(&review.subresource) {
        return Ok(());
    }
    if review.old_as::<Pod>().is_some_and(|old| !has_other_images(pod, old))
        && review.operation == Operation::Update
    {
        return Ok(());
    }
    let policy = policy(review)?;
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let subject = Subject { annotations: pod.metadata.annotations.as_ref(), spec };
    let findings = evaluate(policy.enforce.level, policy.enforce.version, subject);
    if !findings.is_empty() {
        return Err(review.forbid(format!(
            "violates PodSecurity \"{}\": {}",
            policy.enforce,
            details(&findings)
        )));
    }
    if policy.warn != policy.enforce {
        warn(review, policy.warn, subject);
    }
    Ok(())
}

/// Whether an update can change what a pod does: of containers only the images can change.
fn has_other_images(new: &Pod, old: &Pod) -> bool {
    let (Some(new), Some(old)) = (&new.spec, &old.spec) else { return true };
    let images = |spec: &PodSpec| -> (Vec<Option<String>>, Vec<Option<String>>) {
        (
            spec.containers.iter().map(|c| c.image.clone()).collect(),
            spec.init_containers.iter().flatten().map(|c| c.image.clone()).collect(),
        )
    };
    images(new) != images(old)
        || new.ephemeral_containers.iter().flatten().any(|c| {
            let before = old.ephemeral_containers.iter().flatten().find(|o| o.name == c.name);
            before.is_none_or(|o| o.image != c.image)
        })
}

fn validate_namespace(review: &Review<'_>, namespace: &Namespace) -> Result<(), Refusal> {
    if !review.is_main() {
        return Ok(());
    }
    let (new, errors) = Policy::of(namespace.metadata.labels.as_ref());
    let old = review.old_as::<Namespace>().filter(|_| review.operation == Operation::Update);
    let (before, old_errors) = old.map(|o| Policy::of(o.metadata.labels.as_ref())).unwrap_or_default();
    if !errors.is_empty() && errors != old_errors {
        return Err(Refusal::invalid("", "Namespace", review.name, errors));
    }
    if old.is_none() || new.enforce == before.enforce || new.enforce.level == Level::Privileged {
        return Ok(());
    }
    if new.enforce.version == before.enforce.version && new.enforce.level <= before.enforce.level {
        return Ok(());
    }
    check_existing(review, new.enforce)
}

/// Warns about the pods that a namespace has already and could not get any more.
fn check_existing(review: &Review<'_>, standard: Standard) -> Result<(), Refusal> {
    let stored = review.lookup.list(&PODS, review.name);
    let (mut first, mut more, mut owners) = (Vec::new(), Vec::new(), HashSet::new());
    for pod in &stored {
        let pod: Pod = decode(&pod.json)?;
        let owner = pod.metadata.owner_references.iter().flatten().find(|o| o.controller == Some(true));
        // One pod of each controller comes first: the others are likely the same.
        match owner.map(|o| o.uid.clone()) {
            Some(uid) if !owners.insert(uid.clone()) => more.push(pod),
            _ => first.push(pod),
        }
        if first.len() >= MAX_PODS {
            break;
        }
    }
    first.append(&mut more);
    first.truncate(MAX_PODS);
    let mut by_reason: BTreeMap<String, (String, usize)> = BTreeMap::new();
    for pod in &first {
        let Some(spec) = &pod.spec else { continue };
        let subject = Subject { annotations: pod.metadata.annotations.as_ref(), spec };
        let findings = evaluate(standard.level, standard.version, subject);
        if findings.is_empty() {
            continue;
        }
        let reasons = findings.iter().map(|f| f.reason).collect::<Vec<_>>().join(", ");
        let name = pod.metadata.name.clone().unwrap_or_default();
        let entry = by_reason.entry(reasons).or_insert_with(|| (name.clone(), 0));
        entry.1 += 1;
        if name < entry.0 {
            entry.0 = name;
        }
    }
    if first.len() < stored.len() {
        (review.warn)(format!(
            "new PodSecurity enforce level only checked against the first {} of {} existing pods",
            first.len(),
            stored.len()
        ));
    }
    if by_reason.is_empty() {
        return Ok(());
    }
    (review.warn)(format!(
        "existing pods in namespace {:?} violate the new PodSecurity enforce level \"{standard}\"",
        review.name
    ));
    let mut lines: Vec<String> = by_reason
        .into_iter()
        .map(|(reasons, (name, count))| match count {
            1 => format!("{name}: {reasons}"),
            2 => format!("{name} (and 1 other pod): {reasons}"),
            _ => format!("{name} (and {} other pods): {reasons}", count - 1),
        })
        .collect();
    lines.sort();
    lines.into_iter().for_each(|line| (review.warn)(line));
    Ok(())
}
