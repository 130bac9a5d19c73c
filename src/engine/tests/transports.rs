//! Which engine has which transport and protocol, and what is written for it.

use super::*;
use crate::config::{Hysteria2, Obfs, Tuic, Wireguard};

fn grpc(service_name: &str) -> Transport {
    Transport::Grpc { service_name: service_name.into(), multi: false, authority: None }
}

fn kcp(header: &str) -> Transport {
    Transport::Kcp { header: header.into(), seed: None, mtu: None, tti: None }
}

fn h2() -> Transport {
    Transport::H2 { path: "/".into(), hosts: Vec::new() }
}

fn quic() -> Transport {
    Transport::Quic { cipher: "none".into(), key: None, header: "none".into() }
}

fn hysteria(obfs: Option<(&str, &str)>) -> Protocol {
    let obfs = obfs.map(|(kind, password)| Obfs { kind: kind.into(), password: Secret::new(password) });
    Protocol::Hysteria2(Hysteria2 {
        auth: Secret::new("a:b"),
        ports: Some("443,5000-6000".into()),
        hop_secs: Some(1),
        obfs,
    })
}

fn wireguard(addresses: &[&str]) -> Protocol {
    let key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    Protocol::Wireguard(Wireguard {
        secret_key: Secret::new(key),
        public_key: key.into(),
        preshared_key: None,
        addresses: addresses.iter().map(|address| (*address).to_owned()).collect(),
        reserved: vec![1, 2, 3],
        mtu: None,
        keep_alive_secs: Some(25),
    })
}

/// Each transport and protocol has its engines, and a refusal names one that can.
#[test]
fn each_transport_has_its_engines() {
    let tls = || Security::Tls(Tls::default());
    let upgrade = || Transport::HttpUpgrade { path: "/".into(), host: None };
    let xhttp =
        |mode: &str| Transport::Xhttp { path: "/".into(), host: None, mode: mode.into(), extra: Default::default() };
    let five = engine(Family::V2ray, "5.22.0");
    let old = engine(Family::Xray, "24.11.30");
    for transport in [grpc("a/b"), upgrade(), xhttp("auto"), kcp("dns")] {
        accepts(&xray(), vless(None), transport, tls());
    }
    for transport in [grpc("name"), xhttp("stream-up")] {
        accepts(&xray(), vless(None), transport, reality());
    }
    for transport in [kcp("srtp"), h2(), quic()] {
        accepts(&v2ray(), vless(None), transport, tls());
    }
    accepts(&five, vless(None), grpc("na-me"), tls());
    let multi = Transport::Grpc { service_name: "n".into(), multi: true, authority: None };
    let authority = Transport::Grpc { service_name: "n".into(), multi: false, authority: Some("a.test".into()) };
    for (engine, transport, security, said) in [
        (&v2ray(), grpc("name"), tls(), "the transport grpc; Xray, or V2Ray 5, can"),
        (&five, grpc("a/b"), tls(), "grpc with such a serviceName; Xray can"),
        (&five, multi, tls(), "grpc in mode multi; Xray can"),
        (&five, authority, tls(), "grpc with an authority; Xray can"),
        (&five, upgrade(), tls(), "the transport httpupgrade; Xray can"),
        (&five, xhttp("auto"), tls(), "the transport xhttp; Xray can"),
        (&five, kcp("dns"), tls(), "look like dns; Xray can"),
        (&v2ray(), h2(), Security::None, "h2 without TLS; no engine"),
        (&xray(), h2(), tls(), "the transport h2; V2Ray can"),
        (&xray(), quic(), tls(), "the transport quic; V2Ray can"),
        (&xray(), kcp("none"), reality(), "REALITY over kcp; no engine"),
        (&xray(), upgrade(), reality(), "REALITY over httpupgrade; no engine"),
        (&xray(), xhttp("stream-down"), tls(), "the xhttp mode \"stream-down\"; no engine"),
        (&xray(), Transport::Udp, tls(), "vless over udp; no engine"),
        (&old, upgrade(), tls(), "the transport httpupgrade; Xray 24.12.31 or newer can"),
        (&old, xhttp("auto"), tls(), "the transport xhttp; Xray 24.12.31 or newer can"),
    ] {
        let refused = refusal(engine, vless(None), transport, security);
        assert!(refused.contains(said), "{said}: {refused}");
    }
}

#[test]
fn what_fills_udp_itself_is_for_xray() {
    let tls = || Security::Tls(Tls::default());
    let tuic = Protocol::Tuic(Tuic {
        uuid: Secret::new("u"),
        password: Secret::new("p"),
        congestion_control: None,
        udp_relay_mode: None,
        disable_sni: false,
    });
    for engine in [xray(), v2ray()] {
        assert!(refusal(&engine, tuic.clone(), Transport::Udp, tls()).contains("TUIC; no engine"));
        assert!(refusal(&engine, hysteria(None), tcp(), tls()).contains("hysteria2 over tcp; no engine"));
    }
    assert!(refusal(&v2ray(), hysteria(None), Transport::Udp, tls()).contains("Hysteria 2; Xray can"));
    assert!(
        refusal(&v2ray(), wireguard(&["10.0.0.2"]), Transport::Udp, Security::None).contains("WireGuard; Xray can")
    );
    let before = engine(Family::Xray, "26.2.6");
    assert!(refusal(&before, hysteria(None), Transport::Udp, tls()).contains("Xray 26.3.27 or newer can"));
    for (obfs, said) in
        [(("gecko", "secret"), "the Hysteria 2 obfs \"gecko\""), (("salamander", "abc"), "fewer than 4")]
    {
        let refused = refusal(&xray(), hysteria(Some(obfs)), Transport::Udp, tls());
        assert!(refused.contains(said) && !refused.contains("secret"), "{refused}");
    }
    assert!(refusal(&xray(), hysteria(None), Transport::Udp, Security::None).contains("with the security none"));
    assert!(refusal(&xray(), wireguard(&[]), Transport::Udp, Security::None).contains("without an address"));
    assert!(refusal(&xray(), wireguard(&["10.0.0.2"]), Transport::Udp, tls()).contains("with the security tls"));
}

#[test]
fn hysteria_and_wireguard_have_their_outbounds() {
    let security = Security::Tls(Tls { sni: Some("sni.test".into()), ..Tls::default() });
    let generated = session(&xray(), hysteria(Some(("salamander", "secret"))), Transport::Udp, security);
    assert_eq!(
        generated["outbounds"][1],
        json!({
            "tag": "proxy", "protocol": "hysteria",
            "settings": { "version": 2, "address": "node.test", "port": 443 },
            "streamSettings": {
                "network": "hysteria", "security": "tls", "tlsSettings": { "serverName": "sni.test", "alpn": ["h3"] },
                "hysteriaSettings": { "version": 2, "auth": "a:b" },
                "finalmask": {
                    "udp": [{ "type": "salamander", "settings": { "password": "secret" } }],
                    // Fewer seconds than that are refused.
                    "quicParams": { "udpHop": { "ports": "443,5000-6000", "interval": 5 } },
                },
            },
        })
    );
    assert_eq!(generated.get("dns"), None, "the node resolves names");

    let generated = session(&xray(), wireguard(&["10.0.0.2/24", "fd00::2"]), Transport::Udp, Security::None);
    let key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    assert_eq!(
        generated["outbounds"][1],
        json!({
            "tag": "proxy", "protocol": "wireguard",
            "settings": {
                "secretKey": key, "address": ["10.0.0.2", "fd00::2"], "noKernelTun": true, "reserved": [1, 2, 3],
                "peers": [{ "publicKey": key, "endpoint": "node.test:443", "keepAlive": 25 }],
            },
        })
    );
    // Of all names only the node's own is asked of the system.
    assert_eq!(
        generated["dns"],
        json!({
            "servers": [
                { "address": "localhost", "domains": ["full:node.test"], "skipFallback": true }, "1.1.1.1", "8.8.8.8",
            ],
            "disableFallbackIfMatch": true,
        })
    );
}

#[test]
fn each_transport_offers_the_http_it_speaks() {
    let alpn = |transport, offered: &[&str]| {
        let alpn = offered.iter().map(|name| (*name).to_owned()).collect();
        let security = Security::Tls(Tls { alpn, ..Tls::default() });
        session(&xray(), vless(None), transport, security)["outbounds"][1]["streamSettings"]["tlsSettings"]["alpn"]
            .clone()
    };
    let upgrade = || Transport::HttpUpgrade { path: "/".into(), host: None };
    let xhttp = || Transport::Xhttp { path: "/".into(), host: None, mode: "auto".into(), extra: Default::default() };
    assert_eq!(alpn(upgrade(), &["h2", "http/1.1"]), json!(["http/1.1"]));
    assert_eq!(alpn(grpc("n"), &["http/1.1"]), json!(["h2"]));
    assert_eq!(alpn(grpc("n"), &[]), json!(null));
    assert_eq!(alpn(xhttp(), &["h3"]), json!(["h3"]));
}

/// Engines that keep connections by the server's address alone would use one config's for another's.
#[test]
fn what_an_engine_would_mix_up_does_not_share_it() {
    let tls = |sni: &str| Security::Tls(Tls { sni: Some(sni.into()), ..Tls::default() });
    let of = |protocol, transport, security| config(protocol, transport, security);
    let five = engine(Family::V2ray, "5.22.0");
    for transport in [grpc("n"), h2(), quic()] {
        let [one, other] = ["a.test", "b.test"].map(|sni| of(vless(None), transport.clone(), tls(sni)));
        assert!(!share_an_engine(&five, &one, &other) && share_an_engine(&five, &one, &one));
        assert!(share_an_engine(&five, &one, &Config { port: NonZeroU16::MIN, ..other.clone() }));
        assert!(share_an_engine(&xray(), &one, &other));
    }
    let [one, other] = ["a.test", "b.test"].map(|sni| of(vless(None), tcp(), tls(sni)));
    assert!(share_an_engine(&five, &one, &other));
    let one = of(hysteria(None), Transport::Udp, tls("a.test"));
    let other = of(hysteria(Some(("salamander", "secret"))), Transport::Udp, tls("a.test"));
    assert!(!share_an_engine(&xray(), &one, &other) && share_an_engine(&xray(), &one, &one));
}
