//! Open files: a connection is one, and a server has thousands.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// More than any role needs. The limit itself may be a billion, and programs that we start may walk through all that they might have open.
const MOST: u64 = 1024 * 1024;

/// Takes what is allowed. A shell's usual limit is 1,024, meant for programs that cannot count further (`select`): an API server would stop
/// accepting connections there.
pub(crate) fn as_many_as_allowed() {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    let wanted = hard.min(MOST);
    if soft < wanted {
        // What is there must do then.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, wanted, hard);
    }
}
