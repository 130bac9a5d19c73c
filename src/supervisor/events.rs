//! The event history, and its readers: one ring for all, each reader with its own place in it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_channel::{Receiver, Sender, bounded};
use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::event::{Event, Recorded, Status};

/// So many events are kept for readers that come back.
pub const KEPT: usize = 1024;
/// A reader that is further behind skips to here.
pub const MAX_BEHIND: u64 = 256;

/// The history; cheap to clone.
#[derive(Clone, Debug)]
pub struct Hub(Arc<Mutex<Ring>>);

#[derive(Debug)]
struct Ring {
    instance_id: Uuid,
    last_seq: u64,
    events: VecDeque<Recorded>,
    wakers: Vec<Sender<()>>,
}

impl Ring {
    fn after(&self, seq: u64) -> Option<&Recorded> {
        let first = self.events.front()?.seq;
        self.events.get(usize::try_from(seq.checked_add(1)?.checked_sub(first)?).ok()?)
    }
}

impl Hub {
    /// An empty history of a daemon instance.
    pub fn new(instance_id: Uuid) -> Self {
        let ring = Ring { instance_id, last_seq: 0, events: VecDeque::new(), wakers: Vec::new() };
        Self(Arc::new(Mutex::new(ring)))
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        // Nothing in here panics half-way through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an event and wakes the readers. Never waits for one.
    pub fn emit(&self, event: Event, at: DateTime<Utc>) {
        let mut ring = self.ring();
        ring.last_seq += 1;
        let (seq, instance_id) = (ring.last_seq, ring.instance_id);
        if ring.events.len() == KEPT {
            ring.events.pop_front();
        }
        ring.events.push_back(Recorded { seq, at, instance_id, event });
        // A full channel has its wake-up already; a closed one has lost its reader.
        ring.wakers.retain(|waker| !matches!(waker.try_send(()), Err(async_channel::TrySendError::Closed(()))));
    }

    /// A reader that begins after event `seq` of `instance_id` if that still is in the history, and with a snapshot
    /// made of `status` otherwise.
    pub fn subscribe(&self, since: Option<(Uuid, u64)>, status: Status, at: DateTime<Utc>) -> Subscription {
        let (sender, wake) = bounded(1);
        let mut ring = self.ring();
        // Readers come and go also while nothing happens.
        ring.wakers.retain(|waker| !waker.is_closed());
        ring.wakers.push(sender);
        let replay = since.and_then(|(instance_id, seq)| {
            let oldest = ring.events.front().map_or(ring.last_seq + 1, |event| event.seq);
            (instance_id == ring.instance_id && seq <= ring.last_seq && seq + 1 >= oldest).then_some(seq)
        });
        let (instance_id, last_seq) = (ring.instance_id, ring.last_seq);
        let snapshot =
            replay.is_none().then_some(Recorded { seq: last_seq, at, instance_id, event: Event::Snapshot(status) });
        let cursor = replay.unwrap_or(last_seq);
        // What is replayed on request is not lag, however much it is.
        let patience = last_seq - cursor;
        Subscription { hub: self.clone(), wake, cursor, patience, snapshot, instance_id }
    }
}

/// One reader's place in the history. Dropping it ends the subscription.
#[derive(Debug)]
pub struct Subscription {
    hub: Hub,
    wake: Receiver<()>,
    cursor: u64,
    patience: u64,
    snapshot: Option<Recorded>,
    instance_id: Uuid,
}

impl Subscription {
    /// The daemon instance that counts the events.
    pub fn instance_id(&self) -> Uuid {
        self.instance_id
    }

    /// The next event; none once the daemon is ending. Safe to drop: no event is lost.
    ///
    /// A reader that fell more than [`MAX_BEHIND`] events behind gets one `Lagged` and goes on with the newest ones.
    pub async fn next(&mut self) -> Option<Recorded> {
        if let Some(snapshot) = self.snapshot.take() {
            return Some(snapshot);
        }
        loop {
            {
                let ring = self.hub.ring();
                let behind = ring.last_seq - self.cursor;
                if behind > MAX_BEHIND + self.patience {
                    let missed = behind - MAX_BEHIND;
                    self.cursor += missed;
                    self.patience = 0;
                    let (seq, instance_id) = (self.cursor, ring.instance_id);
                    return Some(Recorded { seq, at: Utc::now(), instance_id, event: Event::Lagged { missed } });
                }
                if let Some(event) = ring.after(self.cursor) {
                    self.cursor = event.seq;
                    self.patience = self.patience.saturating_sub(1);
                    return Some(event.clone());
                }
            }
            self.wake.recv().await.ok()?;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::event::{BusPresence, Reason, State};

    fn status() -> Status {
        Status {
            state: State::Disconnected,
            reason: Reason::None,
            since: DateTime::UNIX_EPOCH,
            session: None,
            last_failure: None,
            bus: BusPresence::default(),
        }
    }

    fn hub(events: u64) -> Hub {
        let hub = Hub::new(Uuid::from_u128(7));
        for _ in 0..events {
            hub.emit(Event::ConfigsChanged {}, DateTime::UNIX_EPOCH);
        }
        hub
    }

    fn next(subscription: &mut Subscription) -> Recorded {
        async_io::block_on(subscription.next()).unwrap()
    }

    #[test]
    fn a_new_reader_gets_a_snapshot_then_what_follows() {
        let hub = hub(3);
        let mut reader = hub.subscribe(None, status(), DateTime::UNIX_EPOCH);
        hub.emit(Event::SettingsChanged {}, DateTime::UNIX_EPOCH);
        let first = next(&mut reader);
        assert_eq!((first.seq, first.event), (3, Event::Snapshot(status())));
        assert_eq!(next(&mut reader).seq, 4);
    }

    #[test]
    fn a_reader_that_comes_back_gets_what_it_missed() {
        let hub = hub(300);
        let mut reader = hub.subscribe(Some((Uuid::from_u128(7), 2)), status(), DateTime::UNIX_EPOCH);
        for seq in 3..=300 {
            assert_eq!(next(&mut reader).seq, seq);
        }
    }

    #[test]
    fn another_instance_or_a_forgotten_place_gets_a_snapshot() {
        let hub = hub(KEPT as u64 + 10);
        for since in [(Uuid::nil(), 1030), (Uuid::from_u128(7), 2), (Uuid::from_u128(7), 99_999)] {
            let mut reader = hub.subscribe(Some(since), status(), DateTime::UNIX_EPOCH);
            assert!(matches!(next(&mut reader).event, Event::Snapshot(_)), "{since:?}");
        }
    }

    #[test]
    fn a_slow_reader_gets_one_lagged_and_goes_on() {
        let hub = hub(0);
        let mut reader = hub.subscribe(None, status(), DateTime::UNIX_EPOCH);
        next(&mut reader);
        for _ in 0..2000 {
            hub.emit(Event::ConfigsChanged {}, DateTime::UNIX_EPOCH);
        }
        assert_eq!(next(&mut reader).event, Event::Lagged { missed: 2000 - MAX_BEHIND });
        for seq in (2001 - MAX_BEHIND)..=2000 {
            let event = next(&mut reader);
            assert_eq!((event.seq, event.event), (seq, Event::ConfigsChanged {}));
        }
    }
}
