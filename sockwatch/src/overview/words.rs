//! The filter that is typed: the words of the command line, `--port 8080` or `port 8080`, and values that say by themselves what
//! they are: `8080`, `10.0.0.0/8`, `TIME_WAIT`, and anything else as a part of a process's name.

use crate::tcp::{
    filter::{Filter, FilterError, Ports, Prefix},
    state::TcpState,
    tracker::Living,
};

/// What is looked for. Words of one kind are alternatives; different kinds must all match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Words {
    filter: Filter,
    states: Vec<TcpState>,
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
    /// Not a word of filters.
    #[error("--{0}: there are port, local-port, remote-port, addr, pid, netns, state")]
    Unknown(String),
}

impl Words {
    /// From what was typed.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, WordsError> {
        let mut words = Self::default();
        let mut tokens = text.split([' ', '=']).filter(|token| !token.is_empty());
        while let Some(token) = tokens.next() {
            let name = token.trim_start_matches('-');
            let is_name = ["port", "local-port", "remote-port", "addr", "pid", "netns", "state"].contains(&name);
            if !is_name && token.starts_with('-') {
                return Err(WordsError::Unknown(name.to_owned()));
            }
            if !is_name {
                words.guess(token);
                continue;
            }
            let values = tokens.next().ok_or_else(|| WordsError::Valueless(name.to_owned()))?;
            for value in values.split(',').filter(|value| !value.is_empty()) {
                words.take(name, value)?;
            }
        }
        Ok(words)
    }

    fn take(&mut self, name: &str, value: &str) -> Result<(), WordsError> {
        let wrong = |error| WordsError::Value(name.to_owned(), error);
        let number = || value.parse().map_err(|_| WordsError::Number(name.to_owned()));
        let filter = &mut self.filter;
        match name {
            "port" => filter.ports.push(value.parse().map_err(wrong)?),
            "local-port" => filter.local_ports.push(value.parse().map_err(wrong)?),
            "remote-port" => filter.remote_ports.push(value.parse().map_err(wrong)?),
            "addr" => filter.prefixes.push(value.parse().map_err(wrong)?),
            "pid" => filter.pids.push(number()?),
            "netns" => filter.netns.push(number()?),
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

    /// Whether a socket is looked for.
    pub fn admit(&self, living: &Living<'_>) -> bool {
        let subject = &living.subject;
        let owner = subject.owner;
        let is_named =
            |name: &String| owner.is_some_and(|owner| owner.comm.to_string().to_lowercase().contains(name.as_str()));
        self.filter.matches_tuple(subject.key.netns, subject.local, subject.remote)
            && (self.states.is_empty() || self.states.contains(&living.state))
            && (self.filter.pids.is_empty() || owner.is_some_and(|owner| self.filter.pids.contains(&owner.pid)))
            && (self.names.is_empty() || self.names.iter().any(is_named))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_the_command_line_and_values_by_themselves() {
        let check = |one: &str, other: &str| assert_eq!(Words::parse(one), Words::parse(other), "{one} | {other}");
        check("--port 8080", "port 8080");
        check("--port=8080", "8080");
        check("--addr 10.0.0.0/8 --state CLOSE_WAIT", "10.0.0.0/8 close-wait");
        check("  ", "");
        let words = Words::parse("port 80,443 nginx").unwrap();
        assert_eq!((words.filter.ports.len(), words.names), (2, vec!["nginx".to_owned()]));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let check = |text: &str, expected: &str| {
            assert_eq!(Words::parse(text).unwrap_err().to_string(), expected, "{text}");
        };
        check("--port", "port what?");
        check("--port x", "port: not a port (1 to 65535) or a range like 8000-8100");
        check("pid x", "pid: not a number");
        check("state x", "x: no such state");
        check("--colour red", "--colour: there are port, local-port, remote-port, addr, pid, netns, state");
    }
}
