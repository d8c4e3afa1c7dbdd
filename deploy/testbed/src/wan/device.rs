//! The device of a site: a TUN named `wan0`, made inside the site's namespace, with the site's addresses.
//!
//! It is born in a *nursery*, a namespace without a name, and then moved: its descriptor holds the namespace in which it was
//! opened, and a host whose last process has gone is to be gone, not to answer pings for as long as the router runs. The device
//! lives as long as the descriptor is open, and dies with the namespace it was moved to.

use std::fs::{File, OpenOptions};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;

use anyhow::{Context as _, anyhow};
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};

use crate::map::{IPV4_PREFIX, IPV6_PREFIX, Site};
use crate::netns::inside;

/// Makes the device of `site` in a namespace, ready to carry packets, by way of a nursery. Reading it does not block.
///
/// # Errors
///
/// If this process may not (CAP_NET_ADMIN), there is no `/dev/net/tun`, or there is such a device in the namespace already.
pub fn create(site: &Site, nursery: &File, namespace: &File) -> anyhow::Result<File> {
    let born_as = format!("site{}", site.number);
    let device = inside(nursery, || {
        let device = open_tun(&born_as)?;
        move_to(&born_as, namespace)?;
        anyhow::Ok(device)
    })??;
    let (ipv4, ipv6) = (site.ipv4, site.ipv6);
    inside(namespace, || configure(ipv4, ipv6))??;
    Ok(device)
}

/// Sets loopback up, in the namespace of the calling thread.
pub(crate) fn bring_up_loopback() -> anyhow::Result<()> {
    with_netlink(async |handle| {
        let up = LinkUnspec::new_with_name("lo").up().build();
        handle.link().set(up).execute().await.context("cannot set loopback up (CAP_NET_ADMIN is needed)")
    })
}

/// Makes the device in the namespace of the calling thread, with a name of its own.
fn open_tun(born_as: &str) -> anyhow::Result<File> {
    let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(CLONE_DEVICE);
    let file = file.map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => anyhow!(
            "there is no {CLONE_DEVICE}: `modprobe tun`, or, in a container, give it the device (--device {CLONE_DEVICE})"
        ),
        io::ErrorKind::PermissionDenied => anyhow!("{CLONE_DEVICE} may not be opened: run as root (CAP_NET_ADMIN)"),
        _ => anyhow::Error::new(e).context(format!("cannot open {CLONE_DEVICE}")),
    })?;
    let mut name = [0; libc::IFNAMSIZ];
    for (to, from) in name.iter_mut().zip(born_as.bytes()) {
        *to = from as libc::c_char;
    }
    let flags = (libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
    let request = libc::ifreq { ifr_name: name, ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: flags } };
    ioctl::set_interface(&file, &request).map_err(|errno| match errno {
        Errno::EBUSY | Errno::EEXIST => anyhow!("its {DEVICE} is just being made, by somebody else's order"),
        Errno::EPERM => anyhow!("a network device may not be made: run as root (CAP_NET_ADMIN)"),
        errno => anyhow!("cannot make {DEVICE}: {errno}"),
    })?;
    // Kernels before 6.2 do not know large datagrams.
    let offloads = ioctl::set_offload(&file, OFFLOAD | DATAGRAMS).or_else(|_| ioctl::set_offload(&file, OFFLOAD));
    offloads.with_context(|| format!("cannot set the offloads of {DEVICE}"))?;
    Ok(file)
}

/// Moves the device from the namespace of the calling thread to another, where it has its name.
fn move_to(born_as: &str, namespace: &File) -> anyhow::Result<()> {
    let index = if_nametoindex(born_as).with_context(|| format!("there is no {born_as} after it was made"))?;
    with_netlink(async |handle| {
        let moved =
            LinkUnspec::new_with_index(index).name(DEVICE.to_owned()).setns_by_fd(namespace.as_raw_fd()).build();
        handle.link().set(moved).execute().await.map_err(|e| match e {
            rtnetlink::Error::NetlinkError(message) if message.raw_code() == -libc::EEXIST => {
                anyhow!("there is a {DEVICE} in it already: does another router run?")
            }
            e => anyhow::Error::new(e).context(format!("cannot move {DEVICE} to its namespace")),
        })
    })
}

/// Gives the device in the namespace of the calling thread its addresses, and all routes.
fn configure(ipv4: Ipv4Addr, ipv6: Ipv6Addr) -> anyhow::Result<()> {
    let index = if_nametoindex(DEVICE).with_context(|| format!("there is no {DEVICE} after it was made"))?;
    with_netlink(async |handle| {
        let up = LinkUnspec::new_with_index(index).mtu(MTU).txqueuelen(QUEUE_PACKETS).up().build();
        handle.link().set(up).execute().await.with_context(|| format!("cannot set {DEVICE} up"))?;
        let v4 = handle.address().add(index, ipv4.into(), IPV4_PREFIX).execute();
        v4.await.with_context(|| format!("cannot give {DEVICE} the address {ipv4}"))?;
        let mut v6 = handle.address().add(index, ipv6.into(), IPV6_PREFIX);
        // Usable at once: there is no other host on this network that might have it.
        let nodad = rtnetlink::packet_route::address::AddressFlags::Nodad;
        v6.message_mut().attributes.push(AddressAttribute::Flags(nodad));
        v6.execute().await.with_context(|| format!("cannot give {DEVICE} the address {ipv6}"))?;
        let v4 = RouteMessageBuilder::<Ipv4Addr>::new().output_interface(index).build();
        handle.route().add(v4).execute().await.context("cannot set the default route")?;
        let v6 = RouteMessageBuilder::<Ipv6Addr>::new().output_interface(index).build();
        handle.route().add(v6).execute().await.context("cannot set the default route of IPv6")
    })
}

/// Lends a netlink socket in the namespace of the calling thread.
fn with_netlink<T>(work: impl AsyncFnOnce(Handle) -> anyhow::Result<T>) -> anyhow::Result<T> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_io().build().context("cannot start a runtime")?;
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection().context("cannot open a netlink socket")?;
        tokio::spawn(connection);
        work(handle).await
    })
}

/// The two requests that no library has in a safe form.
mod ioctl {
    use super::*;

    mod raw {
        nix::ioctl_write_ptr_bad!(tunsetiff, libc::TUNSETIFF, libc::ifreq);
        nix::ioctl_write_int_bad!(tunsetoffload, libc::TUNSETOFFLOAD);
    }

    #[expect(unsafe_code, reason = "ioctl takes whatever the request says")]
    pub(super) fn set_interface(tun: &File, request: &libc::ifreq) -> nix::Result<()> {
        // SAFETY: TUNSETIFF reads one `ifreq`, which lives until the call is over.
        unsafe { raw::tunsetiff(tun.as_raw_fd(), request) }.map(drop)
    }

    #[expect(unsafe_code, reason = "ioctl takes whatever the request says")]
    pub(super) fn set_offload(tun: &File, flags: libc::c_uint) -> nix::Result<()> {
        // SAFETY: TUNSETOFFLOAD takes an integer.
        unsafe { raw::tunsetoffload(tun.as_raw_fd(), flags as libc::c_int) }.map(drop)
    }
}

/// The device's name in each namespace.
pub const DEVICE: &str = "wan0";
const CLONE_DEVICE: &str = "/dev/net/tun";
/// Ethernet's, as hosts on the Internet have it.
const MTU: u32 = 1500;
/// What the device holds until the router reads it; with the default of 1,000, bursts of many flows lose packets here.
const QUEUE_PACKETS: u32 = 10_000;
/// Hosts leave the checksums of TCP and UDP to the device, and hand several segments over as one packet.
const OFFLOAD: libc::c_uint = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
/// And several datagrams.
const DATAGRAMS: libc::c_uint = libc::TUN_F_USO4 | libc::TUN_F_USO6;
