//! `server`: requests over HTTP, from options to a server that runs.

mod shelf;

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
#[cfg(unix)]
use std::thread;
use std::time::{Duration, SystemTime};

use mlxlm_core::text::TokenizerOptions;
use mlxlm_core::{device, io};
use mlxlm_models::LoadOptions;
use mlxlm_sample::{Sampler, SamplerOptions};
use mlxlm_serve::{
    Access, ApiKey, Defaults, DiskPromptCache, EngineOptions, Images, Level, Limits, Line, Loader, Log, Models, Server,
    ServerOptions, Stop, Tls,
};
use serde_json::{Value, json};

use super::generate::{check_ways, kv_quantization, prefill_step_size};
use crate::args::{DiskPromptCacheArgs, FrontArgs, ImageUse, LogFormat, LogLevel, ServedArgs, ServerArgs, VariantArgs};
use crate::failure::{Failure, Result};
use crate::model::{load_model, load_model_with};
use crate::output::{self, say};
use crate::{clock, prompt};

/// The variable of the environment that may hold a key.
const KEY_VARIABLE: &str = "MLXLM_API_KEY";

/// Runs the command; `cpu` sends the engine's work to the CPU.
pub(super) fn run(args: &ServerArgs, cpu: bool) -> Result {
    if args.pipeline {
        return Err(Failure::usage("`--pipeline` is not supported: a model runs on one machine"));
    }
    check_ways(&args.speculation)?;
    let server = Server::bind(options(args, cpu)?)?;
    // Whoever reads the address may send a signal at once.
    listen_for_signals(server.stopper())?;
    let scheme = if args.front.tls_cert.is_some() { "https" } else { "http" };
    for address in server.addresses() {
        say!("listening on {scheme}://{address}")?;
    }
    Ok(server.run(loader(args, &shelf::first(args)?, cpu))?)
}

/// Ctrl-C and SIGTERM end the server once its requests are done, or at once if they come twice. After SIGHUP new connections get the
/// certificate that is in the files then.
#[cfg(unix)]
fn listen_for_signals(control: Stop) -> Result {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    use signal_hook::iterator::Signals;
    let cannot = |error| Failure::new(format!("cannot listen for signals: {error}"));
    let with_certificate = control.has_certificate();
    let heard: &[i32] = if with_certificate { &[SIGINT, SIGTERM, SIGHUP] } else { &[SIGINT, SIGTERM] };
    let mut signals = Signals::new(heard).map_err(cannot)?;
    let listen = move || {
        for signal in signals.forever() {
            match signal {
                SIGHUP => control.read_certificate_again(),
                _ => control.stop(),
            }
        }
    };
    thread::Builder::new().name("signals".into()).spawn(listen).map(drop).map_err(cannot)
}

/// Elsewhere the system ends the program.
#[cfg(not(unix))]
fn listen_for_signals(_: Stop) -> Result {
    Ok(())
}

/// What loads the models, on the thread that will own them.
fn loader(args: &ServerArgs, name: &str, cpu: bool) -> Loader {
    let ServedArgs { revision, adapter_path, trust_remote_code, .. } = args.served.clone();
    let variant = VariantArgs { revision, adapter_path, trust_remote_code };
    let (name, draft) = (name.to_owned(), args.speculation.draft_model.clone());
    let mtp = args.speculation.mtp.is_some();
    let template = Some(args.chat_template.clone()).filter(|template| !template.is_empty());
    Arc::new(move || {
        if cpu {
            device::use_cpu();
        }
        let tokenizer = TokenizerOptions { chat_template: template.clone(), ..TokenizerOptions::default() };
        let options = LoadOptions { tokenizer, mtp, ..LoadOptions::default() };
        let main = load_model_with(&name, &variant, options).map_err(|failure| failure.in_a_line())?;
        let load = |name: &String| load_model(name, &VariantArgs::default(), TokenizerOptions::default());
        let draft = draft.as_ref().map(load).transpose().map_err(|failure| failure.in_a_line())?;
        if let Some(draft) = &draft
            && draft.tokenizer.vocab_size() != main.tokenizer.vocab_size()
        {
            return Err("the tokenizer of the draft model is not that of the model".to_owned());
        }
        Ok(Models { main, draft })
    })
}

fn options(args: &ServerArgs, cpu: bool) -> Result<ServerOptions> {
    let name = shelf::first(args)?;
    let sampler = SamplerOptions {
        temp: args.temp,
        top_p: args.top_p,
        top_k: args.top_k,
        min_p: args.min_p,
        ..SamplerOptions::default()
    };
    Sampler::new(&sampler)?;
    Ok(ServerOptions {
        names: names(args, &name),
        model_bytes: shelf::bytes(&name),
        models: shelf::others(args, cpu),
        finder: Some(shelf::finder(args, cpu)),
        memory_budget: args.served.memory_budget.map(|bytes| bytes as u64),
        host: args.host.clone(),
        port: args.port,
        defaults: Defaults {
            temperature: args.temp,
            top_p: args.top_p,
            top_k: args.top_k,
            min_p: args.min_p,
            max_tokens: args.max_tokens.get(),
            chat_template_args: prompt::template_values("--chat-template-args", Some(&args.chat_template_args))?,
        },
        engine: EngineOptions {
            decode_concurrency: args.decode_concurrency.get(),
            prompt_concurrency: args.prompt_concurrency.get(),
            prefill_step_size: prefill_step_size(args.prefill_step_size, None),
            prompt_cache_size: args.prompt_cache_size,
            prompt_cache_bytes: args.prompt_cache_bytes,
            kv_quantization: kv_quantization(&args.precision)?,
            state_bf16: args.precision.gdn_state_bf16,
            num_draft_tokens: args.speculation.num_draft_tokens,
            prompt_lookup_num_tokens: args.speculation.prompt_lookup_num_tokens.map(NonZeroUsize::get),
            mtp: args.speculation.mtp.map(NonZeroUsize::get),
            auto_speculative: args.speculation.auto_speculative,
            disk_prompt_cache: disk_prompt_cache(&args.disk_prompt_cache),
            idle_unload: args.served.ttl.map(|seconds| Duration::from_secs(seconds.get())),
            queue: args.queue_size,
        },
        adapter_roots: args.adapters.adapter_dir.clone(),
        access: access(args)?,
        limits: Limits {
            body_bytes: args.max_body_bytes,
            request_time: args.request_timeout.map(Duration::from_secs),
            ..Limits::default()
        },
        images: match args.front.images {
            ImageUse::Refuse => Images::Refuse,
            ImageUse::Mention => Images::Mention,
        },
        requires_model: args.front.require_model,
        page: !args.front.no_page,
        tls: tls(&args.front),
        log: log(args.log_level, args.front.log_format),
    })
}

fn disk_prompt_cache(args: &DiskPromptCacheArgs) -> Option<DiskPromptCache> {
    args.disk_prompt_cache_dir.as_ref().map(|folder| DiskPromptCache {
        folder: folder.clone(),
        limit_bytes: args.disk_prompt_cache_bytes as u64,
        min_tokens: args.disk_prompt_cache_min_tokens,
    })
}

/// What requests may call the model: its name, that of its folder, and those that were given.
fn names(args: &ServerArgs, name: &str) -> Vec<String> {
    let folder = Path::new(name).file_name().and_then(|folder| folder.to_str());
    let given = args.served_model_name.iter().map(String::as_str);
    let mut names: Vec<String> = Vec::new();
    for name in given.chain([name]).chain(folder) {
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    names
}

fn access(args: &ServerArgs) -> Result<Access> {
    let mut keys = args.api_key.clone();
    keys.extend(std::env::var(KEY_VARIABLE).ok());
    if let Some(path) = &args.api_key_file {
        keys.extend(io::read_to_string(path)?.lines().map(|line| line.trim().to_owned()));
        keys.retain(|key| !key.is_empty());
        if keys.is_empty() {
            return Err(Failure::usage(format!("there is no key in `{}`", path.display())));
        }
    }
    if keys.iter().any(String::is_empty) {
        return Err(Failure::usage(format!("an API key in `--api-key` or `{KEY_VARIABLE}` is empty")));
    }
    let (allowed_origins, allowed_hosts) = (args.allowed_origins.clone(), args.allowed_hosts.clone());
    Ok(Access { api_keys: keys.into_iter().map(ApiKey::new).collect(), allowed_origins, allowed_hosts })
}

fn tls(args: &FrontArgs) -> Option<Tls> {
    // Each option requires the other.
    let (certificates, key) = (args.tls_cert.clone()?, args.tls_key.clone()?);
    Some(Tls { certificates, key })
}

/// Lines on standard error, with the time.
fn log(least: LogLevel, format: LogFormat) -> Log {
    Log::new(move |line: &Line| {
        let level = match line.level {
            Level::Debug => LogLevel::Debug,
            Level::Info => LogLevel::Info,
            Level::Warning => LogLevel::Warning,
            Level::Error => LogLevel::Error,
        };
        if level < least {
            return;
        }
        let time = clock::utc(SystemTime::now());
        match format {
            LogFormat::Text => output::log(&format!("{time} {:?} {}", line.level, line.text)),
            LogFormat::Json => output::log(&json_line(&time, line).to_string()),
        }
    })
}

/// A line as an object; of a request, what it asked for stands on its own too.
fn json_line(time: &str, line: &Line) -> Value {
    let mut object = json!({"time": time, "level": format!("{:?}", line.level).to_lowercase(), "message": line.text});
    if let Some(asked) = &line.asked {
        object["method"] = asked.method.as_str().into();
        object["path"] = asked.path.as_str().into();
        object["status"] = asked.status.into();
        object["seconds"] = asked.time.as_secs_f64().into();
    }
    object
}
