//! What was seen last: counts of the models, and who killed which mutant. Kept
//! beside the sources, so that a change of either shows.

use std::path::PathBuf;

use crate::Explored;

/// Lines of `checker model schedules seconds`.
const COUNTS: &str = include_str!("../counts.txt");

/// Lines of `fault: model, schedule`.
const KILLERS: &str = include_str!("../killers.txt");

/// Schedules and seconds that a model took when it was recorded last.
#[must_use]
pub fn count(checker: &str, model: &str) -> Option<(&'static str, &'static str)> {
    COUNTS.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let found = words.next() == Some(checker) && words.next() == Some(model);
        if found { words.next().zip(words.next()) } else { None }
    })
}

/// Replaces what is recorded of this checker.
///
/// # Errors
///
/// If the file cannot be written.
pub fn keep_counts(checker: &str, ran: &[(&str, Explored)]) -> std::io::Result<()> {
    let of_this = |line: &&str| line.split_whitespace().next() == Some(checker);
    let mut lines: Vec<String> =
        COUNTS.lines().filter(|line| !of_this(line)).map(str::to_owned).collect();
    lines.extend(ran.iter().map(|(model, ran)| {
        format!("{checker} {model} {} {:.1}", ran.schedules, ran.time.as_secs_f64())
    }));
    lines.sort();
    write("counts.txt", &lines)
}

/// The model that noticed this fault when it was recorded last; of a weakened
/// ordering, or of the nearest one like it in the file, since lines move.
#[must_use]
pub fn killer(fault: &str) -> Option<&'static str> {
    let known = KILLERS.lines().filter_map(|line| line.split_once(": "));
    let near = |known: &str| {
        let ((file, line, order), (other, at, like)) = (site(fault)?, site(known)?);
        (file == other && order == like).then(|| line.abs_diff(at))
    };
    let killer = known
        .filter_map(|(known, killer)| {
            let distance = if known == fault { 0 } else { near(known)? };
            Some((distance, killer))
        })
        .min_by_key(|(distance, _)| *distance)?;
    killer.1.split_once(',').map(|(model, _)| model)
}

/// File, line and change of a weakened ordering.
fn site(fault: &str) -> Option<(&str, usize, &str)> {
    let (place, change) = fault.split_once(' ')?;
    let mut parts = place.split(':');
    Some((parts.next()?, parts.next()?.parse().ok()?, change))
}

/// Records who killed what.
///
/// # Errors
///
/// If the file cannot be written.
pub fn keep_killers(killed: &[(String, String)]) -> std::io::Result<()> {
    let lines: Vec<String> =
        killed.iter().map(|(fault, killer)| format!("{fault}: {killer}")).collect();
    write("killers.txt", &lines)
}

fn write(name: &str, lines: &[String]) -> std::io::Result<()> {
    let place = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name);
    std::fs::write(place, lines.join("\n") + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_recorded_is_a_model() {
        for line in COUNTS.lines() {
            let words: Vec<_> = line.split_whitespace().collect();
            assert!(crate::Model::named(words[1]).is_some(), "{line}");
        }
    }

    #[test]
    fn sites_are_told_apart_by_file_and_change() {
        let fault = "src/slot.rs:58:20 AcqRel to Release";
        assert_eq!(site(fault), Some(("src/slot.rs", 58, "AcqRel to Release")));
        assert_eq!(site("no-traps"), None);
    }
}
