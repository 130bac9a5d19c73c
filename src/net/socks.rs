//! The client's side of SOCKS5 (RFC 1928, RFC 1929).

use futures::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::config::Secret;

const VERSION: u8 = 5;
const NO_AUTHENTICATION: u8 = 0;
const USER_PASSWORD: u8 = 2;
const CONNECT: u8 = 1;

/// Why a SOCKS proxy did not open a connection.
#[derive(Debug, thiserror::Error)]
pub enum SocksError {
    /// The connection to the proxy broke.
    #[error("the SOCKS proxy closed the connection: {0}")]
    Io(#[from] std::io::Error),
    /// What answers there does not speak SOCKS5.
    #[error("no SOCKS5 proxy answers there")]
    Protocol,
    /// The proxy wants other credentials.
    #[error("the SOCKS proxy refused the user name or password")]
    Refused,
    /// Host, user name or password are too long for the protocol.
    #[error("a host, user name or password for SOCKS has at most 255 bytes")]
    TooLong,
    /// The proxy's reply code.
    #[error("the SOCKS proxy answered: {}", reply_text(*.0))]
    Reply(u8),
}

/// The meaning of a reply code (RFC 1928, section 6).
fn reply_text(code: u8) -> &'static str {
    match code {
        1 => "general failure",
        2 => "not allowed by its rules",
        3 => "network unreachable",
        4 => "host unreachable",
        5 => "connection refused",
        6 => "TTL expired",
        7 => "command not supported",
        8 => "address type not supported",
        _ => "unknown failure",
    }
}

/// Agrees on a method with the proxy and signs in. Dropping the future leaves the stream unusable.
///
/// # Errors
/// See [`SocksError`].
pub async fn greet<S>(stream: &mut S, auth: Option<(&str, &Secret)>) -> Result<(), SocksError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let method = if auth.is_some() { USER_PASSWORD } else { NO_AUTHENTICATION };
    stream.write_all(&[VERSION, 1, method]).await?;
    let mut answer = [0; 2];
    stream.read_exact(&mut answer).await?;
    match answer {
        [VERSION, chosen] if chosen == method => {}
        [VERSION, 0xff] => return Err(SocksError::Refused),
        _ => return Err(SocksError::Protocol),
    }
    let Some((user, password)) = auth else { return Ok(()) };
    let mut message = vec![1];
    for text in [user, password.reveal()] {
        message.push(u8::try_from(text.len()).map_err(|_| SocksError::TooLong)?);
        message.extend_from_slice(text.as_bytes());
    }
    stream.write_all(&message).await?;
    stream.read_exact(&mut answer).await?;
    if answer[1] == 0 { Ok(()) } else { Err(SocksError::Refused) }
}

/// Opens a connection to `host:port` through a proxy that was greeted. The proxy resolves names.
///
/// Success says that the proxy accepted the request, not that the host was reached: engines answer first and
/// dial afterwards. Dropping the future leaves the stream unusable.
///
/// # Errors
/// See [`SocksError`].
pub async fn connect<S>(stream: &mut S, host: &str, port: u16) -> Result<(), SocksError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut request = vec![VERSION, CONNECT, 0];
    match host.parse() {
        Ok(std::net::IpAddr::V4(address)) => {
            request.push(1);
            request.extend_from_slice(&address.octets());
        }
        Ok(std::net::IpAddr::V6(address)) => {
            request.push(4);
            request.extend_from_slice(&address.octets());
        }
        Err(_) => {
            request.push(3);
            request.push(u8::try_from(host.len()).map_err(|_| SocksError::TooLong)?);
            request.extend_from_slice(host.as_bytes());
        }
    }
    request.extend_from_slice(&port.to_be_bytes());
    stream.write_all(&request).await?;

    let mut head = [0; 4];
    stream.read_exact(&mut head).await?;
    if head[0] != VERSION {
        return Err(SocksError::Protocol);
    }
    if head[1] != 0 {
        return Err(SocksError::Reply(head[1]));
    }
    let address_length = match head[3] {
        1 => 4,
        4 => 16,
        3 => {
            let mut length = [0; 1];
            stream.read_exact(&mut length).await?;
            usize::from(length[0])
        }
        _ => return Err(SocksError::Protocol),
    };
    let mut bound = vec![0; address_length + 2];
    stream.read_exact(&mut bound).await?;
    Ok(())
}
