//! Share links against tables of vectors, thousands of damaged ones and thousands of generated configs.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod damage;
mod generate;
#[path = "../lab/mod.rs"]
mod lab;
mod secrets;
mod subscriptions;
mod vectors;

use xrat::link;

#[test]
fn different_nodes_have_different_identities() {
    let links = [
        "vless://alice@example.com:443?security=tls",
        "vless://alice@example.com:444?security=tls",
        "vless://alice@example.org:443?security=tls",
        "vless://Alice@example.com:443?security=tls",
        "vless://alice@example.com:443?security=none",
        "vless://alice@example.com:443?security=tls&sni=example.org",
        "vless://alice@example.com:443?security=tls&fp=chrome",
        "vless://alice@example.com:443?security=tls&alpn=h2",
        "vless://alice@example.com:443?security=tls&allowInsecure=1",
        "vless://alice@example.com:443?security=tls&flow=xtls-rprx-vision",
        "vless://alice@example.com:443?security=tls&type=ws",
        "vless://alice@example.com:443?security=tls&type=ws&path=/x",
        "vless://alice@example.com:443?security=tls&type=ws&host=example.org",
        "vless://alice@example.com:443?security=tls&type=tcp&headerType=http",
        "vless://alice@example.com:443?security=tls&type=grpc",
        "vless://alice@example.com:443?security=tls&type=grpc&serviceName=x",
        "vless://alice@example.com:443?security=tls&type=grpc&mode=multi",
        "vless://alice@example.com:443?security=tls&type=httpupgrade",
        "vless://alice@example.com:443?security=tls&type=xhttp",
        "vless://alice@example.com:443?security=tls&type=xhttp&mode=packet-up",
        "vless://alice@example.com:443?security=tls&type=xhttp&extra=%7B%22noGRPCHeader%22:true%7D",
        "vless://alice@example.com:443?security=tls&type=h2",
        "vless://alice@example.com:443?security=tls&type=quic",
        "vless://alice@example.com:443?type=kcp",
        "vless://alice@example.com:443?type=kcp&seed=x",
        "vless://alice@example.com:443?type=kcp&headerType=srtp",
        "hysteria2://alice@example.com:443",
        "hysteria2://alice@example.com:443-444",
        "hysteria2://alice@example.com:443?obfs=salamander&obfs-password=x",
        "tuic://b831381d-6324-4d53-ad4f-8cda48b30811:x@example.com:443",
        "tuic://b831381d-6324-4d53-ad4f-8cda48b30811:x@example.com:443?disable_sni=1",
        "wg://AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8@example.com:443?publickey=ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8",
        "wg://AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8@example.com:443?publickey=ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8&reserved=1,2,3",
        "vmess://alice@example.com:443?security=tls",
        "vmess://alice@example.com:443?security=tls&aid=1",
        "vmess://alice@example.com:443?security=tls&encryption=none",
        "trojan://alice@example.com:443",
        "ss://aes-128-gcm:alice@example.com:443",
        "ss://aes-256-gcm:alice@example.com:443",
        "ss://aes-256-gcm:alice@example.com:443?plugin=obfs-local",
        "socks://alice@example.com:443",
        "http://alice@example.com:443",
        "https://alice@example.com:443",
    ];
    let mut identities: Vec<_> = links.iter().map(|link| link::parse(link).unwrap().identity()).collect();
    identities.sort();
    identities.dedup();
    assert_eq!(identities.len(), links.len());
}

#[test]
fn pages_are_told_from_proxies() {
    for page in [
        "https://example.com",
        "https://example.com/",
        "HTTPS://example.com/sub",
        "http://example.com:8080/sub#name",
        "https://user:pass@example.com:8080/sub?x",
        "https://example.com:8080?token=x",
        "https://[::1]/",
        "https://[::1]",
    ] {
        assert!(link::looks_like_subscription_url(page), "{page}");
    }
    for proxy in [
        "https://example.com:443",
        " http://user:pass@example.com:8080/ ",
        "https://user:pass@[::1]:443?sni=example.com&amp;fp=chrome#name",
        "vless://alice@example.com:443/path?x=y",
        "ftp://example.com/x",
        "example.com/x",
    ] {
        assert!(!link::looks_like_subscription_url(proxy), "{proxy}");
    }
}
