//! Flow control: how much may wait in this process for readers that do not read.
//!
//! The window of a connection never stands in the way: a peer whose streams are all unread fills them and no more, so one slow reader
//! stalls nobody else. What bounds memory are the windows of the streams, and they shrink as more readers are slow: each worker counts
//! the bodies of which it holds a piece that the next hop does not take ([`PendingChunk`]); every step up makes the windows of all streams of its
//! connections a quarter of what they were (SETTINGS_INITIAL_WINDOW_SIZE, RFC 9113, section 6.9.2). Each step adds at most twelve MiB, so
//! that all of them together stay within 64 MiB, however many connections there are, and a single transfer has a window of four.

use std::cell::Cell;

use crate::contract::tunnel::App;

/// StreamWindows of streams, step by step.
const WINDOWS: [u32; 6] = [4 << 20, 1 << 20, 256 << 10, 64 << 10, 16 << 10, 4 << 10];
/// Slow readers of the whole process from which the next step is taken.
const SLOW_READERS: [usize; 5] = [4, 16, 64, 256, 1024];
/// Window of a connection: what a peer may send that does not heed the windows of its streams, and far more than one needs that does.
pub(crate) const CONNECTION_WINDOW: u32 = 128 << 20;
/// Opaque connections that share one connection between proxies. They live long and may never be read.
pub(crate) const TUNNELS: u32 = 16;
/// Most that a tunnel may have unread.
const TUNNEL_WINDOW: u32 = 2 << 20;
/// From this step on buffers of opaque connections stay small.
const HIGH: usize = 2;

/// How many readers of a worker are slow; a worker is a thread.
struct Pressure {
    workers: Cell<usize>,
    pending: Cell<usize>,
    /// Most at once since the last look.
    most: Cell<usize>,
    step: Cell<usize>,
}

thread_local! {
    static PRESSURE: Pressure = const {
        Pressure { workers: Cell::new(1), pending: Cell::new(0), most: Cell::new(0), step: Cell::new(0) }
    };
}

/// A piece of a body that the next hop has not taken yet.
pub(crate) struct PendingChunk(());

impl PendingChunk {
    pub(crate) fn new() -> Self {
        PRESSURE.with(|w| {
            let pending = w.pending.get() + 1;
            w.pending.set(pending);
            if pending > w.most.get() {
                w.most.set(pending);
                while SLOW_READERS.get(w.step.get()).is_some_and(|most| pending > share(*most, w)) {
                    w.step.set(w.step.get() + 1);
                }
            }
        });
        Self(())
    }
}

impl Drop for PendingChunk {
    fn drop(&mut self) {
        // A worker that has ended has nothing to count.
        let _ = PRESSURE.try_with(|w| w.pending.set(w.pending.get().saturating_sub(1)));
    }
}

/// The part of one worker.
fn share(of: usize, pressure: &Pressure) -> usize {
    (of / pressure.workers.get()).max(1)
}

/// Says that this thread is one of so many workers.
pub(crate) fn set_workers(workers: usize) {
    PRESSURE.with(|w| w.workers.set(workers.max(1)));
}

/// Looks, once in a while, whether there are so few slow readers that windows may grow by a step.
pub(crate) fn relax() {
    PRESSURE.with(|w| {
        let step = w.step.get();
        if step > 0 && w.most.get() <= share(SLOW_READERS[step - 1], w) {
            w.step.set(step - 1);
        }
        w.most.set(w.pending.get());
    });
}

/// The windows of a connection's streams.
pub(crate) struct StreamWindows {
    app: App,
    step: usize,
}

impl StreamWindows {
    pub(crate) fn new(app: App) -> Self {
        Self { app, step: PRESSURE.with(|w| w.step.get()) }
    }

    /// Their size.
    pub(crate) fn size(&self) -> u32 {
        let size = WINDOWS[self.step];
        if self.app == App::Tcp { size.min(TUNNEL_WINDOW) } else { size }
    }

    /// Calls `set` when the size is to be another; again the next time if it failed.
    pub(crate) fn adapt(&mut self, set: impl FnOnce(u32) -> Result<(), h2::Error>) {
        let step = PRESSURE.with(|w| w.step.get());
        if step != self.step {
            let before = std::mem::replace(&mut self.step, step);
            if set(self.size()).is_err() {
                self.step = before;
            }
        }
    }
}

/// Whether so many readers are slow that buffers are to stay small.
pub(crate) fn is_high() -> bool {
    PRESSURE.with(|w| w.step.get() >= HIGH)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size() -> u32 {
        StreamWindows::new(App::Http1).size()
    }

    #[test]
    fn windows_shrink_with_every_slow_reader_and_grow_again_step_by_step() {
        let mut held = Vec::new();
        let mut unread = 0;
        assert_eq!(size(), 4 << 20);
        while held.len() < 1024 {
            held.push(PendingChunk::new());
            unread += u64::from(size());
        }
        assert_eq!((size(), is_high()), (16 << 10, true));
        assert!(unread <= 64 << 20, "{unread}");
        held.push(PendingChunk::new());
        assert_eq!(size(), 4 << 10);
        relax();
        assert_eq!(size(), 4 << 10, "nothing has become better");
        held.clear();
        relax();
        assert_eq!(size(), 4 << 10, "there were many since the last look");
        for expected in [16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 4 << 20] {
            relax();
            assert_eq!(size(), expected);
        }
    }

    #[test]
    fn a_connection_is_told_of_a_change_until_it_has_taken_it() {
        let mut windows = StreamWindows::new(App::Tcp);
        assert_eq!(windows.size(), 2 << 20);
        windows.adapt(|_| panic!("nothing has changed"));
        let _held: Vec<_> = (0..5).map(|_| PendingChunk::new()).collect();
        let mut told = Vec::new();
        windows.adapt(|_| Err(h2::Reason::INTERNAL_ERROR.into()));
        windows.adapt(|size| {
            told.push(size);
            Ok(())
        });
        windows.adapt(|_| panic!("it was told already"));
        assert_eq!(told, [1 << 20]);
    }

    #[test]
    fn each_of_several_workers_has_its_part() {
        set_workers(4);
        let _one = PendingChunk::new();
        assert_eq!(size(), 4 << 20);
        let _two = PendingChunk::new();
        assert_eq!(size(), 1 << 20);
    }
}
