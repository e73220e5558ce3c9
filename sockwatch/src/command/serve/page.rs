//! The live page: what a browser loads. It fetches nothing from anywhere else, and its figures by the interface.

use std::net::IpAddr;

use hyper::{
    Request, StatusCode,
    header::{CONTENT_SECURITY_POLICY, HOST, HeaderName, HeaderValue, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS},
};

use super::answer::{Answer, answer};

/// A file of the page.
#[derive(Debug)]
pub(super) struct Part {
    path: &'static str,
    content_type: &'static str,
    text: &'static str,
}

const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

const PARTS: &[Part] = &[
    Part { path: "/", content_type: "text/html; charset=utf-8", text: include_str!("page/page.html") },
    Part { path: "/page.js", content_type: SCRIPT, text: include_str!("page/page.js") },
    Part { path: "/page.css", content_type: STYLE, text: include_str!("page/page.css") },
    Part { path: "/common.js", content_type: SCRIPT, text: include_str!("../page/common.js") },
    Part { path: "/common.css", content_type: STYLE, text: include_str!("../page/page.css") },
    Part { path: "/uPlot.js", content_type: SCRIPT, text: include_str!("../page/uPlot.iife.min.js") },
    Part { path: "/uPlot.css", content_type: STYLE, text: include_str!("../page/uPlot.min.css") },
    Part {
        path: "/uPlot.LICENSE",
        content_type: "text/plain; charset=utf-8",
        text: include_str!("../page/uPlot.LICENSE"),
    },
];

/// Its own files, and nothing else; nobody shows it in a frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

pub(super) fn part(path: &str) -> Option<&'static Part> {
    PARTS.iter().find(|part| part.path == path)
}

pub(super) fn answer_part(part: &Part) -> Answer {
    let mut answer = answer(StatusCode::OK, part.content_type, part.text);
    let headers: [(HeaderName, &'static str); 3] =
        [(CONTENT_SECURITY_POLICY, POLICY), (X_CONTENT_TYPE_OPTIONS, "nosniff"), (REFERRER_POLICY, "no-referrer")];
    for (name, value) in headers {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    answer
}

/// Whether a request names this machine by an address, or as localhost. A page from anywhere can make a name of its own mean
/// 127.0.0.1 and then read what is answered; it cannot do so with these.
pub(super) fn is_meant<T>(request: &Request<T>) -> bool {
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    is_address(host)
}

fn is_address(host: &str) -> bool {
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    let name = match host.rsplit_once(':') {
        Some((name, port)) if is_port(port) => name,
        _ => host,
    };
    let bare = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::{super::api::PREFIX, *};

    #[test]
    fn names_of_others_are_not_meant() {
        for host in ["127.0.0.1", "127.0.0.1:29798", "localhost:1", "LocalHost", "[::1]:29798", "[::1]", "10.0.0.7:80"]
        {
            assert!(is_address(host), "{host}");
        }
        for host in ["", "example.org", "example.org:29798", "localhost.example.org", "127.0.0.1.example.org", "a:b"] {
            assert!(!is_address(host), "{host}");
        }
    }

    #[test]
    fn the_page_loads_what_there_is_and_nothing_else() {
        let page = part("/").unwrap().text;
        let is_file = |word: &&str| word.starts_with('/') && word.contains('.') && !word.starts_with(PREFIX);
        let loaded: Vec<_> = page.split('"').filter(is_file).collect();
        assert!(loaded.len() > 4, "{loaded:?}");
        for path in loaded {
            assert!(part(path).is_some(), "{path}");
        }
        assert!(!page.contains("http://") && !page.contains("https://"));
    }
}
