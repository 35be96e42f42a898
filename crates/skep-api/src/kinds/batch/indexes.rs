//! The compact form of sets of completion indexes: `1,3-5,7`.

/// Checks the form of a set and counts its indexes. Indexes rise and stay below `completions`.
pub(super) fn count(text: &str, completions: i32) -> Result<i32, String> {
    if text.is_empty() {
        return Ok(0);
    }
    let mut last: Option<i64> = None;
    let mut total = 0i64;
    for part in text.split(',') {
        let (x, y) = interval(part, completions)?;
        if let Some(last) = last
            && last >= x
        {
            return Err(format!("non-increasing order, previous: {last}, current: {x}"));
        }
        total += y - x + 1;
        last = Some(y);
    }
    Ok(i32::try_from(total).unwrap_or(i32::MAX))
}

/// The first index that both sets hold. Malformed parts are skipped: [`count`] reports them.
pub(super) fn overlap(completed: &str, failed: &str, completions: i32) -> Option<i64> {
    let intervals = |text: &str| -> Vec<(i64, i64)> {
        text.split(',').filter_map(|part| interval(part, completions).ok()).collect()
    };
    let (completed, failed) = (intervals(completed), intervals(failed));
    let (mut c, mut f) = (0, 0);
    while let (Some(&(cx, cy)), Some(&(fx, fy))) = (completed.get(c), failed.get(f)) {
        if cx <= fy && fx <= cy {
            return Some(cx.max(fx));
        }
        if cx <= fx {
            c += 1;
        } else {
            f += 1;
        }
    }
    None
}

fn interval(text: &str, completions: i32) -> Result<(i64, i64), String> {
    let index = |part: &str| -> Result<i64, String> {
        let n: i64 =
            part.parse().map_err(|_| format!("cannot convert string to integer for index: {part:?}"))?;
        if n >= i64::from(completions) { Err(format!("too large index: {part:?}")) } else { Ok(n) }
    };
    let mut parts = text.split('-');
    let (first, second, third) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
    if third.is_some() {
        return Err(format!(
            "the fragment {text:?} violates the requirement that an index interval can have at most two \
             parts separated by '-'"
        ));
    }
    let x = index(first)?;
    let Some(second) = second else { return Ok((x, x)) };
    let y = index(second)?;
    if x >= y {
        return Err(format!("non-increasing order, previous: {x}, current: {y}"));
    }
    Ok((x, y))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_counted_or_refused() {
        let good = [("", 0), ("0", 1), ("0,2", 2), ("0-3", 4), ("1,3-5,7", 5)];
        for (text, want) in good {
            assert_eq!(count(text, 8), Ok(want), "{text}");
        }
        let bad = [
            ("a", r#"cannot convert string to integer for index: "a""#),
            ("0,", r#"cannot convert string to integer for index: """#),
            ("1-x", r#"cannot convert string to integer for index: "x""#),
            ("8", r#"too large index: "8""#),
            ("1-8", r#"too large index: "8""#),
            ("3-3", "non-increasing order, previous: 3, current: 3"),
            ("3,2", "non-increasing order, previous: 3, current: 2"),
            ("1-2,2", "non-increasing order, previous: 2, current: 2"),
            (
                "1-2-3",
                r#"the fragment "1-2-3" violates the requirement that an index interval can have at most two parts separated by '-'"#,
            ),
        ];
        for (text, want) in bad {
            assert_eq!(count(text, 8), Err(want.to_owned()), "{text}");
        }
    }

    #[test]
    fn overlaps_are_found() {
        let table = [
            ("", "1", None),
            ("1", "", None),
            ("0,2,4", "1,3", None),
            ("0-2", "2-3", Some(2)),
            ("5", "0-9", Some(5)),
            ("x,5", "5", Some(5)),
        ];
        for (completed, failed, want) in table {
            assert_eq!(overlap(completed, failed, 10), want, "{completed} / {failed}");
        }
    }
}
