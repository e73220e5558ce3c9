//! TLS towards a receiver: whose certificates are trusted.

use std::{path::Path, sync::Arc};

use anyhow::{Context, ensure};
use rustls_native_certs::load_native_certs;
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, RootCertStore, pki_types::ServerName},
};

use super::super::tls::{certificates, provider};
use crate::cli::{OtlpProtocol, Receiver};

/// Agrees with a receiver how to encrypt.
#[derive(Clone)]
pub(super) struct Trust {
    pub(super) connector: TlsConnector,
    /// Whose certificate it has to be.
    pub(super) name: ServerName<'static>,
}

impl Trust {
    /// Trusts the authorities in a file, or else this machine's. `None` if nothing is encrypted.
    pub(super) fn of(
        receiver: &Receiver,
        protocol: OtlpProtocol,
        authorities: Option<&Path>,
    ) -> anyhow::Result<Option<Self>> {
        if !receiver.tls {
            ensure!(authorities.is_none(), "--otlp-ca: --otlp {receiver} is not encrypted: https://");
            return Ok(None);
        }
        let name = ServerName::try_from(receiver.host.clone());
        let name = name.with_context(|| format!("--otlp {receiver}: no certificate can have its name"))?;
        let roots = match authorities {
            Some(path) => roots_of(path).with_context(|| format!("--otlp-ca {}", path.display()))?,
            None => roots_here()?,
        };
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .context("cannot set up TLS")?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = match protocol {
            OtlpProtocol::Http => vec![b"http/1.1".to_vec()],
            OtlpProtocol::Grpc => vec![b"h2".to_vec()],
        };
        Ok(Some(Self { connector: TlsConnector::from(Arc::new(config)), name }))
    }
}

fn roots_of(path: &Path) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).context("a certificate in it cannot be an authority's")?;
    }
    Ok(roots)
}

fn roots_here() -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    // Among a hundred authorities there are some that nobody can read.
    roots.add_parsable_certificates(load_native_certs().certs);
    ensure!(
        !roots.is_empty(),
        "this machine trusts no authorities (package ca-certificates): --otlp-ca FILE names some"
    );
    Ok(roots)
}
