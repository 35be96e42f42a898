//! Contexts of tenants in the operator's kubeconfig, so that `kubectl --context shop` works as soon as `shop` is there.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_yaml_ng::{Mapping, Value};

/// How long another program's change of the file is waited for.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);
const LOCK_POLL: Duration = Duration::from_millis(20);

/// Contexts in one file. Nobody picks from more, and whoever makes thousands of tenants has their credentials elsewhere: each is some
/// 5 KiB that every later call of kubectl would read, and every new tenant would write again.
const CONTEXTS_MAX: usize = 100;

/// What became of a context that was to be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Added {
    /// It is there.
    Yes,
    /// A context of that name leads to another server, and was left alone.
    Taken,
    /// There are so many that another is not added.
    Full,
}

/// The lists of a kubeconfig, and under which key each entry has what it is about.
const LISTS: [(&str, &str); 3] = [("clusters", "cluster"), ("users", "user"), ("contexts", "context")];

fn parse(text: &str) -> anyhow::Result<Mapping> {
    match serde_yaml_ng::from_str(text).context("it is not YAML")? {
        Value::Mapping(map) => Ok(map),
        Value::Null => Ok(Mapping::new()),
        _ => bail!("it is no kubeconfig"),
    }
}

fn entries<'a>(config: &'a Mapping, list: &str) -> impl Iterator<Item = &'a Value> {
    config.get(list).and_then(Value::as_sequence).into_iter().flatten()
}

fn text<'a>(entry: &'a Value, path: &[&str]) -> Option<&'a str> {
    path.iter().try_fold(entry, |value, key| value.get(key))?.as_str()
}

/// The server that a context leads to.
fn server<'a>(config: &'a Mapping, context: &str) -> Option<&'a str> {
    let context = entries(config, "contexts").find(|c| text(c, &["name"]) == Some(context))?;
    let cluster = text(context, &["context", "cluster"])?;
    let cluster = entries(config, "clusters").find(|c| text(c, &["name"]) == Some(cluster))?;
    text(cluster, &["cluster", "server"])
}

/// Puts an entry into a list, in place of one of its name.
fn put(config: &mut Mapping, list: &str, name: &str, key: &str, what: Value) {
    let mut entry = Mapping::new();
    entry.insert("name".into(), name.into());
    entry.insert(key.into(), what);
    let all = config.entry(list.into()).or_insert_with(|| Value::Sequence(Vec::new()));
    if !all.is_sequence() {
        *all = Value::Sequence(Vec::new());
    }
    let Some(all) = all.as_sequence_mut() else { return };
    match all.iter_mut().find(|e| text(e, &["name"]) == Some(name)) {
        Some(old) => *old = entry.into(),
        None => all.push(entry.into()),
    }
}

/// Adds what a tenant's kubeconfig has in it, everything under the tenant's name. The context that is current stays so.
fn with_context(existing: &str, name: &str, own: &str) -> anyhow::Result<(String, Added)> {
    let (mut config, own) = (parse(existing)?, parse(own)?);
    let taken = entries(&config, "contexts").any(|c| text(c, &["name"]) == Some(name));
    // One of an earlier tenant of the name leads to the same server, and its credential is dead.
    if taken && server(&config, name) != server(&own, name) {
        return Ok((existing.to_owned(), Added::Taken));
    }
    if !taken && entries(&config, "contexts").count() >= CONTEXTS_MAX {
        return Ok((existing.to_owned(), Added::Full));
    }
    for (list, key) in LISTS {
        let entry = entries(&own, list)
            .next()
            .and_then(|e| e.get(key))
            .context("a tenant's kubeconfig lacks a part")?;
        let mut what = entry.clone();
        if let Some(context) = what.as_mapping_mut().filter(|_| list == "contexts") {
            context.insert("cluster".into(), name.into());
            context.insert("user".into(), name.into());
        }
        put(&mut config, list, name, key, what);
    }
    Ok((serde_yaml_ng::to_string(&config)?, Added::Yes))
}

/// Removes a tenant's context that leads to the same server as the one that is current, with what only it names.
fn without_context(existing: &str, name: &str) -> anyhow::Result<Option<String>> {
    let mut config = parse(existing)?;
    let current = config.get("current-context").and_then(Value::as_str).unwrap_or_default().to_owned();
    let Some(leads_to) = server(&config, name).map(str::to_owned) else { return Ok(None) };
    if current == name || server(&config, &current) != Some(leads_to.as_str()) {
        return Ok(None);
    }
    for (list, _) in LISTS {
        if let Some(all) = config.get_mut(list).and_then(Value::as_sequence_mut) {
            all.retain(|e| text(e, &["name"]) != Some(name));
        }
    }
    Ok(Some(serde_yaml_ng::to_string(&config)?))
}

/// A server's own new kubeconfig, with the contexts that were in the one before: they lead to where the server is now.
///
/// Whatever the old one is, it never keeps the server from writing its own.
pub(crate) fn renewed(existing: &str, new: &str) -> anyhow::Result<String> {
    let own = parse(new)?;
    let Ok(mut config) = parse(existing) else { return Ok(new.to_owned()) };
    let current = own.get("current-context").and_then(Value::as_str).unwrap_or_default().to_owned();
    if let (Some(before), Some(now)) = (server(&config, &current).map(str::to_owned), server(&own, &current))
        && before != now
        && let Some(clusters) = config.get_mut("clusters").and_then(Value::as_sequence_mut)
    {
        for cluster in
            clusters.iter_mut().filter_map(|c| c.get_mut("cluster")).filter_map(Value::as_mapping_mut)
        {
            if cluster.get("server").and_then(Value::as_str) == Some(before.as_str()) {
                cluster.insert("server".into(), now.into());
            }
        }
    }
    for (list, key) in LISTS {
        for entry in entries(&own, list) {
            if let (Some(name), Some(what)) = (text(entry, &["name"]), entry.get(key)) {
                put(&mut config, list, name, key, what.clone());
            }
        }
    }
    for (key, value) in &own {
        if !LISTS.iter().any(|(list, _)| key.as_str() == Some(list)) {
            config.insert(key.clone(), value.clone());
        }
    }
    Ok(serde_yaml_ng::to_string(&config)?)
}

/// Keeps others from changing the file, `kubectl config` among them: by a file beside it, as that does.
struct Lock(PathBuf);

impl Lock {
    fn take(path: &Path) -> anyhow::Result<Lock> {
        let mut lock = path.as_os_str().to_owned();
        lock.push(".lock");
        let (lock, begun) = (PathBuf::from(lock), Instant::now());
        loop {
            match File::options().write(true).create_new(true).open(&lock) {
                Ok(_) => return Ok(Lock(lock)),
                Err(e) if e.kind() == ErrorKind::AlreadyExists && begun.elapsed() < LOCK_TIMEOUT => {
                    std::thread::sleep(LOCK_POLL);
                }
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                    bail!("another program changes it; if none does, remove {}", lock.display())
                }
                Err(e) => return Err(e).with_context(|| format!("making {}", lock.display())),
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // It is ours; who removed it already did what was to be done.
        let _ = fs::remove_file(&self.0);
    }
}

fn replace(path: &Path, text: &str) -> anyhow::Result<()> {
    let new = path.with_extension(format!("new.{}", std::process::id()));
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    Ok(fs::rename(&new, path)?)
}

/// Adds a tenant's context to the kubeconfig at `path`.
///
/// # Errors
/// When the file cannot be read or written.
pub(crate) fn add(path: &Path, name: &str, own: &str) -> anyhow::Result<Added> {
    // A link stays one.
    let path = &fs::canonicalize(path)?;
    let _lock = Lock::take(path)?;
    let (text, added) = with_context(&fs::read_to_string(path)?, name, own)?;
    if added == Added::Yes {
        replace(path, &text)?;
    }
    Ok(added)
}

/// Removes a tenant's context from the kubeconfig at `path`, if it is there.
///
/// # Errors
/// When the file cannot be read or written.
pub(crate) fn remove(path: &Path, name: &str) -> anyhow::Result<()> {
    let path = &fs::canonicalize(path)?;
    let _lock = Lock::take(path)?;
    match without_context(&fs::read_to_string(path)?, name)? {
        Some(text) => replace(path, &text),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: &str = "https://127.0.0.1:6443";

    fn kubeconfig(name: &str, server: &str, user: &str, credential: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Config\npreferences: {{}}\nclusters: [{{name: {name}, cluster: {{server: '{server}'}}}}]\n\
             users: [{{name: {user}, user: {{token: {credential}}}}}]\n\
             contexts: [{{name: {name}, context: {{cluster: {name}, user: {user}}}}}]\ncurrent-context: {name}\n"
        )
    }

    fn token<'a>(config: &'a Mapping, context: &str) -> Option<&'a str> {
        let context = entries(config, "contexts").find(|c| text(c, &["name"]) == Some(context))?;
        let user = text(context, &["context", "user"])?;
        text(entries(config, "users").find(|u| text(u, &["name"]) == Some(user))?, &["user", "token"])
    }

    #[test]
    fn tenants_come_and_go() {
        let admin = kubeconfig("skep", HERE, "admin", "root");
        let (text, added) = with_context(&admin, "shop", &kubeconfig("shop", HERE, "admin", "s")).unwrap();
        assert_eq!(added, Added::Yes);
        let (text, _) = with_context(&text, "bank", &kubeconfig("bank", HERE, "admin", "b")).unwrap();
        let config = parse(&text).unwrap();
        // Equal names of users do not meet, and what was current is.
        let tokens: Vec<_> = ["skep", "shop", "bank"].iter().map(|c| token(&config, c).unwrap()).collect();
        assert_eq!(tokens, ["root", "s", "b"]);
        assert_eq!(config.get("current-context").and_then(Value::as_str), Some("skep"));
        // The same name again, of a tenant that was made anew.
        let (text, _) = with_context(&text, "shop", &kubeconfig("shop", HERE, "admin", "new")).unwrap();
        assert_eq!(token(&parse(&text).unwrap(), "shop"), Some("new"));
        let text = without_context(&text, "shop").unwrap().unwrap();
        let config = parse(&text).unwrap();
        assert_eq!((token(&config, "shop"), token(&config, "bank")), (None, Some("b")));
        assert_eq!(entries(&config, "clusters").count(), 2);
        assert_eq!(without_context(&text, "shop").unwrap(), None);
    }

    #[test]
    fn what_is_not_ours_is_left_alone() {
        let others = kubeconfig("shop", "https://elsewhere", "me", "x");
        let (text, added) = with_context(&others, "shop", &kubeconfig("shop", HERE, "admin", "s")).unwrap();
        assert_eq!((text.as_str(), added), (others.as_str(), Added::Taken));
        assert_eq!(without_context(&others, "shop").unwrap(), None, "it is the current one");
        let (both, _) = with_context(&kubeconfig("skep", HERE, "admin", "root"), "shop", &others).unwrap();
        assert_eq!(without_context(&both, "shop").unwrap(), None, "it leads elsewhere");
        assert!(with_context("- a list", "shop", &others).is_err());
    }

    #[test]
    fn a_start_keeps_contexts_and_leads_them_to_the_new_address() {
        let (admin, there) = (kubeconfig("skep", HERE, "admin", "old"), "https://127.0.0.1:7443");
        let (text, _) = with_context(&admin, "shop", &kubeconfig("shop", HERE, "admin", "s")).unwrap();
        let (text, _) =
            with_context(&text, "far", &kubeconfig("far", "https://elsewhere", "me", "f")).unwrap();
        let new = kubeconfig("skep", there, "admin", "new");
        let config = parse(&renewed(&text, &new).unwrap()).unwrap();
        assert_eq!(server(&config, "skep"), Some(there));
        assert_eq!(server(&config, "shop"), Some(there));
        assert_eq!(server(&config, "far"), Some("https://elsewhere"));
        assert_eq!((token(&config, "skep"), token(&config, "shop")), (Some("new"), Some("s")));
        for broken in ["", "[", "- x"] {
            let config = parse(&renewed(broken, &new).unwrap()).unwrap();
            assert_eq!(token(&config, "skep"), Some("new"), "{broken:?}");
        }
    }

    #[test]
    fn a_file_does_not_grow_without_end() {
        let mut text = kubeconfig("skep", HERE, "admin", "root");
        let add =
            |text: &str, name: &str| with_context(text, name, &kubeconfig(name, HERE, "admin", "x")).unwrap();
        for n in 1..CONTEXTS_MAX {
            let (next, added) = add(&text, &format!("t{n}"));
            assert_eq!(added, Added::Yes, "{n}");
            text = next;
        }
        assert_eq!(add(&text, "more"), (text.clone(), Added::Full));
        // One that is there already is renewed, and one that goes makes room.
        assert_eq!(add(&text, "t7").1, Added::Yes);
        let text = without_context(&text, "t7").unwrap().unwrap();
        assert_eq!(add(&text, "more").1, Added::Yes);
    }

    #[test]
    fn files_are_changed_one_after_another() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config");
        fs::write(&file, kubeconfig("skep", HERE, "admin", "root")).unwrap();
        let path = dir.path().join("link");
        std::os::unix::fs::symlink(&file, &path).unwrap();
        std::thread::scope(|scope| {
            for n in 0..8 {
                let path = &path;
                scope.spawn(move || {
                    let name = format!("t{n}");
                    assert_eq!(add(path, &name, &kubeconfig(&name, HERE, "admin", "x")).unwrap(), Added::Yes);
                });
            }
        });
        let config = parse(&fs::read_to_string(&path).unwrap()).unwrap();
        assert_eq!(entries(&config, "contexts").count(), 9);
        remove(&path, "t3").unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "no lock and no half-written file stays");
        assert!(fs::symlink_metadata(&path).unwrap().is_symlink());
        let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&file).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
    }
}
