//! `{% generation %}` … `{% endgeneration %}`, transformers' own block around what the assistant says.
//!
//! Only training with masks reads it. For text it is a scope of its own, so both tags are replaced by those of
//! `{% with %}`; white-space marks and line numbers stay.

/// The template with the two tags replaced.
pub(super) fn replace_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    let mut raw = false;
    while let Some(start) = rest.find('{') {
        let (before, tag) = rest.split_at(start);
        out.push_str(before);
        let kind = tag.as_bytes().get(1).copied();
        let length = match kind {
            Some(b'#') if !raw => tag.find("#}").map_or(tag.len(), |end| end + 2),
            Some(b'{') if !raw => tag_length(tag, "}}"),
            Some(b'%') => tag_length(tag, "%}"),
            _ => 1,
        };
        let (tag, after) = tag.split_at(length);
        let words = if kind == Some(b'%') { inside(tag) } else { "" };
        match words {
            "raw" => raw = true,
            "endraw" => raw = false,
            _ => {}
        }
        match words {
            "generation" if !raw => out.push_str(&tag.replacen("generation", "with", 1)),
            "endgeneration" if !raw => out.push_str(&tag.replacen("endgeneration", "endwith", 1)),
            _ => out.push_str(tag),
        }
        rest = after;
    }
    out + rest
}

/// What is between the marks of a block tag.
fn inside(tag: &str) -> &str {
    let inner = tag.strip_prefix("{%").and_then(|tag| tag.strip_suffix("%}")).unwrap_or("");
    inner.trim_start_matches(['-', '+']).trim_end_matches(['-', '+']).trim()
}

/// The length of a tag that ends with `close`, which may also stand in its strings.
fn tag_length(tag: &str, close: &str) -> usize {
    let mut quote = None;
    let mut escaped = false;
    for (at, c) in tag.char_indices().skip(2) {
        match quote {
            Some(_) if escaped => escaped = false,
            Some(_) if c == '\\' => escaped = true,
            Some(open) if c == open => quote = None,
            None if c == '"' || c == '\'' => quote = Some(c),
            None if tag[at..].starts_with(close) => return at + close.len(),
            _ => {}
        }
    }
    tag.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(source: &str, expected: &str) {
        assert_eq!(replace_generation_tags(source), expected);
    }

    #[test]
    fn the_tags_are_replaced_and_nothing_else() {
        check("a{%- generation -%}b{% endgeneration +%}", "a{%- with -%}b{% endwith +%}");
        check("{%generation%}\n{%-endgeneration-%}", "{%with%}\n{%-endwith-%}");
        for same in [
            "{{ '{% generation %}' }}",
            "{# {% generation %} #}",
            "{% raw %}{% generation %}{{ '{% endraw %}",
            "{% set generation = 1 %}{{ generation }}",
            "{% if \"%}{% generation %}\" %}{% endif %}",
            "{ {",
            "{% generation",
            "日{",
        ] {
            check(same, same);
        }
        check("{% raw %}{{ '{% endraw %}{% generation %}", "{% raw %}{{ '{% endraw %}{% with %}");
    }
}
