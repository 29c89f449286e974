//! The models, by what they are about.

use crate::Model;

mod claim;
mod publish;
mod reclaim;
mod scope;

/// All models.
pub fn all() -> impl Iterator<Item = &'static Model> {
    [claim::MODELS, publish::MODELS, reclaim::MODELS, scope::MODELS].into_iter().flatten()
}

pub(crate) use crate::setup::{CODE, Setup, install};
pub(crate) use crate::{Bounds, Model as M};
