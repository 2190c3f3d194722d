//! The texts that a model is calibrated with, as samples of a fixed number of tokens.
//!
//! Samples are drawn as by `load_data` of `mlx_lm/quant/utils.py` @ 0.32.2: all texts as one, cut into pieces, in an order drawn from
//! the seed. Unusual: without a file it is a mixture that is built in, so that nothing is downloaded.

use std::path::{Path, PathBuf};

use mlxlm_core::text::{TemplateOptions, Tokenizer};
use mlxlm_core::{Array, io, order};
use mlxlm_train::data::Record;
use serde_json::Value;

use crate::{Error, Result};

/// Prose, languages, code and conversations, written for this purpose.
const BUILT_IN: [&str; 4] = [
    include_str!("../calibration/prose.txt"),
    include_str!("../calibration/languages.txt"),
    include_str!("../calibration/code.txt"),
    include_str!("../calibration/chat.txt"),
];

/// The most that is read of a file.
const LIMIT_BYTES: u64 = 1 << 30;

/// Which texts, and how much of them.
#[derive(Debug, Clone)]
pub struct CalibrationOptions {
    /// A file of text, or of JSON objects, one a line, if it ends in `.jsonl`; the mixture that is built in if absent.
    pub path: Option<PathBuf>,
    /// The most samples; all that there are if absent.
    pub num_samples: Option<usize>,
    /// Tokens of each sample.
    pub sequence_length: usize,
    /// The order in which they are drawn.
    pub seed: u64,
}

/// How much is read of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Most {
    /// All of it.
    All,
    /// Rows until they have so many tokens.
    Tokens(usize),
    /// So many rows.
    Rows(usize),
}

/// Texts in tokens, by document.
#[derive(Debug, Clone)]
pub struct Texts {
    path: PathBuf,
    documents: Vec<Vec<u32>>,
    /// Whether documents are what lines hold, and not texts that are cut anywhere.
    are_lines: bool,
}

impl Texts {
    /// Reads a file, or the mixture that is built in.
    ///
    /// # Errors
    /// [`Error::Calibration`] for a file that is empty, not UTF-8, or has a line of another form.
    pub fn read(path: Option<&Path>, tokenizer: &Tokenizer) -> Result<Self> {
        let Some(path) = path else {
            let documents = BUILT_IN.iter().map(|text| Ok(tokenizer.encode(text, false)?)).collect::<Result<_>>()?;
            return Ok(Self { path: "the texts that are built in".into(), documents, are_lines: false });
        };
        let wrong = |why: String| Error::Calibration { path: path.to_owned(), why };
        let bytes = io::read_within(path, LIMIT_BYTES)?;
        let text = String::from_utf8(bytes)
            .map_err(|error| wrong(format!("it is not UTF-8 from byte {} on", error.utf8_error().valid_up_to())))?;
        if text.trim().is_empty() {
            return Err(wrong("it is empty".into()));
        }
        let is_json = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("jsonl"));
        let documents = match is_json {
            false => vec![tokenizer.encode(&text, true)?],
            true => {
                let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
                lines
                    .map(|(i, line)| {
                        let value = serde_json::from_str(line).map_err(|error| error.to_string());
                        let document = value.and_then(|value| document(&value, tokenizer));
                        document.map_err(|why| wrong(format!("line {}: {why}", i + 1)))
                    })
                    .collect::<Result<_>>()?
            }
        };
        Ok(Self { path: path.to_owned(), documents, are_lines: is_json })
    }

    /// Rows of a data set in one of the forms that fine-tuning takes, in an order drawn from the seed.
    ///
    /// # Errors
    /// [`Error::Calibration`] for a row of another form.
    pub fn of_rows(name: &str, rows: &[Record], tokenizer: &Tokenizer, (seed, most): (u64, Most)) -> Result<Self> {
        let path = PathBuf::from(name);
        let (mut documents, mut tokens) = (Vec::new(), 0);
        for i in order::permutation(rows.len(), seed)? {
            let is_enough = match most {
                Most::All => false,
                Most::Tokens(most) => tokens >= most,
                Most::Rows(most) => documents.len() >= most,
            };
            if is_enough {
                break;
            }
            let row = document(&Value::Object(rows[i].fields.clone()), tokenizer);
            let row = row.map_err(|why| {
                let why = format!("row {}: {why}", i + 1);
                Error::Calibration { path: path.clone(), why }
            })?;
            tokens += row.len();
            documents.push(row);
        }
        Ok(Self { path, documents, are_lines: true })
    }

    /// The texts, each by itself, cut to `most` tokens, in an order drawn from the seed; texts of one token, which predict nothing, are
    /// left out.
    pub fn documents(&self, most: usize, seed: u64) -> Result<Vec<Vec<u32>>> {
        let pieces: Vec<&[u32]> = match self.are_lines {
            false => self.documents.iter().flat_map(|text| text.chunks(most)).collect(),
            true => self.documents.iter().map(|text| &text[..text.len().min(most)]).collect(),
        };
        let pieces: Vec<&[u32]> = pieces.into_iter().filter(|piece| piece.len() > 1).collect();
        if pieces.is_empty() {
            return Err(self.too_short(2));
        }
        Ok(order::permutation(pieces.len(), seed)?.into_iter().map(|i| pieces[i].to_vec()).collect())
    }

    /// All texts as one, in samples of a fixed length.
    ///
    /// # Errors
    /// [`Error::Calibration`] where they do not fill one sample.
    pub fn samples(&self, options: &CalibrationOptions) -> Result<Calibration> {
        let len = options.sequence_length;
        if len < 2 {
            let value = len.to_string();
            return Err(Error::Parameter { name: "sequence_length", value, expected: "2 or more" });
        }
        let all: Vec<u32> = self.documents.concat();
        let pieces: Vec<&[u32]> = all.chunks_exact(len).collect();
        if pieces.is_empty() {
            return Err(self.too_short(len));
        }
        let order = order::permutation(pieces.len(), options.seed)?;
        let most = options.num_samples.unwrap_or(pieces.len()).max(1);
        let samples = order.iter().take(most).map(|&i| pieces[i].to_vec()).collect();
        Ok(Calibration { samples, wanted: options.num_samples })
    }

    fn too_short(&self, len: usize) -> Error {
        let tokens: usize = self.documents.iter().map(Vec::len).sum();
        let why = format!("it has {tokens} tokens, and a sample takes {len}");
        Error::Calibration { path: self.path.clone(), why }
    }
}

/// The tokens of a line of a dataset in one of the forms that fine-tuning takes.
fn document(value: &Value, tokenizer: &Tokenizer) -> Result<Vec<u32>, String> {
    let field = |name: &str| value.get(name).and_then(Value::as_str);
    let encoded = |text: &str| tokenizer.encode(text, true).map_err(|error| error.to_string());
    if let Some(text) = field("text") {
        return encoded(text);
    }
    let turn = |role: &str, text: &str| serde_json::json!({"role": role, "content": text});
    let messages = match (value.get("messages"), field("prompt"), field("completion")) {
        (Some(Value::Array(messages)), ..) => messages.clone(),
        (_, Some(prompt), Some(completion)) => vec![turn("user", prompt), turn("assistant", completion)],
        _ => return Err("it has neither `text` nor `messages` nor `prompt` and `completion`".into()),
    };
    if tokenizer.has_chat_template() {
        return tokenizer.encode_chat(&messages, &TemplateOptions::default()).map_err(|error| error.to_string());
    }
    let contents = messages.iter().filter_map(|message| message.get("content")?.as_str());
    encoded(&contents.collect::<Vec<_>>().join("\n"))
}

/// Samples of one length.
#[derive(Debug, Clone)]
pub struct Calibration {
    samples: Vec<Vec<u32>>,
    wanted: Option<usize>,
}

impl Calibration {
    /// Reads and cuts the texts of `options`.
    pub fn read(tokenizer: &Tokenizer, options: &CalibrationOptions) -> Result<Self> {
        Texts::read(options.path.as_deref(), tokenizer)?.samples(options)
    }

    /// Samples that are given, all of one length.
    pub fn new(samples: Vec<Vec<u32>>) -> Self {
        Self { samples, wanted: None }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// What the user should know: that there are fewer than were asked for.
    pub fn note(&self) -> Option<String> {
        let wanted = self.wanted.filter(|&wanted| wanted > self.samples.len())?;
        let (len, tokens) = (self.samples.len(), self.samples.first().map_or(0, Vec::len));
        Some(format!("the text has {len} samples of {tokens} tokens, fewer than the {wanted} that were asked for"))
    }

    /// Takes away the last samples, up to `count` and half of all, to measure with; a lone sample serves for both.
    #[must_use]
    pub fn hold_out(&mut self, count: usize) -> Self {
        let count = count.min(self.samples.len() / 2);
        let held = self.samples.split_off(self.samples.len() - count);
        Self { samples: if held.is_empty() { self.samples.clone() } else { held }, wanted: None }
    }

    /// The samples in tokens.
    pub fn sequences(&self) -> &[Vec<u32>] {
        &self.samples
    }

    /// A number that other samples hardly have, for a run that is gone on with (FNV-1a).
    pub fn fingerprint(&self) -> u64 {
        let bytes = self.samples.iter().flat_map(|sample| sample.iter().flat_map(|token| token.to_le_bytes()));
        bytes.fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3))
    }

    /// The samples, so many at once: `[B, L]` each, the last perhaps with fewer rows.
    pub fn batches(&self, batch_size: usize) -> Vec<Array> {
        let batch = |rows: &[Vec<u32>]| {
            let tokens: Vec<i32> = rows.iter().flatten().map(|&token| token as i32).collect();
            Array::from_slice(&tokens, &[rows.len() as i32, rows.first().map_or(0, Vec::len) as i32])
        };
        self.samples.chunks(batch_size.max(1)).map(batch).collect()
    }
}
