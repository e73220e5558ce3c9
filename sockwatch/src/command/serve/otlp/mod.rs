//! Pushes metrics and what has ended to an OTLP receiver.
//!
//! By a thread of its own, the only one that opens connections: the loop that takes events in only puts what has ended
//! into a queue with a limit, once for each batch. A receiver that is slow, down or gone costs it nothing; what finds
//! the queue full is dropped and counted. Requests are one at a time for each signal, on a connection that stays open.

mod client;
mod courier;
mod queue;
mod tls;

use std::{
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use sockwatch::{
    metrics::Snapshot,
    otlp::{Origin, Signal, metrics::Start},
    privilege::{Sandbox, confine, role::OTLP},
};
use tokio::{
    runtime,
    sync::{oneshot, watch},
    task,
    time::timeout,
};

pub(super) use self::queue::{Outbox, Queue};
use self::{
    client::Client,
    courier::{Courier, Stage},
    tls::Trust,
};
use super::answer::Answers;
use crate::{
    cli::{OtlpArgs, OtlpProtocol, OtlpSignal, Receiver},
    command::tell,
};

/// The last push has so long: who ends a service does not wait for a receiver that is down.
const FAREWELL: Duration = Duration::from_secs(5);

/// Headers that are the protocols' own.
const RESERVED: [&str; 6] = ["connection", "content-length", "content-type", "host", "te", "transfer-encoding"];

/// What is to be pushed, and where to.
pub(super) struct Settings {
    receiver: Receiver,
    trust: Option<Trust>,
    protocol: OtlpProtocol,
    headers: HeaderMap,
    interval: Duration,
    signals: Vec<Signal>,
    queue: Arc<Queue>,
}

impl Settings {
    /// What the options say; `None` if nothing is pushed.
    pub(super) fn of(args: &OtlpArgs) -> anyhow::Result<Option<Self>> {
        let headers = headers(args)?;
        let Some(receiver) = args.otlp.clone() else {
            ensure!(headers.is_empty(), "--otlp-header: there is no --otlp that it could be sent to");
            ensure!(args.otlp_ca.is_none(), "--otlp-ca: there is no --otlp that it could be for");
            return Ok(None);
        };
        ensure!(
            !receiver.has_password,
            "--otlp: a user, a password or a query is no part of it: --otlp-header authorization=... sends a token"
        );
        ensure!(
            args.otlp_protocol == OtlpProtocol::Http || receiver.path.is_empty(),
            "--otlp {receiver}: gRPC has no path: {}://{}",
            receiver.scheme(),
            receiver.authority()
        );
        if !headers.is_empty() && !receiver.tls && !receiver.is_loopback() {
            tell(format_args!(
                "sockwatch: warning: --otlp {receiver}: the headers go in the clear; https encrypts them"
            ));
        }
        let has = |signal| args.otlp_signal.contains(&signal);
        let signals = [(OtlpSignal::Metrics, Signal::Metrics), (OtlpSignal::Logs, Signal::Logs)].into_iter();
        Ok(Some(Self {
            trust: Trust::of(&receiver, args.otlp_protocol, args.otlp_ca.as_deref())?,
            receiver,
            protocol: args.otlp_protocol,
            headers,
            interval: args.otlp_interval,
            signals: signals.filter(|(given, _)| has(*given)).map(|(_, signal)| signal).collect(),
            queue: Arc::new(Queue::new(args.otlp_queue)),
        }))
    }

    /// What waits and what became of it.
    pub(super) fn queue(&self) -> Arc<Queue> {
        Arc::clone(&self.queue)
    }

    /// For the loop that takes events in; `None` if no log records are wanted.
    pub(super) fn outbox(&self) -> Option<Outbox> {
        self.signals.contains(&Signal::Logs).then(|| Outbox::new(self.queue()))
    }

    /// Pushes from now on.
    pub(super) fn start(
        self,
        answers: &Arc<Answers>,
        origin: Origin,
        start: Start,
        sandbox: Sandbox,
    ) -> anyhow::Result<Push> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("cannot start the runtime that pushes")?;
        let (stage, told) = watch::channel(Stage::Running);
        let origin = Arc::new(origin);
        let tasks = self.signals.iter().map(|signal| {
            let client = Client::new(self.receiver.clone(), self.trust.clone(), self.protocol, self.headers.clone());
            let courier = Courier::new(*signal, client, self.queue(), Arc::clone(&origin), self.interval);
            match signal {
                Signal::Metrics => runtime.spawn(courier.metrics(Arc::clone(answers), start, told.clone())),
                Signal::Logs => runtime.spawn(courier.records(told.clone())),
            }
        });
        let tasks = tasks.collect();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = thread::Builder::new().name("otlp".into()).spawn(move || {
            if sandbox == Sandbox::On {
                // What a kernel cannot do is no reason not to go on: `doctor` says it.
                confine(&OTLP, &[], || true);
            }
            // Nothing is sent: it resolves when the other half is gone.
            let _ = runtime.block_on(stopped);
            // What is still on its way was told as not delivered.
            runtime.shutdown_background();
        });
        let thread = thread.context("cannot start the thread that pushes")?;
        let signals: Vec<_> = self.signals.iter().map(|signal| signal.word()).collect();
        tell(format_args!("pushing {} to {} every {:?}", signals.join(" and "), self.receiver, self.interval));
        Ok(Push { stage, tasks, queue: self.queue, stop: Some(stop), thread: Some(thread) })
    }
}

/// The headers, of whose values no error says anything.
fn headers(args: &OtlpArgs) -> anyhow::Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (at, secret) in args.otlp_header.iter().enumerate() {
        let nth = at + 1;
        let Some((name, value)) = secret.reveal().split_once('=') else {
            bail!("--otlp-header: the {nth}. one is no NAME=VALUE (a comma begins another one)");
        };
        let Ok(name) = HeaderName::from_bytes(name.trim().to_ascii_lowercase().as_bytes()) else {
            bail!("--otlp-header: the {nth}. one has a name that no header can have");
        };
        let Ok(mut value) = HeaderValue::from_str(value.trim()) else {
            bail!("--otlp-header {name}: its value has characters that no header can have");
        };
        ensure!(!RESERVED.contains(&name.as_str()), "--otlp-header {name}: this one is the protocol's own");
        value.set_sensitive(true);
        headers.append(name, value);
    }
    Ok(headers)
}

/// What is being pushed; dropping it ends it.
pub(super) struct Push {
    stage: watch::Sender<Stage>,
    tasks: Vec<task::JoinHandle<()>>,
    queue: Arc<Queue>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Push {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // One that has panicked has nothing left to end.
            let _ = thread.join();
        }
    }
}

impl Push {
    /// Pushes what is left and the last figures, within a bounded time, and says what became of all log records.
    pub(super) async fn finish(mut self, last: Option<Arc<Snapshot>>) {
        self.stage.send_replace(Stage::Last(last));
        let all = async {
            for task in &mut self.tasks {
                // One that has panicked said so, and left its records waiting.
                let _ = task.await;
            }
        };
        // What takes longer is told as not delivered.
        let _ = timeout(FAREWELL, all).await;
        self.tasks.iter().for_each(task::JoinHandle::abort);
        let pushed = self.queue.pushed();
        let words: Vec<_> = pushed.records.iter().map(|(fate, count)| format!("{fate}={count}")).collect();
        tell(format_args!("sockwatch: otlp: {} unsent={}", words.join(" "), pushed.waiting));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    /// The receiver and its headers' names, or why there is none.
    #[track_caller]
    fn check(words: &[&str], expected: Result<Option<(&str, &[&str])>, &str>) {
        let line = ["sockwatch", "serve"].iter().chain(words);
        let Command::Serve(args) = Cli::try_parse_from(line).unwrap().command else { panic!("{words:?}") };
        match (Settings::of(&args.otlp), expected) {
            (Ok(found), Ok(expected)) => {
                let told = found.as_ref().map(|settings| {
                    let names = settings.headers.keys().map(HeaderName::as_str).collect::<Vec<_>>();
                    (settings.receiver.to_string(), names)
                });
                assert_eq!(told, expected.map(|(url, names)| (url.to_owned(), names.to_vec())), "{words:?}");
            }
            (Err(error), Err(expected)) => {
                let text = format!("{error:#}");
                assert!(text.contains(expected) && !text.contains("secret"), "{words:?}: {text}");
            }
            (found, expected) => panic!("{words:?}: {:?} {expected:?}", found.map(|_| ()).map_err(|e| e.to_string())),
        }
    }

    #[test]
    fn what_is_wrong_with_secrets_is_told_without_them() {
        const URL: &str = "http://127.0.0.1:4318";
        check(&[], Ok(None));
        check(&["--otlp", URL], Ok(Some((URL, &[]))));
        check(
            &["--otlp", URL, "--otlp-header", "Authorization=Bearer secret=,x-tenant=a"],
            Ok(Some((URL, &["authorization", "x-tenant"]))),
        );
        check(&["--otlp-header", "a=secret"], Err("no --otlp"));
        check(&["--otlp", URL, "--otlp-header", "secret"], Err("the 1. one is no NAME=VALUE"));
        check(&["--otlp", URL, "--otlp-header", "a b=secret"], Err("the 1. one has a name"));
        check(&["--otlp", URL, "--otlp-header", "a=secret\n"], Ok(Some((URL, &["a"]))));
        check(&["--otlp", URL, "--otlp-header", "a=sec\nret"], Err("a: its value"));
        check(&["--otlp", URL, "--otlp-header", "Host=secret"], Err("host: this one"));
        check(&["--otlp", "http://me:secret@127.0.0.1:4318"], Err("--otlp-header authorization"));
        check(&["--otlp", "https://a/b?key=secret"], Err("--otlp-header authorization"));
        check(&["--otlp", "http://h:1/path", "--otlp-protocol", "grpc"], Err("http://h:1"));
        check(&["--otlp", URL, "--otlp-ca", "/dev/null"], Err("not encrypted"));
        check(&["--otlp-ca", "/dev/null"], Err("no --otlp"));
        check(&["--otlp", "https://h", "--otlp-ca", "/dev/null"], Err("it is no file"));
        check(&["--otlp", "https://a_.-b", "--otlp-ca", "/dev/null"], Err("can have its name"));
    }
}
