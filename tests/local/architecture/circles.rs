//! Which modules import one another in a circle.
//!
//! In each folder, its own file (`a.rs`) and its entries (each file, and each folder with all that is beneath it) are one
//! graph, and that has no circle. A circle of files anywhere is one in the folder that has them all, and so is a circle of
//! folders whose files make none.
//!
//! Two things are no imports here. That a file re-exports what is beneath it: whoever uses that imports the file that has
//! it. And that a file uses what its parent has: Rust shows a parent's private items to its children, so the two are one
//! module in two files. It holds for the direct parent alone: what is further up, or beside it, is another module.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::names::Name;
use super::source::ModulePath;

/// An import from one entry of a folder to another one.
pub type Import = (String, String);

/// Where an import is written.
pub type Imports = BTreeMap<Import, BTreeSet<String>>;

/// The imports between the entries of each folder, with their lines.
pub fn imports(names: &[Name]) -> Vec<Imports> {
    let mut folders: BTreeMap<ModulePath, Imports> = BTreeMap::new();
    for Name { of, line, module, is_re_export, path } in names {
        let Some(to) = module.as_ref().filter(|to| *to != of && !is_re_export) else { continue };
        if of[..of.len() - 1] == to[..] {
            continue;
        }
        let common = of.iter().zip(to).take_while(|(a, b)| a == b).count();
        // The root is a map of the rooms and no room itself.
        if common == 0 || to.len() == 1 {
            continue;
        }
        let entry = |path: &ModulePath| path[1..path.len().min(common + 1)].join("/");
        let place = format!("{}:{line} ({})", of[1..].join("/"), path.join("::"));
        let imports = folders.entry(of[..common].to_vec()).or_default();
        imports.entry((entry(of), entry(to))).or_default().insert(place);
    }
    folders.into_values().collect()
}

/// The shortest circle among the imports, from its first entry back to that; `None` if there is none.
pub fn circle(imports: &Imports) -> Option<Vec<String>> {
    let mut targets: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (from, to) in imports.keys() {
        targets.entry(from).or_default().push(to);
    }
    let circles = targets.keys().filter_map(|start| back_to(start, &targets));
    circles.min_by_key(Vec::len)
}

/// The shortest way from `start` back to it.
fn back_to(start: &str, targets: &BTreeMap<&str, Vec<&str>>) -> Option<Vec<String>> {
    let mut ways = VecDeque::from([vec![start]]);
    let mut seen = BTreeSet::new();
    while let Some(way) = ways.pop_front() {
        let last = way.last().expect("a way has its start");
        for next in targets.get(last).into_iter().flatten() {
            let way = [way.as_slice(), &[*next]].concat();
            if *next == start {
                return Some(way.into_iter().map(str::to_owned).collect());
            }
            if seen.insert(*next) {
                ways.push_back(way);
            }
        }
    }
    None
}
