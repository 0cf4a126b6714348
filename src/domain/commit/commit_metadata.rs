//! The finished offsets above a committed one, as the text that Kafka keeps beside the commit.
//!
//! Kafka allows 4,096 bytes of metadata with each committed offset (`offset.metadata.max.bytes`). The text is a version
//! character followed by base64 of: CRC-32 of all that follows, the committed offset it belongs to, as a varint, and the lengths
//! of alternating runs of unfinished and finished offsets from that offset on. In version 1 these are varints, a byte at least
//! for each run; in version 2 they are in Elias' gamma code, a bit at least. Version 1, which every release reads,
//! is written wherever all of it has room.
//!
//! What cannot be read means "nothing is known to be finished", never "this one is finished": the records are then
//! processed again.

use std::ops::Range;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;

use super::offsets::{Ahead, Finished, Run};

/// The longest text that is written, below the broker's default limit of 4,096.
pub const MAX_BYTES: usize = 4_020;

/// The longest varint of 64 bits.
const MAX_VARINT: usize = 10;

/// What there is room for besides the checksum and the longest offset: when the offset grows, what had room still has it. The
/// release before had 2,994 bytes at most for the same, and that has room, too.
const MAX_RUNS: usize = (MAX_BYTES - 1) / 4 * 3 - size_of::<u32>() - MAX_VARINT;

/// Finished offsets as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// The metadata, empty when nothing is finished above the committed offset.
    pub text: String,
    /// How much of [`MAX_BYTES`] is taken, as far as another version could not say the same in less. All of it where something
    /// is left out: that was only processed, and is processed again after a restart.
    pub bytes: usize,
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

/// How the lengths of runs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Code {
    Varint,
    Gamma,
}

impl Code {
    const ALL: [Self; 2] = [Self::Varint, Self::Gamma];

    fn version(self) -> char {
        match self {
            Self::Varint => '1',
            Self::Gamma => '2',
        }
    }

    fn of(version: char) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.version() == version)
    }

    /// `None` when the ranges take more than `limit` bytes.
    fn write<'a>(self, committed: i64, ranges: impl Iterator<Item = &'a Range<i64>>, limit: usize) -> Option<Vec<u8>> {
        let mut payload = Vec::new();
        put_varint(&mut payload, committed.unsigned_abs());
        let (limit, mut bits) = (payload.len() + limit, 0);
        let mut at = committed;
        for range in ranges {
            for length in [range.start.abs_diff(at), range.end.abs_diff(range.start)] {
                match self {
                    Self::Varint => put_varint(&mut payload, length),
                    Self::Gamma => put_gamma(&mut payload, &mut bits, length),
                }
            }
            if payload.len() > limit {
                return None;
            }
            at = range.end;
        }
        Some(payload)
    }

    /// Of what follows it; and of the version, where it is not the first one, so that neither is taken for the other.
    fn checksum(self, payload: &[u8]) -> u32 {
        let mut crc = crc32fast::Hasher::new();
        if self != Self::Varint {
            crc.update(&[self.version() as u8]);
        }
        crc.update(payload);
        crc.finalize()
    }

    fn text(self, mut payload: Vec<u8>) -> String {
        let mut bytes = self.checksum(&payload).to_be_bytes().to_vec();
        bytes.append(&mut payload);
        let mut text = String::from(self.version());
        BASE64.encode_string(bytes, &mut text);
        text
    }
}

/// The lowest runs as a whole, of the others what was routed.
fn lowest_whole(runs: &[Run], whole: usize) -> impl Iterator<Item = &Range<i64>> {
    let (lowest, rest) = runs.split_at(whole);
    lowest.iter().map(|run| &run.offsets).chain(rest.iter().filter_map(|run| run.routed.as_ref()))
}

/// Whether there is room for everything that was routed.
pub fn has_room(Ahead { committed, runs }: &Ahead) -> bool {
    Code::ALL.iter().any(|code| code.write(*committed, lowest_whole(runs, 0), MAX_RUNS).is_some())
}

/// Writes what is finished above the committed offset: all of it, or what was routed and as much of the rest as there is room
/// for, from below. `None` when there is no room for what was routed.
///
/// What had room has room for ever, whatever is finished next: that a run ends, or two runs become one, takes no more.
pub fn encode(Ahead { committed, runs }: &Ahead) -> Option<Encoded> {
    if runs.is_empty() {
        return Some(Encoded { text: String::new(), bytes: 0 });
    }
    let whole =
        Code::ALL.map(|code| Some(code.text(code.write(*committed, lowest_whole(runs, runs.len()), MAX_RUNS)?)));
    if let Some(bytes) = whole.iter().flatten().map(String::len).min() {
        return whole.into_iter().flatten().next().map(|text| Encoded { text, bytes });
    }
    let (_, code, payload) =
        Code::ALL.into_iter().filter_map(|code| most(*committed, runs, code)).max_by_key(|most| most.0)?;
    Some(Encoded { text: code.text(payload), bytes: MAX_BYTES })
}

/// As many whole runs as there is room for, and how many these are. After a restart all of them count as routed: they leave a
/// quarter of the room to what is routed then.
fn most(committed: i64, runs: &[Run], code: Code) -> Option<(usize, Code, Vec<u8>)> {
    let write = |whole, limit| code.write(committed, lowest_whole(runs, whole), limit);
    let (mut whole, mut too_many, mut payload) = (0, runs.len(), write(0, MAX_RUNS)?);
    while too_many - whole > 1 {
        let half = whole + (too_many - whole) / 2;
        match write(half, MAX_RUNS * 3 / 4) {
            Some(more) => (payload, whole) = (more, half),
            None => too_many = half,
        }
    }
    Some((whole, code, payload))
}

/// What a commit would say is finished, of which nothing may be forgotten afterwards.
pub fn remembered(ahead: &Ahead) -> Finished {
    let encoded = encode(ahead).map(|encoded| decode(ahead.committed, &encoded.text));
    encoded.and_then(Result::ok).unwrap_or_else(|| lowest_whole(&ahead.runs, 0).cloned().collect())
}

/// Reads what [`encode`] wrote beside the offset `committed`.
pub fn decode(committed: i64, text: &str) -> Result<Finished, MetadataError> {
    let mut body = text.chars();
    let Some(version) = body.next() else { return Ok(Finished::new()) };
    let code = Code::of(version).ok_or(MetadataError::Foreign)?;
    let bytes = BASE64.decode(body.as_str()).map_err(|_| MetadataError::Damaged)?;
    let (crc, mut payload) = bytes.split_first_chunk().ok_or(MetadataError::Damaged)?;
    if code.checksum(payload).to_be_bytes() != *crc {
        return Err(MetadataError::Damaged);
    }
    let base = take_varint(&mut payload).and_then(|base| i64::try_from(base).ok()).ok_or(MetadataError::Damaged)?;
    if base != committed {
        return Err(MetadataError::OtherOffset(base));
    }
    let mut bits = 0;
    read_runs(committed, || match code {
        Code::Varint => take_varint(&mut payload),
        Code::Gamma => take_gamma(payload, &mut bits),
    })
}

fn read_runs(committed: i64, mut next: impl FnMut() -> Option<u64>) -> Result<Finished, MetadataError> {
    let (mut finished, mut at) = (Finished::new(), committed);
    let add = |at: i64, length: u64| {
        let end = i64::try_from(length).ok().and_then(|length| at.checked_add(length)).ok_or(MetadataError::Damaged)?;
        if end == at { Err(MetadataError::Damaged) } else { Ok(end) }
    };
    while let Some(unfinished) = next() {
        let start = add(at, unfinished)?;
        at = add(start, next().ok_or(MetadataError::Damaged)?)?;
        finished.push(start..at);
    }
    Ok(finished)
}

/// Elias' gamma code: as many zeros as the number has bits after its first, and then its bits. `bits` are those that were
/// written so far to the last byte; what remains of it is zeros, which are no number.
fn put_gamma(out: &mut Vec<u8>, bits: &mut u32, number: u64) {
    let width = number.max(1).ilog2();
    for place in (0..=2 * width).rev() {
        if bits.is_multiple_of(8) {
            out.push(0);
        }
        let bit = number.checked_shr(place).unwrap_or(0) & 1;
        if let Some(last) = out.last_mut() {
            *last |= (bit as u8) << (7 - *bits % 8);
        }
        *bits += 1;
    }
}

/// Reads the number at this bit, and moves on behind it. `None` at the end.
fn take_gamma(from: &[u8], at: &mut usize) -> Option<u64> {
    let mut next = || {
        let bit = from.get(*at / 8)? >> (7 - *at % 8) & 1;
        *at += 1;
        Some(u64::from(bit))
    };
    let mut width = 0;
    while next()? == 0 {
        width += 1;
    }
    let mut number = 1u64;
    for _ in 0..width {
        number = number.checked_mul(2)? | next()?;
    }
    Some(number)
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

    /// Stretches of runs that are alike, routed in part or not: as many as have room, and more.
    fn any_ahead() -> impl Strategy<Value = Ahead> {
        let length = || prop_oneof![4 => 1i64..4, 1 => 1i64..100_000];
        let stretches = proptest::collection::vec((length(), length(), 0u8..3, 1usize..4_000), 0..6);
        (0i64..1 << 50, stretches).prop_map(|(committed, stretches)| {
            let (mut at, mut runs) = (committed, vec![]);
            for (skip, len, routed, count) in stretches {
                for nth in 0..count {
                    let start = at + skip;
                    at = start + len;
                    let routed = (nth % 3 < usize::from(routed)).then_some(start + len / 3..at - len / 3);
                    runs.push(Run { offsets: start..at, routed });
                }
            }
            Ahead { committed, runs }
        })
    }

    fn ahead(committed: i64, ranges: impl IntoIterator<Item = Range<i64>>, is_routed: bool) -> Ahead {
        let run = |offsets: Range<i64>| Run { routed: is_routed.then(|| offsets.clone()), offsets };
        Ahead { committed, runs: ranges.into_iter().map(run).collect() }
    }

    /// Runs of one offset with one between each two.
    fn every_other(count: i64) -> impl Iterator<Item = Range<i64>> {
        (0..count).map(|n| 2 * n + 1..2 * n + 2)
    }

    #[test]
    fn nothing_finished_is_no_text() {
        assert_eq!(encode(&ahead(7, [], true)), Some(Encoded { text: String::new(), bytes: 0 }));
        assert_eq!(decode(7, ""), Ok(vec![]));
    }

    #[test]
    fn what_is_not_ours_is_refused_with_its_reason() {
        assert_eq!(decode(7, "spring was here"), Err(MetadataError::Foreign));
        assert_eq!(decode(7, "3AAAA"), Err(MetadataError::Foreign));
        assert_eq!(decode(7, "1"), Err(MetadataError::Damaged));
        assert_eq!(decode(7, "2"), Err(MetadataError::Damaged));
        assert_eq!(decode(7, "1%%%"), Err(MetadataError::Damaged));
        let ours = encode(&ahead(7, [9..12], true)).unwrap().text;
        assert_eq!(decode(8, &ours), Err(MetadataError::OtherOffset(7)));
        assert_eq!(decode(7, &ours[..ours.len() - 1]), Err(MetadataError::Damaged));
    }

    #[test]
    fn the_first_version_is_written_as_long_as_all_fits_and_has_not_changed() {
        let text = encode(&ahead(1_000_000, [1_000_003..1_000_004, 1_000_104..1_000_304], true)).unwrap().text;
        assert_eq!(text, "1H99RVcCEPQMBZMgB");
        assert_eq!(decode(1_000_000, &text).unwrap(), [1_000_003..1_000_004, 1_000_104..1_000_304]);
        let few = encode(&ahead(0, every_other(1_490), true)).unwrap();
        let many = encode(&ahead(0, every_other(1_500), true)).unwrap();
        assert!(few.text.starts_with('1') && many.text.starts_with('2'));
        assert!(many.text.len() < few.text.len() / 5, "{}", many.text.len());
        assert!(few.bytes < many.bytes && many.bytes == many.text.len(), "{} bytes", few.bytes);
    }

    #[test]
    fn what_was_routed_is_in_it_and_of_the_rest_what_has_room() {
        let mut mixed = ahead(0, every_other(20_000), false);
        mixed.runs.push(Run { offsets: 50_000..60_000, routed: Some(50_007..50_009) });
        let encoded = encode(&mixed).unwrap();
        assert_eq!(encoded.bytes, MAX_BYTES);
        assert!((MAX_BYTES * 3 / 4 - 20..=MAX_BYTES * 3 / 4).contains(&encoded.text.len()), "{}", encoded.text.len());
        let decoded = decode(0, &encoded.text).unwrap();
        assert!(decoded.len() > 8_500, "{}", decoded.len());
        assert_eq!(decoded.last(), Some(&(50_007..50_009)));
        assert_eq!(decoded[..decoded.len() - 1], every_other(20_000).take(decoded.len() - 1).collect::<Vec<_>>());
        assert!(has_room(&mixed));
        let too_much = ahead(0, every_other(20_000), true);
        assert!(!has_room(&too_much) && encode(&too_much).is_none());
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_back_and_nothing_that_was_routed_is_missing(ahead in any_ahead()) {
            let Some(encoded) = encode(&ahead) else { prop_assert!(!has_room(&ahead)); return Ok(()) };
            prop_assert!(encoded.text.len() <= MAX_BYTES && has_room(&ahead));
            let decoded = decode(ahead.committed, &encoded.text).unwrap();
            let finished: Finished = ahead.runs.iter().map(|run| run.offsets.clone()).collect();
            let has = |all: &Finished, range: &Range<i64>| {
                let last = all.partition_point(|known| known.start <= range.start).checked_sub(1);
                last.is_some_and(|last| range.end <= all[last].end)
            };
            prop_assert!(ahead.runs.iter().filter_map(|run| run.routed.as_ref()).all(|range| has(&decoded, range)));
            prop_assert!(decoded.iter().all(|range| has(&finished, range)));
            prop_assert!(finished == decoded || encoded.bytes == MAX_BYTES);
        }

        #[test]
        fn one_changed_character_never_finishes_a_record(
            ahead in any_ahead(),
            at in any::<proptest::sample::Index>(),
            with in proptest::char::range(' ', '~'),
        ) {
            let text = encode(&ahead).map(|encoded| encoded.text).unwrap_or_default();
            prop_assume!(!text.is_empty());
            let mut damaged: Vec<char> = text.chars().collect();
            let at = at.index(damaged.len());
            prop_assume!(damaged[at] != with);
            damaged[at] = with;
            prop_assert!(decode(ahead.committed, &damaged.into_iter().collect::<String>()).is_err());
        }

        #[test]
        fn no_text_makes_it_panic(committed in any::<i64>(), text in ".*") {
            let _ = decode(committed, &text);
            let _ = decode(committed, &format!("1{text}"));
            let _ = decode(committed, &Code::Gamma.text(text.into_bytes()));
        }
    }
}
