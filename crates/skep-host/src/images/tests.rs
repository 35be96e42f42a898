use super::*;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

/// An archive as `docker save` makes them, with one layer that holds one file.
fn archive(folder: &Path, name: &str, content: &str) -> PathBuf {
    let root = folder.join(name);
    std::fs::create_dir_all(root.join("data/deep")).unwrap();
    std::fs::write(root.join("data/deep/word"), content).unwrap();
    let tar = |archive: &Path, of: &Path, names: &[&str]| {
        let mut command = Command::new("tar");
        command.args(["--sort=name", "--owner=0", "--group=0", "--mtime=@0", "-cf"]);
        assert!(command.arg(archive).arg("-C").arg(of).args(names).status().unwrap().success());
    };
    let layer = folder.join("layer.tar");
    tar(&layer, &root, &["data"]);
    let digest = Command::new("sha256sum").arg(&layer).output().unwrap().stdout;
    let digest = String::from_utf8(digest).unwrap().split(' ').next().unwrap().to_owned();
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let config = serde_json::json!({"architecture": architecture, "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]}});
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let manifest =
        serde_json::json!([{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]);
    std::fs::write(folder.join("manifest.json"), manifest.to_string()).unwrap();
    let whole = folder.join("image.tar");
    tar(&whole, folder, &["manifest.json", "config.json", "layer.tar"]);
    whole
}

struct World {
    folder: tempfile::TempDir,
    store: ImageStore,
}

impl World {
    fn new() -> World {
        let folder = tempfile::tempdir().unwrap();
        let store = ImageStore::open(folder.path().join("store"), UnpackLimits::default()).unwrap();
        World { folder, store }
    }

    fn load(&self, name: &str, content: &str, scope: &Scope) {
        let archive = archive(self.folder.path(), name, content);
        self.store.load(&archive, scope, None).unwrap();
    }

    fn view(&self, name: &str) -> (View, ImageStore) {
        let root = self.folder.path().join(name);
        let view = View::open(&root).unwrap();
        let leases = self.folder.path().join(format!("{name}-leases"));
        std::fs::create_dir_all(&leases).unwrap();
        (view, ImageStore::open_view(root, leases))
    }
}

fn names(folder: &Path) -> Vec<String> {
    let mut all: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    all.sort();
    all
}

#[test]
fn a_view_holds_what_was_put_into_it_and_nothing_of_others() {
    let world = World::new();
    let (shop, bank) = (Scope::of("shop").unwrap(), Scope::of("bank").unwrap());
    world.load("own:1", "shop's", &shop);
    world.load("secret:1", "bank's", &bank);
    world.load("common:1", "everybody's", &Scope::shared());
    let (view, seen) = world.view("m1");
    for name in ["own:1", "common:1"] {
        let image = world.store.find_loaded(&shop, name).unwrap().unwrap();
        view.add(&world.store, &image).unwrap();
        view.add(&world.store, &image).unwrap();
    }
    assert!(world.store.find_loaded(&shop, "secret:1").unwrap().is_none());
    let root = world.folder.path().join("m1");
    assert_eq!(names(&root.join("scopes")), ["_shared", "shop"]);
    assert_eq!(names(&root.join("layers")).len(), 2);
    assert_eq!(names(&root.join("blobs/sha256")).len(), 2);
    assert!(names(&root.join("tmp")).is_empty());
    let own = seen.find(&shop, "own:1").unwrap().unwrap();
    let file = own.layers[0].join("data/deep/word");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "shop's");
    assert!(file.starts_with(&root), "{}", file.display());
    let stored = world.store.find(&shop, "own:1").unwrap().unwrap().layers[0].join("data/deep/word");
    assert_eq!(std::fs::metadata(&file).unwrap().ino(), std::fs::metadata(&stored).unwrap().ino(), "no copy");
    assert!(seen.find(&shop, "common:1").unwrap().is_some());
    // The store forgets; the machine does not.
    world.store.remove(&shop, &"own:1".parse().unwrap()).unwrap();
    assert_eq!(world.store.collect().unwrap().layers, 1);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "shop's");
}

#[test]
fn what_containers_use_stays_in_a_view() {
    let world = World::new();
    let shop = Scope::of("shop").unwrap();
    let (view, seen) = world.view("m1");
    for (name, content) in [("a:1", "a"), ("b:1", "b")] {
        world.load(name, content, &shop);
        view.add(&world.store, &world.store.find(&shop, name).unwrap().unwrap()).unwrap();
    }
    seen.lease("c1", &seen.find(&shop, "a:1").unwrap().unwrap()).unwrap();
    let used: BTreeSet<String> = seen
        .leased()
        .unwrap()
        .iter()
        .map(|l| l.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    assert_eq!(used.len(), 1);
    let all = ["a:1", "b:1"].map(|n| (shop.clone(), n.parse().unwrap()));
    assert_eq!(view.remove(&all, &used).unwrap().layers, 1, "b's");
    assert!(seen.find(&shop, "a:1").unwrap().is_none(), "it has no name any more");
    let layers = world.folder.path().join("m1/layers");
    assert_eq!(names(&layers), used.iter().cloned().collect::<Vec<_>>());
    seen.release("c1").unwrap();
    assert_eq!(view.remove(&[], &BTreeSet::new()).unwrap().layers, 1);
    assert!(names(&layers).is_empty());
}

#[test]
fn room_is_made_of_what_was_pulled_only() {
    let world = World::new();
    world.load("loaded:1", "stays", &Scope::shared());
    assert_eq!(make_room(&world.store, 100, 0).unwrap(), 0, "no disk is fuller than full");
    assert_eq!(make_room(&world.store, 0, 0).unwrap(), 0, "what was loaded is the operator's");
    assert!(world.store.find(&Scope::shared(), "loaded:1").unwrap().is_some());
}
