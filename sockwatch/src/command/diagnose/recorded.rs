//! The same of a recording. It has every event, but neither what threads did nor a close look at each socket.

use std::{collections::HashMap, io, time::Duration};

use anyhow::Context;
use sockwatch::{
    diagnosis::{Diagnosis, Report},
    pipeline::{self, Limits, Totals},
    process::names::Names,
    sink::{
        Sink,
        selected::{Selected, Selection},
    },
    source::recording::{Opened, Recording},
    tcp::update::Update,
};

use super::{Measuring, SETTLED_NS, cpu_time, nanoseconds};
use crate::{
    cli::DiagnoseArgs,
    command::{
        replay::{filter, open, warn},
        signals::Stop,
        start, tell,
    },
};

/// Replays a recording into a diagnosis.
pub(super) fn diagnose(args: &DiagnoseArgs) -> anyhow::Result<(Report, Measuring)> {
    let cpu_before = cpu_time();
    let files = open(&args.recording)?;
    let header = files.first().context("no file")?.header().clone();
    let selection = filter(&args.filter)?;
    let Opened { mut recording, ended } = Recording::of(files, None);
    let selection = Selection { names: Names::told(recording.names()), ..selection };
    let judge =
        Judge { diagnosis: Diagnosis::new(header.started_ns, nanoseconds(args.slow)), last_ns: header.started_ns };
    let mut selected = Selected { sink: judge, selection: Some(selection) };
    let totals = start::runtime()?.block_on(async {
        let stop = Stop::register()?;
        let over = async {
            tokio::select! {
                () = stop.wait() => {}
                _ = ended => {}
            }
        };
        anyhow::Ok(pipeline::run(&mut recording, &mut selected, Limits::default(), over).await?)
    })?;
    recording.read().iter().for_each(warn);
    if let Some(damage) = recording.damage() {
        tell(format_args!("sockwatch: warning: {damage}; what is before that is judged"));
    }
    let Judge { mut diagnosis, .. } = selected.sink;
    let ended_ns = recording.last_ns().max(header.started_ns);
    diagnosis.end(ended_ns);
    let report = diagnosis.report(ended_ns, &totals, &HashMap::new());
    let bytes = recording.bytes();
    let cpu: Duration = cpu_time().saturating_sub(cpu_before);
    Ok((report, Measuring { bytes, cpu, kernel: header.kernel, recorded_on: Some(header.host) }))
}

/// Feeds the diagnosis; time is the recording's.
struct Judge {
    diagnosis: Diagnosis,
    last_ns: u64,
}

impl Sink for Judge {
    fn update(&mut self, update: &Update) -> io::Result<()> {
        self.last_ns = self.last_ns.max(update.at_ns);
        self.diagnosis.take(update);
        Ok(())
    }

    fn tick(&mut self, _totals: &Totals) -> io::Result<()> {
        self.diagnosis.settle(self.last_ns.saturating_sub(SETTLED_NS));
        Ok(())
    }
}
