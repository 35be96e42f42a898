//! The sample's image, made of what is on this computer: this very program and the libraries that it has open.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use ring::digest::{Context as Hash, Digest, SHA256, digest};

/// Where the program lies in the image.
pub(super) const PROGRAM: &str = "/skep";

/// The path of the loader that a program asks the kernel for; `None` for a static one.
fn interpreter(program: &[u8]) -> Option<PathBuf> {
    let number = |at: usize, bytes: usize| -> Option<usize> {
        let slice = program.get(at..at.checked_add(bytes)?)?;
        slice.iter().rev().try_fold(0_usize, |n, b| n.checked_mul(256)?.checked_add(usize::from(*b)))
    };
    // ELF, 64 bits, little-endian.
    (program.get(..6)? == b"\x7fELF\x02\x01").then_some(())?;
    let (table, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    (0..count).find_map(|i| {
        let entry = table.checked_add(i.checked_mul(size)?)?;
        // PT_INTERP
        (number(entry, 4)? == 3).then_some(())?;
        let (offset, length) = (number(entry.checked_add(8)?, 8)?, number(entry.checked_add(32)?, 8)?);
        let text = program.get(offset..offset.checked_add(length)?)?;
        Some(PathBuf::from(std::str::from_utf8(text).ok()?.trim_end_matches('\0')))
    })
}

/// The libraries that this process has open.
fn libraries() -> anyhow::Result<BTreeSet<PathBuf>> {
    let maps = fs::read_to_string("/proc/self/maps").context("reading this process's maps")?;
    let paths = maps.lines().filter_map(|line| line.split_whitespace().nth(5));
    Ok(paths.filter(|p| p.starts_with('/') && p.contains(".so")).map(PathBuf::from).collect())
}

fn add(archive: &mut tar::Builder<impl Write>, from: &Path, to: &Path) -> anyhow::Result<()> {
    let mut file = File::open(from).with_context(|| format!("opening {}", from.display()))?;
    let mut header = tar::Header::new_gnu();
    header.set_size(file.metadata().with_context(|| format!("reading {}", from.display()))?.len());
    header.set_mode(0o755);
    let name = to.strip_prefix("/").unwrap_or(to);
    archive
        .append_data(&mut header, name, &mut file)
        .with_context(|| format!("putting {} into the image", from.display()))
}

fn hex(digest: &Digest) -> String {
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes and hashes.
struct Hashing<W> {
    inner: W,
    hash: Hash,
    length: u64,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.hash.update(&bytes[..n]);
        self.length += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

/// Makes an OCI layout in an empty directory.
///
/// # Errors
/// When a file cannot be read or written.
pub(crate) fn assemble(directory: &Path) -> anyhow::Result<()> {
    let blobs = directory.join("blobs/sha256");
    fs::create_dir_all(&blobs).with_context(|| format!("making {}", blobs.display()))?;
    let own = PathBuf::from("/proc/self/exe");
    let layer = directory.join("layer");
    let file = std::io::BufWriter::new(File::create(&layer).context("making the layer")?);
    let mut archive = tar::Builder::new(Hashing { inner: file, hash: Hash::new(&SHA256), length: 0 });
    add(&mut archive, &own, Path::new(PROGRAM))?;
    let program = fs::read(&own).context("reading this program")?;
    if let Some(loader) = interpreter(&program) {
        let mut all = libraries()?;
        if all.is_empty() {
            bail!("this program's libraries cannot be found");
        }
        all.remove(&loader);
        for library in &all {
            add(&mut archive, library, library)?;
        }
        add(&mut archive, &loader, &loader)?;
    }
    let mut done = archive.into_inner().context("ending the layer")?;
    done.flush().context("writing the layer")?;
    let (diff_id, length) = (hex(&done.hash.finish()), done.length);
    fs::rename(&layer, blobs.join(&diff_id)).context("naming the layer")?;
    let put = |value: serde_json::Value| -> anyhow::Result<(String, usize)> {
        let text = value.to_string();
        let digest = hex(&digest(&SHA256, text.as_bytes()));
        fs::write(blobs.join(&digest), &text).context("writing the image")?;
        Ok((digest, text.len()))
    };
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let (config, config_size) = put(serde_json::json!({
        "architecture": architecture, "os": "linux", "config": {"Entrypoint": [PROGRAM, "sample"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{diff_id}")]},
    }))?;
    let (manifest, size) = put(serde_json::json!({
        "schemaVersion": 2, "mediaType": skep_registry::manifest::IMAGE,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": format!("sha256:{config}"), "size": config_size},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": format!("sha256:{diff_id}"), "size": length}],
    }))?;
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [
        {"mediaType": skep_registry::manifest::IMAGE, "digest": format!("sha256:{manifest}"), "size": size}]});
    fs::write(directory.join("index.json"), index.to_string()).context("writing the image")?;
    fs::write(directory.join("oci-layout"), r#"{"imageLayoutVersion": "1.0.0"}"#).context("writing the image")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loaders_are_found_and_nonsense_is_not_one() {
        let own = fs::read("/proc/self/exe").unwrap();
        if let Some(loader) = interpreter(&own) {
            assert!(loader.exists(), "{}", loader.display());
            assert!(libraries().unwrap().iter().any(|l| l.display().to_string().contains("libc")));
        }
        for bad in [&b""[..], b"\x7fELF", b"#!/bin/sh\n", &own[..70]] {
            assert_eq!(interpreter(bad), None);
        }
    }
}
