//! The running kernel's events, from the ring buffer.

use std::{
    io,
    time::{Duration, Instant},
};

use super::{Source, SourceError, TableNews, Tick, reconcile::Reconciler};
use crate::{
    diagnosis::look::Look,
    kernel::{
        gauge::{Gauge, Taken},
        refusal::Refusal,
        ring::Rings,
        session::{Options, Outcome, Session, StartError},
        tallies::Tallies,
        threads::Threads,
    },
    monotonic::now_ns,
    privilege::{Confined, Role},
    tcp::{decode::decode, event::Event, loss::Losses, reset::ResetReasons},
};

/// Reading the counters costs system calls: not at every tick.
const COUNTERS_INTERVAL: Duration = Duration::from_millis(250);

/// Attached probes and the reader of their events.
pub struct Live {
    session: Session,
    ring: Rings,
    decode_failed: u64,
    bytes: u64,
    lost: Losses,
    counted_at: Instant,
    /// When all probes were in place: what some of them saw before is half the truth.
    attached_ns: u64,
    reconciler: Option<Reconciler>,
}

impl Live {
    /// Attaches the probes. Needs a tokio runtime.
    ///
    /// # Errors
    /// As [`Session::start`].
    pub fn start(options: &Options, latency: Duration) -> Result<Self, StartError> {
        let (session, rings) = Session::start(options)?;
        let ring = Rings::new(rings, latency).map_err(|error| StartError::Mismatch(error.to_string()))?;
        let lost = Losses::default();
        Ok(Self {
            session,
            ring,
            decode_failed: 0,
            bytes: 0,
            lost,
            counted_at: Instant::now(),
            attached_ns: now_ns(),
            reconciler: None,
        })
    }

    /// Whether sockets are told apart by cookie; only then [`Self::remember`] is of use.
    pub fn tells_cookies(&self) -> bool {
        self.session.tells_cookies()
    }

    /// Lists the kernel's socket table beside the events. Of use only where sockets are told apart by cookie.
    pub fn reconcile(&mut self, reconciler: Reconciler) {
        self.reconciler = Some(reconciler);
    }

    /// The closer looks at the kernel's table, once; none if they were not asked for.
    pub fn take_looks(&mut self) -> Vec<Look> {
        self.reconciler.as_mut().map(Reconciler::take_looks).unwrap_or_default()
    }

    /// Lets sockets pass a process filter that were there before.
    ///
    /// # Errors
    /// If there are more than the kernel side can remember.
    pub fn remember(&mut self, cookies: &[u64]) -> io::Result<()> {
        self.session.remember(cookies)
    }

    /// What the kernel's numbers of reasons for a RST mean.
    pub fn reset_reasons(&self) -> &ResetReasons {
        self.session.reset_reasons()
    }

    /// What became of each probe.
    pub fn outcomes(&self) -> &[Outcome] {
        self.session.outcomes()
    }

    /// Whether the kernel lets the calling thread read what the kernel side counts, with the capabilities that it has now.
    pub fn may_read(&self) -> bool {
        self.session.may_read()
    }

    /// What a thread of this role could still do here.
    pub fn confined(&self, role: &Role) -> Option<Confined> {
        self.session.confined(role)
    }

    /// What watches threads, once; `None` if it was not asked for.
    pub fn take_threads(&mut self) -> Option<Result<Threads, Refusal>> {
        self.session.take_threads()
    }

    /// What connections are counted in, once; `None` if they are told one by one.
    pub fn take_tallies(&mut self) -> Option<Tallies> {
        self.session.take_tallies()
    }

    /// What threads did, and was lost.
    ///
    /// # Errors
    /// If the kernel does not let the counters be read.
    pub fn threads_lost(&self) -> io::Result<u64> {
        self.session.threads_lost()
    }

    /// How often each program has run, and for how many nanoseconds, where the kernel counts it.
    pub fn runs(&self) -> Vec<(&'static str, u64, u64)> {
        self.session.runs()
    }

    /// Measures for a while what the kernel-side programs take, if the kernel lets it.
    pub fn gauge(&self) -> Option<Gauge> {
        self.session.gauge()
    }

    /// What they took then.
    pub fn taken(&self, gauge: Gauge) -> Taken {
        self.session.taken(gauge)
    }

    /// Bytes of all records that have been read.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Decodes a portion; returns the time up to which nothing is left behind, `None` if nothing is left at all.
    fn take(&mut self, events: &mut Vec<Event>) -> Option<u64> {
        let Self { ring, decode_failed, bytes, attached_ns, .. } = self;
        let mut last_ns = 0;
        ring.take(|record| {
            *bytes += record.len() as u64;
            let before = events.len();
            match decode(record, events) {
                Ok(at_ns) => last_ns = at_ns,
                Err(_) => *decode_failed += 1,
            }
            if last_ns < *attached_ns {
                events.truncate(before);
            }
            last_ns
        })
    }

    fn count(&mut self) -> Result<(), SourceError> {
        let read = |error: io::Error| SourceError::Read { what: "the eBPF counters", error };
        self.lost = self.session.losses().map_err(read)?;
        self.counted_at = Instant::now();
        Ok(())
    }

    fn losses(&self) -> Losses {
        Losses { decode_failed: self.decode_failed, ..self.lost }
    }
}

impl Source for Live {
    async fn next(&mut self, events: &mut Vec<Event>) -> Result<Tick, SourceError> {
        self.ring.wait().await.map_err(|error| SourceError::Read { what: "the ring buffer", error })?;
        #[cfg(feature = "probe-log")]
        self.session.flush_log();
        let mut now_ns = now_ns();
        let before = events.len();
        if let Some(complete_until) = self.take(events) {
            now_ns = now_ns.min(complete_until);
        }
        if self.counted_at.elapsed() >= COUNTERS_INTERVAL {
            self.count()?;
        }
        let tick = Tick { now_ns, losses: self.losses() };
        if let Some(reconciler) = &mut self.reconciler {
            reconciler.observe(&events[before..], &tick);
        }
        Ok(tick)
    }

    fn table(&mut self) -> TableNews {
        self.reconciler.as_mut().map_or(TableNews::Nothing, Reconciler::news)
    }

    fn owes(&mut self) -> bool {
        self.reconciler.as_mut().is_some_and(Reconciler::owes)
    }

    fn drain(&mut self, events: &mut Vec<Event>) -> Result<Tick, SourceError> {
        let now_ns = now_ns();
        while self.take(events).is_some() {}
        self.count()?;
        Ok(Tick { now_ns, losses: self.losses() })
    }
}
