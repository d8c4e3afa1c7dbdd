//! Coral's authoritative DNS server.
