//! Templates that mean harm: each ends in one error, soon and within bounds.

use std::time::{Duration, Instant};

use mlxlm_core::text::{ChatTemplate, TemplateOptions, TextError};
use serde_json::{Map, json};

fn run(template: &str) -> Result<String, TextError> {
    ChatTemplate::new(template)?.render(
        &[json!({"role": "user", "content": ""})],
        Map::new(),
        &TemplateOptions::default(),
    )
}

/// Runs a template, which must fail in time.
fn refused(template: &str) -> TextError {
    let begin = Instant::now();
    let shown: String = template.chars().take(200).collect();
    let result = run(template);
    assert!(begin.elapsed() < Duration::from_mins(1), "{shown}");
    match result {
        Ok(text) => panic!("{shown} gave {} bytes", text.len()),
        Err(error) => error,
    }
}

fn stopped(template: &str) {
    let error = refused(template);
    assert!(matches!(error, TextError::TemplateLimit(_)), "{error}");
}

const DOUBLING: &str = "{% set n = namespace(x='aaaaaaaa', l=[1], d={}) %}{% for i in range(60) %}";

#[test]
fn values_that_grow_are_stopped() {
    for step in [
        "n.x = n.x ~ n.x",
        "n.x = n.x + n.x",
        "n.x = n.x * 9",
        "n.l = n.l + n.l",
        "n.l = n.l * 9",
        "n.x = n.x|replace('a', 'aaaaaaaaaa')",
        "n.x = n.x.replace('a', 'aaaaaaaaaa')",
        "n.x = [n.x, n.x, n.x]|join(n.x)",
        "n.x = n.x.join([n.x, n.x])",
        "n.x = n.x.ljust(1000000) ~ n.x",
        "n.x = '%s%s' % (n.x, n.x)",
        "n.x = '{0}{0}'.format(n.x)",
        "n.x = ('&' ~ n.x ~ n.x)|e|string",
        "n.x = [n.x, n.x]|string",
        "n.x = {'a': n.x, 'b': n.x}|tojson",
    ] {
        stopped(&format!("{DOUBLING}{{% set {step} %}}{{% endfor %}}"));
    }
    for expression in [
        "'a' * 9223372036854775807",
        "[1] * 10000000000",
        "'%1000000000000d'|format(1)",
        "'{:>1000000000000}'.format('a')",
        "'{:.1000000000f}'.format(1.5)",
        "'%.*f' % (1000000000, 1.5)",
        "'a\nb'|indent(1000000000000)",
        "[1]|tojson(indent=1000000000000)",
        "'a'.center(1000000000000)",
        "'a'.zfill(1000000000000)",
        "'\t'.expandtabs(1000000000000)",
        "[1]|batch(1000000000000, 'x')|list",
        "[1]|slice(1000000000000, 'x')|list",
        "('a' * 16000000)|list",
        "('a ' * 8000000).split()",
    ] {
        stopped(&format!("{{% set x = {expression} %}}"));
    }
}

#[test]
fn output_that_is_captured_counts() {
    let long = "{% for i in range(100000) %}{{ 'a' * 100000 }}{% endfor %}";
    stopped(&format!("{{% set x %}}{long}{{% endset %}}"));
    stopped(&format!("{{% macro m() %}}{long}{{% endmacro %}}{{% set x = m() %}}"));
    stopped(&format!("{{% filter upper %}}{long}{{% endfilter %}}"));
    stopped(long);
    stopped("{% macro m() %}{% set x %}{{ 'a' * 16000000 }}{{ m() }}{% endset %}{% endmacro %}{{ m() }}");
}

#[test]
fn depth_is_bounded() {
    for wrapped in ["[n.x]", "{'a': n.x}", "(n.x,)", "n.x|map('upper')", "{'a': n.x}.items()", "cycler(n.x)"] {
        stopped(&format!(
            "{{% set n = namespace(x=0) %}}{{% for i in range(100000) %}}{{% set n.x = {wrapped} %}}{{% endfor %}}"
        ));
    }
    for (open, close) in [("(", ")"), ("[", "]"), ("not ", ""), ("-", ""), ("{'a':", "}"), ("1 if 0 else ", "")] {
        stopped(&format!("{{{{ {}1{} }}}}", open.repeat(20_000), close.repeat(20_000)));
    }
    for chain in ["+1", "|abs", ".a", "[0]", "()", "**1", " and 1"] {
        stopped(&format!("{{{{ x{} }}}}", chain.repeat(10_000)));
    }
    stopped(&("{% if 1 %}".repeat(5000) + &"{% endif %}".repeat(5000)));
    for calls in [
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
        "{% block a %}{{ self.a() }}{% endblock %}",
        "{% macro a() %}{{ caller() }}{% endmacro %}{% macro b() %}{% call a() %}{{ b() }}{% endcall %}{% endmacro %}{{ b() }}",
    ] {
        stopped(calls);
    }
}

#[test]
fn circles_end() {
    for used in
        ["{{ n }}", "{{ [n]|string }}", "{{ {n: 1} }}", "{{ n ~ '' }}", "{{ n|tojson }}", "{{ raise_exception(n) }}"]
    {
        refused(&format!("{{% set n = namespace() %}}{{% set n.a = n %}}{used}"));
    }
    assert_eq!(run("{% set n = namespace() %}{% set n.a = n %}{{ n == n.a.a.a }}").unwrap(), "True");
    // Two hundred thousand things that hold each other are dropped without going deep.
    let kept = "{% set n = namespace(x=0) %}{% macro f() %}{% set o = n.x %}{% macro g() %}{{ o }}{% endmacro %}\
                {% set n.x = g %}{% endmacro %}{% for i in range(100000) %}{% set q = f() %}{% endfor %}x";
    assert_eq!(run(kept).unwrap(), "x");
    assert_eq!(
        run("{% set n = namespace(x=0) %}{% for i in range(100000) %}{% set n.x = namespace(x=n.x) %}{% endfor %}x")
            .unwrap(),
        "x"
    );
}

#[test]
fn work_that_does_not_end_is_stopped() {
    let loops = "{% for i in range(90000) %}".repeat(3) + &"{% endfor %}".repeat(3);
    stopped(&loops);
    for expression in ["'b' in s", "s|upper", "{s: 1}"] {
        stopped(&format!(
            "{{% set s = 'a' * 8000000 %}}{{% for i in range(100000) %}}{{% set q = {expression} %}}{{% endfor %}}"
        ));
    }
    // Values that share their parts are small, and what walks them is not.
    let shared = "{% set n = namespace(x=[1], y=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}\
                  {% set n.y = [n.y, n.y] %}{% endfor %}";
    for used in ["n.x == n.y", "n.x|string", "n.x|tojson", "[n.x, n.y]|sort", "n.x|pprint"] {
        stopped(&format!("{shared}{{{{ {used} }}}}"));
    }
    stopped(
        "{% set n = namespace(x=(1,)) %}{% for i in range(60) %}{% set n.x = (n.x, n.x) %}{% endfor %}{{ {n.x: 1} }}",
    );
}

#[test]
fn a_template_reads_nothing_else() {
    for tag in
        ["include '/etc/passwd'", "include 'x' ignore missing", "extends 'x'", "import 'x' as y", "from 'x' import y"]
    {
        let error = refused(&format!("{{% {tag} %}}")).to_string();
        assert!(error.contains("has no other templates to read"), "{error}");
    }
    stopped(&"x".repeat(300_000));
}
