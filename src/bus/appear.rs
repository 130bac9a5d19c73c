//! When a session bus may be there: the moment at which its socket appears.

use std::ffi::OsString;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use async_io::Async;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;
use zbus::address::transport::{Transport, UnixSocket};

/// Room for a few events: each has at most a file name's 255 bytes.
const BUFFER: usize = 2048;

/// A watch of the directory that the bus's socket belongs into.
pub(super) struct Appearance {
    events: Async<OwnedFd>,
    name: OsString,
}

impl Appearance {
    /// Watches from now on. None where the address is no file, or its directory is not there: then only time tells.
    pub(super) fn watch() -> Option<Self> {
        let address = zbus::Address::session().ok()?;
        let Transport::Unix(unix) = address.transport() else { return None };
        let UnixSocket::File(path) = unix.path() else { return None };
        let events = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).ok()?;
        // A socket is made by bind(2) at its place, or moved there.
        inotify::add_watch(&events, path.parent()?, WatchFlags::CREATE | WatchFlags::MOVED_TO).ok()?;
        Some(Self { events: Async::new_nonblocking(events).ok()?, name: path.file_name()?.to_owned() })
    }

    /// Waits until the socket is made. Who makes it may listen only a moment later.
    pub(super) async fn comes(&self) {
        loop {
            if self.events.readable().await.is_err() {
                return std::future::pending().await;
            }
            let mut buffer = [MaybeUninit::uninit(); BUFFER];
            let mut reader = Reader::new(&self.events, &mut buffer);
            loop {
                match reader.next() {
                    Ok(event) if is_of(&event, &self.name) => return,
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(_) => break,
                }
            }
        }
    }
}

fn is_of(event: &inotify::Event<'_>, name: &OsString) -> bool {
    // After an overflow nobody knows: better one look too many.
    event.events().contains(ReadFlags::QUEUE_OVERFLOW)
        || event.file_name().is_some_and(|found| found.to_bytes() == name.as_bytes())
}
