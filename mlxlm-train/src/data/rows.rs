//! What a dataset is once its texts are tokens: rows to learn from.

/// A text to learn.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Example {
    /// All of its tokens.
    pub tokens: Vec<u32>,
    /// Tokens before this one are read, but not learned: the prompt, if prompts are masked.
    pub start: usize,
}

/// Two answers to the same prompt, of which one is preferred.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Preference {
    /// The prompt with the better answer; `start` is where the answer begins.
    pub chosen: Example,
    /// The prompt with the worse answer.
    pub rejected: Example,
}

/// The rows of one split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rows {
    /// Texts.
    Examples(Vec<Example>),
    /// Pairs of answers.
    Preferences(Vec<Preference>),
}

impl Rows {
    /// How many they are.
    pub fn len(&self) -> usize {
        match self {
            Self::Examples(rows) => rows.len(),
            Self::Preferences(rows) => rows.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Default for Rows {
    fn default() -> Self {
        Self::Examples(Vec::new())
    }
}

/// The parts of a dataset; one that it does not have is empty.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Splits {
    /// What is learned.
    pub train: Rows,
    /// What the loss is measured on during training.
    pub valid: Rows,
    /// What the loss is measured on at the end.
    pub test: Rows,
}
