//! What each record of a run is: key, value, headers, and what becomes of it. All of it follows from the seed and the
//! record's number, so that a run can be repeated and whatever comes out of the engine be compared with what went in.

/// A record as its producer wrote it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Content {
    /// What must come through: all but the headers that only Lazaret may write.
    pub fn forwarded(mut self) -> Self {
        self.headers.retain(|(name, _)| !name.starts_with("lazaret-") || name.starts_with("lazaret-redrive-"));
        self
    }

    /// The number of the record, which is in its value, or beside it where the value has no room for it.
    pub fn number(&self) -> Option<usize> {
        let beside = self.headers.iter().rfind(|(name, _)| name == NUMBER).and_then(|(_, value)| value.as_deref());
        number(self.value.as_deref().unwrap_or_default(), beside)
    }
}

/// The header that says the number of a record without a value. The engine hands it to the endpoint as `ce-number`.
pub const NUMBER: &str = "ce_number";

/// The number of a record by its value, or by what its header says.
pub fn number(value: &[u8], beside: Option<&[u8]>) -> Option<usize> {
    let text = value.strip_prefix(&[0xff]).unwrap_or(value);
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let digits = if digits > 0 { &text[..digits] } else { beside? };
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// What becomes of a record, as far as its endpoint has a say: an outage makes more attempts fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Good,
    /// So many attempts fail before one is done.
    Fails(u32),
    /// Every attempt fails, as if another one could help.
    Hopeless,
    /// Every attempt fails for good.
    Invalid,
}

impl Fate {
    /// The status that answers an attempt.
    pub fn answer(self, attempt: u32) -> u16 {
        match self {
            Self::Fails(attempts) if attempt <= attempts => 503,
            Self::Good | Self::Fails(_) => 200,
            Self::Hopeless => 503,
            Self::Invalid => 422,
        }
    }
}

/// The records of one topic.
#[derive(Clone, Copy, Debug)]
pub struct Records {
    pub seed: u64,
    /// How many keys there are. Three records in a row share one.
    pub keys: usize,
    /// Whether there are records without a key, which a compacted topic refuses.
    pub keyless: bool,
}

/// The numbers of a burst's records: their keys all belong to one partition of the retry topic, which the numbers name.
const IN_BURSTS: usize = 200_000_000;
const IN_ONE_PARTITION: usize = 10_000_000;

/// How many partitions a retry topic has.
pub const RETRY_PARTITIONS: usize = 3;

/// The size of a value in a burst.
const LARGE: usize = 10_000;

/// The first number of a burst into a partition of the retry topic.
pub fn first_in_burst(partition: usize) -> usize {
    IN_BURSTS + partition * IN_ONE_PARTITION
}

/// Whether a record belongs to a burst.
pub fn is_in_burst(number: usize) -> bool {
    number >= IN_BURSTS
}

/// What a number drawn for a record decides.
#[derive(Clone, Copy)]
enum Draw {
    Key = 1,
    Value,
    Headers,
    Fate,
    Pause,
}

/// The share of slow answers, and how slow they are; how slow the others are. In milliseconds.
const SLOW: (u64, std::ops::Range<u64>, std::ops::Range<u64>) = (100, 1_000..3_000, 0..30);

impl Records {
    fn draw(&self, number: usize, what: Draw, more: u64) -> u64 {
        mixed(mixed(mixed(self.seed ^ what as u64) ^ number as u64) ^ more)
    }

    pub fn content(&self, number: usize) -> Content {
        if is_in_burst(number) {
            let value = Some(format!("{number}:{}", "x".repeat(LARGE)).into_bytes());
            return Content { key: self.key(number), value, headers: vec![] };
        }
        let key = self.key(number);
        let value = match self.draw(number, Draw::Value, 0) % 1_000 {
            0..30 => None,
            30..40 => Some(vec![]),
            40..90 => Some([&[0xff], number.to_string().as_bytes(), &[0, 0xfe, b':']].concat()),
            90..93 => Some(format!("{number}:{}", "x".repeat(100 * 1_024 + number % 100_000)).into_bytes()),
            _ => Some(format!("{number}:{{}}").into_bytes()),
        };
        let text = |text: &str| Some(text.as_bytes().to_vec());
        let mut headers: Vec<(&str, Option<Vec<u8>>)> = match self.draw(number, Draw::Headers, 0) % 20 {
            0 => vec![("a", text("1")), ("b", None), ("a", text("2")), ("", text("")), ("a", text("1"))],
            1 => vec![("bytes", Some(vec![0xff, 0, 0xc3])), ("none", None)],
            2 => vec![("lazaret-attempts", text("99")), ("kept", text("é")), ("lazaret-due", text("99999999999999"))],
            3 => vec![("lazaret-original-offset", text("7")), ("lazaret-redrive-id", text("kept"))],
            4..10 => vec![("trace", text("abc"))],
            _ => vec![],
        };
        if value.as_ref().is_none_or(Vec::is_empty) {
            headers.insert(headers.len() / 2, (NUMBER, Some(number.to_string().into_bytes())));
        }
        let headers = headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Content { key, value, headers }
    }

    pub fn key(&self, number: usize) -> Option<Vec<u8>> {
        if is_in_burst(number) {
            let wanted = (number - IN_BURSTS) / IN_ONE_PARTITION;
            let mut keys = (number..).map(|number| self.key_of(number % self.keys));
            return keys.find(|key| murmur2(key) as usize % RETRY_PARTITIONS == wanted);
        }
        if self.keyless && self.draw(number, Draw::Key, 0).is_multiple_of(20) {
            return None;
        }
        Some(self.key_of(number / 3 % self.keys))
    }

    fn key_of(&self, key: usize) -> Vec<u8> {
        match key % 20 {
            0 => [&[0xff, 0xfe], key.to_string().as_bytes()].concat(),
            _ => format!("k{key}").into_bytes(),
        }
    }

    pub fn fate(&self, number: usize) -> Fate {
        match self.draw(number, Draw::Fate, 0) % 100 {
            fate if is_in_burst(number) => Fate::Fails(if fate < 30 { 2 } else { 1 }),
            0..6 => Fate::Fails(1),
            6..8 => Fate::Fails(2),
            8 => Fate::Hopeless,
            9..11 => Fate::Invalid,
            _ => Fate::Good,
        }
    }

    /// How long the endpoint takes to answer an attempt, in milliseconds.
    pub fn pause(&self, number: usize, attempt: u32) -> u64 {
        let draw = self.draw(number, Draw::Pause, attempt.into());
        let (one_in, slow, quick) = SLOW;
        let range = if draw.is_multiple_of(one_in) && !is_in_burst(number) { slow } else { quick };
        range.start + mixed(draw) % (range.end - range.start)
    }
}

/// The hash after which Kafka's clients choose the partition of a key, with the sign left out: `Utils.toPositive(Utils.murmur2(key))`.
fn murmur2(key: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let (words, rest) = key.as_chunks::<4>();
    let mut hash = 0x9747_b28c ^ key.len() as u32;
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k = (k ^ (k >> 24)).wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ k;
    }
    if !rest.is_empty() {
        let mut last = [0; 4];
        last[..rest.len()].copy_from_slice(rest);
        hash = (hash ^ u32::from_le_bytes(last)).wrapping_mul(M);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(M);
    (hash ^ (hash >> 15)) & 0x7fff_ffff
}

/// A number that looks drawn at random and is the same for the same input (SplitMix64's last step).
pub fn mixed(input: u64) -> u64 {
    let z = input.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

mod tests {
    use super::*;

    const RECORDS: Records = Records { seed: 7, keys: 50, keyless: true };

    #[test]
    fn the_number_of_every_record_can_be_read_from_it() {
        for number in 0..5_000 {
            let content = RECORDS.content(number);
            assert_eq!(content.number(), Some(number), "{content:?}");
            assert_eq!(content.forwarded().number(), Some(number));
        }
    }

    #[test]
    fn a_burst_has_its_keys_in_one_partition_of_the_retry_topic_and_fails_once_or_twice() {
        // As Kafka's own tests of `Utils.murmur2` have it, the sign left out.
        let known = [("21", -973_932_308), ("foobar", -790_332_482), ("a-little-bit-long-string", -985_981_536)];
        for (key, hash) in known {
            assert_eq!(murmur2(key.as_bytes()), hash as u32 & 0x7fff_ffff, "{key}");
        }
        for partition in 0..RETRY_PARTITIONS {
            let numbers = first_in_burst(partition)..first_in_burst(partition) + 1_000;
            let again = numbers.clone().filter(|number| RECORDS.fate(*number) == Fate::Fails(2)).count();
            assert!((200..400).contains(&again), "{again}");
            for number in numbers {
                let content = RECORDS.content(number);
                assert_eq!((content.number(), content.value.unwrap().len() / LARGE), (Some(number), 1));
                assert_eq!(murmur2(&content.key.unwrap()) as usize % RETRY_PARTITIONS, partition);
            }
        }
    }

    #[test]
    fn every_kind_of_record_occurs() {
        let contents: Vec<_> = (0..5_000).map(|number| RECORDS.content(number)).collect();
        let some = |what: fn(&Content) -> bool| assert!(contents.iter().any(what));
        let not_text = |bytes: &Option<Vec<u8>>| bytes.as_ref().is_some_and(|b| std::str::from_utf8(b).is_err());
        some(|c| c.key.is_none());
        some(|c| c.value.is_none());
        some(|c| c.value.as_ref().is_some_and(Vec::is_empty));
        some(|c| c.value.as_ref().is_some_and(|value| value.len() > 100_000));
        some(|c| c.headers.iter().any(|(_, value)| value.is_none()));
        some(|c| c.clone().forwarded() != *c);
        assert!(contents.iter().any(|c| not_text(&c.key)) && contents.iter().any(|c| not_text(&c.value)));
        for fate in [Fate::Good, Fate::Fails(1), Fate::Fails(2), Fate::Hopeless, Fate::Invalid] {
            assert!((0..5_000).any(|number| RECORDS.fate(number) == fate), "{fate:?}");
        }
        assert!((0..5_000).any(|number| RECORDS.pause(number, 1) >= 1_000));
    }

    #[test]
    fn another_seed_gives_other_records() {
        let other = Records { seed: 8, ..RECORDS };
        assert!((0..1_000).any(|number| other.fate(number) != RECORDS.fate(number)));
        assert!((0..1_000).all(|number| RECORDS.content(number) == RECORDS.content(number)));
    }
}
