//! Progress of long work, on standard error: a bar where somebody watches, one line at the end elsewhere.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::output::bytes;

/// How often a bar is drawn at most.
const REDRAW: Duration = Duration::from_millis(100);
/// Its width in characters.
const WIDTH: usize = 30;

/// Something that takes a while.
pub(crate) struct Progress {
    what: String,
    begun: Instant,
    total: AtomicU64,
    done: AtomicU64,
    drawn: Mutex<Option<Instant>>,
    terminal: bool,
    ended: AtomicBool,
}

/// A bar, or how much is done where nobody knows the end.
fn line(what: &str, done: u64, total: u64, seconds: f64) -> String {
    let rate =
        if seconds > 0.0 { format!(", {}/s", bytes((done as f64 / seconds) as u64)) } else { String::new() };
    if total == 0 {
        return match done {
            0 => format!("{what} … {seconds:.1} s"),
            _ => format!("{what} {} {seconds:.1} s", bytes(done)),
        };
    }
    let full = usize::try_from(done.min(total).saturating_mul(WIDTH as u64) / total).unwrap_or(WIDTH);
    let bar: String = (0..WIDTH).map(|i| if i < full { '#' } else { '.' }).collect();
    format!("{what} [{bar}] {:>3} % of {}{rate}", done.min(total) * 100 / total, bytes(total))
}

impl Progress {
    /// Begins; nothing is shown before something happens.
    pub(crate) fn new(what: impl Into<String>) -> Arc<Progress> {
        Arc::new(Progress {
            what: what.into(),
            begun: Instant::now(),
            total: AtomicU64::new(0),
            done: AtomicU64::new(0),
            drawn: Mutex::new(None),
            terminal: std::io::stderr().is_terminal(),
            ended: AtomicBool::new(false),
        })
    }

    /// Draws now and then for work that tells nothing by itself, until it ends.
    pub(crate) fn tick(self: &Arc<Self>) {
        if !self.terminal {
            return;
        }
        let this = self.clone();
        std::thread::spawn(move || {
            while !this.ended.load(Ordering::Acquire) {
                this.draw();
                std::thread::sleep(REDRAW);
            }
        });
    }

    /// So much is to be done.
    pub(crate) fn total(&self, bytes: u64) {
        self.total.store(bytes, Ordering::Relaxed);
        self.draw();
    }

    /// So much more is done.
    pub(crate) fn more(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
        self.draw();
    }

    fn text(&self) -> String {
        let (done, total) = (self.done.load(Ordering::Relaxed), self.total.load(Ordering::Relaxed));
        line(&self.what, done, total, self.begun.elapsed().as_secs_f64())
    }

    fn draw(&self) {
        if !self.terminal {
            return;
        }
        let Ok(mut drawn) = self.drawn.lock() else { return };
        if drawn.is_some_and(|at| at.elapsed() < REDRAW) || self.ended.load(Ordering::Acquire) {
            return;
        }
        *drawn = Some(Instant::now());
        // Nobody loses anything when a bar cannot be drawn.
        let _ = write!(std::io::stderr(), "\r\x1b[K{}", self.text());
    }

    /// Takes the bar away and says what became of it.
    pub(crate) fn end(&self, outcome: &str) {
        let _last = self.drawn.lock();
        self.ended.store(true, Ordering::Release);
        let clear = if self.terminal { "\r\x1b[K" } else { "" };
        let _ = writeln!(
            std::io::stderr(),
            "{clear}{}: {outcome}, {:.1} s",
            self.what,
            self.begun.elapsed().as_secs_f64()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_shows_how_far_it_is() {
        let half = line("web.tar", 5 << 20, 10 << 20, 1.0);
        assert_eq!(half, "web.tar [###############...............]  50 % of 10.0 MiB, 5.0 MiB/s");
        assert!(line("x", 30, 20, 1.0).contains("100 %"), "more than was promised is all");
        assert_eq!(line("x", 0, 0, 1.5), "x … 1.5 s");
    }
}
