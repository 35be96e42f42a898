use super::*;
use std::fs;

fn read_all(reader: &mut LogReader) -> String {
    let mut out = Vec::new();
    while reader.read(&mut out).unwrap() == Progress::More {}
    String::from_utf8(out).unwrap()
}

fn line(second: u64, stream: &str, tag: &str, text: &str) -> String {
    format!("2026-01-02T03:04:{second:02}.5Z {stream} {tag} {text}\n")
}

/// Three files, of three lines each.
fn logs() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("0.log");
    for (number, name) in ["0.log.20260102-030400.1", "0.log.20260102-030403.1", "0.log"].iter().enumerate() {
        let text: String = (0..3)
            .map(|i| line(number as u64 * 3 + i, "stdout", "F", &format!("{}", number as u64 * 3 + i)))
            .collect();
        fs::write(folder.path().join(name), text).unwrap();
    }
    (folder, path)
}

#[test]
fn times_go_there_and_back() {
    for ns in [0, 951_827_696_000_000_001, 1_709_210_096_123_456_789, 4_102_444_799_999_999_999] {
        let mut text = String::new();
        format_time(ns, &mut text);
        assert_eq!(parse_time(text.as_bytes()), Some(ns), "{text}");
        let same: jiff::Timestamp = text.parse().unwrap();
        assert_eq!(same.as_nanosecond(), i128::from(ns));
    }
    assert_eq!(parse_time(b"2026-01-02"), None);
}

#[test]
fn all_of_it_across_files() {
    let (_folder, path) = logs();
    let mut reader = LogReader::open(&path, LogOptions::default()).unwrap();
    assert_eq!(read_all(&mut reader), "0\n1\n2\n3\n4\n5\n6\n7\n8\n");
}

#[test]
fn the_tail_reaches_back_as_far_as_needed() {
    let (_folder, path) = logs();
    for (lines, expected) in [
        (0, ""),
        (1, "8\n"),
        (3, "6\n7\n8\n"),
        (4, "5\n6\n7\n8\n"),
        (7, "2\n3\n4\n5\n6\n7\n8\n"),
        (9, "0\n1\n2\n3\n4\n5\n6\n7\n8\n"),
        (100, "0\n1\n2\n3\n4\n5\n6\n7\n8\n"),
    ] {
        let options = LogOptions { tail_lines: Some(lines), ..LogOptions::default() };
        let mut reader = LogReader::open(&path, options).unwrap();
        assert_eq!(read_all(&mut reader), expected, "{lines} lines");
    }
}

#[test]
fn since_limit_streams_and_times() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("0.log");
    let text = [
        line(1, "stdout", "F", "a"),
        line(2, "stderr", "F", "b"),
        line(3, "stdout", "P", "par"),
        line(3, "stdout", "F", "tial"),
    ]
    .concat();
    fs::write(&path, text).unwrap();
    let show = |options: LogOptions| read_all(&mut LogReader::open(&path, options).unwrap());
    let since = parse_time(b"2026-01-02T03:04:02.5Z");
    assert_eq!(show(LogOptions { since_ns: since, ..LogOptions::default() }), "b\npartial\n");
    assert_eq!(show(LogOptions { stream: Some(LogStream::Stderr), ..LogOptions::default() }), "b\n");
    assert_eq!(show(LogOptions { limit_bytes: Some(5), ..LogOptions::default() }), "a\nb\np");
    assert_eq!(
        show(LogOptions { timestamps: true, since_ns: since, ..LogOptions::default() }),
        "2026-01-02T03:04:02.5Z b\n2026-01-02T03:04:03.5Z partial\n"
    );
}

#[test]
fn following_survives_rotation() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("0.log");
    let mut reader = LogReader::open(&path, LogOptions::default()).unwrap();
    assert_eq!(read_all(&mut reader), "", "not there yet");
    fs::write(&path, line(1, "stdout", "F", "1")).unwrap();
    assert_eq!(read_all(&mut reader), "1\n");
    let half = line(2, "stdout", "F", "2");
    let append = |text: &str| {
        use std::io::Write;
        fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(&path)
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
    };
    append(&half[..10]);
    assert_eq!(read_all(&mut reader), "", "half a line is none");
    append(&half[10..]);
    fs::rename(&path, folder.path().join("0.log.20260102-030405.1")).unwrap();
    append(&line(3, "stdout", "F", "3"));
    fs::rename(&path, folder.path().join("0.log.20260102-030406.1")).unwrap();
    append(&line(4, "stdout", "F", "4"));
    assert_eq!(read_all(&mut reader), "2\n3\n4\n", "rotated twice in between");
}
