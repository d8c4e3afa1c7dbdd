//! The web site that the network serves: a few pages with pictures, and the files of the paper's flash crowd.
//!
//! The pages are those of `coral demo`. The files are twelve of 41 KB [C04 §6.1], each of other bytes that do not compress.
//! nginx serves them, and writes down whatever it is asked, so that it can be counted how often that is.

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
