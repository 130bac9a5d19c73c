//! Every step of a change may be the last one: a desktop that loses its power after any write.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};

use super::*;

type Values = HashMap<String, String>;

/// Keeps settings, and takes so many writes and no more.
struct Memory {
    values: RefCell<Values>,
    writes_left: Cell<usize>,
}

impl Desktop for Memory {
    fn name(&self) -> DesktopName {
        DesktopName::Gnome
    }

    fn ours(&self, servers: &Servers) -> Vec<(&'static str, String)> {
        vec![
            ("host", servers.socks.ip().to_string()),
            ("port", servers.socks.port().to_string()),
            ("mode", "on".into()),
        ]
    }

    fn read(&self) -> Result<Values, SystemProxyError> {
        Ok(self.values.borrow().clone())
    }

    fn write(&self, key: &str, value: Option<&str>) -> Result<String, SystemProxyError> {
        let left = self.writes_left.get().checked_sub(1);
        self.writes_left.set(left.ok_or_else(|| std::io::Error::other("the power is gone")).map_err(failed)?);
        match value {
            Some(value) => self.values.borrow_mut().insert(key.to_owned(), value.to_owned()),
            None => self.values.borrow_mut().remove(key),
        };
        Ok(String::new())
    }

    fn tell(&self) {}

    fn place(&self) -> &Path {
        Path::new("memory")
    }
}

fn failed(source: std::io::Error) -> SystemProxyError {
    SystemProxyError::File { path: PathBuf::from("memory"), source }
}

struct Scene {
    root: PathBuf,
    lock: Lock,
    desktop: Memory,
}

impl Scene {
    fn new(values: &[(&str, &str)]) -> Self {
        let number = uuid::Uuid::new_v4().simple().to_string();
        let root = std::env::temp_dir().join(format!("xrat-{}", &number[..12]));
        let paths = Paths::resolve(Some(&root)).unwrap();
        paths.create().unwrap();
        let lock = Lock::take(&paths).unwrap();
        let desktop = Memory { values: RefCell::new(own(values)), writes_left: Cell::new(usize::MAX) };
        Self { root, lock, desktop }
    }

    /// Points at a port; the power goes after so many writes.
    fn point(&self, port: u16, asked: Asked, writes: usize) -> bool {
        self.desktop.writes_left.set(writes);
        let servers = Servers { socks: ([127, 0, 0, 1], port).into(), http: None };
        // Nothing of what was in memory survives: the state is what the file says.
        let mut state = self.lock.read().unwrap();
        point_one(&self.lock, &mut state, &self.desktop, servers, asked, &mut Report::default()).is_ok()
    }

    fn restore(&self, writes: usize) -> bool {
        self.desktop.writes_left.set(writes);
        let mut state = self.lock.read().unwrap();
        restore_one(&self.lock, &mut state, &self.desktop, &mut Report::default()).is_ok()
    }

    fn set(&self, key: &str, value: &str) {
        self.desktop.values.borrow_mut().insert(key.to_owned(), value.to_owned());
    }

    fn values(&self) -> Values {
        self.desktop.values.borrow().clone()
    }

    #[track_caller]
    fn is_restored_to(&self, values: &Values) {
        assert!(self.restore(usize::MAX));
        assert_eq!(self.values(), *values);
        assert_eq!(self.lock.read().unwrap().desktops, []);
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

fn own(values: &[(&str, &str)]) -> Values {
    values.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn pointed(port: &str) -> Values {
    own(&[("host", "127.0.0.1"), ("port", port), ("mode", "on")])
}

/// Nothing set, some of it, all of it, and what happens to be ours already.
const USERS: [&[(&str, &str)]; 4] = [
    &[],
    &[("mode", "off")],
    &[("host", "proxy.example"), ("port", "3128"), ("mode", "on")],
    &[("host", "127.0.0.1"), ("port", "1"), ("mode", "auto")],
];

#[test]
fn wherever_it_ends_the_own_values_come_back() {
    for user in USERS {
        for at in 0..=3 {
            // On, its end, off.
            let scene = Scene::new(user);
            scene.point(1, Asked::BySession, at);
            scene.is_restored_to(&own(user));
            // On, its end, on again to the end, off.
            let scene = Scene::new(user);
            scene.point(1, Asked::BySession, at);
            assert!(scene.point(1, Asked::BySession, usize::MAX));
            assert_eq!(scene.values(), pointed("1"));
            scene.is_restored_to(&own(user));
            // On, moved, its end, off; and on again at a third place.
            let scene = Scene::new(user);
            assert!(scene.point(1, Asked::BySession, usize::MAX));
            scene.point(2, Asked::BySession, at);
            scene.point(3, Asked::BySession, at);
            assert!(scene.point(4, Asked::BySession, usize::MAX));
            assert_eq!(scene.values(), pointed("4"));
            scene.point(5, Asked::BySession, at);
            scene.is_restored_to(&own(user));
            // Off, its end, off again; or on again.
            let scene = Scene::new(user);
            assert!(scene.point(1, Asked::BySession, usize::MAX));
            scene.restore(at);
            scene.is_restored_to(&own(user));
            assert!(scene.point(1, Asked::BySession, usize::MAX));
            scene.restore(at);
            assert!(scene.point(1, Asked::BySession, usize::MAX));
            assert_eq!(scene.values(), pointed("1"), "{user:?} after {at}");
            scene.is_restored_to(&own(user));
        }
    }
}

#[test]
fn what_the_user_changed_meanwhile_is_the_users() {
    for user in USERS {
        for key in ["host", "port", "mode"] {
            let mut left = own(user);
            left.insert(key.to_owned(), "mine".to_owned());
            let changed = || {
                let scene = Scene::new(user);
                assert!(scene.point(1, Asked::BySession, usize::MAX));
                scene.set(key, "mine");
                scene
            };
            changed().is_restored_to(&left);
            // The session moves, twice.
            let scene = changed();
            assert!(scene.point(2, Asked::BySession, usize::MAX) && scene.point(3, Asked::BySession, usize::MAX));
            let mut moved = pointed("3");
            moved.insert(key.to_owned(), "mine".to_owned());
            assert_eq!(scene.values(), moved);
            scene.is_restored_to(&left);
            // The user wants it again.
            let scene = changed();
            assert!(scene.point(1, Asked::ByUser, usize::MAX));
            assert_eq!(scene.values(), pointed("1"));
            scene.is_restored_to(&left);
        }
    }
}

#[test]
fn what_the_user_took_back_to_what_it_was_stays_so_when_the_session_moves() {
    let scene = Scene::new(&[("mode", "off")]);
    assert!(scene.point(1, Asked::BySession, usize::MAX));
    scene.set("mode", "off");
    assert!(scene.point(2, Asked::BySession, usize::MAX));
    assert_eq!(scene.values()["mode"], "off");
    scene.is_restored_to(&own(&[("mode", "off")]));
}
