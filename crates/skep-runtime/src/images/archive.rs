//! Images from files: OCI layouts, and what `docker save` writes.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde::Deserialize;

use super::manifest::{ConfigFile, Manifest};
use super::reference::{Digest, Reference};
use super::unpack::{Hashing, decompress};
use super::{Image, ImageStore, NewLayer, Scope};
use crate::error::{AtPath, Error, Result};

/// Manifests and configurations are kilobytes.
const MAX_SMALL_BYTES: u64 = 16 << 20;

/// Deepest nesting of indexes: an index of an image index is the most that tools write.
const MAX_NESTING: usize = 4;

/// Names that an archive gives to files by links: chains are not longer in practice.
const MAX_LINKS: usize = 8;

/// One image in `manifest.json` of `docker save`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// The files of a layout, in a directory or an archive.
enum Files {
    Directory(PathBuf),
    Archive { file: Arc<File>, entries: BTreeMap<String, Place> },
}

#[derive(Debug, Clone)]
enum Place {
    At { offset: u64, size: u64 },
    Link(String),
}

/// Part of a file.
struct Section {
    file: Arc<File>,
    at: u64,
    left: u64,
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let count = self.file.read_at(&mut buffer[..room], self.at)?;
        self.at += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}

impl Files {
    fn open(store: &ImageStore, path: &Path) -> Result<(Files, Option<PathBuf>)> {
        if path.is_dir() {
            return Ok((Files::Directory(path.to_owned()), None));
        }
        let mut file = File::open(path).at("open", path)?;
        let mut magic = [0u8; 4];
        let count = file.read(&mut magic).at("read", path)?;
        file.seek(SeekFrom::Start(0)).at("read", path)?;
        let compressed = count == 4 && (magic[..2] == [0x1f, 0x8b] || magic == [0x28, 0xb5, 0x2f, 0xfd]);
        let mut unpacked = None;
        if compressed {
            // Layers are read in parallel and by position, which a compressed file does not allow.
            let work = store.work(".tar");
            let limit = store.inner.limits.max_bytes;
            let mut plain =
                File::options().create_new(true).read(true).write(true).open(&work).at("make", &work)?;
            let reader = decompress(&file).at("decompress", path)?;
            let copied = io::copy(&mut reader.take(limit + 1), &mut plain).at("decompress", path);
            unpacked = Some(work.clone());
            match copied {
                Ok(bytes) if bytes <= limit => file = plain,
                Ok(_) => {
                    let _ = fs::remove_file(&work);
                    return Err(Error::invalid(format!(
                        "{} unpacks to more than {limit} bytes: it is refused",
                        path.display()
                    )));
                }
                Err(error) => {
                    let _ = fs::remove_file(&work);
                    return Err(error);
                }
            }
        }
        let files = Self::index(file, path);
        if files.is_err()
            && let Some(work) = &unpacked
        {
            let _ = fs::remove_file(work);
        }
        Ok((files?, unpacked))
    }

    fn index(mut file: File, path: &Path) -> Result<Files> {
        file.seek(SeekFrom::Start(0)).at("read", path)?;
        let mut entries = BTreeMap::new();
        let mut archive = tar::Archive::new(&file);
        for entry in archive.entries_with_seek().at("read archive", path)? {
            let entry = entry.at("read archive", path)?;
            let name = clean(&entry.path().at("read archive", path)?);
            let kind = entry.header().entry_type();
            if kind.is_file() {
                entries.insert(name, Place::At { offset: entry.raw_file_position(), size: entry.size() });
            } else if let (true, Ok(Some(target))) =
                (kind.is_symlink() || kind.is_hard_link(), entry.link_name())
            {
                let target = match kind.is_symlink() {
                    true => clean(&Path::new(&name).parent().unwrap_or(Path::new("")).join(target)),
                    false => clean(&target),
                };
                entries.insert(name, Place::Link(target));
            }
        }
        Ok(Files::Archive { file: Arc::new(file), entries })
    }

    /// A reader of a file, and its size.
    fn read(&self, name: &str) -> Result<Option<(Box<dyn Read + Send>, u64)>> {
        match self {
            Files::Directory(folder) => {
                let path = folder.join(clean(Path::new(name)));
                match File::open(&path) {
                    Ok(file) => {
                        let size = file.metadata().at("read", &path)?.len();
                        Ok(Some((Box::new(file), size)))
                    }
                    Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
                    Err(e) => Err(e).at("open", &path),
                }
            }
            Files::Archive { file, entries } => {
                let mut name = clean(Path::new(name));
                for _ in 0..MAX_LINKS {
                    match entries.get(&name) {
                        None => return Ok(None),
                        Some(Place::Link(target)) => name.clone_from(target),
                        Some(Place::At { offset, size }) => {
                            let section = Section { file: file.clone(), at: *offset, left: *size };
                            return Ok(Some((Box::new(section), *size)));
                        }
                    }
                }
                Err(Error::invalid(format!("the links of {name} in the archive go in circles")))
            }
        }
    }

    fn small(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let Some((reader, size)) = self.read(name)? else { return Ok(None) };
        if size > MAX_SMALL_BYTES {
            return Err(Error::invalid(format!("{name} in the archive has {size} bytes: it is refused")));
        }
        let mut bytes = Vec::new();
        reader
            .take(MAX_SMALL_BYTES)
            .read_to_end(&mut bytes)
            .map_err(|e| Error::io(format!("cannot read {name}"), e))?;
        Ok(Some(bytes))
    }

    fn need(&self, name: &str) -> Result<Vec<u8>> {
        self.small(name)?.ok_or_else(|| Error::invalid(format!("the archive has no {name}")))
    }

    fn blob(&self, digest: &Digest) -> Result<Vec<u8>> {
        let bytes = self.need(&format!("blobs/sha256/{}", digest.hex()))?;
        match Digest::of(&bytes) == *digest {
            true => Ok(bytes),
            false => Err(lies(digest, &Digest::of(&bytes))),
        }
    }
}

pub(super) fn lies(said: &Digest, is: &Digest) -> Error {
    Error::invalid(format!("the image lies about its content: what it calls {said} is {is}"))
}

/// A path as a key: without `.`, `..` and slashes at its ends. Paths are only looked up, never opened, in archives.
fn clean(path: &Path) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for component in path.components() {
        match component {
            std::path::Component::Normal(part) => parts.extend(part.to_str()),
            std::path::Component::ParentDir => {
                parts.pop();
            }
            _ => {}
        }
    }
    parts.join("/")
}

/// An image that was found in the files.
struct Found {
    names: Vec<Reference>,
    manifest: Digest,
    config: Vec<u8>,
    /// File of each layer, and its compressed digest where the manifest says it.
    layers: Vec<(String, Option<Digest>)>,
}

pub(super) fn load(
    store: &ImageStore,
    path: &Path,
    scope: &Scope,
    name: Option<&Reference>,
) -> Result<Vec<Image>> {
    let (files, work) = Files::open(store, path)?;
    let result = load_files(store, &files, path, scope, name);
    if let Some(work) = work {
        let _ = fs::remove_file(work);
    }
    result
}

fn load_files(
    store: &ImageStore,
    files: &Files,
    path: &Path,
    scope: &Scope,
    name: Option<&Reference>,
) -> Result<Vec<Image>> {
    let mut found = match files.small("manifest.json")? {
        Some(manifest) => docker_images(files, &manifest)?,
        None => match files.small("index.json")? {
            Some(index) => oci_images(files, &index)?,
            None => {
                return Err(Error::invalid(format!(
                    "{} is no image: it has neither a manifest.json (docker save) nor an index.json (OCI layout)",
                    path.display()
                )));
            }
        },
    };
    if let (Some(name), [only]) = (name, found.as_mut_slice()) {
        only.names = vec![name.clone()];
    }
    let mut images = Vec::new();
    for image in found {
        if image.names.is_empty() {
            return Err(Error::invalid(format!("an image in {} has no name: give it one", path.display())));
        }
        let config = ConfigFile::parse(&image.config)?;
        let diff_ids = config.rootfs.diff_ids.clone();
        if diff_ids.len() != image.layers.len() {
            return Err(Error::invalid(format!(
                "the image has {} layers and its configuration names {}",
                image.layers.len(),
                diff_ids.len()
            )));
        }
        unpack_layers(store, files, scope, &image.layers, &diff_ids)?;
        for name in &image.names {
            images.push(store.name(
                scope,
                name,
                image.manifest.clone(),
                &image.config,
                diff_ids.clone(),
                false,
            )?);
        }
    }
    Ok(images)
}

/// Unpacks what is not there, in parallel. Whoever has the archive has its layers, if they are what the configuration says.
fn unpack_layers(
    store: &ImageStore,
    files: &Files,
    scope: &Scope,
    layers: &[(String, Option<Digest>)],
    diff_ids: &[Digest],
) -> Result<()> {
    let mut seen = std::collections::BTreeSet::new();
    let queue: VecDeque<usize> = (0..layers.len()).filter(|i| seen.insert(&diff_ids[*i])).collect();
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get()).min(queue.len());
    let queue = Mutex::new(queue);
    let done = Mutex::new((Vec::new(), None));
    let lock = |queue: &Mutex<VecDeque<usize>>| queue.lock().ok().and_then(|mut q| q.pop_front());
    std::thread::scope(|threads_of| {
        for _ in 0..threads {
            threads_of.spawn(|| {
                while let Some(number) = lock(&queue) {
                    let (file, blob) = &layers[number];
                    let result = one_layer(store, files, scope, file, blob.as_ref(), &diff_ids[number]);
                    let Ok(mut done) = done.lock() else { return };
                    match result {
                        Ok(layer) => done.0.extend(layer),
                        Err(error) => {
                            done.1.get_or_insert(error);
                            return;
                        }
                    }
                }
            });
        }
    });
    let (new, error) = done.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    match error {
        None => store.publish(new),
        Some(error) => {
            for layer in new {
                let _ = fs::remove_dir_all(layer.work);
            }
            Err(error)
        }
    }
}

fn one_layer(
    store: &ImageStore,
    files: &Files,
    scope: &Scope,
    file: &str,
    blob: Option<&Digest>,
    diff_id: &Digest,
) -> Result<Option<NewLayer>> {
    let missing = || Error::invalid(format!("the archive has no layer {file}"));
    let (mut reader, size) = files.read(file)?.ok_or_else(missing)?;
    if store.layer_path(diff_id).join("fs").is_dir() {
        // It is not unpacked again, but read: only who has the content gets the layer.
        let failed = |e: io::Error| Error::io(format!("cannot read layer {file}"), e);
        let plain = decompress(&mut reader).map_err(failed)?;
        let limit = store.inner.limits.max_bytes;
        let (is, _) = Hashing::new(plain).finish(limit).map_err(failed)?;
        if is != *diff_id {
            return Err(lies(diff_id, &is));
        }
        store.grant(scope, diff_id)?;
        return Ok(None);
    }
    let mut hashing = Hashing::new(reader);
    let (work, unpacked) = store.unpack(&mut hashing, size)?;
    let check = || -> Result<()> {
        if unpacked.diff_id != *diff_id {
            return Err(lies(diff_id, &unpacked.diff_id));
        }
        let (is, _) = hashing.finish(size).map_err(|e| Error::io(format!("cannot read layer {file}"), e))?;
        match blob {
            Some(said) if *said != is => Err(lies(said, &is)),
            _ => Ok(()),
        }
    };
    if let Err(error) = check() {
        let _ = fs::remove_dir_all(&work);
        return Err(error);
    }
    Ok(Some(NewLayer { work, unpacked, blob: blob.cloned(), origin: None, grant: Some(scope.clone()) }))
}

fn docker_images(files: &Files, manifest: &[u8]) -> Result<Vec<Found>> {
    let images: Vec<DockerImage> = serde_json::from_slice(manifest)
        .map_err(|e| Error::invalid(format!("manifest.json of the archive is malformed: {e}")))?;
    images
        .into_iter()
        .map(|image| {
            let config = files.need(&image.config)?;
            let names = image.repo_tags.unwrap_or_default();
            Ok(Found {
                names: names.iter().map(|n| n.parse()).collect::<Result<_>>()?,
                manifest: Digest::of(&config),
                config,
                layers: image.layers.into_iter().map(|l| (l, None)).collect(),
            })
        })
        .collect()
}

fn oci_images(files: &Files, index: &[u8]) -> Result<Vec<Found>> {
    let index: Manifest = serde_json::from_slice(index)
        .map_err(|e| Error::invalid(format!("index.json of the layout is malformed: {e}")))?;
    let mut found: Vec<Found> = Vec::new();
    for descriptor in &index.manifests {
        let full = descriptor.annotations.get("io.containerd.image.name");
        let short = descriptor.annotations.get("org.opencontainers.image.ref.name");
        // Often only a tag, which is no name of an image.
        let name =
            full.or(short).filter(|n| n.contains(['/', ':'])).and_then(|n| n.parse::<Reference>().ok());
        let mut digest = descriptor.digest.clone();
        let mut bytes = files.blob(&digest)?;
        let top = digest.clone();
        let mut manifest = Manifest::parse(&bytes)?;
        for _ in 0..MAX_NESTING {
            match manifest.for_this_machine()? {
                None => break,
                Some(chosen) => digest = chosen.digest.clone(),
            }
            bytes = files.blob(&digest)?;
            manifest = Manifest::parse(&bytes)?;
        }
        let Some(config) = &manifest.config else {
            return Err(Error::invalid("the indexes of the layout are nested too deeply"));
        };
        if let Some(same) = found.iter_mut().find(|f| f.manifest == top) {
            same.names.extend(name);
            continue;
        }
        let layer = |d: &super::manifest::Descriptor| {
            (format!("blobs/sha256/{}", d.digest.hex()), Some(d.digest.clone()))
        };
        found.push(Found {
            names: name.into_iter().collect(),
            manifest: top,
            config: files.blob(&config.digest)?,
            layers: manifest.layers.iter().map(layer).collect(),
        });
    }
    Ok(found)
}
