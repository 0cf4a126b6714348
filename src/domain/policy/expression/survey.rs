//! Walks over an expression: what it names, and how deep it is.

use std::collections::BTreeSet;

use cel::common::ast::{EntryExpr, Expr, IdedExpr};

use super::ValueFields;

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
