//! What was seen last: counts of the models, and who killed which mutant. Kept
//! beside the sources, so that a change of either shows.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::{Explored, Model};

/// Lines of `checker model schedules seconds`.
const COUNTS: &str = include_str!("../counts.txt");

/// Schedules and seconds that a model took when it was recorded last.
#[must_use]
pub fn count(checker: &str, model: &str) -> Option<(&'static str, &'static str)> {
    COUNTS.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let found = words.next() == Some(checker) && words.next() == Some(model);
        if found { words.next().zip(words.next()) } else { None }
    })
}

/// Replaces what is recorded of these models under this checker, and drops what
/// is recorded of models that are no more.
///
/// # Errors
///
/// If the file cannot be read or written.
pub fn keep_counts(checker: &str, ran: &[(&str, Explored)]) -> std::io::Result<()> {
    let stays = |line: &&str| {
        let mut words = line.split_whitespace();
        let (of, name) = (words.next(), words.next().unwrap_or_default());
        let again = of == Some(checker) && ran.iter().any(|(model, _)| *model == name);
        !again && Model::named(name).is_some()
    };
    // The file, not `COUNTS`: another build may have recorded since.
    let text = std::fs::read_to_string(place("counts.txt"))?;
    let mut lines: Vec<String> = text.lines().filter(stays).map(str::to_owned).collect();
    lines.extend(ran.iter().map(|(model, ran)| {
        format!("{checker} {model} {} {:.1}", ran.schedules, ran.time.as_secs_f64())
    }));
    lines.sort();
    write("counts.txt", &lines)
}

/// Who noticed which fault: lines of `fault: model, schedule`, by fault. What a
/// run finds out is kept at once, so one that is broken off is not lost.
#[derive(Debug)]
pub struct Killers(BTreeMap<String, String>);

impl Killers {
    /// What is recorded of these faults; others there are no more.
    ///
    /// # Errors
    ///
    /// If the file cannot be read.
    pub fn read<'a>(faults: impl IntoIterator<Item = &'a str>) -> std::io::Result<Self> {
        let text = std::fs::read_to_string(place("killers.txt"))?;
        let mut known: BTreeMap<_, _> =
            text.lines().filter_map(|line| line.split_once(": ")).collect();
        let killers = faults.into_iter().filter_map(|fault| known.remove_entry(fault));
        Ok(Self(killers.map(|(fault, killer)| (fault.to_owned(), killer.to_owned())).collect()))
    }

    /// Whether somebody has noticed this fault.
    #[must_use]
    pub fn is_known(&self, fault: &str) -> bool {
        self.0.contains_key(fault)
    }

    /// All models, in the order in which they should be tried on this fault:
    /// the one that noticed it last, those that noticed others of its file, and
    /// those that take the fewest schedules.
    #[must_use]
    pub fn order(&self, fault: &str) -> Vec<&'static str> {
        let file = |fault: &str| fault.split_once(' ').map(|(file, _)| file.to_owned());
        let near = file(fault).into_iter().flat_map(|of| {
            self.0.iter().filter(move |(other, _)| file(other).as_ref() == Some(&of))
        });
        let killers = self.0.get(fault).into_iter().chain(near.map(|(_, killer)| killer));
        let killers = killers.filter_map(|killer| Model::named(killer.split_once(',')?.0));
        let mut order: Vec<&str> = Vec::new();
        for model in killers.chain(crate::models::by_cost()) {
            if !order.contains(&model.name) {
                order.push(model.name);
            }
        }
        order
    }

    /// Records who noticed a fault, or that nobody did.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn keep(&mut self, fault: &str, killer: Option<String>) -> std::io::Result<()> {
        match killer {
            Some(killer) => self.0.insert(fault.to_owned(), killer),
            None => self.0.remove(fault),
        };
        let lines: Vec<String> =
            self.0.iter().map(|(fault, killer)| format!("{fault}: {killer}")).collect();
        write("killers.txt", &lines)
    }
}

fn place(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn write(name: &str, lines: &[String]) -> std::io::Result<()> {
    std::fs::write(place(name), lines.join("\n") + "\n")
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
    fn the_killers_of_a_file_are_tried_first() {
        let known = [
            ("a.rs load Acquire to Relaxed", "units_of_two, 7"),
            ("a.rs swap AcqRel to Acquire", "ninth_hold, 1"),
            ("a.rs swap AcqRel to Release", "two_recyclers, 1"),
            ("b.rs load Acquire to Relaxed", "publish_load_call, 1"),
        ];
        let killers = Killers(known.map(|(fault, by)| (fault.to_owned(), by.to_owned())).into());
        let order = killers.order("a.rs swap AcqRel to Acquire");
        assert_eq!(order[..3], ["ninth_hold", "units_of_two", "two_recyclers"]);
        assert_eq!(order.len(), crate::models::all().count());
        let order = killers.order("b.rs#2 load Acquire to Relaxed");
        assert_eq!(order[0], crate::models::by_cost().next().unwrap().name);
    }
}
