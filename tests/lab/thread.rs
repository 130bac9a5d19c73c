//! A thread with an executor of its own: everything spawned on it ends, and closes its sockets, on drop.

use std::future::Future;
use std::rc::Rc;
use std::thread::JoinHandle;

use smol::LocalExecutor;
use smol::channel::{Sender, bounded};
use smol::future::FutureExt as _;

/// Spawns tasks on the thread it belongs to.
pub type Spawner = Rc<LocalExecutor<'static>>;

/// A running thread.
pub struct Running {
    stop: Sender<()>,
    thread: Option<JoinHandle<()>>,
}

/// Runs `main` and whatever it spawns until the result is dropped.
pub fn run<F: Future<Output = ()>>(name: &str, main: impl FnOnce(Spawner) -> F + Send + 'static) -> Running {
    let (stop, stopped) = bounded::<()>(1);
    let thread = std::thread::Builder::new()
        .name(format!("lab-{name}"))
        .spawn(move || {
            let executor = Spawner::default();
            let until_dropped = async {
                let _ = stopped.recv().await;
            };
            let work = async {
                main(Rc::clone(&executor)).await;
                // The tasks it spawned go on.
                std::future::pending::<()>().await;
            };
            smol::block_on(executor.run(until_dropped.or(work)));
        })
        .unwrap();
    Running { stop, thread: Some(thread) }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.close();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            if !std::thread::panicking() {
                ended.expect("a part of the lab panicked, see above");
            }
        }
    }
}
