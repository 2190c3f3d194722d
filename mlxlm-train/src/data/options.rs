//! Which datasets are read, and how.

/// The datasets of a training run.
#[derive(Debug, Clone, PartialEq)]
pub struct DatasetOptions {
    /// Where the rows come from; rows of several sources are put together.
    pub sources: Vec<Source>,
    /// Whether there must be rows to train on. Without it only the test split is read.
    pub train: bool,
    /// Whether there must be rows to test on. Without it the test split is not read.
    pub test: bool,
    /// Whether prompts are read but not learned: only the completion, or the last message of a conversation, is.
    pub mask_prompt: bool,
    /// The tokens after which rows are cut. A split of which all rows are longer is refused.
    pub max_len: Option<usize>,
    /// What a weighted source draws its rows from.
    pub seed: u64,
}

impl Default for DatasetOptions {
    fn default() -> Self {
        Self { sources: Vec::new(), train: true, test: false, mask_prompt: false, max_len: None, seed: 0 }
    }
}

impl DatasetOptions {
    /// One dataset to train on: a folder, a file, or a repository of the hub.
    pub fn new(path: impl Into<String>) -> Self {
        Self { sources: vec![Source::new(path)], ..Self::default() }
    }
}

/// One dataset.
#[derive(Debug, Clone, PartialEq)]
pub struct Source {
    /// A folder with `train`, `valid` and `test` as `.jsonl`, `.json` or `.parquet`; such a file alone; or the id of a
    /// dataset of the Hugging Face hub.
    pub path: String,
    /// The branch, tag or commit of a repository; `main` if none.
    pub revision: Option<String>,
    /// The configuration of a repository that has several.
    pub config: Option<String>,
    /// How often its rows count: 2 takes each twice, 0.5 takes half of them.
    pub weight: f64,
    /// The names of fields.
    pub keys: Keys,
    /// What is trained on, as `train`, `train[:80%]` or `train[100:200]`.
    pub train_split: Option<String>,
    /// What the loss is measured on during training.
    pub valid_split: Option<String>,
    /// What is tested on.
    pub test_split: Option<String>,
}

impl Source {
    /// A dataset with the usual names.
    pub fn new(path: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            revision: None,
            config: None,
            weight: 1.0,
            keys: Keys::default(),
            train_split: None,
            valid_split: None,
            test_split: None,
        }
    }
}

/// The names that fields have in the rows of a dataset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    /// What was asked, with `completion`.
    pub prompt: String,
    /// What was answered.
    pub completion: String,
    /// The messages of a conversation.
    pub chat: String,
    /// A text.
    pub text: String,
    /// The better answer of a preference.
    pub chosen: String,
    /// The worse answer of a preference.
    pub rejected: String,
}

impl Default for Keys {
    fn default() -> Self {
        let [prompt, completion, chat, text, chosen, rejected] =
            ["prompt", "completion", "messages", "text", "chosen", "rejected"].map(str::to_owned);
        Self { prompt, completion, chat, text, chosen, rejected }
    }
}
