//! What a process that mostly waits may give back: one of each pod's and each machine's stands on every node, so kilobytes count.
//!
//! *Huge pages.* The allocator asks for them, and a few kilobytes in use then take 2 MiB each: for every thread, and for every size of
//! object. A control plane that holds hundreds of megabytes of small objects is no better off with them: it was a fifth larger, and not faster.
//! *Code.* The kernel maps what is executed once and 16 pages around it, and never takes it back while memory is plenty. It is in the page cache anyway; a
//! process that lets go of it maps again what it needs, without reading; by single pages, where that can be had.
//! *An allocator for one thread.* The one that a control plane needs keeps pages of its own for each thread and each size, and gives back only whole ones: of
//! what a burst took, much stays. [`Allocator`] is the C library's for processes that mostly wait: it packs closely, and gives back every free page.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ffi::{CStr, c_char, c_int};
use std::os::unix::process::CommandExt;
use std::sync::atomic::{AtomicBool, Ordering};

fn huge_pages_disabled() -> bool {
    // SAFETY: PR_GET_THP_DISABLE takes no pointers; it answers 0 or 1.
    unsafe { libc::prctl(libc::PR_GET_THP_DISABLE, 0, 0, 0, 0) == 1 }
}

fn disable_huge_pages(disabled: bool) {
    // A kernel without huge pages refuses, and is right.
    // SAFETY: PR_SET_THP_DISABLE takes a number and no pointers.
    unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, libc::c_ulong::from(disabled), 0, 0, 0) };
}

/// Makes this process, and those that it starts, do without huge pages. The allocator has some by the time that a program's first line runs: so the
/// program is started anew, as the same process with the same arguments, unless whoever started it has seen to this. To be called before
/// anything else.
pub fn without_huge_pages() {
    if huge_pages_disabled() {
        return;
    }
    disable_huge_pages(true);
    if !huge_pages_disabled() {
        return;
    }
    let mut arguments = std::env::args_os();
    let mut again = std::process::Command::new("/proc/self/exe");
    again.arg0(arguments.next().unwrap_or_default()).args(arguments);
    // It only comes back when it could not be done; then this program goes on, with what it has.
    let _ = again.exec();
}

/// Containers are not to inherit that: what runs in them decides for itself.
pub(crate) fn huge_pages_again() {
    disable_huge_pages(false);
}

/// Calls `each` with the start and the length of whatever is mapped of this program's and its libraries' files and not to be written to.
fn each_constant_range(mut each: &mut dyn FnMut(u64, u64)) {
    unsafe extern "C" fn one(
        info: *mut libc::dl_phdr_info,
        _: libc::size_t,
        each: *mut libc::c_void,
    ) -> libc::c_int {
        // SAFETY: it is what is handed to `dl_iterate_phdr` below, and nobody else's meanwhile.
        let each = unsafe { &mut *each.cast::<&mut dyn FnMut(u64, u64)>() };
        // SAFETY: the linker hands out a valid description of a loaded object, whose headers stay where they are.
        let (base, headers) = unsafe {
            let info = &*info;
            if info.dlpi_phdr.is_null() {
                return 0;
            }
            (info.dlpi_addr, std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()))
        };
        for h in headers {
            // What may be written was written (relocations), and is not to be had from the file again.
            if h.p_type != libc::PT_LOAD || h.p_flags & libc::PF_W != 0 {
                continue;
            }
            let page = PAGE_BYTES - 1;
            let start = (base + h.p_vaddr) & !page;
            each(start, (base + h.p_vaddr + h.p_memsz - start) & !page);
        }
        0
    }
    // SAFETY: the callback keeps nothing of what it is given.
    unsafe { libc::dl_iterate_phdr(Some(one), (&raw mut each).cast()) };
}

/// Lets go of code and constants that are mapped from files, this program's and its libraries'.
pub fn let_go_of_code() {
    each_constant_range(&mut |start, length| {
        // SAFETY: the range is a mapping of a file that nobody writes to and that is private: its pages are those of the file, and are read from
        // there again when they are touched next.
        unsafe { libc::madvise(start as *mut libc::c_void, length as usize, libc::MADV_DONTNEED) };
    });
}

/// Has code and constants mapped by pages from now on, where the kernel would map 16 of them (newer ones: all that it keeps together, up to 2 MiB) for each that is
/// touched. A process that lets go of its code now and then so has a few megabytes of it mapped, and not some tens. To be called once.
///
/// A range with "asynchronous write protection" (userfaultfd, since Linux 6.7) is one whose pages the kernel must account for singly, and the process hears nothing
/// of. Nothing is written here, so nothing else changes. Where it is not to be had (older kernels, inside of machines) everything stays as it was.
pub fn map_code_by_pages() {
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    by_pages::begin();
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod by_pages {
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
    use std::sync::OnceLock;

    use super::each_constant_range;

    // Of linux/userfaultfd.h; the libc crate has none of it.
    const USER_MODE_ONLY: libc::c_int = 1;
    const API_VERSION: u64 = 0xaa;
    const WP_ASYNC: u64 = 1 << 15;
    const REGISTER_WP: u64 = 1 << 1;
    const API: libc::Ioctl = 0xc018_aa3f_u32 as libc::Ioctl;
    const REGISTER: libc::Ioctl = 0xc020_aa00_u32 as libc::Ioctl;

    #[repr(C)]
    struct Api {
        api: u64,
        features: u64,
        ioctls: u64,
    }

    #[repr(C)]
    struct Register {
        start: u64,
        length: u64,
        mode: u64,
        ioctls: u64,
    }

    /// It holds as long as this is open.
    static OPEN: OnceLock<Option<OwnedFd>> = OnceLock::new();

    /// The descriptor, if ranges can be registered with it.
    fn open() -> Option<OwnedFd> {
        // SAFETY: the call takes flags and no pointers; what it gives is a new descriptor or negative.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | USER_MODE_ONLY) };
        let fd = libc::c_int::try_from(fd).ok().filter(|fd| *fd >= 0)?;
        // SAFETY: it is open, and nobody else's.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let mut api = Api { api: API_VERSION, features: WP_ASYNC, ioctls: 0 };
        // SAFETY: the structure is the one that this request reads and writes, and lives longer than the call.
        (unsafe { libc::ioctl(fd.as_raw_fd(), API, &raw mut api) } == 0).then_some(fd)
    }

    #[cfg(test)]
    pub(super) fn begun() -> bool {
        OPEN.get().is_some_and(Option::is_some)
    }

    pub(super) fn begin() {
        let Some(fd) = OPEN.get_or_init(open) else { return };
        each_constant_range(&mut |start, length| {
            let mut range = Register { start, length, mode: REGISTER_WP, ioctls: 0 };
            // One that cannot be registered (the kernel's own page, say) stays as it was.
            // SAFETY: as above; the range is mapped, and what changes is only how the kernel counts its pages.
            unsafe { libc::ioctl(fd.as_raw_fd(), REGISTER, &raw mut range) };
        });
    }
}

/// The roles that mostly wait, as the first word of the command line: they have the C library's allocator.
pub const WAITING_ROLES: [&str; 4] = ["agent", "host", "shim", "machine"];

/// Whether this process has such a role. Set before anything is allocated, and never again: what one allocator gave the other cannot take.
static WAITS: AtomicBool = AtomicBool::new(false);

/// Looks which role this process has. The linker has it called before the program begins, with the program's arguments.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
extern "C" fn choose(count: c_int, arguments: *const *const c_char, _: *const *const c_char) {
    if count < 2 || arguments.is_null() {
        return;
    }
    // SAFETY: the C library hands out `count` pointers to strings that end with a zero and live as long as the process.
    let role = unsafe {
        let role = *arguments.add(1);
        if role.is_null() {
            return;
        }
        CStr::from_ptr(role).to_bytes()
    };
    if !WAITING_ROLES.iter().any(|r| r.as_bytes() == role) {
        return;
    }
    WAITS.store(true, Ordering::Relaxed);
    // SAFETY: both set a number of the allocator's; there is one thread, and nothing is allocated yet.
    unsafe {
        // Threads for what blocks share one heap: each has little, and would keep a heap of its own.
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BYTES);
    }
}

/// What is as large is mapped by itself, and given back at once: buffers of a connection, an answer's body.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const LARGE_BYTES: c_int = 64 << 10;

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[used]
#[unsafe(link_section = ".init_array")]
static CHOOSE: extern "C" fn(c_int, *const *const c_char, *const *const c_char) = choose;

/// The program's allocator: the C library's in a process that mostly waits, `mimalloc` in others.
#[derive(Debug)]
pub struct Allocator;

// SAFETY: both allocators keep the contract, and which of them a process has is decided before its first allocation.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are the callee's.
        unsafe {
            if WAITS.load(Ordering::Relaxed) {
                System.alloc(layout)
            } else {
                mimalloc::MiMalloc.alloc(layout)
            }
        }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe {
            if WAITS.load(Ordering::Relaxed) {
                System.dealloc(at, layout);
            } else {
                mimalloc::MiMalloc.dealloc(at, layout);
            }
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe {
            if WAITS.load(Ordering::Relaxed) {
                System.alloc_zeroed(layout)
            } else {
                mimalloc::MiMalloc.alloc_zeroed(layout)
            }
        }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above.
        unsafe {
            if WAITS.load(Ordering::Relaxed) {
                System.realloc(at, layout, size)
            } else {
                mimalloc::MiMalloc.realloc(at, layout, size)
            }
        }
    }
}

/// Gives back free pages of a waiting process's heap.
pub fn let_go_of_heap() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    if WAITS.load(Ordering::Relaxed) {
        // SAFETY: it takes no pointers, and looks only at what is free, under the allocator's own lock.
        unsafe { libc::malloc_trim(0) };
    }
}

/// The smallest page of any machine that this runs on. Where pages are larger, less at the ends is let go of.
const PAGE_BYTES: u64 = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn resident_file_kb() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix("RssFile:")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// Touches one page in 64 of this program's constants and code.
    fn touch() {
        each_constant_range(&mut |start, length| {
            for at in (start..start + length).step_by(64 * PAGE_BYTES as usize) {
                // SAFETY: it is mapped, readable, and never written to.
                unsafe { std::ptr::read_volatile(at as *const u8) };
            }
        });
    }

    #[test]
    fn code_is_mapped_by_pages() {
        let_go_of_code();
        touch();
        let before = resident_file_kb();
        map_code_by_pages();
        let_go_of_code();
        touch();
        let after = resident_file_kb();
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        if by_pages::begun() {
            assert!(after < before / 2, "{before} kB, then {after} kB");
        } else {
            eprintln!("skipped: userfaultfd without messages is not to be had on Linux {}", kernel.trim());
        }
        // What starts from here has nothing of it, and goes on.
        assert!(std::process::Command::new("true").status().unwrap().success());
        assert!(std::panic::catch_unwind(|| panic!("unwinding needs its tables")).is_err());
    }

    #[test]
    fn code_is_let_go_of_and_goes_on() {
        let words: Vec<String> = (0..1000).map(|n| format!("{n:x}")).collect();
        let before = resident_file_kb();
        let_go_of_code();
        let after = resident_file_kb();
        assert!(after < before, "{before} kB, then {after} kB");
        assert_eq!(words.iter().map(|w| u64::from_str_radix(w, 16).unwrap()).sum::<u64>(), 499_500);
        assert!(std::panic::catch_unwind(|| panic!("unwinding needs its tables")).is_err());
    }
}
