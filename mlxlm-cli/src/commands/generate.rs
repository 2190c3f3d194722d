//! `generate`: one answer to one prompt, or an answer to each prompt of a file.

mod decoding;
mod many;

use std::cell::RefCell;
use std::num::NonZeroUsize;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use mlxlm_cache::{Caches, KvFormat};
use mlxlm_core::device::WiredLimit;
use mlxlm_core::text::{Tokenizer, TokenizerOptions};
use mlxlm_models::{CausalLm, LoadOptions, Loaded};
use mlxlm_sample::{
    GenerateOptions, Generation, GenerationResponse, Generator, KvQuantization, Sampler, SamplerOptions,
};
use serde_json::{Map, Value};

use crate::args::{DEFAULT_MODEL, GenerateArgs, PrecisionArgs, SamplingArgs};
use crate::failure::{Failure, Result};
use crate::model::load_timed;
use crate::output::{note, print, say, warn};
use crate::progress::Busy;
use crate::prompt::{self, Turn};
use crate::units;
use decoding::Speculation;
pub(super) use decoding::check_ways;
use many::{Answering, Many};

/// Runs the command.
pub(super) fn run(args: &GenerateArgs) -> Result {
    refuse(args)?;
    let many = Many::open(&args.many)?;
    let mut options = options(args)?;
    let kwargs = prompt::template_values("--chat-template-config", args.chat_template_config.as_deref())?;
    let mut cached = args.prompt_cache_file.as_deref().map(Cached::open).transpose()?;
    let name = match &cached {
        Some(cached) => cached.check(args)?,
        None => args.model.model.as_deref().unwrap_or(DEFAULT_MODEL).to_owned(),
    };
    let config = cached.as_ref().map(|cached| cached.tokenizer_config.clone()).unwrap_or_default();
    let tokenizer_options = TokenizerOptions { config, ..TokenizerOptions::default() };
    let mtp = args.speculation.mtp.is_some();
    let load = LoadOptions { tokenizer: tokenizer_options, mtp, ..LoadOptions::default() };
    let (Loaded { model, mut tokenizer, .. }, load_time) = load_timed(&name, &args.model.variant, load)?;
    let vocabulary = model.info().vocab_size;
    for token in &args.extra_eos_token {
        let id = tokenizer.add_eos_token(token)?;
        if i64::from(id) >= i64::from(vocabulary) {
            let what = format!("`--extra-eos-token` is {id}, expected a token of the vocabulary, below {vocabulary}");
            return Err(Failure::usage(what));
        }
    }
    options.sampler.xtc_special_tokens = xtc_special_tokens(&tokenizer)?;
    let speculation = Speculation::load(&args.speculation, &tokenizer)?;
    let matcher = decoding::matcher(&args.grammar, &tokenizer, &*model)?;
    if let Some(many) = many {
        return many.answer(&Answering {
            args,
            kwargs,
            tokenizer: &tokenizer,
            model: &*model,
            options,
            speculation,
            matcher,
        });
    }
    let tokens = prompt_tokens(args, kwargs, &tokenizer, &*model, cached.is_some())?;
    warn_of_small_cache(args, tokens.len());
    let held = cached.as_ref().map_or(0, |cached| cached.caches.held_after(0));
    let mut generator = Generator::new(&*model, &tokenizer);
    if let Some(cached) = &mut cached {
        generator = generator.prompt_cache(&mut cached.caches);
    }
    if let Some(proposer) = speculation.proposer(&*model, &options)? {
        generator = generator.proposer(proposer);
    }
    if let Some(matcher) = matcher {
        generator = generator.matcher(matcher);
    }
    let _wired = WiredLimit::raise()?;
    let busy = Rc::new(RefCell::new(Some(Busy::begin("reading the prompt"))));
    let reading = Rc::clone(&busy);
    let generator = generator.on_progress(move |done, total| {
        if let Some(busy) = &*reading.borrow() {
            busy.say(format!("reading {done}/{total}"));
        }
    });
    let took = Took { load: load_time, held, context: model.info().context_length };
    show(generator.stream(&tokens, &options)?, args.verbose, &busy, &took)
}

/// A prompt that does not fit into the KV cache is read, and then half forgotten.
fn warn_of_small_cache(args: &GenerateArgs, tokens: usize) {
    if let Some(most) = args.kv.max_kv_size.filter(|most| *most < tokens) {
        warn(format_args!(
            "the prompt has {tokens} tokens and `--max-kv-size` is {most}: the start of the prompt is dropped"
        ));
    }
}

/// What this version does not do is said, not passed over.
fn refuse(args: &GenerateArgs) -> Result {
    if !args.image.is_empty() {
        return Err(Failure::usage("`--image` is not supported: models cannot see images"));
    }
    if args.quantize_activations {
        return Err(Failure::usage("`--quantize-activations` is not supported"));
    }
    Ok(())
}

/// A prompt cache with what its file says of its making.
struct Cached {
    caches: Caches,
    model: Option<String>,
    tokenizer_config: Map<String, Value>,
}

impl Cached {
    fn open(path: &Path) -> Result<Self> {
        let (caches, metadata) = Caches::load(path).map_err(|error| match error {
            mlxlm_cache::Error::Core(mlxlm_core::Error::Io { .. }) if !path.exists() => {
                Failure::new(format!("there is no prompt cache `{}`", path.display()))
                    .hint("`mlxlm cache_prompt` writes one")
            }
            // The hint of a file of weights would be to fetch the model again.
            mlxlm_cache::Error::Core(mlxlm_core::Error::Weights(_)) => {
                Failure::new(format!("`{}` is not a prompt cache: {error}", path.display()))
                    .hint("`mlxlm cache_prompt` writes one")
            }
            _ => error.into(),
        })?;
        let config = metadata.get("tokenizer_config").map(|json| serde_json::from_str(json));
        let tokenizer_config = match config {
            Some(Ok(Value::Object(mut config))) => {
                config.remove("trust_remote_code");
                config
            }
            _ => Map::new(),
        };
        Ok(Self { caches, model: metadata.get("model").cloned(), tokenizer_config })
    }

    /// The name of the model to load. The options must be those that the cache was made with.
    fn check(&self, args: &GenerateArgs) -> Result<String> {
        if let Some(format) = self.caches.format() {
            check_format(&args.kv.precision, format)?;
        }
        match (&args.model.model, &self.model) {
            (Some(given), Some(made)) if given != made => {
                Err(Failure::usage(format!("the prompt cache was made with the model `{made}`, not `{given}`"))
                    .hint("omit `--model` to use the model of the cache"))
            }
            (Some(name), _) => Ok(name.clone()),
            (None, Some(name)) => {
                if name != DEFAULT_MODEL {
                    note(format_args!("loading `{name}`, the model of the prompt cache"));
                }
                Ok(name.clone())
            }
            (None, None) => {
                Err(Failure::usage("the prompt cache does not name its model").hint("name the model with `--model`"))
            }
        }
    }
}

fn prompt_tokens(
    args: &GenerateArgs,
    kwargs: Map<String, Value>,
    tokenizer: &Tokenizer,
    model: &dyn CausalLm,
    continues: bool,
) -> Result<Vec<u32>> {
    let text = prompt::text(&prompt::unescaped(&args.prompt))?;
    if args.ignore_chat_template || !tokenizer.has_chat_template() {
        if !args.ignore_chat_template {
            warn("the model has no chat template: the prompt is used unchanged");
        }
        without_template(args);
        return prompt::plain_tokens(&text, tokenizer, model);
    }
    let (system, prefill) = (args.system_prompt.clone(), args.prefill_response.clone());
    let turn = Turn { system, user: text, prefill, kwargs };
    let rendered = if continues { turn.render_suffix(tokenizer)? } else { turn.render(tokenizer)? };
    prompt::rendered_tokens(&rendered, tokenizer, model)
}

/// Options that only a template could take are not passed over in silence.
fn without_template(args: &GenerateArgs) {
    let given = [
        ("--system-prompt", args.system_prompt.is_some()),
        ("--prefill-response", args.prefill_response.is_some()),
        ("--chat-template-config", args.chat_template_config.is_some()),
    ];
    let why = if args.ignore_chat_template { "the chat template is ignored" } else { "the model has no chat template" };
    for (option, _) in given.iter().filter(|(_, given)| *given) {
        warn(format_args!("`{option}` has no effect: {why}"));
    }
}

/// All but what the tokenizer has to say.
fn options(args: &GenerateArgs) -> Result<GenerateOptions> {
    let sampler = SamplerOptions {
        min_p: args.min_p,
        min_tokens_to_keep: args.min_tokens_to_keep,
        top_k: args.top_k,
        seed: args.seed,
        ..sampler_options(&args.sampling)?
    };
    Sampler::new(&sampler)?;
    Ok(GenerateOptions {
        max_tokens: prompt::max_tokens(args.max_tokens)?,
        sampler,
        prefill_step_size: prefill_step_size(args.prefill_step_size, args.kv.max_kv_size),
        max_kv_size: args.kv.max_kv_size,
        kv_quantization: kv_quantization(&args.kv.precision)?,
        state_bf16: args.kv.precision.gdn_state_bf16,
        snapkv: decoding::snapkv(&args.snapkv),
        num_draft_tokens: decoding::num_draft_tokens(&args.speculation),
        ..GenerateOptions::default()
    })
}

/// How tokens are drawn; values that no sampler takes are refused before a model is loaded.
pub(super) fn sampler_options(args: &SamplingArgs) -> Result<SamplerOptions> {
    let options = SamplerOptions {
        temp: args.temp,
        top_p: args.top_p,
        xtc_probability: args.xtc_probability,
        xtc_threshold: args.xtc_threshold,
        ..SamplerOptions::default()
    };
    Sampler::new(&options)?;
    Ok(options)
}

/// Newlines and the tokens that end an answer are never dropped by XTC.
pub(super) fn xtc_special_tokens(tokenizer: &Tokenizer) -> Result<Vec<u32>> {
    let mut tokens = tokenizer.encode("\n", true)?;
    tokens.extend(tokenizer.eos_token_ids());
    Ok(tokens)
}

/// How many tokens of a prompt are read at a time, with a cache of this size.
pub(super) fn prefill_step_size(given: Option<NonZeroUsize>, max_kv_size: Option<usize>) -> usize {
    given.map_or_else(|| mlxlm_sample::prefill_step_size(max_kv_size), NonZeroUsize::get)
}

/// The quantization of keys and values that the options ask for.
pub(super) fn kv_quantization(args: &PrecisionArgs) -> Result<Option<KvQuantization>> {
    let Some(bits) = args.kv_bits else {
        return match args.kv_rotate {
            Some(true) => Err(Failure::usage("`--kv-rotate` needs a quantized KV cache")
                .hint("add `--kv-bits`, for example `--kv-bits 4`")),
            _ => Ok(None),
        };
    };
    let (group_size, start) = (args.kv_group_size, args.quantized_kv_start);
    let quantization = KvQuantization { bits, group_size, rotate: args.kv_rotate, start };
    quantization.format().map_err(|error| Failure::from(error).into_usage())?;
    Ok(Some(quantization))
}

/// Refuses options that ask for keys and values in another format than those of a prompt cache.
fn check_format(args: &PrecisionArgs, held: KvFormat) -> Result {
    let rotates_otherwise = args.kv_rotate.is_some_and(|rotate| [rotate; 2] != held.is_rotated());
    let packs_otherwise =
        args.kv_bits.is_some_and(|bits| bits != held.bits()) || args.kv_group_size != held.group_size();
    if !rotates_otherwise && !packs_otherwise {
        return Ok(());
    }
    let ([keys, values], group) = (held.bits(), held.group_size());
    let bits = if keys == values { keys.to_string() } else { format!("{keys},{values}") };
    let mut hint = format!("use `--kv-bits {bits} --kv-group-size {group}`");
    if rotates_otherwise {
        hint += ", and omit `--kv-rotate`";
    }
    Err(Failure::usage(format!("the prompt cache is quantized to {held}")).hint(hint))
}

/// What is known when an answer begins.
struct Took {
    /// The time that the model took to load.
    load: Duration,
    /// Tokens that the prompt cache held.
    held: usize,
    /// The most tokens that the model reads, if it says so.
    context: Option<i32>,
}

/// What turns until there is an answer.
type Waiting = Rc<RefCell<Option<Busy>>>;

/// Prints an answer: while it is generated, between rules and with its speed if `verbose`, else whole and alone.
fn show(mut generation: Generation<'_>, verbose: bool, busy: &Waiting, took: &Took) -> Result {
    if !verbose {
        let text = generation.map(|response| Ok(response?.text)).collect::<Result<String>>()?;
        drop(busy.take());
        return say!("{text}");
    }
    let begin = Instant::now();
    let mut first_token = Duration::ZERO;
    let mut last: Option<GenerationResponse> = None;
    let mut empty = true;
    for response in &mut generation {
        drop(busy.take());
        let response = response?;
        if last.is_none() {
            first_token = begin.elapsed();
            // Not before: what turns while the prompt is read would stay above it.
            say!("{RULE}")?;
        }
        empty &= response.text.is_empty();
        print(format_args!("{}", response.text))?;
        last = Some(response);
    }
    if last.is_none() {
        drop(busy.take());
        say!("{RULE}")?;
    }
    say!("\n{RULE}")?;
    let Some(last) = last.filter(|_| !empty) else {
        return say!("No text generated for this prompt");
    };
    say!("Prompt: {}, {:.3} tokens-per-sec", units::counted(last.prompt_tokens, "token"), last.prompt_tps)?;
    let tokens = units::counted(last.generation_tokens, "token");
    match last.generation_tokens {
        // The first token comes with the prompt, and the second is computed while the first is read.
        0..=2 => say!("Generation: {tokens}")?,
        _ => say!("Generation: {tokens}, {:.3} tokens-per-sec", last.generation_tps)?,
    }
    say!("Peak memory: {:.3} GB", last.peak_memory)?;
    say!("Load: {}, first token after {}", units::time(took.load), units::time(first_token))?;
    let counters = generation.counters();
    if counters.proposed_tokens > 0 {
        let share = 100.0 * counters.accepted_tokens as f64 / counters.proposed_tokens as f64;
        say!("Drafts: {} of {} accepted ({share:.0}%)", counters.accepted_tokens, counters.proposed_tokens)?;
    }
    let used = took.held + last.prompt_tokens + last.generation_tokens;
    match took.context.filter(|limit| *limit > 0) {
        Some(limit) => say!("Context: {used} of {limit} tokens"),
        None => say!("Context: {}", units::counted(used, "token")),
    }
}

const RULE: &str = "==========";
