//! Images in files, as they are pushed: OCI layouts (directories or archives), and what `docker save` writes. Archives may be compressed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::digest::{Algorithm, Digest, Hasher};
use crate::manifest::{IMAGE, MANIFEST_MAX_BYTES};

/// Links from name to name in an archive: chains are not longer in practice.
const LINKS_MAX: usize = 8;
/// What is read at once.
const READ_BYTES: usize = 256 * 1024;
/// Files in an archive of images. One has a handful for each layer.
const FILES_MAX: usize = 100_000;
/// The annotation by which an index names its images; Docker and containers' tools write it.
const NAME: &str = "org.opencontainers.image.ref.name";

/// Why there is no image in a file.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// The file system.
    #[error("{} cannot be read", path.display())]
    Io {
        /// What was read or written.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is neither of the forms.
    #[error("{} is no image: {why}; give an OCI layout (a directory or an archive of one) or an archive of `docker save`", path.display())]
    Form {
        /// The file.
        path: PathBuf,
        /// What is missing or wrong.
        why: String,
    },
}

/// A manifest on the top of a layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Top {
    /// What it is called in there; nothing if it has no name.
    pub names: Vec<String>,
    /// Its digest.
    pub digest: Digest,
    /// Its type.
    pub media_type: String,
}

/// Images, with every blob in a file of its own.
#[derive(Debug)]
pub struct Layout {
    path: PathBuf,
    blobs: BTreeMap<Digest, PathBuf>,
    /// What is on the top.
    pub tops: Vec<Top>,
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> LayoutError {
    let path = path.to_owned();
    move |source| LayoutError::Io { path, source }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// A path as a key: without `.`, `..` and slashes at its ends.
fn key(path: &Path) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => parts.extend(part.to_str()),
            Component::ParentDir => {
                parts.pop();
            }
            _ => {}
        }
    }
    parts.join("/")
}

/// The first bytes of gzip, and of Zstandard.
const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

fn magic(file: &mut File) -> io::Result<[u8; 4]> {
    let (mut magic, mut have) = ([0; 4], 0);
    while have < magic.len() {
        match file.read(&mut magic[have..])? {
            0 => break,
            n => have += n,
        }
    }
    file.seek(SeekFrom::Start(0))?;
    Ok(magic)
}

/// The files of an archive, unpacked under numbers into a folder: names in archives are strangers'.
fn unpack(path: &Path, work: &Path) -> Result<BTreeMap<String, PathBuf>, LayoutError> {
    let mut file = File::open(path).map_err(at(path))?;
    let magic = magic(&mut file).map_err(at(path))?;
    let reader: Box<dyn Read> = if magic[..2] == GZIP {
        Box::new(flate2::read::MultiGzDecoder::new(file))
    } else if magic == ZSTD {
        let decoder = ruzstd::decoding::StreamingDecoder::new(io::BufReader::with_capacity(READ_BYTES, file));
        Box::new(decoder.map_err(|e| form(path, &e.to_string()))?)
    } else {
        Box::new(file)
    };
    let (mut files, mut links) = (BTreeMap::new(), BTreeMap::new());
    let mut archive = tar::Archive::new(reader);
    for entry in archive.entries().map_err(at(path))? {
        let mut entry = entry.map_err(|e| form(path, &e.to_string()))?;
        let name = key(&entry.path().map_err(at(path))?);
        let kind = entry.header().entry_type();
        if files.len() + links.len() >= FILES_MAX {
            return Err(form(path, "it has more files than images have"));
        }
        if kind.is_file() {
            let to = work.join(format!("{}.file", files.len()));
            let mut out = File::create_new(&to).map_err(at(&to))?;
            io::copy(&mut entry, &mut out).map_err(at(path))?;
            files.insert(name, to);
        } else if let (true, Ok(Some(target))) = (kind.is_symlink() || kind.is_hard_link(), entry.link_name())
        {
            let target = match kind.is_symlink() {
                true => key(&Path::new(&name).parent().unwrap_or(Path::new("")).join(target)),
                false => key(&target),
            };
            links.insert(name, target);
        }
    }
    for name in links.keys() {
        let mut target = name;
        for _ in 0..LINKS_MAX {
            let Some(next) = links.get(target) else { break };
            target = next;
        }
        if let Some(path) = files.get(target).cloned() {
            files.insert(name.clone(), path);
        }
    }
    Ok(files)
}

fn form(path: &Path, why: &str) -> LayoutError {
    LayoutError::Form { path: path.to_owned(), why: why.to_owned() }
}

fn hash(path: &Path) -> Result<(Digest, u64), LayoutError> {
    let mut file = File::open(path).map_err(at(path))?;
    let (mut hasher, mut length, mut buffer) = (Hasher::new(Algorithm::Sha256), 0, vec![0; READ_BYTES]);
    loop {
        match file.read(&mut buffer).map_err(at(path))? {
            0 => return Ok((hasher.finish(), length)),
            n => {
                hasher.update(&buffer[..n]);
                length += n as u64;
            }
        }
    }
}

fn small(path: &Path) -> Result<Vec<u8>, LayoutError> {
    let length = fs::metadata(path).map_err(at(path))?.len();
    if length > MANIFEST_MAX_BYTES as u64 {
        return Err(form(path, &format!("a description of {length} bytes is none")));
    }
    fs::read(path).map_err(at(path))
}

impl Layout {
    /// Reads what is in a file or directory. What must be unpacked or written goes into the folder `work`, which is empty and the caller's to remove.
    ///
    /// # Errors
    /// [`LayoutError`].
    pub fn open(path: &Path, work: &Path) -> Result<Layout, LayoutError> {
        let files = match fs::metadata(path).map_err(at(path))?.is_dir() {
            true => None,
            false => Some(unpack(path, work)?),
        };
        let find = |name: &str| match &files {
            Some(files) => files.get(&key(Path::new(name))).cloned(),
            None => Some(path.join(key(Path::new(name)))).filter(|p| p.is_file()),
        };
        let mut layout = Layout { path: path.to_owned(), blobs: BTreeMap::new(), tops: Vec::new() };
        if let Some(index) = find("index.json") {
            layout.read_index(&index)?;
            match &files {
                Some(files) => {
                    for (name, file) in files {
                        layout.note(name, file);
                    }
                }
                None => layout.read_folder()?,
            }
        } else if let Some(manifest) = find("manifest.json") {
            layout.read_docker(&manifest, work, find)?;
        } else {
            return Err(form(path, "it has neither index.json nor manifest.json"));
        }
        match layout.tops.is_empty() {
            true => Err(form(path, "there is no image in it")),
            false => Ok(layout),
        }
    }

    /// `blobs/ALGORITHM/HASH` is a blob.
    fn note(&mut self, name: &str, file: &Path) {
        if let Some((algorithm, hash)) = name.strip_prefix("blobs/").and_then(|rest| rest.split_once('/'))
            && let Ok(digest) = format!("{algorithm}:{hash}").parse()
        {
            self.blobs.insert(digest, file.to_owned());
        }
    }

    fn read_folder(&mut self) -> Result<(), LayoutError> {
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512].map(Algorithm::as_str) {
            let folder = self.path.join("blobs").join(algorithm);
            let entries = match fs::read_dir(&folder) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                entries => entries.map_err(at(&folder))?,
            };
            for entry in entries {
                let entry = entry.map_err(at(&folder))?;
                self.note(
                    &format!("blobs/{algorithm}/{}", entry.file_name().to_string_lossy()),
                    &entry.path(),
                );
            }
        }
        Ok(())
    }

    fn read_index(&mut self, index: &Path) -> Result<(), LayoutError> {
        let bad = |why: &str| form(&self.path, why);
        let index: Value =
            serde_json::from_slice(&small(index)?).map_err(|e| bad(&format!("index.json: {e}")))?;
        for descriptor in index["manifests"].as_array().into_iter().flatten() {
            let text = |key: &str| descriptor[key].as_str().unwrap_or_default();
            let digest: Digest = text("digest").parse().map_err(|_| bad("index.json names no digest"))?;
            let media_type = match text("mediaType") {
                "" => IMAGE.to_owned(),
                given => given.to_owned(),
            };
            let name = descriptor["annotations"][NAME].as_str().map(str::to_owned);
            // Tools write one entry for each name of an image.
            match self.tops.iter_mut().find(|top| top.digest == digest) {
                Some(top) => top.names.extend(name),
                None => self.tops.push(Top { names: name.into_iter().collect(), digest, media_type }),
            }
        }
        Ok(())
    }

    fn read_docker(
        &mut self,
        manifest: &Path,
        work: &Path,
        find: impl Fn(&str) -> Option<PathBuf>,
    ) -> Result<(), LayoutError> {
        let path = self.path.clone();
        let bad = |why: &str| form(&path, why);
        let images: Vec<DockerImage> =
            serde_json::from_slice(&small(manifest)?).map_err(|e| bad(&format!("manifest.json: {e}")))?;
        let need = |name: &str| find(name).ok_or_else(|| bad(&format!("it has no {name}")));
        for image in images {
            let mut part = |name: &str, media_type: &str| -> Result<Value, LayoutError> {
                let file = need(name)?;
                let (digest, size) = hash(&file)?;
                self.blobs.insert(digest.clone(), file);
                Ok(json!({"mediaType": media_type, "digest": digest.to_string(), "size": size}))
            };
            let config = part(&image.config, "application/vnd.oci.image.config.v1+json")?;
            let mut layers = Vec::new();
            for layer in &image.layers {
                let file = need(layer)?;
                let magic = File::open(&file).and_then(|mut f| magic(&mut f)).map_err(at(&file))?;
                let kind = if magic[..2] == GZIP {
                    "+gzip"
                } else if magic == ZSTD {
                    "+zstd"
                } else {
                    ""
                };
                layers.push(part(layer, &format!("application/vnd.oci.image.layer.v1.tar{kind}"))?);
            }
            let manifest =
                json!({"schemaVersion": 2, "mediaType": IMAGE, "config": config, "layers": layers})
                    .to_string();
            let digest = Digest::of(Algorithm::Sha256, manifest.as_bytes());
            let file = work.join(format!("{}.manifest", digest.hex()));
            File::create(&file).and_then(|mut f| f.write_all(manifest.as_bytes())).map_err(at(&file))?;
            self.blobs.insert(digest.clone(), file);
            let names = image.repo_tags.unwrap_or_default();
            self.tops.push(Top { names, digest, media_type: IMAGE.to_owned() });
        }
        Ok(())
    }

    /// The file of a blob.
    ///
    /// # Errors
    /// [`LayoutError::Form`] when it is not there.
    pub fn blob(&self, digest: &Digest) -> Result<&Path, LayoutError> {
        let found = self.blobs.get(digest).map(PathBuf::as_path);
        found.ok_or_else(|| form(&self.path, &format!("{digest}, which it names, is not in it")))
    }

    /// A manifest, which must be what its digest says.
    ///
    /// # Errors
    /// [`LayoutError`].
    pub fn manifest(&self, digest: &Digest) -> Result<Vec<u8>, LayoutError> {
        let bytes = small(self.blob(digest)?)?;
        match Digest::of(digest.algorithm(), &bytes) == *digest {
            true => Ok(bytes),
            false => Err(form(&self.path, &format!("what it calls {digest} is something else"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(folder: &Path, files: &[(&str, &[u8])]) -> PathBuf {
        let path = folder.join("image.tar");
        let mut archive = tar::Builder::new(File::create(&path).unwrap());
        for (name, bytes) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            archive.append_data(&mut header, name, *bytes).unwrap();
        }
        archive.finish().unwrap();
        path
    }

    fn open(path: &Path) -> Result<(Layout, tempfile::TempDir), LayoutError> {
        let work = tempfile::tempdir().unwrap();
        Layout::open(path, work.path()).map(|layout| (layout, work))
    }

    #[test]
    fn what_docker_saves_becomes_an_image() {
        let dir = tempfile::tempdir().unwrap();
        let manifest =
            br#"[{"Config": "c.json", "RepoTags": ["web:1"], "Layers": ["a/layer.tar", "b/layer.tar"]}]"#;
        let plain = archive(
            dir.path(),
            &[
                ("manifest.json", manifest),
                ("c.json", b"{}"),
                ("a/layer.tar", b"one"),
                ("./b/layer.tar", &GZIP),
            ],
        );
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(&fs::read(&plain).unwrap()).unwrap();
        let gz = dir.path().join("image.tar.gz");
        fs::write(&gz, packed.finish().unwrap()).unwrap();
        for path in [plain, gz] {
            let (layout, _work) = open(&path).unwrap();
            let [top] = layout.tops.as_slice() else { panic!("{layout:?}") };
            assert_eq!((top.names.as_slice(), top.media_type.as_str()), (&["web:1".to_owned()][..], IMAGE));
            let made: Value = serde_json::from_slice(&layout.manifest(&top.digest).unwrap()).unwrap();
            let types: Vec<_> =
                made["layers"].as_array().unwrap().iter().map(|l| l["mediaType"].as_str().unwrap()).collect();
            assert_eq!(
                types,
                ["application/vnd.oci.image.layer.v1.tar", "application/vnd.oci.image.layer.v1.tar+gzip"]
            );
            let layer = Digest::of(Algorithm::Sha256, b"one");
            assert_eq!(made["layers"][0]["digest"], layer.to_string());
            assert_eq!(fs::read(layout.blob(&layer).unwrap()).unwrap(), b"one");
        }
    }

    #[test]
    fn layouts_are_read_from_folders_and_archives_and_checked() {
        let dir = tempfile::tempdir().unwrap();
        let manifest = br#"{"schemaVersion": 2}"#;
        let digest = Digest::of(Algorithm::Sha256, manifest);
        let index = json!({"manifests": [
            {"digest": digest.to_string(), "mediaType": IMAGE, "annotations": {NAME: "1"}},
            {"digest": digest.to_string(), "mediaType": IMAGE, "annotations": {NAME: "2"}}]})
        .to_string();
        let blob = format!("blobs/sha256/{}", digest.hex());
        let path = archive(dir.path(), &[("index.json", index.as_bytes()), (&blob, manifest)]);
        let folder = dir.path().join("folder");
        fs::create_dir_all(folder.join("blobs/sha256")).unwrap();
        fs::write(folder.join("index.json"), &index).unwrap();
        fs::write(folder.join(&blob), manifest).unwrap();
        for path in [&path, &folder] {
            let (layout, _work) = open(path).unwrap();
            assert_eq!(layout.tops.len(), 1);
            assert_eq!(layout.tops[0].names, ["1", "2"]);
            assert_eq!(layout.manifest(&digest).unwrap(), manifest);
        }
        fs::write(folder.join(&blob), "else").unwrap();
        let (layout, _work) = open(&folder).unwrap();
        assert!(layout.manifest(&digest).unwrap_err().to_string().contains("something else"));
        let absent = Digest::of(Algorithm::Sha256, b"absent");
        assert!(layout.blob(&absent).unwrap_err().to_string().contains("is not in it"));
    }

    #[test]
    fn what_is_no_image_is_said_so() {
        let dir = tempfile::tempdir().unwrap();
        assert!(open(dir.path()).unwrap_err().to_string().contains("neither index.json nor manifest.json"));
        let text = dir.path().join("text");
        fs::write(&text, "hello").unwrap();
        assert!(open(&text).unwrap_err().to_string().contains("is no image"));
        assert!(matches!(open(&dir.path().join("absent")).unwrap_err(), LayoutError::Io { .. }));
        let path = archive(dir.path(), &[("manifest.json", br#"[{"Config": "c", "Layers": []}]"#)]);
        assert!(open(&path).unwrap_err().to_string().contains("it has no c"));
    }
}
