//! A gate's listener on its way through a restart in place, when no engine is beside it: the port is never closed.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::FdFlags;
use serde::{Deserialize, Serialize};

/// A listener that is handed over.
#[derive(Debug)]
pub struct Handover {
    pub(super) listener: OwnedFd,
    pub(super) address: SocketAddr,
}

/// What the next program is told of one.
#[derive(Debug, Serialize, Deserialize)]
pub struct Record {
    descriptor: RawFd,
    address: SocketAddr,
}

impl Handover {
    /// The address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Lets the program that is executed next have the listener, and says where it finds it.
    ///
    /// # Errors
    /// What the system says.
    pub fn keep(&self) -> io::Result<Record> {
        rustix::io::fcntl_setfd(&self.listener, FdFlags::empty())?;
        Ok(Record { descriptor: self.listener.as_raw_fd(), address: self.address })
    }
}

impl Record {
    /// Takes the listener over. For the first moments of a process, when whoever wrote the record is the only one who
    /// can have opened the descriptor; None when it is no socket.
    pub fn take(self) -> Option<Handover> {
        let link = std::fs::read_link(format!("/proc/self/fd/{}", self.descriptor)).ok()?;
        link.to_str().filter(|link| self.descriptor > 2 && link.starts_with("socket:"))?;
        // SAFETY: it is open (looked up above), is none of the standard streams, and at this point of a fresh process
        // nothing else owns a socket.
        #[allow(unsafe_code)]
        let listener = unsafe { OwnedFd::from_raw_fd(self.descriptor) };
        rustix::io::fcntl_setfd(&listener, FdFlags::CLOEXEC).ok()?;
        Some(Handover { listener, address: self.address })
    }
}
