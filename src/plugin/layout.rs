//! How things are laid out for a terminal: columns, ages, one line for many. Pure.

/// Rows of cells, each column but the last as wide as its widest cell; no line ends in blanks.
pub fn columns(rows: &[Vec<String>]) -> Vec<String> {
    let width = |cell: &String| cell.chars().count();
    let widest = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(width).max();
    let widths: Vec<_> = (0..).map_while(widest).collect();
    let line = |row: &Vec<String>| {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            line.push_str(cell);
            if column + 1 < row.len() {
                line.push_str(&" ".repeat(widths[column] - width(cell) + 2));
            }
        }
        line.trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// A time that has passed, as kubectl shows it: `45s`, `4m10s`, `3h5m`, `12d`.
pub fn age(seconds: i64) -> String {
    let two = |large: i64, unit: &str, small: i64, smaller: &str| match small {
        0 => format!("{large}{unit}"),
        _ => format!("{large}{unit}{small}{smaller}"),
    };
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        ..120 => format!("{}s", seconds.max(0)),
        120..600 => two(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => two(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => two(days, "d", hours % 24, "h"),
        _ => format!("{days}d"),
    }
}

/// A text on one line, of at most so many characters.
pub fn one_line(text: &str, longest: usize) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.chars().count() > longest {
        true => line.chars().take(longest.saturating_sub(1)).chain(['…']).collect(),
        false => line,
    }
}

/// The text without what would steer a terminal, or turn around what is read: anybody may write that into a record. It is
/// escaped as JSON has it.
pub fn printable(text: &str) -> String {
    let turns = |letter| matches!(letter, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let escaped = |letter: char| turns(letter) || (letter.is_control() && letter != '\n' && letter != '\t');
    text.chars().fold(String::with_capacity(text.len()), |mut printable, letter| {
        if escaped(letter) {
            printable.push_str(&format!("\\u{:04x}", u32::from(letter)));
        } else {
            printable.push(letter);
        }
        printable
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_as_exact_as_it_matters() {
        let ages = [-5, 45, 119, 120, 250, 3_600, 11_100, 10_800, 50_000, 180_000, 1_040_000].map(age);
        assert_eq!(ages, ["0s", "45s", "119s", "2m", "4m10s", "60m", "3h5m", "3h", "13h", "2d2h", "12d"]);
    }

    #[test]
    fn columns_are_as_wide_as_they_must_be() {
        let rows = [vec!["A", "B", "C"], vec!["longer", "", "x"], vec!["y", "", ""]];
        let rows: Vec<Vec<_>> = rows.map(|row| row.into_iter().map(str::to_owned).collect()).into();
        assert_eq!(columns(&rows), ["A       B  C", "longer     x", "y"]);
        let long = vec!["x".repeat(100_000), "y".to_owned()];
        assert_eq!(columns(&[long])[0].len(), 100_003, "wider than a formatter pads");
    }

    #[test]
    fn a_long_text_is_cut() {
        assert_eq!(one_line("a\n b", 9), "a b");
        assert_eq!(one_line("abcdef", 4), "abc…");
    }
    #[test]
    fn what_would_steer_a_terminal_is_escaped() {
        assert_eq!(printable("a\u{1b}[2Jb\n\t\u{9b}ü\u{202e}"), "a\\u001b[2Jb\n\t\\u009bü\\u202e");
    }
}
