//! A segment: a file of records, one after another, with a footer once it is full.
//!
//! ```text
//! "coralseg", version 4, number 4 | record | record | … | footer | bytes of the footer 4, checksum 8, "coralend"
//! ```
//!
//! The footer names every record, so that a start reads that and no more. A segment without one was being written when its
//! process ended: its records are read, it is cut at the first that is not whole, and gets its footer then.

use std::fs::File;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use coral_dsht::Id;
use http::header::HeaderName;
use twox_hash::XxHash3_64;

use super::files::Files;
use super::head::{Cursor, NoHead};
use super::record::{self, Entry, HEADER_BYTES};
use crate::stamp::{STAMP_BYTES, Stamp};

/// Bytes before the first record.
pub(super) const START: u64 = 16;
/// Records in a segment, at most: its footer is in memory while it is written.
pub(super) const MAX_RECORDS: usize = 1 << 16;

const MAGIC: [u8; 8] = *b"coralseg";
const END_MAGIC: [u8; 8] = *b"coralend";
/// Of all files of the store: those of another version are removed.
const VERSION: u32 = 2;
const TRAILER_BYTES: u64 = 20;
/// Flags of a record in the footer: its body is in a file; it has a stamp.
const IN_FILE: u8 = 1;
const STAMPED: u8 = 2;

/// The bytes that segment `id` begins with.
pub(super) fn start(id: u32) -> [u8; START as usize] {
    let mut bytes = [0; START as usize];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes[12..].copy_from_slice(&id.to_le_bytes());
    bytes
}

/// The bytes that segment `id` with these records ends with.
pub(super) fn footer(id: u32, entries: &[Entry]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in entries {
        bytes.extend_from_slice(entry.variant.as_bytes());
        bytes.extend_from_slice(entry.url.as_bytes());
        bytes.extend_from_slice(&entry.offset.to_le_bytes());
        bytes.extend_from_slice(&entry.length.to_le_bytes());
        bytes.extend_from_slice(&entry.fresh_until.to_le_bytes());
        bytes.push(if entry.file.is_some() { IN_FILE } else { 0 } | if entry.stamp.is_some() { STAMPED } else { 0 });
        if let Some((file, length)) = entry.file {
            bytes.extend_from_slice(&file.to_le_bytes());
            bytes.extend_from_slice(&length.to_le_bytes());
        }
        if let Some(stamp) = entry.stamp {
            bytes.extend_from_slice(&stamp.to_bytes());
        }
        let names: Vec<&str> = entry.selecting.iter().map(HeaderName::as_str).collect();
        let names = names.join(",");
        bytes.extend_from_slice(&(names.len() as u32).to_le_bytes());
        bytes.extend_from_slice(names.as_bytes());
    }
    let sum = XxHash3_64::oneshot_with_seed(id.into(), &bytes);
    let length = bytes.len() as u32;
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&sum.to_le_bytes());
    bytes.extend_from_slice(&END_MAGIC);
    bytes
}

/// The records that `bytes`, a footer without its trailer, names.
pub(super) fn decode_footer(bytes: &[u8]) -> Result<Vec<Entry>, NoHead> {
    let (mut from, mut entries) = (Cursor(bytes), Vec::new());
    // Most objects of a site vary by the same fields, or by none: one list for all that follow each other.
    let (mut names, mut selecting): (&[u8], Arc<[HeaderName]>) = (&[], Arc::from([]));
    while !from.0.is_empty() {
        let (variant, url) = (Id::from_bytes(from.array()?), Id::from_bytes(from.array()?));
        let (offset, length, fresh_until) = (from.u32()?, from.u32()?, from.u64()?);
        let flags = from.u8()?;
        let file = if flags & IN_FILE != 0 { Some((from.u64()?, from.u64()?)) } else { None };
        let stamp = if flags & STAMPED != 0 { Stamp::from_bytes(from.take(STAMP_BYTES)?) } else { None };
        let names_bytes = from.u32()? as usize;
        let these = from.take(names_bytes)?;
        if these != names {
            let list = these.split(|byte| *byte == b',').filter(|name| !name.is_empty());
            selecting = list.map(HeaderName::from_bytes).collect::<Result<_, _>>().map_err(|_| NoHead)?;
            names = these;
        }
        let selecting = Arc::clone(&selecting);
        entries.push(Entry { variant, url, offset, length, fresh_until, file, selecting, stamp });
    }
    Ok(entries)
}

/// Whether `file` begins like segment `id` of this version.
pub(super) fn is_one(files: &dyn Files, file: &File, id: u32) -> io::Result<bool> {
    let mut bytes = [0; START as usize];
    match files.read_exact_at(file, &mut bytes, 0) {
        Ok(()) => Ok(bytes == start(id)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// The records of a segment by its footer. `None` if it has none, or a damaged one.
pub(super) fn read_footer(files: &dyn Files, file: &File, id: u32) -> io::Result<Option<Vec<Entry>>> {
    let length = file.metadata()?.len();
    let Some(trailer_at) = length.checked_sub(TRAILER_BYTES) else {
        return Ok(None);
    };
    let mut trailer = [0; TRAILER_BYTES as usize];
    files.read_exact_at(file, &mut trailer, trailer_at)?;
    let mut from = Cursor(&trailer);
    let (Ok(bytes), Ok(sum), Ok(magic)) = (from.u32(), from.u64(), from.array::<8>()) else {
        return Ok(None);
    };
    let Some(footer_at) = trailer_at.checked_sub(bytes.into()).filter(|at| *at >= START && magic == END_MAGIC) else {
        return Ok(None);
    };
    let mut footer = vec![0; bytes as usize];
    files.read_exact_at(file, &mut footer, footer_at)?;
    if XxHash3_64::oneshot_with_seed(id.into(), &footer) != sum {
        return Ok(None);
    }
    Ok(decode_footer(&footer).ok())
}

/// The whole records at the beginning of a segment, and where they end.
pub(super) fn scan(files: &dyn Files, file: &File, id: u32) -> io::Result<(Vec<Entry>, u64)> {
    let length = file.metadata()?.len();
    let (mut entries, mut at) = (Vec::new(), START);
    while let Some(left) = length.checked_sub(at).filter(|left| *left >= HEADER_BYTES as u64) {
        let mut header = vec![0; HEADER_BYTES];
        files.read_exact_at(file, &mut header, at)?;
        let Some(bytes) = record::length(&header).ok().filter(|bytes| *bytes as u64 <= left) else {
            break;
        };
        header.resize(bytes, 0);
        files.read_exact_at(file, &mut header[HEADER_BYTES..], at + HEADER_BYTES as u64)?;
        let (Ok(record), Ok(offset)) = (record::decode(id, &Bytes::from(header)), u32::try_from(at)) else {
            break;
        };
        entries.push(record.entry(offset));
        at += bytes as u64;
    }
    Ok((entries, at))
}

/// The records of a segment at start-up, and its length. One that has no footer is cut and given one.
pub(super) fn load(files: &dyn Files, file: &File, id: u32) -> io::Result<(Vec<Entry>, u64)> {
    if let Some(entries) = read_footer(files, file, id)? {
        return Ok((entries, file.metadata()?.len()));
    }
    let (entries, end) = scan(files, file, id)?;
    let footer = footer(id, &entries);
    files.truncate(file, end)?;
    files.write_all_at(file, &footer, end)?;
    Ok((entries, end + footer.len() as u64))
}
