//! Who a process is: users and groups by the container's own files.

use std::collections::BTreeSet;

use crate::error::{Error, Result};
use crate::spec::User;

/// Longest `/etc/passwd` or `/etc/group` that is read. They come from an image, and a longer one is not what it says.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// A user as the kernel knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) home: String,
}

/// Reads a file of the container, as far as it is one.
pub(crate) fn read_file(path: &str) -> String {
    use std::io::Read;
    use std::os::unix::fs::OpenOptionsExt;
    let mut text = Vec::new();
    // A FIFO or device in its place must not hold us up.
    let opened =
        std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path);
    if let Ok(file) = opened
        && file.metadata().is_ok_and(|m| m.is_file())
    {
        let _ = file.take(MAX_FILE_BYTES).read_to_end(&mut text);
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// What `user` means with these files.
pub(crate) fn resolve(user: &User, passwd: &str, group: &str) -> Result<Identity> {
    let (name, group_name) = match user.user.split_once(':') {
        Some((name, group)) => (name, Some(group)),
        None => (user.user.as_str(), None),
    };
    let name = if name.is_empty() { "0" } else { name };
    let entry = passwd.lines().map(|l| l.split(':').collect::<Vec<_>>()).find(|fields| {
        fields.len() >= 4 && (fields[0] == name || (name.parse::<u32>().is_ok() && fields[2] == name))
    });
    let (uid, passwd_gid, login, home) = match &entry {
        Some(fields) => (
            fields[2].parse().map_err(|_| {
                Error::invalid(format!("user {name:?} has no number in the image's /etc/passwd"))
            })?,
            fields[3].parse().ok(),
            Some(fields[0]),
            fields.get(5).copied().unwrap_or("/"),
        ),
        None => match name.parse() {
            Ok(uid) => (uid, None, None, "/"),
            Err(_) => {
                return Err(Error::invalid(format!(
                    "unable to find user {name}: no matching entries in passwd file"
                )));
            }
        },
    };
    let groups: Vec<Vec<&str>> = group.lines().map(|l| l.split(':').collect()).collect();
    let named_gid = match group_name.filter(|g| !g.is_empty()) {
        None => None,
        Some(wanted) => Some(
            groups
                .iter()
                .find(|f| f.len() >= 3 && f[0] == wanted)
                .and_then(|f| f[2].parse().ok())
                .or_else(|| wanted.parse().ok())
                .ok_or_else(|| {
                    Error::invalid(format!(
                        "unable to find group {wanted}: no matching entries in group file"
                    ))
                })?,
        ),
    };
    let gid = user.gid.or(named_gid).or(passwd_gid).unwrap_or(0);
    let mut all: BTreeSet<u32> = user.additional_gids.iter().copied().collect();
    if !user.strict_groups
        && let Some(login) = login
    {
        let member = |f: &&Vec<&str>| f.len() >= 4 && f[3].split(',').any(|m| m == login);
        all.extend(groups.iter().filter(member).filter_map(|f| f[2].parse::<u32>().ok()));
    }
    Ok(Identity {
        uid,
        gid,
        groups: all.into_iter().collect(),
        home: if home.is_empty() { "/" } else { home }.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:Web:/var/www:/bin/false\nbroken\n";
    const GROUP: &str = "root:x:0:\nwww:x:34:\nlogs:x:50:web,other\nstaff:x:60:web\n";

    fn user(text: &str) -> User {
        User { user: text.into(), ..User::default() }
    }

    #[test]
    fn users_are_looked_up_as_images_write_them() {
        let cases = [
            ("", 0, 0, vec![], "/root"),
            ("web", 33, 34, vec![50, 60], "/var/www"),
            ("33", 33, 34, vec![50, 60], "/var/www"),
            ("web:logs", 33, 50, vec![50, 60], "/var/www"),
            ("1000", 1000, 0, vec![], "/"),
            ("1000:1001", 1000, 1001, vec![], "/"),
            ("1000:www", 1000, 34, vec![], "/"),
        ];
        for (text, uid, gid, groups, home) in cases {
            let got = resolve(&user(text), PASSWD, GROUP).unwrap();
            assert_eq!(got, Identity { uid, gid, groups, home: home.into() }, "{text:?}");
        }
        assert!(resolve(&user("nobody"), PASSWD, GROUP).is_err());
        assert!(resolve(&user("web:nogroup"), PASSWD, GROUP).is_err());
    }

    #[test]
    fn given_groups_win() {
        let one = User { user: "web".into(), gid: Some(7), additional_gids: vec![9], strict_groups: true };
        let got = resolve(&one, PASSWD, GROUP).unwrap();
        assert_eq!((got.gid, got.groups), (7, vec![9]));
        let merged = User { strict_groups: false, ..one };
        assert_eq!(resolve(&merged, PASSWD, GROUP).unwrap().groups, [9, 50, 60]);
    }
}
