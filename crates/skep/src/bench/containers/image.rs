//! What is run: a root with nothing but busybox in it, as a directory and as an image.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::Context;
use ring::digest::{SHA256, digest};
use serde_json::json;
use skep_runtime::images::{ImageStore, Reference, Scope, UnpackLimits};

use crate::image::STORE;

/// The image's name, to everybody. No registry of the name is asked: it is loaded.
pub(super) const NAME: &str = "bench.skep.invalid/sleep:1";

pub(super) struct Bundle {
    folder: tempfile::TempDir,
}

impl Bundle {
    /// Makes both.
    pub(super) fn make(busybox: &Path) -> anyhow::Result<Bundle> {
        let folder = tempfile::tempdir().context("making a folder")?;
        let bundle = Bundle { folder };
        let root = bundle.root();
        for name in ["bin", "proc", "dev", "sys"] {
            fs::create_dir_all(root.join(name)).context("making a root")?;
        }
        let program = root.join("bin/busybox");
        fs::copy(busybox, &program).with_context(|| {
            format!(
                "copying {}; Debian's package busybox-static has it, --busybox names another",
                busybox.display()
            )
        })?;
        symlink("busybox", root.join("bin/sleep")).context("making a root")?;
        bundle.archive().context("making an image")?;
        Ok(bundle)
    }

    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The root as a directory.
    pub(super) fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    /// The image as `docker save` writes it.
    pub(super) fn file(&self) -> PathBuf {
        self.folder.path().join("image.tar")
    }

    fn archive(&self) -> anyhow::Result<()> {
        let mut layer = tar::Builder::new(Vec::new());
        layer.follow_symlinks(false);
        layer.append_dir_all(".", self.root())?;
        let layer = layer.into_inner()?;
        let hash: String = digest(&SHA256, &layer).as_ref().iter().map(|b| format!("{b:02x}")).collect();
        let config = json!({
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }, "os": "linux",
            "config": {"Env": ["PATH=/bin"]}, "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{hash}")]},
        });
        let manifest = json!([{"Config": "config.json", "RepoTags": [NAME], "Layers": ["layer.tar"]}]);
        let mut image = tar::Builder::new(File::create(self.file())?);
        for (name, bytes) in [
            ("manifest.json", manifest.to_string().into_bytes()),
            ("config.json", config.to_string().into_bytes()),
            ("layer.tar", layer),
        ] {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            image.append_data(&mut header, name, bytes.as_slice())?;
        }
        image.into_inner()?.sync_all()?;
        Ok(())
    }

    fn store(data: &Path) -> anyhow::Result<ImageStore> {
        Ok(ImageStore::open(data.join(STORE), UnpackLimits::default())?)
    }

    /// Puts the image where machines of this computer take it from.
    pub(super) fn load(&self, data: &Path) -> anyhow::Result<()> {
        Bundle::store(data)?.load(&self.file(), &Scope::shared(), None).context("loading the image")?;
        Ok(())
    }

    pub(super) fn unload(&self, data: &Path) -> anyhow::Result<()> {
        let name: Reference = NAME.parse().context("naming the image")?;
        Bundle::store(data)?.remove(&Scope::shared(), &name).context("removing the image")?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_loaded_and_goes() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("program");
        fs::write(&program, "not really one").unwrap();
        let bundle = Bundle::make(&program).unwrap();
        let data = folder.path().join("data");
        fs::create_dir_all(&data).unwrap();
        bundle.load(&data).unwrap();
        let store = Bundle::store(&data).unwrap();
        let names = |store: &ImageStore| {
            store.list(None).unwrap().iter().map(|i| i.name.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(names(&store), [NAME]);
        bundle.unload(&data).unwrap();
        assert!(names(&store).is_empty());
    }
}
