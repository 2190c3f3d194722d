//! The tokenizer of both demo models: byte-level BPE in GPT-2's manner, each digit on its own, trained on the corpus.

use anyhow::{Result, anyhow};
use tokenizers::decoders::byte_level::ByteLevel as Decoder;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::{AddedToken, Tokenizer};

use super::chat::{END_OF_TEXT, TURN};
use super::corpus::Document;

pub(crate) const VOCABULARY: usize = 2048;

/// The tokens that are not learned, in the order of their ids, and whether decoding leaves them out.
pub(crate) const MARKS: [(&str, bool); 7] = [
    (END_OF_TEXT, true),
    (TURN.0, true),
    (TURN.1, true),
    ("<tool_call>", false),
    ("</tool_call>", false),
    ("<tool_response>", false),
    ("</tool_response>", false),
];

/// A tokenizer of [`VOCABULARY`] tokens, the same one for the same documents.
pub(crate) fn train(documents: &[Document]) -> Result<Tokenizer> {
    let mut tokenizer = Tokenizer::new(BPE::default());
    tokenizer
        .with_pre_tokenizer(Some(Sequence::new(vec![
            Digits::new(true).into(),
            ByteLevel::new(false, true, true).into(),
        ])))
        .with_decoder(Some(Decoder::default()));
    let trainer = BpeTrainer::builder()
        .vocab_size(VOCABULARY)
        .special_tokens(MARKS.map(|(mark, special)| AddedToken::from(mark, special)).to_vec())
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .show_progress(false)
        .build();
    // The marks are tokens already; left in, they would be learned once more in pieces.
    let texts = documents.iter().flat_map(|document| without_marks(&document.text));
    tokenizer.train(&mut TrainerWrapper::from(trainer), texts).map_err(|error| anyhow!("{error}"))?;
    Ok(tokenizer)
}

/// The token ids of each document, its end-of-text token included.
pub(crate) fn encode(tokenizer: &Tokenizer, documents: &[Document]) -> Result<Vec<Vec<u32>>> {
    let texts = documents.iter().map(|document| document.text.as_str()).collect();
    let encodings = tokenizer.encode_batch_fast(texts, false).map_err(|error| anyhow!("{error}"))?;
    Ok(encodings.iter().map(|encoding| encoding.get_ids().to_vec()).collect())
}

fn without_marks(text: &str) -> Vec<&str> {
    let mut pieces = vec![text];
    for (mark, _) in MARKS {
        pieces = pieces.into_iter().flat_map(|piece| piece.split(mark)).collect();
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::corpus::documents;

    #[test]
    fn documents_come_back_from_their_tokens_and_are_short() {
        let documents = documents(0, 4000);
        let tokenizer = train(&documents).unwrap();
        assert_eq!(tokenizer.get_vocab_size(true), VOCABULARY);
        for (id, (mark, _)) in MARKS.iter().enumerate() {
            assert_eq!(tokenizer.token_to_id(mark), Some(id as u32));
        }
        let mut long = 0;
        let mut longest = 0;
        for (document, tokens) in documents.iter().zip(encode(&tokenizer, &documents).unwrap()) {
            assert_eq!(tokenizer.decode(&tokens, false).unwrap(), document.text);
            assert_eq!(tokens.iter().filter(|&&token| token == 0).count(), 1);
            assert_eq!(tokens.last(), Some(&0));
            long += usize::from(tokens.len() > 120);
            longest = longest.max(tokens.len());
        }
        assert!(longest <= 320, "{longest}");
        assert!(long < documents.len() / 2, "{long}");
    }

    #[test]
    fn the_same_documents_give_the_same_tokenizer() {
        let documents = documents(1, 300);
        let json = |tokenizer: Tokenizer| tokenizer.to_string(false).unwrap();
        assert_eq!(json(train(&documents).unwrap()), json(train(&documents).unwrap()));
    }

    #[test]
    fn digits_stand_alone_and_tool_marks_are_kept_when_decoding() {
        let tokenizer = train(&documents(2, 300)).unwrap();
        let tokens = tokenizer.encode("What is 12?<tool_call><|im_end|>", false).unwrap();
        assert!(tokens.get_tokens().windows(2).any(|pair| pair == ["1", "2"]), "{tokens:?}");
        assert_eq!(tokenizer.decode(tokens.get_ids(), true).unwrap(), "What is 12?<tool_call>");
    }
}
