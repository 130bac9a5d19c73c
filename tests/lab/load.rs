//! Programs that use the proxies all the time: many short exchanges, each on a connection of its own, and downloads.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use super::client::{self, Kept, Proxy};
use super::origin::{DRIP_BYTES, Origin, bytes};
use super::wait_until;

/// Threads that open one connection after the other, half of them through SOCKS, half through HTTP.
pub const CALLERS: usize = 4;
/// What a short exchange fetches.
const SHORT: usize = 2000;
/// Exchanges that [`Load::more`] waits for: without them the load would be over before what it is for began.
const MORE: usize = 40;

/// What is downloaded beside the short exchanges, half through SOCKS, half through HTTP.
#[derive(Debug, Clone, Copy)]
pub enum Downloads {
    /// So many at once that go on to the load's end.
    Endless(usize),
    /// So many at once of so many pieces, one after the other; each must come to its own end.
    Whole(usize, usize),
}

/// The load. It must be finished: threads that nobody waits for would go on.
pub struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    failed: Arc<Mutex<Vec<(Instant, String)>>>,
    threads: Vec<JoinHandle<()>>,
    started: Instant,
}

/// What became of it.
#[derive(Debug)]
pub struct Ended {
    /// Short exchanges done.
    pub done: usize,
    /// And how many of them a second.
    pub rate: f64,
    /// What failed, with the moment it began.
    pub failed: Vec<(Instant, String)>,
}

impl Load {
    /// Begins, through a SOCKS and an HTTP proxy.
    pub fn start(origin: &Origin, proxies: &[Proxy; 2], downloads: Downloads) -> Self {
        let mut load = Self {
            stop: Arc::default(),
            done: Arc::default(),
            failed: Arc::default(),
            threads: Vec::new(),
            started: Instant::now(),
        };
        let wanted = Arc::new(bytes(SHORT));
        for number in 0..CALLERS {
            let url = origin.url(&format!("/bytes/{SHORT}"));
            let (proxy, wanted) = (proxies[number % 2].clone(), Arc::clone(&wanted));
            load.spawn(move |_, done| {
                let answer = client::get(&proxy, &url, None).map_err(|error| format!("{proxy:?}: {error}"))?;
                if answer.body != *wanted {
                    return Err(format!("{proxy:?}: status {}, {} bytes", answer.status, answer.body.len()));
                }
                done.fetch_add(1, Ordering::SeqCst);
                Ok(())
            });
        }
        let (count, pieces) = match downloads {
            Downloads::Endless(count) => (count, None),
            Downloads::Whole(count, pieces) => (count, Some(pieces)),
        };
        let path = pieces.map_or_else(|| "/drip".to_owned(), |pieces| format!("/drip/{pieces}"));
        for number in 0..count {
            let (url, path, proxy) = (origin.url(&path), path.clone(), proxies[number % 2].clone());
            load.spawn(move |stop, _| {
                download(&proxy, &url, &path, pieces, stop).map_err(|error| format!("download over {proxy:?}: {error}"))
            });
        }
        load
    }

    /// Repeats `act` on a thread of its own.
    fn spawn(&mut self, act: impl Fn(&AtomicBool, &AtomicUsize) -> Result<(), String> + Send + 'static) {
        let (stop, done, failed) = (Arc::clone(&self.stop), Arc::clone(&self.done), Arc::clone(&self.failed));
        self.threads.push(std::thread::spawn(move || {
            while !stop.load(Ordering::SeqCst) {
                let started = Instant::now();
                if let Err(error) = act(&stop, &done) {
                    failed.lock().unwrap().push((started, error));
                }
            }
        }));
    }

    /// Short exchanges done so far.
    pub fn done(&self) -> usize {
        self.done.load(Ordering::SeqCst)
    }

    /// A condition that holds after some more exchanges, or when one has failed.
    pub fn goes_on(&self) -> impl Fn() -> bool + '_ {
        let enough = self.done() + MORE;
        move || self.done() >= enough || !self.failed.lock().unwrap().is_empty()
    }

    /// Waits for that.
    pub fn more(&self) {
        wait_until("the load goes on", self.goes_on());
    }

    /// Ends it.
    pub fn finish(mut self) -> Ended {
        let (done, seconds) = (self.done(), self.started.elapsed().as_secs_f64());
        self.stop.store(true, Ordering::SeqCst);
        for thread in std::mem::take(&mut self.threads) {
            thread.join().unwrap();
        }
        let failed = std::mem::take(&mut *self.failed.lock().unwrap());
        Ended { done, rate: done as f64 / seconds, failed }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

fn download(proxy: &Proxy, url: &str, path: &str, pieces: Option<usize>, stop: &AtomicBool) -> Result<(), String> {
    let told = |error: std::io::Error| error.to_string();
    let mut download = Kept::open(proxy, url, None).map_err(told)?;
    download.request(path, "close").map_err(told)?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.extend(download.exactly(1).map_err(told)?);
    }
    let mut number = 0;
    while pieces.map_or_else(|| !stop.load(Ordering::SeqCst), |pieces| number < pieces) {
        let piece = download.exactly(DRIP_BYTES).map_err(|error| format!("after {number} pieces: {error}"))?;
        if piece.iter().any(|byte| *byte != b'.') {
            return Err("other bytes".to_owned());
        }
        number += 1;
    }
    Ok(())
}
