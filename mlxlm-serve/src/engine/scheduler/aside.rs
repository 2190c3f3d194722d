//! Work beside the engines: embeddings, and log-probabilities of prompts.

use super::start::Origin;
use super::{Scheduler, Work};
use crate::engine::job::{Finish, Update};
use crate::engine::score;

impl Scheduler<'_> {
    /// Computes an embedding, by the model as it was loaded.
    pub(super) fn embed_one(&mut self) {
        let Some((asked, next)) = self.embedding.pop_front() else { return };
        let Work::Embed { prompts } = &asked.job.work else { return };
        let Some(prompt) = prompts.get(next) else { return self.close(&asked) };
        let base = self.adapters.base().clone();
        self.adapters.put_on(&base, &mut *self.main.model);
        match score::embedding(&*self.main.model, prompt) {
            Ok(embedding) => {
                self.read_apart += prompt.len();
                self.failed_in_a_row = 0;
                asked.tell(Update::Embedding(embedding));
                if next + 1 == prompts.len() {
                    self.close(&asked);
                } else {
                    self.embedding.push_back((asked, next + 1));
                }
            }
            Err(error) => self.fail(&asked, &error),
        }
    }

    /// Scores a chunk of a prompt, after the last of which its texts are generated.
    pub(super) fn score_one(&mut self) {
        let Some((asked, mut scoring)) = self.scoring.pop_front() else { return };
        let Some(generate) = asked.generate() else { return };
        let adapter = match self.adapter(generate) {
            Ok(adapter) => adapter,
            Err(fault) => return asked.fail(fault),
        };
        self.adapters.put_on(&adapter, &mut *self.main.model);
        let read = scoring.read();
        if let Err(error) = scoring.advance(&*self.main.model) {
            return self.fail(&asked, &error);
        }
        self.read_apart += scoring.read() - read;
        asked.tell(Update::Read { done: scoring.read(), total: generate.prompt.len(), cached: 0 });
        if !scoring.is_done() {
            self.scoring.push_back((asked, scoring));
            return;
        }
        let (scored, caches) = scoring.finish();
        asked.tell(Update::PromptScored(scored));
        if generate.max_tokens == 0 {
            for choice in 0..generate.choices {
                asked.tell(Update::Finished { choice, finish: Finish::Length, text: String::new(), tokens: 0 });
                self.close(&asked);
            }
            return;
        }
        let before = generate.prompt[..generate.prompt.len() - 1].to_vec();
        let caches = (!before.is_empty()).then_some(caches);
        let from = Origin { adapter, caches, before, checkpoints: Vec::new() };
        if let Err(error) = self.insert_all(&asked, generate, from) {
            self.fail(&asked, &error);
        }
    }
}
