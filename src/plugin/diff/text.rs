//! What differs between two texts, line by line, with a line or two around it.

/// How many equal lines are shown before and after a difference.
const AROUND: usize = 2;

/// The lines that only `from` has (`- `), those that only `to` has (`+ `), and a few around them.
pub fn differences(from: &str, to: &str) -> Vec<String> {
    let lines = merge(&from.lines().collect::<Vec<_>>(), &to.lines().collect::<Vec<_>>());
    let is_near = |at: usize| {
        let near = at.saturating_sub(AROUND)..(at + AROUND + 1).min(lines.len());
        lines[near].iter().any(|(sign, _)| *sign != ' ')
    };
    let mut shown = vec![];
    let mut last = None;
    for (at, (sign, line)) in lines.iter().enumerate().filter(|(at, _)| is_near(*at)) {
        if last.is_some_and(|last| last + 1 < at) {
            shown.push("  …".to_owned());
        }
        shown.push(format!("{sign} {line}"));
        last = Some(at);
    }
    shown
}

/// Every line once, in an order that fits both, with its sign: the longest common run of lines is shared.
fn merge<'a>(from: &[&'a str], to: &[&'a str]) -> Vec<(char, &'a str)> {
    // common[i][j]: how many lines from[i..] and to[j..] share at most.
    let mut common = vec![vec![0_usize; to.len() + 1]; from.len() + 1];
    for i in (0..from.len()).rev() {
        for j in (0..to.len()).rev() {
            common[i][j] = match from[i] == to[j] {
                true => common[i + 1][j + 1] + 1,
                false => common[i + 1][j].max(common[i][j + 1]),
            };
        }
    }
    let (mut i, mut j, mut lines) = (0, 0, vec![]);
    while i < from.len() || j < to.len() {
        if i < from.len() && j < to.len() && from[i] == to[j] {
            lines.push((' ', from[i]));
            (i, j) = (i + 1, j + 1);
        } else if i < from.len() && (j == to.len() || common[i + 1][j] >= common[i][j + 1]) {
            lines.push(('-', from[i]));
            i += 1;
        } else {
            lines.push(('+', to[j]));
            j += 1;
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_shown_with_a_little_around_it() {
        let from = "1\n2\n3\n4\n5\n6\n7\n8\n9\n10";
        let to = "1\n2\n3\nfour\n5\n6\n7\n8\n9\n10\n11";
        assert_eq!(differences(from, to), ["  2", "  3", "- 4", "+ four", "  5", "  6", "  …", "  9", "  10", "+ 11"]);
    }

    #[test]
    fn equal_texts_and_empty_ones_differ_in_nothing() {
        assert_eq!(differences("a\nb", "a\nb"), [""; 0]);
        assert_eq!(differences("", ""), [""; 0]);
        assert_eq!(differences("", "a"), ["+ a"]);
    }
}
