//! TLS: `sockwatch serve` by HTTPS, and its pushes to a receiver by HTTPS.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::Arc,
};

use nix::sys::signal::Signal;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ClientConfig, ClientConnection, RootCertStore, ServerConfig, StreamOwned,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    },
};

use crate::{
    receiver::{Protocol, Receiver},
    refused_as,
    serve::{PATIENCE, Scratch, Service, TOKEN, counted, read_all, refused, status},
};

/// A certificate for 127.0.0.1 that nobody vouches for but itself, and its key; both PEM.
struct Identity {
    certificate: String,
    key: String,
}

impl Identity {
    fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        Self { certificate: made.cert.pem(), key: made.signing_key.serialize_pem() }
    }

    fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.certificate.as_bytes()).unwrap()
    }

    /// A client that trusts this one alone.
    fn client(&self) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let config = config.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
        Arc::new(config.with_no_client_auth())
    }

    /// A server that is this one.
    fn acceptor(&self, protocol: Protocol) -> TlsAcceptor {
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let mut config = config.with_single_cert(vec![self.der()], key).unwrap();
        config.alpn_protocols = vec![if protocol == Protocol::Grpc { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
        TlsAcceptor::from(Arc::new(config))
    }
}

/// Asks by HTTPS; the error if the server is another one.
fn ask(service: &Service, client: Arc<ClientConfig>, headers: &str) -> std::io::Result<String> {
    let stream = TcpStream::connect(service.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let name = ServerName::from(service.address.ip());
    let mut stream = StreamOwned::new(ClientConnection::new(client, name).unwrap(), stream);
    stream.write_all(format!("GET /metrics HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n").as_bytes())?;
    Ok(read_all(&mut stream))
}

fn right() -> String {
    format!("authorization: Bearer {TOKEN}\r\n")
}

#[test]
fn who_trusts_the_certificate_is_answered() {
    let (identity, token) = (Identity::new(), Scratch::new("tls-token", TOKEN, 0o600));
    let (certificate, key) =
        (Scratch::new("tls-cert", &identity.certificate, 0o644), Scratch::new("tls-key", &identity.key, 0o600));
    let files = ["--tls-cert", certificate.path(), "--tls-key", key.path(), "--token-file", token.path()];
    let mut service = Service::start(&[&["--listen", "127.0.0.1:0"], files.as_slice()].concat());
    assert!(service.said.iter().any(|line| line.contains("serving https://127.0.0.1:")), "{:?}", service.said);
    assert_eq!(status(&ask(&service, identity.client(), &right()).unwrap()), 200);
    assert_eq!(status(&ask(&service, identity.client(), "").unwrap()), 401);

    // Another one's certificate is what a client expects that is cheated.
    let another = Identity::new();
    assert!(ask(&service, another.client(), &right()).is_err());
    // By HTTP, and by nothing that anybody knows.
    let plain = service.ask("GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n");
    assert!(status(&plain) == 400 && plain.ends_with("here TLS is spoken: ask https://\n"), "{plain}");
    service.ask("\u{16}nonsense that is no handshake, and long enough to see that");
    // Who comes and goes is nobody to count; who stays and says nothing is sent away.
    drop(TcpStream::connect(service.address).unwrap());
    let mut silent = TcpStream::connect(service.address).unwrap();
    silent.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(silent.read(&mut [0]).unwrap(), 0);
    let metrics = ask(&service, identity.client(), &right()).unwrap();
    assert_eq!(counted(&metrics, &refused("tls")), 3);
    assert_eq!(counted(&metrics, &refused("slow")), 1);
    assert_eq!(counted(&metrics, &refused("token")), 1);

    // A certificate that was renewed is shown; one that is broken changes nothing.
    certificate.write(&another.certificate);
    service.signal(Signal::SIGHUP);
    let said = service.until_said("stay as they were");
    assert!(said.contains("--tls-key") && said.contains("not the key of the certificate"), "{said}");
    assert_eq!(status(&ask(&service, identity.client(), &right()).unwrap()), 200);
    key.write(&another.key);
    service.signal(Signal::SIGHUP);
    service.until_said("read again");
    assert_eq!(status(&ask(&service, another.client(), &right()).unwrap()), 200);
    assert!(ask(&service, identity.client(), &right()).is_err());
    service.finish(Signal::SIGTERM);
}

#[test]
fn a_flood_of_handshakes_is_refused_and_counted() {
    let identity = Identity::new();
    let both = Scratch::new("tls-both", &format!("{}{}", identity.key, identity.certificate), 0o600);
    let service = Service::start(&["--listen", "127.0.0.1:0", "--tls-cert", both.path()]);
    assert_eq!(status(&ask(&service, identity.client(), "").unwrap()), 200);
    // A handshake's price is paid before it begins.
    (0..60).for_each(|_| drop(TcpStream::connect(service.address).unwrap()));
    service.recover();
    let metrics = ask(&service, identity.client(), "").unwrap();
    let limited = counted(&metrics, &refused("rate"));
    assert!((1..=41).contains(&limited), "{limited}");
    service.finish(Signal::SIGTERM);
}

#[test]
fn wrong_certificates_and_keys_end_it_at_once() {
    let (identity, another) = (Identity::new(), Identity::new());
    let (certificate, key) = (
        Scratch::new("tls-wrong-cert", &identity.certificate, 0o644),
        Scratch::new("tls-wrong-key", &another.key, 0o600),
    );
    let check = |certificate: &str, key: Option<&str>, words: &[&str]| {
        let key = key.into_iter().flat_map(|key| ["--tls-key", key]);
        let arguments: Vec<_> = ["serve", "--tls-cert", certificate].into_iter().chain(key).collect();
        refused_as(&arguments, words);
    };
    check(certificate.path(), Some(key.path()), &["--tls-key", "not the key of the certificate"]);
    check("/no/such/file", None, &["--tls-cert /no/such/file", "No such file"]);
    check("/dev/null", None, &["--tls-cert /dev/null", "no file"]);
    check(Scratch::new("tls-empty", "", 0o600).path(), None, &["--tls-cert", "BEGIN CERTIFICATE"]);
    check(certificate.path(), Some("/no/such/file"), &["--tls-key /no/such/file", "No such file"]);
    // The key is expected beside it, where others must not read.
    check(certificate.path(), None, &["--tls-cert", "chmod 640"]);
    check(certificate.path(), Some(certificate.path()), &["--tls-key", "chmod 640"]);
    let no_key = Scratch::new("tls-no-key", &identity.certificate, 0o600);
    check(certificate.path(), Some(no_key.path()), &["--tls-key", "BEGIN PRIVATE KEY"]);
    refused_as(&["serve", "--tls-key", key.path()], &["--tls-key", "no --tls-cert"]);
}

#[test]
fn a_receiver_is_pushed_to_if_it_is_trusted() {
    for protocol in Protocol::ALL {
        let identity = Identity::new();
        let mut receiver = Receiver::secured(identity.acceptor(protocol), protocol);
        let url = format!("https://{}", receiver.address);
        let tag = format!("otlp-ca-{}", protocol.word());
        let trusted = Scratch::new(&tag, &identity.certificate, 0o644);
        let push = ["--otlp", &url, "--otlp-protocol", protocol.word(), "--otlp-interval", "100ms"];
        let common = [&["--listen", "127.0.0.1:0"], push.as_slice()].concat();
        // Its authority is none of this machine's.
        let mut service = Service::start(&common);
        service.until_has_said("cannot agree on TLS");
        assert!(service.said.iter().any(|line| line.contains("--otlp-ca")), "{:?}", service.said);
        service.finish(Signal::SIGTERM);
        assert!(receiver.metrics.is_empty());
        let service = Service::start(&[common.as_slice(), &["--otlp-ca", trusted.path()]].concat());
        receiver.until("metrics", |receiver| !receiver.points("sockwatch.events").is_empty());
        service.finish(Signal::SIGTERM);
    }
}
