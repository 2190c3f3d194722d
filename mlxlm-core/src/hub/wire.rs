//! The three questions that a download asks the hub: which commit, which files, which bytes.
//!
//! Unusual: hf-hub 1.0 is not used here. Its listing drops the SHA-256 of large files (the wire says `oid`, its struct
//! `sha256`), and its downloads start anew each time, store the body of an error as if it were the file, and check
//! neither size nor hash. The endpoints and headers are those that `huggingface_hub` 2.4 uses.

use std::io::{BufReader, Read, Take};
use std::thread;
use std::time::{Duration, Instant};

use reqwest::blocking::{Client, Response};
use reqwest::header::{self, HeaderMap};
use reqwest::{StatusCode, Url};
use serde::Deserialize;
use serde::de::DeserializeSeed;
use serde_json::Value;
use serde_json::de::IoRead;

use super::listing::{BadEntry, Entry, Listing};
use super::options::HubOptions;
use super::progress::{Event, Progress};
use super::repo_id::{RepoId, RepoKind, is_commit};
use super::{HubError, USER_AGENT};

/// How often a request is sent before it counts as failed.
pub(super) const ATTEMPTS: u32 = 5;

/// A connection to the hub for one repository.
pub(super) struct Wire<'a> {
    client: Client,
    options: &'a HubOptions,
    repo: &'a RepoId,
    progress: &'a Progress,
}

/// What a request is about, for the words of its errors.
#[derive(Clone, Copy)]
enum About<'a> {
    Revision(&'a str),
    Listing,
    File(&'a str),
}

impl<'a> Wire<'a> {
    pub(super) fn new(options: &'a HubOptions, repo: &'a RepoId, progress: &'a Progress) -> Result<Self, HubError> {
        let mut headers = HeaderMap::new();
        // Ranges and hashes are those of the plain bytes.
        headers.insert(header::ACCEPT_ENCODING, header::HeaderValue::from_static("identity"));
        if let Some(token) = &options.token {
            let mut value = header::HeaderValue::from_str(&format!("Bearer {token}"))
                .map_err(|_| HubError::BadToken { endpoint: options.endpoint.clone() })?;
            value.set_sensitive(true);
            headers.insert(header::AUTHORIZATION, value);
        }
        let client = Client::builder()
            .user_agent(USER_AGENT)
            .default_headers(headers)
            .connect_timeout(options.timeout)
            // Of the blocking client this limits the wait for the answer and for each piece of its body.
            .timeout(options.timeout)
            .build()
            .map_err(|error| HubError::Client { cause: root_cause(&error) })?;
        Ok(Self { client, options, repo, progress })
    }

    /// The commit that a branch or tag means now.
    pub(super) fn commit(&self, revision: &str) -> Result<String, HubError> {
        /// The part of the answer that is read.
        #[derive(Deserialize)]
        struct Info {
            #[serde(default)]
            sha: String,
        }
        let url = self.url(&["api", self.repo.kind.plural()], &["revision", revision])?;
        let response = self.get(&url, 0, About::Revision(revision))?;
        let mut info = None;
        self.read_json(response, "the repository's commit", |json| {
            info = Some(Info::deserialize(json)?);
            Ok(())
        })?;
        let commit = info.map(|info| info.sha).filter(|sha| is_commit(sha));
        commit.ok_or_else(|| self.malformed("it names no commit"))
    }

    /// All files of a commit.
    pub(super) fn listing(&self, commit: &str) -> Result<Vec<Entry>, HubError> {
        const MOST_PAGES: usize = 1000;
        let mut url = self.url(&["api", self.repo.kind.plural()], &["tree", commit])?;
        url.query_pairs_mut().append_pair("recursive", "true");
        let mut listing = Listing::default();
        for _ in 0..MOST_PAGES {
            let response = self.get(&url, 0, About::Listing)?;
            let next = text(response.headers(), "link").and_then(|link| next_page(&link, response.url()));
            let read = self.read_json(response, "the list of files", |json| listing.deserialize(json));
            if let Some(bad) = listing.bad.take() {
                return Err(self.bad_entry(bad));
            }
            read?;
            match next {
                None => return Ok(listing.entries),
                // The token goes along, so it must not go elsewhere.
                Some(next) if next.origin() == url.origin() => url = next,
                Some(_) => return Err(self.malformed("the listing goes on at another host")),
            }
        }
        Err(self.malformed("the listing has no end"))
    }

    /// The bytes of a file from an offset on, and the offset at which they really start: a server may ignore it.
    pub(super) fn bytes(&self, commit: &str, file: &str, from: u64) -> Result<(u64, Response), HubError> {
        let mut path = vec!["resolve", commit];
        path.extend(file.split('/'));
        let before: &[&str] = match self.repo.kind {
            RepoKind::Model => &[],
            RepoKind::Dataset => &["datasets"],
        };
        let url = self.url(before, &path)?;
        let response = self.get(&url, from, About::File(file))?;
        if response.status() != StatusCode::PARTIAL_CONTENT {
            return Ok((0, response));
        }
        let range = text(response.headers(), "content-range").unwrap_or_default();
        let start = range.strip_prefix("bytes ").and_then(|range| range.split('-').next()?.parse().ok());
        match start {
            Some(start) if start == from => Ok((start, response)),
            _ => Err(self.malformed(&format!("it sends the range `{range}` of `{file}`, asked from {from}"))),
        }
    }

    /// The pause before the next attempt, after `failures` of them.
    pub(super) fn pause(&self, failures: u32) -> Duration {
        self.options.retry_delay * 2_u32.saturating_pow(failures.saturating_sub(1))
    }

    /// Sends a request until it succeeds or fails for good.
    fn get(&self, url: &Url, from: u64, about: About<'_>) -> Result<Response, HubError> {
        let file = if let About::File(file) = about { file } else { "" };
        let mut failures = 0;
        loop {
            let mut request = self.client.get(url.clone());
            if from > 0 {
                request = request.header(header::RANGE, format!("bytes={from}-"));
            }
            let (error, again) = match request.send() {
                Ok(response) if response.status().is_success() => return Ok(response),
                Ok(response) => {
                    let again = may_pass(response.status());
                    (self.refused(response, about), again)
                }
                // Without a network the first question should fail fast: the cache may answer it.
                Err(error) => (self.unreachable(&error), !matches!(about, About::Revision(_))),
            };
            failures += 1;
            if !again || failures == ATTEMPTS {
                return Err(error);
            }
            let pause = match error {
                HubError::RateLimited { retry_after_s: Some(seconds), .. } => {
                    const LONGEST_S: u64 = 60;
                    Duration::from_secs(seconds.min(LONGEST_S))
                }
                _ => self.pause(failures),
            };
            self.progress.report(Event::Retry { file, cause: &error.to_string(), pause });
            thread::sleep(pause);
        }
    }

    /// Reads a body of JSON as it comes. `what` it is goes into the events of a slow server.
    fn read_json(
        &self,
        response: Response,
        what: &str,
        read: impl FnOnce(&mut serde_json::Deserializer<IoRead<BufReader<Take<Patient<'_>>>>>) -> serde_json::Result<()>,
    ) -> Result<(), HubError> {
        const MOST_BYTES: u64 = 64 << 20;
        let body = Patient { response, progress: self.progress, what, begun: Instant::now(), reported: Instant::now() };
        let mut json = serde_json::Deserializer::from_reader(BufReader::new(body.take(MOST_BYTES)));
        let done = read(&mut json).and_then(|()| json.end());
        done.map_err(|error| {
            if error.is_io() {
                return HubError::Unreachable { endpoint: self.endpoint(), cause: root_cause(&error) };
            }
            self.malformed(&if error.is_eof() {
                format!("{error} (of {MOST_BYTES} bytes at most)")
            } else {
                error.to_string()
            })
        })
    }

    /// `{endpoint}/{before}/{repo}/{after}`; each part of `before` and `after` is one segment, whatever it holds.
    fn url(&self, before: &[&str], after: &[&str]) -> Result<Url, HubError> {
        let bad = || self.malformed("HF_ENDPOINT cannot be the start of an address");
        let mut url = Url::parse(&self.options.endpoint).map_err(|_| bad())?;
        url.path_segments_mut()
            .map_err(|()| bad())?
            .pop_if_empty()
            .extend(before)
            .extend(self.repo.as_str().split('/'))
            .extend(after);
        Ok(url)
    }

    fn refused(&self, response: Response, about: About<'_>) -> HubError {
        const MOST_BYTES: u64 = 64 << 10;
        let status = response.status().as_u16();
        let code = text(response.headers(), "x-error-code").unwrap_or_default();
        let retry_after_s = text(response.headers(), "retry-after").and_then(|seconds| seconds.parse().ok());
        let said = text(response.headers(), "x-error-message").or_else(|| {
            let mut body = Vec::new();
            response.take(MOST_BYTES).read_to_end(&mut body).ok()?;
            let body: Value = serde_json::from_slice(&body).ok()?;
            body.get("error")?.as_str().map(str::to_owned)
        });
        let said = said.unwrap_or_default();
        let (repo, endpoint, with_token) = (self.repo.to_string(), self.endpoint(), self.options.token.is_some());
        match (code.as_str(), status, about) {
            ("GatedRepo", _, _) => {
                let page = format!("{endpoint}/{repo}");
                HubError::Gated { repo, page, with_token }
            }
            ("RevisionNotFound", _, About::Revision(revision)) => {
                HubError::RevisionNotFound { repo, revision: revision.to_owned() }
            }
            ("EntryNotFound", _, About::File(file)) | ("", 404, About::File(file)) => {
                HubError::FileNotFound { repo, file: file.to_owned() }
            }
            (_, 401, _) if said == "Invalid credentials in Authorization header" => HubError::BadToken { endpoint },
            // To whom it does not know, the hub says 401 about what does not exist, too.
            ("RepoNotFound", _, _) | (_, 401 | 404, _) => HubError::NotFound { repo, endpoint, with_token },
            (_, 403, _) => HubError::Forbidden { action: "reading", repo, said: or_status(said, status) },
            (_, 429, _) => HubError::RateLimited { endpoint, retry_after_s },
            _ => HubError::Server { endpoint, repo, status, said },
        }
    }

    fn unreachable(&self, error: &reqwest::Error) -> HubError {
        let cause = if error.is_timeout() {
            format!("no answer within {} s", self.options.timeout.as_secs_f32())
        } else {
            root_cause(error)
        };
        HubError::Unreachable { endpoint: self.endpoint(), cause }
    }

    fn malformed(&self, what: &str) -> HubError {
        HubError::Malformed { endpoint: self.endpoint(), repo: self.repo.to_string(), what: what.to_owned() }
    }

    fn bad_entry(&self, bad: BadEntry) -> HubError {
        match bad {
            BadEntry::Path(file) => HubError::UnsafePath { repo: self.repo.to_string(), file },
            BadEntry::Shape(what) => self.malformed(&what),
        }
    }

    fn endpoint(&self) -> String {
        self.options.endpoint.clone()
    }
}

/// The body of an answer, with an event now and then if it takes long.
struct Patient<'a> {
    response: Response,
    progress: &'a Progress,
    what: &'a str,
    begun: Instant,
    reported: Instant,
}

impl Read for Patient<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        const EVERY: Duration = Duration::from_secs(5);
        if self.reported.elapsed() >= EVERY {
            self.reported = Instant::now();
            self.progress.report(Event::Slow { what: self.what, waited: self.begun.elapsed() });
        }
        self.response.read(into)
    }
}

/// Whether the same request may succeed a little later.
fn may_pass(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 500 | 502..=504)
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(|value| value.trim().to_owned())
}

pub(super) fn or_status(said: String, status: u16) -> String {
    if said.is_empty() { format!("status {status}") } else { said }
}

/// The innermost of an error's causes, which says what happened; the outer ones repeat the address.
pub(super) fn root_cause(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

/// The address in a `Link` header that is marked `rel="next"`.
fn next_page(link: &str, base: &Url) -> Option<Url> {
    link.split(',').find_map(|part| {
        let (address, marks) = part.trim().strip_prefix('<')?.split_once('>')?;
        marks.contains("rel=\"next\"").then(|| base.join(address).ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_found() {
        let base = Url::parse("http://127.0.0.1:1/api").unwrap();
        let check = |link: &str, expected: Option<&str>| {
            assert_eq!(next_page(link, &base).map(String::from).as_deref(), expected, "{link}");
        };
        check("<http://h/x?cursor=a>; rel=\"next\"", Some("http://h/x?cursor=a"));
        check("</y>; rel=\"prev\", </x?c=1>; rel=\"next\"", Some("http://127.0.0.1:1/x?c=1"));
        check("</y>; rel=\"last\"", None);
        check("nonsense", None);
    }

    #[test]
    fn addresses_are_encoded_by_segment() {
        let options = HubOptions::new("http://mirror.example/hf/", "cache");
        let (repo, progress) = (RepoId::parse("org/name").unwrap(), Progress::none());
        let wire = Wire::new(&options, &repo, &progress).unwrap();
        let url = wire.url(&["api", "models"], &["revision", "refs/pr/1"]).unwrap();
        assert_eq!(url.as_str(), "http://mirror.example/hf/api/models/org/name/revision/refs%2Fpr%2F1");
        let url = wire.url(&[], &["resolve", "0a", "sub", "a b#?.json"]).unwrap();
        assert_eq!(url.as_str(), "http://mirror.example/hf/org/name/resolve/0a/sub/a%20b%23%3F.json");
    }
}
