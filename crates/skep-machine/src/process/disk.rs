//! A machine's own disk: a file system (ext4) of the size that the machine is to have, in a sparse file, mounted where its tree is. So its limit
//! is the kernel's, one machine cannot fill the disk of the others, and what is free looks from inside as it is.
//!
//! Project quotas would do without a second file system below the first, but only on hosts whose disk was made and mounted for them;
//! this works wherever there are loop devices and `mkfs.ext4`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{ROOT, procfs};
use crate::error::Error;

/// The file that holds it, in the machine's directory.
pub const IMAGE: &str = "disk.img";
/// Less than this is no disk for a machine: the journal alone takes a quarter of it.
const MIN_BYTES: u64 = 64 << 20;
/// Where programs lie that are for root, whatever `PATH` says.
const SYSTEM_FOLDERS: [&str; 3] = ["", "/usr/sbin/", "/sbin/"];

/// Mounts a machine's disk where its tree is to be, and makes it first if the machine is new. A machine that has its tree on the host's disk
/// already keeps it there.
pub(crate) fn attach(dir: &Path, bytes: Option<u64>) -> Result<(), Error> {
    let (image, root) = (dir.join(IMAGE), dir.join(ROOT));
    if !image.exists() {
        let Some(bytes) = bytes else { return Ok(()) };
        if root.exists() {
            return Ok(());
        }
        make(&image, bytes)?;
    }
    if procfs::mounts()?.iter().any(|m| m.target == root) {
        return Ok(());
    }
    fs::create_dir_all(&root).map_err(Error::io("create", &root))?;
    // What the machine deletes is given back to the host. Tables of inodes are filled when they are used: the file stays as small as what is in it.
    let options = "loop,discard,nodev,noinit_itable";
    run(&["mount"], &["-t", "ext4", "-o", options], &[&image, &root])?;
    let found = root.join("lost+found");
    match fs::remove_dir(&found) {
        // It is made again when it is needed.
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", &found)(e)),
        _ => Ok(()),
    }
}

fn make(image: &Path, bytes: u64) -> Result<(), Error> {
    if bytes < MIN_BYTES {
        let why = format!(
            "its disk would have {bytes} bytes, and needs {MIN_BYTES}; give its flavour more ephemeral-storage"
        );
        return Err(Error::Start { why });
    }
    // Under its name it is whole.
    let new = image.with_extension("new");
    let file = fs::File::create(&new).map_err(Error::io("create", &new))?;
    file.set_len(bytes).map_err(Error::io("set the size of", &new))?;
    let names: Vec<String> = SYSTEM_FOLDERS.iter().map(|f| format!("{f}mkfs.ext4")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let options =
        ["-q", "-F", "-m", "0", "-J", "size=16", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard"];
    run(&names, &options, &[&new])?;
    file.sync_all().map_err(Error::io("write", &new))?;
    fs::rename(&new, image).map_err(Error::io("rename", &new))
}

/// Runs the first of these programs that is there.
fn run(names: &[&str], options: &[&str], paths: &[&Path]) -> Result<(), Error> {
    let mut missing = None;
    for name in names {
        match Command::new(name).args(options).args(paths).output() {
            Ok(output) if output.status.success() => return Ok(()),
            Ok(output) => {
                let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                return Err(Error::Start { why: format!("{name}: {why}") });
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => missing = Some(e),
            Err(e) => return Err(Error::io("run", Path::new(name))(e)),
        }
    }
    let name = PathBuf::from(names.first().copied().unwrap_or_default());
    let missing = missing.unwrap_or_else(|| std::io::ErrorKind::NotFound.into());
    Err(Error::io("run (is e2fsprogs installed?)", &name)(missing))
}

/// Whether machines can have disks of their own, found out in a directory that is there for nothing else.
pub(crate) fn probe(dir: &Path) -> Result<(), Error> {
    attach(dir, Some(MIN_BYTES))
}
