//! What is wrong with a name, an address, a port, in the words that clients see. Each function returns
//! one text per thing wrong, and nothing (without allocating) for a good value.
//!
//! Rules and wording: k8s.io/apimachinery `pkg/util/validation`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use skep_base::name;

use crate::field::{Errors, Path};
use crate::kind::NameRule;

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and \
                     must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex \
                     used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' \
                         or '.', and must start and end with an alphanumeric character (e.g. 'example.com', \
                         regex used for validation is \
                         '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL_1035: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start \
                          with an alphabetic character, and end with an alphanumeric character (e.g. \
                          'my-name',  or 'abc-123', regex used for validation is \
                          '[a-z]([-a-z0-9]*[a-z0-9])?')";
const WILDCARD: &str = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, \
                        which must consist of lower case alphanumeric characters, '-' or '.' and end with an \
                        alphanumeric character (e.g. '*.example.com', regex used for validation is \
                        '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
/// Longest port name: RFC 6335.
const PORT_NAME_MAX_LEN: usize = 15;

fn max_len(value: &str, max: usize, errors: &mut Vec<String>) {
    if value.len() > max {
        errors.push(format!("must be no more than {max} characters"));
    }
}

fn one_if(wrong: bool, message: &str) -> Vec<String> {
    if wrong { vec![message.to_owned()] } else { Vec::new() }
}

/// An RFC 1123 label of at most 63 characters.
#[must_use]
pub fn dns1123_label_errors(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    max_len(value, name::LABEL_MAX_LEN, &mut errors);
    if !name::has_label_form(value) {
        let dotted = name::has_subdomain_form(value);
        errors.push(if dotted { "must not contain dots" } else { LABEL }.to_owned());
    }
    errors
}

/// An RFC 1123 subdomain of at most 253 characters.
#[must_use]
pub fn dns1123_subdomain_errors(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    max_len(value, name::SUBDOMAIN_MAX_LEN, &mut errors);
    if !name::has_subdomain_form(value) {
        errors.push(SUBDOMAIN.to_owned());
    }
    errors
}

/// An RFC 1035 label of at most 63 characters.
#[must_use]
pub fn dns1035_label_errors(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    max_len(value, name::LABEL_MAX_LEN, &mut errors);
    if !(name::has_label_form(value) && value.as_bytes()[0].is_ascii_lowercase()) {
        errors.push(LABEL_1035.to_owned());
    }
    errors
}

/// `*.example.com`.
#[must_use]
pub fn wildcard_subdomain_errors(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    max_len(value, name::SUBDOMAIN_MAX_LEN, &mut errors);
    if !value.strip_prefix("*.").is_some_and(name::has_subdomain_form) {
        errors.push(WILDCARD.to_owned());
    }
    errors
}

/// A name that fits into one segment of a path. With `prefix`, something will be appended to it.
#[must_use]
pub fn path_segment_errors(value: &str, prefix: bool) -> Vec<String> {
    if !prefix && matches!(value, "." | "..") {
        return vec![format!("may not be '{value}'")];
    }
    let found = ["/", "%"].into_iter().filter(|c| value.contains(c));
    found.map(|c| format!("may not contain '{c}'")).collect()
}

/// What a kind's rule says about a name. With `prefix`, something will be appended to it
/// (`generateName`), so it may end with a dash.
#[must_use]
pub fn name_errors(rule: NameRule, value: &str, prefix: bool) -> Vec<String> {
    if rule == NameRule::PathSegment {
        return path_segment_errors(value, prefix);
    }
    let masked;
    let mut value = value;
    if prefix && value.len() > 1 && value.ends_with('-') {
        // As upstream: the character before the dash goes too. It may be half of a longer one; then the
        // name is refused for that one.
        if let Some(kept) = value.get(..value.len() - 2) {
            masked = format!("{kept}a");
            value = &masked;
        }
    }
    match rule {
        NameRule::Label => dns1123_label_errors(value),
        NameRule::Label1035 => dns1035_label_errors(value),
        NameRule::Subdomain | NameRule::PathSegment => dns1123_subdomain_errors(value),
    }
}

/// A domain with at least three parts.
pub fn validate_fully_qualified_name(value: &str, path: &Path<'_>, errors: &mut Errors) {
    if value.is_empty() {
        errors.required(path, "");
        return;
    }
    let wrong = dns1123_subdomain_errors(value);
    if !wrong.is_empty() {
        errors.invalid(path, value, &wrong.join(","));
    } else if value.split('.').count() < 3 {
        errors.invalid(path, value, "should be a domain with at least three segments separated by dots");
    }
}

/// A number between two others, both included.
#[must_use]
pub fn in_range_errors(value: i64, min: i64, max: i64) -> Vec<String> {
    if (min..=max).contains(&value) {
        Vec::new()
    } else {
        vec![format!("must be between {min} and {max}, inclusive")]
    }
}

/// A port number that is not zero.
#[must_use]
pub fn port_num_errors(port: i64) -> Vec<String> {
    in_range_errors(port, 1, 65_535)
}

/// The name of a port, as IANA has them.
#[must_use]
pub fn port_name_errors(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    max_len(value, PORT_NAME_MAX_LEN, &mut errors);
    let b = value.as_bytes();
    let allowed = |c: &u8| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == b'-';
    if b.is_empty() || !b.iter().all(allowed) {
        errors.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !b.iter().any(u8::is_ascii_lowercase) {
        errors.push("must contain at least one letter (a-z)".to_owned());
    }
    if value.contains("--") {
        errors.push("must not contain consecutive hyphens".to_owned());
    }
    if value.starts_with('-') || value.ends_with('-') {
        errors.push("must not begin or end with a hyphen".to_owned());
    }
    errors
}

/// `50%`.
#[must_use]
pub fn percent_errors(value: &str) -> Vec<String> {
    let digits = value.strip_suffix('%');
    let good = digits.is_some_and(|d| !d.is_empty() && d.bytes().all(|c| c.is_ascii_digit()));
    one_if(
        !good,
        "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', \
         regex used for validation is '[0-9]+%')",
    )
}

/// The name of an HTTP header.
#[must_use]
pub fn http_header_name_errors(value: &str) -> Vec<String> {
    let good = !value.is_empty() && value.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-');
    one_if(
        !good,
        "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used \
         for validation is '[-A-Za-z0-9]+')",
    )
}

/// The name of an environment variable: anything printable in ASCII but `=`.
#[must_use]
pub fn env_var_name_errors(value: &str) -> Vec<String> {
    if value.is_empty() {
        return vec!["environment variable name must be non-empty".to_owned()];
    }
    let good = value.bytes().all(|c| (b' '..=b'~').contains(&c) && c != b'=');
    one_if(
        !good,
        "a valid environment variable name must consist only of printable ASCII characters other than '='",
    )
}

/// Reads an IP address as old versions of Go did, leading zeros included: what stored objects may hold.
#[must_use]
pub fn parse_ip_sloppy(value: &str) -> Option<IpAddr> {
    if value.contains(':') {
        parse_v6_sloppy(value).map(IpAddr::V6)
    } else {
        parse_v4_sloppy(value).map(IpAddr::V4)
    }
}

fn strip_zeros(digits: &str) -> &str {
    let stripped = digits.trim_start_matches('0');
    if stripped.is_empty() && !digits.is_empty() { "0" } else { stripped }
}

fn parse_v4_sloppy(value: &str) -> Option<Ipv4Addr> {
    let mut octets = [0; 4];
    let mut parts = value.split('.');
    for octet in &mut octets {
        let part = parts.next()?;
        if !part.bytes().all(|c| c.is_ascii_digit()) {
            return None;
        }
        *octet = strip_zeros(part).parse().ok()?;
    }
    parts.next().is_none().then(|| octets.into())
}

fn parse_v6_sloppy(value: &str) -> Option<Ipv6Addr> {
    let mut value = value.to_owned();
    if value.contains('.') {
        let at = value.rfind(':')? + 1;
        let v4 = parse_v4_sloppy(&value[at..])?.to_string();
        value.replace_range(at.., &v4);
    }
    // More than four digits are allowed if the first are zeros.
    let group =
        |g: &str| if g.len() > 4 && !g.contains('.') { strip_zeros(g).to_owned() } else { g.to_owned() };
    let groups: Vec<String> = value.split(':').map(group).collect();
    groups.join(":").parse().ok()
}

/// The text form of Go: a mapped address looks like an IPv4 one.
fn go_string(ip: IpAddr) -> String {
    ip.to_canonical().to_string()
}

/// An IP address in a field that is older than the strict rules: callers let values pass that were
/// stored before.
#[must_use]
pub fn legacy_ip_errors(value: &str) -> Vec<String> {
    if parse_ip_sloppy(value).is_none() {
        return vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()];
    }
    match value.parse::<IpAddr>() {
        Err(_) => vec!["must not have leading 0s".to_owned()],
        Ok(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_some() => {
            vec!["must not be an IPv4-mapped IPv6 address".to_owned()]
        }
        Ok(_) => Vec::new(),
    }
}

/// An IP address in its canonical form.
#[must_use]
pub fn ip_errors(value: &str) -> Vec<String> {
    let errors = legacy_ip_errors(value);
    match value.parse::<IpAddr>() {
        Ok(ip) if errors.is_empty() && go_string(ip) != value => {
            vec![format!("must be in canonical form ({:?})", go_string(ip))]
        }
        _ => errors,
    }
}

/// Reads a network as old versions of Go did: the address as given, and the length of the prefix.
#[must_use]
pub fn parse_cidr_sloppy(value: &str) -> Option<(IpAddr, u8)> {
    let (address, len) = value.split_once('/')?;
    let ip = parse_ip_sloppy(address)?;
    if len.is_empty() || !len.bytes().all(|c| c.is_ascii_digit()) {
        return None;
    }
    let len: u8 = strip_zeros(len).parse().ok()?;
    (len <= address_bits(ip)).then_some((ip, len))
}

fn address_bits(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

/// The address with everything beyond the prefix cleared.
#[must_use]
pub fn masked(ip: IpAddr, prefix_len: u8) -> IpAddr {
    let (len, bits) = (u32::from(prefix_len), u32::from(address_bits(ip)));
    let cut = bits.saturating_sub(len);
    match ip {
        IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits() & u32::MAX.checked_shl(cut).unwrap_or(0)).into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & u128::MAX.checked_shl(cut).unwrap_or(0)).into(),
    }
}

/// A network in a field that is older than the strict rules: callers let values pass that were stored
/// before.
#[must_use]
pub fn legacy_cidr_errors(value: &str) -> Vec<String> {
    let Some((ip, len)) = parse_cidr_sloppy(value) else {
        return vec!["must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)".to_owned()];
    };
    let (address, written_len) = value.split_once('/').unwrap_or((value, ""));
    if address.parse::<IpAddr>().is_err() || strip_zeros(written_len) != written_len {
        return vec!["must not have leading 0s in IP or prefix length".to_owned()];
    }
    if matches!(ip, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()) {
        return vec!["must not have an IPv4-mapped IPv6 address".to_owned()];
    }
    one_if(masked(ip, len) != ip, "must not have bits set beyond the prefix length")
}

/// A network in its canonical form.
#[must_use]
pub fn cidr_errors(value: &str) -> Vec<String> {
    let errors = legacy_cidr_errors(value);
    if !errors.is_empty() {
        return errors;
    }
    let canonical = parse_cidr_sloppy(value).map(|(ip, len)| format!("{ip}/{len}")).unwrap_or_default();
    if canonical == value { errors } else { vec![format!("must be in canonical form ({canonical:?})")] }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(errors_of: fn(&str) -> Vec<String>, good: &[&str], bad: &[(&str, &str)]) {
        for value in good {
            assert_eq!(errors_of(value), Vec::<String>::new(), "{value}");
        }
        for (value, want) in bad {
            let errors = errors_of(value).join("; ");
            assert!(errors.starts_with(want), "{value}: {errors}");
        }
    }

    #[test]
    fn dns_names() {
        let long = "a".repeat(64);
        check(
            dns1123_label_errors,
            &["a", "0", "a-b", &"a".repeat(63)],
            &[
                ("", "a lowercase RFC 1123 label must consist"),
                ("a.b", "must not contain dots"),
                ("A", "a lowercase RFC 1123 label"),
                (&long, "must be no more than 63 characters"),
            ],
        );
        check(
            dns1123_subdomain_errors,
            &["a.b", "1.2"],
            &[
                ("a..b", "a lowercase RFC 1123 subdomain"),
                (&"a".repeat(254), "must be no more than 253 characters"),
            ],
        );
        check(dns1035_label_errors, &["a0"], &[("0a", "a DNS-1035 label must"), ("", "a DNS-1035 label")]);
        check(wildcard_subdomain_errors, &["*.a.b"], &[("*", "a wildcard"), ("a.*.b", "a wildcard")]);
        assert_eq!(
            dns1123_label_errors("-"),
            [
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must \
              start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for \
              validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
            ]
        );
        assert_eq!(
            dns1123_subdomain_errors("-"),
            [
                "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and \
              must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation \
              is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
            ]
        );
    }

    #[test]
    fn prefixes_may_end_with_a_dash() {
        let wrong = |rule, value, prefix| !name_errors(rule, value, prefix).is_empty();
        assert!(!wrong(NameRule::Subdomain, "a-", true) && wrong(NameRule::Subdomain, "a-", false));
        assert!(!wrong(NameRule::Label, "web-", true) && wrong(NameRule::Label, "a.b-", true));
        assert!(wrong(NameRule::Label1035, "0b-", true) && wrong(NameRule::Label, "-", true));
        assert!(wrong(NameRule::Label, "é-é-", true) && wrong(NameRule::Label, "é-", true));
        assert_eq!(name_errors(NameRule::PathSegment, "..", false), ["may not be '..'"]);
        assert!(!wrong(NameRule::PathSegment, "..", true) && !wrong(NameRule::PathSegment, "a:B é", false));
        assert_eq!(
            name_errors(NameRule::PathSegment, "a/b%", true),
            ["may not contain '/'", "may not contain '%'"]
        );
    }

    #[test]
    fn ports_percents_headers_variables() {
        check(
            port_name_errors,
            &["http", "a-1", "1-a"],
            &[
                (
                    "",
                    "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-); must contain at least",
                ),
                ("80", "must contain at least one letter (a-z)"),
                ("a--b", "must not contain consecutive hyphens"),
                ("-a", "must not begin or end with a hyphen"),
                ("sixteen-letters-", "must be no more than 15 characters"),
            ],
        );
        assert!(port_num_errors(1).is_empty() && port_num_errors(65_535).is_empty());
        assert_eq!(port_num_errors(0), ["must be between 1 and 65535, inclusive"]);
        check(
            percent_errors,
            &["0%", "150%"],
            &[("1", "a valid percent"), ("%", "a valid"), ("-1%", "a valid")],
        );
        check(http_header_name_errors, &["X-A1"], &[("", "a valid HTTP"), ("a b", "a valid"), ("a_b", "a")]);
        check(
            env_var_name_errors,
            &["A", "1a", "a b"],
            &[
                ("", "environment variable name must be non-empty"),
                ("a=b", "a valid environment"),
                ("é", "a valid"),
            ],
        );
    }

    #[test]
    fn fully_qualified_names() {
        let errors_of = |value: &str| {
            let mut errors = Errors::new();
            validate_fully_qualified_name(value, &Path::root("f"), &mut errors);
            errors.to_string()
        };
        assert_eq!(errors_of("a.b.c"), "[]");
        assert_eq!(errors_of(""), "f: Required value");
        assert_eq!(
            errors_of("a.b"),
            r#"f: Invalid value: "a.b": should be a domain with at least three segments separated by dots"#
        );
        assert!(errors_of("A.b.c").contains("a lowercase RFC 1123 subdomain"));
    }

    #[test]
    fn addresses() {
        check(
            ip_errors,
            &["10.9.8.7", "2001:db8::ffff", "::", "::1"],
            &[
                ("", "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"),
                ("1.2.3", "must be a valid"),
                ("1.2.3.256", "must be a valid"),
                ("1.2.3.4.5", "must be a valid"),
                ("1.2.3.", "must be a valid"),
                ("fe80::1%eth0", "must be a valid"),
                ("010.1.1.1", "must not have leading 0s"),
                ("2001:00db8::1", "must not have leading 0s"),
                ("::ffff:1.2.3.4", "must not be an IPv4-mapped IPv6 address"),
                ("2001:db8:0::1", r#"must be in canonical form ("2001:db8::1")"#),
                ("::FFFE", r#"must be in canonical form ("::fffe")"#),
            ],
        );
        check(legacy_ip_errors, &["2001:DB8::1"], &[("01.1.1.1", "must not have leading 0s")]);
        check(
            cidr_errors,
            &["10.9.8.0/24", "0.0.0.0/0", "2001:db8::/64", "::/0", "1.2.3.4/32"],
            &[
                ("10.0.0.0", "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"),
                ("10.0.0.0/33", "must be a valid CIDR"),
                ("10.0.0.0/", "must be a valid CIDR"),
                ("10.0.0.0/-1", "must be a valid CIDR"),
                ("010.0.0.0/8", "must not have leading 0s in IP or prefix length"),
                ("10.0.0.0/08", "must not have leading 0s in IP or prefix length"),
                ("::ffff:1.2.3.4/128", "must not have an IPv4-mapped IPv6 address"),
                ("10.9.8.7/24", "must not have bits set beyond the prefix length"),
                ("2001:db8:0::/64", r#"must be in canonical form ("2001:db8::/64")"#),
            ],
        );
    }
}
