//! What holds for any number and any slice, computed here and not by Python.

use mlxlm_core::text::{ChatTemplate, TemplateOptions};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

/// What an expression prints, with `x`, `a` and `b` given.
fn print(expression: &str, values: &Value) -> String {
    let options = TemplateOptions { kwargs: values.as_object().unwrap().clone(), ..TemplateOptions::default() };
    let template = ChatTemplate::new(&format!("{{{{ {expression} }}}}")).unwrap();
    template.render(&[json!({"role": "user", "content": ""})], Map::new(), &options).unwrap()
}

/// Whether some float text with fewer digits reads back as the same number.
fn has_shorter(x: f64, digits: usize) -> bool {
    digits > 1 && format!("{x:.*e}", digits - 2).parse() == Ok(x)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn floats_print_with_the_fewest_digits_that_read_back(bits in any::<u64>()) {
        let x = f64::from_bits(bits);
        prop_assume!(x.is_finite());
        for text in [print("x", &json!({"x": x})), print("'' ~ x", &json!({"x": x})), print("[x][0]|string", &json!({"x": x}))] {
            prop_assert_eq!(text.parse::<f64>().unwrap().to_bits(), bits, "{}", &text);
            let mantissa = text.split('e').next().unwrap();
            let digits = mantissa.chars().filter(char::is_ascii_digit).collect::<String>();
            let digits = digits.trim_start_matches('0').trim_end_matches('0').len().max(1);
            prop_assert!(!has_shorter(x, digits), "{}", &text);
            let exponent = if x == 0.0 { 0 } else { format!("{x:e}").split('e').nth(1).unwrap().parse::<i32>().unwrap() };
            prop_assert_eq!(text.contains('e'), !(-4..16).contains(&exponent), "{}", &text);
        }
    }

    #[test]
    fn integers_divide_towards_the_lower(a in any::<i64>(), b in any::<i64>()) {
        prop_assume!(b != 0);
        let values = json!({"a": a, "b": b});
        let quotient: i128 = print("a // b", &values).parse().unwrap();
        let rest: i128 = print("a % b", &values).parse().unwrap();
        let (a, b) = (i128::from(a), i128::from(b));
        prop_assert_eq!(quotient * b + rest, a);
        let has_sign_of_b = if b > 0 { (0..b).contains(&rest) } else { rest <= 0 && rest > b };
        prop_assert!(has_sign_of_b, "{}", rest);
        prop_assert_eq!(print("a * b", &values), (a * b).to_string());
    }

    #[test]
    fn slices_take_what_pythons_rule_says(
        length in 0_usize..8,
        start in proptest::option::of(-10_i64..10),
        stop in proptest::option::of(-10_i64..10),
        step in proptest::option::of(-4_i64..4),
    ) {
        let step_size = step.unwrap_or(1);
        prop_assume!(step_size != 0);
        let part = |part: Option<i64>| part.map_or(String::new(), |part| part.to_string());
        let slice = format!("x[{}:{}:{}]", part(start), part(stop), part(step));
        let items: Vec<i64> = (0..length as i64).collect();
        // The rule: i, i + step, … while before the end; ends beyond the list are the list's.
        let from_end = |at: i64| if at < 0 { at + length as i64 } else { at };
        let before_stop = |at: i64| match (stop.map(from_end), step_size > 0) {
            (Some(stop), true) => at < stop,
            (Some(stop), false) => at > stop.max(-1),
            (None, _) => true,
        };
        let first = match (start.map(from_end), step_size > 0) {
            (Some(start), true) => start.max(0),
            (Some(start), false) => start.min(length as i64 - 1),
            (None, true) => 0,
            (None, false) => length as i64 - 1,
        };
        let mut expected = Vec::new();
        let mut at = first;
        while (0..length as i64).contains(&at) && before_stop(at) {
            expected.push(at);
            at += step_size;
        }
        prop_assert_eq!(print(&format!("{slice}|tojson"), &json!({"x": items})), json!(expected).to_string().replace(',', ", "));
        let text: String = ('a'..).take(length).collect();
        let letters: String = expected.iter().filter_map(|at| text.chars().nth(*at as usize)).collect();
        prop_assert_eq!(print(&slice, &json!({"x": text})), letters);
    }
}
