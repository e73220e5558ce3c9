//! What is answered: `/metrics`, `/healthz`, the live page and what it reads, or why not.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::{Duration, Instant},
};

use bytes::Bytes;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{ACCEPT, ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE},
};
use serde::Serialize;
use sockwatch::{
    metrics::{
        Cost, Scrape, Snapshot,
        text::{self, Format},
    },
    monotonic::now_ns,
    overview::{Order as Sorting, Words},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::{
    api::{self, Asked, Connections, History, ListenerDetail, Mistake, Mistaken, Overview, Timeline},
    cost,
    feed::{Order, Pulse},
    limits::Rates,
    otlp::Queue,
    page,
    stream::{self, Body, Streams},
    token::Token,
    view::Outlook,
};
use crate::command::filter;

/// The loop answers within its latency. If it has not after so long, it is stuck.
const PATIENCE: Duration = Duration::from_secs(2);

/// A connection that came before is seen by now, or no events come.
const SEEN_WITHIN_NS: u64 = 2_000_000_000;

pub(super) type Answer = Response<Body>;

/// Why a client was turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Clients,
    Rate,
    Header,
    Malformed,
    Slow,
    Token,
    Tls,
}

/// All of them, with the words of the metric's label.
const REFUSALS: [(Refusal, &str); 7] = [
    (Refusal::Clients, "clients"),
    (Refusal::Rate, "rate"),
    (Refusal::Header, "header"),
    (Refusal::Malformed, "malformed"),
    (Refusal::Slow, "slow"),
    (Refusal::Token, "token"),
    (Refusal::Tls, "tls"),
];

/// What does not change.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) place: api::Place,
    pub(super) started_s: f64,
    /// Every connection of this machine is seen, those of this server, too: by eBPF, without a filter.
    pub(super) sees_all: bool,
    /// What is pushed.
    pub(super) otlp: Option<Arc<Queue>>,
}

/// Requests by path and status, and refusals.
#[derive(Debug, Default)]
struct Counts {
    requests: Vec<(&'static str, u16, u64)>,
    refused: [u64; REFUSALS.len()],
}

/// Answers requests.
pub(super) struct Answers {
    facts: Facts,
    orders: mpsc::Sender<Order>,
    pulse: Arc<Pulse>,
    token: RwLock<Option<Token>>,
    /// Of those without the token, and of those with it.
    rates: [Mutex<Rates>; 2],
    counts: Mutex<Counts>,
    streams: Streams,
    began: Instant,
}

impl Answers {
    pub(super) fn new(facts: Facts, orders: mpsc::Sender<Order>, pulse: Arc<Pulse>, token: Option<Token>) -> Self {
        Self {
            facts,
            orders,
            pulse,
            token: RwLock::new(token),
            rates: Default::default(),
            counts: Mutex::default(),
            streams: Streams::default(),
            began: Instant::now(),
        }
    }

    /// From now on another token.
    pub(super) fn set_token(&self, token: Option<Token>) {
        *self.token.write().unwrap_or_else(PoisonError::into_inner) = token;
    }

    /// Counts a refusal.
    pub(super) fn refuse(&self, refusal: Refusal) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        for (count, (its, _)) in counts.refused.iter_mut().zip(REFUSALS) {
            *count += u64::from(its == refusal);
        }
    }

    /// Answers a request, and counts it.
    pub(super) async fn answer(self: &Arc<Self>, request: &Request<Incoming>, client: IpAddr) -> Answer {
        let path = request.uri().path();
        let part = page::part(path);
        let kind = match path {
            "/metrics" => "/metrics",
            "/healthz" => "/healthz",
            _ if part.is_some() => "/",
            _ if path.starts_with(api::PREFIX) => api::PREFIX,
            _ => "other",
        };
        let answer = match (self.turn_away(request, client, part.is_some()), part) {
            (Some(answer), _) => answer,
            (None, Some(part)) => page::answer_part(part),
            (None, None) => match kind {
                "/metrics" => self.metrics(request.headers().get(ACCEPT)).await,
                "/healthz" => self.health().await,
                api::PREFIX => self.api(request).await,
                _ => plain(StatusCode::NOT_FOUND, "here are /, /metrics, /healthz and /api/openapi.json\n"),
            },
        };
        self.count(kind, answer.status());
        answer
    }

    /// The page itself is no secret: whoever has the token tells it there.
    fn turn_away(&self, request: &Request<Incoming>, client: IpAddr, is_page: bool) -> Option<Answer> {
        let token = self.token.read().unwrap_or_else(PoisonError::into_inner);
        let authorization = authorization(request);
        let has_token = token.as_ref().is_some_and(|token| token.admits(authorization.as_deref()));
        // Who has none cannot use up what is for those who have it.
        let mut rates = self.rates[usize::from(has_token)].lock().unwrap_or_else(PoisonError::into_inner);
        let admitted = rates.admit(client, self.began.elapsed());
        if !admitted {
            self.refuse(Refusal::Rate);
            let mut answer = plain(StatusCode::TOO_MANY_REQUESTS, "too many requests from this address\n");
            answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
            return Some(answer);
        }
        if token.is_none() && !is_page && request.uri().path() != "/healthz" && !page::is_meant(request) {
            let words =
                "ask by an address or as localhost: any page of the web could use another name for this machine";
            return Some(mistaken(StatusCode::FORBIDDEN, words));
        }
        if !is_page && token.is_some() && !has_token {
            self.refuse(Refusal::Token);
            let mut answer = plain(StatusCode::UNAUTHORIZED, "send `Authorization: Bearer` and the token\n");
            answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            return Some(answer);
        }
        if ![Method::GET, Method::HEAD].contains(request.method()) {
            let mut answer = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return Some(answer);
        }
        None
    }

    /// Whether somebody with this token, or without any, is told more.
    fn admits(&self, authorization: Option<&[u8]>) -> bool {
        let token = self.token.read().unwrap_or_else(PoisonError::into_inner);
        token.as_ref().is_none_or(|token| token.admits(authorization))
    }

    fn count(&self, path: &'static str, status: StatusCode) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let code = status.as_u16();
        match counts.requests.iter_mut().find(|(its, of, _)| (*its, *of) == (path, code)) {
            Some((_, _, count)) => *count += 1,
            None => counts.requests.push((path, code, 1)),
        }
    }

    async fn metrics(&self, accept: Option<&HeaderValue>) -> Answer {
        let Some(scrape) = self.scrape().await else { return plain(StatusCode::SERVICE_UNAVAILABLE, STUCK) };
        let format = Format::accepted(accept.and_then(|accept| accept.to_str().ok()));
        match text::write(scrape, format) {
            Ok(text) => answer(StatusCode::OK, format.content_type(), text),
            Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, &format!("cannot write the metrics: {error}\n")),
        }
    }

    /// All figures of now; `None` if nobody tells.
    pub(super) async fn scrape(&self) -> Option<Scrape> {
        Some(self.with_cost(self.snapshot().await?))
    }

    /// Figures with what they cost.
    pub(super) fn with_cost(&self, snapshot: Arc<Snapshot>) -> Scrape {
        Scrape { snapshot, cost: self.cost() }
    }

    /// What was counted until now; `None` if nobody tells.
    async fn snapshot(&self) -> Option<Arc<Snapshot>> {
        let (to, told) = oneshot::channel();
        let asked = async {
            self.orders.send(Order::Tell(to)).await.ok()?;
            told.await.ok()
        };
        timeout(PATIENCE, asked).await.ok().flatten()
    }

    async fn api(self: &Arc<Self>, request: &Request<Incoming>) -> Answer {
        let asked = match Asked::parse(request.uri().path(), request.uri().query()) {
            Ok(asked) => asked,
            Err(Mistaken::Path) => return mistaken(StatusCode::NOT_FOUND, "no such path: /api/openapi.json has them"),
            Err(Mistaken::Value(error)) => return mistaken(StatusCode::BAD_REQUEST, error),
        };
        let place = self.facts.place.clone();
        let told = match asked {
            Asked::Description => Some(api::openapi()),
            Asked::Live => return self.live(authorization(request)),
            Asked::Overview => self.look(move |outlook| Overview::of(outlook, &place)).await,
            Asked::History => self.look(|outlook| Some(History::of(outlook))).await,
            Asked::Connections { words, order, limit } => return self.connections(*words, order, limit).await,
            Asked::Listener(key) => self.look(move |outlook| Some(ListenerDetail::of(outlook, key))).await,
            Asked::Connection(key, incarnation) => {
                self.look(move |outlook| Some(Timeline::of(outlook, key, incarnation))).await
            }
        };
        Self::told(told)
    }

    /// Connections that fit. The loop looks namespaces' names up: the thread that answers may open nothing.
    async fn connections(&self, words: Words, order: Sorting, limit: usize) -> Answer {
        let told = self.ask(move |outlook| {
            let words = words.look_up(filter::named_netns).map_err(|error| format!("filter: {error}"));
            Some(words.map(|words| Connections::of(outlook, &words, order, limit)))
        });
        match told.await {
            Some(Err(error)) => mistaken(StatusCode::BAD_REQUEST, error),
            told => Self::told(told.and_then(Result::ok).map(|told| serde_json::to_string(&told))),
        }
    }

    fn told(told: Option<serde_json::Result<String>>) -> Answer {
        match told {
            Some(Ok(text)) if text == "null" => mistaken(StatusCode::NOT_FOUND, "it is gone"),
            Some(Ok(text)) => answer(StatusCode::OK, "application/json", text),
            Some(Err(error)) => mistaken(StatusCode::INTERNAL_SERVER_ERROR, error),
            None => mistaken(StatusCode::SERVICE_UNAVAILABLE, STUCK.trim_end()),
        }
    }

    /// Has the loop look, and writes what it saw as JSON; `None` if nobody tells.
    async fn look<T: Serialize + Send + 'static>(
        &self,
        how: impl FnOnce(&mut Outlook<'_>) -> Option<T> + Send + 'static,
    ) -> Option<serde_json::Result<String>> {
        Some(serde_json::to_string(&self.ask(how).await?))
    }

    /// Has the loop look; `None` if nobody tells.
    async fn ask<T: Send + 'static>(
        &self,
        how: impl FnOnce(&mut Outlook<'_>) -> Option<T> + Send + 'static,
    ) -> Option<T> {
        let (to, told) = oneshot::channel();
        let question = Order::Look(Box::new(move |outlook| {
            // Who asked may have gone, before it was worth looking or after.
            if !to.is_closed() {
                let _ = to.send(how(outlook));
            }
        }));
        let asked = async {
            self.orders.send(question).await.ok()?;
            told.await.ok().flatten()
        };
        timeout(PATIENCE, asked).await.ok().flatten()
    }

    /// How everything is, each second, for as long as the client takes it and its token counts.
    fn live(self: &Arc<Self>, authorization: Option<Vec<u8>>) -> Answer {
        let Some((mut writer, body)) = self.streams.open() else {
            self.refuse(Refusal::Clients);
            return mistaken(StatusCode::SERVICE_UNAVAILABLE, "too many others look");
        };
        let answers = Arc::clone(self);
        tokio::spawn(async move {
            loop {
                let place = answers.facts.place.clone();
                let told = answers.look(move |outlook| Overview::of(outlook, &place)).await;
                let Some(Ok(text)) = told else { return };
                // Another token may be in force by now.
                if !answers.admits(authorization.as_deref()) {
                    return answers.refuse(Refusal::Token);
                }
                if !writer.event("overview", &text).await {
                    return;
                }
                tokio::time::sleep(stream::EVERY).await;
            }
        });
        let mut answer = Response::new(body);
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        answer
    }

    fn cost(&self) -> Cost {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let refused = REFUSALS.iter().zip(counts.refused).map(|((_, word), count)| (*word, count));
        Cost {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel: self.facts.place.kernel.clone(),
            source: self.facts.place.source.to_owned(),
            started_s: self.facts.started_s,
            cpu_s: cost::cpu_s(),
            resident_bytes: cost::resident_bytes(),
            read_bytes: self.pulse.read_bytes(),
            programs: self.pulse.programs(),
            requests: counts.requests.clone(),
            refused: refused.collect(),
            otlp: self.facts.otlp.as_ref().map(|queue| queue.pushed()),
        }
    }

    /// Whether events are taken in. Where every connection is seen, this request's own is: its events prove it.
    async fn health(&self) -> Answer {
        let asked_ns = now_ns();
        let mut snapshot = self.snapshot().await;
        while snapshot.is_some() && self.sees_nothing(asked_ns) {
            if now_ns().saturating_sub(asked_ns) > SEEN_WITHIN_NS {
                let reason = "no events come: not even this connection's own were seen";
                return self.tell_health(snapshot.as_deref(), Some(reason));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            snapshot = self.snapshot().await;
        }
        let reason = snapshot.is_none().then_some(STUCK.trim_end());
        self.tell_health(snapshot.as_deref(), reason)
    }

    /// The request came on a connection that is a little older than `asked_ns`.
    fn sees_nothing(&self, asked_ns: u64) -> bool {
        self.facts.sees_all && self.pulse.event_ns() + SEEN_WITHIN_NS < asked_ns
    }

    fn tell_health(&self, snapshot: Option<&Snapshot>, reason: Option<&str>) -> Answer {
        let status = if reason.is_some() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
        let mut health = serde_json::json!({
            "status": if reason.is_some() { "failing" } else { "ok" },
            "source": self.facts.place.source,
            // Of this instant: a snapshot may be a little older than what was seen of this request.
            "events": self.pulse.events(),
        });
        if let Some(reason) = reason {
            health["reason"] = reason.into();
        }
        if let Some(totals) = snapshot.map(|snapshot| snapshot.totals) {
            health["lost"] = totals.losses.lost().into();
            health["missed"] = totals.losses.missed().into();
            health["dropped"] = totals.losses.dropped().into();
        }
        if let Some(pushed) = self.facts.otlp.as_ref().map(|queue| queue.pushed()) {
            // A receiver that fails is no reason to restart what traces.
            let records = pushed.records.into_iter().chain([("waiting", pushed.waiting)]);
            health["otlp_records"] = records.collect();
        }
        answer(status, "application/json", format!("{health}\n"))
    }
}

fn authorization(request: &Request<Incoming>) -> Option<Vec<u8>> {
    request.headers().get(AUTHORIZATION).map(|value| value.as_bytes().to_owned())
}

/// What is said when the loop does not answer.
const STUCK: &str = "events are not taken in: their loop does not answer\n";

fn plain(status: StatusCode, text: &str) -> Answer {
    answer(status, "text/plain; charset=utf-8", text.to_owned())
}

fn mistaken(status: StatusCode, error: impl std::fmt::Display) -> Answer {
    let text = serde_json::to_string(&Mistake::new(error)).unwrap_or_default();
    answer(status, "application/json", text)
}

pub(super) fn answer(status: StatusCode, content_type: &'static str, text: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Body::whole(text));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}
