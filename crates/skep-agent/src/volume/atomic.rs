//! Files that all change at once under a reader's eyes: `..data` is a link to a directory that is never changed, and
//! names lead through it.
//!
//! ```text
//! name     → ..data/name
//! ..data   → ..2026_01_02_03_04_05.678
//! ..2026_… / name, dir/name
//! ```

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::Owner;
use super::payload::{File, Payload};

const DATA: &str = "..data";
const NEW_DATA: &str = "..data_tmp";

/// Makes the volume hold exactly these files. Says whether anything changed. `stamp` names the new directory and
/// must differ from the last one's; `owner` gets the files.
///
/// # Errors
/// What the file system says; the volume then shows the old files or the new ones, nothing in between.
pub fn write(volume: &Path, files: &Payload, stamp: &str, owner: Owner) -> io::Result<bool> {
    let data = volume.join(DATA);
    let old = match fs::read_link(&data) {
        Ok(name) => Some(volume.join(name)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => return Err(e),
    };
    let changed = match &old {
        Some(old) => !same(old, files)?,
        None => true,
    };
    if changed {
        let name = format!("..{stamp}");
        let new = volume.join(&name);
        if old.as_deref() == Some(&new) {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{name} is in use")));
        }
        // What a crash left half written.
        remove_tree(&new)?;
        remove_file(&volume.join(NEW_DATA))?;
        write_files(&new, files, owner)?;
        symlink(&name, volume.join(NEW_DATA))?;
        owner.give(&volume.join(NEW_DATA), None)?;
        fs::rename(volume.join(NEW_DATA), &data)?;
    }
    show(volume, files, owner)?;
    for entry in fs::read_dir(volume)? {
        let name = entry?.file_name();
        let text = name.to_string_lossy();
        let path = volume.join(&name);
        if text.starts_with("..") {
            let current = fs::read_link(&data)?;
            if text != DATA && Path::new(&name) != current {
                remove_tree(&path)?;
            }
        } else if !files.keys().any(|k| k.split('/').next() == Some(&text))
            && fs::read_link(&path).is_ok_and(|to| to.starts_with(DATA))
        {
            fs::remove_file(&path)?;
        }
    }
    Ok(changed)
}

fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(m) if m.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Every file below a directory, by relative path.
fn existing(root: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else if let Ok(relative) = entry.path().strip_prefix(root) {
                found.push(relative.to_owned());
            }
        }
    }
    Ok(found)
}

fn same(old: &Path, files: &Payload) -> io::Result<bool> {
    let there = match existing(old) {
        Ok(there) => there,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(e),
    };
    if there.len() != files.len() {
        return Ok(false);
    }
    for (path, file) in files {
        match fs::read(old.join(path)) {
            Ok(data) if data == file.data => {}
            Ok(_) => return Ok(false),
            // Missing, or a directory where a file shall be, or the other way round.
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::IsADirectory | io::ErrorKind::NotADirectory
                ) =>
            {
                return Ok(false);
            }
            Err(e) => return Err(e),
        }
    }
    Ok(true)
}

/// Directories are open to all, as upstream's: who may read is decided by the files.
const DIRECTORY_MODE: u32 = 0o755;

fn write_files(folder: &Path, files: &Payload, owner: Owner) -> io::Result<()> {
    make_dir(folder, owner)?;
    for (path, file) in files {
        let target = folder.join(path);
        let mut missing: Vec<&Path> =
            target.ancestors().skip(1).take_while(|a| *a != folder && !a.exists()).collect();
        missing.reverse();
        for parent in missing {
            make_dir(parent, owner)?;
        }
        write_file(&target, file, owner)?;
    }
    Ok(())
}

fn make_dir(path: &Path, owner: Owner) -> io::Result<()> {
    fs::create_dir(path)?;
    owner.give(path, None)?;
    let mode = if owner.group.is_some() { DIRECTORY_MODE | 0o2070 } else { DIRECTORY_MODE };
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

fn write_file(path: &Path, file: &File, owner: Owner) -> io::Result<()> {
    fs::write(path, &file.data)?;
    owner.give(path, file.user)?;
    // The group may read what the owner may.
    let mode = if owner.group.is_some() { file.mode | 0o440 } else { file.mode };
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// Links for the first part of every path.
fn show(volume: &Path, files: &Payload, owner: Owner) -> io::Result<()> {
    for path in files.keys() {
        let first = path.split('/').next().unwrap_or(path);
        let link = volume.join(first);
        match symlink(Path::new(DATA).join(first), &link) {
            Ok(()) => owner.give(&link, None)?,
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            Err(_) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn payload(files: &[(&str, &str)]) -> Payload {
        files
            .iter()
            .map(|(k, v)| ((*k).to_owned(), File { data: v.as_bytes().to_vec(), mode: 0o644, user: None }))
            .collect()
    }

    /// What a reader sees.
    fn seen(volume: &Path) -> BTreeMap<String, String> {
        fn walk(root: &Path, at: &Path, out: &mut BTreeMap<String, String>) {
            for entry in fs::read_dir(at).unwrap() {
                let path = entry.unwrap().path();
                let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
                if name.starts_with("..") {
                    continue;
                }
                if path.is_dir() {
                    walk(root, &path, out);
                } else {
                    out.insert(name, fs::read_to_string(&path).unwrap());
                }
            }
        }
        let mut out = BTreeMap::new();
        walk(volume, volume, &mut out);
        out
    }

    #[test]
    fn files_change_together_and_an_open_directory_stays() {
        let dir = tempfile::tempdir().unwrap();
        assert!(write(dir.path(), &payload(&[("a", "1"), ("d/b", "2")]), "1", Owner::default()).unwrap());
        let held = fs::read_link(dir.path().join(DATA)).unwrap();
        assert!(
            !write(dir.path(), &payload(&[("a", "1"), ("d/b", "2")]), "2", Owner::default()).unwrap(),
            "nothing changed"
        );
        assert_eq!(fs::read_link(dir.path().join(DATA)).unwrap(), held);
        assert!(write(dir.path(), &payload(&[("a", "9"), ("c", "3")]), "3", Owner::default()).unwrap());
        assert_eq!(seen(dir.path()), BTreeMap::from([("a".into(), "9".into()), ("c".into(), "3".into())]));
        assert!(!dir.path().join(held).exists(), "the old directory is gone");
        assert!(fs::symlink_metadata(dir.path().join("d")).is_err(), "the old link too");
    }

    #[test]
    fn what_a_crash_left_is_cleared() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &payload(&[("a", "1")]), "1", Owner::default()).unwrap();
        // Between writing the new directory and the rename.
        fs::create_dir(dir.path().join("..2")).unwrap();
        fs::write(dir.path().join("..2/a"), "half").unwrap();
        symlink("..2", dir.path().join(NEW_DATA)).unwrap();
        write(dir.path(), &payload(&[("a", "2")]), "2", Owner::default()).unwrap();
        assert_eq!(seen(dir.path()), BTreeMap::from([("a".into(), "2".into())]));
        let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names.len(), 3, "{names:?}");
    }

    #[test]
    fn modes_and_groups() {
        let dir = tempfile::tempdir().unwrap();
        let files: Payload =
            [("t".to_owned(), File { data: b"x".to_vec(), mode: 0o600, user: None })].into_iter().collect();
        let mode = |p: &str| fs::metadata(dir.path().join(p)).unwrap().permissions().mode() & 0o7777;
        write(dir.path(), &files, "1", Owner::default()).unwrap();
        assert_eq!(mode("t"), 0o600);
        let root = {
            use std::os::unix::fs::MetadataExt;
            fs::metadata(dir.path()).unwrap().uid() == 0
        };
        if !root {
            eprintln!("skipped: giving files to a group needs root");
            return;
        }
        let mut files = files;
        files.get_mut("t").unwrap().data = b"y".to_vec();
        write(dir.path(), &files, "2", Owner { group: Some(4711), ..Owner::default() }).unwrap();
        assert_eq!(mode("t"), 0o640);
        use std::os::unix::fs::MetadataExt;
        assert_eq!(fs::metadata(dir.path().join("t")).unwrap().gid(), 4711);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_sequence_of_writes_shows_the_last(
            writes in proptest::collection::vec(
                proptest::collection::btree_map("[a-c](/[a-c])?", "[x-z]{0,3}", 0..4), 1..6)
        ) {
            let dir = tempfile::tempdir().unwrap();
            for (i, files) in writes.iter().enumerate() {
                // `a` and `a/b` cannot both be files; the API's validation refuses it too.
                let files: BTreeMap<String, String> = files.iter()
                    .filter(|(k, _)| !files.keys().any(|o| o.starts_with(&format!("{k}/"))))
                    .map(|(k, v)| (k.clone(), v.clone())).collect();
                let list: Vec<(&str, &str)> = files.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
                write(dir.path(), &payload(&list), &i.to_string(), Owner::default()).unwrap();
                prop_assert_eq!(seen(dir.path()), files);
            }
        }
    }
}
