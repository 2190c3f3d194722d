//! Adapters that come and go: `/v1/adapters`, and the one that a request asks for.
//!
//! A request names an adapter in `adapters`, as in mlx-lm's server, or behind the model's name: `base:adapter`. One that is not in
//! memory is looked for in the folders that the server was given, and nowhere else.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::error::{ApiError, Result};
use super::fields::{Fields, cut};
use crate::app::{App, blocking};
use crate::engine::{AdapterInfo, Handle, Order, Refused};
use crate::http::reply;

/// The most adapters of a model in memory.
pub(crate) const MOST: usize = 64;

/// The longest name.
const MAX_NAME: usize = 200;

/// The adapters that are in memory, of all models.
pub(crate) fn list(app: &App) -> Response {
    let of = |(model, engine): (String, Handle)| {
        engine.status().adapters().iter().map(|info| shown(info, &model)).collect::<Vec<Value>>()
    };
    let data: Vec<Value> = app.shelf.engines().flat_map(of).collect();
    reply::json(&json!({"object": "list", "data": data}))
}

fn shown(info: &AdapterInfo, model: &str) -> Value {
    let AdapterInfo { name, folder, leaves, bytes } = info;
    let path = folder.display().to_string();
    json!({"id": name, "object": "adapter", "model": model, "path": path, "leaves": leaves, "bytes": bytes})
}

/// Reads an adapter: `path`, a folder within those of the server, and perhaps a `name`; for the first model, or the one in `model`.
pub(crate) async fn load(app: Arc<App>, mut fields: Fields) -> Result<Response> {
    let stand = app.shelf.find(fields.peek("model").and_then(Value::as_str)).await?;
    let (_, name, path) = (fields.string("model")?, fields.string("name")?, fields.string("path")?);
    let path = fields.required("path", path)?;
    fields.finish()?;
    let own = Arc::clone(&app);
    let folder = blocking(move || find(&own.options.adapter_roots, &path, "path")).await?;
    let of_folder = || folder.file_name().map(|name| name.to_string_lossy().into_owned());
    let name = name.or_else(of_folder).unwrap_or_default();
    let is_name = !name.is_empty() && name.len() <= MAX_NAME && !name.chars().any(|c| c.is_control() || c == ':');
    if !is_name {
        let message = format!("has to be 1 to {MAX_NAME} bytes long, without `:` and control characters");
        return Err(ApiError::field("name", message));
    }
    // A model is not loaded for a request that is wrong.
    let engine = app.shelf.engine(&stand).await?;
    let info = read(&engine, &name, folder, "path").await?;
    Ok(reply::json(&shown(&info, stand.name())))
}

/// Forgets an adapter of the first model, or as `model:adapter` one of another. Requests that have it go on with it.
pub(crate) async fn unload(app: &App, name: String) -> Result<Response> {
    let stands = app.shelf.stands();
    let of_model = stands.iter().find_map(|stand| Some((stand.engine(), split(&name, stand.names()).1?.to_owned())));
    let (engine, adapter) = of_model.unwrap_or_else(|| (Some(app.engine.clone()), name.clone()));
    let engine = engine.ok_or_else(|| none(&name, "name"))?;
    let (done, unloaded) = oneshot::channel();
    engine.order(Order::Unload { name: adapter, done })?;
    match unloaded.await.map_err(|_| Refused::Unavailable)? {
        true => Ok(reply::json(&json!({"id": name, "object": "adapter", "deleted": true}))),
        false => Err(none(&name, "name")),
    }
}

/// Takes the adapter that a request asks for out of its fields, and has it read if it is not in memory.
pub(crate) async fn requested(app: &Arc<App>, fields: &mut Fields) -> Result<Option<String>> {
    let names = &app.options.names;
    let behind = fields.peek("model").and_then(Value::as_str).and_then(|model| split(model, names).1);
    let (behind, given) = (behind.map(str::to_owned), fields.string("adapters")?);
    let (name, param) = match (behind, given) {
        (Some(name), None) => (name, "model"),
        (None, Some(name)) => (name, "adapters"),
        (None, None) => return Ok(None),
        (Some(behind), Some(given)) if behind == given => (given, "adapters"),
        (Some(_), Some(_)) => return Err(fields.error("adapters", "is another adapter than the one in `model`")),
    };
    let status = app.engine.status();
    if status.adapters().iter().any(|own| own.name == name) {
        return Ok(Some(name));
    }
    let (own, path) = (Arc::clone(app), name.clone());
    let folder = blocking(move || find(&own.options.adapter_roots, &path, param)).await?;
    // Asked for by its path, it is there under the name of its folder.
    let name = folder.file_name().map_or_else(|| name.clone(), |name| name.to_string_lossy().into_owned());
    if !status.adapters().iter().any(|own| own.folder == folder && own.name == name) {
        read(&app.engine, &name, folder, param).await?;
    }
    Ok(Some(name))
}

/// The model's own part of a name, and the adapter behind it. Names of models may have colons of their own.
pub(crate) fn split<'a>(model: &'a str, names: &[String]) -> (&'a str, Option<&'a str>) {
    if names.iter().any(|name| name == model) {
        return (model, None);
    }
    match model.rsplit_once(':') {
        Some((base, adapter))
            if !adapter.is_empty() && (base == "default_model" || names.iter().any(|name| name == base)) =>
        {
            (base, Some(adapter))
        }
        _ => (model, None),
    }
}

async fn read(engine: &Handle, name: &str, folder: PathBuf, param: &str) -> Result<AdapterInfo> {
    let own = engine.status().adapters();
    if own.len() >= MOST && !own.iter().any(|own| own.name == name) {
        let message = format!("there are {MOST} adapters in memory already, which is the limit; delete one first");
        return Err(ApiError::new(StatusCode::INSUFFICIENT_STORAGE, message).code("too_many_adapters"));
    }
    let (done, loaded) = oneshot::channel();
    engine.order(Order::Load { name: name.to_owned(), folder, done })?;
    let loaded = loaded.await.map_err(|_| Refused::Unavailable)?;
    loaded.map_err(|fault| ApiError { param: Some(param.to_owned()), ..ApiError::from(fault) })
}

fn none(name: &str, param: &str) -> ApiError {
    let message = format!("no adapter `{}` is loaded", cut(name));
    ApiError {
        param: Some(param.to_owned()),
        ..ApiError::new(StatusCode::NOT_FOUND, message).code("adapter_not_found")
    }
}

/// The folder of an adapter, by its name or path, within one of the roots. What lies elsewhere is as good as absent.
fn find(roots: &[PathBuf], path: &str, param: &str) -> Result<PathBuf> {
    if roots.is_empty() {
        let message = "names an adapter, and this server was started without `--adapter-dir`";
        return Err(ApiError::unsupported(param, message));
    }
    let within = |root: &PathBuf| {
        let root = root.canonicalize().ok()?;
        let folder = root.join(Path::new(path)).canonicalize().ok()?;
        (folder.starts_with(&root) && folder != root && folder.is_dir()).then_some(folder)
    };
    roots.iter().find_map(within).ok_or_else(|| none(path, param))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_adapter_stands_behind_a_name_that_is_known() {
        let names = ["base".to_owned(), "a:b".to_owned()];
        assert_eq!(split("base:x", &names), ("base", Some("x")));
        assert_eq!(split("a:b", &names), ("a:b", None));
        assert_eq!(split("a:b:x", &names), ("a:b", Some("x")));
        assert_eq!(split("other:x", &names), ("other:x", None));
        assert_eq!(split("base:", &names), ("base:", None));
        assert_eq!(split("default_model:x", &names), ("default_model", Some("x")));
    }

    #[test]
    fn folders_are_found_within_the_roots_only() {
        let outer = tempfile::tempdir().unwrap();
        let (root, other) = (outer.path().join("root"), outer.path().join("other"));
        std::fs::create_dir_all(root.join("one")).unwrap();
        std::fs::create_dir_all(&other).unwrap();
        let roots = [root.clone()];
        assert!(find(&roots, "one", "path").is_ok());
        assert!(find(&roots, root.join("one").to_str().unwrap(), "path").is_ok());
        for outside in ["../other", other.to_str().unwrap(), "..", ".", "", "one/../../other", "/"] {
            assert_eq!(find(&roots, outside, "path").unwrap_err().status, 404, "{outside}");
        }
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(&other, root.join("link")).unwrap();
            assert_eq!(find(&roots, "link", "path").unwrap_err().status, 404);
        }
        assert_eq!(find(&[], "one", "path").unwrap_err().status, 400);
    }
}
