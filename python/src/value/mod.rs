//! Values: a tag and 64 bits, unboxed for numbers.
//!
//! Sixteen bytes, so that machine code finds tag and bits at fixed places of a
//! frame's slot and works on the bits alone where it knows the tag. Objects are
//! plain addresses: whoever can name one is part of a call that keeps it alive
//! (see [`heap`]).

pub(crate) mod heap;
pub(crate) mod list;
pub(crate) mod objects;
pub(crate) mod text;

use list::List;
use objects::{Exception, Function, Lock, Thread, Tuple};

pub(crate) mod tag {
    //! What the bits of a value are.

    /// No value: a local that was not assigned yet.
    pub(crate) const UNDEF: u64 = 0;
    pub(crate) const NONE: u64 = 1;
    /// 0 or 1.
    pub(crate) const BOOL: u64 = 2;
    pub(crate) const INT: u64 = 3;
    pub(crate) const FLOAT: u64 = 4;
    // From here on addresses of objects.
    pub(crate) const STR: u64 = 5;
    pub(crate) const LIST: u64 = 6;
    pub(crate) const TUPLE: u64 = 7;
    pub(crate) const FUNCTION: u64 = 8;
    pub(crate) const LOCK: u64 = 9;
    pub(crate) const THREAD: u64 = 10;
    pub(crate) const EXCEPTION: u64 = 11;
}

/// A value of the language.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Value {
    pub(crate) tag: u64,
    pub(crate) bits: u64,
}

impl Value {
    pub(crate) const UNDEF: Self = Self { tag: tag::UNDEF, bits: 0 };
    pub(crate) const NONE: Self = Self { tag: tag::NONE, bits: 0 };

    pub(crate) fn int(i: i64) -> Self {
        Self { tag: tag::INT, bits: i.cast_unsigned() }
    }

    pub(crate) fn float(x: f64) -> Self {
        Self { tag: tag::FLOAT, bits: x.to_bits() }
    }

    pub(crate) fn bool(b: bool) -> Self {
        Self { tag: tag::BOOL, bits: u64::from(b) }
    }

    /// A reference to an object that a heap owns.
    fn object<T>(tag: u64, object: &'static T) -> Self {
        Self { tag, bits: (&raw const *object).expose_provenance() as u64 }
    }

    /// The object of type `T`, if the tag says that it is one.
    fn as_object<T>(self, tag: u64) -> Option<&'static T> {
        let object = core::ptr::with_exposed_provenance::<T>(self.bits as usize);
        // SAFETY: only `object` makes such values, of objects that their heaps
        // keep for as long as calls run that can name them.
        (self.tag == tag).then(|| unsafe { &*object })
    }

    /// The number of an int or a bool.
    #[inline]
    pub(crate) fn as_int(self) -> Option<i64> {
        (self.tag == tag::INT || self.tag == tag::BOOL).then_some(self.bits.cast_signed())
    }

    /// The number of a float.
    #[inline]
    pub(crate) fn as_float(self) -> Option<f64> {
        (self.tag == tag::FLOAT).then_some(f64::from_bits(self.bits))
    }

    /// Any number as a float, rounded as the language does.
    #[inline]
    pub(crate) fn to_float(self) -> Option<f64> {
        self.as_float().or_else(|| self.as_int().map(|i| i as f64))
    }

    pub(crate) fn as_str(self) -> Option<&'static str> {
        self.as_object::<String>(tag::STR).map(String::as_str)
    }

    #[inline]
    pub(crate) fn as_list(self) -> Option<&'static List> {
        self.as_object(tag::LIST)
    }

    pub(crate) fn as_tuple(self) -> Option<&'static Tuple> {
        self.as_object(tag::TUPLE)
    }

    #[inline]
    pub(crate) fn as_function(self) -> Option<&'static Function> {
        self.as_object(tag::FUNCTION)
    }

    pub(crate) fn as_lock(self) -> Option<&'static Lock> {
        self.as_object(tag::LOCK)
    }

    pub(crate) fn as_thread(self) -> Option<&'static Thread> {
        self.as_object(tag::THREAD)
    }

    pub(crate) fn as_exception(self) -> Option<&'static Exception> {
        self.as_object(tag::EXCEPTION)
    }

    pub(crate) fn is_object(self) -> bool {
        self.tag >= tag::STR
    }

    /// Whether both are the same thing: `is`.
    pub(crate) fn is_same(self, other: Self) -> bool {
        self.tag == other.tag && self.bits == other.bits
    }

    /// What an `if` makes of it.
    #[inline]
    pub(crate) fn truth(self) -> bool {
        match self.tag {
            tag::BOOL | tag::INT => self.bits != 0,
            tag::FLOAT => f64::from_bits(self.bits) != 0.0,
            tag::NONE => false,
            tag::STR => self.as_str().is_some_and(|s| !s.is_empty()),
            tag::LIST => self.as_list().is_some_and(|list| !list.is_empty()),
            tag::TUPLE => self.as_tuple().is_some_and(|tuple| !tuple.items.is_empty()),
            _ => true,
        }
    }

    pub(crate) fn type_name(self) -> &'static str {
        match self.tag {
            tag::UNDEF => "undefined",
            tag::NONE => "NoneType",
            tag::BOOL => "bool",
            tag::INT => "int",
            tag::FLOAT => "float",
            tag::STR => "str",
            tag::LIST => "list",
            tag::TUPLE => "tuple",
            tag::FUNCTION => "function",
            tag::LOCK => "lock",
            tag::THREAD => "Thread",
            _ => "exception",
        }
    }
}

/// Kinds of exceptions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExcKind {
    Exception,
    ArithmeticError,
    IndexError,
    NameError,
    OverflowError,
    RecursionError,
    RuntimeError,
    TypeError,
    UnboundLocalError,
    ValueError,
    ZeroDivisionError,
}

impl ExcKind {
    pub(crate) const ALL: [Self; 11] = [
        Self::Exception,
        Self::ArithmeticError,
        Self::IndexError,
        Self::NameError,
        Self::OverflowError,
        Self::RecursionError,
        Self::RuntimeError,
        Self::TypeError,
        Self::UnboundLocalError,
        Self::ValueError,
        Self::ZeroDivisionError,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Exception => "Exception",
            Self::ArithmeticError => "ArithmeticError",
            Self::IndexError => "IndexError",
            Self::NameError => "NameError",
            Self::OverflowError => "OverflowError",
            Self::RecursionError => "RecursionError",
            Self::RuntimeError => "RuntimeError",
            Self::TypeError => "TypeError",
            Self::UnboundLocalError => "UnboundLocalError",
            Self::ValueError => "ValueError",
            Self::ZeroDivisionError => "ZeroDivisionError",
        }
    }

    /// Whether `except other` handles it.
    pub(crate) fn is(self, other: Self) -> bool {
        self == other
            || match other {
                Self::Exception => true,
                Self::ArithmeticError => {
                    matches!(self, Self::OverflowError | Self::ZeroDivisionError)
                }
                Self::NameError => self == Self::UnboundLocalError,
                Self::RuntimeError => self == Self::RecursionError,
                _ => false,
            }
    }
}

/// The types that a value must have so that `what` works, as an error.
pub(crate) fn type_error(what: &str, value: Value) -> (ExcKind, String) {
    if value.tag == tag::UNDEF {
        return (
            ExcKind::UnboundLocalError,
            "a local variable was used before it had a value".into(),
        );
    }
    (ExcKind::TypeError, format!("{what}: '{}'", value.type_name()))
}
