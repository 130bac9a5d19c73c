//! The HTTP proxy's side of the gate: reading a request's head, checking its credentials, saying no.

use base64::Engine as _;
use futures::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{Credentials, Refusal, same};

/// A longer head is refused. Twice what common servers take.
const MAX_HEAD: usize = 64 * 1024;
/// A head is read in pieces of this size; nearly all fit into one.
const PIECE: usize = 4096;

/// Reads up to the end of a request's head, and checks the credentials. What comes back has to be passed on as it is;
/// a part of the body may follow the head.
///
/// Only the first request of a connection is looked at: who had the password for it may use the connection.
///
/// # Errors
/// [`Refusal`] after the client was told, by 407 or 431.
pub(super) async fn request<S>(client: &mut S, auth: Option<&Credentials>) -> Result<Vec<u8>, Refusal>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut received = Vec::new();
    let mut looked_at = 0;
    let end = loop {
        let old = received.len();
        received.resize(old + PIECE, 0);
        let count = client.read(&mut received[old..]).await?;
        received.truncate(old + count);
        if count == 0 {
            return Err(Refusal::Told);
        }
        if let Some(end) = end_of_head(&received, looked_at) {
            break end;
        }
        if received.len() > MAX_HEAD {
            refuse(client, "431 Request Header Fields Too Large", "", "the request's head is too large").await?;
            return Err(Refusal::Told);
        }
        // The mark may begin in what is there already.
        looked_at = received.len().saturating_sub(3);
    };
    if let Some(auth) = auth
        && !authorized(&received[..end], auth)
    {
        let challenge = "Proxy-Authenticate: Basic realm=\"proxy\"\r\n";
        refuse(client, "407 Proxy Authentication Required", challenge, "user name or password are wrong").await?;
        return Err(Refusal::Told);
    }
    Ok(received)
}

/// Says that there is no proxy behind the gate.
pub(super) async fn unavailable<S: AsyncWrite + Unpin>(client: &mut S, why: &str) -> std::io::Result<()> {
    refuse(client, "503 Service Unavailable", "", why).await
}

async fn refuse<S: AsyncWrite + Unpin>(client: &mut S, status: &str, headers: &str, why: &str) -> std::io::Result<()> {
    // One line of text, whatever it is made of.
    let why: String = why.chars().map(|c| if c.is_control() { ' ' } else { c }).chain(['\n']).collect();
    let length = why.len();
    let answer = format!(
        "HTTP/1.1 {status}\r\n{headers}Content-Type: text/plain; charset=utf-8\r\n\
         Content-Length: {length}\r\nConnection: close\r\n\r\n{why}"
    );
    client.write_all(answer.as_bytes()).await
}

/// Where the head ends, the empty line included; lines may end without a carriage return, as the engines have it.
fn end_of_head(received: &[u8], from: usize) -> Option<usize> {
    (from..received.len()).find_map(|at| match &received[at..] {
        [b'\n', b'\n', ..] => Some(at + 2),
        [b'\n', b'\r', b'\n', ..] => Some(at + 3),
        _ => None,
    })
}

/// Whether the head has the right `Proxy-Authorization: Basic` (RFC 7617).
fn authorized(head: &[u8], (user, password): &Credentials) -> bool {
    let wanted = base64::prelude::BASE64_STANDARD.encode(format!("{user}:{}", password.reveal()));
    head.split(|byte| *byte == b'\n').skip(1).any(|line| {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { return false };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        let Some((scheme, token)) = value.split_at_checked(5) else { return false };
        name.eq_ignore_ascii_case(b"Proxy-Authorization")
            && scheme.eq_ignore_ascii_case(b"Basic")
            && token.first() == Some(&b' ')
            && same(wanted.as_bytes(), token.trim_ascii_start())
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::config::Secret;

    #[test]
    fn a_head_ends_at_its_empty_line_in_whatever_pieces_it_comes() {
        for (text, body) in [("GET / HTTP/1.1\r\nA: b\r\n\r\n", "rest"), ("GET / HTTP/1.1\nA: b\n\n", "\n")] {
            let all = format!("{text}{body}");
            assert_eq!(end_of_head(all.as_bytes(), 0), Some(text.len()));
            for cut in 1..text.len() {
                assert_eq!(end_of_head(&all.as_bytes()[..cut], 0), None, "{cut}");
                assert_eq!(end_of_head(all.as_bytes(), cut.saturating_sub(3)), Some(text.len()), "{cut}");
            }
        }
    }

    #[test]
    fn credentials_are_found_in_any_spelling_and_only_there() {
        let auth = ("user".to_owned(), Secret::new("pass"));
        let yes =
            |line: &str| authorized(format!("CONNECT a:1 HTTP/1.1\r\nHost: a\r\n{line}\r\n\r\n").as_bytes(), &auth);
        assert!(yes("Proxy-Authorization: Basic dXNlcjpwYXNz"));
        assert!(yes("proxy-authorization:basic   dXNlcjpwYXNz  "));
        for wrong in [
            "",
            "Authorization: Basic dXNlcjpwYXNz",
            "Proxy-Authorization: Basic dXNlcjpwYXN0",
            "Proxy-Authorization: Basic",
            "Proxy-Authorization: BasicdXNlcjpwYXNz",
            "Proxy-Authorization: Bearer dXNlcjpwYXNz",
            "Proxy-Authorization: dXNlcjpwYXNz",
        ] {
            assert!(!yes(wrong), "{wrong}");
        }
        assert!(
            !authorized(b"Proxy-Authorization: Basic dXNlcjpwYXNz\r\n\r\n", &auth),
            "the request line is no header"
        );
    }
}
