//! Who proposes the tokens of a sequence.

use std::rc::Rc;

use mlxlm_sample::propose::{Auto, DraftModel, Mtp, PromptLookup, Proposer};
use mlxlm_sample::{Draft, GenerateOptions, Result};

use super::Scheduler;
use crate::engine::EngineOptions;
use crate::engine::job::Generate;

/// Where the choice is automatic, what pays is measured below this.
const AUTO: usize = 16;

/// Tokens that are proposed at once.
pub(in crate::engine) fn num_draft_tokens(options: &EngineOptions) -> usize {
    match options {
        EngineOptions { auto_speculative: true, num_draft_tokens, .. } => AUTO.max(*num_draft_tokens),
        EngineOptions { prompt_lookup_num_tokens: Some(n), .. } | EngineOptions { mtp: Some(n), .. } => *n,
        EngineOptions { num_draft_tokens, .. } => *num_draft_tokens,
    }
}

impl<'m> Scheduler<'m> {
    /// Who proposes tokens of a text, of which `before` was read already; `options` get how many at once.
    pub(super) fn proposer(
        &self,
        generate: &Generate,
        before: &[u32],
        options: &mut GenerateOptions,
    ) -> Result<Option<Box<dyn Proposer + 'm>>> {
        options.num_draft_tokens = generate.num_draft_tokens.unwrap_or_else(|| num_draft_tokens(self.options));
        if options.num_draft_tokens == 0 {
            return Ok(None);
        }
        let mut proposers: Vec<Box<dyn Proposer + 'm>> = Vec::new();
        if let Some(texts) = &self.texts {
            let lookup = PromptLookup::new().with_shared(Rc::clone(texts)).with_text_before(before);
            proposers.push(Box::new(lookup));
        }
        if let Some(depth) = self.options.mtp {
            proposers.push(Box::new(Mtp::new(&*self.main.model, depth)?));
        }
        if let Some(model) = self.draft {
            // It reads what the model need not read again: nothing of it can be guessed otherwise.
            let draft = DraftModel::new(Draft { model, caches: None }, options)?.with_text_before(before);
            proposers.push(Box::new(draft));
        }
        if self.options.auto_speculative || proposers.len() > 1 {
            return Ok(Some(Box::new(Auto::new(proposers))));
        }
        Ok(proposers.pop())
    }
}
