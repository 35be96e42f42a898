//! Ranges: of what is asked for, and of what is sent.

/// What a `Range` header wants of something so long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Everything: there is no header, or one that need not be honoured.
    Whole,
    /// From the first to the last byte, both included.
    Part(u64, u64),
    /// Nothing that is there.
    Nothing,
}

/// Reads a `Range` header. Several ranges at once are answered with everything, which is allowed.
pub(crate) fn wanted(header: Option<&str>, size: u64) -> Wanted {
    let Some(spec) = header.and_then(|h| h.trim().strip_prefix("bytes=")) else { return Wanted::Whole };
    if spec.contains(',') {
        return Wanted::Whole;
    }
    let Some((first, last)) = spec.trim().split_once('-') else { return Wanted::Whole };
    match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) if last < first => Wanted::Nothing,
        (Ok(first), _) if first >= size => Wanted::Nothing,
        (Ok(first), Ok(last)) => Wanted::Part(first, last.min(size - 1)),
        (Ok(first), Err(_)) if last.is_empty() => Wanted::Part(first, size - 1),
        (Err(_), Ok(0)) if first.is_empty() => Wanted::Nothing,
        (Err(_), Ok(_)) if first.is_empty() && size == 0 => Wanted::Nothing,
        (Err(_), Ok(n)) if first.is_empty() => Wanted::Part(size.saturating_sub(n), size - 1),
        _ => Wanted::Whole,
    }
}

/// First and last byte of a chunk, by its `Content-Range`: the specification's `FIRST-LAST`, or HTTP's `bytes FIRST-LAST/…`.
/// `None` for a text that is neither.
pub(crate) fn chunk(header: &str) -> Option<(u64, u64)> {
    let text = header.trim();
    let text = text.strip_prefix("bytes ").unwrap_or(text);
    let text = text.split('/').next()?;
    let (first, last) = text.split_once('-')?;
    let digits = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
    (digits(first) && digits(last)).then_some(())?;
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_2048_bytes() {
        use Wanted::{Nothing, Part, Whole};
        for (header, expected) in [
            ("bytes=500-1499", Part(500, 1499)),
            ("bytes=500-", Part(500, 2047)),
            ("bytes=-500", Part(1548, 2047)),
            ("bytes=-5000", Part(0, 2047)),
            ("bytes=2000-5000", Part(2000, 2047)),
            ("bytes=500-0", Nothing),
            ("bytes=5000-10000", Nothing),
            ("bytes=2048-", Nothing),
            ("bytes=-0", Nothing),
            ("bytes=0-1,5-6", Whole),
            ("bytes=a-b", Whole),
            ("bytes=-", Whole),
            ("lines=1-2", Whole),
        ] {
            assert_eq!(wanted(Some(header), 2048), expected, "{header}");
        }
        assert_eq!(wanted(None, 1), Whole);
        assert_eq!(wanted(Some("bytes=-1"), 0), Nothing);
        assert_eq!(wanted(Some("bytes=0-"), 0), Nothing);
    }

    #[test]
    fn chunks() {
        assert_eq!(chunk("0-1023"), Some((0, 1023)));
        assert_eq!(chunk("bytes 5-5/*"), Some((5, 5)));
        for bad in ["", "-", "5", "5-", "-5", "5-4", "+1-2", "a-b", "1-99999999999999999999"] {
            assert_eq!(chunk(bad), None, "{bad}");
        }
    }
}
