//! The files that the agent writes for a pod: hosts, resolv.conf, and its host name.

use k8s_openapi::api::core::v1::{HostAlias, Pod};

use crate::spec;

/// The longest host name that the kernel takes.
const MAX_HOSTNAME: usize = 63;
/// The longest fully qualified one.
const MAX_FQDN: usize = 64;
/// The resolver of the C library reads no more of them.
const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_CHARACTERS: usize = 2048;

/// How names are resolved on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsSettings {
    /// The servers that know the tenant's services.
    pub servers: Vec<String>,
    /// The domain of the tenant's services.
    pub domain: String,
    /// The node's own resolv.conf.
    pub host_resolv_conf: String,
}

/// A pod's host name and the domain it belongs to; no domain is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostName {
    /// The first label.
    pub name: String,
    /// `subdomain.namespace.svc.domain`, or empty.
    pub domain: String,
    /// What `hostname` says inside.
    pub kernel: String,
}

/// Why a host name cannot be given: a sentence for the event.
pub type HostNameError = String;

fn truncated(name: &str) -> Result<String, HostNameError> {
    let short: String = name.chars().take(MAX_HOSTNAME).collect();
    let short = short.trim_end_matches(['-', '.']);
    if short.is_empty() {
        return Err(format!("hostname for pod {name:?} was invalid: {short:?}"));
    }
    Ok(short.to_owned())
}

/// What a pod is called.
///
/// # Errors
/// When the name cannot be one, or is too long for `setHostnameAsFQDN`.
pub fn host_name(pod: &Pod, cluster_domain: &str) -> Result<HostName, HostNameError> {
    let spec = pod.spec.as_ref();
    if let Some(own) = spec.and_then(|s| s.hostname_override.as_deref()) {
        let name = own.chars().take(MAX_FQDN).collect::<String>();
        return Ok(HostName { kernel: name.clone(), name, domain: String::new() });
    }
    let own = spec.and_then(|s| s.hostname.as_deref()).filter(|h| !h.is_empty());
    let name = truncated(own.unwrap_or_else(|| spec::name(pod)))?;
    let domain = match spec.and_then(|s| s.subdomain.as_deref()).filter(|s| !s.is_empty()) {
        Some(subdomain) => format!("{subdomain}.{}.svc.{cluster_domain}", spec::namespace(pod)),
        None => String::new(),
    };
    let mut kernel = name.clone();
    if spec.and_then(|s| s.set_hostname_as_fqdn) == Some(true) && !domain.is_empty() {
        kernel = format!("{name}.{domain}");
        if kernel.len() > MAX_FQDN {
            return Err(format!(
                "failed to construct FQDN from pod hostname and cluster domain, FQDN {kernel} is too long ({MAX_FQDN} characters is the max, {} characters requested)",
                kernel.len()
            ));
        }
    }
    Ok(HostName { name, domain, kernel })
}

/// The pod's `/etc/hosts`.
#[must_use]
pub fn hosts(pod: &Pod, host: &HostName, pod_ips: &[String], node_hosts: &str) -> String {
    let aliases = pod.spec.as_ref().and_then(|s| s.host_aliases.as_deref()).unwrap_or_default();
    if spec::host_network(pod) {
        return format!(
            "# Kubernetes-managed hosts file (host network).\n{node_hosts}{}",
            alias_lines(aliases)
        );
    }
    let mut text = "# Kubernetes-managed hosts file.\n\
        127.0.0.1\tlocalhost\n\
        ::1\tlocalhost ip6-localhost ip6-loopback\n\
        fe00::0\tip6-localnet\n\
        fe00::0\tip6-mcastprefix\n\
        fe00::1\tip6-allnodes\n\
        fe00::2\tip6-allrouters\n"
        .to_owned();
    for ip in pod_ips {
        if host.domain.is_empty() {
            text.push_str(&format!("{ip}\t{}\n", host.name));
        } else {
            text.push_str(&format!("{ip}\t{}.{}\t{}\n", host.name, host.domain, host.name));
        }
    }
    text + &alias_lines(aliases)
}

fn alias_lines(aliases: &[HostAlias]) -> String {
    if aliases.is_empty() {
        return String::new();
    }
    let mut text = "\n# Entries added by HostAliases.\n".to_owned();
    for alias in aliases {
        text.push_str(&format!(
            "{}\t{}\n",
            alias.ip,
            alias.hostnames.as_deref().unwrap_or_default().join("\t")
        ));
    }
    text
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Resolver {
    servers: Vec<String>,
    searches: Vec<String>,
    options: Vec<String>,
}

fn parse_resolv_conf(text: &str) -> Resolver {
    let mut r = Resolver::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => r.servers.extend(words.next().map(str::to_owned)),
            Some("search") => {
                r.searches =
                    words.map(|w| if w == "." { w } else { w.trim_end_matches('.') }.to_owned()).collect();
            }
            Some("options") => r.options.extend(words.map(str::to_owned)),
            _ => {}
        }
    }
    r
}

fn without_repeats(list: Vec<String>) -> Vec<String> {
    let mut seen = Vec::new();
    for item in list {
        if !seen.contains(&item) {
            seen.push(item);
        }
    }
    seen
}

/// The pod's `/etc/resolv.conf`, and whether the node lacks the servers that the pod's policy asks for.
#[must_use]
pub fn resolv_conf(pod: &Pod, dns: &DnsSettings) -> (String, bool) {
    let spec = pod.spec.as_ref();
    let mut missing = false;
    let mut policy = spec.and_then(|s| s.dns_policy.as_deref()).unwrap_or("ClusterFirst");
    if policy == "ClusterFirst" && spec::host_network(pod) {
        policy = "Default";
    }
    if policy.starts_with("ClusterFirst") && dns.servers.is_empty() {
        missing = true;
        policy = "Default";
    }
    let host = parse_resolv_conf(&dns.host_resolv_conf);
    let mut r = match policy {
        "None" => Resolver::default(),
        "Default" => host,
        _ => {
            let (namespace, domain) = (spec::namespace(pod), &dns.domain);
            let mut searches =
                vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
            searches.extend(host.searches);
            Resolver {
                servers: dns.servers.clone(),
                searches: without_repeats(searches),
                options: vec!["ndots:5".to_owned()],
            }
        }
    };
    if let Some(own) = spec.and_then(|s| s.dns_config.as_ref()) {
        r.servers.extend(own.nameservers.iter().flatten().cloned());
        r.searches.extend(own.searches.iter().flatten().cloned());
        for option in own.options.iter().flatten() {
            let name = option.name.as_deref().unwrap_or_default();
            let same = |text: &String| text.split(':').next() == Some(name);
            r.options.retain(|o| !same(o));
            r.options.push(match option.value.as_deref().filter(|v| !v.is_empty()) {
                Some(value) => format!("{name}:{value}"),
                None => name.to_owned(),
            });
        }
    }
    r.servers = without_repeats(r.servers);
    r.searches = without_repeats(r.searches);
    r.servers.truncate(MAX_NAMESERVERS);
    r.searches.truncate(MAX_SEARCHES);
    while r.searches.join(" ").len() > MAX_SEARCH_CHARACTERS {
        r.searches.pop();
    }
    let mut text = String::new();
    if !r.searches.is_empty() {
        text.push_str(&format!("search {}\n", r.searches.join(" ")));
    }
    for server in &r.servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    if !r.options.is_empty() {
        text.push_str(&format!("options {}\n", r.options.join(" ")));
    }
    (text, missing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::testing::pod;
    use serde_json::json;

    fn dns() -> DnsSettings {
        DnsSettings {
            servers: vec!["10.96.0.10".to_owned()],
            domain: "cluster.local".to_owned(),
            host_resolv_conf: "nameserver 1.1.1.1\nsearch example.org.\noptions timeout:1\n".to_owned(),
        }
    }

    #[test]
    fn policies() {
        let cluster = "search ns.svc.cluster.local svc.cluster.local cluster.local example.org\nnameserver 10.96.0.10\noptions ndots:5\n";
        let host = "search example.org\nnameserver 1.1.1.1\noptions timeout:1\n";
        for (spec, expected) in [
            (json!({}), cluster),
            (json!({"dnsPolicy": "Default"}), host),
            (json!({"hostNetwork": true}), host),
            (json!({"hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"}), cluster),
            (
                json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["9.9.9.9", "9.9.9.9"], "searches": ["x.y"],
                    "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}}),
                "search x.y\nnameserver 9.9.9.9\noptions ndots:2 edns0\n",
            ),
            (
                json!({"dnsConfig": {"options": [{"name": "ndots", "value": "1"}]}}),
                "search ns.svc.cluster.local svc.cluster.local cluster.local example.org\nnameserver 10.96.0.10\noptions ndots:1\n",
            ),
        ] {
            assert_eq!(resolv_conf(&pod(spec.clone()), &dns()), (expected.to_owned(), false), "{spec}");
        }
        let without = DnsSettings { servers: Vec::new(), ..dns() };
        assert_eq!(resolv_conf(&pod(json!({})), &without), (host.to_owned(), true));
    }

    #[test]
    fn names_and_hosts() {
        let plain = host_name(&pod(json!({})), "cluster.local").unwrap();
        assert_eq!((plain.name.as_str(), plain.domain.as_str(), plain.kernel.as_str()), ("p", "", "p"));
        let p = pod(json!({"hostname": "h", "subdomain": "s", "setHostnameAsFQDN": true,
            "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a", "b"]}]}));
        let full = host_name(&p, "cluster.local").unwrap();
        assert_eq!(full.kernel, "h.s.ns.svc.cluster.local");
        let text = hosts(&p, &full, &["10.0.0.9".to_owned()], "");
        assert!(text.contains("10.0.0.9\th.s.ns.svc.cluster.local\th\n"), "{text}");
        assert!(text.ends_with("\n# Entries added by HostAliases.\n1.2.3.4\ta\tb\n"), "{text}");
        let mut long = pod(json!({}));
        long.metadata.name = Some(format!("{}-{}", "a".repeat(62), "b"));
        assert_eq!(host_name(&long, "x").unwrap().name, "a".repeat(62));
        let p = pod(json!({"hostname": "a".repeat(60), "subdomain": "s", "setHostnameAsFQDN": true}));
        assert!(host_name(&p, "cluster.local").unwrap_err().contains("too long"));
        let p = pod(json!({"hostNetwork": true}));
        assert_eq!(
            hosts(&p, &plain, &[], "127.0.0.1 x\n"),
            "# Kubernetes-managed hosts file (host network).\n127.0.0.1 x\n"
        );
    }
}
