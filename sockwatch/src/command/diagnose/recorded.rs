//! The same of a recording. It has every event, but neither what threads did nor a close look at each socket.

use std::{collections::HashMap, io, time::Duration};

use sockwatch::{
    diagnosis::{Diagnosis, Report},
    pipeline::Totals,
    process::names::Names,
    sink::{
        Sink,
        selected::{Selected, Selection},
    },
    source::recording::Opened,
    tcp::update::Update,
};

use super::{Measuring, SETTLED_NS, cpu_time, nanoseconds};
use crate::{
    cli::DiagnoseArgs,
    command::{
        replay::{filter, open, play, warn},
        tell,
    },
};

/// Replays a recording into a diagnosis. Returns what is wrong with its files, too.
pub(super) fn diagnose(args: &DiagnoseArgs) -> anyhow::Result<(Report, Measuring, Option<String>)> {
    let cpu_before = cpu_time();
    let files = open(&args.recording)?;
    let header = files.header().clone();
    let selection = filter(&args.filter)?;
    let Opened { mut recording, ended } = files.recording(None);
    let selection = Selection { names: Names::told(recording.names()), ..selection };
    let judge =
        Judge { diagnosis: Diagnosis::new(header.started_ns, nanoseconds(args.slow)), last_ns: header.started_ns };
    let mut selected = Selected { sink: judge, selection: Some(selection) };
    let (totals, stopped) = play(&mut recording, ended, &mut selected)?;
    if stopped {
        tell(format_args!("sockwatch: warning: stopped: what comes later is not judged"));
    }
    recording.read().iter().for_each(warn);
    let Judge { mut diagnosis, .. } = selected.sink;
    let ended_ns = recording.last_ns().max(header.started_ns);
    diagnosis.end(ended_ns);
    let report = diagnosis.report(ended_ns, &totals, &HashMap::new());
    let bytes = recording.bytes();
    let cpu: Duration = cpu_time().saturating_sub(cpu_before);
    let recorded_on = Some(header.host);
    let measuring = Measuring { bytes, cpu, probes: None, kernel: header.kernel, threads: false, recorded_on };
    Ok((report, measuring, recording.damage()))
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
