//! Values as text, the way `print`, `str` and `%` show them.

use std::fmt::Write;

use super::{ExcKind, Value, tag};

/// What `str` makes of a value.
pub(crate) fn display(value: Value) -> String {
    match value.as_str() {
        Some(text) => text.to_owned(),
        None => repr(value),
    }
}

/// What a list shows of an element.
fn repr(value: Value) -> String {
    match value.tag {
        tag::NONE => "None".to_owned(),
        tag::BOOL => if value.bits == 0 { "False" } else { "True" }.to_owned(),
        tag::INT => value.bits.cast_signed().to_string(),
        tag::FLOAT => float(f64::from_bits(value.bits)),
        tag::STR => format!("'{}'", value.as_str().unwrap_or_default()),
        tag::LIST => {
            let items = value.as_list().map(|list| list.items()).unwrap_or_default();
            format!("[{}]", items.into_iter().map(repr).collect::<Vec<_>>().join(", "))
        }
        tag::TUPLE => {
            let items = value.as_tuple().map(|tuple| tuple.items.as_slice()).unwrap_or_default();
            let inner = items.iter().copied().map(repr).collect::<Vec<_>>().join(", ");
            if items.len() == 1 { format!("({inner},)") } else { format!("({inner})") }
        }
        tag::FUNCTION => {
            let name = value.as_function().map_or("", |function| function.code.name.as_str());
            format!("<function {name}>")
        }
        tag::EXCEPTION => value.as_exception().map_or_else(String::new, |e| e.message.clone()),
        _ => format!("<{}>", value.type_name()),
    }
}

/// The shortest text that reads as the same float.
fn float(x: f64) -> String {
    if x.is_nan() {
        return "nan".to_owned();
    }
    if x.is_infinite() {
        return if x > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let short = format!("{x:e}");
    let (digits, exponent) = short.split_once('e').unwrap_or((&short, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let plain = format!("{x}");
        if plain.contains('.') { plain } else { plain + ".0" }
    } else {
        let sign = if exponent < 0 { '-' } else { '+' };
        format!("{digits}e{sign}{:02}", exponent.abs())
    }
}

/// `format % args`, of which `%d`, `%s` and `%.nf` are known.
pub(crate) fn percent(format: &str, args: Value) -> Result<String, (ExcKind, String)> {
    let one = [args];
    let mut args = args.as_tuple().map_or(one.as_slice(), |tuple| tuple.items.as_slice()).iter();
    let error = |what: &str| (ExcKind::TypeError, what.to_owned());
    let mut text = String::new();
    let mut rest = format;
    while let Some((before, after)) = rest.split_once('%') {
        text.push_str(before);
        if let Some(after) = after.strip_prefix('%') {
            text.push('%');
            rest = after;
            continue;
        }
        let at = after
            .find(|c: char| c.is_ascii_alphabetic())
            .ok_or_else(|| (ExcKind::ValueError, "incomplete format".to_owned()))?;
        let (spec, conversion) = (&after[..at], &after[at..=at]);
        rest = &after[at + 1..];
        let arg = *args.next().ok_or_else(|| error("not enough arguments for format string"))?;
        match (spec, conversion) {
            ("", "s") => text.push_str(&display(arg)),
            ("", "d") => match arg.as_int() {
                Some(i) => text.push_str(&i.to_string()),
                None => return Err(error("%d format: a number is required")),
            },
            (spec, "f") => {
                let precision = match spec.strip_prefix('.') {
                    Some(digits) => digits.parse().ok(),
                    None => spec.is_empty().then_some(6),
                };
                let (Some(precision), Some(x)) = (precision, arg.to_float()) else {
                    return Err(error("%f format: a number and a precision are required"));
                };
                let precision: usize = precision;
                let _ = write!(text, "{x:.precision$}");
            }
            _ => {
                return Err((
                    ExcKind::ValueError,
                    format!("unsupported format '%{spec}{conversion}'"),
                ));
            }
        }
    }
    text.push_str(rest);
    if args.next().is_some() {
        return Err(error("not all arguments converted during string formatting"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_read_as_in_python() {
        let cases = [
            (1.0, "1.0"),
            (-0.0, "-0.0"),
            (0.1 + 0.2, "0.30000000000000004"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e300, "1.5e+300"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (f64::INFINITY, "inf"),
        ];
        for (x, text) in cases {
            assert_eq!(float(x), text);
        }
    }
}
