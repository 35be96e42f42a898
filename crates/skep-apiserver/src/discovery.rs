//! What is served, as clients ask for it: `/api`, `/apis`, and their versions, legacy and aggregated.

use std::collections::BTreeMap;

use http::HeaderMap;
use http::header::ACCEPT;
use serde_json::{Value as Json, json};
use skep_api::{DynKind, Subresource, Verb};

use crate::app::App;

/// The content type of aggregated discovery.
pub const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// Whether a client asks for aggregated discovery before the legacy form.
#[must_use]
pub fn wants_aggregated(headers: &HeaderMap) -> bool {
    let accept = headers.get(ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("");
    accept.split(',').map(str::trim).find_map(|a| {
        let mut parts = a.split(';').map(str::trim);
        let media = parts.next()?;
        let parameters: Vec<&str> = parts.collect();
        if media != "application/json" {
            return None;
        }
        let aggregated = parameters.contains(&"as=APIGroupDiscoveryList");
        if aggregated && !parameters.contains(&"v=v2") { None } else { Some(aggregated) }
    }) == Some(true)
}

/// A group's versions in order of preference, each with its kinds.
type Versions<'a> = Vec<(String, Vec<&'a dyn DynKind>)>;

/// Groups in the order of registration. `operator`: whether the tenant is the operator's, which alone has
/// [some resources](operator_only).
fn groups(app: &App, operator: bool) -> Vec<(String, Versions<'_>)> {
    let mut groups: Vec<(String, Versions<'_>)> = Vec::new();
    for kind in app.registry.iter() {
        let info = kind.info();
        if !operator && operator_only(&info.group, &info.plural) {
            continue;
        }
        let at = groups.iter().position(|(g, _)| *g == info.group).unwrap_or_else(|| {
            groups.push((info.group.to_string(), Vec::new()));
            groups.len() - 1
        });
        let versions = &mut groups[at].1;
        match versions.iter_mut().find(|(v, _)| *v == info.version) {
            Some((_, kinds)) => kinds.push(kind.as_ref()),
            None => versions.push((info.version.to_string(), vec![kind.as_ref()])),
        }
    }
    for (_, versions) in &mut groups {
        versions.sort_by_key(|(v, _)| version_order(v));
    }
    groups
}

/// Resources that only the operator's tenant has.
#[must_use]
pub fn operator_only(group: &str, plural: &str) -> bool {
    matches!(
        (group, plural),
        ("tenancy.skep.io", "tenants")
            | (skep_api::compute::GROUP, "hosts" | "flavors")
            | (skep_api::network::GROUP, "publicpools")
    )
}

/// Stable before beta before alpha, newer before older.
fn version_order(version: &str) -> (u8, i32) {
    let digits: String = version.chars().skip(1).take_while(char::is_ascii_digit).collect();
    let stage = if version.contains("alpha") { 2 } else { u8::from(version.contains("beta")) };
    (stage, -digits.parse().unwrap_or(0))
}

fn verbs(verbs: &[Verb]) -> Json {
    verbs.iter().map(|v| v.as_str()).collect()
}

/// `GET /api`.
#[must_use]
pub fn core_versions(app: &App) -> Json {
    let address = app.config.base_url.trim_start_matches("https://");
    json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}]})
}

/// `GET /apis`.
#[must_use]
pub fn group_list(app: &App, operator: bool) -> Json {
    let list: Vec<Json> = groups(app, operator)
        .iter()
        .filter(|(g, _)| !g.is_empty())
        .map(|(g, v)| group(g, v, false))
        .collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": list})
}

fn group(name: &str, versions: &Versions<'_>, with_type: bool) -> Json {
    let listed: Vec<Json> =
        versions.iter().map(|(v, _)| json!({"groupVersion": format!("{name}/{v}"), "version": v})).collect();
    let mut group = json!({"name": name, "versions": listed, "preferredVersion": listed.first()});
    if with_type {
        group["kind"] = "APIGroup".into();
        group["apiVersion"] = "v1".into();
    }
    group
}

/// `GET /apis/GROUP`.
#[must_use]
pub fn one_group(app: &App, name: &str, operator: bool) -> Option<Json> {
    groups(app, operator).iter().find(|(g, _)| g == name && !g.is_empty()).map(|(g, v)| group(g, v, true))
}

/// `GET /api/v1` and `GET /apis/GROUP/VERSION`.
#[must_use]
pub fn resources(app: &App, name: &str, version: &str, operator: bool) -> Option<Json> {
    let groups = groups(app, operator);
    let (_, versions) = groups.iter().find(|(g, _)| g == name)?;
    let (_, kinds) = versions.iter().find(|(v, _)| v == version)?;
    let mut list: BTreeMap<String, Json> = BTreeMap::new();
    for kind in kinds {
        let info = kind.info();
        let mut entry = json!({
            "name": info.plural, "singularName": info.singular, "namespaced": info.namespaced,
            "kind": info.kind, "verbs": verbs(info.verbs),
        });
        if !info.short_names.is_empty() {
            entry["shortNames"] = info.short_names.iter().map(|s| s.as_ref()).collect();
        }
        if !info.categories.is_empty() {
            entry["categories"] = info.categories.iter().map(|s| s.as_ref()).collect();
        }
        if info.stored() {
            entry["storageVersionHash"] = storage_hash(*kind).into();
        }
        list.insert(info.plural.to_string(), entry);
        for sub in &info.subresources {
            let path = format!("{}/{}", info.plural, sub.name);
            let mut entry = json!({
                "name": path, "singularName": "", "namespaced": info.namespaced,
                "kind": sub_kind(*kind, sub), "verbs": verbs(sub.verbs),
            });
            if !sub.version.is_empty() {
                entry["group"] = sub.group.into();
                entry["version"] = sub.version.into();
            }
            list.insert(path, entry);
        }
    }
    let group_version = if name.is_empty() { version.to_owned() } else { format!("{name}/{version}") };
    let list: Vec<Json> = list.into_values().collect();
    Some(
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": list}),
    )
}

fn sub_kind<'a>(kind: &'a dyn DynKind, sub: &'a Subresource) -> &'a str {
    if sub.kind.is_empty() { &kind.info().kind } else { sub.kind }
}

fn storage_hash(kind: &dyn DynKind) -> String {
    use base64::Engine;
    use sha2::Digest;
    let (api_version, name) = kind.stored_as();
    let digest = sha2::Sha256::digest(format!("{api_version}/{name}"));
    base64::engine::general_purpose::STANDARD.encode(&digest[..8])
}

/// `GET /api` and `GET /apis` in aggregated form.
#[must_use]
pub fn aggregated(app: &App, core: bool, operator: bool) -> Json {
    let items: Vec<Json> = groups(app, operator)
        .iter()
        .filter(|(g, _)| g.is_empty() == core)
        .map(|(name, versions)| {
            let versions: Vec<Json> = versions
                .iter()
                .map(|(version, kinds)| {
                    let list: Vec<Json> = kinds.iter().map(|k| aggregated_resource(*k)).collect();
                    json!({"version": version, "freshness": "Current", "resources": list})
                })
                .collect();
            json!({"metadata": {"name": if name.is_empty() { Json::Null } else { name.as_str().into() }, "creationTimestamp": null}, "versions": versions})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

fn aggregated_resource(kind: &dyn DynKind) -> Json {
    let info = kind.info();
    let gvk =
        |group: &str, version: &str, kind: &str| json!({"group": group, "version": version, "kind": kind});
    let mut entry = json!({
        "resource": info.plural,
        "responseKind": gvk(&info.group, &info.version, &info.kind),
        "scope": if info.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": info.singular,
        "verbs": verbs(info.verbs),
    });
    if !info.short_names.is_empty() {
        entry["shortNames"] = info.short_names.iter().map(|s| s.as_ref()).collect();
    }
    if !info.categories.is_empty() {
        entry["categories"] = info.categories.iter().map(|s| s.as_ref()).collect();
    }
    if !info.subresources.is_empty() {
        entry["subresources"] = info
            .subresources
            .iter()
            .map(|s| {
                let (group, version) = if s.version.is_empty() { (info.group.as_ref(), info.version.as_ref()) } else { (s.group, s.version) };
                json!({"subresource": s.name, "responseKind": gvk(group, version, sub_kind(kind, s)), "verbs": verbs(s.verbs)})
            })
            .collect();
    }
    entry
}
