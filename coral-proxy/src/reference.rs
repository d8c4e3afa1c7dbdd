//! References: what this node tells the index it has.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use coral_dsht::Value;

/// The first byte of a reference: an HTTP address follows. Other kinds of values may come to share a key.
const HTTP_ADDRESS: u8 = b'h';

/// What a reference says: the HTTP address of a node. `None` if the value is no reference.
pub fn decode_reference(value: &Value) -> Option<SocketAddr> {
    let (kind, rest) = value.as_bytes().split_first()?;
    let (ip, port) = rest.split_last_chunk::<2>()?;
    let ip: IpAddr = match ip.len() {
        4 => Ipv4Addr::from(<[u8; 4]>::try_from(ip).ok()?).into(),
        16 => Ipv6Addr::from(<[u8; 16]>::try_from(ip).ok()?).into(),
        _ => return None,
    };
    let port = u16::from_be_bytes(*port);
    (*kind == HTTP_ADDRESS && port != 0).then(|| SocketAddr::new(ip.to_canonical(), port))
}

/// The reference that names the node with this HTTP address.
pub fn encode_reference(addr: SocketAddr) -> Value {
    let mut bytes = vec![HTTP_ADDRESS];
    match addr.ip().to_canonical() {
        IpAddr::V4(ip) => bytes.extend(ip.octets()),
        IpAddr::V6(ip) => bytes.extend(ip.octets()),
    }
    bytes.extend(addr.port().to_be_bytes());
    Value::new(&bytes).expect("19 bytes are fewer than 64")
}
