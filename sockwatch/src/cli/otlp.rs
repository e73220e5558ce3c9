//! The words of `serve` about pushing.

use std::{fmt, net::IpAddr, path::PathBuf, str::FromStr, time::Duration};

use clap::{Args, ValueEnum};
use hyper::Uri;

use super::values::flush;

/// Where to push to, what and how.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
#[command(next_help_heading = "Pushing")]
pub(crate) struct OtlpArgs {
    /// Push all metrics of /metrics, and a log record for each connection that has ended, to this receiver of OTLP,
    /// such as an OpenTelemetry Collector: http://HOST:PORT or https://HOST, with a path where it wants one.
    #[arg(long, value_name = "URL")]
    pub(crate) otlp: Option<Receiver>,
    /// How to speak to it; most receivers hear http at port 4318 and grpc at port 4317.
    #[arg(long, value_enum, value_name = "PROTOCOL", default_value_t = OtlpProtocol::Http)]
    pub(crate) otlp_protocol: OtlpProtocol,
    /// Trust the authorities in this file (PEM) instead of this machine's, for a receiver by https.
    #[arg(long, value_name = "FILE")]
    pub(crate) otlp_ca: Option<PathBuf>,
    /// How often to push. Log records go earlier where 512 wait. A receiver that fails is tried again after a tenth of
    /// this, then ever later, up to six times this.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = flush)]
    pub(crate) otlp_interval: Duration,
    /// What to push.
    #[arg(long, value_enum, value_name = "SIGNAL", value_delimiter = ',')]
    #[arg(default_values_t = [OtlpSignal::Metrics, OtlpSignal::Logs])]
    pub(crate) otlp_signal: Vec<OtlpSignal>,
    /// Send this header with each request: authorization=Bearer TOKEN. Better in the environment or the file: the
    /// command line can be read by every user of the machine. A comma begins another header.
    #[arg(long, value_name = "NAME=VALUE", value_delimiter = ',')]
    pub(crate) otlp_header: Vec<Secret>,
    /// So many log records wait at most for a receiver that is slow or down; the others are dropped, and counted.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = records)]
    pub(crate) otlp_queue: usize,
}

/// How to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OtlpProtocol {
    /// Protobuf over HTTP/1.1.
    Http,
    /// Protobuf over HTTP/2, as gRPC has it.
    Grpc,
}

/// What to push.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OtlpSignal {
    /// All metrics, as they are.
    Metrics,
    /// A record for each connection and each listener that has ended.
    Logs,
}

/// Its port, if a URL has none.
const HTTPS: u16 = 443;

/// A receiver's URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Receiver {
    /// By https.
    pub(crate) tls: bool,
    /// A name or an address, IPv6 without brackets.
    pub(crate) host: String,
    /// Its port.
    pub(crate) port: u16,
    /// Its path without a `/` at the end; mostly empty.
    pub(crate) path: String,
    /// There is a user, a password or a query, where secrets stand: no URL is a place for those, and the rest of it is not known. Not
    /// refused here, where the error would print it.
    pub(crate) has_password: bool,
}

impl fmt::Display for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme(), self.authority(), self.path)
    }
}

impl Receiver {
    /// `http` or `https`
    pub(crate) fn scheme(&self) -> &'static str {
        if self.tls { "https" } else { "http" }
    }

    /// Whether nobody but this machine can read what goes there.
    pub(crate) fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.host.parse::<IpAddr>().is_ok_and(|it| it.to_canonical().is_loopback())
    }

    /// `HOST:PORT`
    pub(crate) fn authority(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

impl FromStr for Receiver {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const FORM: &str = "not a URL like http://127.0.0.1:4318";
        if text.contains(['@', '?']) {
            return Ok(Self { tls: false, host: String::new(), port: 0, path: String::new(), has_password: true });
        }
        let uri: Uri = text.parse().map_err(|_| FORM)?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(FORM.into()),
        };
        let authority = uri.authority().ok_or(FORM)?;
        let port = authority.port_u16().or(tls.then_some(HTTPS));
        let port = port.ok_or("without a port: most receivers hear http at 4318 and grpc at 4317")?;
        if authority.host().is_empty() || port == 0 {
            return Err(FORM.into());
        }
        Ok(Self {
            tls,
            host: authority.host().trim_start_matches('[').trim_end_matches(']').to_owned(),
            port,
            path: uri.path().trim_end_matches('/').to_owned(),
            has_password: false,
        })
    }
}

/// A header with its value, which is nobody's business: it is never printed. What is wrong with it is found later, by
/// who does not print it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

impl Secret {
    /// `NAME=VALUE`
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

fn records(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count @ 1..=1_000_000) => Ok(count),
        _ => Err("not a number from 1 to 1000000".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<(&str, u16, &str), &str>) {
        match (text.parse::<Receiver>(), expected) {
            (Ok(found), Ok(expected)) => assert_eq!((&*found.host, found.port, &*found.path), expected),
            (Err(error), Err(expected)) => assert!(error.contains(expected), "{text}: {error}"),
            (found, expected) => panic!("{text}: {found:?} {expected:?}"),
        }
    }

    #[test]
    fn urls_have_a_host_and_a_port() {
        check("http://127.0.0.1:4318", Ok(("127.0.0.1", 4318, "")));
        check("http://collector:4318/", Ok(("collector", 4318, "")));
        check("http://[::1]:9090/api/v1/otlp/", Ok(("::1", 9090, "/api/v1/otlp")));
        check("https://collector:4318", Ok(("collector", 4318, "")));
        check("https://collector/otlp", Ok(("collector", 443, "/otlp")));
        check("http://collector", Err("4318"));
        for bad in ["collector:4318", "", "http://", "http://:4318", "ftp://a:1", "http://a:0"] {
            check(bad, Err(""));
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        for text in ["http://me:secret@[::1]:4318/a/", "me:secret@a", "https://a?key=secret", "http://secret@a"] {
            let receiver: Receiver = text.parse().unwrap();
            assert!(receiver.has_password && !format!("{receiver} {receiver:?}").contains("secret"), "{receiver:?}");
        }
        assert_eq!("https://a".parse::<Receiver>().unwrap().to_string(), "https://a:443");
        assert!(!format!("{:?}", Secret::from("a=secret")).contains("secret"));
    }
}
