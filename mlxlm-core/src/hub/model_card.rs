//! The model card, `README.md`: what the hub reads in its front matter, and how the model is used.
//!
//! A converted model keeps what its base says of itself (license, languages, datasets), line by line as written; only
//! the four keys that change are read and set. Source of the keys: mlx-lm 0.32.2 `create_model_card`.

use super::repo_id::RepoId;

/// A model card: its front matter. The text below it is made anew.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModelCard {
    /// Keys of the top level with their lines, in order. What comes before the first key has the key "".
    fields: Vec<(String, String)>,
}

impl ModelCard {
    /// Reads the front matter of a card; a text without one has no fields.
    pub fn parse(readme: &str) -> Self {
        let mut fields: Vec<(String, String)> = Vec::new();
        for line in front_matter(readme) {
            match (key_of(line), fields.last_mut()) {
                (None, Some((_, lines))) => {
                    lines.push('\n');
                    lines.push_str(line);
                }
                (key, _) => fields.push((key.unwrap_or_default().to_owned(), line.to_owned())),
            }
        }
        Self { fields }
    }

    /// The card of a model that was made from another: the base's front matter, marked as MLX's.
    ///
    /// `base` is the base's card, `base_model` its repository, where there are such.
    pub fn derived(base: Option<&str>, base_model: Option<&RepoId>) -> Self {
        let mut card = base.map_or_else(Self::default, Self::parse);
        if base.is_none() {
            card.set("language", "language: en".to_owned());
        }
        card.set("library_name", "library_name: mlx".to_owned());
        card.set("pipeline_tag", "pipeline_tag: text-generation".to_owned());
        let mut tags = card.list("tags");
        if !tags.iter().any(|tag| unquoted(tag) == "mlx") {
            tags.push("mlx".to_owned());
        }
        card.set("tags", format!("tags:\n- {}", tags.join("\n- ")));
        if let Some(id) = base_model {
            // Without an owner the name may look like a number or a word of YAML.
            let quote = if id.as_str().contains('/') { "" } else { "\"" };
            card.set("base_model", format!("base_model: {quote}{id}{quote}"));
        }
        card
    }

    /// The repository that this model was made from.
    pub fn base_model(&self) -> Option<RepoId> {
        self.list("base_model").first().and_then(|id| RepoId::parse(unquoted(id)).ok())
    }

    /// The whole card; with the name that the model has on the hub, also the text that tells how to use it.
    pub fn render(&self, repo: Option<&RepoId>) -> String {
        let mut text = String::new();
        if !self.fields.is_empty() {
            let lines: Vec<&str> = self.fields.iter().map(|(_, lines)| lines.as_str()).collect();
            text = format!("---\n{}\n---\n", lines.join("\n"));
        }
        if let Some(repo) = repo {
            text += &self.body(repo);
        }
        text
    }

    fn body(&self, repo: &RepoId) -> String {
        let origin = match self.base_model() {
            Some(base) if base != *repo => format!(
                "Weights of [{base}](https://huggingface.co/{base}) in the format of MLX, made by mlxlm {}.\n\n",
                env!("CARGO_PKG_VERSION")
            ),
            _ => String::new(),
        };
        format!(
            "\n# {repo}\n\n{origin}## Try it\n\nOn the command line, with mlxlm:\n\n```bash\nmlxlm generate --model {repo} \
             --prompt \"Hello\"\n```\n\nIn Python, with mlx-lm (`pip install mlx-lm`):\n\n```python\nimport mlx_lm\n\n\
             model, tokenizer = mlx_lm.load(\"{repo}\")\nprompt = \"Hello\"\nif tokenizer.chat_template is not None:\n    \
             chat = [{{\"role\": \"user\", \"content\": prompt}}]\n    prompt = \
             tokenizer.apply_chat_template(chat, add_generation_prompt=True)\n\
             print(mlx_lm.generate(model, tokenizer, prompt=prompt))\n```\n"
        )
    }

    fn set(&mut self, key: &str, lines: String) {
        match self.fields.iter_mut().find(|(name, _)| name == key) {
            Some((_, old)) => *old = lines,
            None => self.fields.push((key.to_owned(), lines)),
        }
    }

    /// The items of a list, or the one value, as written: `[a, b]`, `- a` lines, or `a`.
    fn list(&self, key: &str) -> Vec<String> {
        let Some((_, lines)) = self.fields.iter().find(|(name, _)| name == key) else { return Vec::new() };
        let (first, rest) = lines.split_once('\n').unwrap_or((lines, ""));
        let value = first.split_once(':').map_or("", |(_, value)| value.trim());
        let items: Vec<String> = if value.starts_with('[') {
            // The list may go on over several lines, and an item too.
            let all = lines.split_once('[').map_or("", |(_, items)| items).split(']').next().unwrap_or_default();
            all.split(',').map(|item| item.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
        } else if value.is_empty() {
            rest.lines().filter_map(|line| line.trim().strip_prefix("- ").map(|item| item.trim().to_owned())).collect()
        } else {
            vec![value.to_owned()]
        };
        items.into_iter().filter(|item| !["", "null", "~"].contains(&item.as_str())).collect()
    }
}

/// The lines between the two `---` at the start of a card.
fn front_matter(readme: &str) -> Vec<&str> {
    let mut lines = readme.trim_start_matches('\u{feff}').lines();
    if lines.next().map(str::trim_end) != Some("---") {
        return Vec::new();
    }
    let mut found = Vec::new();
    for line in lines {
        if line.trim_end() == "---" {
            return found;
        }
        found.push(line);
    }
    Vec::new()
}

/// The key that starts on this line of the top level, if one does.
fn key_of(line: &str) -> Option<&str> {
    let (key, rest) = line.split_once(':')?;
    let starts = key.chars().next().is_some_and(|c| c.is_alphanumeric() || c == '_');
    (starts && (rest.is_empty() || rest.starts_with(' '))).then_some(key)
}

fn unquoted(item: &str) -> &str {
    item.trim_matches(['"', '\''])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> RepoId {
        RepoId::parse(name).unwrap()
    }

    const BASE: &str = "---\n# by hand\nlicense: apache-2.0\nlanguage:\n- en\n- de\ntags: [\"chat\", qwen]\nextra_gated_prompt: >-\n  Read this: it matters\n\n  Well\nlibrary_name: transformers\n---\n# Old text\n";

    #[test]
    fn a_derived_card_keeps_what_the_base_says() {
        let card = ModelCard::derived(Some(BASE), Some(&id("org/base")));
        let expected = "---\n# by hand\nlicense: apache-2.0\nlanguage:\n- en\n- de\ntags:\n- \"chat\"\n- qwen\n- mlx\nextra_gated_prompt: >-\n  Read this: it matters\n\n  Well\nlibrary_name: mlx\npipeline_tag: text-generation\nbase_model: org/base\n---\n";
        assert_eq!(card.render(None), expected);
        assert_eq!(ModelCard::parse(expected), card);
        assert_eq!(card.base_model(), Some(id("org/base")));
        assert_eq!(ModelCard::derived(Some(expected), None), card);
    }

    #[test]
    fn a_card_from_nothing() {
        let expected = "---\nlanguage: en\nlibrary_name: mlx\npipeline_tag: text-generation\ntags:\n- mlx\nbase_model: \"123\"\n---\n";
        let card = ModelCard::derived(None, Some(&id("123")));
        assert_eq!(card.render(None), expected);
        assert_eq!(card.base_model(), Some(id("123")));
    }

    #[test]
    fn tags_of_every_form_are_kept() {
        let check = |tags: &str, expected: &[&str]| {
            let card = ModelCard::derived(Some(&format!("---\n{tags}\nlicense: mit\n---\n")), None);
            assert_eq!(card.list("tags"), expected, "{tags}");
            assert!(card.render(None).contains("\nlicense: mit\n"), "{tags}");
        };
        check("tags:\n  - a\n  - mlx", &["a", "mlx"]);
        check("tags: [a,\n  b]", &["a", "b", "mlx"]);
        check("tags: [a\n  b", &["a b", "mlx"]);
        check("tags: []", &["mlx"]);
        check("tags: null", &["mlx"]);
        check("tags: one", &["one", "mlx"]);
        check("tags:\n- 'mlx'", &["'mlx'"]);
    }

    proptest::proptest! {
        #[test]
        fn deriving_again_changes_nothing(lines in proptest::collection::vec("(tags|a|base_model|- x|  y)?:? ?[\\[a, \\]-]{0,6}", 0..8)) {
            let base = format!("---\n{}\n---\n", lines.join("\n"));
            let card = ModelCard::derived(Some(&base), Some(&id("org/base")));
            proptest::prop_assert_eq!(ModelCard::parse(&card.render(None)), card.clone());
            proptest::prop_assert_eq!(ModelCard::derived(Some(&card.render(None)), Some(&id("org/base"))), card);
        }
    }

    #[test]
    fn text_that_is_no_front_matter_is_dropped() {
        for readme in ["", "# Title\n", "---\nlicense: mit\n", "text\n---\na: b\n---\n"] {
            assert_eq!(ModelCard::parse(readme), ModelCard::default(), "{readme:?}");
        }
        assert_eq!(ModelCard::default().render(None), "");
    }

    #[test]
    fn the_text_names_the_model_and_its_base() {
        let card = ModelCard::derived(None, Some(&id("org/base")));
        let text = card.render(Some(&id("me/new-4bit")));
        assert!(text.contains("# me/new-4bit\n") && text.contains("(https://huggingface.co/org/base)"), "{text}");
        assert!(text.contains("mlxlm generate --model me/new-4bit --prompt \"Hello\"\n```\n"), "{text}");
        assert!(text.contains("    chat = [{\"role\": \"user\", \"content\": prompt}]\n"), "{text}");
    }
}
