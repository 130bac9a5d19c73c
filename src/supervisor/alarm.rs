//! A clock that rings on time also when the machine slept in between.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use async_io::Async;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

/// A timerfd on CLOCK_BOOTTIME: timers of the monotonic clock stand still while the machine sleeps.
pub(super) struct Alarm {
    timer: Async<OwnedFd>,
    set: Option<Duration>,
}

impl Alarm {
    pub(super) fn new() -> io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        Ok(Self { timer: Async::new_nonblocking(timer)?, set: None })
    }

    /// Rings at this moment of CLOCK_BOOTTIME, or not at all.
    pub(super) fn set(&mut self, at: Option<Duration>) {
        if self.set == at {
            return;
        }
        // A moment of zero would switch it off instead of ringing at once.
        let moment = at.map_or(Duration::ZERO, |at| at.max(Duration::from_nanos(1)));
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let value = Timespec {
            tv_sec: i64::try_from(moment.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: moment.subsec_nanos().into(),
        };
        let spec = Itimerspec { it_interval: zero, it_value: value };
        match timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &spec) {
            Ok(_) => self.set = at,
            Err(error) => tracing::error!("the alarm cannot be set: {error}"),
        }
    }

    /// Waits until it rings; it goes on ringing until it is set anew. Safe to drop.
    pub(super) async fn rings(&self) {
        if self.set.is_none() || self.timer.readable().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
