//! HTTP semantics, as far as a cache has a part in them.

mod section_13;
mod section_14;
mod section_15_2;
