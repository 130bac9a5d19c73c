//! Shadowsocks plugins: what is generated in their place is understood by the real ones.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "in a test a panic with a message is the report")]

mod lab;

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use lab::client;
use lab::origin::{PAGE, bytes};
use lab::ports::{self, Port};
use lab::process::{Guard, OWNER_VARIABLE};
use lab::tls::NODE_NAME;
use lab::{Kind, Lab, tool, wait_until};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

/// The node behind the plugin.
const NODE: &str = "shadowsocks-aes-256-gcm-tcp-none";
/// Larger than every buffer on the way.
const MUCH: usize = 500_000;

/// A plugin's server on a port of its own.
fn plugin(lab: &Lab, program: &str, arguments: &[String]) -> (Guard, Port, std::path::PathBuf) {
    let port = ports::take();
    let log = lab.authority.dir().join(format!("{program}-{}.log", port.number()));
    let mut guard = Guard::spawn(Path::new(program), |command| {
        let output = std::fs::File::create(&log).unwrap();
        command
            .args(arguments.iter().map(|text| text.replace("PORT", &port.number().to_string())))
            .env(OWNER_VARIABLE, lab.authority.dir())
            .stdin(std::process::Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output);
    });
    wait_until("the plugin listens", || {
        assert_eq!(guard.exited(), None, "{}", std::fs::read_to_string(&log).unwrap());
        !ports::is_free(port.number())
    });
    (guard, port, log)
}

/// Traffic through the plugin's server, as a user of either engine has it.
fn carries(program: &str, arguments: impl Fn(&Lab, u16) -> Vec<String>, options: &str, expected: bool) {
    if !tool(program) {
        return;
    }
    // That nothing comes takes its time, and is the plugin's doing.
    for kind in Kind::ALL.into_iter().take(if expected { 2 } else { 1 }) {
        let Some(lab) = Lab::start(kind) else { continue };
        let Some(daemon) = lab.daemon(kind, &[]) else { continue };
        let mut link = lab.server.link(NODE);
        let (_guard, port, log) = plugin(&lab, program, &arguments(&lab, link.port));
        let user = URL_SAFE_NO_PAD.encode(format!("aes-256-gcm:{}", lab.server.secrets().password));
        let options = utf8_percent_encode(options, NON_ALPHANUMERIC);
        link.link = format!("ss://{user}@127.0.0.1:{}/?plugin={options}#{NODE}", port.number());
        let id = daemon.import(std::slice::from_ref(&link))[0];
        let connected = daemon.xrat(&["connect", &id.to_string()]).ok();
        let told = || std::fs::read_to_string(&log).unwrap();
        assert_eq!(connected.stdout.contains("Healthy: "), expected, "{}: {connected:?}\n{}", kind.name(), told());
        if !expected {
            continue;
        }
        for proxy in daemon.proxies() {
            let page = client::get(&proxy, &lab.origin.https_url("/page"), Some(&lab.authority)).unwrap();
            assert_eq!(page.text(), PAGE);
            let much = client::get(&proxy, &lab.origin.https_url(&format!("/bytes/{MUCH}")), Some(&lab.authority));
            assert!(much.unwrap().body == bytes(MUCH), "{}", kind.name());
        }
    }
}

fn obfs_server(_: &Lab, target: u16) -> Vec<String> {
    let line = format!("-s 127.0.0.1 -p PORT --obfs http -r 127.0.0.1:{target}");
    line.split(' ').map(str::to_owned).collect()
}

#[test]
fn obfs_http_is_understood_by_simple_obfs() {
    carries("obfs-server", obfs_server, "obfs-local;obfs=http;obfs-host=host.test;obfs-uri=/a", true);
}

/// `simple-obfs` looks at the host when it is told to: what comes with another one is no visitor of its.
#[test]
fn obfs_http_says_the_host_of_the_link() {
    let only_host =
        |lab: &Lab, target| [obfs_server(lab, target), vec!["--obfs-host".into(), "host.test".into()]].concat();
    carries("obfs-server", only_host, "obfs-local;obfs=http;obfs-host=host.test", true);
    carries("obfs-server", only_host, "obfs-local;obfs=http;obfs-host=other.test", false);
}

fn v2ray_plugin(lab: &Lab, target: u16, tls: bool) -> Vec<String> {
    let line = format!(
        "-server -mux 0 -host {NODE_NAME} -path /lab -localAddr 127.0.0.1 -localPort PORT -remoteAddr 127.0.0.1 \
         -remotePort {target}"
    );
    let mut arguments: Vec<_> = line.split(' ').map(str::to_owned).collect();
    if tls {
        let file = |path: std::path::PathBuf| path.to_str().unwrap().to_owned();
        arguments.extend(["-tls".into(), "-cert".into(), file(lab.authority.certificate_file())]);
        arguments.extend(["-key".into(), file(lab.authority.key_file())]);
    }
    arguments
}

#[test]
fn a_websocket_is_understood_by_v2ray_plugin() {
    let arguments = |lab: &Lab, target| v2ray_plugin(lab, target, false);
    carries("ss-v2ray-plugin", arguments, &format!("v2ray-plugin;host={NODE_NAME};path=/lab;mux=0"), true);
}

#[test]
fn a_websocket_in_tls_is_understood_by_v2ray_plugin() {
    let arguments = |lab: &Lab, target| v2ray_plugin(lab, target, true);
    carries("ss-v2ray-plugin", arguments, &format!("v2ray-plugin;tls;host={NODE_NAME};path=/lab;mux=0"), true);
}

/// The certificate is checked for the host that the plugin was told.
#[test]
fn a_websocket_in_tls_for_another_name_carries_nothing() {
    let arguments = |lab: &Lab, target| v2ray_plugin(lab, target, true);
    carries("ss-v2ray-plugin", arguments, "v2ray-plugin;tls;host=other.test;path=/lab;mux=0", false);
}
