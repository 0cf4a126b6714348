//! What is compiled into the binary: the files of a folder as tokens, without what is for tests.
//!
//! Tokens and not a syntax tree: the arguments of a macro have no tree, and what is written in them counts like the rest.

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};
use syn::parse::{ParseStream, Parser};
use syn::{Item, Meta};

/// The path of a module, with `crate` in front.
pub type ModulePath = Vec<String>;

/// A file of the library or the binary.
pub struct Source {
    /// Its name below `src/`.
    pub name: String,
    /// What it holds that is not for tests.
    pub tokens: TokenStream,
}

/// The modules that are files, by their paths. Those that are for tests are left out.
pub fn modules(files: impl IntoIterator<Item = (String, String)>) -> BTreeMap<ModulePath, Source> {
    let mut modules = BTreeMap::new();
    let mut of_tests = BTreeSet::new();
    for (name, text) in files {
        let tokens = text.parse().unwrap_or_else(|error| panic!("{name} cannot be read: {error}"));
        let (path, mut dropped) = (module_path(&name), vec![]);
        let tokens = without_tests(tokens, &mut dropped);
        of_tests.extend(dropped.into_iter().map(|child| [path.clone(), vec![child]].concat()));
        modules.insert(path, Source { name, tokens });
    }
    modules.retain(|path, _| !(1..=path.len()).any(|length| of_tests.contains(&path[..length])));
    modules
}

/// `a/b.rs` is `crate::a::b`.
fn module_path(name: &str) -> ModulePath {
    let below = name.trim_end_matches(".rs").split('/').filter(|part| *part != "lib").map(str::to_owned);
    [String::from("crate")].into_iter().chain(below).collect()
}

/// Leaves out what an attribute keeps for tests, and adds to `dropped` the names of modules among it.
fn without_tests(tokens: TokenStream, dropped: &mut Vec<String>) -> TokenStream {
    let tokens: Vec<_> = tokens.into_iter().collect();
    let (mut kept, mut at) = (vec![], 0);
    while at < tokens.len() {
        match &tokens[at..] {
            [TokenTree::Punct(hash), TokenTree::Punct(bang), TokenTree::Group(attribute), ..]
                if hash.as_char() == '#' && bang.as_char() == '!' && is_for_tests(attribute) =>
            {
                break;
            }
            [TokenTree::Punct(hash), TokenTree::Group(attribute), rest @ ..]
                if hash.as_char() == '#' && is_for_tests(attribute) =>
            {
                at = tokens.len() - after_item(rest, dropped);
            }
            [TokenTree::Group(group), ..] => {
                let mut inner = Group::new(group.delimiter(), without_tests(group.stream(), dropped));
                inner.set_span(group.span());
                kept.push(TokenTree::Group(inner));
                at += 1;
            }
            [token, ..] => {
                kept.push(token.clone());
                at += 1;
            }
            [] => break,
        }
    }
    kept.into_iter().collect()
}

/// How many tokens come after the item that they begin with. A field, an arm or a statement ends with its comma or
/// semicolon: where that is found too early, too much is read, and nothing is overlooked.
fn after_item(tokens: &[TokenTree], dropped: &mut Vec<String>) -> usize {
    let item_and_rest = |input: ParseStream| Ok((input.parse::<Item>()?, input.parse::<TokenStream>()?));
    match item_and_rest.parse2(tokens.iter().cloned().collect()) {
        Ok((item, rest)) => {
            if let Item::Mod(module) = item {
                dropped.push(module.ident.to_string());
            }
            rest.into_iter().count()
        }
        Err(_) => {
            let ends = |token: &TokenTree| matches!(token, TokenTree::Punct(end) if ",;".contains(end.as_char()));
            let length = tokens.iter().position(ends).map_or(tokens.len(), |end| end + 1);
            tokens.len() - length
        }
    }
}

/// Whether the content of an attribute says that only tests have what follows.
fn is_for_tests(attribute: &Group) -> bool {
    let is_attribute = attribute.delimiter() == Delimiter::Bracket;
    is_attribute
        && syn::parse2(attribute.stream()).is_ok_and(|meta: Meta| match meta {
            Meta::List(list) if list.path.is_ident("cfg") => list.parse_args().is_ok_and(|option| needs_test(&option)),
            _ => false,
        })
}

/// Whether a `cfg` option does not hold outside of tests.
fn needs_test(option: &Meta) -> bool {
    let Meta::List(list) = option else { return option.path().is_ident("test") };
    let several = syn::punctuated::Punctuated::<Meta, syn::Token![,]>::parse_terminated;
    let Ok(options) = list.parse_args_with(several) else { return false };
    match list.path.get_ident() {
        Some(all) if all == "all" => options.iter().any(needs_test),
        Some(any) if any == "any" => options.iter().all(needs_test),
        _ => false,
    }
}
