//! The models, by what they are about.

use crate::Model;

mod by_address;
mod claim;
mod crowd;
mod hold;
mod lookup;
mod publish;
mod reclaim;
mod scope;
mod trampoline;

/// All models.
pub fn all() -> impl Iterator<Item = &'static Model> {
    [
        by_address::MODELS,
        claim::MODELS,
        crowd::MODELS,
        hold::MODELS,
        lookup::MODELS,
        publish::MODELS,
        reclaim::MODELS,
        scope::MODELS,
        trampoline::MODELS,
    ]
    .into_iter()
    .flatten()
}

pub(crate) use crate::setup::{CODE, Setup, install, install_long, try_install};
pub(crate) use crate::{Bounds, Model as M};

/// All models, those first that take the fewest schedules.
pub fn by_cost() -> impl Iterator<Item = &'static Model> {
    let mut models: Vec<_> = all().collect();
    models.sort_by_key(|model| model.eager.map_or(usize::MAX, |bounds| bounds.least));
    models.into_iter()
}
