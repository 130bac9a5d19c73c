//! The engines' API messages, by hand: just what adding and removing an inbound and reading counters takes.
//!
//! Sources: `app/proxyman/command`, `app/proxyman`, `app/stats/command`, `proxy/socks`, `proxy/http` and `common/net`
//! of Xray-core 26.3.27, V2Ray 4.34.0 and V2Ray 5.22.0 (all run here). Field numbers are the same but for the
//! receiver's; packages and the names of typed messages differ.

use std::collections::BTreeMap;
use std::net::IpAddr;

use prost::Message;

use super::Dialect;

/// A message with its name: `TypedMessage`, in V2Ray 5 `google.protobuf.Any`, which has the same fields.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Typed {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) value: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct AddInboundRequest {
    #[prost(message, optional, tag = "1")]
    pub(super) inbound: Option<InboundHandlerConfig>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct InboundHandlerConfig {
    #[prost(string, tag = "1")]
    pub(super) tag: String,
    #[prost(message, optional, tag = "2")]
    pub(super) receiver_settings: Option<Typed>,
    #[prost(message, optional, tag = "3")]
    pub(super) proxy_settings: Option<Typed>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct RemoveInboundRequest {
    #[prost(string, tag = "1")]
    pub(super) tag: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct QueryStatsRequest {
    #[prost(string, tag = "1")]
    pub(super) pattern: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct QueryStatsResponse {
    #[prost(message, repeated, tag = "1")]
    pub(super) stat: Vec<Stat>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Stat {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(int64, tag = "2")]
    pub(super) value: i64,
}

/// An answer without content.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Empty {}

#[derive(Clone, Copy, PartialEq, Message)]
struct PortRange {
    #[prost(uint32, tag = "1")]
    from: u32,
    #[prost(uint32, tag = "2")]
    to: u32,
}

#[derive(Clone, PartialEq, Message)]
struct PortList {
    #[prost(message, repeated, tag = "1")]
    range: Vec<PortRange>,
}

/// `IPOrDomain` with its first alternative.
#[derive(Clone, PartialEq, Message)]
struct Ip {
    #[prost(bytes = "vec", tag = "1")]
    bytes: Vec<u8>,
}

/// `ReceiverConfig` of Xray: a list of port ranges.
#[derive(Clone, PartialEq, Message)]
struct XrayReceiver {
    #[prost(message, optional, tag = "1")]
    ports: Option<PortList>,
    #[prost(message, optional, tag = "2")]
    listen: Option<Ip>,
}

/// `ReceiverConfig` of V2Ray: one port range.
#[derive(Clone, PartialEq, Message)]
struct V2rayReceiver {
    #[prost(message, optional, tag = "1")]
    ports: Option<PortRange>,
    #[prost(message, optional, tag = "2")]
    listen: Option<Ip>,
}

/// `proxy.socks.ServerConfig`.
#[derive(Clone, PartialEq, Message)]
struct SocksServer {
    /// 0 without, 1 with user name and password.
    #[prost(int32, tag = "1")]
    auth_type: i32,
    #[prost(btree_map = "string, string", tag = "2")]
    accounts: BTreeMap<String, String>,
    /// Where UDP associations are told to send.
    #[prost(message, optional, tag = "3")]
    address: Option<Ip>,
    #[prost(bool, tag = "4")]
    udp_enabled: bool,
}

/// `proxy.http.ServerConfig`.
#[derive(Clone, PartialEq, Message)]
struct HttpServer {
    #[prost(btree_map = "string, string", tag = "2")]
    accounts: BTreeMap<String, String>,
}

impl Dialect {
    /// The package that all others are in.
    pub(super) fn package(self) -> &'static str {
        match self {
            Self::Xray => "xray",
            Self::V2ray4 | Self::V2ray5 => "v2ray.core",
        }
    }

    /// `ReceiverConfig`: where an inbound listens.
    pub(super) fn receiver(self, host: IpAddr, port: u16) -> Typed {
        let listen = Some(ip(host));
        let ports = PortRange { from: port.into(), to: port.into() };
        let value = match self {
            Self::Xray => XrayReceiver { ports: Some(PortList { range: vec![ports] }), listen }.encode_to_vec(),
            Self::V2ray4 | Self::V2ray5 => V2rayReceiver { ports: Some(ports), listen }.encode_to_vec(),
        };
        self.typed("app.proxyman.ReceiverConfig", value)
    }

    /// A SOCKS server; `accounts` empty means that it asks for no password.
    pub(super) fn socks(self, host: IpAddr, udp: bool, accounts: BTreeMap<String, String>) -> Typed {
        let server = SocksServer {
            auth_type: (!accounts.is_empty()).into(),
            accounts,
            address: Some(ip(host)),
            udp_enabled: udp,
        };
        self.typed("proxy.socks.ServerConfig", server.encode_to_vec())
    }

    /// An HTTP proxy server; `accounts` empty means that it asks for no password.
    pub(super) fn http(self, accounts: BTreeMap<String, String>) -> Typed {
        self.typed("proxy.http.ServerConfig", HttpServer { accounts }.encode_to_vec())
    }

    fn typed(self, name: &str, value: Vec<u8>) -> Typed {
        let host = match self {
            Self::Xray | Self::V2ray4 => "",
            Self::V2ray5 => "types.v2fly.org/",
        };
        Typed { name: format!("{host}{}.{name}", self.package()), value }
    }
}

fn ip(address: IpAddr) -> Ip {
    let bytes = match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    Ip { bytes }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    /// Bytes by hand from the .proto files: Xray nests the range in a list, V2Ray does not.
    #[test]
    fn a_receiver_in_each_dialect() {
        let host = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let listen = [0x12, 6, 0x0a, 4, 127, 0, 0, 1];
        let xray = Dialect::Xray.receiver(host, 300);
        assert_eq!(xray.name, "xray.app.proxyman.ReceiverConfig");
        assert_eq!(xray.value, [&[0x0a, 8, 0x0a, 6, 0x08, 0xac, 2, 0x10, 0xac, 2][..], &listen].concat());
        let v2ray = Dialect::V2ray4.receiver(host, 300);
        assert_eq!(v2ray.name, "v2ray.core.app.proxyman.ReceiverConfig");
        assert_eq!(v2ray.value, [&[0x0a, 6, 0x08, 0xac, 2, 0x10, 0xac, 2][..], &listen].concat());
        let five = Dialect::V2ray5.receiver(host, 300);
        assert_eq!(five.name, "types.v2fly.org/v2ray.core.app.proxyman.ReceiverConfig");
        assert_eq!(five.value, v2ray.value);
    }

    #[test]
    fn socks_asks_for_a_password_when_there_is_an_account() {
        let host = IpAddr::V4(Ipv4Addr::new(1, 2, 3, 4));
        let open = Dialect::Xray.socks(host, true, BTreeMap::new());
        assert_eq!(open.value, [0x1a, 6, 0x0a, 4, 1, 2, 3, 4, 0x20, 1]);
        let closed = Dialect::Xray.socks(host, false, BTreeMap::from([("u".to_owned(), "p".to_owned())]));
        assert_eq!(closed.value, [0x08, 1, 0x12, 6, 0x0a, 1, b'u', 0x12, 1, b'p', 0x1a, 6, 0x0a, 4, 1, 2, 3, 4]);
    }
}
