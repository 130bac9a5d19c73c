//! What happens to the settings of a desktop: pointed at the session, moved with it, given back.
//!
//! The rule that all of it follows: the journal says what a key was and what it will be before the key is changed, and a
//! key whose value is not one of ours any more is the user's again. So every step may be the last one: whoever comes
//! next reads the journal, looks at the settings and goes on.

use std::collections::HashMap;

use serde::Serialize;

use super::gsettings::Gsettings;
use super::journal::{self, Kept, Lock, State, Value};
use super::kde::Kde;
use super::{Desktop, DesktopName, Present, Servers, SystemProxyError};
use crate::config::Secret;
use crate::paths::Paths;

/// Who wants the settings to point at the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// The user, just now: also keys that were taken back meanwhile.
    ByUser,
    /// The session, which has begun or moved: only keys that are still ours.
    BySession,
}

/// What was done.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Desktops whose settings were changed.
    pub changed: Vec<DesktopName>,
    /// Keys that are the user's own now, and were left alone.
    pub left_alone: Vec<(DesktopName, String)>,
    /// What went wrong, desktop by desktop.
    pub problem: Option<String>,
}

/// What the file says of the system proxy, without a look at the desktop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// What the user said last; none: what `config.toml` says.
    pub switch: Option<bool>,
    /// Where the settings point to, and of which desktops.
    pub on: Option<(Servers, Vec<DesktopName>)>,
    /// What went wrong the last time.
    pub problem: Option<String>,
}

/// How the settings of a desktop are now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Points {
    /// Nothing of ours is in them.
    No,
    /// They point at the session.
    Yes,
    /// Some keys do; the others are the user's own again, or were not written.
    Partly,
}

/// One desktop, looked at.
#[derive(Debug, Serialize)]
pub struct Look {
    /// The desktop.
    pub desktop: DesktopName,
    /// Whether it has settings here that can be changed.
    pub found: bool,
    /// What is missing or wrong.
    pub problem: Option<String>,
    /// How its settings are.
    pub points_here: Points,
    /// Keys that xrat had written and somebody has changed.
    pub changed_since: Vec<String>,
}

/// Sets what the user said last.
///
/// Blocks, as all that follows: for the lock, and for the desktop's tools, which have a few seconds each.
///
/// # Errors
/// When the journal cannot be read or written.
pub fn switch(paths: &Paths, on: bool) -> Result<(), SystemProxyError> {
    let lock = Lock::take(paths)?;
    let state = lock.read()?;
    save(&lock, &state, State { switch: Some(on), ..state.clone() })
}

/// Points the settings of all desktops at `servers`.
///
/// # Errors
/// When there is no desktop, or the journal cannot be used. What goes wrong with one desktop is in the report.
pub fn point(paths: &Paths, servers: Servers, asked: Asked) -> Result<Report, SystemProxyError> {
    point_with(paths, &Lock::take(paths)?, servers, asked)
}

/// Gives all desktops their own values back, where the present one is still ours.
///
/// # Errors
/// When the journal cannot be used. What goes wrong with one desktop is in the report, and kept for the next time.
pub fn restore(paths: &Paths) -> Result<Report, SystemProxyError> {
    restore_with(paths, &Lock::take(paths)?)
}

/// What the file says. Does not wait for anybody.
///
/// # Errors
/// When the journal cannot be read.
pub fn summary(paths: &Paths) -> Result<Summary, SystemProxyError> {
    let state = journal::read(&paths.system_proxy())?;
    let on = state.desktops.first().map(|first| {
        let names = state.desktops.iter().map(|kept| kept.desktop).collect();
        (first.servers, names)
    });
    Ok(Summary { switch: state.switch, on, problem: state.problem })
}

/// Looks at every desktop.
///
/// # Errors
/// When the journal cannot be used.
pub fn look(paths: &Paths) -> Result<Vec<Look>, SystemProxyError> {
    let lock = Lock::take(paths)?;
    let state = lock.read()?;
    let looked = Found::look(paths, &lock).0.into_iter().map(|(desktop, present)| {
        let kept = state.kept(desktop);
        let none = Look { desktop, found: true, problem: None, points_here: Points::No, changed_since: Vec::new() };
        let unknown = if kept.is_some() { Points::Partly } else { Points::No };
        match present {
            Present::Here(here) => match (here.read(), kept) {
                (Ok(now), Some(kept)) => compare(kept, &now, none),
                (Ok(_), None) => none,
                (Err(error), _) => Look { problem: Some(error.to_string()), points_here: unknown, ..none },
            },
            Present::Missing(what) => {
                Look { found: false, problem: Some(format!("{what} is missing")), points_here: unknown, ..none }
            }
            Present::Broken(error) => Look { problem: Some(error.to_string()), points_here: unknown, ..none },
        }
    });
    Ok(looked.collect())
}

fn compare(kept: &Kept, now: &HashMap<String, String>, look: Look) -> Look {
    let (ours, others): (Vec<_>, Vec<_>) =
        kept.values.iter().partition(|value| value.is_ours(now.get(&value.key).map(String::as_str)));
    let points_here = match (ours.is_empty(), others.is_empty()) {
        (false, true) => Points::Yes,
        (true, _) => Points::No,
        (false, false) => Points::Partly,
    };
    let changed = others.into_iter().filter(|value| kept.complete || !value.is_before(now));
    let changed_since = changed.map(|value| value.key.clone()).collect();
    Look { points_here, changed_since, ..look }
}

/// The desktops of this machine.
struct Found<'l>(Vec<(DesktopName, Present<Box<dyn Desktop + 'l>>)>);

impl<'l> Found<'l> {
    fn look(paths: &Paths, lock: &'l Lock) -> Self {
        Self(vec![
            (DesktopName::Gnome, boxed(Gsettings::find(paths, lock))),
            (DesktopName::Kde, boxed(Kde::find(lock))),
        ])
    }
}

fn boxed<'l, T: Desktop + 'l>(present: Present<T>) -> Present<Box<dyn Desktop + 'l>> {
    match present {
        Present::Here(desktop) => Present::Here(Box::new(desktop)),
        Present::Missing(what) => Present::Missing(what),
        Present::Broken(error) => Present::Broken(error),
    }
}

/// [`point`] by who has the lock.
pub(super) fn point_with(
    paths: &Paths,
    lock: &Lock,
    servers: Servers,
    asked: Asked,
) -> Result<Report, SystemProxyError> {
    let mut state = lock.read()?;
    let is_done = |kept: &Kept| kept.complete && kept.servers == servers;
    if asked == Asked::BySession
        && state.problem.is_none()
        && !state.desktops.is_empty()
        && state.desktops.iter().all(is_done)
    {
        return Ok(Report::default());
    }
    let (mut report, mut problems, mut missing) = (Report::default(), Vec::new(), Vec::new());
    let mut any = false;
    for (name, present) in Found::look(paths, lock).0 {
        let pointed = match present {
            Present::Here(desktop) => point_one(lock, &mut state, &*desktop, servers, asked, &mut report),
            Present::Broken(error) => Err(error),
            Present::Missing(what) => {
                missing.push(format!("{name} lacks {what}"));
                continue;
            }
        };
        any = true;
        problems.extend(pointed.err().map(|error| error.to_string()));
    }
    if !any {
        problems.push(SystemProxyError::NoDesktop { missing: missing.join("; ") }.to_string());
    }
    report.problem = (!problems.is_empty()).then(|| problems.join("; "));
    save(lock, &state, State { problem: report.problem.clone(), ..state.clone() })?;
    if any { Ok(report) } else { Err(SystemProxyError::NoDesktop { missing: missing.join("; ") }) }
}

/// [`restore`] by who has the lock.
pub(super) fn restore_with(paths: &Paths, lock: &Lock) -> Result<Report, SystemProxyError> {
    let mut state = lock.read()?;
    let (mut report, mut problems) = (Report::default(), Vec::new());
    if !state.desktops.is_empty() {
        for (desktop, present) in Found::look(paths, lock).0 {
            if state.kept(desktop).is_none() {
                continue;
            }
            let restored = match present {
                Present::Here(desktop) => restore_one(lock, &mut state, &*desktop, &mut report),
                Present::Broken(error) => Err(error),
                Present::Missing(missing) => Err(SystemProxyError::Gone { desktop, missing }),
            };
            problems.extend(restored.err().map(|error| error.to_string()));
        }
    }
    report.problem = (!problems.is_empty()).then(|| problems.join("; "));
    save(lock, &state, State { problem: report.problem.clone(), ..state.clone() })?;
    Ok(report)
}

/// Writes what has changed, and nothing when nothing has.
pub(super) fn save(lock: &Lock, old: &State, new: State) -> Result<(), SystemProxyError> {
    if *old == new { Ok(()) } else { lock.write(&new) }
}

fn point_one(
    lock: &Lock,
    state: &mut State,
    desktop: &dyn Desktop,
    servers: Servers,
    asked: Asked,
    report: &mut Report,
) -> Result<(), SystemProxyError> {
    let name = desktop.name();
    let old = state.kept(name).cloned();
    if asked == Asked::BySession && old.as_ref().is_some_and(|old| old.complete && old.servers == servers) {
        return Ok(());
    }
    let present = desktop.read()?;
    let (mut values, mut writes) = (Vec::new(), Vec::new());
    for (key, new) in desktop.ours(&servers) {
        let now = present.get(key);
        let fresh = || Value { key: key.to_owned(), before: now.cloned().map(Secret::new), ours: vec![new.clone()] };
        let before = old.as_ref().and_then(|old| old.values.iter().find(|value| value.key == key));
        let value = match (before, &old) {
            (Some(value), Some(old)) => {
                // In the middle of being written a key may still be as it was.
                let unwritten = !old.complete && !value.ours.is_empty() && value.is_before(&present);
                if value.is_ours(now.map(String::as_str)) || unwritten {
                    let mut value = value.clone();
                    value.ours.retain(|ours| *ours != new);
                    value.ours.push(new.clone());
                    value
                } else if asked == Asked::ByUser {
                    fresh()
                } else {
                    report.left_alone.push((name, key.to_owned()));
                    Value { ours: Vec::new(), ..value.clone() }
                }
            }
            _ => fresh(),
        };
        if !value.ours.is_empty() && now != Some(&new) {
            writes.push((key, new));
        }
        values.push(value);
    }
    state.set(Kept { desktop: name, servers, complete: false, values });
    lock.write(state)?;
    let mut said = String::new();
    for (key, value) in &writes {
        said.push_str(&desktop.write(key, Some(value))?);
    }
    if !writes.is_empty() {
        let wanted = writes.iter().map(|(key, value)| (*key, Some(value.as_str())));
        check(desktop, wanted, &said)?;
        desktop.tell();
        report.changed.push(name);
    }
    if let Some(kept) = state.desktops.iter_mut().find(|kept| kept.desktop == name) {
        kept.complete = true;
        for value in &mut kept.values {
            // The last one is in force; the others were for the time of the change.
            value.ours.drain(..value.ours.len().saturating_sub(1));
        }
    }
    lock.write(state)
}

fn restore_one(
    lock: &Lock,
    state: &mut State,
    desktop: &dyn Desktop,
    report: &mut Report,
) -> Result<(), SystemProxyError> {
    let name = desktop.name();
    let Some(kept) = state.kept(name).cloned() else { return Ok(()) };
    let present = desktop.read()?;
    // From here on a key of ours that is as before is one that was given back, and not one that the user changed.
    state.set(Kept { complete: false, ..kept.clone() });
    lock.write(state)?;
    let (mut written, mut said) = (Vec::new(), String::new());
    // The last that was written is the switch for all others.
    for value in kept.values.iter().rev() {
        let now = present.get(&value.key).map(String::as_str);
        if value.is_before(&present) {
            continue;
        }
        if !value.is_ours(now) {
            report.left_alone.push((name, value.key.clone()));
            continue;
        }
        let before = value.before.as_ref().map(Secret::reveal);
        said.push_str(&desktop.write(&value.key, before)?);
        written.push((value.key.as_str(), before));
    }
    if !written.is_empty() {
        check(desktop, written.iter().copied(), &said)?;
        desktop.tell();
        report.changed.push(name);
    }
    state.desktops.retain(|kept| kept.desktop != name);
    lock.write(state)
}

/// Whether the settings are what they were told to be: a tool may succeed without having written anything.
fn check<'v>(
    desktop: &dyn Desktop,
    wanted: impl Iterator<Item = (&'v str, Option<&'v str>)>,
    said: &str,
) -> Result<(), SystemProxyError> {
    let now = desktop.read()?;
    for (key, wanted) in wanted {
        if now.get(key).map(String::as_str) != wanted {
            return Err(SystemProxyError::NotKept {
                desktop: desktop.name(),
                key: key.to_owned(),
                place: desktop.place().display().to_string(),
                said: if said.is_empty() { String::new() } else { format!(": {said}") },
            });
        }
    }
    Ok(())
}

impl State {
    fn kept(&self, desktop: DesktopName) -> Option<&Kept> {
        self.desktops.iter().find(|kept| kept.desktop == desktop)
    }

    fn set(&mut self, new: Kept) {
        self.desktops.retain(|kept| kept.desktop != new.desktop);
        self.desktops.push(new);
    }
}

impl Value {
    /// Whether the present value is the one that the user had before.
    fn is_before(&self, now: &HashMap<String, String>) -> bool {
        now.get(&self.key).map(String::as_str) == self.before.as_ref().map(Secret::reveal)
    }
}

#[cfg(test)]
mod tests;
