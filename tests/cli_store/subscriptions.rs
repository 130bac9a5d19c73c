//! Subscriptions: fetched from good and bad providers, updated, removed.

use std::io::Write;
use std::num::NonZeroU16;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;
use uuid::Uuid;
use xrat::config::ConfigId;
use xrat::engine::process::machine_id;
use xrat::event::{Address, Reason};
use xrat::store::NewSession;

use crate::root::{Root, Run, SECRET, link};
use crate::server::{Answer, Server, socks};

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

/// Marks a session of `config` as running on this machine, with its SOCKS address.
fn session(root: &Root, config: i64, socks: (&str, u16)) {
    let mut store = root.store();
    let row = store.config(ConfigId(config)).unwrap().unwrap();
    let socks = Address { host: socks.0.to_owned(), port: NonZeroU16::new(socks.1).unwrap() };
    let id = store
        .begin_session(&NewSession {
            config_id: row.config_id,
            config: &row.config,
            owner_instance_id: Uuid::new_v4(),
            engine: "v2ray",
            engine_version: "4.34.0",
            engine_path: Path::new("/usr/bin/v2ray"),
            boot_id: "boot",
            machine_id: &machine_id(),
            socks: &socks,
            http: None,
            reason: Reason::UserRequested,
            started_at: chrono::Utc::now(),
        })
        .unwrap();
    store.session_running(id).unwrap();
}

fn two_nodes() -> String {
    format!("\u{feff}STATUS=1 GB left\r\n# nodes\r\n{}\r\n{}\r\n", link("a", "a.example"), link("b", "b.example"))
}

#[test]
fn a_body_may_be_plain_base64_compressed_or_elsewhere() {
    let server = Server::start();
    let body = two_nodes();
    server.body("/plain", body.clone());
    server.body("/base64", format!("\u{feff}{}\r\n", STANDARD.encode(&body)));
    server.set("/gzip", Answer::Gzip(gzip(body.as_bytes())));
    server.set("/moved", Answer::Head("302 Found", "Location: /deep/there".to_owned()));
    server.set("/deep/there", Answer::Head("307 Temporary Redirect", "Location: ../plain".to_owned()));
    server.body("/deep/../plain", body);
    for path in ["/plain", "/base64", "/gzip", "/moved"] {
        let root = Root::new();
        let run = root.run(&["import", &server.url(path)]).ok();
        assert!(run.out.starts_with("subscription 1: 2 added, 0 already known, 0 refused\n"), "{path}: {run:#?}");
        assert_eq!(root.enabled(), ["a", "b"]);
    }
}

#[test]
fn bad_providers_are_refused_with_the_reason_and_store_nothing() {
    let server = Server::start();
    let redirect = |path, to: &str| server.set(path, Answer::Head("302 Found", format!("Location: {to}")));
    redirect("/loop", "/loop");
    redirect("/file", "file:///etc/passwd");
    server.body("/large", vec![b'\n'; 17 << 20]);
    server.set("/endless", Answer::Endless);
    server.set("/bomb", Answer::Gzip(gzip(&vec![b'\n'; 17 << 20])));
    server.set("/noise", Answer::Gzip(b"no gzip".to_vec()));
    server.body("/empty", "\u{feff}\r\n");
    server.body("/login", "<!DOCTYPE html><p>log in</p>");
    server.body("/bad", "vless://x@h:0\nss://y\n");
    let root = Root::new();
    for (path, reason) in [
        ("/loop", "more than five times"),
        ("/file", "neither http nor https"),
        ("/large", "larger than 16 MiB"),
        ("/endless", "larger than 16 MiB"),
        ("/bomb", "larger than 16 MiB"),
        ("/noise", "is damaged"),
        ("/missing", "404"),
        ("/empty", "is empty"),
        ("/login", "a web page"),
        ("/bad", "all 2 lines"),
    ] {
        let run = root.run(&["import", &server.url(path)]).failed(1, reason);
        assert!(!run.err.contains(SECRET) && !run.err.contains(path), "{run:#?}");
    }
    assert_eq!(server.count("/loop"), 6, "the first and five redirects");
    let run = root.run(&["import", &server.url("/missing"), "--json"]);
    assert_eq!((run.code, &run.json()["code"]), (1, &json!(500)));
    assert_eq!(root.run(&["subscription", "list", "--json"]).ok().out, "[]\n");
}

#[test]
fn nodes_that_are_gone_are_disabled_and_come_back() {
    let server = Server::start();
    let root = Root::new();
    server.body("/s", [link("a", "a.example"), link("b", "b.example"), link("c", "c.example")].join("\n"));
    root.run(&["import", &server.url("/s")]).ok();
    root.run(&["import", &link("own", "own.example")]).ok();
    session(&root, 3, ("127.0.0.1", 1));

    server.body("/s", [link("a", "a.example"), link("d", "d.example"), "vless://x@h:0".to_owned()].join("\n"));
    let run = root.run(&["subscription", "update"]).ok();
    assert!(run.out.contains("1 added, 1 already known, 1 gone and disabled, 1 refused\n  line 3: "), "{run:#?}");
    assert_eq!(root.enabled(), ["a", "c", "own", "d"], "c is the active one");

    server.body("/s", two_nodes());
    let run = root.run(&["subscription", "update", "1", "--json"]).ok().json();
    assert_eq!((&run["known"], &run["gone"]), (&json!([1, 2]), &json!([5])));
    assert_eq!(root.enabled(), ["a", "b", "c", "own"]);
}

#[test]
fn an_update_that_fails_changes_nothing_but_what_the_list_says() {
    let server = Server::start();
    let root = Root::new();
    server.body("/one", link("a", "a.example"));
    server.body("/two", link("b", "b.example"));
    root.run(&["import", &server.url("/one")]).ok();
    root.run(&["import", &server.url("/two")]).ok();
    server.body("/one", "");
    server.body("/two", [link("b", "b.example"), link("c", "c.example")].join("\n"));
    let run = root.run(&["subscription", "update"]).failed(1, "subscription 1");
    assert!(run.out.contains("subscription 2") && run.out.contains("1 added"), "{run:#?}");
    assert_eq!(root.enabled(), ["a", "b", "c"]);
    let error = |run: Run| run.json()[0]["last_error"].clone();
    assert!(error(root.run(&["subscription", "list", "--json"])).as_str().unwrap().contains("is empty"));
    server.body("/one", link("a", "a.example"));
    root.run(&["subscription", "update", "1"]).ok();
    assert_eq!(error(root.run(&["subscription", "list", "--json"])), json!(null));
}

#[test]
fn subscriptions_are_listed_by_host_and_removed_with_what_only_they_had() {
    let server = Server::start();
    let root = Root::new();
    server.body("/one", [link("a", "a.example"), link("both", "both.example")].join("\n"));
    server.body("/two", [link("b", "b.example"), link("both", "both.example")].join("\n"));
    for path in ["/one", "/two", "/one"] {
        root.run(&["import", &server.url(path)]).ok();
    }
    for words in [&["subscription", "list"][..], &["subscription", "list", "--json"]] {
        let run = root.run(words).ok();
        assert!(run.out.contains(&format!("http://{}", server.address)), "{run:#?}");
        assert!(!run.out.contains(SECRET) && !run.out.contains("/one"), "{run:#?}");
    }
    let list = root.run(&["subscription", "list", "--json", "--reveal"]).ok().json();
    assert_eq!(list.as_array().unwrap().len(), 2, "the same address is one subscription");
    assert_eq!((&list[0]["url"], &list[0]["configs"]), (&json!(server.url("/one")), &json!(2)));

    let run = root.run(&["subscription", "remove", "1", "--json"]).ok().json();
    assert_eq!(run["removed_configs"], 1);
    assert_eq!(root.enabled(), ["both", "b"]);
    for words in [&["subscription", "remove", "1"][..], &["subscription", "update", "1"]] {
        root.run(words).failed(4, "no subscription 1");
    }
    root.run(&["subscription", "remove", "x"]).failed(2, "");
    root.run(&["subscription"]).failed(2, "");
}

#[test]
fn what_cannot_be_fetched_directly_comes_through_the_running_session() {
    let server = Server::start();
    let root = Root::with_configs();
    server.body("/s", link("far", "far.example"));
    // A name that nobody resolves; the proxy takes every name for the server.
    let url = format!("http://provider.invalid:{}/s?token={SECRET}", server.address.port());
    let run = root.run(&["import", &url]).failed(1, "provider.invalid");
    assert!(run.err.contains("Hint: ") && run.err.contains("connect"), "{run:#?}");

    let proxy = socks(server.address, "user", "good");
    session(&root, 1, ("127.0.0.1", proxy.port()));
    root.file("config.toml", "[runtime.socks]\nusername = \"user\"\npassword = \"evil\"\n");
    let run = root.run(&["import", &url]).failed(1, "through the running session");
    assert!(run.err.contains("refused the user name or password"), "{run:#?}");
    root.file("config.toml", "[runtime.socks]\nusername = \"user\"\npassword = \"good\"\n");
    root.run(&["import", &url]).ok();
    assert_eq!(root.enabled(), ["one", "two", "Other", "far"]);
}
