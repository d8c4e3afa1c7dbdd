//! Records and heads as bytes: whatever goes in comes out, and whatever is read costs nothing but a miss.

use http::header::HeaderName;
use proptest::prelude::*;

use super::head::Head;
use super::*;
use crate::stamp::STAMP_BYTES;

/// The number of the segment in these tests.
const SEGMENT: u32 = 7;

fn object(
    status: u16,
    fields: Vec<(String, Vec<u8>)>,
    selecting: Vec<String>,
    numbers: [u32; 5],
    stamp: Option<[u8; STAMP_BYTES]>,
    body: Vec<u8>,
) -> Object {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_bytes(&value).unwrap());
    }
    let status = StatusCode::from_u16(status).unwrap();
    let validity = Validity::from_numbers(&numbers.map(|number| u64::from(number) * 1_000_003)).unwrap();
    Object {
        selecting: selecting.iter().map(|name| name.parse().unwrap()).collect(),
        variant: variant(1),
        stamp: stamp.and_then(|stamp| Stamp::from_bytes(&stamp)).map(OnceLock::from).unwrap_or_default(),
        ..Object::new(url(1), status, headers, Body::whole_of(body.into()), validity)
    }
}

proptest! {
    #[test]
    fn a_record_comes_back_as_it_went(
        status in 100_u16..1000,
        fields in prop::collection::vec(("[a-z][a-z-]{0,20}", prop::collection::vec(0x20_u8..0x7f, 0..40)), 0..20),
        selecting in prop::collection::vec("[a-z][a-z-]{0,20}", 0..4),
        numbers: [u32; 5],
        stamp: Option<[u8; STAMP_BYTES]>,
        body in prop::collection::vec(any::<u8>(), 0..2000),
        cut: prop::sample::Index,
        flipped: (prop::sample::Index, u8),
    ) {
        let object = object(status, fields, selecting, numbers, stamp, body);
        let mut bytes = vec![0; 5];
        let entry = record::encode(&object, SEGMENT, SystemTime::UNIX_EPOCH, 100, &mut bytes).unwrap();
        prop_assert_eq!(entry.offset, 105);
        let bytes = Bytes::from(bytes).slice(5..);
        let record = record::decode(SEGMENT, &bytes).unwrap();
        prop_assert_eq!(record.length, bytes.len());
        prop_assert_eq!(&record.entry(105), &entry);
        let Content::Whole(body) = &record.content else { panic!("it went in whole") };
        prop_assert_eq!(body, &object.body.whole().unwrap());
        prop_assert_eq!(&record.head.headers, &object.headers);
        prop_assert_eq!(&record.head.validity, &object.validity);
        prop_assert_eq!(record.head.stamp, object.stamp.get().copied());
        let head = record.head;
        // As it was written before there were stamps.
        let mut before = Vec::new();
        head::encode(&object, &mut before);
        before[0] = 1;
        before.truncate(before.len() - 4 - stamp.map_or(0, |stamp| stamp.len()));
        prop_assert_eq!(head::decode(&before).unwrap(), Head { stamp: None, ..head });
        // In its footer as well.
        let footer = segment::footer(SEGMENT, &[entry.clone(), entry.clone()]);
        prop_assert_eq!(segment::decode_footer(&footer[..footer.len() - 20]).unwrap(), vec![entry.clone(), entry]);
        // Nothing but the very bytes is a record, and that in its own segment only.
        prop_assert!(record::decode(SEGMENT, &bytes.slice(..cut.index(bytes.len()))).is_err());
        prop_assert!(record::decode(SEGMENT + 1, &bytes).is_err());
        let mut damaged = bytes.to_vec();
        damaged[flipped.0.index(bytes.len())] ^= flipped.1.max(1);
        prop_assert!(record::decode(SEGMENT, &damaged.into()).is_err());
    }

    #[test]
    fn any_bytes_are_read(bytes: Vec<u8>, with_magic in prop::collection::vec(any::<u8>(), 0..200)) {
        fuzz(&bytes);
        fuzz(&[b"cOb1\x00\x00\x00\x00\x20\x00\x00\x00\x08\x00\x00\x00".as_slice(), &with_magic].concat());
        let _ = head::decode(&bytes);
    }
}

/// What is on the disks of nodes: if this fails, the version must be another one.
#[test]
fn the_bytes_of_a_record_are_these() {
    let object = object(
        404,
        vec![("etag".to_owned(), b"\"a\"".to_vec())],
        vec!["accept".to_owned()],
        [1, 0, 2, 3, 4],
        Some([5; STAMP_BYTES]),
        b"body".to_vec(),
    );
    let mut bytes = Vec::new();
    record::encode(&object, SEGMENT, SystemTime::UNIX_EPOCH, 16, &mut bytes).unwrap();
    let hex: Vec<String> =
        bytes.chunks(24).map(|line| line.iter().map(|byte| format!("{byte:02x}")).collect()).collect();
    expect_test::expect![[r#"
        634f6231000000007100000004000000f2fc605eb000666b
        83b7121b578cac429efa520ff2fc605eb000666b83b7121b
        578cac429efa520f0200000000000000f1ee6f4c64a7ada7
        0294010643420f0000000000000000000000000086841e00
        00000000c9c62d00000000000c093d000000000043420f00
        000000000100000006000000616363657074010000000400
        000065746167030000002261221800000005050505050505
        0505050505050505050505050505050505626f6479"#]]
    .assert_eq(&hex.join("\n"));
}
