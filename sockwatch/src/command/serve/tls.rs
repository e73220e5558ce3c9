//! TLS for clients: a certificate and its key, from files that are read again at SIGHUP.

use std::{
    io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::{CryptoProvider, ring},
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
    server::TlsStream,
};

use super::{answer::Refusal, limits::Rates, secret};
use crate::cli::ServingArgs;

/// A client has so long until it is agreed how to encrypt.
const HANDSHAKE_TIME: Duration = Duration::from_secs(5);

/// Told to who speaks HTTP, and nothing else.
const PLAIN: &[u8] = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-type: text/plain; charset=utf-8\r\n\
    content-length: 33\r\n\r\nhere TLS is spoken: ask https://\n";

/// What the file is expected to be.
const HOW: &str = "the certificate's key stands in it, in PEM";

/// Encrypts what clients are told.
pub(super) struct Tls {
    certificate: PathBuf,
    key: Option<PathBuf>,
    acceptor: RwLock<TlsAcceptor>,
    /// A handshake costs more than an answer: who comes too often gets none.
    rates: Mutex<Rates>,
    began: Instant,
}

impl Tls {
    /// What the options say; `None` if nothing is encrypted.
    pub(super) fn of(args: &ServingArgs) -> anyhow::Result<Option<Self>> {
        let Some(certificate) = args.tls_cert.clone() else {
            ensure!(args.tls_key.is_none(), "--tls-key: there is no --tls-cert that it could belong to");
            return Ok(None);
        };
        let key = args.tls_key.clone();
        let acceptor = RwLock::new(acceptor(&certificate, key.as_deref())?);
        Ok(Some(Self { certificate, key, acceptor, rates: Mutex::default(), began: Instant::now() }))
    }

    /// What the files hold now.
    pub(super) fn read(&self) -> anyhow::Result<TlsAcceptor> {
        acceptor(&self.certificate, self.key.as_deref())
    }

    /// From now on this certificate.
    pub(super) fn set(&self, acceptor: TlsAcceptor) {
        *self.acceptor.write().unwrap_or_else(PoisonError::into_inner) = acceptor;
    }

    /// Agrees with a client; if not, then why it was turned away, or nothing if it has gone.
    pub(super) async fn accept(
        &self,
        stream: TcpStream,
        client: IpAddr,
    ) -> Result<TlsStream<TcpStream>, Option<Refusal>> {
        if !self.rates.lock().unwrap_or_else(PoisonError::into_inner).admit(client, self.began.elapsed()) {
            return Err(Some(Refusal::Rate));
        }
        let acceptor = self.acceptor.read().unwrap_or_else(PoisonError::into_inner).clone();
        let agreed = async {
            if speaks_http(&stream).await? {
                return Err(io::ErrorKind::InvalidData.into());
            }
            acceptor.accept(stream).await
        };
        match timeout(HANDSHAKE_TIME, agreed).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err((error.kind() == io::ErrorKind::InvalidData).then_some(Refusal::Tls)),
            Err(_elapsed) => Err(Some(Refusal::Slow)),
        }
    }
}

/// Whether a method comes, in the clear, where a handshake should: who sends it is told.
async fn speaks_http(stream: &TcpStream) -> io::Result<bool> {
    let mut begin = [0];
    let speaks = stream.peek(&mut begin).await? == 1 && begin[0].is_ascii_uppercase();
    if speaks {
        // What was not read when the connection is closed makes a RST of the end, which the answer would be lost by.
        let _ = stream.try_read(&mut [0; 4096]);
        let _ = stream.try_write(PLAIN);
    }
    Ok(speaks)
}

fn acceptor(certificate: &Path, key: Option<&Path>) -> anyhow::Result<TlsAcceptor> {
    let chain = certificates(certificate).with_context(|| format!("--tls-cert {}", certificate.display()))?;
    let (option, path) = key.map_or(("--tls-cert", certificate), |key| ("--tls-key", key));
    let name = || format!("{option} {}", path.display());
    let pem = secret::read(path, HOW).with_context(name)?;
    let key = PrivateKeyDer::from_pem_slice(&pem)
        .context("there is no private key in it (-----BEGIN PRIVATE KEY-----)")
        .with_context(name)?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .context("cannot set up TLS")?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .context("this is not the key of the certificate, or no key that is known")
        .with_context(name)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// A file's certificates, one at least.
pub(super) fn certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let pem = secret::read_public(path)?;
    let found = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
    let found = found.context("cannot read certificates from it")?;
    ensure!(!found.is_empty(), "there is no certificate in it (-----BEGIN CERTIFICATE-----)");
    Ok(found)
}

/// What encrypts.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}
