//! The name rules of Kubernetes (RFC 1123, RFC 1035, qualified names), as predicates.
//!
//! The wording of the errors that clients see is `skep-api`'s business; here is only what is allowed.
//! Limits: k8s.io/apimachinery `pkg/util/validation`.

/// Longest RFC 1123 or RFC 1035 label.
pub const LABEL_MAX_LEN: usize = 63;
/// Longest RFC 1123 subdomain.
pub const SUBDOMAIN_MAX_LEN: usize = 253;

fn alnum_lower(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}

/// `[a-z0-9]([-a-z0-9]*[a-z0-9])?`, of any length.
#[must_use]
pub fn has_label_form(s: &str) -> bool {
    let b = s.as_bytes();
    let (Some(&first), Some(&last)) = (b.first(), b.last()) else { return false };
    alnum_lower(first) && alnum_lower(last) && b.iter().all(|&c| alnum_lower(c) || c == b'-')
}

/// An RFC 1123 label of at most 63 characters.
#[must_use]
pub fn is_dns1123_label(s: &str) -> bool {
    s.len() <= LABEL_MAX_LEN && has_label_form(s)
}

/// Labels joined by dots, of any length.
#[must_use]
pub fn has_subdomain_form(s: &str) -> bool {
    !s.is_empty() && s.split('.').all(has_label_form)
}

/// An RFC 1123 subdomain of at most 253 characters.
#[must_use]
pub fn is_dns1123_subdomain(s: &str) -> bool {
    s.len() <= SUBDOMAIN_MAX_LEN && has_subdomain_form(s)
}

/// An RFC 1035 label: like an RFC 1123 label, but it begins with a letter.
#[must_use]
pub fn is_dns1035_label(s: &str) -> bool {
    is_dns1123_label(s) && s.as_bytes()[0].is_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_subdomains() {
        for good in ["a", "0", "a-b", &"x".repeat(63)] {
            assert!(is_dns1123_label(good), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a_b", "ä", &"x".repeat(64)] {
            assert!(!is_dns1123_label(bad), "{bad}");
        }
        assert!(is_dns1123_subdomain("a.b-c.0"));
        for bad in ["a..b", ".a", "a.", &"a.".repeat(127)] {
            assert!(!is_dns1123_subdomain(bad), "{bad}");
        }
        assert!(is_dns1035_label("a0") && !is_dns1035_label("0a"));
    }
}
