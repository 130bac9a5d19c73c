//! The tray on a real panel: what it shows, what its menu does, what it survives, and what it tells.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "in a test a panic with a message is the report")]

mod desktop;
#[path = "../lab/mod.rs"]
mod lab;
mod menu;
mod notifications;
mod screen;
mod survival;

use std::ops::Range;
use std::time::Duration;

use desktop::Desktop;
use lab::{Daemon, Kind, Lab, wait_for_within};
use screen::{Area, Colour};

const RUNTIME: &str = "org.xrat.Daemon1.Runtime";
/// The engine of all of these: what they are about is the same with each.
const KIND: Kind = Kind::V2ray;
/// Within this the tray shows what is, after whatever happened.
const TRUTH: Duration = Duration::from_secs(3);

/// The tiles of the icons.
const GREEN: Colour = [0x1f, 0x9d, 0x55];
const GREY: Colour = [0x8c, 0x92, 0x9c];
const RED: Colour = [0xd3, 0x3b, 0x3b];
/// The rows of the screen that the panel has, and the others.
const PANEL: Range<usize> = 310..340;
const ABOVE: Range<usize> = 0..310;
/// So many pixels of the tile's own colour has an icon of a panel at least.
const TILE: usize = 80;
/// Of a tile that is only a frame.
const FRAME: usize = 25;

/// A desktop, and a daemon on its bus with two nodes.
struct Set {
    desktop: Desktop,
    lab: Lab,
    daemon: Daemon,
    ids: Vec<i64>,
}

impl Set {
    /// `settings` as for [`Daemon::new`]. Neither panel nor tray is there yet.
    fn start(settings: &[&str]) -> Option<Self> {
        Self::testing_with("/generate_204", settings)
    }

    /// [`Set::start`] with tests that ask the origin for `path`.
    fn testing_with(path: &str, settings: &[&str]) -> Option<Self> {
        let desktop = Desktop::start()?;
        let lab = Lab::start(KIND)?;
        let url = format!("testing.url = \"{}\"", lab.origin.url(path));
        let (mut daemon, first) = lab.root(KIND, &[&[url.as_str()], settings].concat());
        let second = daemon.import(&[lab.server.link("vmess-tcp-none")])[0];
        daemon.set_env("DBUS_SESSION_BUS_ADDRESS", desktop.bus.address());
        daemon.run();
        desktop.bus.wait_for_name();
        Some(Self { desktop, lab, daemon, ids: vec![first, second] })
    }

    /// [`Set::start`] with a panel and a tray.
    fn with_tray(settings: &[&str]) -> Option<Self> {
        Self::start(settings).map(Self::and_tray)
    }

    /// Adds a panel and a tray.
    fn and_tray(mut self) -> Self {
        let set = &mut self;
        set.desktop.panel();
        set.desktop.tray(set.daemon.root());
        set.shows("xrat-disconnected", "Disconnected");
        self
    }

    fn connect(&self, which: usize) {
        self.desktop.bus.call(RUNTIME, "Connect", &["x", &self.ids[which].to_string()]);
    }

    /// The config of the session.
    fn active(&self) -> Option<i64> {
        self.desktop.bus.get(RUNTIME, "Session")["config_id"].as_i64()
    }

    /// Waits until the item has this icon, and this title in its tooltip.
    #[track_caller]
    fn shows(&self, icon: &str, title: &str) {
        let wanted = Some((icon.to_owned(), title.to_owned()));
        let mut seen = None;
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait_for_within(TRUTH, title, || {
                seen = self.desktop.shown();
                (seen == wanted).then_some(())
            });
        }));
        assert!(found.is_ok(), "the tray shows {seen:?} and not {wanted:?}; it said:\n{}", self.tray_log());
    }

    /// Waits until the panel itself has an icon in this colour, and gives its place.
    #[track_caller]
    fn painted(&self, colour: Colour) -> Area {
        let least = if colour == GREY { FRAME } else { TILE };
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait_for_within(TRUTH, "an icon on the panel", || self.desktop.picture().find(colour, least, PANEL))
        }));
        found.unwrap_or_else(|_| {
            self.desktop.picture().keep("not-painted");
            panic!("no icon in {colour:x?}; the panel said:\n{}", self.desktop.log("xfce4-panel"))
        })
    }

    fn tray_log(&self) -> String {
        self.desktop.log("xrat-tray")
    }
}
