//! The compiler's frame: functions under construction, labels, slots.
//!
//! [`statements`](super::statements) and [`expressions`](super::expressions)
//! do the rest.

use core::sync::atomic::AtomicU8;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rustpython_parser::ast::{self, Ranged, Stmt};
use rustpython_parser::{Parse, text_size::TextRange};

use super::code::{CONST, Code, Handler, Op, Operand, Program, Slot, Target};
use super::error::{SourceError, position};
use super::names::Scope;
use crate::value::Value;
use crate::value::heap::Heap;

/// Slots that a function may have: operands are 15 bits, and frames small.
const MOST_SLOTS: u16 = 250;

pub(super) type Result<T> = core::result::Result<T, SourceError>;

/// A place in the code that jumps may lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Label(Target);

/// What a `break`, `continue` or `return` has to leave.
#[derive(Clone, Copy, Debug)]
pub(super) enum Enclosing {
    Loop {
        next: Label,
        end: Label,
    },
    /// A `with` block: the lock in this slot is to be released.
    With {
        lock: Slot,
    },
}

/// A function under construction.
pub(super) struct Function {
    pub(super) name: String,
    /// Slots by name; none at the program's own level.
    pub(super) locals: BTreeMap<String, Slot>,
    pub(super) globals: BTreeSet<String>,
    pub(super) is_module: bool,
    params: u16,
    ops: Vec<Op>,
    lines: Vec<u32>,
    consts: Vec<Value>,
    handlers: Vec<(Label, Label, Label, Slot)>,
    labels: Vec<Target>,
    sites: Vec<Target>,
    pub(super) enclosing: Vec<Enclosing>,
    pub(super) top: Slot,
    most: Slot,
    pub(super) line: u32,
}

/// The whole program under construction.
pub(super) struct Compiler<'s> {
    file: &'s str,
    text: &'s str,
    pub(super) codes: Vec<Option<Arc<Code>>>,
    pub(super) globals: Vec<String>,
    /// Names the program assigns at its own level or declares global.
    pub(super) known: BTreeSet<String>,
    pub(super) modules: BTreeSet<String>,
    pub(super) constants: Heap,
    pub(super) f: Function,
}

/// Compiles the program `text`; `file` is its name in errors.
pub(crate) fn compile(file: &str, text: &str) -> Result<Program> {
    let module = ast::ModModule::parse(text, file).map_err(|e| {
        let (line, column) = position(text, e.offset.into());
        SourceError { file: file.to_owned(), line, column, what: e.error.to_string() }
    })?;
    let mut compiler = Compiler {
        file,
        text,
        codes: vec![None],
        globals: Vec::new(),
        known: Scope::of(&module.body).assigned.into_iter().collect(),
        modules: BTreeSet::new(),
        constants: Heap::default(),
        f: Function::new("<module>", true),
    };
    compiler.declare_globals(&module.body);
    compiler.block(&module.body)?;
    let none = compiler.constant(Value::NONE)?;
    compiler.f.op(Op::Return { a: none });
    let code = core::mem::replace(&mut compiler.f, Function::new("", true)).finish();
    compiler.codes[0] = Some(Arc::new(code));
    Ok(Program {
        codes: compiler.codes.into_iter().flatten().collect(),
        globals: compiler.globals,
        _constants: compiler.constants,
    })
}

impl Function {
    pub(super) fn new(name: &str, is_module: bool) -> Self {
        Self {
            name: name.to_owned(),
            locals: BTreeMap::new(),
            globals: BTreeSet::new(),
            is_module,
            params: 0,
            ops: Vec::new(),
            lines: Vec::new(),
            consts: Vec::new(),
            handlers: Vec::new(),
            labels: Vec::new(),
            sites: vec![0],
            enclosing: Vec::new(),
            top: 0,
            most: 0,
            line: 1,
        }
    }

    /// Parameters and other locals, in this order.
    pub(super) fn declare(&mut self, params: &[String], scope: Scope) {
        self.params = params.len() as u16;
        for name in params.iter().cloned().chain(scope.assigned) {
            let next = self.locals.len() as Slot;
            self.locals.entry(name).or_insert(next);
        }
        self.globals = scope.globals;
        self.top = self.locals.len() as Slot;
        self.most = self.top;
    }

    pub(super) fn op(&mut self, op: Op) {
        self.ops.push(op);
        self.lines.push(self.line);
    }

    pub(super) fn label(&mut self) -> Label {
        self.labels.push(Target::MAX);
        Label(self.labels.len() as Target - 1)
    }

    /// The label is here.
    pub(super) fn place(&mut self, label: Label) {
        self.labels[label.0 as usize] = self.ops.len() as Target;
    }

    /// Jumps carry their labels until the end.
    pub(super) fn jump(&mut self, to: Label) {
        self.op(Op::Jump { t: to.0 });
    }

    pub(super) fn target(to: Label) -> Target {
        to.0
    }

    /// The head of a loop is here.
    pub(super) fn loop_head(&mut self) -> Label {
        let head = self.label();
        self.place(head);
        self.sites.push(self.ops.len() as Target);
        self.op(Op::Loop { site: self.sites.len() as u16 - 1 });
        head
    }

    /// Exceptions between the labels go to `target`, into `slot`.
    pub(super) fn handle(&mut self, start: Label, end: Label, target: Label, slot: Slot) {
        self.handlers.push((start, end, target, slot));
    }

    fn finish(mut self) -> Code {
        let place = |label: Label| self.labels[label.0 as usize];
        for op in &mut self.ops {
            if let Op::Jump { t }
            | Op::JumpIf { t, .. }
            | Op::CmpJump { t, .. }
            | Op::ForRange { t, .. }
            | Op::ForEach { t, .. } = op
            {
                *t = place(Label(*t));
            }
        }
        let handler = |&(start, end, target, slot): &(Label, Label, Label, Slot)| Handler {
            start: place(start),
            end: place(end),
            target: place(target),
            slot,
        };
        Code {
            handlers: self.handlers.iter().map(handler).collect(),
            name: self.name,
            params: self.params,
            locals: self.locals.len() as u16,
            slots: self.most,
            seen: self.ops.iter().map(|_| AtomicU8::new(0)).collect(),
            is_leaf: !self.ops.iter().any(|op| op.may_linger()),
            ops: self.ops,
            lines: self.lines,
            consts: self.consts,
            sites: self.sites,
        }
    }
}

impl Compiler<'_> {
    pub(super) fn error<T>(&self, at: TextRange, what: impl Into<String>) -> Result<T> {
        let (line, column) = position(self.text, at.start().into());
        Err(SourceError { file: self.file.to_owned(), line, column, what: what.into() })
    }

    /// Tells that the subset has no such thing.
    pub(super) fn no<T>(&self, at: &impl Ranged, what: &str) -> Result<T> {
        self.error(at.range(), format!("not in the subset: {what}"))
    }

    pub(super) fn at(&mut self, node: &impl Ranged) {
        self.f.line = position(self.text, node.range().start().into()).0 as u32;
    }

    /// Makes known what functions declare global, however deep.
    fn declare_globals(&mut self, body: &[Stmt]) {
        for stmt in body {
            if let Stmt::FunctionDef(function) = stmt {
                self.known.extend(Scope::of(&function.body).globals);
                self.declare_globals(&function.body);
            }
        }
    }

    /// A temporary slot; given back by setting `top` to what it was.
    pub(super) fn temp(&mut self, at: &impl Ranged) -> Result<Slot> {
        let slot = self.f.top;
        if slot >= MOST_SLOTS {
            return self.no(at, "functions with more than 250 names and intermediate results");
        }
        self.f.top += 1;
        self.f.most = self.f.most.max(self.f.top);
        Ok(slot)
    }

    pub(super) fn constant(&mut self, value: Value) -> Result<Operand> {
        let consts = &mut self.f.consts;
        let known = consts.iter().position(|known| known.is_same(value));
        let at = known.unwrap_or_else(|| {
            consts.push(value);
            consts.len() - 1
        });
        Ok(CONST | at as u16)
    }

    pub(super) fn constant_of(&self, operand: Operand) -> Option<Value> {
        (operand & CONST != 0).then(|| self.f.consts[(operand & !CONST) as usize])
    }

    pub(super) fn global(&mut self, name: &str) -> u16 {
        let known = self.globals.iter().position(|known| known == name);
        known.unwrap_or_else(|| {
            self.globals.push(name.to_owned());
            self.globals.len() - 1
        }) as u16
    }

    /// Compiles a function; returns its number.
    pub(super) fn function(&mut self, stmt: &ast::StmtFunctionDef) -> Result<u16> {
        let args = &stmt.args;
        let plain = args.posonlyargs.is_empty()
            && args.kwonlyargs.is_empty()
            && args.vararg.is_none()
            && args.kwarg.is_none()
            && args.args.iter().all(|arg| arg.default.is_none());
        if !plain {
            return self.no(stmt, "parameters other than positional ones without defaults");
        }
        if !stmt.decorator_list.is_empty() {
            return self.no(stmt, "decorators");
        }
        let params: Vec<String> = args.args.iter().map(|arg| arg.def.arg.to_string()).collect();
        let mut function = Function::new(&stmt.name, false);
        function.declare(&params, Scope::of(&stmt.body));
        if function.locals.len() >= usize::from(MOST_SLOTS) || params.len() > 32 {
            return self.no(stmt, "functions with so many names");
        }
        let outer = core::mem::replace(&mut self.f, function);
        let number = self.codes.len();
        self.codes.push(None);
        self.block(&stmt.body)?;
        let none = self.constant(Value::NONE)?;
        self.f.op(Op::Return { a: none });
        let code = core::mem::replace(&mut self.f, outer).finish();
        self.codes[number] = Some(Arc::new(code));
        Ok(number as u16)
    }
}
