//! What a line of a chat asks for: a command, or words for the model.

/// A line of the user.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line<'a> {
    Nothing,
    Quit,
    Reset,
    Help,
    /// A setting and its value, or no value.
    Set(&'a str, &'a str),
    /// The system prompt; none to show it.
    System(Option<&'a str>),
    Save(&'a str),
    Load(&'a str),
    Again,
    /// A command that does not exist.
    Unknown(&'a str),
    /// A command without what it needs, which is named.
    Lacks(&'a str, &'static str),
    Say(&'a str),
}

/// The commands, as `/help` lists them: two columns that fit into 40.
pub(super) const HELP: [(&str, &str); 9] = [
    ("/help", "this list (h)"),
    ("/reset", "start again (r)"),
    ("/regen", "answer again"),
    ("/set NAME X", "temp, top_p, max_tokens…"),
    ("/system TEXT", "change the system prompt"),
    ("/save FILE", "save the conversation"),
    ("/load FILE", "load a conversation"),
    ("/quit", "exit (q, Ctrl-D)"),
    ("\\ or \"\"\"", "continue on the next line"),
];

impl<'a> Line<'a> {
    /// What `line` asks for. Only a single word after the slash is a command: a path is something to say.
    pub(super) fn of(line: &'a str) -> Self {
        let text = line.trim();
        let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let rest = rest.trim();
        match (word, rest) {
            ("", _) => Self::Nothing,
            ("q" | "/q" | "/quit" | "/exit" | "/bye", "") => Self::Quit,
            ("r" | "/r" | "/reset" | "/clear", "") => Self::Reset,
            ("h" | "/h" | "/help" | "/?", "") => Self::Help,
            ("/regen" | "/again", "") => Self::Again,
            ("/set", "") => Self::Lacks(word, "a name and a value, as in `/set temp 0.7`"),
            ("/set", _) => {
                let (name, value) = rest.split_once([' ', '=', '\t']).unwrap_or((rest, ""));
                Self::Set(name, value.trim())
            }
            ("/system", "") => Self::System(None),
            ("/system", _) => Self::System(Some(rest)),
            ("/save" | "/load", "") => Self::Lacks(word, "the name of a file"),
            ("/save", _) => Self::Save(rest),
            ("/load", _) => Self::Load(rest),
            _ => match word.strip_prefix('/') {
                Some(name) if !name.is_empty() && name.chars().all(|c| c.is_alphabetic() || c == '_' || c == '-') => {
                    Self::Unknown(word)
                }
                _ => Self::Say(line),
            },
        }
    }
}

/// Whether more lines belong to what was typed so far.
pub(super) fn goes_on(typed: &str) -> bool {
    match typed.trim_start().strip_prefix(QUOTES) {
        Some(inside) => !inside.contains(QUOTES),
        None => typed.ends_with('\\'),
    }
}

/// What was meant by lines that are whole: without the marks that held them together.
pub(super) fn joined(typed: &str) -> String {
    match typed.trim_start().strip_prefix(QUOTES).and_then(|inside| inside.split_once(QUOTES)) {
        Some((inside, after)) => {
            format!("{}{after}", inside.strip_prefix('\n').unwrap_or(inside)).trim_end().to_owned()
        }
        None => typed.replace("\\\n", "\n"),
    }
}

const QUOTES: &str = "\"\"\"";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_told_from_words() {
        let cases = [
            ("", Line::Nothing),
            ("  q ", Line::Quit),
            ("/bye", Line::Quit),
            ("q me", Line::Say("q me")),
            ("/set temp 0.7", Line::Set("temp", "0.7")),
            ("/set temp=0.7", Line::Set("temp", "0.7")),
            ("/set", Line::Lacks("/set", "a name and a value, as in `/set temp 0.7`")),
            ("/system", Line::System(None)),
            ("/system Be  brief.", Line::System(Some("Be  brief."))),
            ("/save a file.json", Line::Save("a file.json")),
            ("/quux it", Line::Unknown("/quux")),
            ("/usr/bin is what?", Line::Say("/usr/bin is what?")),
            ("/ is a slash", Line::Say("/ is a slash")),
            (" hello ", Line::Say(" hello ")),
        ];
        for (line, expected) in cases {
            assert_eq!(Line::of(line), expected);
        }
    }

    #[test]
    fn lines_are_joined_by_their_marks() {
        for (typed, is_open) in
            [("a", false), ("a\\", true), ("\"\"\"a", true), ("\"\"\"a\nb\"\"\"", false), ("a\"\"\"", false)]
        {
            assert_eq!(goes_on(typed), is_open, "{typed}");
        }
        assert_eq!(joined("a\\\nb"), "a\nb");
        assert_eq!(joined("\"\"\"\na\n\\b\n\"\"\""), "a\n\\b");
        assert_eq!(joined("C:\\dir"), "C:\\dir");
    }

    #[test]
    fn the_list_fits_into_40_columns() {
        assert!(
            HELP.iter().all(|(word, what)| word.chars().count() <= 12 && what.chars().count() < 40 - 2 - 12),
            "{HELP:?}"
        );
    }
}
