//! Amounts as Kubernetes writes them: `0.5` and `500m` are one.

/// What a suffix multiplies by.
const SUFFIXES: [(&str, f64); 16] = [
    ("Ki", 1024.0),
    ("Mi", 1_048_576.0),
    ("Gi", 1_073_741_824.0),
    ("Ti", 1_099_511_627_776.0),
    ("Pi", 1_125_899_906_842_624.0),
    ("Ei", 1_152_921_504_606_846_976.0),
    ("n", 1e-9),
    ("u", 1e-6),
    ("m", 1e-3),
    ("k", 1e3),
    ("M", 1e6),
    ("G", 1e9),
    ("T", 1e12),
    ("P", 1e15),
    ("E", 1e18),
    ("", 1.0),
];

/// Whether two texts are the same amount; not when one of them is none.
pub fn is_same(one: &str, other: &str) -> bool {
    match (amount(one), amount(other)) {
        (Some(one), Some(other)) => (one - other).abs() <= one.abs() * 1e-9,
        _ => false,
    }
}

fn amount(text: &str) -> Option<f64> {
    let read = |(suffix, factor): &(&str, f64)| text.strip_suffix(suffix)?.parse::<f64>().ok().map(|n| n * factor);
    SUFFIXES.iter().find_map(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_compared_by_what_they_are() {
        for (one, other) in [("0.5", "500m"), ("1024Mi", "1Gi"), ("1e3", "1k"), ("0.1", "100m"), ("1", "1.0")] {
            assert!(is_same(one, other), "{one} {other}");
        }
        for (one, other) in [("1", "2"), ("1M", "1Mi"), ("a", "a"), ("1m", "1M"), ("", "0")] {
            assert!(!is_same(one, other), "{one} {other}");
        }
    }
}
