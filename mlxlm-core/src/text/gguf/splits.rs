//! How texts are split before their bytes are merged, by the names of `tokenizer.ggml.pre`.
//!
//! The expressions are those of the models' own `tokenizer.json`, or what llama.cpp has for their names (`llama-vocab.cpp`) where a
//! name stands for several. They are applied one after the other, each to the pieces that the last one left.

/// One way to split texts.
#[derive(Debug)]
pub(super) struct Splits {
    /// What it is called.
    names: &'static [&'static str],
    /// Regular expressions: what matches and what lies between are pieces.
    pub(super) patterns: &'static [&'static str],
    /// Whether a piece that is a token is taken as it is, even if no merges lead there.
    pub(super) whole_first: bool,
    /// Whether texts get a start token where the metadata does not say.
    pub(super) adds_start: bool,
    /// Whether characters are composed (NFC) first.
    pub(super) composes: bool,
}

impl Splits {
    pub(super) fn find(name: &str) -> Option<&'static Self> {
        ALL.iter().find(|splits| splits.names.contains(&name))
    }

    const fn new(names: &'static [&'static str], patterns: &'static [&'static str]) -> Self {
        Self { names, patterns, whole_first: false, adds_start: false, composes: false }
    }

    const fn whole_first(self) -> Self {
        Self { whole_first: true, ..self }
    }

    const fn adds_start(self) -> Self {
        Self { adds_start: true, ..self }
    }

    const fn composes(self) -> Self {
        Self { composes: true, ..self }
    }
}

/// GPT-2: contractions, words, numbers and signs with the space before them.
const GPT_2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// `cl100k`: numbers of at most three digits, and new lines apart.
const LLAMA_3: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

/// As Llama 3, each digit alone.
const QWEN_2: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

/// As Qwen 2, with marks as parts of words.
const QWEN_3_5: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}",
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

/// `o200k`: words are split where small letters end.
const GPT_4O: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

/// Mistral's Tekken: as `o200k` without contractions, each digit alone.
const TEKKEN: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

/// Letters that have a case, as `DeepSeek`'s first tokenizer lists them.
const CASED: &str = concat!(
    r"\s?[A-Za-z\x{B5}\x{C0}-\x{D6}\x{D8}-\x{F6}\x{F8}-\x{1BA}\x{1BC}-\x{1BF}\x{1C4}-\x{293}\x{295}-\x{2AF}",
    r"\x{370}-\x{373}\x{376}\x{377}\x{37B}-\x{37D}\x{37F}\x{386}\x{388}-\x{38A}\x{38C}\x{38E}-\x{3A1}\x{3A3}-",
    r"\x{3F5}\x{3F7}-\x{481}\x{48A}-\x{52F}\x{531}-\x{556}\x{10A0}-\x{10C5}\x{13A0}-\x{13F5}\x{13F8}-\x{13FD}",
    r"\x{1C90}-\x{1CBA}\x{1CBD}-\x{1CBF}\x{1D00}-\x{1D2B}\x{1D6B}-\x{1D77}\x{1D79}-\x{1D9A}\x{1E00}-\x{1F15}",
    r"\x{1F18}-\x{1F1D}\x{1F20}-\x{1F45}\x{1F48}-\x{1F4D}\x{1F50}-\x{1F57}\x{1F59}\x{1F5B}\x{1F5D}\x{1F5F}-",
    r"\x{1F7D}\x{1F80}-\x{1FB4}\x{1FB6}-\x{1FBC}\x{1FBE}\x{1FC2}-\x{1FC4}\x{1FC6}-\x{1FCC}\x{1FD0}-\x{1FD3}",
    r"\x{1FD6}-\x{1FDB}\x{1FE0}-\x{1FEC}\x{1FF2}-\x{1FF4}\x{1FF6}-\x{1FFC}\x{2102}\x{2107}\x{210A}-\x{2113}",
    r"\x{2115}\x{2119}-\x{211D}\x{2124}\x{2126}\x{2128}\x{212A}-\x{212D}\x{212F}-\x{2134}\x{2139}\x{213C}-",
    r"\x{213F}\x{2145}-\x{2149}\x{214E}\x{2183}\x{2184}\x{2C00}-\x{2C7B}\x{2C7E}-\x{2CE4}\x{2CEB}-\x{2CEE}",
    r"\x{2CF2}\x{2CF3}\x{A640}-\x{A66D}\x{A680}-\x{A69B}\x{A722}-\x{A76F}\x{A771}-\x{A787}\x{A78B}-\x{A78E}",
    r"\x{AB70}-\x{ABBF}\x{FB00}-\x{FB06}\x{FB13}-\x{FB17}\x{FF21}-\x{FF3A}\x{FF41}-\x{FF5A}\x{10400}-\x{1044F}",
    r"\x{104B0}-\x{104D3}\x{104D8}-\x{104FB}\x{10C80}-\x{10CB2}\x{10CC0}-\x{10CF2}\x{118A0}-\x{118DF}\x{1E900}",
    r"-\x{1E943}]+",
);

/// Chinese and Korean as `DeepSeek`'s first tokenizers have it.
const IDEOGRAPHS: &str = r"[\x{4E00}-\x{9FA5}\x{800}-\x{4E00}\x{AC00}-\x{D7FF}]+";

/// Signs with the space before them, as `DeepSeek`'s first tokenizer has them.
const SIGNS: &str = r"\s?[!-/:-~\x{FF01}-\x{FF0F}\x{FF1A}-\x{FF5E}\x{2018}-\x{201F}\x{3000}-\x{3002}]+";

/// Chinese and Japanese as `DeepSeek` 3 has it.
const CHINESE_JAPANESE: &str = r"[\x{4E00}-\x{9FA5}\x{3040}-\x{309F}\x{30A0}-\x{30FF}]+";

/// What `DeepSeek` 3 does after numbers and ideographs.
const DEEPSEEK_3: &str = concat!(
    r"[!\x22#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+",
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

/// As Qwen 2 with contractions in one group and single new lines.
const BAILING: &str =
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+";

/// Words up to signs of punctuation.
const BLOOM: &str = r" ?[^(\s|.,!?\x{2026}\x{3002}\x{FF0C}\x{3001}\x{964}\x{6D4}\x{60C})]+";

/// All ways that are known.
static ALL: &[Splits] = &[
    Splits::new(&["default"], &[r"[\p{P}\$\+<=>\^~\|]+", GPT_2, r"\p{N}+", "[0-9][0-9][0-9]"]),
    Splits::new(
        &["a.x-4.0", "exaone4", "gigachat", "gpt-2", "granite-docling", "jais", "mellum", "olmo", "phi-2", "trillion"],
        &[GPT_2],
    ),
    Splits::new(&["mpt"], &[GPT_2]).composes(),
    Splits::new(&["codeshell", "exaone", "mellum2", "minerva-7b", "refact", "smollm", "starcoder"], &[r"\p{N}", GPT_2]),
    Splits::new(&["command-r"], &[r"\p{N}", GPT_2]).composes(),
    Splits::new(&["falcon"], &[r"[\p{P}\$\+<=>\^~\|`]+", GPT_2, "[0-9][0-9][0-9]"]),
    Splits::new(
        &["falcon-h1", "falcon3", "lfm2", "llama-bpe", "llama-v3", "llama3", "midm-2.0", "pixtral"],
        &[LLAMA_3],
    )
    .whole_first()
    .adds_start(),
    Splits::new(&["chatglm-bpe", "dbrx", "smaug-bpe"], &[LLAMA_3]),
    Splits::new(&["glm4", "glm5"], &[LLAMA_3]).whole_first(),
    Splits::new(&["minicpm5"], &[r"\p{N}{1,3}", LLAMA_3]).whole_first(),
    Splits::new(&["qwen2"], &[QWEN_2]).composes(),
    Splits::new(
        &["deepseek-r1-qwen", "grok-2", "hunyuan", "kormo", "megrez", "seed-coder", "solar-open", "stablelm2"],
        &[QWEN_2],
    ),
    Splits::new(&["laguna"], &[r"[^\n]+|[\n]+", QWEN_2]),
    Splits::new(&["qwen35"], &[QWEN_3_5]),
    Splits::new(&["gpt-4o", "kanana2", "llama4", "minimax-m2", "talkie"], &[GPT_4O]),
    Splits::new(&["cohere2moe", "tiny_aya"], &[r"\d{1,3}(?=(?:\d{3})*\b)", GPT_4O]),
    Splits::new(&["tekken"], &[TEKKEN]).whole_first().adds_start(),
    Splits::new(&["deepseek-llm"], &[r"[\r\n]", CASED, SIGNS, r"\s+$", IDEOGRAPHS, r"\p{N}+"]),
    Splits::new(&["deepseek-coder"], &[r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", IDEOGRAPHS, r"\p{N}"]),
    Splits::new(
        &["deepseek-v3", "hunyuan-dense", "hy_v4", "joyai-llm"],
        &[r"\p{N}{1,3}", CHINESE_JAPANESE, DEEPSEEK_3],
    ),
    Splits::new(&["bailingmoe", "bailingmoe2", "llada-moe"], &[BAILING]),
    Splits::new(&["bloom", "gpt3-finnish", "poro-chat"], &[BLOOM]),
    Splits::new(&["viking"], &[BLOOM, r"\p{N}"]),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_has_two_meanings() {
        let mut names: Vec<&str> = ALL.iter().flat_map(|splits| splits.names).copied().collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(ALL.iter().all(|splits| splits.names.is_sorted()));
        assert!(Splits::find("no such name").is_none());
    }
}
