//! Messages as bytes: a query is read where it lies, an answer is written into a buffer that is used again and again.
//!
//! A nameserver on the Internet reads more junk than queries, and answers more queries than all else: so neither side
//! allocates here, and nothing follows a compression pointer. [`query`] reads, [`writer`] writes; what an answer says is
//! decided elsewhere. Types that a zone's operator may write by hand are hickory's business (`records.rs`).

pub mod query;
pub mod writer;

/// Bytes of a message's header (RFC 1035 §4.1.1).
pub const HEADER_BYTES: usize = 12;

/// Bytes of the longest name, its lengths and the root's zero included (RFC 1035 §2.3.4).
pub const MAX_NAME_BYTES: usize = 255;

/// Labels of the longest name: each takes two bytes at least.
pub const MAX_LABELS: usize = 127;

/// Types of records (RFC 1035 §3.2.2 and others), as far as they are treated in a way of their own.
pub mod types {
    /// An IPv4 address.
    pub const A: u16 = 1;
    /// A nameserver.
    pub const NS: u16 = 2;
    /// The start of authority.
    pub const SOA: u16 = 6;
    /// A text; of class CHAOS also the name and version of a server.
    pub const TXT: u16 = 16;
    /// An IPv6 address (RFC 3596).
    pub const AAAA: u16 = 28;
    /// The pseudo-record of EDNS (RFC 6891).
    pub const OPT: u16 = 41;
    /// The digest of a child zone's key, which the parent has (RFC 4034 §5).
    pub const DS: u16 = 43;
    /// The signature of an RRset (RFC 4034 §3).
    pub const RRSIG: u16 = 46;
    /// What a name has, and up to where there is no other (RFC 4034 §4).
    pub const NSEC: u16 = 47;
    /// A zone's key (RFC 4034 §2).
    pub const DNSKEY: u16 = 48;
    /// How to reach an HTTP service (RFC 9460).
    pub const HTTPS: u16 = 65;
    /// Says, in the bits of an NSEC, that there is no such name (RFC 9824 §3.4). Nobody can ask for it.
    pub const NXNAME: u16 = 128;
    /// Changes of a zone (RFC 1995).
    pub const IXFR: u16 = 251;
    /// A whole zone (RFC 5936).
    pub const AXFR: u16 = 252;
    /// Whatever there is (RFC 8482).
    pub const ANY: u16 = 255;
}

/// Classes (RFC 1035 §3.2.4).
pub mod classes {
    /// The Internet.
    pub const IN: u16 = 1;
    /// CHAOS, in which servers tell of themselves.
    pub const CH: u16 = 3;
}

/// Flags of EDNS, of the upper byte in which they are.
pub mod flags {
    /// DO: signatures are wanted (RFC 3225).
    pub const DNSSEC_OK: u8 = 0x80;
    /// CO: what is denied compactly may have the response code that it would have without (RFC 9824 §5.1).
    pub const COMPACT_OK: u8 = 0x40;
}

/// Options of EDNS.
pub mod options {
    /// The name of this server (RFC 5001).
    pub const NSID: u16 = 3;
    /// The client's network (RFC 7871).
    pub const SUBNET: u16 = 8;
    /// A proof that the asker has the address it writes (RFC 7873).
    pub const COOKIE: u16 = 10;
    /// Ours, between nodes (`appraisal.rs`): in the range for local use (RFC 6891 §9).
    pub const APPRAISAL: u16 = 65_313;
}
