use super::M;
pub(super) const MODELS: &[M] = &[];
