//! Expressions.

use rustpython_parser::ast::{self, Expr, Operator, Ranged};

use super::code::{BinOp, Builtin, CmpOp, Op, Operand, Slot, UnOp};
use super::compiler::{Compiler, Function, Label, Result};
use super::names;
use crate::value::Value;

impl Compiler<'_> {
    /// The slot of a local.
    pub(super) fn local(&self, name: &str) -> Option<Slot> {
        self.f.locals.get(name).copied()
    }

    fn slot(&mut self, at: &impl Ranged, want: Option<Slot>) -> Result<Slot> {
        match want {
            Some(slot) => Ok(slot),
            None => self.temp(at),
        }
    }

    /// Puts an operand where it is wanted.
    fn put(&mut self, a: Operand, want: Option<Slot>) -> Operand {
        match want {
            Some(d) if d != a => {
                self.f.op(Op::Move { d, a });
                d
            }
            _ => a,
        }
    }

    /// Evaluates into `want`, or into wherever it is.
    pub(super) fn expr(&mut self, e: &Expr, want: Option<Slot>) -> Result<Operand> {
        match e {
            Expr::Constant(c) => {
                let value = match &c.value {
                    ast::Constant::None => Value::NONE,
                    ast::Constant::Bool(b) => Value::bool(*b),
                    ast::Constant::Int(i) => match i64::try_from(i) {
                        Ok(i) => Value::int(i),
                        Err(_) => return self.no(e, "integers of more than 64 bits"),
                    },
                    ast::Constant::Float(x) => Value::float(*x),
                    ast::Constant::Str(s) => self.constants.str(s.clone()),
                    _ => return self.no(e, "this kind of constant"),
                };
                let a = self.constant(value)?;
                Ok(self.put(a, want))
            }
            Expr::Name(name) => self.name(name, want),
            Expr::BinOp(b) => {
                let op = self.operator(b, b.op)?;
                let top = self.f.top;
                let l = self.expr(&b.left, None)?;
                let r = self.expr(&b.right, None)?;
                self.f.top = top;
                let d = self.slot(e, want)?;
                self.f.op(Op::Bin { op, d, a: l, b: r });
                Ok(d)
            }
            Expr::UnaryOp(u) => self.unary(u, want),
            Expr::BoolOp(b) => {
                let d = self.slot(e, None)?;
                let end = self.f.label();
                for (at, value) in b.values.iter().enumerate() {
                    self.expr(value, Some(d))?;
                    if at + 1 < b.values.len() {
                        let when = b.op == ast::BoolOp::Or;
                        self.f.op(Op::JumpIf { when, a: d, t: Function::target(end) });
                    }
                }
                self.f.place(end);
                Ok(self.put(d, want))
            }
            Expr::Compare(c) if c.ops.len() == 1 => {
                let op = self.comparison(c, c.ops[0])?;
                let top = self.f.top;
                let l = self.expr(&c.left, None)?;
                let r = self.expr(&c.comparators[0], None)?;
                self.f.top = top;
                let d = self.slot(e, want)?;
                self.f.op(Op::Cmp { op, d, a: l, b: r });
                Ok(d)
            }
            Expr::Compare(_) => {
                let d = self.slot(e, None)?;
                let (no, end) = (self.f.label(), self.f.label());
                self.condition(e, no, false)?;
                let (yes_value, no_value) =
                    (self.constant(Value::bool(true))?, self.constant(Value::bool(false))?);
                self.f.op(Op::Move { d, a: yes_value });
                self.f.jump(end);
                self.f.place(no);
                self.f.op(Op::Move { d, a: no_value });
                self.f.place(end);
                Ok(self.put(d, want))
            }
            Expr::IfExp(i) => {
                let d = self.slot(e, None)?;
                let (other, end) = (self.f.label(), self.f.label());
                self.condition(&i.test, other, false)?;
                self.expr(&i.body, Some(d))?;
                self.f.jump(end);
                self.f.place(other);
                self.expr(&i.orelse, Some(d))?;
                self.f.place(end);
                Ok(self.put(d, want))
            }
            Expr::Subscript(s) => {
                if matches!(s.slice.as_ref(), Expr::Slice(_)) {
                    return self.no(e, "slices");
                }
                let top = self.f.top;
                let a = self.expr(&s.value, None)?;
                let b = self.expr(&s.slice, None)?;
                self.f.top = top;
                let d = self.slot(e, want)?;
                self.f.op(Op::Index { d, a, b });
                Ok(d)
            }
            Expr::List(list) => {
                let (base, n) = self.elements(e, &list.elts)?;
                let d = self.slot(e, want)?;
                self.f.op(Op::MakeList { d, base, n });
                Ok(d)
            }
            Expr::Tuple(tuple) => {
                let (base, n) = self.elements(e, &tuple.elts)?;
                let d = self.slot(e, want)?;
                self.f.op(Op::MakeTuple { d, base, n });
                Ok(d)
            }
            Expr::Call(call) => self.call(call, want),
            other => self.no(other, "this kind of expression"),
        }
    }

    fn name(&mut self, name: &ast::ExprName, want: Option<Slot>) -> Result<Operand> {
        if let Some(slot) = self.local(&name.id) {
            return Ok(self.put(slot, want));
        }
        if !self.known.contains(name.id.as_str()) {
            let what = if names::builtin(&name.id).is_some() {
                "built-in functions as values"
            } else if self.modules.contains(name.id.as_str()) {
                "modules as values"
            } else {
                "a name that nothing assigns"
            };
            return self.no(name, what);
        }
        let d = self.slot(name, want)?;
        let g = self.global(&name.id);
        self.f.op(Op::LoadGlobal { d, g });
        Ok(d)
    }

    fn unary(&mut self, u: &ast::ExprUnaryOp, want: Option<Slot>) -> Result<Operand> {
        let top = self.f.top;
        let a = self.expr(&u.operand, None)?;
        let folded = match (u.op, self.constant_of(a)) {
            (ast::UnaryOp::USub, Some(value)) => {
                let int = value.as_int().and_then(i64::checked_neg).map(Value::int);
                int.or(value.as_float().map(|x| Value::float(-x)))
            }
            _ => None,
        };
        if let Some(value) = folded {
            let a = self.constant(value)?;
            return Ok(self.put(a, want));
        }
        let op = match u.op {
            ast::UnaryOp::USub => UnOp::Neg,
            ast::UnaryOp::Not => UnOp::Not,
            ast::UnaryOp::Invert => UnOp::Invert,
            ast::UnaryOp::UAdd => return Ok(self.put(a, want)),
        };
        self.f.top = top;
        let d = self.slot(u, want)?;
        self.f.op(Op::Un { op, d, a });
        Ok(d)
    }

    /// Evaluates a condition and jumps if its truth is `when`.
    pub(super) fn condition(&mut self, e: &Expr, to: Label, when: bool) -> Result<()> {
        let top = self.f.top;
        match e {
            Expr::UnaryOp(u) if u.op == ast::UnaryOp::Not => {
                self.condition(&u.operand, to, !when)?;
            }
            // `and` jumps away when false, `or` when true; otherwise only the
            // last operand decides.
            Expr::BoolOp(b) => {
                let short = b.op == ast::BoolOp::Or;
                let skip = self.f.label();
                let (last, others) = (b.values.len() - 1, if short == when { to } else { skip });
                for value in &b.values[..last] {
                    self.condition(value, others, short)?;
                }
                self.condition(&b.values[last], to, when)?;
                self.f.place(skip);
            }
            Expr::Compare(c) => {
                let skip = self.f.label();
                let mut a = self.expr(&c.left, None)?;
                for (at, (op, right)) in c.ops.iter().zip(&c.comparators).enumerate() {
                    let op = self.comparison(c, *op)?;
                    let b = self.expr(right, None)?;
                    let is_last = at + 1 == c.ops.len();
                    let (when, to) = match (is_last, when) {
                        (true, when) => (when, to),
                        (false, false) => (false, to),
                        (false, true) => (false, skip),
                    };
                    self.f.op(Op::CmpJump { op, when, a, b, t: Function::target(to) });
                    a = b;
                }
                self.f.place(skip);
            }
            _ => {
                let a = self.expr(e, None)?;
                self.f.op(Op::JumpIf { when, a, t: Function::target(to) });
            }
        }
        self.f.top = top;
        Ok(())
    }

    /// Evaluates into slots side by side.
    fn elements(&mut self, at: &impl Ranged, elements: &[Expr]) -> Result<(Slot, u16)> {
        let base = self.f.top;
        for e in elements {
            let d = self.temp(at)?;
            self.expr(e, Some(d))?;
            self.f.top = d + 1;
        }
        Ok((base, elements.len() as u16))
    }

    /// The arguments of a call of `range`.
    pub(super) fn range_of<'e>(&self, e: &'e Expr) -> Option<&'e [Expr]> {
        let Expr::Call(call) = e else { return None };
        let Expr::Name(name) = call.func.as_ref() else { return None };
        let is_builtin = self.local(&name.id).is_none() && !self.known.contains("range");
        (name.id.as_str() == "range" && is_builtin && call.keywords.is_empty())
            .then_some(call.args.as_slice())
    }

    fn call(&mut self, call: &ast::ExprCall, want: Option<Slot>) -> Result<Operand> {
        if call.args.len() > 32 {
            return self.no(call, "so many arguments");
        }
        let top = self.f.top;
        let builtin = match call.func.as_ref() {
            Expr::Name(name)
                if self.local(&name.id).is_none() && !self.known.contains(name.id.as_str()) =>
            {
                match names::builtin(&name.id) {
                    Some(builtin) => Some(builtin),
                    None => return self.no(name, "this built-in function"),
                }
            }
            Expr::Attribute(attribute) => match attribute.value.as_ref() {
                Expr::Name(module) if self.modules.contains(module.id.as_str()) => {
                    match names::of_module(&module.id, &attribute.attr) {
                        Some(builtin) => Some(builtin),
                        None => return self.no(attribute, "this function of a module"),
                    }
                }
                _ => None,
            },
            _ => None,
        };
        if builtin == Some(Builtin::Thread) {
            return self.thread(call, want);
        }
        if !call.keywords.is_empty() {
            return self.no(call, "keyword arguments");
        }
        if let Some(f) = builtin {
            let (base, n) = self.elements(call, &call.args)?;
            self.f.top = top;
            let d = self.slot(call, want)?;
            self.at(call);
            self.f.op(Op::CallBuiltin { d, f, base, n: n as u8 });
            return Ok(d);
        }
        match call.func.as_ref() {
            Expr::Attribute(attribute) => {
                let Some(f) = names::method(&attribute.attr) else {
                    return self.no(attribute, "this attribute");
                };
                let a = self.expr(&attribute.value, None)?;
                let (base, n) = self.elements(call, &call.args)?;
                self.f.top = top;
                let d = self.slot(call, want)?;
                self.f.op(Op::CallMethod { d, f, a, base, n: n as u8 });
                Ok(d)
            }
            Expr::Name(name) if self.local(&name.id).is_none() => {
                let g = self.global(&name.id);
                let (base, n) = self.elements(call, &call.args)?;
                self.f.top = top;
                let d = self.slot(call, want)?;
                self.at(call);
                self.f.op(Op::CallGlobal { d, g, base, n: n as u8 });
                Ok(d)
            }
            callee => {
                let f = self.temp(call)?;
                self.expr(callee, Some(f))?;
                let (base, n) = self.elements(call, &call.args)?;
                self.f.top = top;
                let d = self.slot(call, want)?;
                self.at(call);
                self.f.op(Op::Call { d, f, base, n: n as u8 });
                Ok(d)
            }
        }
    }

    /// `threading.Thread(target=f, args=(…))`.
    fn thread(&mut self, call: &ast::ExprCall, want: Option<Slot>) -> Result<Operand> {
        let keyword = |name: &str| {
            call.keywords.iter().find(|k| k.arg.as_ref().is_some_and(|arg| arg.as_str() == name))
        };
        let (target, args) = (keyword("target"), keyword("args"));
        let known = usize::from(target.is_some()) + usize::from(args.is_some());
        let (Some(target), true) = (target, call.args.is_empty() && known == call.keywords.len())
        else {
            return self.no(call, "threads other than Thread(target=…, args=(…))");
        };
        let top = self.f.top;
        let base = self.temp(call)?;
        self.expr(&target.value, Some(base))?;
        let tuple = self.temp(call)?;
        match args {
            Some(args) => drop(self.expr(&args.value, Some(tuple))?),
            None => self.f.op(Op::MakeTuple { d: tuple, base: tuple, n: 0 }),
        }
        self.f.top = top;
        let d = self.slot(call, want)?;
        self.f.op(Op::CallBuiltin { d, f: Builtin::Thread, base, n: 2 });
        Ok(d)
    }

    pub(super) fn operator(&self, at: &impl Ranged, op: Operator) -> Result<BinOp> {
        Ok(match op {
            Operator::Add => BinOp::Add,
            Operator::Sub => BinOp::Sub,
            Operator::Mult => BinOp::Mul,
            Operator::Div => BinOp::Div,
            Operator::FloorDiv => BinOp::FloorDiv,
            Operator::Mod => BinOp::Mod,
            Operator::Pow => BinOp::Pow,
            Operator::BitAnd => BinOp::And,
            Operator::BitOr => BinOp::Or,
            Operator::BitXor => BinOp::Xor,
            Operator::LShift => BinOp::Shl,
            Operator::RShift => BinOp::Shr,
            Operator::MatMult => return self.no(at, "`@`"),
        })
    }

    fn comparison(&self, at: &impl Ranged, op: ast::CmpOp) -> Result<CmpOp> {
        Ok(match op {
            ast::CmpOp::Lt => CmpOp::Lt,
            ast::CmpOp::LtE => CmpOp::Le,
            ast::CmpOp::Gt => CmpOp::Gt,
            ast::CmpOp::GtE => CmpOp::Ge,
            ast::CmpOp::Eq => CmpOp::Eq,
            ast::CmpOp::NotEq => CmpOp::Ne,
            ast::CmpOp::Is => CmpOp::Is,
            ast::CmpOp::IsNot => CmpOp::IsNot,
            _ => return self.no(at, "`in`"),
        })
    }
}
