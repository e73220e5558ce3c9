//! The words of `serve`.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Arg, Args};

use super::{CollectArgs, FilterArgs, OtlpArgs, duration};

/// `sockwatch serve`
#[derive(Args, Debug)]
#[command(mut_args(with_variable))]
#[command(after_help = "Examples:
  sockwatch serve                                    every listener of this machine, for a Prometheus on it
  xdg-open http://127.0.0.1:29798/                   a page that shows what happens
  curl http://127.0.0.1:29798/metrics                what it tells Prometheus (docs/metrics.md explains each metric)
  curl http://127.0.0.1:29798/healthz                200 while events are taken in, else 503 and why
  sockwatch serve --port 8080,8443                   two ports only
  sockwatch serve --config /etc/sockwatch.toml       with settings from a file

For a Prometheus on another machine, with a token of which only root and its group may read the file, and encrypted:
  (umask 077; openssl rand -hex 32 > /etc/sockwatch.token)
  sockwatch serve --listen 10.0.0.7:29798 --token-file /etc/sockwatch.token --tls-cert host.pem --tls-key host.key

To an OpenTelemetry Collector on this machine, which passes it on (docs/otlp.md explains what arrives):
  sockwatch serve --otlp http://127.0.0.1:4318
  sockwatch serve --otlp http://127.0.0.1:4317 --otlp-protocol grpc --otlp-interval 30s
  SOCKWATCH_OTLP_HEADER='authorization=Bearer TOKEN' sockwatch serve --otlp http://127.0.0.1:4318

Every option can stand in the file by its name, and in the environment. The command line beats the environment, and that
beats the file:
  --port 8080 --max-listeners 50                     on the command line
  SOCKWATCH_PORT=8080 SOCKWATCH_MAX_LISTENERS=50     in the environment
  port = [8080]                                      in the file, a line each
  max-listeners = 50

Runs until SIGTERM or SIGINT, which end it with exit code 0. SIGHUP reads the file again: filters, --max-listeners,
--slow, the token and the certificate change at once, all else with the next start. The kernel-side programs keep the filter
that they were started with: a new one can leave sockets out, and not bring back what the first one left out.")]
pub(crate) struct ServeArgs {
    /// Which sockets.
    #[command(flatten)]
    pub(crate) filter: FilterArgs,
    /// How to collect.
    #[command(flatten)]
    pub(crate) collect: CollectArgs,
    /// How to serve.
    #[command(flatten)]
    pub(crate) serving: ServingArgs,
    /// What is pushed.
    #[command(flatten)]
    pub(crate) otlp: OtlpArgs,
}

/// Where, to whom and how much.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Serving")]
pub(crate) struct ServingArgs {
    // 9100 to 9999, where exporters are, is given away in full (9798 is another one's); 29798 is assigned to nobody,
    // and lies below the ports that Linux gives to clients and those of Kubernetes' NodePorts.
    /// Answer at this address and port. Any but a loopback address demands --token-file.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:29798", value_parser = address)]
    pub(crate) listen: SocketAddr,
    /// Answer only to who sends `Authorization: Bearer` and what this file holds; others must not be able to read the
    /// file.
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Speak HTTPS, with the certificate in this file (PEM), and those that lead to its authority.
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// The certificate's private key (PEM), if it does not stand in the same file; others must not be able to read it.
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_key: Option<PathBuf>,
    /// So many listeners have series of their own; the others are summed in one, `other`.
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = listeners)]
    pub(crate) max_listeners: usize,
    /// From which wait in the accept queue on a connection counts as slow, on the page.
    #[arg(long, value_name = "TIME", default_value = "100ms", value_parser = duration)]
    pub(crate) slow: Duration,
    /// Take options that are neither here nor in the environment from this file (TOML); SIGHUP reads it again.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

/// Any option of `serve` can come from the environment: a service manager has nothing better to change one with.
fn with_variable(argument: Arg) -> Arg {
    let name = argument.get_long().map(|name| format!("SOCKWATCH_{}", name.to_uppercase().replace('-', "_")));
    match name {
        Some(name) if argument.get_id() != "help" => argument.env(name).hide_env(true),
        _ => argument,
    }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "not an address with a port: 127.0.0.1:29798, 0.0.0.0:29798, [::1]:29798".into())
}

fn listeners(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count @ 1..=10_000) => Ok(count),
        _ => Err("not a number from 1 to 10000".into()),
    }
}
