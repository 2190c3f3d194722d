//! The box at the start of a chat, which says who talks, and lines that fit the terminal.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::output::painted;

/// A box of rows under a title, at most `columns` wide: what does not fit is cut.
pub(super) fn panel(title: &str, rows: &[(&str, String)], columns: usize) -> String {
    let label_width = rows.iter().map(|(label, _)| label.width()).max().unwrap_or(0);
    // The borders, two spaces on both sides, and three between the label and its value.
    let most = columns.saturating_sub(6 + label_width + 3).max(4);
    let values: Vec<String> = rows.iter().map(|(_, value)| cut(value, most)).collect();
    let value_width = values.iter().map(|value| value.width()).max().unwrap_or(0);
    let width = (label_width + 3 + value_width).max(title.width());
    let border = |text: &str| painted(text, "34");
    let mut lines = vec![format!(
        "{} {} {}",
        border("╭─"),
        painted(title, "1;35"),
        border(&format!("{}╮", "─".repeat(width + 1 - title.width())))
    )];
    for ((label, _), value) in rows.iter().zip(&values) {
        let space = " ".repeat(width - label_width - 3 - value.width());
        let label = format!("{label}{}", " ".repeat(label_width - label.width()));
        lines.push(format!("{side}  {label}   {}{space}  {side}", painted(value, "1"), side = border("│")));
    }
    lines.push(border(&format!("╰{}╯", "─".repeat(width + 4))));
    lines.join("\n")
}

/// A text of at most so many columns; of a longer one the beginning.
fn cut(text: &str, columns: usize) -> String {
    if text.width() <= columns {
        return text.to_owned();
    }
    let mut left = columns.saturating_sub(1);
    let fits = |c: &char| {
        let width = c.width().unwrap_or(0);
        let fits = width <= left;
        left = left.saturating_sub(width);
        fits
    };
    text.chars().take_while(fits).collect::<String>() + "…"
}

/// Parts with a dot between them, on as many lines as they need, each with two spaces before.
pub(super) fn folded(parts: &[String], columns: usize) -> String {
    let mut lines: Vec<String> = Vec::new();
    for part in parts {
        match lines.last_mut() {
            Some(line) if line.width() + 3 + part.width() <= columns => line.extend([" · ", part]),
            _ => lines.push(format!("  {part}")),
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panel_is_as_wide_as_its_widest_row() {
        let rows = [("model", "a/b".into()), ("max tokens", "4,096".into())];
        let expected = "╭─ mlxlm chat ─────────╮\n\
                        │  model        a/b    │\n\
                        │  max tokens   4,096  │\n\
                        ╰──────────────────────╯";
        assert_eq!(panel("mlxlm chat", &rows, 80), expected);
    }

    #[test]
    fn a_panel_fits_its_terminal() {
        let rows = [("model", "mlx-community/漢字漢字漢字漢字漢字漢字漢字".to_owned()), ("max tokens", "256".into())];
        for columns in 30..90 {
            let shown = panel("mlxlm chat", &rows, columns);
            let widths: Vec<usize> = shown.lines().map(|line| line.width()).collect();
            assert!(widths.iter().all(|width| *width == widths[0] && *width <= columns), "{columns}\n{shown}");
        }
        assert!(
            panel("mlxlm chat", &rows, 40).contains("mlx-communi…") || panel("mlxlm chat", &rows, 40).contains('…')
        );
    }

    #[test]
    fn parts_are_folded_between_them() {
        let parts = ["10 tokens", "85.1 tok/s", "peak 34 MB"].map(str::to_owned);
        assert_eq!(folded(&parts, 80), "  10 tokens · 85.1 tok/s · peak 34 MB");
        assert_eq!(folded(&parts, 30), "  10 tokens · 85.1 tok/s\n  peak 34 MB");
    }
}
