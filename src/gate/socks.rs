//! The server's side of SOCKS5 (RFC 1928, RFC 1929), as far as the gate needs it: CONNECT.

use std::net::{Ipv4Addr, Ipv6Addr};

use futures::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{Credentials, Refusal, same};

const VERSION: u8 = 5;
const VERSION_4: u8 = 4;
const NO_AUTHENTICATION: u8 = 0;
const USER_PASSWORD: u8 = 2;
const NO_ACCEPTABLE_METHOD: u8 = 0xff;
/// The version of the user/password negotiation.
const LOGIN_VERSION: u8 = 1;
const CONNECT: u8 = 1;

/// Reply codes (RFC 1928, section 6).
const SUCCEEDED: u8 = 0;
const GENERAL_FAILURE: u8 = 1;
const COMMAND_NOT_SUPPORTED: u8 = 7;
const ADDRESS_TYPE_NOT_SUPPORTED: u8 = 8;

/// "Request rejected or failed" of SOCKS4: eight bytes, of which only the second has a meaning here.
const REJECTED_4: [u8; 8] = [0, 91, 0, 0, 0, 0, 0, 0];

/// Where a client wants to go; it waits for [`answer`].
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Destination {
    /// A name or an address, IPv6 without brackets.
    pub(super) host: String,
    pub(super) port: u16,
}

/// Reads a client's request, byte for byte and nothing beyond it. What cannot be served is answered here.
///
/// # Errors
/// [`Refusal`] after the client was told; the connection only needs to be closed with care.
pub(super) async fn request<S>(client: &mut S, auth: Option<&Credentials>) -> Result<Destination, Refusal>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let [version] = read(client).await?;
    match version {
        VERSION => {}
        VERSION_4 => return refuse(client, &REJECTED_4).await,
        _ => return Err(Refusal::Told),
    }
    greet(client, auth).await?;
    let [version, command, _, kind] = read(client).await?;
    if version != VERSION {
        return Err(Refusal::Told);
    }
    if command != CONNECT {
        return refuse(client, &reply(COMMAND_NOT_SUPPORTED)).await;
    }
    let host = match kind {
        1 => Ipv4Addr::from(read::<4, _>(client).await?).to_string(),
        4 => Ipv6Addr::from(read::<16, _>(client).await?).to_string(),
        3 => match name(text(client).await?) {
            Some(name) => name,
            None => return refuse(client, &reply(GENERAL_FAILURE)).await,
        },
        _ => return refuse(client, &reply(ADDRESS_TYPE_NOT_SUPPORTED)).await,
    };
    Ok(Destination { host, port: u16::from_be_bytes(read(client).await?) })
}

/// Tells a client that its connection is made, or that it will not be.
pub(super) async fn answer<S: AsyncWrite + Unpin>(client: &mut S, connected: bool) -> std::io::Result<()> {
    client.write_all(&reply(if connected { SUCCEEDED } else { GENERAL_FAILURE })).await
}

/// Agrees on a method and checks the credentials.
async fn greet<S>(client: &mut S, auth: Option<&Credentials>) -> Result<(), Refusal>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let offered = text(client).await?;
    let method = if auth.is_some() { USER_PASSWORD } else { NO_AUTHENTICATION };
    if !offered.contains(&method) {
        return refuse(client, &[VERSION, NO_ACCEPTABLE_METHOD]).await;
    }
    client.write_all(&[VERSION, method]).await?;
    let Some((user, password)) = auth else { return Ok(()) };
    let [LOGIN_VERSION] = read(client).await? else { return Err(Refusal::Told) };
    let (given_user, given_password) = (text(client).await?, text(client).await?);
    // Both are compared in any case, so that the time tells nothing.
    if same(user.as_bytes(), &given_user) & same(password.reveal().as_bytes(), &given_password) {
        Ok(client.write_all(&[LOGIN_VERSION, 0]).await?)
    } else {
        refuse(client, &[LOGIN_VERSION, 1]).await
    }
}

async fn refuse<S: AsyncWrite + Unpin, T>(client: &mut S, words: &[u8]) -> Result<T, Refusal> {
    client.write_all(words).await?;
    Err(Refusal::Told)
}

/// A reply with the address 0.0.0.0:0, as the engines give it.
fn reply(code: u8) -> [u8; 10] {
    [VERSION, code, 0, 1, 0, 0, 0, 0, 0, 0]
}

async fn read<const N: usize, S: AsyncRead + Unpin>(client: &mut S) -> std::io::Result<[u8; N]> {
    let mut bytes = [0; N];
    client.read_exact(&mut bytes).await?;
    Ok(bytes)
}

/// A field with its length in front.
async fn text<S: AsyncRead + Unpin>(client: &mut S) -> std::io::Result<Vec<u8>> {
    let [length] = read(client).await?;
    let mut bytes = vec![0; usize::from(length)];
    client.read_exact(&mut bytes).await?;
    Ok(bytes)
}

/// A host name, or an address in its text form. Nothing that would mean more than a name in an HTTP request line.
fn name(bytes: Vec<u8>) -> Option<String> {
    let name = String::from_utf8(bytes).ok()?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    let is_name = !name.is_empty() && name.bytes().all(plain);
    (is_name || name.parse::<Ipv6Addr>().is_ok()).then_some(name)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::config::Secret;
    use futures::io::Cursor;

    /// Lets the client say all of it, and gives the outcome and what it was told.
    fn talk(said: &[u8], auth: Option<&Credentials>) -> (Option<(String, u16)>, Vec<u8>) {
        let mut told = Cursor::new(Vec::new());
        let mut client = Both { said: Cursor::new(said.to_vec()), told: &mut told };
        let result = smol::block_on(request(&mut client, auth));
        (result.ok().map(|asked| (asked.host, asked.port)), told.into_inner())
    }

    struct Both<'a> {
        said: Cursor<Vec<u8>>,
        told: &'a mut Cursor<Vec<u8>>,
    }

    impl AsyncRead for Both<'_> {
        fn poll_read(
            mut self: std::pin::Pin<&mut Self>,
            context: &mut std::task::Context<'_>,
            buffer: &mut [u8],
        ) -> std::task::Poll<std::io::Result<usize>> {
            std::pin::Pin::new(&mut self.said).poll_read(context, buffer)
        }
    }

    impl AsyncWrite for Both<'_> {
        fn poll_write(
            mut self: std::pin::Pin<&mut Self>,
            context: &mut std::task::Context<'_>,
            bytes: &[u8],
        ) -> std::task::Poll<std::io::Result<usize>> {
            std::pin::Pin::new(&mut *self.told).poll_write(context, bytes)
        }
        fn poll_flush(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<std::io::Result<()>> {
            std::task::Poll::Ready(Ok(()))
        }
        fn poll_close(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<std::io::Result<()>> {
            std::task::Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn every_kind_of_address_is_read() {
        let v4 = talk(b"\x05\x02\x02\x00\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x50", None);
        assert_eq!(v4, (Some(("127.0.0.1".into(), 80)), vec![5, 0]));
        let name = talk(b"\x05\x01\x00\x05\x01\x00\x03\x09a-b.c_d.e\x01\xbb", None);
        assert_eq!(name.0, Some(("a-b.c_d.e".into(), 443)));
        let v6 = talk(&[b"\x05\x01\x00\x05\x01\x00\x04", &[0; 15][..], b"\x01\x00\x50"].concat(), None);
        assert_eq!(v6.0, Some(("::1".into(), 80)));
        let spelled = talk(b"\x05\x01\x00\x05\x01\x00\x03\x03::1\x00\x50", None);
        assert_eq!(spelled.0, Some(("::1".into(), 80)));
    }

    #[test]
    fn what_is_not_served_is_answered() {
        let refused = |said: &[u8]| {
            let (asked, told) = talk(said, None);
            assert_eq!(asked, None);
            told
        };
        let tail = [0, 1, 0, 0, 0, 0, 0, 0];
        let after_greeting = |code: u8| [&[5, 0, 5, code][..], &tail].concat();
        let ask = |command: u8, rest: &[u8]| [&[5, 1, 0, 5, command, 0][..], rest].concat();
        assert_eq!(refused(&ask(3, b"\x01\x00\x00\x00\x00\x00\x00")), after_greeting(7), "UDP");
        assert_eq!(refused(&ask(2, b"\x01\x00\x00\x00\x00\x00\x00")), after_greeting(7), "BIND");
        assert_eq!(refused(&ask(1, b"\x02\x00\x00\x00\x00\x00\x00")), after_greeting(8), "address type");
        for bad in [&b"\x03\x00\x00\x50"[..], b"\x03\x03a b\x00\x50", b"\x03\x04a:80\x00\x50", b"\x03\x03\r\n.\x00\x50"]
        {
            assert_eq!(refused(&ask(1, bad)), after_greeting(1), "{bad:?}");
        }
        assert_eq!(refused(b"\x04\x01\x00\x50\x7f\x00\x00\x01\x00"), REJECTED_4);
        assert_eq!(refused(b"\x05\x01\x02"), [5, 0xff], "no method in common");
        assert_eq!(refused(b"GET / HTTP/1.1\r\n\r\n"), b"");
        assert_eq!(refused(b"\x05\x01"), b"", "cut off");
    }

    #[test]
    fn credentials_are_checked_when_there_are_any() {
        let auth = ("user".to_owned(), Secret::new("pass"));
        let request = b"\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x50";
        let login = |words: &[u8]| talk(&[b"\x05\x02\x00\x02", words, request].concat(), Some(&auth));
        assert_eq!(login(b"\x01\x04user\x04pass"), (Some(("127.0.0.1".into(), 80)), vec![5, 2, 1, 0]));
        for wrong in [&b"\x01\x04user\x04past"[..], b"\x01\x04usex\x04pass", b"\x01\x04user\x00", b"\x01\x00\x05pass!"]
        {
            assert_eq!(login(wrong), (None, vec![5, 2, 1, 1]), "{wrong:?}");
        }
        assert_eq!(talk(b"\x05\x01\x00", Some(&auth)), (None, vec![5, 0xff]), "anonymous");
    }
}
