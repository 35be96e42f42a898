//! A container's environment: `$(VAR)` expansion, configuration, fields of the pod, services.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVarSource, Pod, Secret, Service};

use crate::downward::{self, FieldContext};
use crate::spec;

/// The configuration objects that a pod names, as they are now. `None`: there is no such object.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    /// Config maps of the pod's namespace by name.
    pub config_maps: BTreeMap<String, Option<Arc<ConfigMap>>>,
    /// Secrets of the pod's namespace by name.
    pub secrets: BTreeMap<String, Option<Arc<Secret>>>,
}

/// Why an environment cannot be made. The sentences are those that clients know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvError {
    /// A config map is missing.
    #[error("configmap {0:?} not found")]
    ConfigMap(String),
    /// A secret is missing.
    #[error("secret {0:?} not found")]
    Secret(String),
    /// A key is missing in a config map (`what`) or secret.
    #[error("couldn't find key {key} in {what} {namespace}/{name}")]
    Key {
        /// `ConfigMap` or `Secret`.
        what: &'static str,
        /// The key.
        key: String,
        /// The pod's namespace.
        namespace: String,
        /// The object.
        name: String,
    },
    /// A field of the pod cannot be given.
    #[error(transparent)]
    Field(#[from] downward::FieldError),
    /// A file of variables cannot be read.
    #[error("{0}")]
    File(String),
}

impl Objects {
    /// A config map.
    ///
    /// # Errors
    /// When it does not exist.
    pub fn config_map(&self, name: &str) -> Result<&Arc<ConfigMap>, EnvError> {
        self.config_maps
            .get(name)
            .and_then(Option::as_ref)
            .ok_or_else(|| EnvError::ConfigMap(name.to_owned()))
    }

    /// A secret.
    ///
    /// # Errors
    /// When it does not exist.
    pub fn secret(&self, name: &str) -> Result<&Arc<Secret>, EnvError> {
        self.secrets.get(name).and_then(Option::as_ref).ok_or_else(|| EnvError::Secret(name.to_owned()))
    }
}

/// Names of the config maps and secrets that a pod needs, for its environment, volumes and image pulls.
#[must_use]
pub fn references(pod: &Pod) -> (Vec<String>, Vec<String>) {
    let (mut maps, mut secrets) = (Vec::new(), Vec::new());
    let kinds = [spec::ContainerKind::Init, spec::ContainerKind::Regular, spec::ContainerKind::Ephemeral];
    for c in kinds.into_iter().flat_map(|k| spec::of_kind(pod, k)) {
        for from in c.env_from.iter().flatten() {
            maps.extend(from.config_map_ref.as_ref().map(|r| r.name.clone()));
            secrets.extend(from.secret_ref.as_ref().map(|r| r.name.clone()));
        }
        for source in c.env.iter().flatten().filter_map(|e| e.value_from.as_ref()) {
            maps.extend(source.config_map_key_ref.as_ref().map(|r| r.name.clone()));
            secrets.extend(source.secret_key_ref.as_ref().map(|r| r.name.clone()));
        }
    }
    let spec = pod.spec.as_ref();
    for v in spec.and_then(|s| s.volumes.as_deref()).unwrap_or_default() {
        maps.extend(v.config_map.as_ref().map(|m| m.name.clone()));
        secrets.extend(v.secret.as_ref().and_then(|s| s.secret_name.clone()));
        for p in v.projected.iter().flat_map(|p| p.sources.iter().flatten()) {
            maps.extend(p.config_map.as_ref().map(|m| m.name.clone()));
            secrets.extend(p.secret.as_ref().map(|s| s.name.clone()));
        }
    }
    secrets.extend(spec.iter().flat_map(|s| s.image_pull_secrets.iter().flatten()).map(|s| s.name.clone()));
    for list in [&mut maps, &mut secrets] {
        list.retain(|name| !name.is_empty());
        list.sort_unstable();
        list.dedup();
    }
    (maps, secrets)
}

/// Replaces `$(NAME)` by what `lookup` says; `$$` is one `$`, and an unknown name stays as it is.
pub fn expand(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let (before, tail) = rest.split_at(at);
        out.push_str(before);
        let after = tail.get(1..).unwrap_or_default();
        if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some(inner) = after.strip_prefix('(') {
            match inner.split_once(')') {
                Some((name, after)) => {
                    match lookup(name) {
                        Some(value) => out.push_str(&value),
                        None => out.push_str(&format!("$({name})")),
                    }
                    rest = after;
                }
                None => {
                    // Not closed: it is no reference.
                    out.push_str("$(");
                    rest = inner;
                }
            }
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

/// An environment, in the order in which the container gets it.
pub type Env = BTreeMap<String, String>;

/// The whole environment of a container.
///
/// # Errors
/// What is missing that is not optional.
pub fn environment(
    pod: &Pod,
    c: &Container,
    objects: &Objects,
    services: &Env,
    fields: &FieldContext<'_>,
    env_file: impl Fn(&str, &str) -> Result<BTreeMap<String, String>, EnvError>,
) -> Result<Env, EnvError> {
    let mut env = Env::new();
    for from in c.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        if let Some(r) = &from.config_map_ref {
            match objects.config_map(&r.name) {
                Ok(map) => {
                    for (k, v) in map.data.iter().flatten() {
                        env.insert(format!("{prefix}{k}"), v.clone());
                    }
                }
                Err(_) if r.optional == Some(true) => {}
                Err(e) => return Err(e),
            }
        }
        if let Some(r) = &from.secret_ref {
            match objects.secret(&r.name) {
                Ok(secret) => {
                    for (k, v) in secret.data.iter().flatten() {
                        env.insert(format!("{prefix}{k}"), String::from_utf8_lossy(&v.0).into_owned());
                    }
                }
                Err(_) if r.optional == Some(true) => {}
                Err(e) => return Err(e),
            }
        }
    }
    for var in c.env.iter().flatten() {
        let value = match (var.value.as_deref().unwrap_or_default(), &var.value_from) {
            ("", Some(source)) => match from_source(pod, c, source, objects, fields, &env_file)? {
                Some(value) => value,
                None => continue,
            },
            (text, _) => expand(text, |name| env.get(name).or_else(|| services.get(name)).cloned()),
        };
        env.insert(var.name.clone(), value);
    }
    for (k, v) in services {
        env.entry(k.clone()).or_insert_with(|| v.clone());
    }
    Ok(env)
}

fn from_source(
    pod: &Pod,
    c: &Container,
    source: &EnvVarSource,
    objects: &Objects,
    fields: &FieldContext<'_>,
    env_file: &impl Fn(&str, &str) -> Result<BTreeMap<String, String>, EnvError>,
) -> Result<Option<String>, EnvError> {
    let missing = |what, key: &str, name: &str| EnvError::Key {
        what,
        key: key.to_owned(),
        namespace: spec::namespace(pod).to_owned(),
        name: name.to_owned(),
    };
    let or_optional = |result: Result<String, EnvError>, optional: Option<bool>| match result {
        Ok(value) => Ok(Some(value)),
        Err(_) if optional == Some(true) => Ok(None),
        Err(e) => Err(e),
    };
    if let Some(r) = &source.field_ref {
        return Ok(Some(downward::field(pod, &r.field_path, fields)?));
    }
    if let Some(r) = &source.resource_field_ref {
        return Ok(Some(downward::resource_field(pod, r, Some(c), fields)?));
    }
    if let Some(r) = &source.config_map_key_ref {
        let result = objects.config_map(&r.name).and_then(|map| {
            let value = map.data.as_ref().and_then(|d| d.get(&r.key));
            value.cloned().ok_or_else(|| missing("ConfigMap", &r.key, &r.name))
        });
        return or_optional(result, r.optional);
    }
    if let Some(r) = &source.secret_key_ref {
        let result = objects.secret(&r.name).and_then(|secret| {
            let value = secret.data.as_ref().and_then(|d| d.get(&r.key));
            value
                .map(|v| String::from_utf8_lossy(&v.0).into_owned())
                .ok_or_else(|| missing("Secret", &r.key, &r.name))
        });
        return or_optional(result, r.optional);
    }
    if let Some(r) = &source.file_key_ref {
        let result = env_file(&r.volume_name, &r.path).and_then(|vars| {
            vars.get(&r.key).filter(|v| !v.is_empty()).cloned().ok_or_else(|| {
                EnvError::File(format!("environment variable key {:?} not found in file {:?}", r.key, r.path))
            })
        });
        return or_optional(result, r.optional);
    }
    Ok(Some(String::new()))
}

/// A file of `NAME='value'` lines, as `fileKeyRef` reads it. Blank lines and `#` comments do not count.
///
/// # Errors
/// The first line that is neither.
pub fn parse_env_file(text: &str) -> Result<BTreeMap<String, String>, EnvError> {
    let mut vars = BTreeMap::new();
    for line in text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
        let (name, value) =
            line.split_once('=').ok_or_else(|| EnvError::File("couldn't parse env file".to_owned()))?;
        let value = value.trim();
        let bare =
            ['\'', '"'].into_iter().find_map(|q| value.strip_prefix(q)?.strip_suffix(q)).unwrap_or(value);
        vars.insert(name.trim().to_owned(), bare.to_owned());
    }
    Ok(vars)
}

/// The variables that tell of services: those of the pod's namespace when it wants them, and always the API server.
#[must_use]
pub fn service_variables<'a>(
    services: impl IntoIterator<Item = &'a Service>,
    namespace: &str,
    links: bool,
) -> Env {
    let mut env = Env::new();
    for service in services {
        let own = service.metadata.namespace.as_deref().unwrap_or_default();
        let name = service.metadata.name.as_deref().unwrap_or_default();
        let is_api = own == "default" && name == "kubernetes";
        if !(is_api || (links && own == namespace)) {
            continue;
        }
        // A service of the pod's own namespace that has the API server's name wins over the API server.
        if is_api && namespace != "default" && links && env.contains_key("KUBERNETES_SERVICE_HOST") {
            continue;
        }
        one_service(service, name, &mut env);
    }
    env
}

fn one_service(service: &Service, name: &str, env: &mut Env) {
    let Some(spec) = &service.spec else { return };
    let ip = match spec.cluster_ip.as_deref() {
        None | Some("" | "None") => return,
        Some(ip) => ip,
    };
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    let upper = |s: &str| s.to_uppercase().replace('-', "_");
    let prefix = upper(name);
    let ports = spec.ports.as_deref().unwrap_or_default();
    env.insert(format!("{prefix}_SERVICE_HOST"), ip.to_owned());
    for (i, port) in ports.iter().enumerate() {
        if i == 0 {
            env.insert(format!("{prefix}_SERVICE_PORT"), port.port.to_string());
        }
        if let Some(name) = port.name.as_deref().filter(|n| !n.is_empty()) {
            env.insert(format!("{prefix}_SERVICE_PORT_{}", upper(name)), port.port.to_string());
        }
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let url = format!("{}://{host}:{}", protocol.to_lowercase(), port.port);
        if i == 0 {
            env.insert(format!("{prefix}_PORT"), url.clone());
        }
        let own = format!("{prefix}_PORT_{}_{}", port.port, protocol.to_uppercase());
        env.insert(format!("{own}_PROTO"), protocol.to_lowercase());
        env.insert(format!("{own}_PORT"), port.port.to_string());
        env.insert(format!("{own}_ADDR"), ip.to_owned());
        env.insert(own, url);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::testing::pod;
    use proptest::prelude::*;
    use serde_json::json;

    fn vars(name: &str) -> Option<String> {
        match name {
            "A" => Some("a".to_owned()),
            "B" => Some("$(A)".to_owned()),
            "E" => Some(String::new()),
            _ => None,
        }
    }

    #[test]
    fn expansion() {
        for (text, expected) in [
            ("$(A)", "a"),
            ("x$(A)y$(A)", "xaya"),
            ("$(B)", "$(A)"),
            ("$(E)", ""),
            ("$(NO)", "$(NO)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$a"),
            ("$$$$(A)", "$$(A)"),
            ("$(A", "$(A"),
            ("$A", "$A"),
            ("a$", "a$"),
            ("$)(A)", "$)(A)"),
            ("$($(A))", "$($(A))"),
            ("$()", "$()"),
        ] {
            assert_eq!(expand(text, vars), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn text_without_dollars_stays(text in "[^$]*") {
            prop_assert_eq!(expand(&text, vars), text);
        }

        #[test]
        fn escaped_text_comes_back(text in ".*") {
            prop_assert_eq!(expand(&text.replace('$', "$$"), vars), text);
        }
    }

    fn objects() -> Objects {
        let map: ConfigMap = serde_json::from_value(json!({"data": {"k": "v", "A": "from-map"}})).unwrap();
        let secret: Secret = serde_json::from_value(json!({"data": {"p": "cw=="}})).unwrap();
        Objects {
            config_maps: BTreeMap::from([("m".to_owned(), Some(Arc::new(map))), ("gone".to_owned(), None)]),
            secrets: BTreeMap::from([("s".to_owned(), Some(Arc::new(secret)))]),
        }
    }

    fn build(container: serde_json::Value) -> Result<Env, EnvError> {
        let p = pod(json!({"containers": [container], "nodeName": "n1"}));
        let services = Env::from([("SVC_HOST".to_owned(), "10.0.0.1".to_owned())]);
        let fields = FieldContext::default();
        environment(&p, &spec::containers(&p)[0], &objects(), &services, &fields, |_, _| {
            parse_env_file("# c\nX='1'\n\nY=two\n")
        })
    }

    #[test]
    fn sources_in_order() {
        let env = build(json!({"name": "c",
            "envFrom": [{"configMapRef": {"name": "m"}}, {"prefix": "S_", "secretRef": {"name": "s"}},
                        {"configMapRef": {"name": "gone", "optional": true}}],
            "env": [{"name": "A", "value": "own"}, {"name": "C", "value": "$(A)-$(k)-$(SVC_HOST)-$(LATER)"},
                    {"name": "LATER", "value": "x"},
                    {"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
                    {"name": "K", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k"}}},
                    {"name": "P", "valueFrom": {"secretKeyRef": {"name": "s", "key": "p"}}},
                    {"name": "F", "valueFrom": {"fileKeyRef": {"volumeName": "v", "path": "f", "key": "X"}}},
                    {"name": "O", "valueFrom": {"secretKeyRef": {"name": "s", "key": "no", "optional": true}}}]}))
        .unwrap();
        for (k, v) in [
            ("A", "own"),
            ("k", "v"),
            ("S_p", "s"),
            ("C", "own-v-10.0.0.1-$(LATER)"),
            ("N", "n1"),
            ("K", "v"),
            ("P", "s"),
            ("F", "1"),
            ("SVC_HOST", "10.0.0.1"),
        ] {
            assert_eq!(env.get(k).map(String::as_str), Some(v), "{k}");
        }
        assert!(!env.contains_key("O"));
    }

    #[test]
    fn what_is_missing_is_named() {
        for (from, message) in [
            (json!({"configMapKeyRef": {"name": "gone", "key": "k"}}), "configmap \"gone\" not found"),
            (json!({"secretKeyRef": {"name": "x", "key": "k"}}), "secret \"x\" not found"),
            (json!({"configMapKeyRef": {"name": "m", "key": "z"}}), "couldn't find key z in ConfigMap ns/m"),
            (json!({"secretKeyRef": {"name": "s", "key": "z"}}), "couldn't find key z in Secret ns/s"),
        ] {
            let error = build(json!({"name": "c", "env": [{"name": "V", "valueFrom": from}]})).unwrap_err();
            assert_eq!(error.to_string(), message);
        }
    }

    #[test]
    fn services_as_variables() {
        let service = |ns: &str, name: &str, ip: &str| -> Service {
            serde_json::from_value(
                json!({"metadata": {"namespace": ns, "name": name}, "spec": {"clusterIP": ip,
                "ports": [{"name": "web-ui", "port": 80}, {"port": 53, "protocol": "UDP"}]}}),
            )
            .unwrap()
        };
        let all = [
            service("default", "kubernetes", "10.96.0.1"),
            service("ns", "my-db", "10.0.0.7"),
            service("ns", "headless", "None"),
            service("other", "x", "10.0.0.8"),
        ];
        let env = service_variables(&all, "ns", true);
        for (k, v) in [
            ("KUBERNETES_SERVICE_HOST", "10.96.0.1"),
            ("MY_DB_SERVICE_HOST", "10.0.0.7"),
            ("MY_DB_SERVICE_PORT", "80"),
            ("MY_DB_SERVICE_PORT_WEB_UI", "80"),
            ("MY_DB_PORT", "tcp://10.0.0.7:80"),
            ("MY_DB_PORT_53_UDP", "udp://10.0.0.7:53"),
            ("MY_DB_PORT_53_UDP_PROTO", "udp"),
            ("MY_DB_PORT_80_TCP_ADDR", "10.0.0.7"),
        ] {
            assert_eq!(env.get(k).map(String::as_str), Some(v), "{k}");
        }
        assert!(!env.keys().any(|k| k.starts_with("HEADLESS") || k.starts_with("X_")));
        let env = service_variables(&all, "ns", false);
        assert!(env.keys().all(|k| k.starts_with("KUBERNETES_")));
    }

    #[test]
    fn references_are_found_everywhere() {
        let p = pod(json!({"containers": [{"name": "c", "envFrom": [{"configMapRef": {"name": "a"}}],
                "env": [{"name": "x", "valueFrom": {"secretKeyRef": {"name": "s1", "key": "k"}}}]}],
            "initContainers": [{"name": "i", "envFrom": [{"secretRef": {"name": "s2"}}]}],
            "imagePullSecrets": [{"name": "pull"}],
            "volumes": [{"name": "v", "configMap": {"name": "b"}}, {"name": "w", "projected": {"sources":
                [{"secret": {"name": "s3"}}, {"configMap": {"name": "a"}}]}}]}));
        let (maps, secrets) = references(&p);
        assert_eq!(maps, ["a", "b"]);
        assert_eq!(secrets, ["pull", "s1", "s2", "s3"]);
    }
}
