//! `sockwatch serve`: counts all the time, and answers a monitoring system.

mod answer;
pub(crate) mod api;
mod config;
mod cost;
mod feed;
mod limits;
mod otlp;
mod page;
mod secret;
mod server;
mod stream;
mod tls;
mod token;
mod view;

use std::{
    ffi::OsString,
    io::{self, Write},
    process::ExitCode,
    sync::Arc,
};

use anyhow::Context;
use sockwatch::{
    metrics::{Arrivals, Metrics, document},
    monotonic::{now_ns, wall_offset_ns},
    otlp::{Origin, document as otlp_document, metrics::Start},
    overview::Place,
    pipeline::{self, Limits},
    privilege::role::SERVE,
    process::names::Names,
    sink::selected::Selection,
};
use tokio::{
    signal::unix::Signal,
    sync::{mpsc, oneshot},
};

use self::{
    answer::{Answers, Facts},
    feed::{Change, Feed, Felt, Order},
    otlp::Settings,
    server::Server,
    tls::Tls,
    view::View,
};
use super::{
    diagnose::nanoseconds,
    filter, record, replay,
    signals::{Stop, hangups},
    start::{self, Started},
    tell, time_of_day, trace,
};
use crate::cli::ServeArgs;

/// Who asks waits while others do; more than one answer takes some memory, and there are as many as clients at most.
const MOST_ORDERS: usize = 128;

pub(crate) fn run(given: &ServeArgs) -> anyhow::Result<ExitCode> {
    let words: Vec<OsString> = std::env::args_os().collect();
    // Without a file it is what was given.
    let settled = given.serving.config.is_some().then(|| config::settle(&words)).transpose()?;
    let args = settled.as_ref().unwrap_or(given);
    let resolved = filter::resolve(&args.filter)?;
    let token = token::demanded(args.serving.listen, args.serving.token_file.as_ref())?;
    let tls = Tls::of(&args.serving)?.map(Arc::new);
    let otlp = Settings::of(&args.otlp)?;
    let listener = server::bind(args.serving.listen)?;
    if token.is_some() && tls.is_none() && !args.serving.listen.ip().to_canonical().is_loopback() {
        tell(format_args!("sockwatch: warning: the token and all figures go in the clear; --tls-cert encrypts them"));
    }
    let address = listener.local_addr().context("cannot see where it listens")?;
    start::prepare();
    start::runtime()?.block_on(async {
        let (stop, hangups) = (Stop::of_a_service()?, hangups()?);
        let sandbox = args.collect.sandbox.wanted();
        let source = start::source(&args.collect, &resolved)?;
        let (header, offset_ns) = (record::header(&source, &args.filter), wall_offset_ns());
        let started = Start { unix_ns: now_ns().saturating_add(offset_ns), offset_ns };
        let facts = Facts {
            place: api::Place { kernel: header.kernel.clone(), source: source.name() },
            started_s: started.unix_ns as f64 / 1e9,
            sees_all: matches!(source, Started::Live(_)) && args.filter.words().is_empty(),
            otlp: otlp.as_ref().map(Settings::queue),
        };
        let metrics = Metrics::new(args.serving.max_listeners, arrivals(&source));
        let metrics = metrics.knowing(Names::default()).naming(source.reset_reasons());
        let (orders, received) = mpsc::channel(MOST_ORDERS);
        source.announce(&args.collect);
        let (mut source, pulse) = Felt::new(source);
        let answers = Arc::new(Answers::new(facts, orders.clone(), Arc::clone(&pulse), token));
        let server = Server::start(listener, tls.clone(), Arc::clone(&answers), sandbox)?;
        let place =
            Place { source: header.source, host: header.host.clone(), wall: time_of_day::follow()?, span_ns: None };
        let view = View::new(Arc::new(place), nanoseconds(args.serving.slow));
        let mut feed = Feed::new(metrics, view, received).sending(otlp.as_ref().and_then(Settings::outbox));
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let origin = Origin { version, host: header.host, port: address.port(), kernel: header.kernel };
        let push = otlp.map(|settings| settings.start(&answers, origin, started, sandbox)).transpose()?;
        // The other threads have begun: they keep what this one must not.
        match source.source().confine_to(&SERVE, sandbox) {
            Some(confined) => tell(format_args!("confined: the main thread {confined} (docs/privileges.md)")),
            None => tell(format_args!("not confined: --no-sandbox")),
        }
        let scheme = if tls.is_some() { "https" } else { "http" };
        tell(format_args!("serving {scheme}://{address}/ and /metrics, /healthz, /api/openapi.json (SIGTERM ends it)"));
        let door = Door { answers: &answers, tls: tls.as_deref() };
        let ended = tokio::select! {
            ended = pipeline::run(&mut source, &mut feed, Limits::default(), stop.wait()) => ended,
            never = reload(hangups, &words, args, door, &orders) => match never {},
        };
        if let Some(push) = push {
            push.finish(feed.into_last()).await;
        }
        drop(server);
        let totals = ended?;
        trace::summary(&totals, pulse.read_bytes());
        Ok(ExitCode::SUCCESS)
    })
}

/// docs/metrics.md.
pub(crate) fn metrics() -> anyhow::Result<ExitCode> {
    io::stdout().write_all(document::page().as_bytes()).context("cannot write the page")?;
    Ok(ExitCode::SUCCESS)
}

/// docs/otlp.md.
pub(crate) fn otlp() -> anyhow::Result<ExitCode> {
    io::stdout().write_all(otlp_document::page().as_bytes()).context("cannot write the page")?;
    Ok(ExitCode::SUCCESS)
}

/// Where no probe tells that a connection has entered an accept queue, its birth does.
fn arrivals(source: &Started) -> Arrivals {
    let Started::Live(live) = source else { return Arrivals::Births };
    let enqueue = live.outcomes().iter().find(|outcome| outcome.probe.name == "enqueue");
    match enqueue.and_then(|outcome| outcome.taken) {
        Some(_) => Arrivals::Enqueues,
        None => Arrivals::Births,
    }
}

/// Who decides which clients come in, and how.
#[derive(Clone, Copy)]
struct Door<'a> {
    answers: &'a Answers,
    tls: Option<&'a Tls>,
}

/// Reads the configuration again at every SIGHUP.
async fn reload(
    mut hangups: Signal,
    words: &[OsString],
    begun: &ServeArgs,
    door: Door<'_>,
    orders: &mpsc::Sender<Order>,
) -> std::convert::Infallible {
    loop {
        if hangups.recv().await.is_none() {
            // No signal will come any more.
            std::future::pending::<()>().await;
        }
        match change(words, begun, door) {
            Ok(change) => {
                let (done, is_done) = oneshot::channel();
                if orders.send(Order::Change(Box::new(change), done)).await.is_ok() && is_done.await.is_ok() {
                    tell(format_args!("sockwatch: the configuration was read again"));
                }
            }
            Err(error) => {
                tell(format_args!("sockwatch: error: {error:#}; the settings stay as they were"));
            }
        }
    }
}

/// What the configuration says now. Says what of it cannot change while sockwatch runs.
fn change(words: &[OsString], begun: &ServeArgs, door: Door<'_>) -> anyhow::Result<Change> {
    let args = config::settle(words)?;
    // What is named must exist; the kernel side is not told.
    filter::resolve(&args.filter)?;
    let selection = replay::filter(&args.filter)?;
    let token = token::demanded(begun.serving.listen, args.serving.token_file.as_ref())?;
    let files = |args: &ServeArgs| (args.serving.tls_cert.clone(), args.serving.tls_key.clone());
    let same_files = files(&args) == files(begun);
    let acceptor = door.tls.filter(|_| same_files).map(Tls::read).transpose()?;
    let (first, now) = (begun.filter.words(), args.filter.words());
    if args.collect != begun.collect {
        warn("how events are collected");
    }
    if args.serving.listen != begun.serving.listen {
        warn("--listen");
    }
    if !same_files {
        warn("the names of --tls-cert and --tls-key");
    }
    if args.otlp != begun.otlp {
        warn("what is pushed by --otlp");
    }
    if first != now && !first.is_empty() {
        tell(format_args!(
            "sockwatch: warning: the kernel-side programs keep the filter that they were started with ({first}): what \
             it leaves out \
             is not seen, whatever the filter is now ({})",
            if now.is_empty() { "none" } else { &now }
        ));
    }
    door.answers.set_token(token);
    if let (Some(tls), Some(acceptor)) = (door.tls, acceptor) {
        tls.set(acceptor);
    }
    let slow_ns = nanoseconds(args.serving.slow);
    // What the kernel side asks for need not be asked for again.
    let selection = if first == now { Selection::default() } else { selection };
    Ok(Change { selection, max_listeners: args.serving.max_listeners, slow_ns })
}

fn warn(what: &str) {
    tell(format_args!("sockwatch: warning: {what} changes with the next start only"));
}
