//! How often `sockwatch diagnose` is right: servers with each illness that it knows, in several languages, codes and numbers, and
//! healthy ones under load. What must be found must come first; on a healthy server nothing may be found.
//!
//! `SOCKWATCH_LIVE_SCORE=full` treats every patient; else one for each finding that may come first, and three healthy ones.

mod accepting;
mod connections;
mod healthy;
mod real;
mod server;
mod ward;

use std::{collections::HashMap, time::Instant};

use self::{
    server::Workshop,
    ward::{HEALTHY, Patient, Score, Ward},
};
use crate::harness::{alone, choices, say, skip};

/// Healthy ones in the short form.
const HEALTHY_ONES: usize = 3;

#[test]
fn every_patient_gets_its_verdict() {
    const NAME: &str = "every_patient_gets_its_verdict";
    let Some(_machine) = alone(NAME) else { return };
    if !choices().is_empty() {
        return skip(NAME, "it judges the probes that are taken by themselves");
    }
    let ward = Ward { workshop: Workshop::new() };
    let mut matrix = Matrix::default();
    let mut wrong = Vec::new();
    for patient in invited(&ward) {
        let began = Instant::now();
        let score = patient.score(&ward);
        let took = format!("{:.1} s", began.elapsed().as_secs_f64());
        match score {
            Score::Skipped { why } => skip(&patient.name, &why),
            Score::Right { got } => {
                say(&format!("right: {} ({took})", patient.name));
                matrix.add(&patient, &got);
            }
            Score::Wrong { got, why } => {
                say(&format!("WRONG: {}: {got} ({took})", patient.name));
                matrix.add(&patient, &got);
                wrong.push(format!("{}: {got}: {why}", patient.name));
            }
        }
    }
    say(&matrix.text());
    assert!(wrong.is_empty(), "{} of {} are wrong:\n{}", wrong.len(), matrix.all(), wrong.join("\n"));
}

/// Those whose turn it is; `SOCKWATCH_LIVE_PATIENT` is part of the name of those who are wanted, if only some are.
fn invited(ward: &Ward) -> Vec<Patient> {
    let all =
        [healthy::patients(), accepting::patients(), connections::patients(), real::patients()].into_iter().flatten();
    let wanted = std::env::var("SOCKWATCH_LIVE_PATIENT").unwrap_or_default();
    let all = all.filter(|patient| patient.name.contains(&wanted));
    if std::env::var("SOCKWATCH_LIVE_SCORE").is_ok_and(|form| form == "full") {
        return all.collect();
    }
    let mut seen: HashMap<&str, usize> = HashMap::new();
    let is_first = |patient: &Patient| {
        let times = seen.entry(patient.must).or_default();
        *times += usize::from(ward.workshop.lacks(patient.language).is_none());
        *times <= if patient.must == HEALTHY { HEALTHY_ONES } else { 1 }
    };
    all.filter(is_first).collect()
}

/// What each had to get, and what it got.
#[derive(Default)]
struct Matrix {
    rows: Vec<String>,
    columns: Vec<String>,
    counts: HashMap<(usize, usize), usize>,
}

impl Matrix {
    fn add(&mut self, patient: &Patient, got: &str) {
        let place = (index(&mut self.rows, &patient.row()), index(&mut self.columns, got));
        *self.counts.entry(place).or_default() += 1;
    }

    fn all(&self) -> usize {
        self.counts.values().sum()
    }

    /// Rows: what it had to be. Columns: what it was.
    fn text(&self) -> String {
        let mut text = String::from("confusion matrix; the columns are:\n");
        for (number, column) in self.columns.iter().enumerate() {
            text += &format!("  {:>2} {column}\n", number + 1);
        }
        let line = |name: &str, cell: &dyn Fn(usize) -> String| {
            let cells: String = (0..self.columns.len()).map(|column| format!("{:>4}", cell(column))).collect();
            format!("{name:<42}{cells}\n")
        };
        text += &line("must be", &|column| (column + 1).to_string());
        for (row, name) in self.rows.iter().enumerate() {
            let count = |column| self.counts.get(&(row, column)).map_or(".".into(), usize::to_string);
            text += &line(name, &count);
        }
        text
    }
}

fn index(names: &mut Vec<String>, name: &str) -> usize {
    names.iter().position(|it| it == name).unwrap_or_else(|| {
        names.push(name.to_owned());
        names.len() - 1
    })
}
