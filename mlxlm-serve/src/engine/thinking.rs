//! How long a model may think: after so many tokens the end of its thinking is put behind them, and it goes on from there.

use std::sync::Arc;

use mlxlm_core::text::Tokenizer;
use mlxlm_sample::grammar::Matcher;

use crate::reasoning::Marks;
use crate::tools::Format;

/// The marks of a model's thinking as tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ThinkingTokens {
    start: Vec<u32>,
    end: Vec<u32>,
    /// What ends it where the model has not, up to where the answer begins.
    close: Vec<u32>,
}

impl ThinkingTokens {
    /// Those of a model, where it has marks that are known.
    pub(super) fn of(tokenizer: &Tokenizer, format: Option<Format>, marks: Option<&Marks>) -> Option<Self> {
        let encode = |text: &str| tokenizer.encode(text, false).ok().filter(|ids| !ids.is_empty());
        let (start, end, close) = match (format, marks) {
            (Some(Format::Harmony), _) => (
                "<|channel|>analysis<|message|>".to_owned(),
                "<|end|>".to_owned(),
                "<|end|><|start|>assistant<|channel|>final<|message|>".to_owned(),
            ),
            (_, Some(marks)) => (marks.start.clone(), marks.end.clone(), format!("{}\n\n", marks.end)),
            (_, None) => return None,
        };
        Some(Self { start: encode(&start)?, end: encode(&end)?, close: encode(&close)? })
    }
}

impl ThinkingTokens {
    /// The tokens that end thinking, up to where the answer begins.
    pub(crate) fn close(&self) -> &[u32] {
        &self.close
    }
}

/// The thinking that a request allows.
#[derive(Debug, Clone)]
pub(crate) struct ThinkingBudget {
    pub(crate) tokens: Arc<ThinkingTokens>,
    /// The most tokens of thinking in each text.
    pub(crate) most: usize,
    /// Whether the prompt ends within it.
    pub(crate) is_begun: bool,
    /// What the text must be from the end of its thinking on, if anything.
    pub(crate) then: Option<Matcher>,
}

/// Watches a text for its thinking.
#[derive(Debug)]
pub(super) struct Watch {
    budget: ThinkingBudget,
    is_thinking: bool,
    used: usize,
    /// The last tokens, as many as a mark has.
    tail: Vec<u32>,
}

impl Watch {
    pub(super) fn new(budget: &ThinkingBudget) -> Self {
        Self { budget: budget.clone(), is_thinking: budget.is_begun, used: 0, tail: Vec::new() }
    }

    /// Takes a token, and says whether the thinking has to end now.
    pub(super) fn push(&mut self, id: u32) -> bool {
        let ThinkingTokens { start, end, .. } = &*self.budget.tokens;
        self.tail.push(id);
        let longest = start.len().max(end.len());
        if self.tail.len() > longest {
            self.tail.remove(0);
        }
        if self.is_thinking {
            self.used += 1;
            self.is_thinking = !self.tail.ends_with(end);
        } else {
            self.is_thinking = self.tail.ends_with(start);
        }
        self.is_spent()
    }

    /// Whether it thinks and may not go on.
    pub(super) fn is_spent(&self) -> bool {
        self.is_thinking && self.used >= self.budget.most
    }

    /// The tokens that end the thinking, which is over then, and what the text must be after them.
    pub(super) fn close(&mut self) -> (Vec<u32>, Option<Matcher>) {
        self.is_thinking = false;
        self.tail.clear();
        (self.budget.tokens.close.clone(), self.budget.then.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(most: usize, is_begun: bool) -> Watch {
        let tokens = ThinkingTokens { start: vec![1], end: vec![2, 3], close: vec![2, 3, 9] };
        Watch::new(&ThinkingBudget { tokens: Arc::new(tokens), most, is_begun, then: None })
    }

    #[test]
    fn only_thinking_counts() {
        let mut free = watch(2, false);
        let spent: Vec<bool> = [7, 7, 7, 1, 7, 2, 3, 7, 1, 7].into_iter().map(|id| free.push(id)).collect();
        // The end mark is two tokens, of which the first is thinking still.
        assert_eq!(spent, [false, false, false, false, false, true, false, false, true, true]);
        let mut begun = watch(1, true);
        assert!(begun.push(7));
        assert_eq!(begun.close().0, [2, 3, 9]);
        assert!(!begun.push(7));
    }

    #[test]
    fn a_budget_of_nothing_is_spent_where_thinking_begins() {
        assert!(watch(0, true).is_spent());
        assert!(!watch(0, false).is_spent());
        assert!(watch(0, false).push(1));
    }
}
