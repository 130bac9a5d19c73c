//! The store against a real file.

use super::*;
use crate::config::{Config, ConfigId, Protocol, Secret, Security, Transport};
use crate::event::{Address, Reason, SessionStatus};
use std::num::NonZeroU16;
use uuid::Uuid;

struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("xrat-store-{}", Uuid::new_v4()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn database(&self) -> PathBuf {
        self.0.join("xrat.db")
    }

    fn open(&self) -> Store {
        Store::open(&self.database()).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn node(name: &str, address: &str) -> Config {
    Config {
        name: name.into(),
        address: address.into(),
        port: NonZeroU16::new(443).unwrap(),
        protocol: Protocol::Trojan { password: Secret::new("hunter2") },
        transport: Transport::Tcp { http_header: None },
        security: Security::None,
    }
}

fn add(
    store: &mut Store,
    configs: &[Config],
    subscription: Option<SubscriptionId>,
    keep: Option<ConfigId>,
) -> Result<Imported, StoreError> {
    store.import(subscription, keep, now(), |importing| configs.iter().try_for_each(|config| importing.add(config)))
}

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000, 0).unwrap()
}

fn begin(store: &mut Store, instance: Uuid) -> crate::event::SessionId {
    let socks = Address { host: "127.0.0.1".into(), port: NonZeroU16::new(18200).unwrap() };
    store
        .begin_session(&NewSession {
            config_id: ConfigId(1),
            config: &node("a", "a.example"),
            owner_instance_id: instance,
            engine: "v2ray",
            engine_version: "4.34.0",
            engine_path: Path::new("/usr/bin/v2ray"),
            boot_id: "boot",
            machine_id: "machine",
            socks: &socks,
            http: None,
            reason: Reason::UserRequested,
            started_at: now(),
        })
        .unwrap()
}

#[test]
fn a_new_database_is_private_marked_and_opens_again() {
    use std::os::unix::fs::PermissionsExt;
    let scratch = Scratch::new();
    let mut store = scratch.open();
    add(&mut store, &[node("a", "a.example")], None, None).unwrap();
    for file in std::fs::read_dir(&scratch.0).unwrap() {
        let file = file.unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o077, 0, "{:?}", file.path());
    }
    assert_eq!(Store::marks(&store.connection).unwrap(), (APPLICATION_ID, MIGRATIONS.len()));
    drop(store);
    assert_eq!(scratch.open().configs(None, Sort::Id).unwrap().len(), 1);
}

#[test]
fn noise_a_foreign_and_a_newer_database_are_refused_and_left_alone() {
    let scratch = Scratch::new();
    std::fs::write(scratch.database(), "x".repeat(5000)).unwrap();
    let error = Store::open(&scratch.database()).unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    assert!(error.to_string().contains("mv "), "{error}");
    assert_eq!(std::fs::read_to_string(scratch.database()).unwrap(), "x".repeat(5000));

    std::fs::remove_file(scratch.database()).unwrap();
    Connection::open(scratch.database()).unwrap().pragma_update(None, "application_id", 7).unwrap();
    assert!(matches!(Store::open(&scratch.database()), Err(StoreError::Foreign(_))));

    std::fs::remove_file(scratch.database()).unwrap();
    scratch.open().connection.pragma_update(None, "user_version", 99).unwrap();
    let error = Store::open(&scratch.database()).unwrap_err().to_string();
    assert!(error.contains("newer xrat (schema 99"), "{error}");
}

#[test]
fn the_same_node_twice_is_one_config_and_keeps_its_name() {
    let scratch = Scratch::new();
    let mut store = scratch.open();
    let done = add(&mut store, &[node("a", "a.example"), node("b", "a.example")], None, None).unwrap();
    assert_eq!((done.added, done.known), (vec![ConfigId(1)], vec![ConfigId(1)]));
    let again = add(&mut store, &[node("c", "a.example")], None, None).unwrap();
    assert_eq!((again.added.len(), again.known.len()), (0, 1));
    assert_eq!(store.config(ConfigId(1)).unwrap().unwrap().config, node("a", "a.example"));
}

#[test]
fn an_id_is_never_used_again() {
    let scratch = Scratch::new();
    let mut store = scratch.open();
    add(&mut store, &[node("a", "a.example")], None, None).unwrap();
    assert!(store.remove(ConfigId(1)).unwrap());
    assert!(!store.remove(ConfigId(1)).unwrap());
    let done = add(&mut store, &[node("a", "a.example")], None, None).unwrap();
    assert_eq!(done.added, vec![ConfigId(2)]);
}

#[test]
fn find_takes_numbers_names_and_parts_and_lists_what_is_ambiguous() {
    let scratch = Scratch::new();
    let mut store = scratch.open();
    let configs = [node("Berlin", "1.example"), node("Berlin fast", "2.example"), node("7", "3.example")];
    add(&mut store, &configs, None, None).unwrap();
    assert_eq!(store.find("2").unwrap(), ConfigId(2));
    assert_eq!(store.find("7").unwrap(), ConfigId(3), "a name of digits that is no id");
    assert_eq!(store.find("Berlin").unwrap(), ConfigId(1), "an exact name wins over a part");
    assert_eq!(store.find("FAST").unwrap(), ConfigId(2));
    let error = store.find("berlin").unwrap_err().to_string();
    assert!(error.contains("1 (Berlin), 2 (Berlin fast)"), "{error}");
    for missing in ["nowhere", "", "99999999999999999999"] {
        assert!(matches!(store.find(missing), Err(FindError::Missing(_))), "{missing}");
    }
}

#[test]
fn an_update_disables_what_is_gone_but_not_the_active_one_and_enables_what_is_back() {
    let scratch = Scratch::new();
    let mut store = scratch.open();
    let url = Secret::new("https://provider.example/token");
    let id = store.subscribe(&url, now()).unwrap();
    assert_eq!(store.subscribe(&url, now()).unwrap(), id);
    let all = [node("a", "a"), node("b", "b"), node("c", "c"), node("d", "d")];
    add(&mut store, &all, Some(id), None).unwrap();
    store.set_enabled(ConfigId(4), false).unwrap();

    let done = add(&mut store, &all[..1], Some(id), Some(ConfigId(2))).unwrap();
    assert_eq!(done.gone, vec![ConfigId(3)], "2 is active, 4 was disabled by the user");
    let state = |store: &Store| -> Vec<_> {
        store.configs(None, Sort::Id).unwrap().into_iter().map(|row| row.disabled).collect()
    };
    assert_eq!(state(&store), [None, None, Some(Disabled::Gone), Some(Disabled::User)]);

    add(&mut store, &all, Some(id), None).unwrap();
    assert_eq!(state(&store), [None, None, None, Some(Disabled::User)], "the user's word stays");
}

#[test]
fn a_node_of_two_subscriptions_is_gone_when_both_lost_it() {
    let scratch = Scratch::new();
    let mut store = scratch.open();
    let one = store.subscribe(&Secret::new("https://one/"), now()).unwrap();
    let two = store.subscribe(&Secret::new("https://two/"), now()).unwrap();
    for id in [one, two] {
        add(&mut store, &[node("a", "a")], Some(id), None).unwrap();
    }
    assert!(add(&mut store, &[], Some(one), None).unwrap().gone.is_empty());
    assert_eq!(add(&mut store, &[], Some(two), None).unwrap().gone, vec![ConfigId(1)]);
}

#[test]
fn removing_a_subscription_removes_what_only_it_had() {
    let scratch = Scratch::new();
    let mut store = scratch.open();
    let one = store.subscribe(&Secret::new("https://one/"), now()).unwrap();
    let two = store.subscribe(&Secret::new("https://two/"), now()).unwrap();
    add(&mut store, &[node("a", "a"), node("b", "b"), node("c", "c")], Some(one), None).unwrap();
    add(&mut store, &[node("b", "b")], Some(two), None).unwrap();
    assert_eq!(store.unsubscribe(one, Some(ConfigId(3))).unwrap(), Some(1));
    let left: Vec<_> = store.configs(None, Sort::Id).unwrap().iter().map(|row| row.config_id.0).collect();
    assert_eq!(left, [2, 3], "2 is in the other one, 3 is active");
    assert_eq!(store.unsubscribe(one, None).unwrap(), None);
    assert_eq!(store.subscriptions().unwrap().len(), 1);
}

#[test]
fn a_config_comes_from_its_oldest_subscription_which_is_told_by_its_host() {
    let scratch = Scratch::new();
    let mut store = scratch.open();
    let one = store.subscribe(&Secret::new("https://one.example/token"), now()).unwrap();
    let two = store.subscribe(&Secret::new("http://u:p@two.example:81/?t=token"), now()).unwrap();
    add(&mut store, &[node("a", "a"), node("b", "b")], Some(two), None).unwrap();
    add(&mut store, &[node("b", "b")], Some(one), None).unwrap();
    add(&mut store, &[node("c", "c")], None, None).unwrap();
    let mut sources: Vec<_> = store.sources().unwrap().into_iter().map(|(id, host)| (id.0, host.to_string())).collect();
    sources.sort();
    assert_eq!(sources, [(1, "http://two.example:81".to_owned()), (2, "https://one.example".to_owned())]);
}

#[test]
fn one_session_runs_at_a_time() {
    let scratch = Scratch::new();
    let mut store = scratch.open();
    let instance = Uuid::new_v4();
    let (one, two) = (begin(&mut store, instance), begin(&mut store, instance));
    store.session_process(one, ProcessIdentity { pid: 7, start_ticks: 9 }).unwrap();
    store.session_running(one).unwrap();
    assert!(store.session_running(two).is_err(), "the index allows one");
    assert_eq!(store.active_config("machine").unwrap(), Some(ConfigId(1)));
    assert_eq!(store.active_config("another machine").unwrap(), None);
    assert_eq!(store.open_sessions("machine").unwrap().len(), 2);

    store.session_stopping(one, Reason::ManualRotation).unwrap();
    store.session_running(two).unwrap();
    store.session_stopped(one, Reason::UserRequested, now()).unwrap();
    store.session_failed(two, Reason::EngineExited, "killed by signal 9", now()).unwrap();
    let row = store.session(one).unwrap().unwrap();
    assert_eq!((row.status, row.stop_reason), (SessionStatus::Stopped, Some(Reason::ManualRotation)));
    assert_eq!(row.process, Some(ProcessIdentity { pid: 7, start_ticks: 9 }));
    let failure = store.last_failure().unwrap().unwrap();
    assert_eq!((failure.session_id, failure.reason), (Some(two), Reason::EngineExited));
    assert!(store.open_sessions("machine").unwrap().is_empty());
}

#[test]
fn a_hand_over_leaves_one_running_and_opens_nothing_again() {
    let scratch = Scratch::new();
    let mut store = scratch.open();
    let instance = Uuid::new_v4();
    let [one, two, three] = [(); 3].map(|()| begin(&mut store, instance));
    store.hand_over(one).unwrap();
    store.hand_over(two).unwrap();
    let status = |store: &Store, id| store.session(id).unwrap().unwrap().status;
    assert_eq!((status(&store, one), status(&store, two)), (SessionStatus::Stopping, SessionStatus::Running));
    // The old engine died in the middle of the next one.
    store.session_failed(two, Reason::EngineExited, "killed by signal 9", now()).unwrap();
    store.hand_over(three).unwrap();
    assert_eq!((status(&store, two), status(&store, three)), (SessionStatus::Failed, SessionStatus::Running));
}

#[test]
fn old_sessions_and_tests_are_forgotten() {
    let scratch = Scratch::new();
    let mut store = scratch.open();
    let instance = Uuid::new_v4();
    for _ in 0..210 {
        let id = begin(&mut store, instance);
        store.session_stopped(id, Reason::UserRequested, now()).unwrap();
    }
    assert!(store.sessions(1000).unwrap().len() <= 201);
    add(&mut store, &[node("a", "a")], None, None).unwrap();
    for delay in 0..30 {
        let test = TestRow { at: now(), delay_ms: Some(delay), failure: None };
        store.add_tests(&[(ConfigId(1), test.clone()), (ConfigId(99), test)]).unwrap();
    }
    let count: i64 = store.connection.query_row("SELECT count(*) FROM config_tests", [], |row| row.get(0)).unwrap();
    assert_eq!(count, 20);
    assert_eq!(store.config(ConfigId(1)).unwrap().unwrap().last_test.unwrap().delay_ms, Some(29));
}

#[test]
fn facts_outlive_the_process() {
    let scratch = Scratch::new();
    scratch.open().set_wanted(Some(ConfigId(5))).unwrap();
    assert_eq!(scratch.open().wanted().unwrap(), Some(ConfigId(5)));
    scratch.open().set_wanted(None).unwrap();
    assert_eq!(scratch.open().wanted().unwrap(), None);
    let mut store = scratch.open();
    store.set_engine_output("/usr/bin/v2ray", 5, "t", "V2Ray 4.34.0").unwrap();
    assert_eq!(store.engine_output("/usr/bin/v2ray", 5, "t").unwrap().as_deref(), Some("V2Ray 4.34.0"));
    assert_eq!(store.engine_output("/usr/bin/v2ray", 6, "t").unwrap(), None, "another file");
}

#[test]
fn sorts_by_delay_with_failures_last() {
    let scratch = Scratch::new();
    let mut store = scratch.open();
    add(&mut store, &[node("a", "a"), node("b", "b"), node("c", "c"), node("d", "d")], None, None).unwrap();
    let test = |delay_ms, failure: Option<&str>| TestRow { at: now(), delay_ms, failure: failure.map(Into::into) };
    store
        .add_tests(&[
            (ConfigId(1), test(Some(90), None)),
            (ConfigId(2), test(None, Some("timed out"))),
            (ConfigId(4), test(Some(20), None)),
        ])
        .unwrap();
    let ids: Vec<_> = store.configs(None, Sort::Delay).unwrap().iter().map(|row| row.config_id.0).collect();
    assert_eq!(ids, [4, 1, 2, 3]);
}
