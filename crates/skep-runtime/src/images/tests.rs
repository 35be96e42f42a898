use super::*;
use crate::images::unpack::tests::Tar;

fn store() -> (tempfile::TempDir, ImageStore) {
    let folder = tempfile::tempdir().unwrap();
    let store = ImageStore::open(folder.path().join("store"), UnpackLimits::default()).unwrap();
    (folder, store)
}

fn config(layers: &[&[u8]]) -> Vec<u8> {
    let diff_ids: Vec<String> = layers.iter().map(|l| Digest::of(l).to_string()).collect();
    serde_json::json!({
        "architecture": manifest::architecture(), "os": "linux",
        "config": {"Entrypoint": ["/bin/app"], "Env": ["A=1"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    })
    .to_string()
    .into_bytes()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

/// What `docker save` writes.
fn docker_archive(name: &str, config: &[u8], layers: &[&[u8]]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut put = |name: &str, data: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        tar.append_data(&mut header, name, data).unwrap();
    };
    let files: Vec<String> = (0..layers.len()).map(|i| format!("{i}/layer.tar")).collect();
    for (file, data) in files.iter().zip(layers) {
        put(file, data);
    }
    put("config.json", config);
    let manifest = serde_json::json!([{"Config": "config.json", "RepoTags": [name], "Layers": files}]);
    put("manifest.json", manifest.to_string().as_bytes());
    tar.into_inner().unwrap()
}

/// An OCI layout in a directory; returns the digest of its manifest.
fn oci_layout(folder: &Path, name: &str, layers: &[Vec<u8>], config: &[u8]) -> Digest {
    let blobs = folder.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let put = |data: &[u8]| {
        let digest = Digest::of(data);
        fs::write(blobs.join(digest.hex()), data).unwrap();
        serde_json::json!({"digest": digest.to_string(), "size": data.len()})
    };
    let layers: Vec<_> = layers.iter().map(|l| put(l)).collect();
    let manifest =
        serde_json::json!({"schemaVersion": 2, "config": put(config), "layers": layers}).to_string();
    let mut ours = put(manifest.as_bytes());
    ours["platform"] = serde_json::json!({"os": "linux", "architecture": manifest::architecture()});
    let index = serde_json::json!({"manifests": [
        {"digest": Digest::of(b"never looked at").to_string(), "size": 1, "platform": {"os": "linux", "architecture": "s390x"}},
        ours,
    ]});
    let mut top = put(index.to_string().as_bytes());
    top["annotations"] = serde_json::json!({"io.containerd.image.name": name});
    fs::write(folder.join("index.json"), serde_json::json!({"manifests": [top]}).to_string()).unwrap();
    Digest::of(manifest.as_bytes())
}

#[test]
fn archives_of_docker_save_are_loaded_plain_and_compressed() {
    let (folder, store) = store();
    let (one, two) = (Tar::new().file("a", b"1").bytes(), Tar::new().file("b", b"2").bytes());
    let config = config(&[&one, &two]);
    let plain = docker_archive("team/app:1", &config, &[&one, &two]);
    for (number, bytes) in [plain.clone(), gzip(&plain)].iter().enumerate() {
        let file = folder.path().join(format!("{number}.tar"));
        fs::write(&file, bytes).unwrap();
        let images = store.load(&file, &Scope::shared(), None).unwrap();
        assert_eq!(images.len(), 1);
        assert_eq!(images[0].name.to_string(), "docker.io/team/app:1");
        assert_eq!(images[0].id, Digest::of(&config));
        assert_eq!(images[0].config.entrypoint, ["/bin/app"]);
        assert_eq!(fs::read_to_string(images[0].layers[0].join("a")).unwrap(), "1");
        assert_eq!(fs::read_to_string(images[0].layers[1].join("b")).unwrap(), "2");
        assert_eq!(images[0].size_bytes, 2);
    }
    assert_eq!(store.usage().unwrap().layers, 2);
    assert!(names_in(&store.inner.root.join("tmp")).unwrap().is_empty(), "no work is left");
}

#[test]
fn layouts_are_loaded_for_this_architecture() {
    let (folder, store) = store();
    let layer = Tar::new().file("a", b"1").bytes();
    let layout = folder.path().join("layout");
    oci_layout(&layout, "reg.example/app:2", &[gzip(&layer)], &config(&[&layer]));
    let image = &store.load(&layout, &Scope::shared(), None).unwrap()[0];
    assert_eq!(image.name.to_string(), "reg.example/app:2");
    assert_eq!(fs::read_to_string(image.layers[0].join("a")).unwrap(), "1");
    // The same as an archive.
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_dir_all(".", &layout).unwrap();
    let file = folder.path().join("layout.tar");
    fs::write(&file, tar.into_inner().unwrap()).unwrap();
    let again = &store.load(&file, &Scope::shared(), Some(&"other:1".parse().unwrap())).unwrap()[0];
    assert_eq!(again.name.to_string(), "docker.io/library/other:1");
    assert_eq!(again.id, image.id);
}

#[test]
fn images_that_lie_are_refused_and_leave_nothing() {
    let (folder, store) = store();
    let (layer, other) = (Tar::new().file("a", b"1").bytes(), Tar::new().file("a", b"2").bytes());
    let file = folder.path().join("lie.tar");
    // The configuration promises another layer.
    fs::write(&file, docker_archive("x:1", &config(&[&other]), &[&layer])).unwrap();
    let error = store.load(&file, &Scope::shared(), None).unwrap_err();
    assert!(error.message.contains("lies about its content"), "{error}");
    // A blob that is not what it is called.
    let layout = folder.path().join("layout");
    let packed = gzip(&layer);
    oci_layout(&layout, "x:1", std::slice::from_ref(&packed), &config(&[&layer]));
    fs::write(layout.join("blobs/sha256").join(Digest::of(&packed).hex()), gzip(&other)).unwrap();
    assert!(store.load(&layout, &Scope::shared(), None).is_err());
    assert_eq!(store.usage().unwrap().layers, 0);
    assert!(names_in(&store.inner.root.join("tmp")).unwrap().is_empty(), "no work is left");
    assert!(store.list(None).unwrap().is_empty());
}

#[test]
fn names_belong_to_scopes_and_shared_ones_to_all() {
    let (folder, store) = store();
    let layer = Tar::new().file("a", b"1").bytes();
    let file = folder.path().join("x.tar");
    fs::write(&file, docker_archive("app:1", &config(&[&layer]), &[&layer])).unwrap();
    let (red, blue) = (Scope::of("red").unwrap(), Scope::of("blue").unwrap());
    let image = store.load(&file, &red, None).unwrap().remove(0);
    assert!(store.find(&red, "app:1").unwrap().is_some());
    assert!(store.find(&blue, "app:1").unwrap().is_none(), "by name");
    assert!(store.find(&blue, &image.id.to_string()).unwrap().is_none(), "by id");
    let digest = image.layers[0].parent().unwrap().file_name().unwrap().to_str().unwrap();
    let diff_id: Digest = format!("sha256:{digest}").parse().unwrap();
    assert!(store.granted(&red, &diff_id) && !store.granted(&blue, &diff_id));
    store.load(&file, &Scope::shared(), None).unwrap();
    assert_eq!(store.find(&blue, "app:1").unwrap().unwrap().scope, Scope::shared());
    assert!(store.granted(&blue, &diff_id), "what is everybody's needs no proof");
    assert!(Scope::of("_shared").is_err() && Scope::of("../x").is_err());
}

#[test]
fn only_unused_layers_are_collected() {
    let (folder, store) = store();
    let (base, red, blue) = (
        Tar::new().file("b", b"base").bytes(),
        Tar::new().file("r", b"red").bytes(),
        Tar::new().file("l", b"blue").bytes(),
    );
    let scope = Scope::of("t").unwrap();
    for (name, top) in [("red:1", &red), ("blue:1", &blue)] {
        let file = folder.path().join("x.tar");
        fs::write(&file, docker_archive(name, &config(&[&base, top]), &[&base, top])).unwrap();
        store.load(&file, &scope, None).unwrap();
    }
    let image = store.find(&scope, "red:1").unwrap().unwrap();
    assert_eq!(own_bytes(&store.list(None).unwrap(), &store), [4, 3], "blue's own, red's own");
    store.lease("container-1", &image).unwrap();
    store.remove(&scope, &image.name).unwrap();
    assert_eq!(store.remove(&scope, &image.name).unwrap_err().kind, ErrorKind::NotFound);
    assert_eq!(store.collect().unwrap(), Collected::default(), "a container uses it");
    store.release("container-1").unwrap();
    assert_eq!(store.collect().unwrap(), Collected { layers: 1, bytes: 3 });
    assert!(image.layers[0].is_dir(), "blue needs the base");
    store.remove(&scope, &"blue:1".parse().unwrap()).unwrap();
    // Who adds something keeps everything.
    let adding = store.lock(FlockOperation::LockShared).unwrap();
    assert_eq!(store.collect().unwrap(), Collected::default());
    drop(adding);
    assert_eq!(store.collect().unwrap().layers, 2);
    assert_eq!(store.usage().unwrap().layers, 0);
    assert!(names_in(&store.inner.root.join("blobs/sha256")).unwrap().is_empty());
    assert!(store.lease("late", &image).is_err(), "it is gone");
}

#[test]
fn what_a_crash_left_is_removed() {
    let (_folder, store) = store();
    let tmp = store.inner.root.join("tmp");
    fs::create_dir_all(tmp.join("1-2-3/fs")).unwrap();
    fs::write(tmp.join("4-5-6.tar"), "x").unwrap();
    fs::write(tmp.join("abc.partial"), "x").unwrap();
    store.collect().unwrap();
    assert_eq!(names_in(&tmp).unwrap(), ["abc.partial"], "a download can be resumed");
}
