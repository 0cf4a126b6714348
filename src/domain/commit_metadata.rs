//! The finished offsets above a committed one, as the text that Kafka keeps beside the commit.
//!
//! Kafka allows 4,096 bytes of metadata with each committed offset (`offset.metadata.max.bytes`). The text is a version
//! character followed by base64 of: CRC-32 of all that follows, the committed offset it belongs to, and the lengths of
//! alternating runs of unfinished and finished offsets from that offset on, all numbers as varints.
//!
//! What cannot be read means "nothing is known to be finished", never "this one is finished": the records are then
//! processed again.

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;

use super::offsets::Finished;

/// The longest text that is written, below the broker's default limit of 4,096.
pub const MAX_BYTES: usize = 4_000;

const VERSION: char = '1';

/// Finished offsets as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// The metadata, empty when nothing is finished above the committed offset.
    pub text: String,
    /// Where the first range begins that did not fit, `None` when every range is in it. Ranges that did not fit are
    /// forgotten by a restart: their records are processed again, never lost.
    pub cut: Option<i64>,
}

impl Encoded {
    /// Whether every finished offset below `end` is in it.
    pub fn covers(&self, end: i64) -> bool {
        self.cut.is_none_or(|cut| end <= cut)
    }
}

/// Why metadata could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MetadataError {
    /// It begins with something else than the version that this code writes.
    #[error("written by something else, or by a newer version")]
    Foreign,
    /// It is not what was written.
    #[error("damaged")]
    Damaged,
    /// It was written beside another offset than the one that it now stands with.
    #[error("belongs to offset {0}, which was reset since")]
    OtherOffset(i64),
}

/// Writes the finished offsets above `committed`.
pub fn encode(committed: i64, finished: &Finished) -> Encoded {
    if finished.is_empty() {
        return Encoded { text: String::new(), cut: None };
    }
    let max_payload = (MAX_BYTES - 1) / 4 * 3 - size_of::<u32>();
    let mut payload = Vec::new();
    put_varint(&mut payload, committed.unsigned_abs());
    let (mut at, mut cut) = (committed, None);
    for range in finished {
        let before = payload.len();
        put_varint(&mut payload, range.start.abs_diff(at));
        put_varint(&mut payload, range.end.abs_diff(range.start));
        if payload.len() > max_payload {
            payload.truncate(before);
            cut = Some(range.start);
            break;
        }
        at = range.end;
    }
    let mut bytes = crc32fast::hash(&payload).to_be_bytes().to_vec();
    bytes.append(&mut payload);
    let mut text = String::from(VERSION);
    BASE64.encode_string(bytes, &mut text);
    Encoded { text, cut }
}

/// Reads what [`encode`] wrote beside the offset `committed`.
pub fn decode(committed: i64, text: &str) -> Result<Finished, MetadataError> {
    if text.is_empty() {
        return Ok(Finished::new());
    }
    let body = text.strip_prefix(VERSION).ok_or(MetadataError::Foreign)?;
    let bytes = BASE64.decode(body).map_err(|_| MetadataError::Damaged)?;
    let (crc, mut payload) = bytes.split_first_chunk().ok_or(MetadataError::Damaged)?;
    if crc32fast::hash(payload).to_be_bytes() != *crc {
        return Err(MetadataError::Damaged);
    }
    read_runs(committed, &mut payload)
}

fn read_runs(committed: i64, payload: &mut &[u8]) -> Result<Finished, MetadataError> {
    let mut next = || -> Result<i64, MetadataError> {
        let number = take_varint(payload).ok_or(MetadataError::Damaged)?;
        i64::try_from(number).map_err(|_| MetadataError::Damaged)
    };
    let base = next()?;
    if base != committed {
        return Err(MetadataError::OtherOffset(base));
    }
    let (mut finished, mut at) = (Finished::new(), committed);
    loop {
        let Ok(skipped) = next() else { return Ok(finished) };
        let start = at.checked_add(skipped).ok_or(MetadataError::Damaged)?;
        let end = start.checked_add(next()?).ok_or(MetadataError::Damaged)?;
        if skipped == 0 || end == start {
            return Err(MetadataError::Damaged);
        }
        finished.push(start..end);
        at = end;
    }
}

/// Little-endian base 128, as in protocol buffers.
fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn take_varint(from: &mut &[u8]) -> Option<u64> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = from.split_first()?;
        *from = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "one range is what is meant")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_finished() -> impl Strategy<Value = (i64, Finished)> {
        let runs = proptest::collection::vec((1i64..100_000, 1i64..100_000), 0..300);
        (0i64..1 << 50, runs).prop_map(|(committed, runs)| {
            let mut at = committed;
            let range = |(skip, len): (i64, i64)| {
                let start = at + skip;
                at = start + len;
                start..at
            };
            (committed, runs.into_iter().map(range).collect())
        })
    }

    #[test]
    fn nothing_finished_is_no_text() {
        assert_eq!(encode(7, &vec![]), Encoded { text: String::new(), cut: None });
        assert_eq!(decode(7, ""), Ok(vec![]));
    }

    #[test]
    fn what_is_not_ours_is_refused_with_its_reason() {
        assert_eq!(decode(7, "spring was here"), Err(MetadataError::Foreign));
        assert_eq!(decode(7, "2AAAA"), Err(MetadataError::Foreign));
        assert_eq!(decode(7, "1"), Err(MetadataError::Damaged));
        assert_eq!(decode(7, "1%%%"), Err(MetadataError::Damaged));
        let ours = encode(7, &vec![9..12]).text;
        assert_eq!(decode(8, &ours), Err(MetadataError::OtherOffset(7)));
        assert_eq!(decode(7, &ours[..ours.len() - 1]), Err(MetadataError::Damaged));
    }

    #[test]
    fn a_set_too_large_for_the_broker_is_cut_at_the_end() {
        let every_other: Finished = (0..5_000).map(|i| 2 * i + 1..2 * i + 2).collect();
        let encoded = encode(0, &every_other);
        assert!(encoded.text.len() <= MAX_BYTES);
        let decoded = decode(0, &encoded.text).unwrap();
        assert!(decoded.len() > 1_000);
        let cut = encoded.cut.expect("not everything fits");
        assert_eq!(cut, every_other[decoded.len()].start);
        assert!(encoded.covers(cut) && !encoded.covers(cut + 1));
        assert_eq!(decoded[..], every_other[..decoded.len()]);
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_back((committed, finished) in any_finished()) {
            let encoded = encode(committed, &finished);
            prop_assert!(encoded.text.len() <= MAX_BYTES);
            let decoded = decode(committed, &encoded.text).unwrap();
            prop_assert_eq!(encoded.cut, finished.get(decoded.len()).map(|range| range.start));
            prop_assert_eq!(&decoded[..], &finished[..decoded.len()]);
        }

        #[test]
        fn one_changed_character_never_finishes_a_record(
            (committed, finished) in any_finished(),
            at in any::<proptest::sample::Index>(),
            with in proptest::char::range(' ', '~'),
        ) {
            let text = encode(committed, &finished).text;
            prop_assume!(!text.is_empty());
            let mut damaged: Vec<char> = text.chars().collect();
            let at = at.index(damaged.len());
            prop_assume!(damaged[at] != with);
            damaged[at] = with;
            prop_assert!(decode(committed, &damaged.into_iter().collect::<String>()).is_err());
        }

        #[test]
        fn no_text_makes_it_panic(committed in any::<i64>(), text in ".*") {
            let _ = decode(committed, &text);
            let _ = decode(committed, &format!("1{text}"));
        }
    }
}
