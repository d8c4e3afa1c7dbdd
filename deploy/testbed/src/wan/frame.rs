//! A packet as a TUN device passes it: with the header that says which work on it has been put off (virtio, §5.1.6).
//!
//! Hosts leave transport checksums to their device, and hand several TCP segments over as one large packet. A router need do
//! neither: it passes the header on, and the kernel at the other end takes the packet as it is. That is several times
//! cheaper than a packet at a time with all its checksums.

/// A packet with its header.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame(Box<[u8]>);

impl Frame {
    /// What a device has given, if there is at least a header.
    pub fn from_device(bytes: &[u8]) -> Option<Self> {
        (bytes.len() >= HEADER).then(|| Self(bytes.into()))
    }

    /// A packet of a router's own, with nothing put off.
    pub fn of_packet(packet: &[u8]) -> Self {
        Self([&[0; HEADER], packet].concat().into())
    }

    /// What a device takes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The packet.
    pub fn packet(&self) -> &[u8] {
        &self.0[HEADER..]
    }

    /// The packet, to change it in place.
    pub fn packet_mut(&mut self) -> &mut [u8] {
        &mut self.0[HEADER..]
    }

    /// The packet's length in bytes.
    pub fn len(&self) -> usize {
        self.0.len() - HEADER
    }

    /// Whether there is a header and nothing else.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Frame({} bytes)", self.len())
    }
}

/// `struct virtio_net_hdr`, as the kernel gives it unless told otherwise.
pub(crate) const HEADER: usize = 10;
/// The largest packet with its header.
pub(crate) const LARGEST: usize = HEADER + 65_535;
