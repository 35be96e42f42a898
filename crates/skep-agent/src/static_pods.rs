//! Static pods: pods that files on this node ask for. They run without anybody else's leave, and the API server has a picture of each, its
//! *mirror*, which this agent makes, and makes again when somebody deletes it.
//!
//! A static pod's uid is a hash of its manifest, so a changed manifest is another pod; the one that runs ends first.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Toleration, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use skep_api::kind::Kind;
use skep_api::{Context, Errors, UserInfo};

use crate::env::references;
use crate::spec::{self, HASH_ANNOTATION, MIRROR_ANNOTATION, SOURCE_ANNOTATION};

/// Longest manifest that is read, as long as an object can be in the API. A longer one could take the agent's memory.
const MANIFEST_MAX_BYTES: u64 = 3 << 20;
/// When the agent saw the manifest first.
const SEEN_ANNOTATION: &str = "kubernetes.io/config.seen";
/// What a pod with this source comes from.
const FILE: &str = "file";

/// A namespace and a name: static pods are known to others by these alone.
pub type FullName = (String, String);

/// A pod's namespace and name.
#[must_use]
pub fn full_name(pod: &Pod) -> FullName {
    (spec::namespace(pod).to_owned(), spec::name(pod).to_owned())
}

/// Why a manifest is not run: a sentence with the file's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {why}", file.display())]
pub struct ManifestError {
    /// The file.
    pub file: PathBuf,
    /// What is wrong with it.
    pub why: String,
}

/// What a folder asks for.
#[derive(Debug, Default)]
pub struct Manifests {
    /// Pods, by their names.
    pub pods: BTreeMap<FullName, Arc<Pod>>,
    /// What cannot be run.
    pub errors: Vec<ManifestError>,
}

/// Reads all manifests of a folder; hidden files and folders in it are left out. Of two with the same name the later file counts.
///
/// # Errors
/// When the folder cannot be read.
pub fn read(folder: &Path, node: &str, now: Timestamp) -> std::io::Result<Manifests> {
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        if !hidden && std::fs::metadata(entry.path()).is_ok_and(|m| m.is_file()) {
            files.push(entry.path());
        }
    }
    files.sort();
    let mut found = Manifests::default();
    for file in files {
        let fail = |why: String| ManifestError { file: file.clone(), why };
        let mut text = Vec::new();
        let opened =
            std::fs::File::open(&file).and_then(|f| f.take(MANIFEST_MAX_BYTES + 1).read_to_end(&mut text));
        let pod = match opened {
            // Removed since the folder was listed.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => Err(e.to_string()),
            Ok(_) if text.len() as u64 > MANIFEST_MAX_BYTES => {
                Err(format!("it is longer than {MANIFEST_MAX_BYTES} bytes"))
            }
            Ok(_) => parse(&text, &file, node, now),
        };
        match pod {
            Ok(pod) => {
                found.pods.insert(full_name(&pod), Arc::new(pod));
            }
            Err(why) => found.errors.push(fail(why)),
        }
    }
    Ok(found)
}

/// The pod that a manifest asks for, in YAML or JSON. `Err` is a sentence.
///
/// # Errors
/// What is wrong with it.
pub fn parse(text: &[u8], file: &Path, node: &str, now: Timestamp) -> Result<Pod, String> {
    let value: serde_json::Value =
        serde_yaml_ng::from_slice(text).map_err(|e| format!("it is no YAML: {e}"))?;
    if value["kind"] != "Pod" || value["apiVersion"] != "v1" {
        return Err(format!("couldn't parse as pod: it is {} of {}", value["kind"], value["apiVersion"]));
    }
    let digest = digest(&value, node, file.file_name().unwrap_or_default());
    let mut pod: Pod = serde_json::from_value(value).map_err(|e| format!("couldn't parse as pod: {e}"))?;
    let name = pod
        .metadata
        .name
        .clone()
        .filter(|n| !n.is_empty())
        .ok_or("invalid pod: name is needed for the pod")?;
    pod.metadata.name = Some(format!("{name}-{}", node.to_lowercase()));
    pod.metadata.namespace.get_or_insert_with(|| "default".to_owned());
    let uid = pod.metadata.uid.get_or_insert(digest).clone();
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(HASH_ANNOTATION.to_owned(), uid);
    annotations.insert(SOURCE_ANNOTATION.to_owned(), FILE.to_owned());
    annotations.insert(SEEN_ANNOTATION.to_owned(), now.to_string());
    // Others than the file do not speak of it.
    pod.metadata.deletion_timestamp = None;
    pod.metadata.owner_references = None;
    pod.metadata.finalizers = None;
    let spec = pod.spec.get_or_insert_default();
    spec.node_name = Some(node.to_owned());
    // Troubles of the node are no reason to end what the node itself asks for.
    let tolerated = Toleration {
        operator: Some("Exists".to_owned()),
        effect: Some("NoExecute".to_owned()),
        ..Toleration::default()
    };
    let tolerations = spec.tolerations.get_or_insert_default();
    if !tolerations.contains(&tolerated) {
        tolerations.push(tolerated);
    }
    pod.status = None;
    pod.set_defaults();
    let user = UserInfo::default();
    let cx = Context { now, user: &user, subresource: "" };
    // What the server would work out of it, its quality of service above all.
    pod.prepare_create(&cx);
    let mut errors = Errors::new();
    pod.validate(&cx, &mut errors);
    if !errors.is_empty() {
        let all: Vec<String> = errors.iter().map(ToString::to_string).collect();
        return Err(format!("invalid pod: {}", all.join("; ")));
    }
    match api_reference(&pod) {
        Some(what) => Err(format!("static pods may not reference {what}")),
        None => Ok(pod),
    }
}

/// What of the API a pod needs; a static pod runs without the API.
fn api_reference(pod: &Pod) -> Option<&'static str> {
    let spec = pod.spec.as_ref()?;
    if spec.service_account_name.as_deref().is_some_and(|n| !n.is_empty()) {
        return Some("serviceaccounts");
    }
    let volumes = || spec.volumes.iter().flatten();
    if let Some(what) = volumes().find_map(volume_reference) {
        return Some(what);
    }
    let (maps, secrets) = references(pod);
    if !secrets.is_empty() {
        return Some("secrets");
    }
    if !maps.is_empty() {
        return Some("configmaps");
    }
    spec.resource_claims.as_ref().is_some_and(|c| !c.is_empty()).then_some("resourceclaims")
}

fn volume_reference(volume: &Volume) -> Option<&'static str> {
    let whole = [
        (volume.config_map.is_some(), "configmaps (via configmap volumes)"),
        (volume.secret.is_some(), "secrets (via secret volumes)"),
        (volume.csi.is_some(), "csidrivers (via CSI volumes)"),
        (volume.glusterfs.is_some(), "endpoints (via glusterFS volumes)"),
        (volume.persistent_volume_claim.is_some(), "persistentvolumeclaims"),
        (volume.ephemeral.is_some(), "persistentvolumeclaims (via ephemeral volumes)"),
        (volume.azure_file.is_some(), "secrets (via azureFile volumes)"),
    ];
    let sources = || volume.projected.iter().flat_map(|p| p.sources.iter().flatten());
    let projected = [
        (sources().any(|s| s.config_map.is_some()), "configmaps (via projected volumes)"),
        (sources().any(|s| s.secret.is_some()), "secrets (via projected volumes)"),
        (sources().any(|s| s.service_account_token.is_some()), "serviceaccounts (via projected volumes)"),
        (sources().any(|s| s.cluster_trust_bundle.is_some()), "clustertrustbundles"),
        (sources().any(|s| s.pod_certificate.is_some()), "podcertificates"),
    ];
    whole.into_iter().chain(projected).find_map(|(is, what)| is.then_some(what))
}

/// A number of 128 bits in hexadecimal that tells manifests apart (FNV-1a). It need not withstand an attacker: whoever can write manifests
/// can have any pod here.
fn digest(manifest: &serde_json::Value, node: &str, file: &OsStr) -> String {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    let text = format!("{manifest}host:{node}file:{}", file.to_string_lossy());
    let hash = text.bytes().fold(OFFSET, |h, b| (h ^ u128::from(b)).wrapping_mul(PRIME));
    let mut hex = String::with_capacity(32);
    // Writing to a string does not fail.
    let _ = write!(hex, "{hash:032x}");
    hex
}

/// The picture of a static pod that the API server is to have.
#[must_use]
pub fn mirror_of(pod: &Pod, node: &str, node_uid: &str) -> Pod {
    let mut mirror = pod.clone();
    let annotations = mirror.metadata.annotations.get_or_insert_default();
    let hash = annotations.get(HASH_ANNOTATION).cloned().unwrap_or_default();
    annotations.insert(MIRROR_ANNOTATION.to_owned(), hash);
    mirror.metadata.uid = None;
    mirror.metadata.owner_references = Some(vec![OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: node.to_owned(),
        uid: node_uid.to_owned(),
        controller: Some(true),
        ..OwnerReference::default()
    }]);
    mirror.status = None;
    mirror
}

/// Whether this is the picture of this pod.
#[must_use]
pub fn is_mirror_of(mirror: &Pod, pod: &Pod) -> bool {
    spec::annotation(mirror, MIRROR_ANNOTATION) == spec::annotation(pod, HASH_ANNOTATION)
}

/// What is to be done about a mirror.
#[derive(Clone, Debug, PartialEq)]
pub enum MirrorAction {
    /// It is to be made.
    Create(Arc<Pod>),
    /// It is to go: it shows something else, somebody asked for it, or its pod is gone.
    Delete(Arc<Pod>),
}

/// What is to be done about mirrors. `ending` are pods that nobody wants any more and that still run: their mirrors show how they end.
#[must_use]
pub fn plan(
    wanted: &BTreeMap<FullName, Arc<Pod>>,
    mirrors: &BTreeMap<FullName, Arc<Pod>>,
    ending: &[FullName],
) -> Vec<MirrorAction> {
    let mut actions = Vec::new();
    for (name, mirror) in mirrors {
        let stays = match wanted.get(name) {
            Some(pod) => is_mirror_of(mirror, pod) && mirror.metadata.deletion_timestamp.is_none(),
            None => ending.contains(name),
        };
        if !stays {
            actions.push(MirrorAction::Delete(mirror.clone()));
        }
    }
    let missing = wanted.iter().filter(|(name, _)| !mirrors.contains_key(*name));
    actions.extend(missing.map(|(_, pod)| MirrorAction::Create(pod.clone())));
    actions
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn parsed(text: &str) -> Result<Pod, String> {
        parse(text.as_bytes(), Path::new("/m/web.yaml"), "node-1", at(1))
    }

    const WEB: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, labels: {a: b}}\nspec:\n  containers: [{name: c, image: busybox}]\n";

    #[test]
    fn a_manifest_becomes_a_pod_of_this_node() {
        let pod = parsed(WEB).unwrap();
        assert_eq!(full_name(&pod), ("default".to_owned(), "web-node-1".to_owned()));
        let spec = pod.spec.clone().unwrap();
        assert_eq!(
            (spec.node_name.as_deref(), spec.restart_policy.as_deref()),
            (Some("node-1"), Some("Always"))
        );
        assert!(spec.tolerations.unwrap().iter().any(|t| t.effect.as_deref() == Some("NoExecute")));
        assert!(spec::is_static(&pod) && !spec::is_mirror(&pod));
        assert_eq!(pod.metadata.uid.as_deref(), spec::annotation(&pod, HASH_ANNOTATION));
        assert_eq!(pod.metadata.uid.as_ref().unwrap().len(), 32);
        assert_eq!(pod.status.as_ref().unwrap().qos_class.as_deref(), Some("BestEffort"));
        // The same at any time, another for another manifest, file or node.
        let uid = |text: &str, file: &str, node: &str, time| {
            parse(text.as_bytes(), Path::new(file), node, at(time)).unwrap().metadata.uid.unwrap()
        };
        let own = pod.metadata.uid.unwrap();
        assert_eq!(uid(WEB, "/m/web.yaml", "node-1", 9), own);
        for (text, file, node) in [
            (WEB.replace("busybox", "nginx").as_str(), "/m/web.yaml", "node-1"),
            (WEB, "/m/other.yaml", "node-1"),
            (WEB, "/m/web.yaml", "node-2"),
        ] {
            assert_ne!(uid(text, file, node, 1), own);
        }
    }

    #[test]
    fn what_cannot_run_without_the_api_is_refused() {
        let with = |spec: &str| parsed(&format!("{WEB}{spec}")).unwrap_err();
        for (spec, why) in [
            ("  serviceAccountName: x\n", "serviceaccounts"),
            ("  volumes: [{name: v, configMap: {name: x}}]\n", "configmaps (via configmap volumes)"),
            ("  volumes: [{name: v, secret: {secretName: x}}]\n", "secrets (via secret volumes)"),
            ("  volumes: [{name: v, persistentVolumeClaim: {claimName: x}}]\n", "persistentvolumeclaims"),
            (
                "  volumes: [{name: v, projected: {sources: [{configMap: {name: x}}]}}]\n",
                "configmaps (via projected volumes)",
            ),
            ("  imagePullSecrets: [{name: x}]\n", "secrets"),
        ] {
            assert_eq!(with(spec), format!("static pods may not reference {why}"));
        }
        assert!(parsed(&format!("{WEB}  volumes: [{{name: v, emptyDir: {{}}}}]\n")).is_ok());
        for (text, why) in [
            ("apiVersion: v1\nkind: Service\n", "couldn't parse as pod"),
            ("apiVersion: v1\nkind: Pod\nspec: {containers: [{name: c, image: i}]}\n", "name is needed"),
            (
                "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: []}\n",
                "invalid pod: spec.containers",
            ),
            ("{", "it is no YAML"),
        ] {
            let said = parsed(text).unwrap_err();
            assert!(said.contains(why), "{said}");
        }
    }

    #[test]
    fn a_folder_is_read_by_name_and_tells_what_is_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("a.yaml", WEB);
        write("b.yaml", &WEB.replace("busybox", "nginx"));
        write(".hidden.yaml", WEB);
        write("c.yaml", "nothing");
        std::fs::create_dir(folder.path().join("folder")).unwrap();
        let found = read(folder.path(), "n", at(1)).unwrap();
        assert_eq!(found.pods.len(), 1);
        let web = &found.pods[&("default".to_owned(), "web-n".to_owned())];
        assert_eq!(web.spec.as_ref().unwrap().containers[0].image.as_deref(), Some("nginx"));
        assert_eq!(found.errors.len(), 1);
        assert!(found.errors[0].to_string().contains("c.yaml: couldn't parse as pod"), "{:?}", found.errors);
        assert!(read(&folder.path().join("none"), "n", at(1)).is_err());
    }

    #[test]
    fn mirrors_follow_their_pods() {
        let pod = Arc::new(parsed(WEB).unwrap());
        let other = Arc::new(parsed(&WEB.replace("busybox", "nginx")).unwrap());
        let mirror = Arc::new(mirror_of(&pod, "n", "u"));
        assert!(spec::is_mirror(&mirror) && is_mirror_of(&mirror, &pod) && !is_mirror_of(&mirror, &other));
        let name = full_name(&pod);
        let map = |p: &[&Arc<Pod>]| -> BTreeMap<FullName, Arc<Pod>> {
            p.iter().map(|p| (full_name(p), (*p).clone())).collect()
        };
        let (create, delete) = (MirrorAction::Create(pod.clone()), MirrorAction::Delete(mirror.clone()));
        assert_eq!(plan(&map(&[&pod]), &map(&[]), &[]), [create]);
        assert_eq!(plan(&map(&[&pod]), &map(&[&mirror]), &[]), []);
        assert_eq!(plan(&map(&[&other]), &map(&[&mirror]), &[]), std::slice::from_ref(&delete));
        assert_eq!(plan(&map(&[]), &map(&[&mirror]), &[]), [delete]);
        assert_eq!(plan(&map(&[]), &map(&[&mirror]), &[name]), [], "it is still to be seen ending");
        let mut going = (*mirror).clone();
        going.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(5)));
        let going = Arc::new(going);
        assert_eq!(plan(&map(&[&pod]), &map(&[&going]), &[]), [MirrorAction::Delete(going.clone())]);
    }
}
