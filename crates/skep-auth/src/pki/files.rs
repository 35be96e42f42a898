//! The files of the certificate directory: readable by their owner only, written all or nothing.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::PkiError;
use super::ca::KeyedCertificate;

/// A certificate or key file larger than this is not ours.
const MAX_FILE_BYTES: u64 = 64 * 1024;

fn error(action: &'static str, path: &Path) -> impl Fn(std::io::Error) -> PkiError {
    let path = path.to_owned();
    move |source| PkiError::Io { action, path: path.clone(), source }
}

pub(super) fn create_dir(dir: &Path) -> Result<(), PkiError> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(error("create", dir))
}

/// The content; `None` if there is no such file.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, PkiError> {
    match fs::metadata(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(error("read", path)(e)),
        Ok(m) if m.len() > MAX_FILE_BYTES => {
            return Err(PkiError::Damaged { path: path.to_owned(), detail: "it is too large" });
        }
        Ok(_) => {}
    }
    fs::read(path).map(Some).map_err(error("read", path))
}

/// Writes beside the file, syncs, renames, syncs the directory: after a crash there is the old content or
/// the new one.
pub(super) fn write_atomic(path: &Path, content: &[u8]) -> Result<(), PkiError> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = PathBuf::from(temporary);
    // Left over from a crash; and it may have other permissions than a new file gets.
    match fs::remove_file(&temporary) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(error("replace", &temporary)(e)),
        _ => {}
    }
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        match path.parent() {
            Some(dir) if dir.as_os_str().is_empty() => File::open(".")?.sync_all(),
            Some(dir) => File::open(dir)?.sync_all(),
            None => Ok(()),
        }
    };
    write().map_err(error("write", path))
}

/// A certificate and its key. `None` if there is no certificate: a key alone was left by a crash between the
/// two writes, and nothing was ever signed with it.
pub(super) fn load_pair(dir: &Path, name: &str) -> Result<Option<KeyedCertificate>, PkiError> {
    let (certificate, key) = (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")));
    let Some(certificate_pem) = read(&certificate)? else { return Ok(None) };
    let Some(key_pem) = read(&key)? else { return Err(PkiError::KeyMissing { certificate, key }) };
    KeyedCertificate::from_pem(&certificate_pem, &key_pem)
        .map(Some)
        .map_err(|detail| PkiError::Damaged { path: certificate, detail })
}

/// Key first: see [`load_pair`].
///
/// A renewal that crashes in between leaves the new key with the old certificate. They do not match, which
/// would be damage for an authority; those are never renewed. For the others, the pair is taken out first.
pub(super) fn save_pair(dir: &Path, name: &str, pair: &KeyedCertificate) -> Result<(), PkiError> {
    let (certificate, key) = (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")));
    match fs::remove_file(&certificate) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(error("replace", &certificate)(e)),
        _ => {}
    }
    write_atomic(&key, pair.key_pem().as_bytes())?;
    write_atomic(&certificate, pair.certificate_pem().as_bytes())
}
