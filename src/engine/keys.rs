//! What Xray checks of keys and words when it reads its file, and fails over: known before it is asked.
//!
//! Source: `infra/conf`, `transport/internet/tls` and `proxy/vless/encryption` of Xray-core 25.12.8 and 26.3.27.
//! Some of it would not only be refused: a stray `%` in REALITY's spider path, and VLESS encryption without a key,
//! end that program in a panic.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

use super::Version;

/// The newest version whose names are known here: a later one may have more.
const NAMES_KNOWN: Version = Version::new(26, 3, 27);

/// Client hellos by Xray's names; the same in both versions.
const FINGERPRINTS: &[&str] = &[
    "chrome",
    "firefox",
    "safari",
    "ios",
    "android",
    "edge",
    "360",
    "qq",
    "random",
    "randomized",
    "randomizednoalpn",
    "unsafe",
    "hello360_11_0",
    "hello360_7_5",
    "hello360_auto",
    "helloandroid_11_okhttp",
    "hellochrome_100",
    "hellochrome_100_psk",
    "hellochrome_102",
    "hellochrome_106_shuffle",
    "hellochrome_112_psk_shuf",
    "hellochrome_114_padding_psk_shuf",
    "hellochrome_115_pq",
    "hellochrome_115_pq_psk",
    "hellochrome_120",
    "hellochrome_120_pq",
    "hellochrome_131",
    "hellochrome_58",
    "hellochrome_62",
    "hellochrome_70",
    "hellochrome_72",
    "hellochrome_83",
    "hellochrome_87",
    "hellochrome_96",
    "hellochrome_auto",
    "helloedge_106",
    "helloedge_85",
    "helloedge_auto",
    "hellofirefox_102",
    "hellofirefox_105",
    "hellofirefox_120",
    "hellofirefox_55",
    "hellofirefox_56",
    "hellofirefox_63",
    "hellofirefox_65",
    "hellofirefox_99",
    "hellofirefox_auto",
    "hellogolang",
    "helloios_11_1",
    "helloios_12_1",
    "helloios_13",
    "helloios_14",
    "helloios_auto",
    "helloqq_11_1",
    "helloqq_auto",
    "hellorandomized",
    "hellorandomizedalpn",
    "hellorandomizednoalpn",
    "hellosafari_16_0",
    "hellosafari_auto",
];

/// Whether Xray of this version knows the client hello of this name, or may know it.
pub(super) fn is_fingerprint(version: Version, name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    FINGERPRINTS.contains(&name.as_str()) || version > NAMES_KNOWN && name.starts_with("hello")
}

/// Whether the text is `length` bytes in URL-safe base64 without padding.
pub(super) fn is_url_safe(text: &str, length: usize) -> bool {
    URL_SAFE_NO_PAD.decode(text).is_ok_and(|bytes| bytes.len() == length)
}

/// Whether the text is `length` bytes in standard base64.
pub(super) fn is_standard(text: &str, length: usize) -> bool {
    STANDARD.decode(text).is_ok_and(|bytes| bytes.len() == length)
}

/// Whether the text is a REALITY short id.
pub(super) fn is_short_id(text: &str) -> bool {
    text.len() <= 16 && text.len().is_multiple_of(2) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Whether the text is a path that Go reads as a URL: rooted, no control characters, every `%` before two hex digits.
pub(super) fn is_path(text: &str) -> bool {
    let bytes = text.as_bytes();
    let escaped = |at: usize| bytes.get(at + 1..at + 3).is_some_and(|pair| pair.iter().all(u8::is_ascii_hexdigit));
    bytes.first() == Some(&b'/')
        // Go takes what follows two slashes for a host, and reads it by the rules of hosts.
        && bytes.get(1) != Some(&b'/')
        && bytes.iter().enumerate().all(|(at, byte)| match byte {
            b'%' => escaped(at),
            other => *other >= b' ' && *other != 0x7f,
        })
}

/// Whether the text is SHA-256 hashes in hex, comma-separated.
pub(super) fn is_hashes(text: &str) -> bool {
    text.split(',').all(|hash| hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// Whether the text is the client half of VLESS encryption: its words, then paddings, then at least one key.
pub(super) fn is_vless_encryption(text: &str) -> bool {
    let mut parts = text.split('.');
    let words = [parts.next(), parts.next(), parts.next()];
    if !matches!(words, [Some("mlkem768x25519plus"), Some("native" | "xorpub" | "random"), Some("0rtt" | "1rtt")]) {
        return false;
    }
    let parts: Vec<_> = parts.collect();
    // Xray tells the two apart by their length.
    let paddings = parts.iter().take_while(|part| part.len() < 20).count();
    let (paddings, keys) = parts.split_at(paddings);
    are_paddings(paddings) && !keys.is_empty() && keys.iter().all(|key| is_vless_key(key))
}

/// `probability-from-to` of lengths and of gaps in turn; the first one must make a packet.
fn are_paddings(parts: &[&str]) -> bool {
    let read = |part: &&str| -> Option<[u32; 3]> {
        let numbers: Vec<_> = part.split('-').map(|number| number.parse().ok()).collect::<Option<_>>()?;
        numbers.try_into().ok()
    };
    let Some(paddings) = parts.iter().map(read).collect::<Option<Vec<_>>>() else { return false };
    let first = paddings.first().is_none_or(|[probability, from, to]| *probability >= 100 && *from >= 35 && *to >= 35);
    let total: u64 = paddings.iter().step_by(2).map(|[_, from, to]| u64::from(*from.max(to))).sum();
    first && total <= 18 + 65535
}

/// An X25519 or ML-KEM-768 public key; of the latter every coefficient must be below the modulus.
fn is_vless_key(text: &str) -> bool {
    const MODULUS: u16 = 3329;
    match URL_SAFE_NO_PAD.decode(text) {
        Ok(key) if key.len() == 32 => true,
        Ok(key) if key.len() == 1184 => key[..1152].chunks_exact(3).all(|packed| {
            let [a, b, c] = [packed[0], packed[1], packed[2]].map(u16::from);
            (a | (b & 0x0f) << 8) < MODULUS && (b >> 4 | c << 4) < MODULUS
        }),
        _ => false,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn vless_encryption_is_read_as_xray_reads_it() {
        let key = URL_SAFE_NO_PAD.encode([7; 32]);
        let large = URL_SAFE_NO_PAD.encode([0; 1184]);
        for good in [
            format!("mlkem768x25519plus.native.0rtt.{key}"),
            format!("mlkem768x25519plus.random.1rtt.100-111-1111.75-0-111.50-0-3333.{key}.{large}"),
        ] {
            assert!(is_vless_encryption(&good), "{good}");
        }
        for bad in [
            "none".to_owned(),
            "mlkem768x25519plus.native.0rtt".to_owned(),
            "mlkem768x25519plus.native.0rtt.100-111-1111".to_owned(),
            format!("mlkem768x25519plus.native.600s.{key}"),
            format!("mlkem768x25519plus.native.0rtt.{key}.100-111-1111"),
            format!("mlkem768x25519plus.native.0rtt.99-111-1111.{key}"),
            format!("mlkem768x25519plus.native.0rtt.100-111.{key}"),
            format!("mlkem768x25519plus.native.0rtt.{}", URL_SAFE_NO_PAD.encode([0xff; 1184])),
        ] {
            assert!(!is_vless_encryption(&bad), "{bad}");
        }
    }

    #[test]
    fn paths_are_what_go_reads() {
        for good in ["/", "/a b", "/%41?p=1", "/ü"] {
            assert!(is_path(good), "{good}");
        }
        for bad in ["", "a", "/%", "/%4", "/%zz", "/a\nb", "//host"] {
            assert!(!is_path(bad), "{bad}");
        }
    }
}
