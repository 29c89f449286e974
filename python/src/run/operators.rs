//! Operators on values.

use crate::syntax::code::{BinOp, CmpOp, UnOp};
use crate::value::{ExcKind, Value, tag, type_error};

pub(crate) type Raised = (ExcKind, String);

fn overflow() -> Raised {
    (ExcKind::OverflowError, "integer result does not fit 64 bits".to_owned())
}

fn by_zero(what: &str) -> Raised {
    (ExcKind::ZeroDivisionError, what.to_owned())
}

/// Ints that every float tells apart from their neighbours.
const EXACT: i64 = 1 << 53;

fn exact(i: i64) -> Result<f64, Raised> {
    if (-EXACT..=EXACT).contains(&i) {
        Ok(i as f64)
    } else {
        Err((ExcKind::OverflowError, "integer too large for a division to a float".to_owned()))
    }
}

/// The quotient of ints, rounded down.
fn floor_div(a: i64, b: i64) -> Result<i64, Raised> {
    if b == 0 {
        return Err(by_zero("integer division or modulo by zero"));
    }
    let quotient = a.checked_div(b).ok_or_else(overflow)?;
    Ok(if a % b != 0 && (a < 0) != (b < 0) { quotient - 1 } else { quotient })
}

fn modulo(a: i64, b: i64) -> Result<i64, Raised> {
    if b == 0 {
        return Err(by_zero("integer modulo by zero"));
    }
    let rest = a.wrapping_rem(b);
    Ok(if rest != 0 && (rest < 0) != (b < 0) { rest + b } else { rest })
}

fn power(a: i64, b: i64) -> Result<Value, Raised> {
    if let Ok(exponent) = u32::try_from(b) {
        return a.checked_pow(exponent).map(Value::int).ok_or_else(overflow);
    }
    if b < 0 {
        return float_bin(BinOp::Pow, a as f64, b as f64);
    }
    match a {
        0 | 1 => Ok(Value::int(a)),
        -1 => Ok(Value::int(if b % 2 == 0 { 1 } else { -1 })),
        _ => Err(overflow()),
    }
}

fn shift(op: BinOp, a: i64, b: i64) -> Result<i64, Raised> {
    if b < 0 {
        return Err((ExcKind::ValueError, "negative shift count".to_owned()));
    }
    if op == BinOp::Shr {
        return Ok(a >> b.min(63));
    }
    let shifted = if b < 64 { a << b } else { 0 };
    if a == 0 || (b < 64 && shifted >> b == a) { Ok(shifted) } else { Err(overflow()) }
}

fn int_bin(op: BinOp, a: i64, b: i64) -> Result<Value, Raised> {
    let result = match op {
        BinOp::Add => a.checked_add(b).ok_or_else(overflow)?,
        BinOp::Sub => a.checked_sub(b).ok_or_else(overflow)?,
        BinOp::Mul => a.checked_mul(b).ok_or_else(overflow)?,
        BinOp::FloorDiv => floor_div(a, b)?,
        BinOp::Mod => modulo(a, b)?,
        BinOp::And => a & b,
        BinOp::Or => a | b,
        BinOp::Xor => a ^ b,
        BinOp::Shl | BinOp::Shr => shift(op, a, b)?,
        BinOp::Pow => return power(a, b),
        BinOp::Div => {
            if b == 0 {
                return Err(by_zero("division by zero"));
            }
            return Ok(Value::float(exact(a)? / exact(b)?));
        }
    };
    Ok(Value::int(result))
}

/// As CPython computes it: the remainder has the sign of `b`.
fn float_mod(a: f64, b: f64) -> f64 {
    let rest = a % b;
    if rest == 0.0 {
        0.0_f64.copysign(b)
    } else if (rest < 0.0) != (b < 0.0) {
        rest + b
    } else {
        rest
    }
}

fn float_floor_div(a: f64, b: f64) -> f64 {
    let rest = a % b;
    let mut quotient = (a - rest) / b;
    if rest != 0.0 && (rest < 0.0) != (b < 0.0) {
        quotient -= 1.0;
    }
    if quotient == 0.0 {
        return 0.0_f64.copysign(a / b);
    }
    let floor = quotient.floor();
    if quotient - floor > 0.5 { floor + 1.0 } else { floor }
}

fn float_bin(op: BinOp, a: f64, b: f64) -> Result<Value, Raised> {
    if b == 0.0 && matches!(op, BinOp::Div | BinOp::FloorDiv | BinOp::Mod) {
        return Err(by_zero("float division by zero"));
    }
    let result = match op {
        BinOp::Add => a + b,
        BinOp::Sub => a - b,
        BinOp::Mul => a * b,
        BinOp::Div => a / b,
        BinOp::FloorDiv => float_floor_div(a, b),
        BinOp::Mod => float_mod(a, b),
        BinOp::Pow if a == 0.0 && b < 0.0 => {
            return Err(by_zero("0.0 cannot be raised to a negative power"));
        }
        BinOp::Pow if a < 0.0 && b.fract() != 0.0 => {
            return Err((ExcKind::ValueError, "complex numbers are not in the subset".to_owned()));
        }
        BinOp::Pow => {
            let power = a.powf(b);
            if power.is_infinite() && a.is_finite() && b.is_finite() {
                return Err((ExcKind::OverflowError, "float power too large".to_owned()));
            }
            power
        }
        _ => return Err((ExcKind::TypeError, "unsupported operand type: 'float'".to_owned())),
    };
    Ok(Value::float(result))
}

/// `a op b` on numbers and strings; lists are the caller's.
#[inline]
pub(crate) fn binary(op: BinOp, a: Value, b: Value) -> Result<Value, Raised> {
    if a.tag == tag::INT && b.tag == tag::INT {
        return int_bin(op, a.bits.cast_signed(), b.bits.cast_signed());
    }
    if a.tag == tag::FLOAT && b.tag == tag::FLOAT {
        return float_bin(op, f64::from_bits(a.bits), f64::from_bits(b.bits));
    }
    mixed(op, a, b)
}

fn mixed(op: BinOp, a: Value, b: Value) -> Result<Value, Raised> {
    if let (Some(a), Some(b)) = (a.as_int(), b.as_int()) {
        return int_bin(op, a, b);
    }
    let no_number = |v: Value| v.to_float().is_none();
    match (a.to_float(), b.to_float()) {
        (Some(a), Some(b)) => float_bin(op, a, b),
        _ => Err(type_error("unsupported operand type", if no_number(a) { a } else { b })),
    }
}

pub(crate) fn unary(op: UnOp, a: Value) -> Result<Value, Raised> {
    match (op, a.tag) {
        (_, tag::UNDEF) => Err(type_error("", a)),
        (UnOp::Not, _) => Ok(Value::bool(!a.truth())),
        (UnOp::Neg, tag::FLOAT) => Ok(Value::float(-f64::from_bits(a.bits))),
        (UnOp::Neg, tag::INT | tag::BOOL) => {
            a.bits.cast_signed().checked_neg().map(Value::int).ok_or_else(overflow)
        }
        (UnOp::Invert, tag::INT | tag::BOOL) => Ok(Value::int(!a.bits.cast_signed())),
        _ => Err(type_error("bad operand type for unary operator", a)),
    }
}

/// How an int compares with a float, exactly.
fn compare_mixed(i: i64, x: f64) -> Option<core::cmp::Ordering> {
    if x.is_nan() {
        return None;
    }
    // Floats of this size are whole, so that rounding the int is what may lie.
    if x >= 9_223_372_036_854_775_808.0 {
        return Some(core::cmp::Ordering::Less);
    }
    if x < -9_223_372_036_854_775_808.0 {
        return Some(core::cmp::Ordering::Greater);
    }
    let whole = x.trunc() as i64;
    Some(
        i.cmp(&whole)
            .then_with(|| 0.0.partial_cmp(&x.fract()).unwrap_or(core::cmp::Ordering::Equal)),
    )
}

fn ordering(a: Value, b: Value) -> Option<Option<core::cmp::Ordering>> {
    Some(match (a.as_int(), b.as_int()) {
        (Some(a), Some(b)) => Some(a.cmp(&b)),
        (Some(a), None) => compare_mixed(a, b.as_float()?),
        (None, Some(b)) => compare_mixed(b, a.as_float()?).map(core::cmp::Ordering::reverse),
        (None, None) => match (a.as_float(), b.as_float()) {
            (Some(a), Some(b)) => a.partial_cmp(&b),
            _ => Some(a.as_str()?.cmp(b.as_str()?)),
        },
    })
}

fn equal(a: Value, b: Value) -> bool {
    if let Some(ordering) = ordering(a, b) {
        return ordering == Some(core::cmp::Ordering::Equal);
    }
    match (a.as_tuple(), b.as_tuple()) {
        (Some(a), Some(b)) => {
            a.items.len() == b.items.len()
                && a.items.iter().zip(&b.items).all(|(a, b)| equal(*a, *b))
        }
        _ => match (a.as_list(), b.as_list()) {
            (Some(a), Some(b)) => {
                let (a, b) = (a.items(), b.items());
                a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| equal(*a, *b))
            }
            _ => a.is_same(b),
        },
    }
}

#[inline]
pub(crate) fn compare(op: CmpOp, a: Value, b: Value) -> Result<bool, Raised> {
    if a.tag == tag::INT && b.tag == tag::INT {
        return Ok(by_order(op, a.bits.cast_signed().cmp(&b.bits.cast_signed())));
    }
    compare_any(op, a, b)
}

fn by_order(op: CmpOp, order: core::cmp::Ordering) -> bool {
    match op {
        CmpOp::Lt => order.is_lt(),
        CmpOp::Le => order.is_le(),
        CmpOp::Gt => order.is_gt(),
        CmpOp::Ge => order.is_ge(),
        CmpOp::Eq | CmpOp::Is => order.is_eq(),
        CmpOp::Ne | CmpOp::IsNot => order.is_ne(),
    }
}

fn compare_any(op: CmpOp, a: Value, b: Value) -> Result<bool, Raised> {
    if a.tag == tag::UNDEF || b.tag == tag::UNDEF {
        return Err(type_error("", Value::UNDEF));
    }
    Ok(match op {
        CmpOp::Is => a.is_same(b),
        CmpOp::IsNot => !a.is_same(b),
        CmpOp::Eq => equal(a, b),
        CmpOp::Ne => !equal(a, b),
        _ => match ordering(a, b) {
            Some(Some(order)) => by_order(op, order),
            // Not a number: no order holds.
            Some(None) => false,
            None => return Err(type_error("no order between such values", b)),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn division_rounds_down() {
        for (a, b, quotient, rest) in
            [(7, 2, 3, 1), (-7, 2, -4, 1), (7, -2, -4, -1), (-7, -2, 3, -1)]
        {
            assert_eq!(floor_div(a, b), Ok(quotient));
            assert_eq!(modulo(a, b), Ok(rest));
        }
        assert!(floor_div(i64::MIN, -1).is_err());
        assert_eq!(modulo(i64::MIN, -1), Ok(0));
        assert!(floor_div(1, 0).is_err() && modulo(1, 0).is_err());
    }

    #[test]
    fn ints_compare_exactly_with_floats() {
        let big = (1_i64 << 53) + 1;
        let order = |i, x| compare_mixed(i, x).map(|o| o as i8);
        assert_eq!(order(big, 9_007_199_254_740_992.0), Some(1));
        assert_eq!(order(1, 1.5), Some(-1));
        assert_eq!(order(-1, -1.5), Some(1));
        assert_eq!(order(i64::MAX, 1e300), Some(-1));
        assert_eq!(order(0, f64::NAN), None);
    }
}
