//! Notifications, by `org.freedesktop.Notifications`: one about the session, which changes, and one about what the user
//! asked for. Specification: <https://specifications.freedesktop.org/notification-spec/latest/>.

use std::collections::HashMap;

use xrat::settings::Notice as Kind;
use zbus::zvariant::{Structure, Value};
use zbus::{Connection, Message};

use crate::bus::{Activation, NOTIFICATIONS, call};
use crate::daemon::body;
use crate::icons;
use crate::model::{Action, Look};
use crate::notices::Notice;
use crate::words;

const PATH: &str = "/org/freedesktop/Notifications";
/// The installed .desktop file, by which desktops group notifications and let people silence them.
const DESKTOP_ENTRY: &str = "org.xrat.Xrat";
const ROTATE: &str = "rotate";
const DISCONNECT: &str = "disconnect";
/// The icon in a notification, in pixels.
const ICON: i32 = 48;

/// How urgent the specification calls it.
#[derive(Clone, Copy)]
enum Urgency {
    Low = 0,
    Normal = 1,
    /// Stays until it is closed.
    Critical = 2,
}

/// Which notification is meant; each has a place of its own on the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    /// What happens to the session.
    Session,
    /// What the user asked for here and did not get.
    Answer,
}

/// What the service can do.
#[derive(Clone, Copy, Debug, Default)]
struct Abilities {
    actions: bool,
    markup: bool,
}

/// The notifications that are on the screen.
#[derive(Debug, Default)]
pub(crate) struct Notifications {
    shown: HashMap<Place, u32>,
    abilities: Option<Abilities>,
}

impl Notifications {
    /// Tells about the session, in place of what was told before.
    ///
    /// # Errors
    /// When there is no notification service, or it refuses.
    pub(crate) async fn show(&mut self, bus: &Connection, notice: &Notice) -> zbus::Result<()> {
        let (urgency, look, category) = match notice.kind {
            Kind::Connected | Kind::Recovered => (Urgency::Low, Look::Connected, "network.connected"),
            Kind::Rotated => (Urgency::Low, Look::Replacing, "network"),
            Kind::Failed => (Urgency::Critical, Look::Failed, "network.error"),
        };
        let actions: &[&str] = match notice.kind {
            Kind::Failed => &[ROTATE, "Rotate", DISCONNECT, "Disconnect"],
            _ => &[],
        };
        self.notify(bus, Place::Session, (urgency, look, category), (&notice.summary, &notice.body), actions).await
    }

    /// Answers what the user asked for here.
    ///
    /// # Errors
    /// When there is no notification service, or it refuses.
    pub(crate) async fn answer(&mut self, bus: &Connection, summary: &str, body: &str) -> zbus::Result<()> {
        let how = (Urgency::Normal, Look::Disconnected, "network");
        self.notify(bus, Place::Answer, how, (summary, body), &[]).await
    }

    async fn notify(
        &mut self,
        bus: &Connection,
        place: Place,
        (urgency, look, category): (Urgency, Look, &str),
        (summary, body): (&str, &str),
        actions: &[&str],
    ) -> zbus::Result<()> {
        let abilities = match self.abilities {
            Some(abilities) => abilities,
            None => *self.abilities.insert(abilities(bus).await?),
        };
        let body = if abilities.markup { words::escape(body) } else { body.to_owned() };
        let actions = if abilities.actions { actions } else { &[] };
        let hints = HashMap::from([
            ("urgency", Value::U8(urgency as u8)),
            ("category", category.into()),
            ("desktop-entry", DESKTOP_ENTRY.into()),
            ("image-data", image(look).into()),
        ]);
        let replaces = self.shown.get(&place).copied().unwrap_or(0);
        // -1: the service's own time.
        let call_body = ("xrat", replaces, look.icon_name(), summary, body.as_str(), actions, hints, -1_i32);
        // Services of many desktops are started by the first notification.
        let id = call(bus, (NOTIFICATIONS, PATH, NOTIFICATIONS, "Notify"), Activation::Allowed, &call_body).await?;
        self.shown.insert(place, id);
        Ok(())
    }

    /// Takes the notification about the session from the screen, if it is there.
    pub(crate) async fn withdraw(&mut self, bus: &Connection) {
        let Some(id) = self.shown.remove(&Place::Session) else { return };
        let close = (NOTIFICATIONS, PATH, NOTIFICATIONS, "CloseNotification");
        // An error: it is closed already.
        let _ = call::<_, ()>(bus, close, Activation::Never, &(id,)).await;
    }

    /// The service is another one, or none: its numbers mean nothing any more.
    pub(crate) fn forget(&mut self) {
        *self = Self::default();
    }

    /// What a signal of the service asks for.
    pub(crate) fn hear(&mut self, signal: &Message) -> Option<Action> {
        match signal.header().member()?.as_str() {
            "NotificationClosed" => {
                let (id, _reason): (u32, u32) = body(signal)?;
                self.shown.retain(|_, shown| *shown != id);
                None
            }
            "ActionInvoked" => {
                let (id, key): (u32, String) = body(signal)?;
                // Other programs' notifications are told to all.
                if self.shown.get(&Place::Session) != Some(&id) {
                    return None;
                }
                match key.to_ascii_lowercase().as_str() {
                    ROTATE => Some(Action::Rotate),
                    DISCONNECT => Some(Action::Disconnect),
                    _ => None,
                }
            }
            _ => None,
        }
    }
}

async fn abilities(bus: &Connection) -> zbus::Result<Abilities> {
    let method = (NOTIFICATIONS, PATH, NOTIFICATIONS, "GetCapabilities");
    let all: Vec<String> = call(bus, method, Activation::Allowed, &()).await?;
    let has = |name: &str| all.iter().any(|ability| ability == name);
    Ok(Abilities { actions: has("actions"), markup: has("body-markup") })
}

/// The icon as the specification wants pixels: width, height, bytes a row, whether there is alpha, bits a sample,
/// samples a pixel, and red, green, blue and alpha of each. So it is there where the icon is not installed.
fn image(look: Look) -> Structure<'static> {
    let icon = icons::pixmap(look, ICON);
    let mut pixels = icon.data;
    for pixel in pixels.chunks_exact_mut(4) {
        pixel.rotate_left(1);
    }
    Structure::from((icon.width, icon.height, icon.width * 4, true, 8_i32, 4_i32, pixels))
}
