//! What the compiler knows of a value.

use core::sync::atomic::Ordering;

use crate::value::{Value, list::kind, tag};

/// The type of a value, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(crate) enum Ty {
    /// Anything; the value is in memory.
    Any = 0,
    /// No value yet; in memory, too.
    Undef,
    Int,
    Float,
    Bool,
    /// Lists by what they hold.
    Ints,
    Floats,
    Bools,
    Anys,
}

impl Ty {
    const ALL: [Self; 9] = [
        Self::Any,
        Self::Undef,
        Self::Int,
        Self::Float,
        Self::Bool,
        Self::Ints,
        Self::Floats,
        Self::Bools,
        Self::Anys,
    ];

    pub(crate) fn from_u8(ty: u8) -> Self {
        Self::ALL.get(usize::from(ty)).copied().unwrap_or(Self::Any)
    }

    /// Of an int or a float.
    #[inline]
    pub(crate) fn of_number(value: Value) -> Self {
        if value.tag == tag::INT { Self::Int } else { Self::Float }
    }

    #[inline]
    pub(crate) fn of(value: Value) -> Self {
        match value.tag {
            tag::UNDEF => Self::Undef,
            tag::INT => Self::Int,
            tag::FLOAT => Self::Float,
            tag::BOOL => Self::Bool,
            tag::LIST => {
                // Relaxed: a list's kind changes once, from empty.
                match value.as_list().map(|list| list.kind.load(Ordering::Relaxed)) {
                    Some(kind::INT) => Self::Ints,
                    Some(kind::FLOAT) => Self::Floats,
                    Some(kind::BOOL) => Self::Bools,
                    Some(kind::ANY) => Self::Anys,
                    _ => Self::Any,
                }
            }
            _ => Self::Any,
        }
    }

    /// Whether it says enough to keep the bits in a register.
    pub(crate) fn is_known(self) -> bool {
        !matches!(self, Self::Any | Self::Undef)
    }

    /// The tag in memory, and for lists their kind.
    pub(crate) fn tag(self) -> (u64, Option<u64>) {
        match self {
            Self::Any | Self::Undef => (tag::UNDEF, None),
            Self::Int => (tag::INT, None),
            Self::Float => (tag::FLOAT, None),
            Self::Bool => (tag::BOOL, None),
            Self::Ints => (tag::LIST, Some(kind::INT)),
            Self::Floats => (tag::LIST, Some(kind::FLOAT)),
            Self::Bools => (tag::LIST, Some(kind::BOOL)),
            Self::Anys => (tag::LIST, Some(kind::ANY)),
        }
    }

    /// What the elements of a list are.
    pub(crate) fn element(self) -> Option<Self> {
        match self {
            Self::Ints => Some(Self::Int),
            Self::Floats => Some(Self::Float),
            Self::Bools => Some(Self::Bool),
            Self::Anys => Some(Self::Any),
            _ => None,
        }
    }

    pub(crate) fn merge(self, other: Self) -> Self {
        if self == other { self } else { Self::Any }
    }
}
