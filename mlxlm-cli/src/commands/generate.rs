//! `generate`: one answer to one prompt.

use std::path::Path;

use mlxlm_cache::Caches;
use mlxlm_core::device::WiredLimit;
use mlxlm_core::quant::{Mode, Scheme};
use mlxlm_core::text::{Tokenizer, TokenizerOptions};
use mlxlm_models::{CausalLm, Loaded};
use mlxlm_sample::{
    Draft, GenerateOptions, Generation, GenerationResponse, Generator, KvQuantization, Sampler, SamplerOptions,
};
use serde_json::{Map, Value};

use crate::args::{DEFAULT_MODEL, GenerateArgs, KvArgs, ModelArgs, SamplingArgs};
use crate::failure::{Failure, Result};
use crate::model::load_model;
use crate::output::{print, say, warn};
use crate::prompt::{self, Turn};

/// Runs the command.
pub(super) fn run(args: &GenerateArgs) -> Result {
    refuse(args)?;
    let mut options = options(args)?;
    let kwargs = prompt::template_config(args.chat_template_config.as_deref())?;
    let mut cached = args.prompt_cache_file.as_deref().map(Cached::open).transpose()?;
    let name = match &cached {
        Some(cached) => cached.check(args)?,
        None => args.model.model.as_deref().unwrap_or(DEFAULT_MODEL).to_owned(),
    };
    let config = cached.as_ref().map(|cached| cached.tokenizer_config.clone()).unwrap_or_default();
    let tokenizer_options = TokenizerOptions { config, ..TokenizerOptions::default() };
    let Loaded { model, mut tokenizer, .. } = load_model(&name, &args.model, tokenizer_options)?;
    for token in &args.extra_eos_token {
        tokenizer.add_eos_token(token)?;
    }
    options.sampler.xtc_special_tokens = xtc_special_tokens(&tokenizer)?;
    let draft = args.draft_model.as_deref().map(|name| load_draft(name, &tokenizer)).transpose()?;

    let tokens = prompt_tokens(args, kwargs, &tokenizer, cached.is_some())?;
    let mut generator = Generator::new(&*model, &tokenizer);
    if let Some(cached) = &mut cached {
        generator = generator.prompt_cache(&mut cached.caches);
    }
    if let Some(draft) = &draft {
        generator = generator.draft_model(Draft { model: &**draft, caches: None });
    }
    let _wired = WiredLimit::raise()?;
    show(generator.stream(&tokens, &options)?, args.verbose)
}

/// What this version does not do is said, not passed over.
fn refuse(args: &GenerateArgs) -> Result {
    if !args.image.is_empty() {
        return Err(Failure::usage("`--image`: no model that can be loaded takes images"));
    }
    if args.quantize_activations {
        return Err(Failure::usage("`--quantize-activations` is not supported: activations stay in floating point"));
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
        let (caches, metadata) = Caches::load(path)?;
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
        if let Some(scheme) = self.caches.scheme()
            && (args.kv.kv_bits.is_some_and(|bits| bits != scheme.bits) || args.kv.kv_group_size != scheme.group_size)
        {
            let (bits, group) = (scheme.bits, scheme.group_size);
            return Err(Failure::usage(format!("the prompt cache is quantized to {bits} bits in groups of {group}"))
                .hint(format!("give `--kv-bits {bits} --kv-group-size {group}`")));
        }
        match (&args.model.model, &self.model) {
            (Some(given), Some(made)) if given != made => {
                Err(Failure::usage(format!("the prompt cache was made with the model `{made}`, not `{given}`"))
                    .hint("leave `--model` out to take the model of the cache"))
            }
            (Some(name), _) | (None, Some(name)) => Ok(name.clone()),
            (None, None) => Err(Failure::usage("the prompt cache does not say which model it was made with")
                .hint("name the model with `--model`")),
        }
    }
}

fn load_draft(name: &str, tokenizer: &Tokenizer) -> Result<Box<dyn CausalLm>> {
    let args = ModelArgs { model: None, revision: None, adapter_path: None, trust_remote_code: false };
    let draft = load_model(name, &args, TokenizerOptions::default())?;
    if draft.tokenizer.vocab_size() != tokenizer.vocab_size() {
        return Err(Failure::usage(format!("the tokenizer of the draft model `{name}` is not that of the model"))
            .hint("a draft model must be of the same family"));
    }
    Ok(draft.model)
}

fn prompt_tokens(
    args: &GenerateArgs,
    kwargs: Map<String, Value>,
    tokenizer: &Tokenizer,
    continues: bool,
) -> Result<Vec<u32>> {
    let text = prompt::text(&prompt::unescaped(&args.prompt))?;
    if args.ignore_chat_template || !tokenizer.has_chat_template() {
        without_template(args);
        return Ok(tokenizer.encode(&text, true)?);
    }
    let (system, prefill) = (args.system_prompt.clone(), args.prefill_response.clone());
    let turn = Turn { system, user: text, prefill, kwargs };
    let rendered = if continues { turn.render_suffix(tokenizer)? } else { turn.render(tokenizer)? };
    Ok(tokenizer.encode(&rendered, false)?)
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
        warn(format_args!("`{option}` changes nothing, because {why}"));
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
        prefill_step_size: args.prefill_step_size.get(),
        max_kv_size: args.kv.max_kv_size,
        kv_quantization: kv_quantization(&args.kv)?,
        num_draft_tokens: args.num_draft_tokens,
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

/// The quantization of keys and values that the options ask for.
pub(super) fn kv_quantization(args: &KvArgs) -> Result<Option<KvQuantization>> {
    let Some(bits) = args.kv_bits else { return Ok(None) };
    let Scheme { bits, group_size, .. } = Scheme::new(Mode::Affine, bits, args.kv_group_size)?;
    Ok(Some(KvQuantization { bits, group_size, start: args.quantized_kv_start }))
}

/// Prints an answer: as it comes, between rules and with its speed if `verbose`, else whole and alone.
fn show(generation: Generation<'_>, verbose: bool) -> Result {
    if !verbose {
        let text = generation.map(|response| Ok(response?.text)).collect::<Result<String>>()?;
        return say!("{text}");
    }
    say!("{RULE}")?;
    let mut last: Option<GenerationResponse> = None;
    let mut empty = true;
    for response in generation {
        let response = response?;
        empty &= response.text.is_empty();
        print(format_args!("{}", response.text))?;
        last = Some(response);
    }
    say!("\n{RULE}")?;
    let Some(last) = last.filter(|_| !empty) else {
        return say!("No text generated for this prompt");
    };
    say!("Prompt: {} tokens, {:.3} tokens-per-sec", last.prompt_tokens, last.prompt_tps)?;
    say!("Generation: {} tokens, {:.3} tokens-per-sec", last.generation_tokens, last.generation_tps)?;
    say!("Peak memory: {:.3} GB", last.peak_memory)
}

const RULE: &str = "==========";
