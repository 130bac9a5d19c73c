//! The tray on one bus: everything that happens comes together here, and nothing here waits for anybody.

use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use async_channel::{Receiver, Sender};
use async_io::Timer;
use futures::future::{FutureExt, select};
use smol::{LocalExecutor, Task};
use xrat::settings::{Notice as Kind, Settings};
use zbus::Connection;
use zbus::zvariant::OwnedObjectPath;

use crate::bus::{self, Name, News, PATH};
use crate::daemon::{self, Reader, Reading};
use crate::item::Asked;
use crate::model::{Action, Daemon, Model, Progress};
use crate::notices::{Change, Pace, Watch};
use crate::notifier::{self, Order};
use crate::panel::{self, Panel};
use crate::reading::Dict;
use crate::{clipboard, words};

/// So long a notification service may take with the last order.
const FAREWELL: Duration = Duration::from_secs(1);

/// Why the tray is not on this bus any more.
#[derive(Debug)]
pub(crate) enum End {
    /// The user chose to quit.
    Quit,
    /// The bus is gone.
    Lost,
    /// No panel takes the item.
    Refused(ksni::Error),
}

/// What outlives a bus.
pub(crate) struct Memory {
    /// Where `config.toml` is; it says which notifications are wanted.
    pub(crate) settings: Option<PathBuf>,
    /// What was seen, so that a new bus is no news.
    pub(crate) watch: Watch,
    pub(crate) pace: Pace,
}

/// How something that was asked for ended.
struct Outcome {
    action: Action,
    result: Result<Done, String>,
}

enum Done {
    Well,
    /// A test runs as this job.
    Testing(OwnedObjectPath, Progress),
    /// Nothing took this text into the clipboard.
    NoClipboard(String),
}

struct Tray<'t> {
    bus: &'t Connection,
    executor: Rc<LocalExecutor<'static>>,
    memory: &'t mut Memory,
    model: Model,
    panel: Panel,
    reader: Reader,
    orders: Sender<Order>,
    outcomes: Sender<Outcome>,
    /// Whether there is a daemon on the bus; without one an answer that comes late is not the truth.
    present: bool,
    job: Option<OwnedObjectPath>,
    /// Jobs that ended since a test was asked for: the answer with its path may come after its end.
    ended: Vec<String>,
}

/// Shows the daemon on the panel until the user quits or the bus goes away.
pub(crate) async fn live(bus: &Connection, executor: &LocalExecutor<'_>, memory: &mut Memory) -> End {
    let (news_in, news) = async_channel::unbounded();
    let (readings_in, readings) = async_channel::unbounded();
    let (asked_in, asked) = async_channel::unbounded();
    let (outcomes_in, outcomes) = async_channel::unbounded();
    let (orders_in, orders) = async_channel::unbounded();
    let (chosen_in, chosen) = async_channel::unbounded();
    let (reader, unread) = Reader::new();
    let (panel, shown) = Panel::new();
    // Of this call only: it ends with the connection.
    let work = Rc::new(LocalExecutor::new());
    let following = {
        let bus = bus.clone();
        async move {
            if let Err(error) = bus::follow(&bus, news_in).await {
                eprintln!("xrat-tray: {error}");
            }
        }
    };
    let tasks = [
        executor.spawn(following),
        executor.spawn({
            let bus = bus.clone();
            async move { daemon::read(&bus, unread, readings_in).await }
        }),
    ];
    let notifier = executor.spawn({
        let bus = bus.clone();
        async move { notifier::run(&bus, orders, chosen_in).await }
    });
    let on_panel = executor.spawn(panel::run(shown, asked_in));
    let tray = Tray {
        bus,
        executor: Rc::clone(&work),
        memory,
        model: Model::default(),
        panel,
        reader,
        orders: orders_in,
        outcomes: outcomes_in,
        present: false,
        job: None,
        ended: Vec::new(),
    };
    let end = work.run(tray.run(news, readings, asked, outcomes, chosen, on_panel)).await;
    drop(tasks);
    if matches!(end, End::Quit) {
        // It ends with its orders.
        select(notifier, Timer::after(FAREWELL)).await;
    }
    end
}

impl Tray<'_> {
    async fn run(
        mut self,
        news: Receiver<News>,
        readings: Receiver<Reading>,
        asked: Receiver<Asked>,
        outcomes: Receiver<Outcome>,
        chosen: Receiver<Action>,
        on_panel: Task<Result<(), ksni::Error>>,
    ) -> End {
        let bus = self.bus.clone();
        let mut closed = std::pin::pin!(bus.closed().fuse());
        let mut on_panel = on_panel.fuse();
        loop {
            let due = self.memory.pace.due();
            let mut due = due.map_or_else(Timer::never, Timer::at).fuse();
            futures::select! {
                () = closed => return End::Lost,
                told = news.recv().fuse() => match told {
                    Ok(told) => self.hear(told),
                    Err(_) => return End::Lost,
                },
                reading = readings.recv().fuse() => if let Ok(reading) = reading { self.take(reading) },
                asked = asked.recv().fuse() => match asked {
                    Ok(Asked::Opened) if self.present => self.reader.state(),
                    Ok(Asked::Chosen(Action::Quit)) => {
                        // Nobody would hear what is chosen in it.
                        self.order(Some(Order::Withdraw));
                        return End::Quit;
                    }
                    Ok(Asked::Chosen(action)) => self.act(action),
                    _ => {}
                },
                action = chosen.recv().fuse() => if let Ok(action) = action { self.act(action) },
                outcome = outcomes.recv().fuse() => if let Ok(outcome) = outcome { self.finish(outcome) },
                result = on_panel => match result {
                    Err(error) => return End::Refused(error),
                    // ksni's own connection went first.
                    Ok(()) => return End::Lost,
                },
                _ = due => {
                    let notice = self.memory.pace.release(Instant::now());
                    self.order(notice.map(Order::Show));
                }
            }
            self.panel.show(&self.model);
        }
    }

    fn order(&self, order: Option<Order>) {
        if let Some(order) = order {
            // Unbounded, and closed with the tray only.
            let _ = self.orders.try_send(order);
        }
    }

    fn hear(&mut self, news: News) {
        match news {
            News::Owner(Name::Daemon, present) => {
                self.present = present;
                // Another daemon has other jobs.
                (self.job, self.model.test) = (None, None);
                if present {
                    self.reader.state();
                    self.reader.configs();
                } else {
                    self.model = Model { complaint: self.model.complaint.take(), ..Model::default() };
                }
            }
            News::Signal(Name::Daemon, signal) => {
                let header = signal.header();
                let (path, member) = (header.path(), header.member().map(|member| member.as_str()));
                match path.map(|path| path.as_str()) {
                    Some(PATH) if member == Some("Changed") => {
                        self.reader.configs();
                        self.reader.state();
                    }
                    Some(PATH) => self.reader.state(),
                    Some(job) => self.follow_job(job, member, &signal),
                    None => {}
                }
            }
            News::Owner(Name::Notifications, present) => self.order((!present).then_some(Order::Gone)),
            News::Signal(Name::Notifications, signal) => self.order(Some(Order::Signal(signal))),
        }
    }

    fn follow_job(&mut self, path: &str, member: Option<&str>, signal: &zbus::Message) {
        if self.model.test.is_none() {
            return;
        }
        let ours = self.job.as_ref().is_some_and(|job| job.as_str() == path);
        match member {
            Some("Finished") if ours => (self.job, self.model.test) = (None, None),
            Some("Finished") if self.job.is_none() => self.ended.push(path.to_owned()),
            Some("PropertiesChanged") if ours => {
                let changed: Option<(String, Dict, Vec<String>)> = daemon::body(signal);
                let done = changed.and_then(|(_, changed, _)| u32::try_from(changed.get("Done")?).ok());
                if let (Some(test), Some(done)) = (&mut self.model.test, done) {
                    test.done = done;
                }
            }
            _ => {}
        }
    }

    fn take(&mut self, reading: Reading) {
        if !self.present {
            return;
        }
        match reading {
            Reading::Configs(configs) => self.model.configs = configs,
            Reading::Daemon(daemon) => {
                // Another node is news enough to forget what went wrong before. Anything less may be part of it.
                let node = |daemon: &Daemon| daemon.session.as_ref().map(|session| session.config_id);
                let before = self.model.daemon.as_ref().and_then(node);
                if node(&daemon).is_some_and(|now| before != Some(now)) {
                    self.model.complaint = None;
                }
                self.model.daemon = Some(daemon);
                self.tell();
            }
            Reading::Failed(error) => match &error {
                zbus::Error::MethodError(name, ..) if name.starts_with(bus::DAEMON) => {
                    self.model.complaint = Some(daemon::words(&error));
                }
                // That it is gone is told by the bus itself.
                zbus::Error::MethodError(..) => {}
                _ => self.model.complaint = Some("the daemon does not answer".into()),
            },
        }
    }

    /// Notifies of what is new.
    fn tell(&mut self) {
        match self.memory.watch.see(&self.model) {
            None => {}
            Some(Change::Show(notice)) if self.wants(notice.kind) => {
                let notice = self.memory.pace.offer(notice, Instant::now());
                self.order(notice.map(Order::Show));
            }
            // What is not told must not leave the opposite on the screen.
            Some(Change::Show(notice)) if notice.kind != Kind::Recovered => {}
            Some(Change::Show(_) | Change::Withdraw) => {
                self.memory.pace.forget();
                self.order(Some(Order::Withdraw));
            }
        }
    }

    /// Whether the settings want to be told of this. Read anew each time: it is rare, and then no restart is needed.
    fn wants(&self, kind: Kind) -> bool {
        let Some(file) = &self.memory.settings else { return true };
        match Settings::load(file) {
            Ok((settings, _)) => settings.desktop.notify.contains(&kind),
            Err(error) => {
                eprintln!("xrat-tray: {error}; every notification is shown");
                true
            }
        }
    }

    fn act(&mut self, action: Action) {
        self.model.complaint = None;
        let daemon = self.model.daemon.as_ref();
        let session = daemon.and_then(|daemon| daemon.session.as_ref());
        let (bus, outcomes) = (self.bus.clone(), self.outcomes.clone());
        match &action {
            Action::Test => {
                self.model.test = Some(Progress::default());
                self.ended.clear();
            }
            Action::Connect(id) if session.is_some_and(|session| session.config_id == *id) => return,
            _ => {}
        }
        let has_session = daemon.is_some_and(Daemon::wants_session);
        let socks = session.map(|session| format!("socks5h://{}", session.socks));
        let job = self.job.clone();
        let work = async move {
            let result = carry_out(&bus, &action, has_session, socks, job).await;
            let result = result.map_err(|error| daemon::words(&error));
            // Closed only while the tray ends.
            let _ = outcomes.try_send(Outcome { action, result });
        };
        self.executor.spawn(work).detach();
    }

    fn finish(&mut self, outcome: Outcome) {
        match outcome.result {
            Ok(Done::Well) => {}
            Ok(Done::Testing(job, progress)) => {
                let ended = self.ended.drain(..).any(|path| path == job.as_str());
                let running = !ended && self.present;
                self.model.test = running.then_some(progress);
                self.job = running.then_some(job);
            }
            Ok(Done::NoClipboard(text)) => {
                let summary = format!("The proxy is {text}");
                let body = "Nothing here takes it into the clipboard: install wl-clipboard, xclip or xsel.".into();
                self.order(Some(Order::Answer { summary, body }));
            }
            Err(error) => {
                if outcome.action == Action::Test {
                    self.model.test = None;
                }
                eprintln!("xrat-tray: {}: {error}", asked_for(&outcome.action));
                let summary = format!("xrat could not {}", asked_for(&outcome.action));
                self.order(Some(Order::Answer { summary, body: error.clone() }));
                self.model.complaint = Some(words::line(&error));
            }
        }
    }
}

async fn carry_out(
    bus: &Connection,
    action: &Action,
    has_session: bool,
    socks: Option<String>,
    job: Option<OwnedObjectPath>,
) -> zbus::Result<Done> {
    match action {
        Action::Test => {
            let job = daemon::test(bus).await?;
            let (done, total) = daemon::progress(bus, &job).await?;
            return Ok(Done::Testing(job, Progress { done, total }));
        }
        Action::StopTest => {
            if let Some(job) = job {
                daemon::stop_test(bus, &job).await?;
            }
        }
        Action::Copy => {
            if let Some(socks) = socks
                && !clipboard::copy(bus, &socks).await
            {
                return Ok(Done::NoClipboard(socks));
            }
        }
        other => daemon::ask(bus, other, has_session).await?,
    }
    Ok(Done::Well)
}

/// What the user wanted, after "could not".
fn asked_for(action: &Action) -> &'static str {
    match action {
        Action::Connect(_) => "connect",
        Action::Rotate => "rotate",
        Action::Automatic(true) => "switch automatic rotation on",
        Action::Automatic(false) => "switch automatic rotation off",
        Action::Test => "test the configs",
        Action::StopTest => "stop the test",
        Action::Copy => "copy the address",
        Action::Disconnect => "disconnect",
        Action::Start => "start the daemon",
        Action::Quit => "quit",
    }
}
