//! What the daemon tells a service manager: that it is ready, how it is, that it is alive (sd_notify(3)).

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use crate::event::{Event, Health, Session, State};
use crate::supervisor::Handle;

/// Longer names are cut: the status is one line in `systemctl status`.
const NAME_CHARS: usize = 60;

/// The way to the service manager that started this process.
pub struct Manager {
    socket: UnixDatagram,
    address: SocketAddr,
    watchdog: Option<Duration>,
}

impl Manager {
    /// Reads `$NOTIFY_SOCKET` and `$WATCHDOG_USEC`; none where nobody waits for word.
    pub fn from_env() -> Option<Self> {
        let variable = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
        let path = variable("NOTIFY_SOCKET")?;
        let address = match path.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name),
            None => SocketAddr::from_pathname(&path),
        };
        let ours = variable("WATCHDOG_PID").is_none_or(|pid| pid == std::process::id().to_string());
        let watchdog = variable("WATCHDOG_USEC").filter(|_| ours).and_then(|text| text.parse().ok());
        let socket = UnixDatagram::unbound().ok()?;
        // The loop waits for nobody; a word that is lost is followed by the next.
        socket.set_nonblocking(true).ok()?;
        Some(Self { socket, address: address.ok()?, watchdog: watchdog.map(Duration::from_micros) })
    }

    /// How long the loop may be silent, if that is watched.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// The daemon answers from now on. `STATUS=` follows with [`Manager::follow`].
    pub fn ready(&self) {
        self.send("READY=1");
    }

    /// The loop runs. To be called by the loop itself, and by nothing that would run while it is stuck.
    pub fn alive(&self) {
        if self.watchdog.is_some() {
            self.send("WATCHDOG=1");
        }
    }

    /// Tells the state in words whenever it changes, until the daemon ends.
    pub async fn follow(&self, handle: Handle) {
        let (mut state, mut session) = (State::Unknown, None);
        let mut told = String::new();
        let Ok(mut events) = handle.subscribe(None).await else { return };
        while let Some(recorded) = events.next().await {
            match recorded.event {
                Event::Snapshot(status) => (state, session) = (status.state, status.session),
                Event::StateChanged { new, session: now, .. } => (state, session) = (new, now),
                Event::HealthChanged { session_id, health, .. } => {
                    if let Some(session) = session.as_mut().filter(|now| now.session_id == session_id) {
                        session.health = health;
                    }
                }
                Event::Lagged { .. } => match handle.subscribe(None).await {
                    Ok(again) => events = again,
                    Err(_) => return,
                },
                _ => continue,
            }
            let text = words(state, session.as_ref());
            if text != told {
                self.send(&format!("STATUS={text}"));
                told = text;
            }
        }
    }

    fn send(&self, text: &str) {
        if let Err(error) = self.socket.send_to_addr(text.as_bytes(), &self.address) {
            tracing::debug!("the service manager does not hear {text:?}: {error}");
        }
    }
}

fn words(state: State, session: Option<&Session>) -> String {
    let Some(session) = session else { return state.to_string() };
    let clean = |character: char| if crate::link::is_unprintable(character) { ' ' } else { character };
    let name: String = session.name.chars().take(NAME_CHARS).map(clean).collect();
    let health = match session.health.status {
        Health::Failed => ", but its node does not answer",
        Health::Degraded => ", and its node did not answer just now",
        Health::Unknown | Health::Unproven | Health::Healthy => "",
    };
    format!("{state}: {name} (config {}) by {}{health}", session.config_id, session.engine)
}
