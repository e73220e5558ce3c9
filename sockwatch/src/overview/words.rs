//! The filter that is typed: the words of the command line, `--port 8080` or `port 8080`, and values that say by themselves what
//! they are: `8080`, `10.0.0.0/8`, `TIME_WAIT`, and anything else as a part of a process's name.

use crate::{
    process::names::Names,
    tcp::{
        event::Task,
        filter::{Filter, FilterError, Ports, Prefix},
        state::TcpState,
        tracker::Living,
    },
};

/// Words and values at most: each socket is held against each of them, in the loop that takes events in.
const MOST: usize = 64;

/// The words that a value follows.
const WORDS: [&str; 8] = ["port", "local-port", "remote-port", "addr", "pid", "cgroup", "netns", "state"];

/// What is looked for. Words of one kind are alternatives; different kinds must all match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Words {
    filter: Filter,
    states: Vec<TcpState>,
    /// Paths of cgroups, below their hierarchy's root.
    cgroups: Vec<String>,
    /// Names of network namespaces that were not looked up yet: none is in them.
    namespaces: Vec<String>,
    /// Parts of owners' names.
    names: Vec<String>,
}

/// Why words make no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WordsError {
    /// A word that wants a value, and is the last one.
    #[error("{0} what?")]
    Valueless(String),
    /// A value that is none.
    #[error("{0}: {1}")]
    Value(String, FilterError),
    /// A number that is none.
    #[error("{0}: not a number")]
    Number(String),
    /// Not a state.
    #[error("{0}: no such state")]
    State(String),
    /// A network namespace that this machine does not know by that name.
    #[error("netns {0}: nothing here is called so (`ip netns` lists names, `lsns -t net` numbers)")]
    Namespace(String),
    /// More than anybody types.
    #[error("more than {MOST} words and values")]
    TooMany,
    /// Not a word of filters.
    #[error("--{0}: there are {words}", words = WORDS.join(", "))]
    Unknown(String),
}

impl Words {
    /// From what was typed. Names of network namespaces are still to be looked up.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, WordsError> {
        if text.split([' ', '=', ',']).filter(|token| !token.is_empty()).count() > MOST {
            return Err(WordsError::TooMany);
        }
        let mut words = Self::default();
        // A path may have another one in it.
        let tokens = text.split(' ').flat_map(|token| token.splitn(2, '='));
        let mut tokens = tokens.filter(|token| !token.is_empty());
        while let Some(token) = tokens.next() {
            let name = token.trim_start_matches('-');
            let is_name = WORDS.contains(&name);
            if !is_name && token.starts_with('-') {
                return Err(WordsError::Unknown(name.to_owned()));
            }
            if !is_name {
                words.guess(token);
                continue;
            }
            let values = tokens.next().ok_or_else(|| WordsError::Valueless(name.to_owned()))?;
            if name == "cgroup" {
                words.cgroups.push(values.strip_prefix("/sys/fs/cgroup").unwrap_or(values).to_owned());
                continue;
            }
            for value in values.split(',').filter(|value| !value.is_empty()) {
                words.take(name, value)?;
            }
        }
        Ok(words)
    }

    /// Looks the names of network namespaces up: which numbers they have is not for this module to find out.
    ///
    /// # Errors
    /// The first one that is not found.
    pub fn look_up(mut self, find: impl Fn(&str) -> Option<u32>) -> Result<Self, WordsError> {
        for name in std::mem::take(&mut self.namespaces) {
            self.filter.netns.push(find(&name).ok_or(WordsError::Namespace(name))?);
        }
        Ok(self)
    }

    fn take(&mut self, name: &str, value: &str) -> Result<(), WordsError> {
        let wrong = |error| WordsError::Value(name.to_owned(), error);
        let filter = &mut self.filter;
        match name {
            "port" => filter.ports.push(value.parse().map_err(wrong)?),
            "local-port" => filter.local_ports.push(value.parse().map_err(wrong)?),
            "remote-port" => filter.remote_ports.push(value.parse().map_err(wrong)?),
            "addr" => filter.prefixes.push(value.parse().map_err(wrong)?),
            "pid" => filter.pids.push(value.parse().map_err(|_| WordsError::Number(name.to_owned()))?),
            "netns" => match value.parse() {
                Ok(number) => filter.netns.push(number),
                Err(_) => self.namespaces.push(value.to_owned()),
            },
            _state => {
                self.states.push(TcpState::named(value).ok_or_else(|| WordsError::State(value.to_owned()))?);
            }
        }
        Ok(())
    }

    /// A value without a word before it.
    fn guess(&mut self, value: &str) {
        if let Ok(ports) = value.parse::<Ports>() {
            self.filter.ports.push(ports);
        } else if let Ok(prefix) = value.parse::<Prefix>() {
            self.filter.prefixes.push(prefix);
        } else if let Some(state) = TcpState::named(value) {
            self.states.push(state);
        } else {
            self.names.push(value.to_lowercase());
        }
    }

    /// Whether a socket is looked for; `names` knows the cgroups of processes.
    pub fn admit(&self, living: &Living<'_>, now_ns: u64, names: &mut Names) -> bool {
        let subject = &living.subject;
        let is_owner = |is: &mut dyn FnMut(Task) -> bool| subject.owner.is_some_and(is);
        let is_named = &mut |owner: Task| {
            let name = owner.comm.to_string().to_lowercase();
            self.names.iter().any(|part| name.contains(part.as_str()))
        };
        self.namespaces.is_empty()
            && self.filter.matches_tuple(subject.key.netns, subject.local, subject.remote)
            && (self.states.is_empty() || self.states.contains(&living.state))
            && (self.filter.pids.is_empty() || is_owner(&mut |owner| self.filter.pids.contains(&owner.pid)))
            && (self.names.is_empty() || is_owner(is_named))
            && (self.cgroups.is_empty()
                || is_owner(&mut |owner| self.cgroups.iter().any(|cgroup| names.is_in(owner.pid, now_ns, cgroup))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(name: &str) -> Option<u32> {
        (name == "blue").then_some(4_026_532_001)
    }

    #[test]
    fn words_of_the_command_line_and_values_by_themselves() {
        let parse = |text: &str| Words::parse(text)?.look_up(find);
        let check = |one: &str, other: &str| assert_eq!(parse(one), parse(other), "{one} | {other}");
        check("--port 8080", "port 8080");
        check("--port=8080", "8080");
        check("--addr 10.0.0.0/8 --state CLOSE_WAIT", "10.0.0.0/8 close-wait");
        check("--netns blue", "netns=4026532001");
        check("--cgroup /sys/fs/cgroup/system.slice", "cgroup=/system.slice");
        check("  ", "");
        let words = parse("port 80,443 nginx cgroup=/a=b,c").unwrap();
        assert_eq!((words.filter.ports.len(), words.names), (2, vec!["nginx".to_owned()]));
        assert_eq!(words.cgroups, ["/a=b,c"], "a path is one value");
    }

    #[test]
    fn what_is_wrong_is_said() {
        let check = |text: &str, expected: &str| {
            let error = Words::parse(text).and_then(|words| words.look_up(find)).unwrap_err();
            assert_eq!(error.to_string(), expected, "{text}");
        };
        check("--port", "port what?");
        check("--port x", "port: not a port (1 to 65535) or a range like 8000-8100");
        check("pid x", "pid: not a number");
        check("state x", "x: no such state");
        check("netns green", "netns green: nothing here is called so (`ip netns` lists names, `lsns -t net` numbers)");
        check(&"x ".repeat(MOST + 1), "more than 64 words and values");
        check(&format!("port {}", "80,".repeat(MOST)), "more than 64 words and values");
        let words = "port, local-port, remote-port, addr, pid, cgroup, netns, state";
        check("--colour red", &format!("--colour: there are {words}"));
    }
}
