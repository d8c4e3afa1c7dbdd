//! A fast hash for numbers that strangers choose.
//!
//! Each query looks a few of them up, and the standard library's hash was a tenth of the way from its bytes to its answer.

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};

/// Makes hashes with two secret numbers: a number is masked by one and multiplied by the other, and the upper half of the
/// product is folded onto the lower, so that each bit of the result hangs on all bits of the number. Who does not see the
/// results, as nobody does here, cannot choose numbers that share one. For signatures, or where results show, it is too weak.
#[derive(Clone, Copy)]
pub struct Folded {
    mask: u64,
    factor: u64,
}

impl Folded {
    /// With secrets of its own.
    pub fn random() -> Self {
        let secret = RandomState::new();
        Self { mask: secret.hash_one(0), factor: secret.hash_one(1) | 1 }
    }

    /// The hash of one number.
    pub fn hash(&self, number: u64) -> u64 {
        let product = u128::from(number ^ self.mask) * u128::from(self.factor);
        product as u64 ^ (product >> 64) as u64
    }
}

impl fmt::Debug for Folded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Folded")
    }
}

impl BuildHasher for Folded {
    type Hasher = FoldedHasher;

    fn build_hasher(&self) -> FoldedHasher {
        FoldedHasher { folded: *self, state: 0 }
    }
}

/// One hash on its way.
#[derive(Debug)]
pub struct FoldedHasher {
    folded: Folded,
    state: u64,
}

impl Hasher for FoldedHasher {
    fn finish(&self) -> u64 {
        self.state
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut number = [0; 8];
            number[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(number));
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.state = self.folded.hash(self.state ^ number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Prefixes that follow each other, or that differ in their upper bits alone, are spread as if by chance, both by the
    /// bits that choose a part of a table and by those that choose a place in it.
    #[test]
    fn numbers_with_a_pattern_are_spread_evenly() {
        let folded = Folded::random();
        for step in [1, 1 << 8, 1 << 24, 1 << 40] {
            for shift in [0, 20, 50, 57] {
                let mut counts = [0_u32; 64];
                for number in 0..64_000_u64 {
                    counts[(folded.hash(number.wrapping_mul(step)) >> shift) as usize % 64] += 1;
                }
                // A thousand each. A standard deviation is 32, and a hash of this kind is at times more regular than chance,
                // but no bin may be nearly empty or hold several times its share.
                let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
                assert!(*least > 300 && *most < 3_000, "step {step}, bits from {shift}: {least} to {most}");
            }
        }
    }

    #[test]
    fn secrets_differ_and_bytes_count_wherever_they_are() {
        let (one, other) = (Folded::random(), Folded::random());
        assert_ne!(one.hash(1), other.hash(1));
        assert_eq!(one.hash_one(7_u64), one.hash(7));
        let hash = |bytes: &[u8]| {
            let mut hasher = one.build_hasher();
            hasher.write(bytes);
            hasher.finish()
        };
        assert_ne!(hash(b"123456789"), hash(b"123456780"));
        assert_ne!(hash(b"123456789"), hash(b"023456789"));
    }
}
