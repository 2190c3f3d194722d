//! The settings of the hub, under the names and with the defaults of Python's `huggingface_hub` 2.4.
//!
//! The environment is read once, into a value that tests and programs may also write by hand.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::HubError;
use crate::Result;

/// Where the hub is, who asks, and where downloads are kept.
#[derive(Clone)]
#[non_exhaustive]
pub struct HubOptions {
    /// Address of the hub, without a slash at its end (`HF_ENDPOINT`).
    pub endpoint: String,
    /// The cache that all Hugging Face clients share (`HF_HUB_CACHE`, else `hub` in `HF_HOME`).
    pub cache: PathBuf,
    /// The user's token (`HF_TOKEN`, else the file `HF_TOKEN_PATH`, else `token` in `HF_HOME`).
    pub token: Option<String>,
    /// Use the cache alone (`HF_HUB_OFFLINE`).
    pub offline: bool,
    /// How long the hub may be silent before a request counts as failed (`HF_HUB_DOWNLOAD_TIMEOUT`, in seconds).
    pub timeout: Duration,
    /// The pause before a failed request is tried again; it doubles each time.
    pub retry_delay: Duration,
}

/// The token stays out of logs.
impl fmt::Debug for HubOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubOptions")
            .field("endpoint", &self.endpoint)
            .field("cache", &self.cache)
            .field("token", &self.token.as_ref().map(|_| "…"))
            .field("offline", &self.offline)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

impl HubOptions {
    /// Settings for the hub at `endpoint` and the cache folder `cache`; the rest as when the environment is empty.
    pub fn new(endpoint: impl Into<String>, cache: impl Into<PathBuf>) -> Self {
        Self {
            endpoint: endpoint.into(),
            cache: cache.into(),
            token: None,
            offline: false,
            timeout: Duration::from_secs(10),
            retry_delay: Duration::from_millis(500),
        }
    }

    /// Reads the environment, and the token file.
    pub fn from_env() -> Result<Self> {
        // Who has no HOME has a home folder all the same, by the system's list of users.
        let home = || std::env::home_dir()?.into_os_string().into_string().ok();
        Self::from_lookup(&|name| std::env::var(name).ok().or_else(|| home().filter(|_| name == "HOME")))
    }

    /// As [`HubOptions::from_env`], from any source of variables.
    ///
    /// Empty variables count as absent. `~/` at the start of a path is the home folder.
    pub fn from_lookup(lookup: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        let text = |name: &str| lookup(name).filter(|value| !value.trim().is_empty());
        let home = PathBuf::from(text("HOME").unwrap_or_default());
        let path = |name: &str| text(name).map(|value| expand(&value, &home));
        let flag = |name: &str| {
            text(name).is_some_and(|value| ["1", "on", "yes", "true"].contains(&value.to_lowercase().as_str()))
        };

        let hf_home = path("HF_HOME")
            .or_else(|| path("XDG_CACHE_HOME").map(|cache| cache.join("huggingface")))
            .unwrap_or_else(|| home.join(".cache").join("huggingface"));
        let cache =
            path("HF_HUB_CACHE").or_else(|| path("HUGGINGFACE_HUB_CACHE")).unwrap_or_else(|| hf_home.join("hub"));

        let mut options = Self::new(endpoint(text("HF_ENDPOINT"))?, cache);
        options.offline = flag("HF_HUB_OFFLINE") || flag("TRANSFORMERS_OFFLINE");
        if let Some(timeout) = timeout(text("HF_HUB_DOWNLOAD_TIMEOUT"))? {
            options.timeout = timeout;
        }
        if !flag("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
            let file = path("HF_TOKEN_PATH").unwrap_or_else(|| hf_home.join("token"));
            options.token = text("HF_TOKEN")
                .or_else(|| text("HUGGING_FACE_HUB_TOKEN"))
                .or_else(|| crate::io::read_to_string(file).ok())
                .map(|token| token.trim().to_owned())
                .filter(|token| !token.is_empty());
        }
        Ok(options)
    }
}

fn expand(value: &str, home: &Path) -> PathBuf {
    match value.strip_prefix("~/") {
        Some(rest) => home.join(rest),
        None => PathBuf::from(value),
    }
}

fn endpoint(value: Option<String>) -> Result<String> {
    const NAME: &str = "HF_ENDPOINT";
    let Some(value) = value else { return Ok("https://huggingface.co".to_owned()) };
    let usable = reqwest::Url::parse(&value).is_ok_and(|url| url.has_host() && url.scheme().starts_with("http"));
    if !usable {
        return Err(
            HubError::BadSetting { name: NAME, value, expected: "an address such as https://huggingface.co" }.into()
        );
    }
    Ok(value.trim_end_matches('/').to_owned())
}

fn timeout(value: Option<String>) -> Result<Option<Duration>> {
    let Some(value) = value else { return Ok(None) };
    let Some(seconds) = value.trim().parse::<u32>().ok().filter(|seconds| *seconds > 0) else {
        let expected = "a number of seconds above zero";
        return Err(HubError::BadSetting { name: "HF_HUB_DOWNLOAD_TIMEOUT", value, expected }.into());
    };
    Ok(Some(Duration::from_secs(seconds.into())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Hint;

    fn check(variables: &[(&str, &str)]) -> Result<HubOptions> {
        HubOptions::from_lookup(&|name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn defaults_are_those_of_python() {
        let options = check(&[("HOME", "/home/ada")]).unwrap();
        assert_eq!(options.endpoint, "https://huggingface.co");
        assert_eq!(options.cache, Path::new("/home/ada/.cache/huggingface/hub"));
        assert_eq!(options.timeout, Duration::from_secs(10));
        assert!(!options.offline);
        assert_eq!(options.token, None);
    }

    #[test]
    fn the_nearest_cache_variable_wins() {
        let all = [
            ("HOME", "/home/ada"),
            ("XDG_CACHE_HOME", "/xdg"),
            ("HF_HOME", "~/hf"),
            ("HUGGINGFACE_HUB_CACHE", "/old"),
            ("HF_HUB_CACHE", "/new"),
        ];
        let expected = ["/home/ada/.cache/huggingface/hub", "/xdg/huggingface/hub", "/home/ada/hf/hub", "/old", "/new"];
        for (n, expected) in expected.iter().enumerate() {
            assert_eq!(check(&all[..=n]).unwrap().cache, Path::new(expected));
        }
    }

    #[test]
    fn tokens_come_from_the_variable_or_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().to_str().unwrap();
        crate::io::write(folder.path().join("token"), "hf_file\n").unwrap();
        assert_eq!(check(&[("HF_HOME", home)]).unwrap().token.as_deref(), Some("hf_file"));
        assert_eq!(check(&[("HF_HOME", home), ("HF_TOKEN", "hf_env")]).unwrap().token.as_deref(), Some("hf_env"));
        let elsewhere = folder.path().join("other");
        crate::io::write(&elsewhere, "hf_other").unwrap();
        let elsewhere = elsewhere.to_str().unwrap();
        let options = check(&[("HF_HOME", home), ("HF_TOKEN_PATH", elsewhere)]).unwrap();
        assert_eq!(options.token.as_deref(), Some("hf_other"));
        assert!(!format!("{options:?}").contains("hf_other"));
        assert_eq!(check(&[("HF_HOME", home), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]).unwrap().token, None);
    }

    #[test]
    fn offline_takes_the_words_that_python_takes() {
        for (value, offline) in [("1", true), ("True", true), ("YES", true), ("on", true), ("0", false), ("", false)] {
            assert_eq!(check(&[("HF_HUB_OFFLINE", value)]).unwrap().offline, offline, "{value}");
        }
        assert!(check(&[("TRANSFORMERS_OFFLINE", "1")]).unwrap().offline);
    }

    #[test]
    fn values_that_cannot_be_used_are_named() {
        for variable in
            [("HF_ENDPOINT", "huggingface.co"), ("HF_HUB_DOWNLOAD_TIMEOUT", "0"), ("HF_HUB_DOWNLOAD_TIMEOUT", "x")]
        {
            let error = check(&[variable]).unwrap_err();
            assert!(error.to_string().contains(variable.0), "{error}");
            assert!(error.hint().unwrap().contains(variable.0));
        }
        let options = check(&[("HF_ENDPOINT", "http://mirror.example/"), ("HF_HUB_DOWNLOAD_TIMEOUT", "30")]).unwrap();
        assert_eq!(options.endpoint, "http://mirror.example");
        assert_eq!(options.timeout, Duration::from_secs(30));
    }
}
