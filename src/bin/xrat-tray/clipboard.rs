//! The clipboard, by the programs that a desktop has for it.
//!
//! On X11 and Wayland text stays in the clipboard only as long as the program that put it there: one of the usual tools
//! does that better than a tray that may end. KDE's Klipper takes it over D-Bus.

use std::io::Write;
use std::process::{Command, Stdio};

use zbus::Connection;

use crate::bus::{Activation, call};

/// A program that reads standard input into the clipboard, and the variable without which it cannot.
const TOOLS: [(&str, &[&str], &str); 3] = [
    ("wl-copy", &[], "WAYLAND_DISPLAY"),
    ("xclip", &["-selection", "clipboard"], "DISPLAY"),
    ("xsel", &["--clipboard", "--input"], "DISPLAY"),
];

/// Puts `text` into the clipboard. Whether anything could take it.
pub(crate) async fn copy(bus: &Connection, text: &str) -> bool {
    let klipper = ("org.kde.klipper", "/klipper", "org.kde.klipper.klipper", "setClipboardContents");
    if call::<_, ()>(bus, klipper, Activation::Never, &(text,)).await.is_ok() {
        return true;
    }
    let text = text.to_owned();
    // They read, go to the background, and end.
    smol::unblock(move || TOOLS.iter().any(|(program, arguments, needs)| run(program, arguments, needs, &text))).await
}

fn run(program: &str, arguments: &[&str], needs: &str, text: &str) -> bool {
    if std::env::var_os(needs).is_none() {
        return false;
    }
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let Ok(mut child) = command.spawn() else { return false };
    let written = child.stdin.take().is_some_and(|mut input| input.write_all(text.as_bytes()).is_ok());
    child.wait().is_ok_and(|status| status.success()) && written
}
