//! The web site that the network serves: a few pages with pictures, and the files of the paper's flash crowd.
//!
//! The pages are those of `coral demo`. The files are twelve of 41 KB [C04 §6.1], each of other bytes that do not compress.
//! nginx serves them, and writes down whatever it is asked, so that it can be counted how often that is.

use std::num::NonZeroU64;
use std::path::Path;

use anyhow::Context as _;
use coral::demo::site;
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng as _, SeedableRng as _};

/// How many files a flash crowd asks for [C04 §6.1].
pub const FILES: usize = 12;
/// Bytes of each.
pub const FILE_BYTES: usize = 41 << 10;

/// A path that redirects to another page, with the origin's full name in it: the way back into the network is the nodes' to find.
pub const REDIRECT: &str = "/old-reef.html";
const REDIRECTED: &str = "/reef.html";

/// The path of the flash crowd's file of this number, from 0.
pub fn file_path(number: usize) -> String {
    format!("/files/{:02}.bin", number + 1)
}

/// The bytes of that file.
pub fn file(number: usize) -> Vec<u8> {
    let mut random = ChaCha8Rng::seed_from_u64(number as u64);
    let mut bytes = vec![0; FILE_BYTES];
    random.fill_bytes(&mut bytes);
    bytes
}

/// A body of any length, of which each byte follows from its place, so that any part of it can be checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stream {
    /// How many bytes it has.
    pub length: u64,
    /// How many the origin sends in a second at most, if it takes its time.
    pub rate: Option<NonZeroU64>,
}

impl Stream {
    /// Its path.
    pub fn path(self) -> String {
        format!("/streams/{}/{}", self.length, self.rate.map_or(0, NonZeroU64::get))
    }

    /// The one with this path.
    pub fn at(path: &str) -> Option<Self> {
        let (length, rate) = path.strip_prefix("/streams/")?.split_once('/')?;
        Some(Self { length: length.parse().ok()?, rate: NonZeroU64::new(rate.parse().ok()?) })
    }
}

/// Writes the bytes from `offset` on of any stream.
pub fn fill(mut offset: u64, mut bytes: &mut [u8]) {
    while !bytes.is_empty() {
        let word = word(offset / 8).to_le_bytes();
        let word = &word[(offset % 8) as usize..];
        let (here, rest) = bytes.split_at_mut(word.len().min(bytes.len()));
        here.copy_from_slice(&word[..here.len()]);
        offset += here.len() as u64;
        bytes = rest;
    }
}

/// Eight bytes that look like chance: a multiplication and two shifts, as a stream has gigabytes of them.
fn word(number: u64) -> u64 {
    let mixed = (number ^ (number >> 31)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 29)
}

/// The number of the file with this path, from 0.
pub fn number_of(path: &str) -> Option<usize> {
    (0..FILES).find(|number| file_path(*number) == path)
}

/// Writes the site into `directory`, as nginx looks for it.
///
/// # Errors
///
/// If a file cannot be written.
pub fn write(directory: &Path) -> anyhow::Result<()> {
    let objects = site::objects().into_iter().map(|object| (object.path.to_owned(), object.body.to_vec()));
    for (path, body) in objects.chain((0..FILES).map(|number| (file_path(number), file(number)))) {
        let file = if path.ends_with('/') { format!("{path}index.html") } else { path };
        let file = directory.join(file.trim_start_matches('/'));
        let write = || {
            std::fs::create_dir_all(file.parent().unwrap_or(directory))?;
            std::fs::write(&file, body)
        };
        write().with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

/// nginx's configuration for the site in `directory`, for the host name `name`; what it is asked it notes down in `log`.
pub fn nginx(name: &str, directory: &str, log: &str) -> String {
    format!(
        "daemon off;\n\
         user www-data;\n\
         worker_processes 1;\n\
         pid /run/nginx.pid;\n\
         error_log stderr warn;\n\
         events {{ worker_connections 1024; }}\n\
         http {{\n    \
             include /etc/nginx/mime.types;\n    \
             charset utf-8;\n    \
             # When, by whom, and with what outcome: one line a request.\n    \
             log_format requests '$msec $remote_addr $request_method $request_uri $status $body_bytes_sent';\n    \
             access_log {log} requests;\n    \
             server {{\n        \
                 listen 80 default_server;\n        \
                 server_name {name};\n        \
                 root {directory};\n        \
                 add_header Cache-Control \"max-age=3600\";\n        \
                 location = {REDIRECT} {{ return 301 http://{name}{REDIRECTED}; }}\n    \
             }}\n\
         }}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_part_of_a_stream_is_the_same_as_in_the_whole() {
        let mut whole = [0; 100];
        fill(4096, &mut whole);
        for (from, to) in [(0, 100), (1, 100), (7, 9), (8, 16), (33, 34)] {
            let mut part = vec![0; to - from];
            fill(4096 + from as u64, &mut part);
            assert_eq!(part, whole[from..to], "{from}..{to}");
        }
        assert_ne!(whole[..8], whole[8..16]);
    }

    #[test]
    fn a_stream_is_known_by_its_path() {
        let stream = Stream { length: 5, rate: NonZeroU64::new(7) };
        assert_eq!(Stream::at(&stream.path()), Some(stream));
        assert_eq!(Stream::at("/streams/5/0"), Some(Stream { length: 5, rate: None }));
        assert_eq!(Stream::at("/streams/5"), None);
    }

    #[test]
    fn the_site_has_pages_and_twelve_different_files() {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path()).unwrap();
        let read = |path: &str| std::fs::read(directory.path().join(path)).unwrap();
        assert!(String::from_utf8(read("index.html")).unwrap().contains("style.css"));
        let mut files: Vec<Vec<u8>> =
            (0..FILES).map(|number| read(file_path(number).trim_start_matches('/'))).collect();
        assert!(files.iter().all(|file| file.len() == FILE_BYTES));
        files.sort();
        files.dedup();
        assert_eq!(files.len(), FILES);
    }
}
