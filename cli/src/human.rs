//! Figures as people read them.

/// `1234567` as `1,234,567`.
#[must_use]
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number of bytes in the largest unit that leaves something before the point.
#[must_use]
pub fn bytes(n: u64) -> String {
    scaled(
        n as f64,
        &[
            (1.0, "bytes"),
            (1024.0, "KiB"),
            (1024.0 * 1024.0, "MiB"),
            (1024.0 * 1024.0 * 1024.0, "GiB"),
        ],
    )
}

/// A duration given in nanoseconds.
#[must_use]
pub fn duration(ns: u64) -> String {
    scaled(ns as f64, &[(1.0, "ns"), (1e3, "µs"), (1e6, "ms"), (1e9, "s")])
}

fn scaled(n: f64, units: &[(f64, &str)]) -> String {
    let fits = units.iter().rev().find(|(size, _)| n >= *size).or(units.first());
    let Some((size, unit)) = fits else { return n.to_string() };
    let value = n / size;
    let decimals = if *size == 1.0 || value >= 99.95 { 0 } else { 1 };
    format!("{value:.decimals$} {unit}")
}

/// A ratio of two amounts of memory; `-` where there was none.
#[must_use]
pub fn ratio(ratio: f64) -> String {
    if ratio.is_finite() { format!("{ratio:.2}") } else { "-".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_well() {
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(
            [0, 1023, 1536, 32 << 20].map(bytes),
            ["0 bytes", "1023 bytes", "1.5 KiB", "32.0 MiB"]
        );
        assert_eq!(
            [0, 999, 1499, 99_960, 123_456_789, 5_000_000_000].map(duration),
            ["0 ns", "999 ns", "1.5 µs", "100 µs", "123 ms", "5.0 s"]
        );
        assert_eq!([1.004, f64::NAN].map(ratio), ["1.00", "-"]);
    }
}
