//! The StatusNotifierItem: a [`Model`] as icon, tooltip and menu, and choices from the menu back to the tray.

use async_channel::Sender;
use chrono::Utc;
use ksni::menu::{CheckmarkItem, StandardItem, SubMenu};
use ksni::{Icon, MenuItem, Status, ToolTip, Tray};

use crate::icons;
use crate::menu::{self, Entry};
use crate::model::{Action, Look, Model};
use crate::words;

/// What a panel asks for.
#[derive(Debug)]
pub(crate) enum Asked {
    /// The menu is about to be looked at.
    Opened,
    /// Something was chosen.
    Chosen(Action),
}

/// The item on the panel.
pub(crate) struct Item {
    /// What is shown.
    pub(crate) model: Model,
    /// Unbounded: a callback of ksni's must not wait.
    pub(crate) asked: Sender<Asked>,
}

impl Item {
    fn ask(&self, asked: Asked) {
        // Closed only while the tray ends.
        let _ = self.asked.try_send(asked);
    }
}

impl Tray for Item {
    /// A left click opens the menu, too.
    const MENU_ON_ACTIVATE: bool = true;

    fn id(&self) -> String {
        "xrat".into()
    }

    fn title(&self) -> String {
        "xrat".into()
    }

    fn status(&self) -> Status {
        // Panels that hide quiet items show this one.
        if self.model.look() == Look::Failed { Status::NeedsAttention } else { Status::Active }
    }

    fn icon_name(&self) -> String {
        self.model.look().icon_name().into()
    }

    fn icon_pixmap(&self) -> Vec<Icon> {
        icons::pixmaps(self.model.look())
    }

    fn attention_icon_name(&self) -> String {
        self.icon_name()
    }

    fn attention_icon_pixmap(&self) -> Vec<Icon> {
        self.icon_pixmap()
    }

    fn tool_tip(&self) -> ToolTip {
        let lines = [menu::details(&self.model, Utc::now()), self.model.complaint.clone()];
        let lines: Vec<_> = lines.into_iter().flatten().map(|line| words::escape(&line)).collect();
        ToolTip { title: menu::headline(&self.model), description: lines.join("  ·  "), ..ToolTip::default() }
    }

    fn menu(&self) -> Vec<MenuItem<Self>> {
        menu::entries(&self.model, Utc::now()).into_iter().map(convert).collect()
    }

    fn menu_about_to_show(&mut self) {
        self.ask(Asked::Opened);
    }
}

fn convert(entry: Entry) -> MenuItem<Item> {
    match entry {
        Entry::Separator => MenuItem::Separator,
        Entry::Menu { label, entries } => SubMenu {
            label: literal(&label),
            submenu: entries.into_iter().map(convert).collect(),
            ..SubMenu::default()
        }
        .into(),
        Entry::Item { label, visible, action, checked } => {
            let (label, enabled) = (literal(&label), action.is_some());
            let activate = Box::new(move |item: &mut Item| {
                if let Some(action) = &action {
                    item.ask(Asked::Chosen(action.clone()));
                }
            });
            match checked {
                Some(checked) => {
                    CheckmarkItem { label, visible, enabled, checked, activate, ..CheckmarkItem::default() }.into()
                }
                None => StandardItem { label, visible, enabled, activate, ..StandardItem::default() }.into(),
            }
        }
    }
}

/// An underscore would make the next letter an access key.
fn literal(label: &str) -> String {
    label.replace('_', "__")
}
