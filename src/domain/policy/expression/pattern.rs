//! The patterns of `matches`: compiled once, and read as the language says.
//!
//! CEL has the syntax of RE2. What compiles them here reads most of it alike, and some of it otherwise: there `\d` is also a
//! digit of other scripts, `[a&&b]` an intersection, `\<` the start of a word. Such forms are written so that they mean what
//! RE2 means by them. What has no such form, or is no RE2, is refused: it would decide otherwise, and nobody would see it.
//!
//! Reference: the [syntax of RE2](https://github.com/google/re2/wiki/Syntax).

use std::any::Any;
use std::iter::Peekable;
use std::str::Chars;

use cel::common::types::{CelBool, CelString, Type};
use cel::common::value::{StaticVal, Val};
use regex::{Regex, RegexBuilder};

/// The most memory that a pattern may take.
const MAX_BYTES: usize = 64 << 10;

static TYPE: Type = Type::new_unspecified_type("pattern");

/// A compiled pattern, which takes the place of its text in an expression.
#[derive(Clone, Debug)]
pub(super) struct Pattern(Regex);

impl Pattern {
    /// Compiles a pattern, or says why it is none that may be used.
    pub fn compile(pattern: &str) -> Result<Self, String> {
        let mut translation = Translation { rest: pattern.chars().peekable(), written: String::new() };
        translation.pattern()?;
        let compiled = RegexBuilder::new(&translation.written).size_limit(MAX_BYTES).build();
        compiled.map(Self).map_err(|error| error.to_string())
    }
}

/// Whether the pattern is found anywhere in a text.
pub(super) fn is_in(text: &CelString<'_>, pattern: &Pattern) -> CelBool {
    CelBool::from(pattern.0.is_match(text.inner()))
}

impl Val for Pattern {
    fn get_type(&self) -> &Type {
        &TYPE
    }

    fn cel_type() -> &'static Type {
        &TYPE
    }

    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v> {
        Box::new(self.clone())
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}

impl StaticVal for Pattern {}

/// What is left to read of a pattern, and what it is for the compiler.
struct Translation<'a> {
    rest: Peekable<Chars<'a>>,
    written: String,
}

impl Translation<'_> {
    fn pattern(&mut self) -> Result<(), String> {
        // RE2 takes one repetition of a part, which a `?` makes a lazy one.
        let (mut repeated, mut lazy) = (false, false);
        while let Some(char) = self.rest.next() {
            match char {
                '*' | '+' | '?' | '{' => {
                    if repeated && (lazy || char != '?') {
                        return Err("a repetition is repeated, which the language does not have".to_owned());
                    }
                    lazy = repeated;
                    repeated = true;
                    self.written.push(char);
                    if char == '{' {
                        self.count()?;
                    }
                    continue;
                }
                '\\' => self.escape(false)?,
                '[' => self.class()?,
                '(' => self.group()?,
                other => self.written.push(other),
            }
            (repeated, lazy) = (false, false);
        }
        Ok(())
    }

    /// `{2}`, `{2,}` or `{2,3}`. RE2 reads any other bracket as itself; it is more likely a mistake.
    fn count(&mut self) -> Result<(), String> {
        let count = self.until('}').ok_or("a `{` that begins no repetition has to be written `\\{`")?;
        let (least, most) = count.split_once(',').unwrap_or((&count, ""));
        let is_number = |text: &str| text.chars().all(|char| char.is_ascii_digit());
        if least.is_empty() || !is_number(least) || !is_number(most) {
            return Err("a `{` that begins no repetition has to be written `\\{`".to_owned());
        }
        self.written.push_str(&count);
        self.written.push('}');
        Ok(())
    }

    /// What comes before the next `end`, which is read, too.
    fn until(&mut self, end: char) -> Option<String> {
        let mut found = String::new();
        for char in self.rest.by_ref() {
            if char == end {
                return Some(found);
            }
            found.push(char);
        }
        None
    }

    /// After a `(`: a group may have a name, or flags.
    fn group(&mut self) -> Result<(), String> {
        self.written.push('(');
        if self.rest.next_if_eq(&'?').is_none() {
            return Ok(());
        }
        self.written.push('?');
        for char in self.rest.by_ref() {
            self.written.push(char);
            match char {
                ':' | ')' | '<' => return Ok(()),
                'i' | 'm' | 's' | 'U' | '-' | 'P' => {}
                other => return Err(format!("the language does not have `(?{other}`")),
            }
        }
        Ok(())
    }

    /// After a `\`.
    fn escape(&mut self, in_class: bool) -> Result<(), String> {
        let Some(escaped) = self.rest.next() else {
            return Err("it ends with a `\\`".to_owned());
        };
        let class = match escaped {
            'd' => "[0-9]",
            'D' => "[^0-9]",
            'w' => "[0-9A-Za-z_]",
            'W' => "[^0-9A-Za-z_]",
            's' => r"[\t\n\f\r ]",
            'S' => r"[^\t\n\f\r ]",
            'b' if !in_class => r"(?-u:\b)",
            // The ends of words, where whatever else is escaped stands for itself.
            '<' | '>' => {
                self.written.push(escaped);
                return Ok(());
            }
            'A' | 'z' if !in_class => "",
            'a' | 'f' | 'n' | 'p' | 'P' | 'r' | 't' | 'v' | 'x' => "",
            other if other.is_ascii_punctuation() => "",
            other => return Err(format!("a pattern may not have `\\{other}` here")),
        };
        if !class.is_empty() {
            self.written.push_str(class);
            return Ok(());
        }
        self.written.extend(['\\', escaped]);
        // `\p{Greek}` and `\x{10FFFF}`: this bracket begins no repetition.
        if matches!(escaped, 'p' | 'P' | 'x') && self.rest.next_if_eq(&'{').is_some() {
            let name = self.until('}').ok_or("a `{` is not closed")?;
            self.written.push_str(&format!("{{{name}}}"));
        }
        Ok(())
    }

    /// After a `[`. Sets within sets, and what is common to two of them, are not RE2's.
    fn class(&mut self) -> Result<(), String> {
        self.written.push('[');
        if self.rest.next_if_eq(&'^').is_some() {
            self.written.push('^');
        }
        let mut before = None;
        while let Some(char) = self.rest.next() {
            match char {
                // The first one stands for itself.
                ']' if before.is_some() => {
                    self.written.push(']');
                    return Ok(());
                }
                '[' if self.rest.peek() == Some(&':') => {
                    let name = self.until(']').filter(|name| name.len() > 1 && name.ends_with(':'));
                    let name = name.ok_or("a `[` within `[]` has to be written `\\[`")?;
                    self.written.push_str(&format!("[{name}]"));
                }
                '[' | '&' | '~' | ']' => self.written.extend(['\\', char]),
                '-' if self.rest.peek() == Some(&'-') => {
                    return Err("a `-` within `[]` has to be written `\\-`".to_owned());
                }
                '\\' if before == Some('-') && self.rest.peek().is_some_and(|c| "dDwWsSpP".contains(*c)) => {
                    return Err("a range ends with a character, not with a set".to_owned());
                }
                '\\' => self.escape(true)?,
                other => self.written.push(other),
            }
            before = Some(char);
        }
        Err("a `[` is not closed".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, text: &str) -> bool {
        let pattern = Pattern::compile(pattern).unwrap_or_else(|error| panic!("{pattern}: {error}"));
        *is_in(&CelString::from(text), &pattern).inner()
    }

    #[test]
    fn a_pattern_is_searched_for_in_the_whole_text() {
        assert!(matches("b", "abc") && matches("", "abc") && matches("^abc$", "abc"));
        assert!(!matches("^b", "abc") && !matches("^abc$", "abc\n"));
    }

    #[test]
    fn a_pattern_means_what_re2_means_by_it() {
        for (pattern, found, not_found) in [
            (r"^\d$", "7", "٧"),
            (r"^[\d.]+$", "1.5", "١.٥"),
            (r"^\D$", "٧", "7"),
            (r"^\w$", "e", "é"),
            (r"^[^\W]$", "e", "é"),
            (r"^\s$", "\n", "\u{a0}"),
            (r"^\s$", " ", "\u{b}"),
            (r"^\S$", "\u{a0}", " "),
            (r"\bn", "én", "en"),
            (r"^\<a\>$", "<a>", "a"),
            ("^[a&&b]+$", "&ab", "c"),
            ("^[a[b]$", "[", "c"),
            ("^[[:alpha:]~~]$", "~", "1"),
            ("^[]a]$", "]", "b"),
            ("^[^]a]$", "b", "]"),
            (r"^[\x{e9}-]$", "é", "e"),
            (r"^\p{Greek}\pL\x41$", "αβA", "aβA"),
            ("^(?P<year>[0-9]{4})-(?i:q)[1-4]$", "2030-Q1", "203-q1"),
            (r"^a{2,}\{1\}??$", "aa{1", "a{1}"),
            ("^.$", "é", "\n"),
        ] {
            assert!(matches(pattern, found), "{pattern} on {found:?}");
            assert!(!matches(pattern, not_found), "{pattern} on {not_found:?}");
        }
    }

    #[test]
    fn a_pattern_that_re2_does_not_have_is_refused_with_its_reason() {
        for (pattern, reason) in [
            ("a++", "a repetition is repeated"),
            ("a*??", "a repetition is repeated"),
            ("a{2}{3}", "a repetition is repeated"),
            ("a{ 2 }", "a `{` that begins no repetition"),
            ("a{,2}", "a `{` that begins no repetition"),
            ("(?x) a", "the language does not have `(?x`"),
            ("(?=a)", "the language does not have `(?=`"),
            (r"(a)\1", r"may not have `\1` here"),
            (r"\u0041", r"may not have `\u` here"),
            (r"\Ba", r"may not have `\B` here"),
            (r"[\b]", r"may not have `\b` here"),
            (r"\Qa.b\E", r"may not have `\Q` here"),
            ("[a--b]", r"has to be written `\-`"),
            (r"[!-\d]", "a range ends with a character"),
            ("[[:x]]", r"has to be written `\[`"),
            ("[a", "is not closed"),
            ("a\\", "ends with a"),
            ("(", "unclosed group"),
            ("(a{1000}){1000}", "size limit"),
        ] {
            let refused = Pattern::compile(pattern).map(|_| ()).unwrap_err();
            assert!(refused.contains(reason), "{pattern}: {refused}");
        }
    }
}
