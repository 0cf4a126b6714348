//! Walks over an expression: what it names, and how it selects fields.

use std::collections::BTreeSet;

use cel::common::ast::{CallExpr, EntryExpr, Expr, IdedExpr, LiteralValue, operators};
use cel::common::types::CelString;

use regex::RegexBuilder;

use super::ValueFields;

/// The most memory that a pattern may take: the interpreter compiles it for each record.
const PATTERN_BYTES: usize = 64 << 10;

/// The names in one expression. Variables that a macro binds (`value.items.exists(i, i > 0)`) are not among them.
#[derive(Debug, Default)]
pub(super) struct Survey {
    pub variables: BTreeSet<String>,
    pub functions: BTreeSet<String>,
    pub reads: ValueFields,
    /// Why it may cost too much, if it does.
    pub too_dear: Option<String>,
    bound: Vec<String>,
}

impl Survey {
    pub fn of(expression: &IdedExpr) -> Self {
        let mut survey = Self::default();
        survey.visit(expression);
        survey
    }

    fn visit(&mut self, node: &IdedExpr) {
        match &node.expr {
            Expr::Ident(name) => self.visit_variable(name, ValueFields::All),
            Expr::Select(select) => match &select.operand.expr {
                Expr::Ident(name) => {
                    self.visit_variable(name, ValueFields::Some(BTreeSet::from([select.field.clone()])));
                }
                _ => self.visit(&select.operand),
            },
            Expr::Call(call) => {
                // Operators are calls too; their names are symbols.
                if call.func_name.chars().all(|c| c.is_ascii_alphanumeric()) {
                    self.functions.insert(call.func_name.clone());
                }
                if call.func_name == "matches" {
                    self.visit_pattern(call.args.last());
                }
                call.target.iter().for_each(|target| self.visit(target));
                call.args.iter().for_each(|argument| self.visit(argument));
            }
            Expr::List(_) | Expr::Map(_) => parts(node).into_iter().for_each(|part| self.visit(part)),
            // There are no types to make objects of.
            Expr::Struct(object) => drop(self.functions.insert(object.type_name.clone())),
            Expr::Comprehension(comprehension) => {
                self.visit(&comprehension.iter_range);
                self.visit(&comprehension.accu_init);
                let outside = self.bound.len();
                if outside > 0 {
                    self.too_dear = Some("a list is gone through for each element of another one".to_owned());
                }
                self.bound.extend([comprehension.iter_var.clone(), comprehension.accu_var.clone()]);
                self.bound.extend(comprehension.iter_var2.clone());
                [&comprehension.loop_cond, &comprehension.loop_step, &comprehension.result]
                    .into_iter()
                    .for_each(|part| self.visit(part));
                self.bound.truncate(outside);
            }
            Expr::Literal(_) | Expr::Unspecified => {}
        }
    }

    fn visit_variable(&mut self, name: &str, reads: ValueFields) {
        if self.bound.iter().any(|bound| bound == name) {
            return;
        }
        self.variables.insert(name.to_owned());
        if name == "value" {
            self.reads.merge(&reads);
        }
    }

    /// A pattern that a record brings could be anything.
    fn visit_pattern(&mut self, pattern: Option<&IdedExpr>) {
        self.too_dear = match pattern.map(|pattern| &pattern.expr) {
            Some(Expr::Literal(LiteralValue::String(pattern))) => {
                match RegexBuilder::new(pattern.inner()).size_limit(PATTERN_BYTES).build() {
                    Ok(_) => return,
                    Err(error) => Some(error.to_string()),
                }
            }
            _ => Some("the pattern of `matches` has to be a text in quotes".to_owned()),
        };
    }
}

/// Whether its parts lie in each other deeper than that. Whatever else walks over an expression does so by recursion.
pub(super) fn is_deeper_than(limit: usize, expression: &IdedExpr) -> bool {
    let mut open = vec![(expression, 1)];
    while let Some((node, depth)) = open.pop() {
        if depth > limit {
            return true;
        }
        open.extend(parts(node).into_iter().map(|part| (part, depth + 1)));
    }
    false
}

fn parts(node: &IdedExpr) -> Vec<&IdedExpr> {
    match &node.expr {
        Expr::Select(select) => vec![&select.operand],
        Expr::Call(call) => call.target.iter().map(|target| &**target).chain(&call.args).collect(),
        Expr::List(list) => list.elements.iter().collect(),
        Expr::Map(map) => map.entries.iter().flat_map(|entry| entry_parts(&entry.expr)).collect(),
        Expr::Struct(object) => object.entries.iter().flat_map(|entry| entry_parts(&entry.expr)).collect(),
        Expr::Comprehension(c) => vec![&c.iter_range, &c.accu_init, &c.loop_cond, &c.loop_step, &c.result],
        Expr::Ident(_) | Expr::Literal(_) | Expr::Unspecified => vec![],
    }
}

fn entry_parts(entry: &EntryExpr) -> Vec<&IdedExpr> {
    match entry {
        EntryExpr::StructField(field) => vec![&field.value],
        EntryExpr::MapEntry(entry) => vec![&entry.key, &entry.value],
    }
}

/// Turns each `a.b` into `a["b"]`.
///
/// The interpreter answers `a.b` with `false` where `a` is no map, instead of with an error as the language says; a
/// record that lacks a field could then pass for one that has it. Indexing is strict. `has(a.b)` stays as it is.
pub(super) fn make_selection_strict(node: &mut IdedExpr) {
    match &mut node.expr {
        Expr::Select(select) => {
            make_selection_strict(&mut select.operand);
            if !select.test {
                let field = LiteralValue::String(CelString::from(select.field.clone()));
                let field = IdedExpr { id: node.id, expr: Expr::Literal(field) };
                let args = vec![std::mem::take(&mut *select.operand), field];
                node.expr = Expr::Call(CallExpr { func_name: operators::INDEX.to_owned(), target: None, args });
            }
        }
        Expr::Call(call) => {
            call.target.iter_mut().for_each(|target| make_selection_strict(target));
            call.args.iter_mut().for_each(make_selection_strict);
        }
        Expr::List(list) => list.elements.iter_mut().for_each(make_selection_strict),
        Expr::Map(map) => map.entries.iter_mut().for_each(|entry| match &mut entry.expr {
            EntryExpr::StructField(field) => make_selection_strict(&mut field.value),
            EntryExpr::MapEntry(entry) => {
                make_selection_strict(&mut entry.key);
                make_selection_strict(&mut entry.value);
            }
        }),
        Expr::Comprehension(c) => {
            [&mut c.iter_range, &mut c.accu_init, &mut c.loop_cond, &mut c.loop_step, &mut c.result]
                .into_iter()
                .for_each(make_selection_strict);
        }
        Expr::Ident(_) | Expr::Literal(_) | Expr::Struct(_) | Expr::Unspecified => {}
    }
}
