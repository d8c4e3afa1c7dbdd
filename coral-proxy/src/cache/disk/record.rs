//! One object as a record of a segment: a fixed header, the head, and the body or where it is.
//!
//! ```text
//! 0   magic "cOb1"            4
//! 4   kind: 0 body, 1 file    1, and three zeros
//! 8   bytes of the head       4
//! 12  bytes of the content    4
//! 16  variant key             20
//! 36  URL key                 20
//! 56  fresh until             8    seconds since 1970
//! 64  checksum                8    XXH3 over all but itself, seeded with the segment's number
//! 72  head, then content
//! ```
//!
//! The content of kind 1 is the number of a body file, the body's length, and the checksum of each of its blocks. Numbers
//! are little-endian. The seed keeps a record from being believed in any other segment than its own.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use coral_dsht::{Id, Key};
use http::header::HeaderName;
use twox_hash::XxHash3_64;

use super::head::{self, Cursor, Head, NoHead};
use crate::cache::Object;
use crate::cache::body::BLOCK_BYTES;
use crate::stamp::Stamp;

/// Bytes before the head.
pub(super) const HEADER_BYTES: usize = 72;
const MAGIC: [u8; 4] = *b"cOb1";
const CHECKSUM_AT: usize = 64;

/// Why bytes are not a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Bad {
    /// It ends before its end.
    #[error("the record is cut off")]
    Torn,
    /// It does not begin like one.
    #[error("there is no record here")]
    Magic,
    /// Some of it is not as it was written.
    #[error("the record is damaged")]
    Checksum,
    /// It was written by another version.
    #[error("the record is of another version")]
    Version,
}

impl From<NoHead> for Bad {
    fn from(_: NoHead) -> Self {
        Self::Version
    }
}

/// A record whose checksum is right.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) variant: Key,
    pub(super) url: Key,
    /// Seconds since 1970.
    pub(super) fresh_until: u64,
    pub(super) head: Head,
    pub(super) content: Content,
    /// Bytes of all of it.
    pub(super) length: usize,
}

/// What a record has of its object's body.
#[derive(Debug)]
pub(super) enum Content {
    Whole(Bytes),
    InFile(InFile),
}

/// A body in a file of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct InFile {
    pub(super) id: u64,
    pub(super) length: u64,
    /// Of each block of [`BLOCK_BYTES`], the last of which may be shorter.
    pub(super) sums: Arc<[u64]>,
}

/// What the index keeps of a record that was just written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) variant: Key,
    pub(super) url: Key,
    pub(super) offset: u32,
    pub(super) length: u32,
    pub(super) fresh_until: u64,
    /// Number and length of its body's file.
    pub(super) file: Option<(u64, u64)>,
    pub(super) selecting: Arc<[HeaderName]>,
    pub(super) stamp: Option<Stamp>,
}

/// The checksum of a block of a body file, of which it is the `index`th.
pub(super) fn block_sum(file: u64, index: usize, block: &[u8]) -> u64 {
    XxHash3_64::oneshot_with_seed(file.rotate_left(32) ^ index as u64, block)
}

fn checksum(segment: u32, record: &[u8]) -> u64 {
    let header = XxHash3_64::oneshot_with_seed(segment.into(), &record[..CHECKSUM_AT]);
    XxHash3_64::oneshot_with_seed(header, &record[HEADER_BYTES..])
}

/// Appends the record of `object` to `to`; `offset` is the place in the segment at which `to` will be written. `None`, and
/// nothing is appended, if its body is not whole or too large for a record.
pub(super) fn encode(object: &Object, segment: u32, now: SystemTime, offset: u32, to: &mut Vec<u8>) -> Option<Entry> {
    let start = to.len();
    let fresh_until = (now + object.validity.remaining(now).min(FOREVER))
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    to.extend_from_slice(&[0; HEADER_BYTES]);
    head::encode(object, to);
    let head_bytes = to.len() - start - HEADER_BYTES;
    let whole = object.body.whole();
    let in_file = object.body.in_file();
    match (&whole, &in_file) {
        (Some(whole), _) => to.extend_from_slice(whole),
        (None, Some((file, length, sums))) => {
            to.extend_from_slice(&file.id.to_le_bytes());
            to.extend_from_slice(&length.to_le_bytes());
            sums.iter().for_each(|sum| to.extend_from_slice(&sum.to_le_bytes()));
        }
        (None, None) => {
            to.truncate(start);
            return None;
        }
    }
    let content_bytes = to.len() - start - HEADER_BYTES - head_bytes;
    let (Ok(head_bytes), Ok(content_bytes), Ok(length)) =
        (u32::try_from(head_bytes), u32::try_from(content_bytes), u32::try_from(to.len() - start))
    else {
        to.truncate(start);
        return None;
    };
    let record = &mut to[start..];
    record[..4].copy_from_slice(&MAGIC);
    record[4] = u8::from(whole.is_none());
    record[8..12].copy_from_slice(&head_bytes.to_le_bytes());
    record[12..16].copy_from_slice(&content_bytes.to_le_bytes());
    record[16..36].copy_from_slice(object.variant.as_bytes());
    record[36..56].copy_from_slice(object.key.as_bytes());
    record[56..64].copy_from_slice(&fresh_until.to_le_bytes());
    seal(record, segment);
    Some(Entry {
        variant: object.variant,
        url: object.key,
        offset: offset + u32::try_from(start).ok()?,
        length,
        fresh_until,
        file: if whole.is_some() { None } else { in_file.map(|(file, length, _)| (file.id, length)) },
        selecting: Arc::clone(&object.selecting),
        stamp: object.stamp(),
    })
}

/// A lifetime of centuries is as good as none, and a clock can hold it.
const FOREVER: Duration = Duration::from_secs(200 * 365 * 24 * 3600);

/// Makes a whole record one of `segment`.
pub(super) fn seal(record: &mut [u8], segment: u32) {
    let sum = checksum(segment, record);
    record[CHECKSUM_AT..HEADER_BYTES].copy_from_slice(&sum.to_le_bytes());
}

/// The record of `segment` with which `bytes` begin.
pub(super) fn decode(segment: u32, bytes: &Bytes) -> Result<Record, Bad> {
    let length = length(bytes)?;
    let record = bytes.get(..length).ok_or(Bad::Torn)?;
    let mut header = Cursor(&record[4..]);
    let kind = header.u8()?;
    header.take(3)?;
    let (head_bytes, _) = (header.u32()? as usize, header.u32()?);
    let (variant, url) = (Id::from_bytes(header.array()?), Id::from_bytes(header.array()?));
    let fresh_until = header.u64()?;
    if header.u64()? != checksum(segment, record) {
        return Err(Bad::Checksum);
    }
    let content_at = HEADER_BYTES + head_bytes;
    let head = head::decode(&record[HEADER_BYTES..content_at])?;
    let content = match kind {
        0 => Content::Whole(bytes.slice(content_at..length)),
        1 => Content::InFile(in_file(&record[content_at..])?),
        _ => return Err(Bad::Version),
    };
    Ok(Record { variant, url, fresh_until, head, content, length })
}

/// The length of the record with which `bytes` begin, as its header says.
pub(super) fn length(bytes: &[u8]) -> Result<usize, Bad> {
    let Some(header) = bytes.get(..HEADER_BYTES) else {
        return Err(Bad::Torn);
    };
    if header[..4] != MAGIC {
        return Err(Bad::Magic);
    }
    let mut lengths = Cursor(&header[8..]);
    let (head_bytes, content_bytes) = (lengths.u32()? as usize, lengths.u32()? as usize);
    Ok(HEADER_BYTES + head_bytes + content_bytes)
}

fn in_file(bytes: &[u8]) -> Result<InFile, Bad> {
    let mut from = Cursor(bytes);
    let (id, length) = (from.u64()?, from.u64()?);
    if from.0.len() as u64 != length.div_ceil(BLOCK_BYTES as u64).saturating_mul(8) {
        return Err(Bad::Version);
    }
    let sums = from.0.chunks_exact(8).map(|sum| u64::from_le_bytes(sum.try_into().expect("eight bytes"))).collect();
    Ok(InFile { id, length, sums })
}

impl Record {
    /// What the index keeps of it, found at `offset`.
    pub(super) fn entry(&self, offset: u32) -> Entry {
        Entry {
            variant: self.variant,
            url: self.url,
            offset,
            length: self.length as u32,
            fresh_until: self.fresh_until,
            file: match &self.content {
                Content::Whole(_) => None,
                Content::InFile(file) => Some((file.id, file.length)),
            },
            selecting: Arc::clone(&self.head.selecting),
            stamp: self.head.stamp,
        }
    }
}
