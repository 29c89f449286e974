//! Statements.

use rustpython_parser::ast::{self, ExceptHandler, Expr, Stmt};

use super::code::{Method, Op, Operand};
use super::compiler::{Compiler, Enclosing, Function, Result};
use super::names;
use crate::value::{ExcKind, Value};

impl Compiler<'_> {
    pub(super) fn block(&mut self, body: &[Stmt]) -> Result<()> {
        body.iter().try_for_each(|stmt| {
            self.at(stmt);
            let top = self.f.top;
            self.stmt(stmt)?;
            self.f.top = top;
            Ok(())
        })
    }

    fn stmt(&mut self, stmt: &Stmt) -> Result<()> {
        match stmt {
            Stmt::FunctionDef(s) => {
                if !self.f.is_module && !self.f.globals.contains(s.name.as_str()) {
                    return self.no(s, "functions inside functions, but for a `global` name");
                }
                let code = self.function(s)?;
                let d = self.temp(s)?;
                self.f.op(Op::MakeFunction { d, code });
                let g = self.global(&s.name);
                self.f.op(Op::StoreGlobal { g, a: d });
                Ok(())
            }
            Stmt::Return(s) => {
                if self.f.is_module {
                    return self.error(s.range, "'return' outside function");
                }
                let a = match &s.value {
                    Some(value) => self.expr(value, None)?,
                    None => self.constant(Value::NONE)?,
                };
                self.leave(s, |_| true)?;
                self.f.op(Op::Return { a });
                Ok(())
            }
            Stmt::Assign(s) => match s.targets.as_slice() {
                [Expr::Name(name)] if self.local(&name.id).is_some() => {
                    let d = self.local(&name.id);
                    self.expr(&s.value, d).map(drop)
                }
                [Expr::Tuple(to)] => match s.value.as_ref() {
                    Expr::Tuple(from) if from.elts.len() == to.elts.len() => {
                        let mut values = Vec::new();
                        for e in &from.elts {
                            let d = self.temp(s)?;
                            values.push(self.expr(e, Some(d))?);
                        }
                        to.elts.iter().zip(values).try_for_each(|(t, v)| self.store(t, v))
                    }
                    value => {
                        let a = self.expr(value, None)?;
                        self.unpack(to, a)
                    }
                },
                targets => {
                    let value = self.expr(&s.value, None)?;
                    targets.iter().try_for_each(|target| self.store(target, value))
                }
            },
            Stmt::AugAssign(s) => self.aug_assign(s),
            Stmt::For(s) => self.for_loop(s),
            Stmt::While(s) => {
                if !s.orelse.is_empty() {
                    return self.no(s, "`else` of a loop");
                }
                let next = self.f.loop_head();
                let end = self.f.label();
                self.condition(&s.test, end, false)?;
                self.f.enclosing.push(Enclosing::Loop { next, end });
                self.block(&s.body)?;
                self.f.enclosing.pop();
                self.f.jump(next);
                self.f.place(end);
                Ok(())
            }
            Stmt::If(s) => {
                let (other, end) = (self.f.label(), self.f.label());
                self.condition(&s.test, other, false)?;
                self.block(&s.body)?;
                if !s.orelse.is_empty() {
                    self.f.jump(end);
                }
                self.f.place(other);
                self.block(&s.orelse)?;
                self.f.place(end);
                Ok(())
            }
            Stmt::With(s) => self.with(s),
            Stmt::Raise(s) => self.raise(s),
            Stmt::Try(s) => self.try_except(s),
            Stmt::Import(s) => s.names.iter().try_for_each(|alias| {
                if !self.f.is_module || alias.asname.is_some() || !names::is_module(&alias.name) {
                    return self.no(s, "imports other than of math, threading and time");
                }
                self.modules.insert(alias.name.to_string());
                Ok(())
            }),
            Stmt::Expr(s) => self.expr(&s.value, None).map(drop),
            Stmt::Global(_) | Stmt::Pass(_) => Ok(()),
            Stmt::Break(s) => self.jump_out(s, true),
            Stmt::Continue(s) => self.jump_out(s, false),
            other => self.no(other, "this kind of statement"),
        }
    }

    /// Releases the locks of `with` blocks from the innermost out, as long as
    /// `all`, or up to the innermost loop.
    fn leave(
        &mut self,
        at: &impl ast::Ranged,
        past: impl Fn(Enclosing) -> bool,
    ) -> Result<Option<Enclosing>> {
        for at_depth in (0..self.f.enclosing.len()).rev() {
            let enclosing = self.f.enclosing[at_depth];
            if !past(enclosing) {
                return Ok(Some(enclosing));
            }
            if let Enclosing::With { lock } = enclosing {
                let d = self.temp(at)?;
                let f = Method::Release;
                self.f.op(Op::CallMethod { d, f, a: lock, base: d, n: 0 });
            }
        }
        Ok(None)
    }

    fn jump_out(&mut self, at: &impl ast::Ranged, to_end: bool) -> Result<()> {
        match self.leave(at, |e| matches!(e, Enclosing::With { .. }))? {
            Some(Enclosing::Loop { next, end }) => {
                self.f.jump(if to_end { end } else { next });
                Ok(())
            }
            _ => self.error(at.range(), "'break' or 'continue' outside loop"),
        }
    }

    fn aug_assign(&mut self, s: &ast::StmtAugAssign) -> Result<()> {
        let op = self.operator(s, s.op)?;
        match s.target.as_ref() {
            Expr::Name(name) => {
                let a = self.expr(&s.target, None)?;
                let b = self.expr(&s.value, None)?;
                let d = match self.local(&name.id) {
                    Some(local) => local,
                    None => self.temp(s)?,
                };
                self.f.op(Op::Bin { op, d, a, b });
                if self.local(&name.id).is_none() { self.store(&s.target, d) } else { Ok(()) }
            }
            Expr::Subscript(target) => {
                let of = self.expr(&target.value, None)?;
                let index = self.expr(&target.slice, None)?;
                let d = self.temp(s)?;
                self.f.op(Op::Index { d, a: of, b: index });
                let b = self.expr(&s.value, None)?;
                self.f.op(Op::Bin { op, d, a: d, b });
                self.f.op(Op::StoreIndex { a: of, b: index, v: d });
                Ok(())
            }
            other => self.no(other, "assignment to this"),
        }
    }

    pub(super) fn store(&mut self, target: &Expr, a: Operand) -> Result<()> {
        match target {
            Expr::Name(name) => {
                if let Some(d) = self.local(&name.id) {
                    if d != a {
                        self.f.op(Op::Move { d, a });
                    }
                } else {
                    let g = self.global(&name.id);
                    self.f.op(Op::StoreGlobal { g, a });
                }
                Ok(())
            }
            Expr::Subscript(target) => {
                let of = self.expr(&target.value, None)?;
                let index = self.expr(&target.slice, None)?;
                self.f.op(Op::StoreIndex { a: of, b: index, v: a });
                Ok(())
            }
            Expr::Tuple(to) => self.unpack(to, a),
            other => self.no(other, "assignment to this"),
        }
    }

    fn unpack(&mut self, to: &ast::ExprTuple, a: Operand) -> Result<()> {
        let n = to.elts.len();
        if n > 32 {
            return self.no(to, "unpacking so many");
        }
        let base = self.f.top;
        for _ in 0..n {
            self.temp(to)?;
        }
        self.f.op(Op::Unpack { a, base, n: n as u8 });
        to.elts.iter().zip(base..).try_for_each(|(target, slot)| self.store(target, slot))
    }

    fn for_loop(&mut self, s: &ast::StmtFor) -> Result<()> {
        if !s.orelse.is_empty() {
            return self.no(s, "`else` of a loop");
        }
        let end = self.f.label();
        let i = self.temp(s)?;
        let name = match s.target.as_ref() {
            Expr::Name(name) => self.local(&name.id),
            _ => None,
        };
        let var = match name {
            Some(local) => local,
            None => self.temp(s)?,
        };
        let next;
        match self.range_of(&s.iter) {
            Some(args) => {
                let (start, stop, step) = self.range(s, args)?;
                let held = self.temp(s)?;
                let stop = if self.constant_of(stop).is_some() {
                    stop
                } else {
                    self.f.op(Op::Move { d: held, a: stop });
                    held
                };
                self.f.op(Op::Move { d: i, a: start });
                next = self.f.loop_head();
                self.f.op(Op::ForRange { i, stop, step, var, t: Function::target(end) });
            }
            None => {
                let of = self.temp(s)?;
                self.expr(&s.iter, Some(of))?;
                let zero = self.constant(Value::int(0))?;
                self.f.op(Op::Move { d: i, a: zero });
                next = self.f.loop_head();
                self.f.op(Op::ForEach { i, of, var, t: Function::target(end) });
            }
        }
        if name.is_none() {
            self.store(&s.target, var)?;
        }
        self.f.enclosing.push(Enclosing::Loop { next, end });
        self.block(&s.body)?;
        self.f.enclosing.pop();
        self.f.jump(next);
        self.f.place(end);
        Ok(())
    }

    /// Start, stop and step of a range in a `for`.
    fn range(&mut self, s: &ast::StmtFor, args: &[Expr]) -> Result<(Operand, Operand, i16)> {
        let zero = self.constant(Value::int(0))?;
        let one = self.constant(Value::int(1))?;
        let (start, stop, step) = match args {
            [stop] => (zero, self.expr(stop, None)?, one),
            [start, stop] => (self.expr(start, None)?, self.expr(stop, None)?, one),
            [start, stop, step] => {
                (self.expr(start, None)?, self.expr(stop, None)?, self.expr(step, None)?)
            }
            _ => return self.error(s.range, "range takes one to three arguments"),
        };
        let step = self.constant_of(step).and_then(Value::as_int);
        match step.and_then(|step| i16::try_from(step).ok()) {
            Some(step) if step != 0 => Ok((start, stop, step)),
            _ => self.no(s, "a step that is no small constant"),
        }
    }

    fn with(&mut self, s: &ast::StmtWith) -> Result<()> {
        let [item] = s.items.as_slice() else { return self.no(s, "several items in a `with`") };
        if item.optional_vars.is_some() {
            return self.no(s, "`with … as`");
        }
        let lock = self.temp(s)?;
        self.expr(&item.context_expr, Some(lock))?;
        let d = self.temp(s)?;
        let exception = self.temp(s)?;
        let [start, end, handler, after] = [(); 4].map(|()| self.f.label());
        self.f.op(Op::CallMethod { d, f: Method::Acquire, a: lock, base: d, n: 0 });
        self.f.place(start);
        self.f.enclosing.push(Enclosing::With { lock });
        self.block(&s.body)?;
        self.f.enclosing.pop();
        self.f.place(end);
        self.f.op(Op::CallMethod { d, f: Method::Release, a: lock, base: d, n: 0 });
        self.f.jump(after);
        self.f.place(handler);
        self.f.op(Op::CallMethod { d, f: Method::Release, a: lock, base: d, n: 0 });
        self.f.op(Op::Reraise { a: exception });
        self.f.place(after);
        self.f.handle(start, end, handler, exception);
        Ok(())
    }

    fn raise(&mut self, s: &ast::StmtRaise) -> Result<()> {
        if s.cause.is_some() {
            return self.no(s, "`raise … from`");
        }
        let none = self.constant(Value::NONE)?;
        let (kind, a) = match s.exc.as_deref() {
            Some(Expr::Name(name)) => (names::exception(&name.id), none),
            Some(Expr::Call(call)) if call.keywords.is_empty() => {
                let kind = match call.func.as_ref() {
                    Expr::Name(name) => names::exception(&name.id),
                    _ => None,
                };
                match call.args.as_slice() {
                    [] => (kind, none),
                    [message] => (kind, self.expr(message, None)?),
                    _ => (None, none),
                }
            }
            _ => (None, none),
        };
        let Some(kind) = kind else {
            return self.no(s, "raising anything but a built-in exception with one message");
        };
        self.f.op(Op::Raise { kind, a });
        Ok(())
    }

    fn try_except(&mut self, s: &ast::StmtTry) -> Result<()> {
        if !s.finalbody.is_empty() || !s.orelse.is_empty() {
            return self.no(s, "`finally`, and `else` of a `try`");
        }
        let exception = self.temp(s)?;
        let [start, end, target, after] = [(); 4].map(|()| self.f.label());
        self.f.place(start);
        self.block(&s.body)?;
        self.f.place(end);
        self.f.jump(after);
        self.f.place(target);
        for ExceptHandler::ExceptHandler(handler) in &s.handlers {
            let kind = match handler.type_.as_deref() {
                None => Some(ExcKind::Exception),
                Some(Expr::Name(name)) => names::exception(&name.id),
                Some(_) => None,
            };
            let Some(kind) = kind else {
                return self.no(handler, "handling anything but one built-in exception");
            };
            let next = self.f.label();
            let d = self.temp(s)?;
            self.f.op(Op::IsKind { d, a: exception, kind });
            self.f.op(Op::JumpIf { when: false, a: d, t: Function::target(next) });
            if let Some(name) = &handler.name {
                match self.local(name) {
                    Some(local) => self.f.op(Op::Move { d: local, a: exception }),
                    None => {
                        let g = self.global(name);
                        self.f.op(Op::StoreGlobal { g, a: exception });
                    }
                }
            }
            self.block(&handler.body)?;
            self.f.jump(after);
            self.f.place(next);
        }
        self.f.op(Op::Reraise { a: exception });
        self.f.place(after);
        self.f.handle(start, end, target, exception);
        Ok(())
    }
}
