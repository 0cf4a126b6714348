//! Times from one moment to another, in epoch milliseconds.

/// From when to when.
pub type Span = (i64, i64);

/// What is left of the time from then on.
pub fn without(mut from: i64, mut loud: Vec<Span>) -> Vec<Span> {
    let mut quiet = vec![];
    loud.sort_unstable();
    for (begins, ends) in loud {
        if begins > from {
            quiet.push((from, begins));
        }
        from = from.max(ends);
    }
    quiet
}

/// What is left of some times.
pub fn outside(times: &[Span], loud: &[Span]) -> Vec<Span> {
    let left = |&(from, until): &Span| without(from, loud.iter().copied().chain([(until, i64::MAX)]).collect());
    times.iter().flat_map(left).collect()
}

mod tests {
    use super::*;

    #[test]
    fn what_is_left_of_a_time_begins_and_ends_where_something_else_does() {
        assert_eq!(outside(&[(0, 10), (20, 30)], &[]), [(0, 10), (20, 30)]);
        assert_eq!(outside(&[(0, 10), (20, 30)], &[(22, 25), (5, 21)]), [(0, 5), (21, 22), (25, 30)]);
        assert_eq!(outside(&[(0, 10)], &[(0, 10)]), []);
    }
}
