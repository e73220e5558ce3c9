//! Worker processes that share a listener.

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use nix::sys::signal::Signal;
use sockwatch::tcp::{connection::Role, state::TcpState};

use super::{
    Lab, Run,
    actor::Actor,
    netns::acting,
    sockets::{SERVER, close, listen, talk},
    stage::Stage,
    watch::{accepted, ended, entered},
};

pub(super) const LAB: Lab = Lab {
    name: "prefork",
    summary: "workers share a listener: accept names the worker, the listener's owner is the master",
    story: "A master listens, two worker processes inherit its listener and accept one connection each, as in
Apache or PHP-FPM. The connection's owner is whoever accepted it. One worker is killed: only its own
connection ends.",
    run: Run::Alone(run),
};

fn run(stage: &mut Stage) -> anyhow::Result<String> {
    let listener = acting("master", || listen(SERVER, 128))?;
    let mut workers = Vec::new();
    for name in ["worker-1", "worker-2"] {
        let mut worker = Actor::holding(name, listener.try_clone()?)?;
        worker.tell("take-listener")?;
        workers.push(worker);
    }
    let mut clients = Vec::new();
    for (index, worker) in workers.iter_mut().enumerate() {
        let mut client = acting("client", || TcpStream::connect(SERVER))?;
        worker.tell("accept")?;
        stage.until_count(index + 1, "accepts", accepted())?;
        let say = |words| worker.tell(&format!("say {words}"));
        talk(say, |words| acting("client", || client.read_exact(words)))?;
        talk(|words| acting("client", || client.write_all(words.as_bytes())), |_| worker.tell("read"))?;
        clients.push(client);
    }
    let second = workers.pop();
    stage.say(format_args!("worker-1 is killed."));
    let mut killed = 0;
    for worker in workers {
        killed = worker.pid();
        worker.kill(Signal::SIGKILL)?;
    }
    stage.until("its FIN", entered(Role::Active, TcpState::CloseWait))?;
    stage.say(format_args!(
        "Its connection is closing; the other one goes on. Then its clients close, and worker-2, too."
    ));
    let [first, other] = <[TcpStream; 2]>::try_from(clients).map_err(|_| anyhow::anyhow!("two clients"))?;
    stage.until("the orphan", ended(Role::Passive))?;
    close("client", first)?;
    stage.until("the first client's end", ended(Role::Active))?;
    close("client", other)?;
    stage.until("CLOSE_WAIT", entered(Role::Passive, TcpState::CloseWait))?;
    stage.until_count(2, "the second client's end", ended(Role::Active))?;
    if let Some(mut worker) = second {
        worker.tell("close")?;
        stage.until_count(2, "the server's end", ended(Role::Passive))?;
    }
    close("master", listener)?;
    Ok(format!("Process {killed} had one connection, and only that one ended with it."))
}
