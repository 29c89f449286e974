//! What names mean: which of a function are local, and which the language has.

use std::collections::BTreeSet;

use rustpython_parser::ast::{ExceptHandler, Expr, Stmt};

use super::code::{Builtin, Method};
use crate::value::ExcKind;

/// Names that a function assigns, and names it declares global.
#[derive(Debug, Default)]
pub(super) struct Scope {
    pub(super) assigned: Vec<String>,
    pub(super) globals: BTreeSet<String>,
}

impl Scope {
    pub(super) fn of(body: &[Stmt]) -> Self {
        let mut scope = Self::default();
        scope.block(body);
        let globals = &scope.globals;
        scope.assigned.retain(|name| !globals.contains(name));
        scope
    }

    fn assign(&mut self, name: &str) {
        if !self.assigned.iter().any(|known| known == name) {
            self.assigned.push(name.to_owned());
        }
    }

    fn target(&mut self, target: &Expr) {
        match target {
            Expr::Name(name) => self.assign(&name.id),
            Expr::Tuple(tuple) => tuple.elts.iter().for_each(|e| self.target(e)),
            Expr::List(list) => list.elts.iter().for_each(|e| self.target(e)),
            _ => {}
        }
    }

    fn block(&mut self, body: &[Stmt]) {
        for stmt in body {
            match stmt {
                Stmt::Assign(s) => s.targets.iter().for_each(|t| self.target(t)),
                Stmt::AugAssign(s) => self.target(&s.target),
                Stmt::For(s) => {
                    self.target(&s.target);
                    self.block(&s.body);
                }
                Stmt::While(s) => self.block(&s.body),
                Stmt::If(s) => {
                    self.block(&s.body);
                    self.block(&s.orelse);
                }
                Stmt::With(s) => self.block(&s.body),
                Stmt::Try(s) => {
                    self.block(&s.body);
                    for ExceptHandler::ExceptHandler(handler) in &s.handlers {
                        if let Some(name) = &handler.name {
                            self.assign(name);
                        }
                        self.block(&handler.body);
                    }
                }
                Stmt::Global(s) => self.globals.extend(s.names.iter().map(|n| n.to_string())),
                Stmt::FunctionDef(s) => self.assign(&s.name),
                _ => {}
            }
        }
    }
}

pub(super) fn builtin(name: &str) -> Option<Builtin> {
    Some(match name {
        "abs" => Builtin::Abs,
        "bool" => Builtin::Bool,
        "float" => Builtin::Float,
        "int" => Builtin::Int,
        "len" => Builtin::Len,
        "list" => Builtin::List,
        "max" => Builtin::Max,
        "min" => Builtin::Min,
        "print" => Builtin::Print,
        "range" => Builtin::Range,
        "str" => Builtin::Str,
        "sum" => Builtin::Sum,
        _ => return None,
    })
}

/// A function of one of the modules that there are.
pub(super) fn of_module(module: &str, name: &str) -> Option<Builtin> {
    Some(match (module, name) {
        ("math", "sqrt") => Builtin::Sqrt,
        ("time", "sleep") => Builtin::Sleep,
        ("threading", "Lock") => Builtin::Lock,
        ("threading", "Thread") => Builtin::Thread,
        _ => return None,
    })
}

pub(super) fn is_module(name: &str) -> bool {
    matches!(name, "math" | "time" | "threading")
}

pub(super) fn method(name: &str) -> Option<Method> {
    Some(match name {
        "acquire" => Method::Acquire,
        "append" => Method::Append,
        "join" => Method::Join,
        "pop" => Method::Pop,
        "release" => Method::Release,
        "start" => Method::Start,
        _ => return None,
    })
}

pub(super) fn exception(name: &str) -> Option<ExcKind> {
    ExcKind::ALL.into_iter().find(|kind| kind.name() == name)
}
