//! TLS for exchanges and subscriptions, trusting what the system trusts.

use std::sync::{Arc, OnceLock};

use futures::io::{AsyncRead, AsyncWrite};
use futures_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::ServerName};
use futures_rustls::{TlsConnector, client::TlsStream};

/// Why no TLS connection came about.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The system's certificates could not be read.
    #[error("no trusted certificates found on this system (install the package ca-certificates, or set SSL_CERT_FILE)")]
    NoRoots,
    /// The host is no name that a certificate can have.
    #[error("`{0}` is not a valid TLS server name")]
    Name(String),
    /// The handshake failed.
    #[error("TLS handshake with {host} failed: {source}")]
    Handshake {
        /// The server's name.
        host: String,
        /// What was wrong.
        source: std::io::Error,
    },
    /// The library refused its own defaults.
    #[error("TLS is not usable: {0}")]
    Library(#[from] futures_rustls::rustls::Error),
}

/// Makes a TLS connection over `stream` and verifies it for `host`. Dropping the future closes the stream.
///
/// The system's certificates are read once a process, on the blocking pool.
///
/// # Errors
/// See [`TlsError`].
pub async fn connect<S>(stream: S, host: &str) -> Result<TlsStream<S>, TlsError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    let config = match CONFIG.get() {
        Some(config) => Arc::clone(config),
        None => {
            let made = smol::unblock(client_config).await?;
            Arc::clone(CONFIG.get_or_init(|| made))
        }
    };
    let name = ServerName::try_from(host.to_owned()).map_err(|_| TlsError::Name(host.to_owned()))?;
    TlsConnector::from(config)
        .connect(name, stream)
        .await
        .map_err(|source| TlsError::Handshake { host: host.to_owned(), source })
}

fn client_config() -> Result<Arc<ClientConfig>, TlsError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(TlsError::NoRoots);
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}
