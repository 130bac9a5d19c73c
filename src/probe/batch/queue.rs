//! The order of the tests: so many at once in all, so many at once to one server, every server in its turn.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

/// Work that waits, by server. Holds no more than numbers: who has the work is the caller's affair.
#[derive(Debug)]
pub(super) struct Queue {
    servers: Vec<Server>,
    /// Servers that may be given work, the next one first; each is in it once at most.
    turn: VecDeque<usize>,
    running: usize,
    limit: usize,
}

#[derive(Debug)]
struct Server {
    waiting: VecDeque<usize>,
    running: usize,
    limit: usize,
}

/// Permission to do one piece of work; give it back by [`Queue::done`].
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ticket {
    /// The number of the work.
    pub(super) job: usize,
    server: usize,
}

impl Queue {
    /// Takes numbers of work with the address each goes to. Both limits are at least 1; loopback has only the first.
    pub(super) fn new<'a>(jobs: impl IntoIterator<Item = (usize, &'a str)>, limit: usize, per_server: usize) -> Self {
        let mut servers: Vec<Server> = Vec::new();
        let mut known = HashMap::new();
        for (job, address) in jobs {
            let server = *known.entry(address).or_insert_with(|| {
                let limit = if is_loopback(address) { usize::MAX } else { per_server.max(1) };
                servers.push(Server { waiting: VecDeque::new(), running: 0, limit });
                servers.len() - 1
            });
            if let Some(server) = servers.get_mut(server) {
                server.waiting.push_back(job);
            }
        }
        Self { turn: (0..servers.len()).collect(), servers, running: 0, limit: limit.max(1) }
    }

    /// The next piece of work, if any may begin now.
    pub(super) fn take(&mut self) -> Option<Ticket> {
        if self.running >= self.limit {
            return None;
        }
        let server = self.turn.pop_front()?;
        let entry = self.servers.get_mut(server)?;
        let job = entry.waiting.pop_front()?;
        entry.running += 1;
        self.running += 1;
        if entry.may_begin() {
            self.turn.push_back(server);
        }
        Some(Ticket { job, server })
    }

    /// Gives a permission back.
    pub(super) fn done(&mut self, ticket: &Ticket) {
        if let Some(entry) = self.servers.get_mut(ticket.server) {
            let was_full = entry.running == entry.limit;
            entry.running -= 1;
            self.running -= 1;
            if was_full && entry.may_begin() {
                self.turn.push_back(ticket.server);
            }
        }
    }

    /// What has not begun.
    pub(super) fn rest(&self) -> Vec<usize> {
        self.servers.iter().flat_map(|server| server.waiting.iter().copied()).collect()
    }
}

impl Server {
    fn may_begin(&self) -> bool {
        !self.waiting.is_empty() && self.running < self.limit
    }
}

fn is_loopback(address: &str) -> bool {
    match address.parse::<IpAddr>() {
        Ok(address) => address.to_canonical().is_loopback(),
        Err(_) => address == "localhost" || address.ends_with(".localhost"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn drain(queue: &mut Queue) -> Vec<Ticket> {
        std::iter::from_fn(|| queue.take()).collect()
    }

    #[test]
    fn one_server_is_asked_sixteen_times_at_once_and_loopback_as_often_as_all() {
        for (address, at_once) in
            [("node.example", 16), ("192.0.2.1", 16), ("127.0.0.9", 128), ("::1", 128), ("localhost", 128)]
        {
            let mut queue = Queue::new((0..1000).map(|job| (job, address)), 128, 16);
            let mut running = drain(&mut queue);
            assert_eq!(running.len(), at_once, "{address}");
            let mut began = running.len();
            while let Some(ticket) = running.pop() {
                queue.done(&ticket);
                let next = drain(&mut queue);
                assert!(next.len() <= 1);
                began += next.len();
                running.extend(next);
                assert!(running.len() <= at_once);
            }
            assert_eq!(began, 1000, "{address}");
            assert!(queue.rest().is_empty());
        }
    }

    #[test]
    fn a_large_server_does_not_make_a_small_one_wait() {
        let jobs = (0..100).map(|job| (job, "large.example")).chain([(100, "small.example"), (101, "small.example")]);
        let mut queue = Queue::new(jobs, 4, 16);
        let order: Vec<_> = drain(&mut queue).iter().map(|ticket| ticket.job).collect();
        assert_eq!(order, [0, 100, 1, 101]);
        assert_eq!(queue.rest().len(), 98);
    }

    #[test]
    fn a_full_server_gets_its_turn_back_when_one_of_its_own_is_done() {
        let jobs = [(0, "a.example"), (1, "a.example"), (2, "b.example"), (3, "b.example")];
        let mut queue = Queue::new(jobs, 4, 1);
        let running = drain(&mut queue);
        assert_eq!(running.iter().map(|ticket| ticket.job).collect::<Vec<_>>(), [0, 2]);
        queue.done(&running[1]);
        assert_eq!(drain(&mut queue).iter().map(|ticket| ticket.job).collect::<Vec<_>>(), [3]);
        queue.done(&running[0]);
        assert_eq!(drain(&mut queue).iter().map(|ticket| ticket.job).collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn limits_of_nothing_are_one() {
        let mut queue = Queue::new([(7, "a.example"), (8, "b.example")], 0, 0);
        assert_eq!(drain(&mut queue).len(), 1);
    }
}
