//! Image references, as far as the pull policy depends on them.
//!
//! Grammar: github.com/distribution/reference, `ParseNormalizedNamed`.

/// Longest tag.
const TAG_MAX_LEN: usize = 128;
/// Fewest hexadecimal digits of a digest.
const DIGEST_MIN_HEX: usize = 32;
/// A name of this many hexadecimal digits would be taken for an image's id.
const ID_HEX_LEN: usize = 64;

/// Whether the reference means "whatever is newest": the tag `latest`, or neither tag nor digest.
/// A malformed reference does not.
pub(super) fn means_latest(image: &str) -> bool {
    match parse(image) {
        Some((None, None)) => true,
        Some((tag, _)) => tag == Some("latest"),
        None => false,
    }
}

/// Tag and digest of a well-formed reference.
fn parse(image: &str) -> Option<(Option<&str>, Option<&str>)> {
    if image.len() == ID_HEX_LEN && image.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    let (rest, digest) = match image.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (image, None),
    };
    let path_at = rest.rfind('/').map_or(0, |i| i + 1);
    let (name, tag) = match rest[path_at..].find(':') {
        Some(colon) => (&rest[..path_at + colon], Some(&rest[path_at + colon + 1..])),
        None => (rest, None),
    };
    let repository = match name.split_once('/') {
        Some((domain, repository)) if is_domain(domain) => {
            if !has_domain_form(domain) {
                return None;
            }
            repository
        }
        _ => name,
    };
    let well_formed = repository.split('/').all(is_path_component)
        && tag.is_none_or(is_tag)
        && digest.is_none_or(is_digest);
    well_formed.then_some((tag, digest))
}

/// Whether the first component names a registry rather than a part of the repository.
fn is_domain(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost" || first.bytes().any(|b| b.is_ascii_uppercase())
}

fn has_domain_form(domain: &str) -> bool {
    let (host, port) = if let Some(end) = domain.strip_prefix('[').and_then(|d| d.find(']')) {
        let (host, rest) = domain.split_at(end + 2);
        let ip = &host[1..host.len() - 1];
        if ip.is_empty() || !ip.bytes().all(|b| b.is_ascii_hexdigit() || b == b':') {
            return false;
        }
        (None, rest.strip_prefix(':').or(if rest.is_empty() { None } else { Some("") }))
    } else {
        match domain.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(domain), None),
        }
    };
    let host_ok = host.is_none_or(|h| {
        h.split('.').all(|c| {
            let b = c.as_bytes();
            !b.is_empty()
                && b[0].is_ascii_alphanumeric()
                && b[b.len() - 1].is_ascii_alphanumeric()
                && b.iter().all(|&c| c.is_ascii_alphanumeric() || c == b'-')
        })
    });
    host_ok && port.is_none_or(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()))
}

/// Lower-case words joined by `.`, `_`, `__` or any number of `-`.
fn is_path_component(component: &str) -> bool {
    let bytes = component.as_bytes();
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else { return false };
    if !word(first) || !word(last) {
        return false;
    }
    bytes.split(|&b| word(b)).all(|separator| {
        matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|&b| b == b'-')
    })
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= TAG_MAX_LEN
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || matches!(b, b'.' | b'-'))
}

fn is_digest(digest: &str) -> bool {
    let Some((algorithm, hex)) = digest.split_once(':') else { return false };
    let algorithm_ok = algorithm.split(['-', '_', '+', '.']).all(|part| {
        part.bytes().next().is_some_and(|b| b.is_ascii_alphabetic())
            && part.bytes().all(|b| b.is_ascii_alphanumeric())
    });
    algorithm_ok && hex.len() >= DIGEST_MIN_HEX && hex.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latest_is_the_tag_or_the_lack_of_one() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let table: &[(&str, bool)] = &[
            ("nginx", true),
            ("nginx:latest", true),
            ("nginx:1.27", false),
            ("library/nginx", true),
            ("registry.example:5000/team/app", true),
            ("registry.example:5000/team/app:latest", true),
            ("registry.example:5000/team/app:v1", false),
            ("localhost/app", true),
            ("localhost:5000/app:v2", false),
            ("[2001:db8::1]:5000/app", true),
            (&format!("nginx@{digest}"), false),
            (&format!("nginx:latest@{digest}"), true),
            (&format!("nginx:1@{digest}"), false),
            ("a__b/c--d.e", true),
            ("", false),
            ("Nginx", false),
            ("a..b", false),
            ("a___b", false),
            ("nginx:", false),
            ("nginx:-x", false),
            ("nginx@sha256:short", false),
            ("/nginx", false),
            ("nginx/", false),
            (&"a".repeat(64), false),
            (" nginx", false),
        ];
        for (image, want) in table {
            assert_eq!(means_latest(image), *want, "{image}");
        }
    }
}
