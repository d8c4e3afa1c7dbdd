//! The node binary `coral`.

fn main() {}
