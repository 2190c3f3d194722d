//! `tokenizer.model` of sentencepiece, for folders that have no `tokenizer.json`.
//!
//! The file is a protocol buffer of pieces with scores, and of settings. It is read field by field here, every length
//! checked, and becomes a tokenizer of the `tokenizers` crate with the steps that sentencepiece itself takes. Format:
//! `sentencepiece_model.proto` of sentencepiece 0.2.
//!
//! Unusual: transformers 5 drops the space that most of these models put before a text; here it stays, as sentencepiece
//! has it. A text that starts with a space gets no second one, as in transformers' `LlamaTokenizer`.

use std::collections::HashMap;

use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::models::unigram::Unigram;
use tokenizers::normalizers::replace::ReplacePattern;
use tokenizers::normalizers::{Precompiled, Replace, Sequence};
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::{AddedToken, DecoderWrapper, ModelWrapper, NormalizerWrapper, Tokenizer, decoders};

use crate::text::vet;

/// The longest piece that is looked at for merges, in bytes; trained ones have some dozen characters.
const MAX_PIECE_BYTES: usize = 512;

/// What a piece is, by its number in the file.
const UNKNOWN: u64 = 2;
const CONTROL: u64 = 3;
const USER_DEFINED: u64 = 4;

/// A model file as it is written.
#[derive(Debug, Default)]
struct Proto<'b> {
    pieces: Vec<Piece>,
    model_type: u64,
    byte_fallback: bool,
    /// Ids of the unknown, start, end and padding token, in the order of their fields; -1 for none.
    special_ids: [i64; 4],
    charsmap: &'b [u8],
    add_dummy_prefix: bool,
    remove_extra_whitespaces: bool,
}

#[derive(Debug, Default)]
struct Piece {
    text: String,
    score: f32,
    kind: u64,
}

/// Builds a tokenizer from the bytes of a `tokenizer.model`. With it come the names of its special tokens.
pub(crate) fn tokenizer(bytes: &[u8]) -> tokenizers::Result<(Tokenizer, Vec<(&'static str, String)>)> {
    let proto = Proto::read(bytes)?;
    let mut tokenizer = Tokenizer::new(proto.model()?);
    tokenizer.with_normalizer(Some(Sequence::new(proto.normalizers()?)));
    let scheme = match (proto.add_dummy_prefix, proto.remove_extra_whitespaces) {
        (false, _) => PrependScheme::Never,
        (true, false) => PrependScheme::First,
        // Where spaces at the start were removed, the first piece is no more at the start of what was given.
        (true, true) => PrependScheme::Always,
    };
    tokenizer.with_pre_tokenizer(Some(Metaspace::new('▁', scheme, false)));
    let mut steps: Vec<DecoderWrapper> = vec![
        Replace::new("▁", " ")?.into(),
        decoders::byte_fallback::ByteFallback::new().into(),
        decoders::fuse::Fuse::new().into(),
    ];
    if proto.add_dummy_prefix {
        steps.push(decoders::strip::Strip::new(' ', 1, 0).into());
    }
    tokenizer.with_decoder(Some(decoders::sequence::Sequence::new(steps)));
    let added: Vec<AddedToken> = proto
        .pieces
        .iter()
        .filter(|piece| [UNKNOWN, CONTROL, USER_DEFINED].contains(&piece.kind))
        .map(|piece| AddedToken::from(piece.text.as_str(), piece.kind != USER_DEFINED).normalized(false))
        .collect();
    tokenizer.add_tokens(&added);
    let names = ["unk_token", "bos_token", "eos_token", "pad_token"];
    let named = names.into_iter().zip(proto.special_ids).filter_map(|(name, id)| Some((name, proto.piece(id)?)));
    Ok((tokenizer, named.map(|(name, piece)| (name, piece.text.clone())).collect()))
}

impl<'b> Proto<'b> {
    fn read(bytes: &'b [u8]) -> Result<Self, Malformed> {
        let mut proto = Self {
            model_type: 1,
            special_ids: [0, 1, 2, -1],
            add_dummy_prefix: true,
            remove_extra_whitespaces: true,
            ..Self::default()
        };
        let mut fields = Fields(bytes);
        while let Some(field) = fields.next()? {
            match field {
                (1, Field::Bytes(piece)) => proto.pieces.push(Piece::read(piece)?),
                (2, Field::Bytes(trainer)) => proto.read_trainer(trainer)?,
                (3, Field::Bytes(normalizer)) => proto.read_normalizer(normalizer)?,
                _ => {}
            }
        }
        if proto.pieces.is_empty() { Err(Malformed) } else { Ok(proto) }
    }

    fn read_trainer(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        let mut fields = Fields(bytes);
        while let Some((number, field)) = fields.next()? {
            match (number, field) {
                (3, Field::Number(kind)) => self.model_type = kind,
                (35, Field::Number(flag)) => self.byte_fallback = flag != 0,
                // A negative number is written as the unsigned one of the same bits.
                (40..=43, Field::Number(id)) => self.special_ids[number as usize - 40] = id as i64,
                _ => {}
            }
        }
        Ok(())
    }

    fn read_normalizer(&mut self, bytes: &'b [u8]) -> Result<(), Malformed> {
        let mut fields = Fields(bytes);
        while let Some(field) = fields.next()? {
            match field {
                (2, Field::Bytes(charsmap)) => self.charsmap = charsmap,
                (3, Field::Number(flag)) => self.add_dummy_prefix = flag != 0,
                (4, Field::Number(flag)) => self.remove_extra_whitespaces = flag != 0,
                _ => {}
            }
        }
        Ok(())
    }

    fn piece(&self, id: i64) -> Option<&Piece> {
        self.pieces.get(usize::try_from(id).ok()?)
    }

    fn model(&self) -> tokenizers::Result<ModelWrapper> {
        let unknown = usize::try_from(self.special_ids[0]).ok().filter(|id| *id < self.pieces.len());
        match self.model_type {
            1 => {
                let vocab = self.pieces.iter().map(|piece| (piece.text.clone(), f64::from(piece.score))).collect();
                Ok(Unigram::from(vocab, unknown, self.byte_fallback)?.into())
            }
            2 => {
                let ids: HashMap<&str, u32> =
                    self.pieces.iter().zip(0..).map(|(piece, id)| (piece.text.as_str(), id)).collect();
                let vocab: Vocab = ids.iter().map(|(text, id)| ((*text).to_owned(), *id)).collect();
                let model = BPE::builder().vocab_and_merges(vocab, self.merges(&ids)?);
                let model = match unknown {
                    Some(id) => model.unk_token(self.pieces[id].text.clone()),
                    None => model,
                };
                Ok(model.fuse_unk(true).byte_fallback(self.byte_fallback).build()?.into())
            }
            other => Err(format!("it is of the type {other}, neither Unigram nor BPE").into()),
        }
    }

    /// The merges of a BPE model; the pieces are in the order of their merging.
    fn merges(&self, ids: &HashMap<&str, u32>) -> tokenizers::Result<Merges> {
        let normal = || self.pieces.iter().filter(|piece| piece.kind == 1).map(|piece| piece.text.as_str());
        match normal().find(|piece| piece.len() > MAX_PIECE_BYTES) {
            Some(piece) => Err(format!("a piece has {} bytes", piece.len()).into()),
            None => Ok(merges(normal(), |piece| ids.contains_key(piece))),
        }
    }

    fn normalizers(&self) -> tokenizers::Result<Vec<NormalizerWrapper>> {
        let mut steps: Vec<NormalizerWrapper> = Vec::new();
        if !self.charsmap.is_empty() {
            vet::check_charsmap(self.charsmap, self.charsmap.len())?;
            steps.push(Precompiled::from(self.charsmap).map_err(|error| error.to_string())?.into());
        }
        if self.remove_extra_whitespaces {
            steps.push(Replace::new(ReplacePattern::Regex(r"\A +| +\z| +(?= )".into()), "")?.into());
        }
        Ok(steps)
    }
}

/// The merges of a BPE model, where they are not in the file: a piece can be merged from every two that make it up. `pieces`
/// come in the order of their merging; none is merged from others if it is longer than any real one.
pub(crate) fn merges<'p>(pieces: impl IntoIterator<Item = &'p str>, is_known: impl Fn(&str) -> bool) -> Merges {
    let mut merges = Vec::new();
    for piece in pieces.into_iter().filter(|piece| piece.len() <= MAX_PIECE_BYTES) {
        let splits = piece.char_indices().skip(1).map(|(at, _)| piece.split_at(at));
        let known = splits.filter(|(left, right)| is_known(left) && is_known(right));
        merges.extend(known.map(|(left, right)| (left.to_owned(), right.to_owned())));
    }
    merges
}

impl Piece {
    fn read(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut piece = Self { kind: 1, ..Self::default() };
        let mut fields = Fields(bytes);
        while let Some(field) = fields.next()? {
            match field {
                (1, Field::Bytes(text)) => piece.text = String::from_utf8(text.to_vec()).map_err(|_| Malformed)?,
                (2, Field::Float(score)) => piece.score = score,
                (3, Field::Number(kind)) => piece.kind = kind,
                _ => {}
            }
        }
        Ok(piece)
    }
}

/// The bytes are not those of such a file.
#[derive(Debug, thiserror::Error)]
#[error("it is not a model of sentencepiece")]
struct Malformed;

/// The fields of a message that are not read yet.
struct Fields<'b>(&'b [u8]);

/// The value of a field; the eight-byte ones are not in this format.
enum Field<'b> {
    Number(u64),
    Float(f32),
    Bytes(&'b [u8]),
    Other,
}

impl<'b> Fields<'b> {
    /// The next field with its number, or nothing at the end.
    fn next(&mut self) -> Result<Option<(u64, Field<'b>)>, Malformed> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let field = match key & 7 {
            0 => Field::Number(self.varint()?),
            1 => self.take(8).map(|_| Field::Other)?,
            2 => {
                let length = self.varint()?;
                Field::Bytes(self.take(usize::try_from(length).map_err(|_| Malformed)?)?)
            }
            5 => Field::Float(f32::from_le_bytes(self.take(4)?.try_into().map_err(|_| Malformed)?)),
            _ => return Err(Malformed),
        };
        Ok(Some((key >> 3, field)))
    }

    fn take(&mut self, length: usize) -> Result<&'b [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    /// A number in groups of seven bits, the lowest first.
    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(Malformed)
    }
}
