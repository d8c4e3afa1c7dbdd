//! Coral's cooperative HTTP cache.
