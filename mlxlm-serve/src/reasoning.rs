//! Reasoning: the marks around it, and how many tokens it may take.

/// The marks between which a model writes its reasoning.
///
/// ```
/// use mlxlm_serve::reasoning::Marks;
///
/// let marks = Marks::detect(|token| ["[THINK]", "[/THINK]"].contains(&token)).unwrap();
/// assert_eq!(marks.end, "[/THINK]");
/// assert!(marks.is_open("<|assistant|>[THINK]\n"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marks {
    /// What begins it.
    pub start: String,
    /// What ends it.
    pub end: String,
}

/// Pairs of tokens of the vocabulary. The first three in the order of `_infer_thinking` of `mlx_lm/tokenizer_utils.py` 0.32.2.
const PAIRS: [(&str, &str); 8] = [
    ("<think>", "</think>"),
    ("<longcat_think>", "</longcat_think>"),
    ("<|think:start|>", "<|think:end|>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("<mm:think>", "</mm:think>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("◁think▷", "◁/think▷"),
];

/// Pairs that are several tokens, after the tokens that tell them.
const SPELLED: [(&[&str], &str, &str); 2] = [
    (&["<|channel>", "<channel|>"], "<|channel>thought", "<channel|>"),
    (&["<|open|>", "<|close|>", "<|sep|>", "<|end_of_msg|>"], "<|open|>think<|sep|>", "<|close|>think<|sep|>"),
];

impl Marks {
    /// These marks.
    pub fn new(start: impl Into<String>, end: impl Into<String>) -> Self {
        Self { start: start.into(), end: end.into() }
    }

    /// The marks of a model with this vocabulary; none where it has none that are known. What gpt-oss and Muse Spark write is not
    /// between marks: [`Format`](crate::tools::Format) knows it.
    pub fn detect(in_vocabulary: impl Fn(&str) -> bool) -> Option<Self> {
        let (single, spelled) = PAIRS.split_at(3);
        let pair = |pairs: &[(&'static str, &'static str)]| {
            pairs.iter().copied().find(|(start, end)| in_vocabulary(start) && in_vocabulary(end))
        };
        let several = || {
            let known = SPELLED.iter().find(|(tokens, ..)| tokens.iter().all(|token| in_vocabulary(token)));
            known.map(|&(_, start, end)| (start, end))
        };
        pair(single).or_else(several).or_else(|| pair(spelled)).map(|(start, end)| Self::new(start, end))
    }

    /// Whether the reasoning is open at the end of `tail`: what the template puts after the last message, or the answer that is
    /// to be continued. Not the whole prompt: messages may speak of the marks.
    pub fn is_open(&self, tail: &str) -> bool {
        match (tail.rfind(&self.start), tail.rfind(&self.end)) {
            _ if self.start.is_empty() => false,
            (Some(start), Some(end)) => start > end,
            (start, _) => start.is_some(),
        }
    }

    /// Whether a prompt ends with the beginning of reasoning, as templates write it that open it for the model.
    pub fn is_opened_by(&self, prompt: &str) -> bool {
        !self.start.is_empty() && prompt.trim_end().ends_with(&self.start)
    }
}

/// How many tokens a model may spend on reasoning.
///
/// Count each token; when the budget is spent, the caller makes the model write
/// [`Stream::end_marker`](crate::tools::Stream::end_marker).
///
/// ```
/// use mlxlm_serve::reasoning::{Budget, Marks};
/// use mlxlm_serve::tools::{Stream, StreamOptions};
///
/// let marks = Some(Marks::new("<think>", "</think>"));
/// let mut stream = Stream::new(StreamOptions { marks, ..StreamOptions::default() });
/// let mut budget = Budget::new(3);
/// let mut written = vec!["<think>", "1", "2", "3", "4", "5"].into_iter();
/// let mut text = String::new();
/// while let Some(token) = if budget.is_spent() { stream.end_marker() } else { written.next().map(str::to_owned) } {
///     text += &token;
///     stream.push(&token);
///     budget.count(stream.in_reasoning());
///     if !stream.in_reasoning() && text.len() > 8 {
///         break;
///     }
/// }
/// assert_eq!(text, "<think>12</think>");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    limit_tokens: usize,
    used_tokens: usize,
    is_reasoning: bool,
}

impl Budget {
    /// A budget of so many tokens, for all reasoning of one answer.
    pub fn new(limit_tokens: usize) -> Self {
        Self { limit_tokens, used_tokens: 0, is_reasoning: false }
    }

    /// Counts a token, after which [`Stream::in_reasoning`](crate::tools::Stream::in_reasoning) is `in_reasoning`. The token that
    /// begins the reasoning counts.
    pub fn count(&mut self, in_reasoning: bool) {
        self.is_reasoning = in_reasoning;
        self.used_tokens += usize::from(in_reasoning);
    }

    /// The tokens of reasoning so far.
    pub fn used_tokens(&self) -> usize {
        self.used_tokens
    }

    /// Whether the model is reasoning and may not go on.
    pub fn is_spent(&self) -> bool {
        self.is_reasoning && self.used_tokens >= self.limit_tokens
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detect(vocabulary: &[&str]) -> Option<String> {
        Marks::detect(|token| vocabulary.contains(&token)).map(|marks| marks.start)
    }

    #[test]
    fn marks_are_found_in_the_order_of_the_reference() {
        assert_eq!(detect(&["<|channel>", "<channel|>", "<think>", "</think>"]).as_deref(), Some("<think>"));
        assert_eq!(detect(&["<|channel>", "<channel|>", "[THINK]", "[/THINK]"]).as_deref(), Some("<|channel>thought"));
        let xtml = ["<|open|>", "<|close|>", "<|sep|>", "<|end_of_msg|>", "<think>"];
        assert_eq!(detect(&xtml).as_deref(), Some("<|open|>think<|sep|>"));
        assert_eq!(detect(&["<seed:think>", "</seed:think>"]).as_deref(), Some("<seed:think>"));
        assert_eq!(detect(&["<think>"]), None);
    }

    #[test]
    fn an_open_block_is_seen() {
        let marks = Marks::new("<think>", "</think>");
        for (tail, open, opened) in [
            ("<|im_start|>assistant\n<think>\n", true, true),
            ("<think>\n\n</think>\n\n", false, false),
            ("<think>\nFirst, the", true, false),
            ("<think>a</think><think>b", true, false),
            ("", false, false),
        ] {
            assert_eq!((marks.is_open(tail), marks.is_opened_by(tail)), (open, opened), "{tail}");
        }
        assert!(!marks.is_opened_by("What does <think> do?<|im_end|>\n<|im_start|>assistant\n"));
    }

    #[test]
    fn a_budget_counts_reasoning_only() {
        let mut budget = Budget::new(2);
        assert!(!budget.is_spent());
        for (in_reasoning, spent, used) in
            [(false, false, 0), (true, false, 1), (true, true, 2), (false, false, 2), (true, true, 3)]
        {
            budget.count(in_reasoning);
            assert_eq!((budget.is_spent(), budget.used_tokens()), (spent, used));
        }
    }

    #[test]
    fn a_budget_of_nothing_ends_reasoning_where_it_begins() {
        let mut budget = Budget::new(0);
        budget.count(true);
        assert!(budget.is_spent());
    }
}
