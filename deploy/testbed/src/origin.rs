//! The web site that the network serves: the files of the paper's flash crowd, twelve of 41 KB [C04 §6.1], each of other bytes that do
//! not compress.

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng as _, SeedableRng as _};

/// How many files a flash crowd asks for [C04 §6.1].
pub const FILES: usize = 12;
/// Bytes of each.
pub const FILE_BYTES: usize = 41 << 10;

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
