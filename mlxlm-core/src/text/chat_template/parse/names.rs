//! Names of characters, for `\N{…}`: Latin letters, digits, and the signs that prompts use. Others are refused.

/// Signs by their names in Unicode.
const SIGNS: [(&str, char); 71] = [
    ("SPACE", ' '),
    ("NO-BREAK SPACE", '\u{a0}'),
    ("EN SPACE", '\u{2002}'),
    ("EM SPACE", '\u{2003}'),
    ("THIN SPACE", '\u{2009}'),
    ("NARROW NO-BREAK SPACE", '\u{202f}'),
    ("IDEOGRAPHIC SPACE", '\u{3000}'),
    ("ZERO WIDTH SPACE", '\u{200b}'),
    ("ZERO WIDTH NON-JOINER", '\u{200c}'),
    ("ZERO WIDTH JOINER", '\u{200d}'),
    ("WORD JOINER", '\u{2060}'),
    ("ZERO WIDTH NO-BREAK SPACE", '\u{feff}'),
    ("LINE SEPARATOR", '\u{2028}'),
    ("PARAGRAPH SEPARATOR", '\u{2029}'),
    ("LINE FEED", '\n'),
    ("CARRIAGE RETURN", '\r'),
    ("NULL", '\0'),
    ("EXCLAMATION MARK", '!'),
    ("QUOTATION MARK", '"'),
    ("NUMBER SIGN", '#'),
    ("DOLLAR SIGN", '$'),
    ("PERCENT SIGN", '%'),
    ("AMPERSAND", '&'),
    ("APOSTROPHE", '\''),
    ("LEFT PARENTHESIS", '('),
    ("RIGHT PARENTHESIS", ')'),
    ("ASTERISK", '*'),
    ("PLUS SIGN", '+'),
    ("COMMA", ','),
    ("HYPHEN-MINUS", '-'),
    ("FULL STOP", '.'),
    ("SOLIDUS", '/'),
    ("COLON", ':'),
    ("SEMICOLON", ';'),
    ("LESS-THAN SIGN", '<'),
    ("EQUALS SIGN", '='),
    ("GREATER-THAN SIGN", '>'),
    ("QUESTION MARK", '?'),
    ("COMMERCIAL AT", '@'),
    ("LEFT SQUARE BRACKET", '['),
    ("REVERSE SOLIDUS", '\\'),
    ("RIGHT SQUARE BRACKET", ']'),
    ("LOW LINE", '_'),
    ("GRAVE ACCENT", '`'),
    ("LEFT CURLY BRACKET", '{'),
    ("VERTICAL LINE", '|'),
    ("RIGHT CURLY BRACKET", '}'),
    ("TILDE", '~'),
    ("SECTION SIGN", '§'),
    ("COPYRIGHT SIGN", '©'),
    ("DEGREE SIGN", '°'),
    ("MIDDLE DOT", '·'),
    ("MULTIPLICATION SIGN", '×'),
    ("EN DASH", '–'),
    ("EM DASH", '—'),
    ("LEFT SINGLE QUOTATION MARK", '‘'),
    ("RIGHT SINGLE QUOTATION MARK", '’'),
    ("LEFT DOUBLE QUOTATION MARK", '“'),
    ("RIGHT DOUBLE QUOTATION MARK", '”'),
    ("BULLET", '•'),
    ("HORIZONTAL ELLIPSIS", '…'),
    ("EURO SIGN", '€'),
    ("LEFTWARDS ARROW", '←'),
    ("UPWARDS ARROW", '↑'),
    ("RIGHTWARDS ARROW", '→'),
    ("DOWNWARDS ARROW", '↓'),
    ("CHECK MARK", '✓'),
    ("WHITE HEAVY CHECK MARK", '✅'),
    ("LOWER ONE EIGHTH BLOCK", '▁'),
    ("GRINNING FACE", '😀'),
    ("REPLACEMENT CHARACTER", '\u{fffd}'),
];

const DIGITS: [&str; 10] = ["ZERO", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE"];

/// The character of a name, in any case of letters.
pub(super) fn character(name: &str) -> Option<char> {
    let name = name.to_ascii_uppercase();
    let letter = |prefix: &str| {
        let letter = name.strip_prefix(prefix)?;
        letter.parse::<char>().ok().filter(char::is_ascii_uppercase)
    };
    let digit = || DIGITS.iter().position(|digit| name.strip_prefix("DIGIT ") == Some(digit));
    SIGNS
        .iter()
        .find(|(sign, _)| *sign == name)
        .map(|(_, c)| *c)
        .or_else(|| letter("LATIN CAPITAL LETTER "))
        .or_else(|| letter("LATIN SMALL LETTER ").map(|c| c.to_ascii_lowercase()))
        .or_else(|| digit().and_then(|digit| char::from_digit(digit as u32, 10)))
}
