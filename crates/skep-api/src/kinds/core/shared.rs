//! Checks and texts that several core kinds share.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::field::{Errors, Path};
use crate::meta;
use crate::meta::format::{masked, parse_cidr_sloppy, parse_ip_sloppy};

/// What upstream says of every field that may not change.
pub(super) const IMMUTABLE: &str = "field is immutable";

/// In the order in which messages list them.
const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];

fn report(messages: Vec<String>, value: &str, path: &Path<'_>, errors: &mut Errors) {
    for message in messages {
        errors.invalid(path, value, &message);
    }
}

/// An RFC 1123 label.
pub(crate) fn dns_label(value: &str, path: &Path<'_>, errors: &mut Errors) {
    report(meta::dns1123_label_errors(value), value, path, errors);
}

/// An RFC 1123 subdomain.
pub(crate) fn dns_subdomain(value: &str, path: &Path<'_>, errors: &mut Errors) {
    report(meta::dns1123_subdomain_errors(value), value, path, errors);
}

/// A transport protocol.
pub(super) fn protocol(value: &str, path: &Path<'_>, errors: &mut Errors) {
    if value.is_empty() {
        errors.required(path, "");
    } else if !PROTOCOLS.contains(&value) {
        errors.not_supported(path, value, PROTOCOLS);
    }
}

fn is_mapped(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some())
}

/// An address in a field from before addresses were checked strictly: spellings that are not canonical are
/// fine, ambiguous ones are not, unless they were there before. Says whether it is fine.
pub(crate) fn legacy_ip(text: &str, path: &Path<'_>, known: &[String], errors: &mut Errors) -> bool {
    if known.iter().any(|k| k == text) {
        return true;
    }
    let before = errors.len();
    report(meta::legacy_ip_errors(text), text, path, errors);
    errors.len() == before
}

/// A range of addresses in a field from before they were checked strictly.
pub(crate) fn legacy_cidr(text: &str, path: &Path<'_>, errors: &mut Errors) {
    report(meta::legacy_cidr_errors(text), text, path, errors);
}

/// An address that other machines can reach; also what external IPs may be.
pub(crate) fn endpoint_ip(text: &str, path: &Path<'_>, errors: &mut Errors) {
    let Some(ip) = parse_ip_sloppy(text) else {
        errors.invalid(path, text, "must be a valid IP address");
        return;
    };
    let ip = ip.to_canonical();
    let (link_local, link_local_multicast) = match ip {
        IpAddr::V4(ip) => (ip.is_link_local(), ip.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(ip) => (ip.is_unicast_link_local(), ip.segments()[0] & 0xff0f == 0xff02),
    };
    if ip.is_unspecified() {
        errors.invalid(path, text, &format!("may not be unspecified ({text})"));
    }
    if ip.is_loopback() {
        errors.invalid(path, text, "may not be in the loopback range (127.0.0.0/8, ::1/128)");
    }
    if link_local {
        errors.invalid(path, text, "may not be in the link-local range (169.254.0.0/16, fe80::/10)");
    }
    if link_local_multicast {
        errors.invalid(path, text, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)");
    }
}

/// Advice on an address that [`legacy_ip`] let pass.
pub(crate) fn ip_warnings(text: &str, path: &Path<'_>, warnings: &mut Vec<String>) {
    let Some(ip) = parse_ip_sloppy(text) else { return };
    if text.parse::<IpAddr>().is_err() || is_mapped(ip) {
        let canonical = ip.to_canonical();
        warnings.push(format!("{path}: non-standard IP address {text:?} is invalid: use \"{canonical}\""));
    } else if ip.is_ipv6() && ip.to_string() != text {
        warnings
            .push(format!("{path}: IPv6 address {text:?} should be in RFC 5952 canonical format (\"{ip}\")"));
    }
}

/// Advice on a range that [`legacy_cidr`] let pass.
pub(crate) fn cidr_warnings(text: &str, path: &Path<'_>, warnings: &mut Vec<String>) {
    let Some((ip, len)) = parse_cidr_sloppy(text) else { return };
    let network = masked(ip, len);
    let canonical = format!("{network}/{len}");
    let before = warnings.len();
    if network != ip {
        let all = if ip.is_ipv4() { 32 } else { 128 };
        warnings.push(format!(
            "{path}: CIDR value {text:?} is ambiguous in this context (should be \"{canonical}\" or \
             \"{ip}/{all}\"?)"
        ));
    }
    let (address, len_text) = text.split_once('/').unwrap_or((text, ""));
    let leading_zeros =
        address.parse::<IpAddr>().is_err() || (len_text.len() > 1 && len_text.starts_with('0'));
    if leading_zeros || is_mapped(ip) {
        warnings.push(format!("{path}: non-standard CIDR value {text:?} is invalid: use \"{canonical}\""));
    }
    if warnings.len() == before && ip.is_ipv6() && canonical != text {
        warnings.push(format!(
            "{path}: IPv6 CIDR value {text:?} should be in RFC 5952 canonical format (\"{canonical}\")"
        ));
    }
}

/// A time as the API has it: to the second.
pub(super) fn seconds(now: Timestamp) -> Time {
    Time(Timestamp::from_second(now.as_second()).unwrap_or(now))
}

/// `a=1,b=2`, or `<none>`.
pub(super) fn labels_text(labels: Option<&BTreeMap<String, String>>) -> String {
    let pairs: Vec<String> = labels.into_iter().flatten().map(|(k, v)| format!("{k}={v}")).collect();
    if pairs.is_empty() { "<none>".to_owned() } else { pairs.join(",") }
}

/// Whether bytes are a JSON object (or null); what is wrong otherwise, as Go's decoder puts it.
pub(super) fn json_object(bytes: &[u8]) -> Result<(), String> {
    if let Err(e) = serde_json::from_slice::<serde::de::IgnoredAny>(bytes) {
        return Err(go_json_error(bytes, &e));
    }
    let found = match bytes.iter().find(|b| !b.is_ascii_whitespace()) {
        None | Some(b'{' | b'n') => return Ok(()),
        Some(b'[') => "array",
        Some(b'"') => "string",
        Some(b't' | b'f') => "bool",
        Some(_) => "number",
    };
    Err(format!("json: cannot unmarshal {found} into Go value of type map[string]interface {{}}"))
}

/// A syntax error of `serde_json` in the words of Go's decoder, which clients of Kubernetes see. Errors
/// that Go words by its own types' names keep `serde_json`'s words.
pub(super) fn go_json_error(bytes: &[u8], error: &serde_json::Error) -> String {
    use serde_json::error::Category;
    match error.classify() {
        Category::Eof => return "unexpected end of JSON input".to_owned(),
        Category::Syntax => {}
        Category::Data | Category::Io => return error.to_string(),
    }
    let line_start = match error.line() {
        0 | 1 => 0,
        line => {
            bytes.iter().enumerate().filter(|(_, b)| **b == b'\n').nth(line - 2).map_or(0, |(i, _)| i + 1)
        }
    };
    let at = line_start + error.column().saturating_sub(1);
    let Some(&bad) = bytes.get(at) else { return "unexpected end of JSON input".to_owned() };
    let shown = match bad {
        b'\'' => r"'\''".to_owned(),
        b'"' => "'\"'".to_owned(),
        b => format!("'{}'", char::from(b).escape_debug()),
    };
    let text = error.to_string();
    let context = if text.starts_with("expected ident") {
        let start = bytes[..at].iter().rposition(|b| !b.is_ascii_alphabetic()).map_or(0, |i| i + 1);
        let literal = match bytes.get(start) {
            Some(b't') => "true",
            Some(b'f') => "false",
            _ => "null",
        };
        let expected = literal.as_bytes().get(at - start).copied().map_or(' ', char::from);
        format!("in literal {literal} (expecting '{expected}')")
    } else if text.starts_with("expected `:`") {
        "after object key".to_owned()
    } else if text.starts_with("expected `,` or `}`") {
        "after object key:value pair".to_owned()
    } else if text.starts_with("expected `,` or `]`") {
        "after array element".to_owned()
    } else if text.starts_with("key must be a string") || text.starts_with("trailing comma") {
        "looking for beginning of object key string".to_owned()
    } else if text.starts_with("trailing characters") {
        "after top-level value".to_owned()
    } else if text.starts_with("control character") {
        "in string literal".to_owned()
    } else if text.starts_with("invalid number") {
        "in numeric literal".to_owned()
    } else if text.starts_with("invalid escape") {
        "in string escape code".to_owned()
    } else {
        "looking for beginning of value".to_owned()
    };
    format!("invalid character {shown} {context}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_errors_are_gos() {
        let table: &[(&str, Option<&str>)] = &[
            ("{}", None),
            (" {\"a\": [1, true, null]} ", None),
            ("null", None),
            ("", Some("unexpected end of JSON input")),
            ("{\"a\":", Some("unexpected end of JSON input")),
            ("bad", Some("invalid character 'b' looking for beginning of value")),
            ("nope", Some("invalid character 'o' in literal null (expecting 'u')")),
            ("{\"a\" 1}", Some("invalid character '1' after object key")),
            ("{\"a\":1 2}", Some("invalid character '2' after object key:value pair")),
            ("[1 2]", Some("invalid character '2' after array element")),
            ("{a:1}", Some("invalid character 'a' looking for beginning of object key string")),
            ("{}\n x", Some("invalid character 'x' after top-level value")),
            ("[]", Some("json: cannot unmarshal array into Go value of type map[string]interface {}")),
            ("\"a\"", Some("json: cannot unmarshal string into Go value of type map[string]interface {}")),
            ("12", Some("json: cannot unmarshal number into Go value of type map[string]interface {}")),
        ];
        for (text, expected) in table {
            assert_eq!(json_object(text.as_bytes()).err().as_deref(), *expected, "{text}");
        }
    }

    #[test]
    fn odd_addresses_warn() {
        let table: &[(&str, &[&str])] = &[
            ("10.0.0.1", &[]),
            ("2001:db8::1", &[]),
            ("010.0.0.1", &[r#"p: non-standard IP address "010.0.0.1" is invalid: use "10.0.0.1""#]),
            ("::ffff:1.2.3.4", &[r#"p: non-standard IP address "::ffff:1.2.3.4" is invalid: use "1.2.3.4""#]),
            (
                "2001:DB8::1",
                &[r#"p: IPv6 address "2001:DB8::1" should be in RFC 5952 canonical format ("2001:db8::1")"#],
            ),
        ];
        for (text, expected) in table {
            let mut warnings = Vec::new();
            ip_warnings(text, &Path::root("p"), &mut warnings);
            assert_eq!(warnings, *expected);
        }
        let table: &[(&str, &[&str])] = &[
            ("10.0.0.0/8", &[]),
            (
                "10.0.0.1/8",
                &[
                    r#"p: CIDR value "10.0.0.1/8" is ambiguous in this context (should be "10.0.0.0/8" or "10.0.0.1/32"?)"#,
                ],
            ),
            ("10.0.0.0/08", &[r#"p: non-standard CIDR value "10.0.0.0/08" is invalid: use "10.0.0.0/8""#]),
            (
                "2001:DB8::/32",
                &[
                    r#"p: IPv6 CIDR value "2001:DB8::/32" should be in RFC 5952 canonical format ("2001:db8::/32")"#,
                ],
            ),
        ];
        for (text, expected) in table {
            let mut warnings = Vec::new();
            cidr_warnings(text, &Path::root("p"), &mut warnings);
            assert_eq!(warnings, *expected);
        }
    }

    #[test]
    fn endpoint_addresses_are_reachable_ones() {
        let table: &[(&str, &str)] = &[
            ("10.0.0.1", ""),
            ("2001:db8::1", ""),
            ("0.0.0.0", "may not be unspecified (0.0.0.0)"),
            ("::1", "may not be in the loopback range (127.0.0.0/8, ::1/128)"),
            ("127.1.2.3", "may not be in the loopback range (127.0.0.0/8, ::1/128)"),
            ("169.254.1.1", "may not be in the link-local range (169.254.0.0/16, fe80::/10)"),
            ("fe80::1", "may not be in the link-local range (169.254.0.0/16, fe80::/10)"),
            ("224.0.0.5", "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"),
            ("ff02::5", "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"),
            ("x", "must be a valid IP address"),
        ];
        for (text, expected) in table {
            let mut errors = Errors::new();
            endpoint_ip(text, &Path::root("p"), &mut errors);
            let wanted = if expected.is_empty() {
                String::from("[]")
            } else {
                format!("p: Invalid value: {text:?}: {expected}")
            };
            assert_eq!(errors.to_string(), wanted);
        }
    }
}
