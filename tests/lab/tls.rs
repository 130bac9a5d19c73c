//! A throw-away certificate authority: what it signs is trusted by those who are told to, and by nobody else.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_rustls::rustls::pki_types::pem::PemObject;
use futures_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use futures_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, StreamOwned};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};

use super::scratch::Scratch;

/// The name proxy servers go by: it does not resolve, so a connection that works has sent it as SNI and no more.
pub const NODE_NAME: &str = "node.test";

/// The environment variable by which Go programs (the engines) and rustls-native-certs are told whom to trust.
pub const TRUST_VARIABLE: &str = "SSL_CERT_FILE";

/// An authority, and one certificate for `localhost`, 127.0.0.1 and [`NODE_NAME`], as files and in memory.
pub struct Authority {
    dir: Scratch,
    certificate_pem: String,
    key_pem: String,
    authority_pem: String,
}

impl Authority {
    /// Makes an authority and its certificate.
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "xrat lab authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let authority_pem = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);

        let names = ["localhost", "127.0.0.1", NODE_NAME].map(String::from);
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, NODE_NAME);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate().unwrap();
        let certificate_pem = params.signed_by(&key, &issuer).unwrap().pem();

        let dir = Scratch::new();
        dir.file("ca.pem", &authority_pem);
        dir.file("cert.pem", &certificate_pem);
        dir.file("key.pem", key.serialize_pem());
        Self { dir, certificate_pem, key_pem: key.serialize_pem(), authority_pem }
    }

    /// The authority's own certificate, to be trusted through [`TRUST_VARIABLE`].
    pub fn file(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// The server certificate's file.
    pub fn certificate_file(&self) -> PathBuf {
        self.dir.path().join("cert.pem")
    }

    /// The server key's file.
    pub fn key_file(&self) -> PathBuf {
        self.dir.path().join("key.pem")
    }

    /// A rustls configuration for a server with this certificate.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        let chain = vec![CertificateDer::from_pem_slice(self.certificate_pem.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).unwrap();
        let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
        Arc::new(config)
    }

    /// Shakes hands as a client that trusts this authority alone.
    ///
    /// # Errors
    /// The handshake's error, a refused certificate among them.
    pub fn connect<S: Read + Write>(&self, host: &str, stream: S) -> std::io::Result<StreamOwned<ClientConnection, S>> {
        client_handshake(&self.authority_pem, host, stream)
    }

    /// The directory of all its files.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}

fn client_handshake<S: Read + Write>(
    authority_pem: &str,
    host: &str,
    mut stream: S,
) -> std::io::Result<StreamOwned<ClientConnection, S>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority_pem.as_bytes()).unwrap()).unwrap();
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).map_err(std::io::Error::other)?;
    let mut connection = ClientConnection::new(Arc::new(config), name).map_err(std::io::Error::other)?;
    connection.complete_io(&mut stream)?;
    Ok(StreamOwned::new(connection, stream))
}
