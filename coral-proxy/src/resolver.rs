//! Names of origins to addresses: the system's name servers, and then only addresses that may be connected to.
//!
//! The lookup is this node's own, and the check is made on its outcome: what the HTTP client gets is what it connects
//! to. Without a `resolv.conf` names do not resolve, which is told; no public resolver is asked behind the operator's back.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hyper_util::client::legacy::connect::dns::Name;
use tower_service::Service;

use crate::address::is_public;
use crate::error::ProxyError;

/// Resolves with the system's name servers.
#[derive(Clone)]
pub(crate) struct Resolver {
    /// The error of the set-up is kept for those who ask: a node whose sites are all addresses needs no resolver.
    system: Result<Arc<TokioResolver>, Arc<str>>,
    public_only: bool,
    /// How long a lookup may take, all name servers together.
    timeout: Duration,
}

impl Resolver {
    /// With the configuration of the system.
    pub(crate) fn of_system(timeout: Duration) -> Self {
        let system = TokioResolver::builder_tokio().and_then(|builder| builder.build());
        let system = system.map(Arc::new).map_err(|error| {
            tracing::warn!(%error, "the system names no DNS servers: origins given by name will not be found");
            format!("the system names no DNS servers: {error}").into()
        });
        Self { system, public_only: true, timeout }
    }

    /// The same, for origins that the configuration names and that may be private.
    pub(crate) fn any_address(&self) -> Self {
        Self { system: self.system.clone(), public_only: false, timeout: self.timeout }
    }

    async fn lookup(&self, name: &str) -> Result<Vec<SocketAddr>, ProxyError> {
        let system = self.system.as_ref().map_err(|error| ProxyError::Resolver(Arc::clone(error)))?;
        // A dot at the end: no search domain of the operator's is tried.
        let lookup = system.lookup_ip(format!("{}.", name.trim_end_matches('.')));
        let found = match tokio::time::timeout(self.timeout, lookup).await {
            Ok(found) => found.map_err(|error| blame(&error))?,
            Err(_) => return Err(ProxyError::ResolverTimeout),
        };
        let all: Vec<SocketAddr> = found.iter().map(|ip| SocketAddr::new(ip, 0)).collect();
        allowed(all, self.public_only)
    }
}

/// Whether it is the name that is at fault, or those who were asked for it.
fn blame(error: &NetError) -> ProxyError {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none))
            if matches!(none.response_code, ResponseCode::NXDomain | ResponseCode::NoError) =>
        {
            ProxyError::OriginName
        }
        NetError::Timeout => ProxyError::ResolverTimeout,
        other => ProxyError::Resolver(other.to_string().into()),
    }
}

/// Those of `all` that may be connected to.
fn allowed(all: Vec<SocketAddr>, public_only: bool) -> Result<Vec<SocketAddr>, ProxyError> {
    if all.is_empty() {
        return Err(ProxyError::OriginName);
    }
    let allowed: Vec<SocketAddr> = all.into_iter().filter(|addr| !public_only || is_public(addr.ip())).collect();
    if allowed.is_empty() { Err(ProxyError::OriginAddress) } else { Ok(allowed) }
}

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = ProxyError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, ProxyError>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), ProxyError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let resolver = self.clone();
        Box::pin(async move { Ok(resolver.lookup(name.as_str()).await?.into_iter()) })
    }
}

#[cfg(test)]
mod tests {
    use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
    use hickory_resolver::net::runtime::TokioRuntimeProvider;
    use tokio::net::UdpSocket;

    use super::*;

    /// A resolver whose one name server is at this port.
    fn asking(port: u16) -> Resolver {
        let mut connection = ConnectionConfig::udp();
        connection.port = port;
        let server = NameServerConfig::new("127.0.0.1".parse().unwrap(), true, vec![connection]);
        let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
        let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        let system = Ok(Arc::new(builder.build().unwrap()));
        Resolver { system, public_only: true, timeout: Duration::from_millis(500) }
    }

    /// A resolver whose one name server answers every question with this response code, or not at all.
    async fn with_server(code: Option<u8>) -> Resolver {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let resolver = asking(socket.local_addr().unwrap().port());
        tokio::spawn(async move {
            let mut question = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut question).await {
                if let Some(code) = code {
                    // The question comes back as an answer without records.
                    question[2] |= 0x80;
                    question[3] = code;
                    socket.send_to(&question[..length], from).await.unwrap();
                }
            }
        });
        resolver
    }

    #[tokio::test]
    async fn a_missing_name_is_told_from_a_server_that_fails_or_is_silent() {
        let lookup = async |code| with_server(code).await.lookup("www.example.com").await;
        assert!(matches!(lookup(Some(3)).await, Err(ProxyError::OriginName)), "NXDOMAIN");
        assert!(matches!(lookup(Some(0)).await, Err(ProxyError::OriginName)), "no data");
        assert!(matches!(lookup(Some(2)).await, Err(ProxyError::Resolver(_))), "SERVFAIL");
        assert!(matches!(lookup(None).await, Err(ProxyError::ResolverTimeout)), "silence");
    }

    /// A resolver whose one name server gives these addresses, one for each question, to be asked again at once.
    async fn rebinding(addresses: Vec<[u8; 4]>) -> Resolver {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let resolver = asking(socket.local_addr().unwrap().port());
        tokio::spawn(async move {
            let mut addresses = addresses.into_iter().cycle();
            let mut question = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut question).await {
                // The name begins behind the header of 12 bytes and ends with a zero; the type follows.
                let end = 12 + question[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
                let mut answer = question[..end.min(length)].to_vec();
                answer[2] |= 0x80;
                answer[10..12].fill(0);
                if answer[end - 4..end - 2] == [0, 1] {
                    answer[7] = 1;
                    answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
                    answer.extend(addresses.next().unwrap());
                }
                socket.send_to(&answer, from).await.unwrap();
            }
        });
        resolver
    }

    /// DNS rebinding: what was a public address a moment ago opens no way in, as each connection goes to what its own lookup
    /// gave, and that is checked.
    #[tokio::test]
    async fn a_name_that_turns_private_leads_nowhere() {
        let mut resolver = rebinding(vec![[9, 9, 9, 9], [127, 0, 0, 1], [169, 254, 169, 254]]).await;
        let mut connects = async || {
            let found = resolver.call("www.example.com".parse().unwrap()).await;
            found.map(Iterator::collect::<Vec<_>>)
        };
        assert_eq!(connects().await.unwrap(), ["9.9.9.9:0".parse::<SocketAddr>().unwrap()]);
        assert!(matches!(connects().await, Err(ProxyError::OriginAddress)), "loopback");
        assert!(matches!(connects().await, Err(ProxyError::OriginAddress)), "metadata");
        assert!(connects().await.is_ok());
    }

    #[test]
    fn a_name_that_leads_both_ways_leads_out_only() {
        let addrs = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<SocketAddr>>();
        let both = addrs(&["127.0.0.1:0", "9.9.9.9:0"]);
        assert_eq!(allowed(both.clone(), true).unwrap(), addrs(&["9.9.9.9:0"]));
        assert_eq!(allowed(both, false).unwrap().len(), 2);
        assert!(matches!(allowed(addrs(&["10.0.0.1:0"]), true), Err(ProxyError::OriginAddress)));
        assert!(matches!(allowed(Vec::new(), true), Err(ProxyError::OriginName)));
    }
}
