//! The head of an object as bytes, and back: the one place that knows what of an object goes to disk.
//!
//! A field more in [`Object`] is a line in [`encode`] and one in [`decode`], and [`VERSION`] plus one. Heads
//! of a version that is not known are not read: what they stand for is fetched again. A [`Validity`] has its own numbers, and counts them.

use std::sync::Arc;

use http::StatusCode;
use http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::cache::Object;
use crate::policy::Validity;
use crate::stamp::Stamp;

/// Of this encoding.
const VERSION: u8 = 2;
/// Of the one before, which has no stamp at its end.
const WITHOUT_STAMP: u8 = 1;

/// All of an object but its keys and its body.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) selecting: Arc<[HeaderName]>,
    pub(super) validity: Validity,
    pub(super) stamp: Option<Stamp>,
}

/// Bytes that are no head, or none of this version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a head of this version")]
pub(super) struct NoHead;

/// Appends the head of `object` to `to`.
pub(super) fn encode(object: &Object, to: &mut Vec<u8>) {
    to.push(VERSION);
    to.extend_from_slice(&object.status.as_u16().to_le_bytes());
    let numbers = object.validity.to_numbers();
    to.push(numbers.len() as u8);
    for number in numbers {
        to.extend_from_slice(&number.to_le_bytes());
    }
    to.extend_from_slice(&(object.selecting.len() as u32).to_le_bytes());
    for name in object.selecting.iter() {
        put(to, name.as_str().as_bytes());
    }
    to.extend_from_slice(&(object.headers.len() as u32).to_le_bytes());
    for (name, value) in &object.headers {
        put(to, name.as_str().as_bytes());
        put(to, value.as_bytes());
    }
    let stamp = object.stamp().map(Stamp::to_bytes);
    put(to, stamp.as_ref().map_or(&[], |stamp| &stamp[..]));
}

/// The head that `bytes` are, all of them.
pub(super) fn decode(bytes: &[u8]) -> Result<Head, NoHead> {
    let mut from = Cursor(bytes);
    let version = from.u8()?;
    if ![VERSION, WITHOUT_STAMP].contains(&version) {
        return Err(NoHead);
    }
    let status = StatusCode::from_u16(from.u16()?).map_err(|_| NoHead)?;
    let numbers = (0..from.u8()?).map(|_| from.u64()).collect::<Result<Vec<_>, _>>()?;
    let validity = Validity::from_numbers(&numbers).ok_or(NoHead)?;
    let mut selecting = Vec::new();
    for _ in 0..from.u32()? {
        selecting.push(from.name()?);
    }
    let mut headers = HeaderMap::new();
    for _ in 0..from.u32()? {
        let name = from.name()?;
        let value = HeaderValue::from_bytes(from.text()?).map_err(|_| NoHead)?;
        headers.try_append(name, value).map_err(|_| NoHead)?;
    }
    let stamp = if version == WITHOUT_STAMP { &[] } else { from.text()? };
    if !from.0.is_empty() {
        return Err(NoHead);
    }
    let stamp = Stamp::from_bytes(stamp);
    Ok(Head { status, headers, selecting: selecting.into(), validity, stamp })
}

fn put(to: &mut Vec<u8>, text: &[u8]) {
    to.extend_from_slice(&(text.len() as u32).to_le_bytes());
    to.extend_from_slice(text);
}

/// What is left to read. Lengths are checked against it before anything is allocated.
#[derive(Debug)]
pub(super) struct Cursor<'a>(pub(super) &'a [u8]);

impl<'a> Cursor<'a> {
    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], NoHead> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(NoHead)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], NoHead> {
        Ok(self.take(N)?.try_into().expect("N bytes were taken"))
    }

    pub(super) fn u8(&mut self) -> Result<u8, NoHead> {
        Ok(self.array::<1>()?[0])
    }

    pub(super) fn u16(&mut self) -> Result<u16, NoHead> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, NoHead> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, NoHead> {
        self.array().map(u64::from_le_bytes)
    }

    fn text(&mut self) -> Result<&'a [u8], NoHead> {
        let length = self.u32()?;
        self.take(length as usize)
    }

    fn name(&mut self) -> Result<HeaderName, NoHead> {
        HeaderName::from_bytes(self.text()?).map_err(|_| NoHead)
    }
}
