//! What an error says is never a credential, however a person mistypes a link.

use xrat::link;

use crate::damage::{SPICE, below};
use crate::lab::vectors::expand;
use crate::lab::{self, random::Random};

#[test]
fn errors_never_quote_credentials() {
    let rounds = lab::rounds(4000, 50_000);
    let mut random = Random::new();
    let links = [
        "vless://S3cretS3cret@example.com:443?security=tls&type=ws&path=/x#name",
        "vless://S3cretS3cret@example.com:443?encryption=S3cret&security=reality&pbk=S3cret",
        "vmess://S3cretS3cret@example.com:443?security=tls&encryption=auto#name",
        "vmess://<<{\"add\":\"example.com\",\"port\":443,\"id\":\"S3cretS3cret\",\"net\":\"ws\"}>>",
        "trojan://S3cretS3cret@example.com:443?security=tls&type=ws#name",
        "ss://aes-256-gcm:S3cretS3cret@example.com:8388#name",
        "ss://<<aes-256-gcm:S3cretS3cret>>@example.com:8388#name",
        "ss://<<aes-256-gcm:S3cretS3cret@example.com:8388>>#name",
        "vmess://<<auto:S3cretS3cret@example.com:443>>?obfs=websocket&tls=1#name",
        "vmess://<<name = vmess, example.com, 443, auto, \"S3cretS3cret\", over-tls=true>>",
        "vless://alice@example.com:443?type=kcp&seed=S3cretS3cret&headerType=srtp#name",
        "vless://alice@example.com:443?type=quic&quicSecurity=aes-128-gcm&key=S3cretS3cret#name",
        "vmess://<<{\"add\":\"example.com\",\"port\":443,\"id\":\"alice\",\"net\":\"kcp\",\"path\":\"S3cretS3cret\"}>>",
        "hysteria2://S3cretS3cret@example.com:443/?obfs=salamander&obfs-password=x#name",
        "hysteria2://x@example.com:443,5000-6000/?obfs=salamander&obfs-password=S3cretS3cret#name",
        "tuic://b831381d-6324-4d53-ad4f-8cda48b30811:S3cretS3cret@example.com:443?alpn=h3#name",
        "wireguard://S3cretS3cret@example.com:443?publickey=x&address=10.0.0.1#name",
        "trojan-go://S3cretS3cret@example.com:443?type=ws&path=/x#name",
        "socks://user:S3cretS3cret@example.com:1080#name",
        "https://user:S3cretS3cret@example.com:8443?sni=example.com#name",
    ];
    for link in links {
        for round in 0..rounds {
            let mut chars: Vec<char> = link.chars().collect();
            // One mistake of a person: a character lost, or one too many, in what is around the credential.
            let at = below(&mut random, chars.len());
            match random.below(2) {
                0 => drop(chars.remove(at)),
                _ => drop(chars.splice(at..at, SPICE[below(&mut random, SPICE.len())].chars()).count()),
            }
            let damaged: String = chars.into_iter().collect();
            if !damaged.contains("S3cretS3cret") {
                continue;
            }
            if let Err(error) = link::parse(&expand(&damaged)) {
                let told = format!("{error} {error:?}");
                assert!(!told.contains("S3cret"), "round {round}: {damaged:?} gave {told}");
            }
        }
    }
}
