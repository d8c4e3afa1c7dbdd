//! What references say of bodies: version and digest; and which of them are to be believed [design §4.4].
//!
//! A reference is stored for nobody but the address that it names, so a word costs an address. Networks (an IPv4 /24, an IPv6 /48) are
//! counted, not addresses, or whoever has many of one network would be many. Words are compared that are about the same version: others say
//! nothing of each other. Two networks that say the same, more than say anything else, are believed; of a disagreement without such two the
//! origin is asked, whose body then tells who was wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use coral_dsht::Prefix;

use crate::version::Version;

/// Bytes of a stamp.
pub(crate) const STAMP_BYTES: usize = VERSION_BYTES + DIGEST_BYTES;
const VERSION_BYTES: usize = 8;
const DIGEST_BYTES: usize = 16;

/// What a reference says of the body that its node has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp {
    version: [u8; VERSION_BYTES],
    /// The first bytes of its SHA-256.
    digest: [u8; DIGEST_BYTES],
}

impl Stamp {
    /// That of a body of this version with this SHA-256.
    pub fn of(version: &Version, sha256: &[u8; 32]) -> Self {
        let mut stamp = Self { version: [0; VERSION_BYTES], digest: [0; DIGEST_BYTES] };
        stamp.version.copy_from_slice(&version.tag().as_bytes()[..VERSION_BYTES]);
        stamp.digest.copy_from_slice(&sha256[..DIGEST_BYTES]);
        stamp
    }

    /// Whether it is one of a body of this version.
    pub fn is_of(&self, version: &Version) -> bool {
        version.tag().as_bytes().starts_with(&self.version)
    }

    /// As it stands in a reference.
    pub fn to_bytes(self) -> [u8; STAMP_BYTES] {
        let mut bytes = [0; STAMP_BYTES];
        bytes[..VERSION_BYTES].copy_from_slice(&self.version);
        bytes[VERSION_BYTES..].copy_from_slice(&self.digest);
        bytes
    }

    /// The one with which `bytes` begin; what is behind it is passed over.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (version, rest) = bytes.split_first_chunk()?;
        Some(Self { version: *version, digest: *rest.first_chunk()? })
    }
}

/// What others make of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// Nobody says otherwise, or fewer than say the same.
    Agreed,
    /// Others say otherwise, too few to be believed.
    Doubted,
    /// It is not what its node said itself, or what two other networks say.
    Contradicted,
}

/// The words of the nodes that the index names for one key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Words(BTreeMap<SocketAddr, Stamp>);

/// Networks that say so.
type Votes = BTreeMap<[u8; DIGEST_BYTES], BTreeSet<Prefix>>;

impl Words {
    /// Notes what the reference of `peer` says.
    pub(crate) fn hear(&mut self, peer: SocketAddr, stamp: Stamp) {
        self.0.insert(peer, stamp);
    }

    /// Whether some of them disagree, and none of them is to be believed.
    pub(crate) fn are_disputed(&self) -> bool {
        let versions: BTreeSet<_> = self.0.values().map(|stamp| stamp.version).collect();
        versions.into_iter().any(|version| {
            let votes = self.votes(version, None);
            votes.len() > 1 && believed(&votes).is_none()
        })
    }

    /// Whether `peer` has said otherwise than others who are to be believed.
    pub(crate) fn outvote(&self, peer: SocketAddr) -> bool {
        self.0.get(&peer).is_some_and(|word| {
            let believed = believed(&self.votes(word.version, None));
            believed.is_some_and(|digest| digest != word.digest)
        })
    }

    /// What is to be made of a body that `peer` has delivered.
    pub(crate) fn judge(&self, peer: SocketAddr, stamp: Stamp) -> Judgement {
        let differs = |word: &Stamp| word.version == stamp.version && word.digest != stamp.digest;
        if self.0.get(&peer).is_some_and(differs) {
            return Judgement::Contradicted;
        }
        let votes = self.votes(stamp.version, Some(Prefix::of(peer.ip())));
        let same = votes.get(&stamp.digest).map_or(0, BTreeSet::len);
        let others = votes.iter().filter(|(digest, _)| **digest != stamp.digest);
        match others.map(|(_, networks)| networks.len()).max().unwrap_or(0) {
            against if against <= same => Judgement::Agreed,
            1 => Judgement::Doubted,
            _ => Judgement::Contradicted,
        }
    }

    /// Who has said otherwise of the version of which the origin's body has this stamp.
    pub(crate) fn against(&self, stamp: Stamp) -> impl Iterator<Item = SocketAddr> {
        let differ = move |word: &Stamp| word.version == stamp.version && word.digest != stamp.digest;
        self.0.iter().filter(move |(_, word)| differ(word)).map(|(peer, _)| *peer)
    }

    fn votes(&self, version: [u8; VERSION_BYTES], but: Option<Prefix>) -> Votes {
        let mut votes = Votes::new();
        for (peer, word) in self.0.iter().filter(|(_, word)| word.version == version) {
            let network = Prefix::of(peer.ip());
            if but != Some(network) {
                votes.entry(word.digest).or_default().insert(network);
            }
        }
        votes
    }
}

/// What two networks say, and more than say anything else.
fn believed(votes: &Votes) -> Option<[u8; DIGEST_BYTES]> {
    let (digest, networks) = votes.iter().max_by_key(|(_, networks)| networks.len())?;
    let rivals = votes.values().filter(|other| other.len() == networks.len()).count();
    (networks.len() > 1 && rivals == 1).then_some(*digest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The `number`-th node of a network.
    fn node(network: u8, number: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, network, number], 80))
    }

    fn stamp(version: u8, digest: u8) -> Stamp {
        Stamp { version: [version; VERSION_BYTES], digest: [digest; DIGEST_BYTES] }
    }

    /// What each of these nodes says of version 1.
    fn words(said: &[(SocketAddr, u8)]) -> Words {
        Words(said.iter().map(|(peer, digest)| (*peer, stamp(1, *digest))).collect())
    }

    #[test]
    fn of_two_who_disagree_nobody_is_believed_and_of_three_two_who_agree() {
        let [a, b, liar] = [1, 2, 3].map(|network| node(network, 1));
        assert!(!words(&[]).are_disputed() && !words(&[(a, 7), (b, 7)]).are_disputed());
        assert!(words(&[(a, 7), (liar, 9)]).are_disputed());
        let all = words(&[(a, 7), (b, 7), (liar, 9)]);
        assert!(!all.are_disputed());
        assert_eq!([a, b, liar, node(4, 1)].map(|peer| all.outvote(peer)), [false, false, true, false]);
        let split = words(&[(a, 7), (b, 7), (liar, 9), (node(4, 1), 9)]);
        assert!(split.are_disputed() && !split.outvote(liar));
    }

    #[test]
    fn many_of_one_network_are_one() {
        let liars: Vec<_> = (0..16).map(|number| (node(3, number), 9)).collect();
        let all = words(&[&liars[..], &[(node(1, 1), 7), (node(2, 1), 7)]].concat());
        assert!(!all.are_disputed() && all.outvote(node(3, 5)) && !all.outvote(node(1, 1)));
        assert!(words(&[&liars[..], &[(node(1, 1), 7)]].concat()).are_disputed());
        assert!(!words(&liars).are_disputed(), "there is nobody to ask");
    }

    #[test]
    fn of_another_version_nothing_is_said() {
        let mut words = words(&[(node(1, 1), 7), (node(2, 1), 7)]);
        words.hear(node(3, 1), stamp(2, 9));
        assert!(!words.are_disputed() && !words.outvote(node(3, 1)));
        assert_eq!(words.judge(node(3, 1), stamp(2, 9)), Judgement::Agreed);
        assert_eq!(words.judge(node(4, 1), stamp(3, 9)), Judgement::Agreed);
    }

    #[test]
    fn what_is_delivered_is_held_against_what_its_node_and_others_say() {
        let [a, b, c] = [1, 2, 3].map(|network| node(network, 1));
        for (said, delivered, expected) in [
            (&[][..], 7, Judgement::Agreed),
            (&[(a, 7)], 7, Judgement::Agreed),
            (&[(a, 7)], 9, Judgement::Contradicted),
            (&[(b, 7)], 7, Judgement::Agreed),
            (&[(b, 7)], 9, Judgement::Doubted),
            (&[(node(1, 2), 7), (node(1, 3), 7)], 9, Judgement::Agreed),
            (&[(b, 7), (c, 7)], 9, Judgement::Contradicted),
            (&[(b, 7), (c, 9)], 9, Judgement::Agreed),
            (&[(b, 7), (c, 8)], 9, Judgement::Doubted),
            (&[(b, 7), (node(2, 2), 7)], 9, Judgement::Doubted),
        ] {
            assert_eq!(words(said).judge(a, stamp(1, delivered)), expected, "{said:?}, {delivered}");
        }
        let words = words(&[(a, 7), (b, 9)]);
        assert_eq!(words.against(stamp(1, 7)).collect::<Vec<_>>(), [b]);
        assert_eq!(words.against(stamp(2, 7)).count(), 0);
    }

    proptest! {
        #[test]
        fn one_network_convicts_nobody_and_is_outvoted_by_two(
            lies in prop::collection::vec((any::<u8>(), 0_u8..4), 0..20), honest in 1_u8..5,
        ) {
            let mut words = Words::default();
            for (number, digest) in &lies {
                words.hear(node(9, *number), stamp(1, *digest));
            }
            for network in 0..honest {
                words.hear(node(network, 1), stamp(1, 7));
            }
            for network in 0..honest {
                let peer = node(network, 1);
                prop_assert!(!words.outvote(peer));
                prop_assert_eq!(words.judge(peer, stamp(1, 7)) == Judgement::Contradicted, false);
                if honest > 2 {
                    prop_assert_eq!(words.judge(peer, stamp(1, 7)), Judgement::Agreed);
                    prop_assert_eq!(words.judge(node(9, 1), stamp(1, 0)), Judgement::Contradicted);
                }
            }
            if honest > 1 {
                prop_assert!(!words.are_disputed());
                prop_assert!(lies.iter().all(|(number, _)| words.outvote(node(9, *number))));
            }
        }

        #[test]
        fn a_stamp_is_read_as_it_is_written_whatever_is_behind_it(
            version: [u8; VERSION_BYTES], digest: [u8; DIGEST_BYTES], behind: Vec<u8>,
        ) {
            let stamp = Stamp { version, digest };
            prop_assert_eq!(Stamp::from_bytes(&[&stamp.to_bytes()[..], &behind].concat()), Some(stamp));
            prop_assert_eq!(Stamp::from_bytes(&stamp.to_bytes()[1..]), None);
        }
    }
}
