//! Places in the source that ask for an ordering, under names that stay when
//! lines move: what is known of a fault is kept by them.

use std::collections::BTreeMap;
use std::path::Path;

/// A place and what it asks for less than, as the library lists it:
/// `src/slot.rs:85:34 AcqRel to Release`.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Site<'a> {
    file: &'a str,
    line: usize,
    column: usize,
    change: &'a str,
}

impl<'a> Site<'a> {
    fn parse(site: &'a str) -> Option<Self> {
        let (place, change) = site.split_once(' ')?;
        let mut parts = place.rsplitn(3, ':');
        let (column, line) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        Some(Self { file: parts.next()?, line, column, change })
    }
}

/// Names for all sites, each with its site: the file, the function and the
/// change, `src/slot.rs replace AcqRel to Release`. Of several that would be
/// called the same, the second has a `#2` behind the function.
///
/// # Errors
///
/// If what is listed is no site, or its file cannot be read.
pub fn names(sites: &[&str]) -> std::io::Result<Vec<(String, String)>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut sources = BTreeMap::new();
    for site in sites {
        let Some(Site { file, .. }) = Site::parse(site) else {
            return Err(std::io::Error::other(format!("`{site}` is no place in the source")));
        };
        if !sources.contains_key(file) {
            sources.insert(file, std::fs::read_to_string(root.join(file))?);
        }
    }
    Ok(named(sites, &sources))
}

fn named(sites: &[&str], sources: &BTreeMap<&str, String>) -> Vec<(String, String)> {
    let mut sorted: Vec<_> =
        sites.iter().filter_map(|site| Some((Site::parse(site)?, *site))).collect();
    sorted.sort_unstable();
    let mut seen = BTreeMap::new();
    let name = |(Site { file, line, change, .. }, site): (Site<'_>, &str)| {
        let function = function(&sources[file], line);
        let count = seen.entry(format!("{file} {function} {change}")).or_insert(0);
        *count += 1;
        let which = if *count > 1 { format!("#{count}") } else { String::new() };
        (format!("{file} {function}{which} {change}"), site.to_owned())
    };
    sorted.into_iter().map(name).collect()
}

/// The function that a line of this source is in.
fn function(source: &str, line: usize) -> &str {
    let above: Vec<&str> = source.lines().take(line).collect();
    above.iter().rev().find_map(|line| declared(line)).unwrap_or("-")
}

/// The function that this line declares.
fn declared(line: &str) -> Option<&str> {
    let mut words = line.split_whitespace();
    let before = ["pub", "pub(crate)", "pub(super)", "const", "unsafe"];
    let word = words.find(|word| !before.contains(word))?;
    let name = words.next()?.split(['(', '<']).next()?;
    (word == "fn").then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_when_lines_move() {
        let source = "impl Slot {\n    pub(crate) fn swap<T>(&self) {\n        // fn of old\n        \
                      a();\n        b();\n    }\n\n    fn load(&self) {\n        a()\n    }\n}\n";
        let names = |above: usize| {
            let sources = BTreeMap::from([("a.rs", "//\n".repeat(above) + source)]);
            let sites: Vec<_> = [(9, "Acquire to Relaxed"), (4, "AcqRel to Acquire")]
                .into_iter()
                .chain([(5, "AcqRel to Acquire"), (5, "AcqRel to Release")])
                .map(|(line, change)| format!("a.rs:{}:9 {change}", line + above))
                .collect();
            let sites: Vec<_> = sites.iter().map(String::as_str).collect();
            named(&sites, &sources).into_iter().map(|(name, _)| name).collect::<Vec<_>>()
        };
        let expected = [
            "a.rs swap AcqRel to Acquire",
            "a.rs swap#2 AcqRel to Acquire",
            "a.rs swap AcqRel to Release",
            "a.rs load Acquire to Relaxed",
        ];
        assert_eq!(names(0), expected);
        // More digits, too.
        assert_eq!(names(94), expected);
    }
}
