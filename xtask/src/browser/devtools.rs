//! A browser that is told what to do: Chromium's own protocol, over a pair of pipes.

use std::{
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};
use nix::{sys::stat::Mode, unistd::mkfifo};
use serde_json::{Value, json};

use crate::service::{PATIENCE, Running};

/// Width and height: of a desk's screen, and of a telephone's.
pub(super) const SCREENS: &[(u32, u32)] = &[(1280, 900), (360, 740)];

/// A browser with one page.
pub(super) struct Browser {
    commands: File,
    messages: Receiver<Value>,
    session: Option<String>,
    commanded: u64,
    /// What pages have complained of.
    complaints: Vec<String>,
    _process: Running,
}

impl Browser {
    /// Starts it; its pipes are in a directory that is the caller's.
    pub(super) fn start(program: &str, directory: &Path) -> Result<Self> {
        let pipe = |name: &str| -> Result<File> {
            let path = directory.join(name);
            let _from_before = std::fs::remove_file(&path);
            mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).with_context(|| format!("cannot make {}", path.display()))?;
            // For both: neither end waits for the other.
            OpenOptions::new().read(true).write(true).open(&path).context("cannot open a pipe")
        };
        let (commands, answers) = (pipe("commands")?, pipe("answers")?);
        let mut command = Command::new("sh");
        command.current_dir(directory).args(["-c", r#"exec "$0" "$@" 3< commands 4> answers"#, program]);
        command.args(["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "about:blank"]);
        command.arg(format!("--user-data-dir={}", directory.join("profile").display()));
        let process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let process = Running(process.with_context(|| format!("cannot start {program}"))?);
        let (sender, messages) = mpsc::channel();
        thread::spawn(move || {
            let parts = BufReader::new(answers).split(0).map_while(Result::ok);
            parts.map_while(|part| serde_json::from_slice(&part).ok()).try_for_each(|message| sender.send(message))
        });
        let mut browser =
            Self { commands, messages, session: None, commanded: 0, complaints: Vec::new(), _process: process };
        let target = browser.command("Target.createTarget", &json!({ "url": "about:blank" }))?;
        let attached = json!({ "targetId": target["targetId"], "flatten": true });
        let session = browser.command("Target.attachToTarget", &attached)?;
        browser.session = Some(session["sessionId"].as_str().context("the browser gives no session")?.to_owned());
        for domain in ["Runtime.enable", "Log.enable", "Page.enable"] {
            browser.command(domain, &json!({}))?;
        }
        Ok(browser)
    }

    pub(super) fn open(&mut self, url: &str) -> Result<()> {
        self.command("Page.navigate", &json!({ "url": url })).map(drop)
    }

    /// Makes the page as large as that.
    pub(super) fn resize(&mut self, (width, height): (u32, u32)) -> Result<()> {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.command("Emulation.setDeviceMetricsOverride", &size).map(drop)
    }

    /// Whatever is wider than the page is scrolled within itself.
    pub(super) fn fits(&mut self) -> Result<()> {
        let is_wider = "it => it.getBoundingClientRect().right > innerWidth + 1 && !it.closest('.wide')";
        // Charts follow the window a little later.
        let Err(error) = self.until("all of its width", "document.documentElement.scrollWidth <= innerWidth") else {
            return Ok(());
        };
        let wider = "[...document.body.querySelectorAll('*')].filter";
        let wider =
            self.ask(&format!("{wider}({is_wider}).slice(0, 9).map(it => it.outerHTML.slice(0, 99)).join()"))?;
        Err(error.context(format!("the page is wider than its window: {wider}")))
    }

    /// Types into a field, letter by letter, instead of what is in it.
    pub(super) fn type_in(&mut self, id: &str, text: &str) -> Result<()> {
        self.clear(id)?;
        text.chars().try_for_each(|letter| self.insert(letter))
    }

    pub(super) fn clear(&mut self, id: &str) -> Result<()> {
        self.ask(&format!("document.getElementById('{id}').focus(), document.getElementById('{id}').select()"))?;
        // Nothing typed over everything leaves nothing.
        self.command("Input.insertText", &json!({ "text": " " }))?;
        self.ask("document.execCommand('delete')").map(drop)
    }

    pub(super) fn insert(&mut self, letter: char) -> Result<()> {
        self.command("Input.insertText", &json!({ "text": letter.to_string() })).map(drop)
    }

    /// What an expression comes to.
    pub(super) fn ask(&mut self, expression: &str) -> Result<Value> {
        let answer = self.command("Runtime.evaluate", &json!({ "expression": expression, "returnByValue": true }))?;
        ensure!(answer.get("exceptionDetails").is_none(), "{expression}: {answer}");
        Ok(answer["result"]["value"].clone())
    }

    /// Asks until it is true.
    pub(super) fn until(&mut self, what: &str, expression: &str) -> Result<()> {
        let began = Instant::now();
        while self.ask(expression)? != true {
            if began.elapsed() > PATIENCE {
                let shown = self.ask("document.body.innerText")?;
                bail!("the page does not show {what}; it complains: {:?}; it shows: {shown}", self.complaints);
            }
        }
        Ok(())
    }

    /// Keeps a picture of all of it, for who wants to look.
    pub(super) fn picture(&mut self, path: &Path) -> Result<()> {
        let whole = json!({ "format": "png", "captureBeyondViewport": true });
        let picture = self.command("Page.captureScreenshot", &whole)?;
        let text = picture["data"].as_str().context("the browser draws nothing")?.to_owned();
        let mut decode = Command::new("base64");
        decode.arg("--decode").stdin(Stdio::piped());
        decode.stdout(File::create(path).with_context(|| format!("cannot write {}", path.display()))?);
        let mut decoding = decode.spawn().context("cannot start base64")?;
        decoding
            .stdin
            .take()
            .context("no standard input")?
            .write_all(text.as_bytes())
            .context("base64 does not read")?;
        let status = decoding.wait().context("cannot wait for base64")?;
        ensure!(status.success(), "base64: {status}");
        Ok(())
    }

    /// Whatever a page complained of is an error.
    pub(super) fn end(mut self) -> Result<()> {
        // What was said until now comes before the answer.
        self.ask("true")?;
        ensure!(self.complaints.is_empty(), "the page complains: {}", self.complaints.join("; "));
        Ok(())
    }

    fn command(&mut self, method: &str, parameters: &Value) -> Result<Value> {
        self.commanded += 1;
        let mut message = json!({ "id": self.commanded, "method": method, "params": parameters });
        if let Some(session) = &self.session {
            message["sessionId"] = session.as_str().into();
        }
        let mut text = message.to_string().into_bytes();
        text.push(0);
        self.commands.write_all(&text).context("the browser does not listen")?;
        loop {
            let message = self.messages.recv_timeout(PATIENCE);
            let message = message.with_context(|| format!("the browser does not answer {method}"))?;
            if message["id"] == self.commanded {
                ensure!(message.get("error").is_none(), "{method}: {}", message["error"]);
                return Ok(message["result"].clone());
            }
            self.complaints.extend(complaint(&message));
        }
    }
}

/// What an event complains of, if it does.
fn complaint(event: &Value) -> Option<String> {
    let parameters = &event["params"];
    match event["method"].as_str()? {
        "Runtime.exceptionThrown" => Some(parameters["exceptionDetails"].to_string()),
        "Runtime.consoleAPICalled" if ["error", "warning", "assert"].contains(&parameters["type"].as_str()?) => {
            Some(parameters["args"].to_string())
        }
        "Log.entryAdded" if parameters["entry"]["level"] == "error" => Some(parameters["entry"].to_string()),
        _ => None,
    }
}
