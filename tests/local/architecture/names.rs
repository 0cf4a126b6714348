//! Which paths a module names, and what they stand for.
//!
//! `use` with groups and renames, `self`, `super` and `crate` are resolved, in imports as in expressions, types and the
//! arguments of macros, and a re-export leads on to the module that has what it names. What a glob brings in counts as the
//! module that it names.

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};
use syn::{ItemUse, UseTree};

use super::source::{ModulePath, Source};

/// Re-exports of re-exports are followed so far.
const MAX_HOPS: usize = 16;

/// A path as it is written.
struct Mention {
    /// The module that it is written in, which may be a part of a file.
    scope: ModulePath,
    path: Vec<String>,
    line: usize,
    /// What the path is called from here on, if it is imported; `*` for a glob.
    import: Option<String>,
    /// Whether the import is visible outside of its module.
    is_exported: bool,
    /// Whether it begins with `::`, and so with a crate.
    is_global: bool,
}

/// What a file names.
pub struct Name {
    /// The file's module.
    pub of: ModulePath,
    /// The line in the file.
    pub line: usize,
    /// The path from its root: `crate::…`, or a crate.
    pub path: Vec<String>,
    /// The module in which that is defined, if it is ours.
    pub module: Option<ModulePath>,
    /// Whether it only passes on what a module beneath has.
    pub is_re_export: bool,
}

/// The modules with their imports, among which paths are resolved.
struct Scopes {
    files: BTreeSet<ModulePath>,
    modules: BTreeSet<ModulePath>,
    imports: BTreeMap<ModulePath, BTreeMap<String, Vec<String>>>,
}

/// Everything that the modules name. A lower-case word on its own is left out: it is a variable.
pub fn names(sources: &BTreeMap<ModulePath, Source>) -> Vec<Name> {
    let mut mentions = vec![];
    let files: BTreeSet<_> = sources.keys().cloned().collect();
    let mut scopes = Scopes { modules: files.clone(), files, imports: BTreeMap::new() };
    for (path, source) in sources {
        scan(source.tokens.clone(), path, &mut mentions, &mut scopes.modules);
    }
    for Mention { scope, path, import, .. } in &mentions {
        if let Some(import) = import.as_ref().filter(|import| *import != "*") {
            scopes.imports.entry(scope.clone()).or_default().insert(import.clone(), path.clone());
        }
    }
    mentions.into_iter().map(|mention| scopes.name(mention)).collect()
}

impl Scopes {
    fn name(&self, mention: Mention) -> Name {
        let Mention { scope, path, line, import, is_exported, is_global } = mention;
        let of = self.file_of(&scope).expect("what is scanned is in a file");
        let path = if is_global { path } else { self.absolute(&scope, &path, import.is_some(), MAX_HOPS) };
        let module = self.file_of(&self.defined(path.clone(), MAX_HOPS));
        let is_beneath = module.as_ref().is_some_and(|module| module.starts_with(&of));
        Name { is_re_export: is_exported && is_beneath, of, line, path, module }
    }

    /// The path from its root, as far as the module itself says where it leads.
    fn absolute(&self, scope: &[String], path: &[String], is_import: bool, hops: usize) -> Vec<String> {
        let (first, rest) = path.split_first().expect("a path has a segment");
        let import = self.imports.get(scope).and_then(|imports| imports.get(first));
        match first.as_str() {
            "crate" => path.to_vec(),
            // The binary calls the library by its name.
            "lazaret" => [&["crate".to_owned()], rest].concat(),
            "self" if rest.is_empty() => scope.to_vec(),
            "self" => self.absolute(scope, rest, is_import, hops),
            "super" => {
                let parent = &scope[..scope.len().saturating_sub(1).max(1)];
                let is_above = rest.first().is_some_and(|next| next == "super");
                if is_above { self.absolute(parent, rest, is_import, hops) } else { [parent, rest].concat() }
            }
            _ if self.modules.contains(&[scope, std::slice::from_ref(first)].concat()) => [scope, path].concat(),
            _ => match import {
                // `use log::log` names the crate.
                Some(imported) if hops > 0 && !(is_import && imported.first() == Some(first)) => {
                    [&self.absolute(scope, imported, true, hops - 1), rest].concat()
                }
                _ => path.to_vec(),
            },
        }
    }

    /// The path of what a path from the root stands for, after every re-export on the way.
    fn defined(&self, path: Vec<String>, hops: usize) -> Vec<String> {
        for length in (1..path.len()).rev() {
            let (module, rest) = path.split_at(length);
            let Some(imported) = self.imports.get(module).and_then(|imports| imports.get(&rest[0])) else { continue };
            if hops > 0 && self.modules.contains(module) && !self.modules.contains(&path[..=length]) {
                let path = [&self.absolute(module, imported, true, hops), &rest[1..]].concat();
                return self.defined(path, hops - 1);
            }
        }
        path
    }

    /// The file that has what a path names.
    fn file_of(&self, path: &[String]) -> Option<ModulePath> {
        (1..=path.len()).rev().map(|length| &path[..length]).find(|path| self.files.contains(*path)).map(<[_]>::to_vec)
    }
}

/// Collects the paths in `tokens`, and the modules that are written out in them.
fn scan(tokens: TokenStream, scope: &ModulePath, mentions: &mut Vec<Mention>, modules: &mut BTreeSet<ModulePath>) {
    let tokens: Vec<_> = tokens.into_iter().collect();
    let mut at = 0;
    while at < tokens.len() {
        match &tokens[at..] {
            [TokenTree::Ident(word), TokenTree::Ident(name), TokenTree::Group(body), ..]
                if word == "mod" && body.delimiter() == Delimiter::Brace =>
            {
                let inner = [scope.clone(), vec![name.to_string()]].concat();
                modules.insert(inner.clone());
                scan(body.stream(), &inner, mentions, modules);
                at += 3;
            }
            // `pub(in crate::a)` says who may import, and imports nothing.
            [TokenTree::Ident(word), TokenTree::Group(group), ..] if word == "pub" && begins_with_in(group) => at += 2,
            [TokenTree::Ident(word), ..] if word == "use" => {
                let end = tokens[at..].iter().position(|token| is_punct(token, ';'));
                let length = end.map_or(1, |end| end + 1);
                // Where it does not parse it is the `use<…>` of a type.
                if let Ok(item) = syn::parse2::<ItemUse>(tokens[at..at + length].iter().cloned().collect()) {
                    let is_exported = is_public(&tokens[..at]);
                    let is_global = item.leading_colon.is_some();
                    let of_tree = imports(&item.tree, &mut vec![]).into_iter().map(|(path, import)| Mention {
                        scope: scope.clone(),
                        line: word.span().start().line,
                        path,
                        import: Some(import),
                        is_exported,
                        is_global,
                    });
                    mentions.extend(of_tree);
                    at += length;
                } else {
                    at += 1;
                }
            }
            [TokenTree::Ident(word), ..] => {
                let (path, length) = path_at(&tokens[at..]);
                let starts = Start::of(&tokens[..at]);
                let is_variable = path.len() == 1 && !path[0].starts_with(char::is_uppercase);
                if starts != Start::Within && !is_variable {
                    mentions.push(Mention {
                        scope: scope.clone(),
                        path,
                        line: word.span().start().line,
                        import: None,
                        is_exported: false,
                        is_global: starts == Start::Global,
                    });
                }
                at += length;
            }
            [TokenTree::Group(group), ..] => {
                scan(group.stream(), scope, mentions, modules);
                at += 1;
            }
            _ => at += 1,
        }
    }
}

/// How a path begins, by what is in front of it.
#[derive(Clone, Copy, PartialEq)]
enum Start {
    /// With its first segment.
    Plain,
    /// With `::`, and so with the name of a crate.
    Global,
    /// It does not: it is a field or a method, or goes on after a type in angle brackets.
    Within,
}

impl Start {
    fn of(before: &[TokenTree]) -> Self {
        match before {
            [.., first, second] if is_punct(first, '.') && is_punct(second, '.') => Self::Plain,
            [.., dot] if is_punct(dot, '.') => Self::Within,
            [.., last, first, second] if is_punct(first, ':') && is_punct(second, ':') => {
                if is_punct(last, '>') {
                    Self::Within
                } else {
                    Self::Global
                }
            }
            _ => Self::Plain,
        }
    }
}

/// The path that the tokens begin with, and how many of them it takes.
fn path_at(tokens: &[TokenTree]) -> (Vec<String>, usize) {
    let (mut path, mut at) = (vec![], 0);
    while let Some(TokenTree::Ident(word)) = tokens.get(at) {
        path.push(word.to_string());
        match &tokens[at + 1..] {
            [first, second, TokenTree::Ident(_), ..] if is_punct(first, ':') && is_punct(second, ':') => at += 3,
            _ => break,
        }
    }
    (path, at + 1)
}

/// The paths of a tree of imports, each with what it is called.
fn imports(tree: &UseTree, before: &mut Vec<String>) -> Vec<(Vec<String>, String)> {
    let with = |before: &[String], last: &syn::Ident| match last {
        // `use a::{self}` is `use a`.
        word if word == "self" && !before.is_empty() => before.to_vec(),
        word => [before, &[word.to_string()]].concat(),
    };
    match tree {
        UseTree::Path(path) => {
            before.push(path.ident.to_string());
            let inner = imports(&path.tree, before);
            before.pop();
            inner
        }
        UseTree::Name(name) => {
            let path = with(before, &name.ident);
            let import = path.last().expect("it has the name").clone();
            vec![(path, import)]
        }
        UseTree::Rename(rename) => vec![(with(before, &rename.ident), rename.rename.to_string())],
        UseTree::Glob(_) => vec![(before.clone(), "*".into())],
        UseTree::Group(group) => group.items.iter().flat_map(|tree| imports(tree, before)).collect(),
    }
}

fn is_punct(token: &TokenTree, expected: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == expected)
}

fn begins_with_in(group: &Group) -> bool {
    group.stream().into_iter().next().is_some_and(|token| matches!(token, TokenTree::Ident(word) if word == "in"))
}

/// Whether what follows is `pub`, to whomever.
fn is_public(before: &[TokenTree]) -> bool {
    let is_pub = |token: &TokenTree| matches!(token, TokenTree::Ident(word) if word == "pub");
    match before {
        [.., last] if is_pub(last) => true,
        [.., word, TokenTree::Group(group)] => is_pub(word) && group.delimiter() == Delimiter::Parenthesis,
        _ => false,
    }
}
