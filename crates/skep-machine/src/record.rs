//! What is written down about a machine, in its directory.

use std::fs;
use std::io::Write;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::driver::MachineSpec;
use crate::error::Error;

/// `machine.json`: the first thing of a machine that is there, and the last that goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) spec: MachineSpec,
    /// The first of the host's user and group ids that are the machine's.
    #[serde(default)]
    pub(crate) first_id: u32,
    /// Its removal has begun: whatever is left of it is not a machine any more.
    #[serde(default)]
    pub(crate) removing: bool,
}

/// `init.json`: the machine's first process. A pid alone could be another process by now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InitRecord {
    /// As the host sees it.
    pub(crate) pid: i32,
    /// When it was started, in ticks since boot.
    pub(crate) start_ticks: u64,
    /// Of which boot.
    pub(crate) boot_id: String,
}

/// Writes a file so that it is there whole or not at all, also after a power failure.
pub(crate) fn write_whole<T: Serialize>(path: &Path, value: &T) -> Result<(), Error> {
    let new = path.with_extension("new");
    let json = serde_json::to_vec(value).map_err(|source| Error::Record { path: path.to_owned(), source })?;
    let mut file = fs::File::create(&new).map_err(Error::io("create", &new))?;
    file.write_all(&json).and_then(|()| file.sync_all()).map_err(Error::io("write", &new))?;
    fs::rename(&new, path).map_err(Error::io("rename", &new))
}

/// Reads one; `None` when there is none.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    match fs::read(path) {
        Ok(json) => serde_json::from_slice(&json)
            .map(Some)
            .map_err(|source| Error::Record { path: path.to_owned(), source }),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("read", path)(e)),
    }
}
