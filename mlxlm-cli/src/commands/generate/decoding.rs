//! Who proposes tokens, what the answer must be, and what is kept of a long prompt.

use std::num::NonZeroUsize;

use mlxlm_cache::SnapKv;
use mlxlm_core::io;
use mlxlm_core::text::{Tokenizer, TokenizerOptions};
use mlxlm_models::CausalLm;
use mlxlm_sample::engine::MAX_DRAFT_TOKENS;
use mlxlm_sample::grammar::{GrammarSpec, Grammars, Matcher};
use mlxlm_sample::propose::{Auto, DraftModel, Mtp, PromptLookup, Proposer};
use mlxlm_sample::{Draft, Error, GenerateOptions};

use crate::args::{GrammarArgs, SnapKvArgs, SpeculationArgs, VariantArgs};
use crate::failure::{Failure, Result};
use crate::model::load_model;
use crate::output::warn;

/// Who proposes, loaded.
pub(super) struct Speculation {
    draft: Option<Box<dyn CausalLm>>,
    /// How far the model's own heads predict.
    mtp: Option<usize>,
    looks_up: bool,
    is_auto: bool,
}

impl Speculation {
    /// Loads the draft model, if there is one.
    pub(super) fn load(args: &SpeculationArgs, tokenizer: &Tokenizer) -> Result<Self> {
        let looks_up = args.prompt_lookup_num_tokens.is_some();
        check_ways(args)?;
        let asked = num_draft_tokens(args);
        if (args.draft_model.is_some() || looks_up) && asked > MAX_DRAFT_TOKENS {
            let option = if looks_up { "--prompt-lookup-num-tokens" } else { "--num-draft-tokens" };
            warn(format_args!("`{option}` is {asked}, but at most {MAX_DRAFT_TOKENS} tokens are proposed at once"));
        }
        if args.draft_model.is_some() && asked == 0 {
            warn("`--num-draft-tokens` is 0, so the draft model is loaded and never asked");
        }
        let draft = args.draft_model.as_deref().map(|name| load_draft(name, tokenizer)).transpose()?;
        let mtp = args.mtp.map(NonZeroUsize::get);
        Ok(Self { draft, mtp, looks_up: looks_up || args.auto_speculative, is_auto: args.auto_speculative })
    }

    /// A proposer for one sequence; none if nobody proposes.
    pub(super) fn proposer<'a>(
        &'a self,
        model: &dyn CausalLm,
        options: &GenerateOptions,
    ) -> Result<Option<Box<dyn Proposer + 'a>>> {
        let mut proposers: Vec<Box<dyn Proposer + 'a>> = Vec::new();
        if self.looks_up {
            proposers.push(Box::new(PromptLookup::new()));
        }
        if let Some(depth) = self.mtp {
            proposers.push(Box::new(Mtp::new(model, depth)?));
        }
        if let Some(draft) = &self.draft {
            proposers.push(Box::new(DraftModel::new(Draft { model: &**draft, caches: None }, options)?));
        }
        if self.is_auto {
            return Ok(Some(Box::new(Auto::new(proposers))));
        }
        Ok(proposers.pop())
    }
}

/// Refuses several who propose, unless what pays is found out.
pub(in crate::commands) fn check_ways(args: &SpeculationArgs) -> Result {
    let ways = [
        ("--draft-model", args.draft_model.is_some()),
        ("--prompt-lookup-num-tokens", args.prompt_lookup_num_tokens.is_some()),
        ("--mtp", args.mtp.is_some()),
    ];
    let given: Vec<&str> = ways.iter().filter(|(_, given)| *given).map(|(name, _)| *name).collect();
    match given[..] {
        [first, second, ..] if !args.auto_speculative => {
            Err(Failure::usage(format!("`{first}` and `{second}` both propose tokens"))
                .hint("use one of them, or add `--auto-speculative`"))
        }
        _ => Ok(()),
    }
}

fn load_draft(name: &str, tokenizer: &Tokenizer) -> Result<Box<dyn CausalLm>> {
    let draft = load_model(name, &VariantArgs::default(), TokenizerOptions::default())?;
    if draft.tokenizer.vocab_size() != tokenizer.vocab_size() {
        return Err(Failure::usage(format!("the draft model `{name}` has another tokenizer than the model"))
            .hint("use a draft model of the same family"));
    }
    Ok(draft.model)
}

/// The most tokens that are proposed at once.
pub(super) fn num_draft_tokens(args: &SpeculationArgs) -> usize {
    /// Where the choice is automatic, what pays is measured below this.
    const AUTO: usize = 16;
    match args {
        SpeculationArgs { prompt_lookup_num_tokens: Some(n), .. } => n.get(),
        SpeculationArgs { auto_speculative: true, num_draft_tokens, .. } => AUTO.max(*num_draft_tokens),
        SpeculationArgs { mtp: Some(depth), .. } => depth.get(),
        SpeculationArgs { num_draft_tokens, .. } => *num_draft_tokens,
    }
}

/// What is kept of a long prompt, if not all.
pub(super) fn snapkv(args: &SnapKvArgs) -> Option<SnapKv> {
    args.snapkv.then(|| SnapKv {
        top_k: args.snapkv_top_k.into(),
        sink: args.snapkv_sink.into(),
        window: args.snapkv_window.get(),
        queries: args.snapkv_queries.get(),
        pool: args.snapkv_pool.get(),
        min_tokens: args.snapkv_min_tokens,
        while_reading: args.snapkv_while_reading,
    })
}

/// What the answer must be, if anything.
pub(super) fn matcher(args: &GrammarArgs, tokenizer: &Tokenizer, model: &dyn CausalLm) -> Result<Option<Matcher>> {
    let spec = match args {
        GrammarArgs { json_schema: Some(path), .. } => {
            GrammarSpec::json_schema(&io::read_to_string(path)?).map_err(Error::from)?
        }
        GrammarArgs { json_object: true, .. } => GrammarSpec::JsonObject,
        GrammarArgs { regex: Some(regex), .. } => GrammarSpec::Regex(regex.clone()),
        GrammarArgs { grammar: Some(path), .. } => GrammarSpec::Lark(io::read_to_string(path)?),
        GrammarArgs { choice, .. } if !choice.is_empty() => GrammarSpec::Choice(choice.clone()),
        _ => return Ok(None),
    };
    let vocab_size = usize::try_from(model.info().vocab_size).unwrap_or(0);
    Ok(Some(Grammars::new(tokenizer, vocab_size).matcher(&spec).map_err(Error::from)?))
}
