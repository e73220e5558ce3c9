//! A real Prometheus with the rules of packaging/ scrapes a real run, and its answer about the queue wait is the one
//! that the server's own clock gives.
//!
//! Prometheus is Debian's, unpacked and not installed: nothing is started or left behind on the machine.

mod load;
pub(crate) mod rules;

use std::{
    fs,
    io::Write,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use self::load::Load;
use crate::{
    dashboard,
    service::{PATIENCE, Running, end, get, serve},
    shell,
};

/// Scrapes while clients connect, at least: one is made each second.
const SCRAPES: f64 = 3.0;

/// The buckets' bounds around the slow ones, in seconds.
const BOUNDS: &[f64] = &[0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0];

/// Both of CI's steps: for who changes a rule or a panel.
pub(crate) fn run() -> Result<()> {
    let workspace = shell::workspace()?;
    rules::check(&workspace)?;
    if !shell::is_root() {
        println!("no run with Prometheus: tracing takes root");
        return Ok(());
    }
    shell::debug_build(&workspace)?;
    check(&workspace)
}

pub(crate) fn check(workspace: &Path) -> Result<()> {
    let tools = tools(workspace)?;
    let directory = shell::target_directory(workspace).join("prometheus-run");
    if directory.exists() {
        fs::remove_dir_all(&directory).context("cannot remove the last run")?;
    }
    fs::create_dir_all(&directory).context("cannot make a directory for the run")?;
    let server = load::server()?;
    let address = server.local_addr().context("cannot see where it listens")?;
    let (mut service, metrics) = serve(workspace, address.port())?;
    let prometheus = free_port()?;
    let _prometheus = start_prometheus(workspace, &tools, &directory, prometheus, metrics)?;
    let listener = format!("listener=\"{address}\"");
    let accepts = format!("sockwatch_accept_queue_accepts_total{{{listener}}}");
    // A rate takes a scrape before.
    until(prometheus, &accepts, |value| value == 0.0)?;
    let Load { p99_s, rate } = load::run(&server, address)?;

    // Not one was lost.
    until(prometheus, &accepts, |value| value == load::CONNECTIONS as f64)?;
    let scrapes = until(prometheus, &format!("changes({accepts}[5m])"), |scrapes| scrapes >= SCRAPES);
    scrapes.context("it was not scraped while clients connected")?;
    let told_s = waits_are_told(prometheus, &listener, p99_s)?;
    views_are_answered(prometheus, &listener)?;
    let up = until(prometheus, "min_over_time(up{job=\"sockwatch\"}[5m])", |_| true)?;
    ensure!(up == 1.0, "Prometheus could not read what it scraped");
    check_text(&tools, metrics)?;
    end(&mut service)?;
    println!("Prometheus, while {rate:.0} connections came in a second: p99 of the queue wait {:.1} ms", told_s * 1e3);
    println!("the server's own clock: {:.1} ms", p99_s * 1e3);
    Ok(())
}

/// The p99 is that of the server's clock, whether it is asked for or recorded by a rule; a rule may come a second late.
fn waits_are_told(prometheus: u16, listener: &str, p99_s: f64) -> Result<f64> {
    let quantile = format!("histogram_quantile(0.99, sum by (le) (sockwatch_queue_wait_seconds_bucket{{{listener}}}))");
    let recorded = format!("listener:sockwatch_queue_wait_seconds:p99_5m{{{listener}}}");
    let bucket = |seconds: f64| BOUNDS.partition_point(|bound| *bound < seconds);
    let fits = |told_s: f64| told_s > 0.0 && bucket(told_s) == bucket(p99_s);
    let its = || format!("the server's clock says that the p99 of the queue wait is {p99_s} s");
    until(prometheus, &recorded, fits).with_context(its)?;
    until(prometheus, &quantile, fits).with_context(its)
}

/// An alert begins to wait, every rule can be evaluated, and every query of the dashboard is answered.
fn views_are_answered(prometheus: u16, listener: &str) -> Result<()> {
    let alert = format!("ALERTS{{alertname=\"TcpSlowAccept\",alertstate=\"pending\",{listener}}}");
    until(prometheus, &alert, |value| value == 1.0)?;
    rules_are_evaluated(prometheus)?;
    for query in dashboard::queries() {
        ask(prometheus, &query)?;
    }
    Ok(())
}

fn start_prometheus(
    workspace: &Path,
    tools: &Path,
    directory: &Path,
    port: u16,
    metrics: SocketAddr,
) -> Result<Running> {
    let config = directory.join("prometheus.yml");
    let text = format!(
        "global: {{ scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s }}\n\
         rule_files: ['{}']\n\
         scrape_configs:\n  - job_name: sockwatch\n    static_configs: [{{ targets: ['{metrics}'] }}]\n",
        workspace.join(rules::RULES).display()
    );
    fs::write(&config, text).context("cannot write Prometheus' configuration")?;
    let mut command = Command::new(tools.join("prometheus"));
    command.arg(format!("--config.file={}", config.display()));
    command.arg(format!("--storage.tsdb.path={}", directory.join("data").display()));
    command.arg(format!("--web.listen-address=127.0.0.1:{port}")).arg("--log.level=error");
    Ok(Running(command.spawn().context("cannot start Prometheus")?))
}

/// Asks until the answer fits.
fn until(prometheus: u16, query: &str, fits: impl Fn(f64) -> bool) -> Result<f64> {
    let began = Instant::now();
    loop {
        let answer = ask(prometheus, query);
        match answer {
            Ok(Some(value)) if fits(value) => return Ok(value),
            _other if began.elapsed() < PATIENCE => thread::sleep(Duration::from_millis(200)),
            Ok(value) => bail!("{query} is {value:?} after {PATIENCE:?}"),
            Err(error) => return Err(error.context(format!("Prometheus does not answer {query}"))),
        }
    }
}

/// Waits until every rule was evaluated once: what PromQL allows may still not fit what there is.
fn rules_are_evaluated(prometheus: u16) -> Result<()> {
    let began = Instant::now();
    loop {
        let answer = get((Ipv4Addr::LOCALHOST, prometheus).into(), "/api/v1/rules")?;
        let answer: Value = serde_json::from_str(&answer).context("Prometheus answers no JSON")?;
        let groups = answer["data"]["groups"].as_array().context("no groups of rules")?;
        let rules: Vec<_> = groups.iter().filter_map(|group| group["rules"].as_array()).flatten().collect();
        if let Some(rule) = rules.iter().find(|rule| rule["health"] == "err") {
            bail!("Prometheus cannot evaluate {}: {}", rule["name"], rule["lastError"]);
        }
        if !rules.is_empty() && rules.iter().all(|rule| rule["health"] == "ok") {
            return Ok(());
        }
        ensure!(began.elapsed() < PATIENCE, "Prometheus has not evaluated all rules after {PATIENCE:?}");
        thread::sleep(Duration::from_millis(200));
    }
}

/// The value of the only series that a query gives, if there is one.
fn ask(prometheus: u16, query: &str) -> Result<Option<f64>> {
    let query: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let answer = get((Ipv4Addr::LOCALHOST, prometheus).into(), &format!("/api/v1/query?query={query}"))?;
    let answer: Value = serde_json::from_str(&answer).context("Prometheus answers no JSON")?;
    ensure!(answer["status"] == "success", "Prometheus refuses the query: {answer}");
    let value = answer["data"]["result"][0]["value"][1].as_str();
    value.map(|value| value.parse().with_context(|| format!("{value} is no number"))).transpose()
}

/// promtool finds nothing wrong with names, types and helps.
fn check_text(tools: &Path, metrics: SocketAddr) -> Result<()> {
    let text = get(metrics, "/metrics")?;
    let mut command = Command::new(tools.join("promtool"));
    let mut child =
        command.args(["check", "metrics"]).stdin(Stdio::piped()).spawn().context("cannot start promtool")?;
    child.stdin.take().context("no standard input")?.write_all(text.as_bytes()).context("promtool does not read")?;
    let status = child.wait().context("cannot wait for promtool")?;
    ensure!(status.success(), "`promtool check metrics` finds fault ({status})");
    Ok(())
}

fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen on loopback")?;
    Ok(listener.local_addr().context("cannot see where it listens")?.port())
}

/// The directory of `prometheus` and `promtool`: an installed one's, else of a package that is only unpacked.
fn tools(workspace: &Path) -> Result<PathBuf> {
    let has_both = |directory: &Path| ["prometheus", "promtool"].iter().all(|name| directory.join(name).is_file());
    let path = std::env::var_os("PATH").unwrap_or_default();
    if let Some(directory) = std::env::split_paths(&path).find(|directory| has_both(directory)) {
        return Ok(directory);
    }
    let unpacked = shell::target_directory(workspace).join("prometheus");
    let directory = unpacked.join("usr/bin");
    if has_both(&directory) {
        return Ok(directory);
    }
    fs::create_dir_all(&unpacked).context("cannot make a directory for Prometheus")?;
    let mut download = Command::new("apt-get");
    download.current_dir(&unpacked).args(["--quiet", "download", "prometheus"]);
    if shell::probe(&mut download).is_none() {
        if shell::is_root() {
            shell::run(Command::new("apt-get").args(["--quiet", "update"]), "check the system's package sources")?;
        }
        shell::run(&mut download, "Debian's package prometheus is needed, or an installed one")?;
    }
    let files = fs::read_dir(&unpacked).context("cannot list what was downloaded")?;
    let mut packages = files.filter_map(Result::ok).map(|entry| entry.path());
    let package = packages.find(|path| path.extension().is_some_and(|extension| extension == "deb"));
    let package = package.context("apt-get download has left no package")?;
    shell::run(Command::new("dpkg").arg("-x").arg(&package).arg(&unpacked), "dpkg must unpack it")?;
    ensure!(has_both(&directory), "{} holds no prometheus and promtool", package.display());
    Ok(directory)
}
