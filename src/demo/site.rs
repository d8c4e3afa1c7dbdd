//! The web site of the demonstration: a few pages, a style sheet, pictures, and one large file.
//!
//! All of it is made here, byte for byte the same on each run, so that a digest tells whether any of it was altered on
//! its way. The links are relative, so that they stay coralized by nature.

use std::fmt::Write as _;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::chance::Chance;

/// The host name that the site has at its origin.
pub const HOST: &str = "www.example.com";

/// Bytes of the large file: far more than a node keeps in memory of one object.
pub const LARGE_BYTES: usize = 20 << 20;

/// One object of the site.
#[derive(Debug, Clone)]
pub struct Object {
    /// The path of its URL.
    pub path: &'static str,
    /// Its Content-Type.
    pub content_type: &'static str,
    /// Its bytes.
    pub body: Bytes,
    /// Their SHA-256, by which a copy is recognised.
    pub digest: [u8; 32],
}

impl Object {
    /// An object with these bytes.
    pub fn new(path: &'static str, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        let body = body.into();
        Self { path, content_type, digest: Sha256::digest(&body).into(), body }
    }

    /// A strong validator: the digest's first half.
    pub fn etag(&self) -> String {
        let mut tag = String::from("\"");
        for byte in &self.digest[..16] {
            let _ = write!(tag, "{byte:02x}");
        }
        tag + "\""
    }

    /// Whether this is the large file, which takes long enough to be fetched that a crowd asks for it less.
    pub fn is_large(&self) -> bool {
        self.body.len() >= LARGE_BYTES
    }
}

/// All of it, the most popular first.
pub fn objects() -> Vec<Object> {
    const HTML: &str = "text/html; charset=utf-8";
    const SVG: &str = "image/svg+xml";
    vec![
        Object::new("/", HTML, include_str!("site/index.html")),
        Object::new("/style.css", "text/css; charset=utf-8", include_str!("site/style.css")),
        Object::new("/coral.svg", SVG, include_str!("site/coral.svg")),
        Object::new("/reef.html", HTML, include_str!("site/reef.html")),
        Object::new("/images/dawn.png", "image/png", picture(1, [(12, 34, 70), (214, 120, 96), (250, 214, 165)])),
        Object::new("/images/shallows.png", "image/png", picture(2, [(8, 60, 92), (38, 166, 166), (214, 240, 220)])),
        Object::new("/images/reef.png", "image/png", picture(3, [(60, 16, 66), (222, 82, 98), (252, 196, 140)])),
        Object::new("/images/deep.png", "image/png", picture(4, [(4, 10, 30), (20, 54, 110), (96, 160, 210)])),
        Object::new("/path.svg", SVG, include_str!("site/path.svg")),
        Object::new("/how.html", HTML, include_str!("site/how.html")),
        Object::new("/survey.bin", "application/octet-stream", large()),
    ]
}

/// Bytes that do not compress, from a fixed seed.
fn large() -> Vec<u8> {
    let mut chance = Chance::new(2004);
    let mut bytes = Vec::with_capacity(LARGE_BYTES);
    while bytes.len() < LARGE_BYTES {
        bytes.extend_from_slice(&chance.next().to_le_bytes());
    }
    bytes
}

const WIDTH: usize = 280;
const HEIGHT: usize = 180;

type Colour = (u8, u8, u8);

/// A seascape of waves in three colours, as a PNG with a palette: one byte a pixel, about 50 KB.
fn picture(seed: u64, [dark, middle, light]: [Colour; 3]) -> Vec<u8> {
    let mix = |a: u8, b: u8, share: usize| ((usize::from(a) * (127 - share) + usize::from(b) * share) / 127) as u8;
    let between = |a: Colour, b: Colour, share| [mix(a.0, b.0, share), mix(a.1, b.1, share), mix(a.2, b.2, share)];
    let palette: Vec<u8> = (0..256)
        .flat_map(|i| if i < 128 { between(dark, middle, i) } else { between(middle, light, i - 128) })
        .collect();

    let mut chance = Chance::new(seed);
    let waves: Vec<[f64; 4]> = (0..6)
        .map(|_| [0.01 + 0.05 * chance.share(), 0.02 + 0.09 * chance.share(), 6.3 * chance.share(), chance.share()])
        .collect();
    let mut rows = Vec::with_capacity(HEIGHT * (WIDTH + 1));
    for y in 0..HEIGHT {
        rows.push(0); // this row is not filtered
        for x in 0..WIDTH {
            let (x, y) = (x as f64, y as f64);
            let swell: f64 = waves.iter().map(|[a, b, phase, height]| height * (a * x + b * y + phase).sin()).sum();
            let grain = 6.0 * chance.share();
            let shade = 210.0 - 190.0 * y / HEIGHT as f64 + 14.0 * swell + grain;
            rows.push(shade.clamp(0.0, 255.0) as u8);
        }
    }
    png(&palette, &rows)
}

/// A PNG (RFC 2083) of 8 bits a pixel, its data stored without compression (RFC 1951 §3.2.4).
fn png(palette: &[u8], rows: &[u8]) -> Vec<u8> {
    let mut header = Vec::new();
    header.extend_from_slice(&(WIDTH as u32).to_be_bytes());
    header.extend_from_slice(&(HEIGHT as u32).to_be_bytes());
    header.extend_from_slice(&[8, 3, 0, 0, 0]); // depth, with a palette, deflate, plain filters, not interlaced

    let mut data = vec![0x78, 0x01];
    let blocks = rows.chunks(0xffff);
    let last = blocks.len() - 1;
    for (number, block) in blocks.enumerate() {
        let length = block.len() as u16;
        data.push(u8::from(number == last));
        data.extend_from_slice(&length.to_le_bytes());
        data.extend_from_slice(&(!length).to_le_bytes());
        data.extend_from_slice(block);
    }
    data.extend_from_slice(&adler32(rows).to_be_bytes());

    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    for (kind, body) in [(b"IHDR", &header[..]), (b"PLTE", palette), (b"IDAT", &data), (b"IEND", &[])] {
        file.extend_from_slice(&(body.len() as u32).to_be_bytes());
        let begin = file.len();
        file.extend_from_slice(kind);
        file.extend_from_slice(body);
        let check = crc32(&file[begin..]);
        file.extend_from_slice(&check.to_be_bytes());
    }
    file
}

/// RFC 1950 §8.2.
fn adler32(bytes: &[u8]) -> u32 {
    let (low, high) = bytes.iter().fold((1u32, 0u32), |(low, high), byte| {
        let low = (low + u32::from(*byte)) % 65521;
        (low, (high + low) % 65521)
    });
    (high << 16) | low
}

/// RFC 2083 §15, a bit at a time: the pictures are small.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_the_rfcs_test_words() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(adler32(b"Wikipedia"), 0x11e6_0398);
    }

    #[test]
    fn the_site_is_the_same_each_time() {
        let digests = || objects().iter().map(|object| object.digest).collect::<Vec<_>>();
        assert_eq!(digests(), digests());
    }

    #[test]
    fn pages_link_only_to_what_the_site_has() {
        let site = objects();
        for page in site.iter().filter(|object| object.content_type.starts_with("text/html")) {
            let text = std::str::from_utf8(&page.body).unwrap();
            for attribute in ["href=\"", "src=\""] {
                for target in text.split(attribute).skip(1).map(|rest| rest.split('"').next().unwrap()) {
                    let path = if target == "./" { "/".to_owned() } else { format!("/{target}") };
                    assert!(site.iter().any(|object| object.path == path), "{}: {target}", page.path);
                }
            }
        }
    }

    #[test]
    fn pictures_are_some_tens_of_kilobytes() {
        for object in objects().iter().filter(|object| object.content_type == "image/png") {
            assert!((20_000..80_000).contains(&object.body.len()), "{}: {}", object.path, object.body.len());
        }
    }
}
