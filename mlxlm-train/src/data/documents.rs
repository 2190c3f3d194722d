//! Tokenized documents, one JSON object `{"tokens": [...]}` in each line of a file.

use std::path::{Path, PathBuf};

use mlxlm_core::io;
use serde::Deserialize;

use crate::{Error, Result};

#[derive(Deserialize)]
struct Line {
    tokens: Vec<u32>,
}

/// All documents of a file.
#[derive(Debug, Clone)]
pub struct Documents {
    /// The file that they come from.
    pub path: PathBuf,
    /// Their tokens.
    pub tokens: Vec<Vec<u32>>,
}

impl Documents {
    /// Reads a file. Empty lines and documents of fewer than two tokens, which predict nothing, are left out.
    ///
    /// # Errors
    /// [`Error::Document`] for a line of another form or a token that is not below `vocab_size`.
    pub fn read(path: impl AsRef<Path>, vocab_size: u32) -> Result<Self> {
        let path = path.as_ref();
        let mut tokens = Vec::new();
        for (i, line) in io::lines(path)?.enumerate() {
            let line = line?;
            if line.trim().is_empty() {
                continue;
            }
            let wrong = |why: String| Error::Document { path: path.to_owned(), line: i + 1, why };
            let document: Line = serde_json::from_str(&line).map_err(|e| wrong(e.to_string()))?;
            if let Some(token) = document.tokens.iter().find(|&&token| token >= vocab_size) {
                return Err(wrong(format!("the token {token} is not below the vocabulary's {vocab_size}")));
            }
            if document.tokens.len() > 1 {
                tokens.push(document.tokens);
            }
        }
        Ok(Self { path: path.to_owned(), tokens })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Vec<u32>>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("train.jsonl");
        io::write(&path, text).unwrap();
        Documents::read(&path, 10).map(|documents| documents.tokens).map_err(|e| match e {
            Error::Document { line, why, .. } => format!("{line}: {why}"),
            other => panic!("{other}"),
        })
    }

    #[test]
    fn documents_are_read_and_the_useless_left_out() {
        let text = "{\"tokens\": [1, 2, 3]}\n\n{\"tokens\": [4]}\n{\"kind\": \"x\", \"tokens\": [9, 0]}\n";
        assert_eq!(read(text).unwrap(), [vec![1, 2, 3], vec![9, 0]]);
    }

    #[test]
    fn a_bad_line_is_named() {
        assert_eq!(read("{\"tokens\": [1, 10]}").unwrap_err(), "1: the token 10 is not below the vocabulary's 10");
        assert!(read("{\"tokens\": [1, 2]}\n{\"text\": \"a\"}").unwrap_err().starts_with("2: missing field `tokens`"));
        assert!(read("[1").unwrap_err().starts_with("1: "));
    }
}
