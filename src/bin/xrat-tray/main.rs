//! The `xrat-tray` program: the daemon's state on the panel, a menu, and notifications; a D-Bus client and nothing else.

mod bus;
mod clipboard;
mod daemon;
mod icons;
mod item;
mod menu;
mod model;
mod notices;
mod notifications;
mod notifier;
mod panel;
mod reading;
mod tray;
mod words;

use std::path::PathBuf;
use std::pin::pin;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use argh::FromArgs;
use async_io::Timer;
use futures::future::{Either, select};
use smol::LocalExecutor;
use xrat::paths::Paths;
use zbus::Connection;

use crate::bus::BusError;
use crate::notices::{Pace, Watch};
use crate::tray::{End, Memory};

/// A bus that does not answer by then is none.
const BUS_TIMEOUT: Duration = Duration::from_secs(5);
/// After the bus went away it is looked for at once, then less often.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// And so long. A desktop whose bus is gone for longer is over, and the next login starts another tray.
const PATIENCE: Duration = Duration::from_secs(60);

/// Shows xrat on the desktop's panel: state, menu and notifications. It needs the daemon's D-Bus interface only, starts
/// before or after the daemon, and never starts it by itself.
#[derive(FromArgs)]
struct Arguments {
    /// the daemon's root directory, as for xrat itself: its config.toml says which notifications are wanted
    #[argh(option)]
    root: Option<PathBuf>,

    /// print the version
    #[argh(switch)]
    version: bool,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    let words: Vec<&str> = words.iter().skip(1).map(String::as_str).collect();
    let arguments = match Arguments::from_args(&["xrat-tray"], &words) {
        Ok(arguments) => arguments,
        Err(exit) if exit.status.is_ok() => {
            print!("{}", exit.output);
            return ExitCode::SUCCESS;
        }
        Err(exit) => {
            eprint!("{}", exit.output);
            return ExitCode::from(2);
        }
    };
    if arguments.version {
        println!("xrat-tray {}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    let settings = Paths::resolve(arguments.root.as_deref()).map(|paths| paths.settings());
    let settings = settings.inspect_err(|error| eprintln!("xrat-tray: {error}; every notification is shown")).ok();
    let memory = Memory { settings, watch: Watch::default(), pace: Pace::new() };
    let executor = LocalExecutor::new();
    match async_io::block_on(executor.run(live(&executor, memory))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xrat-tray: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Why the tray ends.
#[derive(Debug, thiserror::Error)]
enum Fatal {
    #[error("there is no session bus ({0}): a tray needs a desktop session")]
    NoBus(zbus::Error),
    #[error("the session bus has been gone for a minute: the desktop session is over")]
    Gone,
    #[error(transparent)]
    Bus(#[from] BusError),
    #[error("the panel does not take the icon: {0}")]
    Refused(ksni::Error),
}

/// Stays on the bus, and on the next one when it goes away.
async fn live(executor: &LocalExecutor<'_>, mut memory: Memory) -> Result<(), Fatal> {
    let mut lost_at: Option<Instant> = None;
    let mut pause = FIRST_PAUSE;
    loop {
        match connect().await {
            Ok(bus) => {
                let work = bus.executor().clone();
                // Nothing is read from the bus unless this runs.
                let _ticker = executor.spawn(async move {
                    loop {
                        work.tick().await;
                    }
                });
                let begun = Instant::now();
                match on(&bus, executor, &mut memory).await? {
                    End::Quit => return Ok(()),
                    End::Refused(error) => return Err(Fatal::Refused(error)),
                    End::Lost => eprintln!("xrat-tray: the session bus is gone; another one is looked for"),
                }
                lost_at = Some(Instant::now());
                // One that throws us out again and again is not asked all the time.
                if begun.elapsed() > BUS_TIMEOUT {
                    pause = FIRST_PAUSE;
                }
            }
            Err(error) => match lost_at {
                None => return Err(Fatal::NoBus(error)),
                Some(at) if at.elapsed() > PATIENCE => return Err(Fatal::Gone),
                Some(_) => {}
            },
        }
        Timer::after(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn connect() -> zbus::Result<Connection> {
    match select(pin!(bus::connect()), Timer::after(BUS_TIMEOUT)).await {
        Either::Left((bus, _)) => bus,
        Either::Right(_) => Err(zbus::Error::Failure("it does not answer".into())),
    }
}

/// On this bus until its end. Losing it in the first question is losing it.
async fn on(bus: &Connection, executor: &LocalExecutor<'_>, memory: &mut Memory) -> Result<End, BusError> {
    match bus::be_the_only_one(bus).await {
        Ok(()) => Ok(tray::live(bus, executor, memory).await),
        Err(error @ BusError::Running { .. }) => Err(error),
        Err(BusError::Bus(_)) => Ok(End::Lost),
    }
}
