//! What is wrong with a source file, and where.

/// A program that is no Python, or uses more of it than there is here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}:{column}: {what}")]
pub struct SourceError {
    /// Name of the file, as it was given.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong there.
    pub what: String,
}

/// Line and column of the byte at `offset`, both from 1.
pub(super) fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset.min(text.len())).unwrap_or(text);
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[start..].chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_from_one() {
        assert_eq!(position("a = 1\nb = é + c", 0), (1, 1));
        assert_eq!(position("a = 1\nb = é + c", 6), (2, 1));
        // Behind a letter of two bytes.
        assert_eq!(position("a = 1\nb = é + c", 15), (2, 9));
    }
}
