use super::*;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

/// An archive, entry by entry.
pub(crate) struct Tar(tar::Builder<Vec<u8>>);

impl Tar {
    pub(crate) fn new() -> Tar {
        Tar(tar::Builder::new(Vec::new()))
    }

    fn header(kind: tar::EntryType, size: u64, mode: u32) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(mode);
        header.set_mtime(1_000_000_000);
        header.set_uid(0);
        header.set_gid(0);
        header
    }

    /// With the name written as it is, `..` and all.
    fn put(mut self, mut header: tar::Header, name: &str, data: &[u8]) -> Tar {
        let field = &mut header.as_gnu_mut().unwrap().name;
        field.fill(0);
        field[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        self.0.append(&header, data).unwrap();
        self
    }

    pub(crate) fn file(self, name: &str, data: &[u8]) -> Tar {
        self.put(Self::header(tar::EntryType::Regular, data.len() as u64, 0o644), name, data)
    }

    fn mode(self, name: &str, mode: u32) -> Tar {
        self.put(Self::header(tar::EntryType::Regular, 0, mode), name, b"")
    }

    fn directory(self, name: &str) -> Tar {
        self.put(Self::header(tar::EntryType::Directory, 0, 0o755), name, b"")
    }

    fn link(self, kind: tar::EntryType, name: &str, target: &str) -> Tar {
        let mut header = Self::header(kind, 0, 0o777);
        let field = &mut header.as_gnu_mut().unwrap().linkname;
        field[..target.len()].copy_from_slice(target.as_bytes());
        self.put(header, name, b"")
    }

    fn symlink(self, name: &str, target: &str) -> Tar {
        self.link(tar::EntryType::Symlink, name, target)
    }

    fn hard_link(self, name: &str, target: &str) -> Tar {
        self.link(tar::EntryType::Link, name, target)
    }

    fn device(self, name: &str, major: u32, minor: u32) -> Tar {
        let mut header = Self::header(tar::EntryType::Char, 0, 0o666);
        header.set_device_major(major).unwrap();
        header.set_device_minor(minor).unwrap();
        self.put(header, name, b"")
    }

    pub(crate) fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

/// A directory with a neighbour that must stay as it is.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("layer")).unwrap();
        fs::create_dir(folder.path().join("outside")).unwrap();
        fs::write(folder.path().join("outside/file"), "precious").unwrap();
        Place { folder }
    }

    fn layer(&self) -> PathBuf {
        self.folder.path().join("layer")
    }

    fn unpack(&self, bytes: &[u8]) -> Result<Unpacked> {
        let result = unpack(bytes, &self.layer(), bytes.len() as u64, &UnpackLimits::default());
        let outside: Vec<_> = fs::read_dir(self.folder.path().join("outside")).unwrap().flatten().collect();
        assert_eq!(outside.len(), 1, "something got out: {outside:?}");
        assert_eq!(fs::read_to_string(self.folder.path().join("outside/file")).unwrap(), "precious");
        assert_eq!(fs::metadata(self.folder.path().join("outside/file")).unwrap().nlink(), 1);
        result
    }
}

#[test]
fn files_come_out_as_they_went_in() {
    let place = Place::new();
    let bytes = Tar::new()
        .directory("bin/")
        .file("bin/a", b"content")
        .mode("bin/su", 0o4755)
        .symlink("bin/link", "/bin/a")
        .hard_link("bin/hard", "bin/a")
        .file("made/on/the/way", b"x")
        .bytes();
    let unpacked = place.unpack(&bytes).unwrap();
    assert_eq!(unpacked.diff_id, Digest::of(&bytes));
    assert_eq!(unpacked.bytes, 8);
    let at = |name: &str| place.layer().join(name);
    assert_eq!(fs::read_to_string(at("bin/a")).unwrap(), "content");
    assert_eq!(fs::metadata(at("bin/a")).unwrap().mtime(), 1_000_000_000);
    assert_eq!(fs::metadata(at("bin")).unwrap().mtime(), 1_000_000_000);
    assert_eq!(fs::metadata(at("bin/su")).unwrap().permissions().mode() & 0o7777, 0o4755);
    assert_eq!(fs::read_link(at("bin/link")).unwrap(), Path::new("/bin/a"));
    assert_eq!(fs::metadata(at("bin/a")).unwrap().ino(), fs::metadata(at("bin/hard")).unwrap().ino());
    assert_eq!(fs::read_to_string(at("made/on/the/way")).unwrap(), "x");
}

#[test]
fn compressed_layers_have_the_digest_of_what_is_in_them() {
    use std::io::Write;
    let plain = Tar::new().file("a", &[7; 100_000]).bytes();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain).unwrap();
    let zstd =
        ruzstd::encoding::compress_to_vec(plain.as_slice(), ruzstd::encoding::CompressionLevel::Fastest);
    for bytes in [gzip.finish().unwrap(), zstd] {
        let unpacked = Place::new().unpack(&bytes).unwrap();
        assert_eq!(unpacked.diff_id, Digest::of(&plain));
    }
}

#[test]
fn whiteouts_become_what_overlays_understand() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: opaque directories need root");
        return;
    }
    let place = Place::new();
    let bytes = Tar::new()
        .directory("d/")
        .file("d/.wh.gone", b"")
        .directory("o/")
        .file("o/.wh..wh..opq", b"")
        .bytes();
    place.unpack(&bytes).unwrap();
    let gone = fs::symlink_metadata(place.layer().join("d/gone")).unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    let mut value = [0u8; 8];
    let length = rustix::fs::getxattr(place.layer().join("o"), "trusted.overlay.opaque", &mut value).unwrap();
    assert_eq!(&value[..length], b"y");
    assert!(!place.layer().join("o/.wh..wh..opq").exists());
}

#[test]
fn paths_do_not_lead_out() {
    let outside = |place: &Place| place.folder.path().join("outside").display().to_string();
    // `..` is refused outright.
    for name in ["../outside/new", "a/../../outside/new", "..", "x/../../../outside/file"] {
        assert!(Place::new().unpack(&Tar::new().file(name, b"bad").bytes()).is_err(), "{name}");
    }
    // Absolute paths mean the layer's root.
    let place = Place::new();
    place.unpack(&Tar::new().file("/etc/x", b"in").bytes()).unwrap();
    assert_eq!(fs::read_to_string(place.layer().join("etc/x")).unwrap(), "in");
    // Links are followed inside only: absolute ones, relative ones, chains, and one that changes its mind.
    let place = Place::new();
    let _ = place.unpack(&Tar::new().symlink("l", &outside(&place)).file("l/new", b"bad").bytes());
    let place = Place::new();
    let _ = place.unpack(&Tar::new().symlink("l", "../outside").file("l/new", b"bad").bytes());
    let place = Place::new();
    let _ =
        place.unpack(&Tar::new().symlink("a", "b").symlink("b", "../outside").file("a/new", b"bad").bytes());
    let place = Place::new();
    let _ = place.unpack(
        &Tar::new()
            .directory("d/")
            .file("d/one", b"1")
            .symlink("d", "../outside")
            .file("d/new", b"bad")
            .bytes(),
    );
    // A file in the place of a link does not write through it.
    let place = Place::new();
    place.unpack(&Tar::new().symlink("f", "../outside/file").file("f", b"in").bytes()).unwrap();
    assert_eq!(fs::read_to_string(place.layer().join("f")).unwrap(), "in");
    // Neither does a directory, nor a whiteout.
    let place = Place::new();
    place
        .unpack(&Tar::new().symlink("f", "../outside").directory("f/").file("f/new", b"in").bytes())
        .unwrap();
    let place = Place::new();
    let _ = place.unpack(&Tar::new().symlink("f", "../outside").file("f/.wh.file", b"").bytes());
}

#[test]
fn hard_links_do_not_lead_out() {
    for target in ["../outside/file", "/../outside/file", "a/../../outside/file"] {
        assert!(Place::new().unpack(&Tar::new().hard_link("h", target).bytes()).is_err(), "{target}");
    }
    let place = Place::new();
    let path = place.folder.path().join("outside/file").display().to_string();
    assert!(place.unpack(&Tar::new().hard_link("h", &path).bytes()).is_err(), "absolute: not in the layer");
    let place = Place::new();
    let bytes = Tar::new().symlink("l", "../outside").hard_link("h", "l/file").bytes();
    assert!(place.unpack(&bytes).is_err(), "through a link");
    // To a link itself is fine, and writing to the name afterwards replaces it.
    let place = Place::new();
    let bytes = Tar::new().symlink("l", "../outside/file").hard_link("h", "l").file("h", b"in").bytes();
    place.unpack(&bytes).unwrap();
    assert_eq!(fs::read_to_string(place.layer().join("h")).unwrap(), "in");
}

#[test]
fn devices_are_left_out_unless_permitted() {
    let place = Place::new();
    let bytes = Tar::new().device("null", 1, 3).device("hidden", 0, 0).bytes();
    assert_eq!(place.unpack(&bytes).unwrap().devices_left_out, 2);
    assert!(fs::symlink_metadata(place.layer().join("null")).is_err());
    if rustix::process::geteuid().is_root() {
        let place = Place::new();
        let limits = UnpackLimits { devices: true, ..UnpackLimits::default() };
        let unpacked = unpack(bytes.as_slice(), &place.layer(), bytes.len() as u64, &limits).unwrap();
        assert_eq!(unpacked.devices_left_out, 1, "0:0 would be a whiteout");
        assert!(fs::symlink_metadata(place.layer().join("null")).unwrap().file_type().is_char_device());
    }
}

#[test]
fn attributes_of_the_overlay_are_not_taken_from_archives() {
    let place = Place::new();
    let mut builder = tar::Builder::new(Vec::new());
    builder
        .append_pax_extensions([
            ("SCHILY.xattr.user.note", b"kept" as &[u8]),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/secret"),
            ("SCHILY.xattr.user.overlay.redirect", b"/secret"),
        ])
        .unwrap();
    let mut header = Tar::header(tar::EntryType::Regular, 0, 0o644);
    header.set_path("f").unwrap();
    header.set_cksum();
    builder.append(&header, &b""[..]).unwrap();
    place.unpack(&builder.into_inner().unwrap()).unwrap();
    let mut value = [0u8; 16];
    let file = place.layer().join("f");
    if let Ok(length) = rustix::fs::getxattr(&file, "user.note", &mut value) {
        assert_eq!(&value[..length], b"kept");
    }
    for name in ["trusted.overlay.redirect", "user.overlay.redirect"] {
        assert!(rustix::fs::getxattr(&file, name, &mut value).is_err(), "{name}");
    }
}

#[test]
fn bombs_are_refused() {
    let limits = UnpackLimits { max_bytes: 10_000, max_entries: 3, ..UnpackLimits::default() };
    let place = Place::new();
    let bytes = Tar::new().file("big", &[0; 20_000]).bytes();
    let error = unpack(bytes.as_slice(), &place.layer(), 100, &limits).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Invalid);
    assert!(error.message.contains("10000 bytes"), "{error}");
    let place = Place::new();
    let bytes = Tar::new().mode("1", 0).mode("2", 0).mode("3", 0).mode("4", 0).bytes();
    assert!(unpack(bytes.as_slice(), &place.layer(), 100, &limits).unwrap_err().message.contains("3 files"));
}

/// Eight megabytes of zeros in a few kilobytes of gzip.
#[test]
fn a_zip_bomb_is_stopped_early() {
    use std::io::Write;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&Tar::new().file("zeros", &[0; 8 << 20]).bytes()).unwrap();
    let bytes = gzip.finish().unwrap();
    let limits = UnpackLimits { ratio_from_bytes: 1 << 20, max_ratio: 20, ..UnpackLimits::default() };
    let place = Place::new();
    let error = unpack(bytes.as_slice(), &place.layer(), bytes.len() as u64, &limits).unwrap_err();
    assert!(error.message.contains("times its compressed"), "{error}");
    assert!(fs::metadata(place.layer().join("zeros")).unwrap().len() <= 2 << 20);
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(60))]

    /// Whatever an archive does with a few names, nothing outside changes.
    #[test]
    fn no_sequence_of_entries_gets_out(steps in proptest::collection::vec((0..6u8, 0..12usize, 0..12usize), 1..12)) {
        const NAMES: [&str; 12] = [
            "a", "b", "a/b", "b/a", "a/b/a", "../outside", "../outside/file", "a/../../outside/file", "/outside",
            "a/.wh.b", "b/.wh..wh..opq", ".wh.a",
        ];
        let place = Place::new();
        let mut tar = Tar::new();
        for (kind, name, target) in steps {
            let (name, target) = (NAMES[name], NAMES[target]);
            tar = match kind {
                0 => tar.file(name, b"bad"),
                1 => tar.directory(name),
                2 | 3 => tar.symlink(name, target),
                4 => tar.hard_link(name, target),
                _ => tar.mode(name, 0o777),
            };
        }
        // Place::unpack checks what is outside.
        let _ = place.unpack(&tar.bytes());
    }
}
