//! Asking nameservers for the address of a name, over real sockets, as a resolver would.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use tokio::net::UdpSocket;
use tokio::time::timeout;

/// How long one answer may take. A nameserver on the same machine needs a millisecond.
const PATIENCE: Duration = Duration::from_secs(2);

/// Datagrams get lost, even here, when a machine is busy.
const ATTEMPTS: usize = 3;

/// What a nameserver said.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status of the answer.
    pub code: ResponseCode,
    /// Whether it is authoritative.
    pub authoritative: bool,
    /// The addresses, in the order of the answer.
    pub addresses: Vec<IpAddr>,
    /// The least TTL among them, in seconds; 0 without any.
    pub ttl: u32,
}

/// The IPv4 addresses of `name`, asked of one nameserver over UDP.
pub async fn ask(server: SocketAddr, name: &str) -> anyhow::Result<Answer> {
    let mut name = Name::from_ascii(name)?;
    name.set_fqdn(true);
    // Ids need not be unguessable here: the socket is connected, and the question is compared.
    for id in 1..=ATTEMPTS as u16 {
        let mut query = Message::new(id, MessageType::Query, OpCode::Query);
        query.add_query(Query::query(name.clone(), RecordType::A));
        let socket = UdpSocket::bind((unspecified(server), 0)).await?;
        socket.connect(server).await?;
        socket.send(&query.to_vec()?).await?;
        let mut bytes = [0; 4096];
        let Ok(received) = timeout(PATIENCE, socket.recv(&mut bytes)).await else {
            continue;
        };
        let length = received.with_context(|| format!("no nameserver answers at {server}"))?;
        let answer = Message::from_vec(&bytes[..length]).context("the answer is no DNS message")?;
        ensure!(answer.metadata.id == id && answer.queries == query.queries, "it answers another question");
        return Ok(read(&answer));
    }
    bail!("{server} has not answered {ATTEMPTS} queries within {PATIENCE:?} each")
}

fn unspecified(like: SocketAddr) -> IpAddr {
    match like {
        SocketAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    }
}

fn read(answer: &Message) -> Answer {
    let addresses = answer.answers.iter().filter_map(|record| match &record.data {
        RData::A(a) => Some(IpAddr::V4(a.0)),
        RData::AAAA(a) => Some(IpAddr::V6(a.0)),
        _ => None,
    });
    Answer {
        code: answer.metadata.response_code,
        authoritative: answer.metadata.authoritative,
        addresses: addresses.collect(),
        ttl: answer.answers.iter().map(|record| record.ttl).min().unwrap_or(0),
    }
}

/// The answer of each of `servers`.
pub(super) async fn ask_all(servers: &[SocketAddr], name: &str) -> Vec<(SocketAddr, anyhow::Result<Answer>)> {
    let mut answers = Vec::new();
    for server in servers {
        answers.push((*server, ask(*server, name).await));
    }
    answers
}

/// What is wrong with the answers: each is to name some of `nodes`, and nobody else.
pub(super) fn wrong(answers: &[(SocketAddr, anyhow::Result<Answer>)], nodes: &[IpAddr]) -> Vec<String> {
    let problem = |answer: &anyhow::Result<Answer>| match answer {
        Err(e) => Some(format!("{e:#}")),
        Ok(answer) if answer.code != ResponseCode::NoError => Some(format!("it answered {}", answer.code)),
        Ok(answer) if answer.addresses.is_empty() => Some("it named no address".to_owned()),
        Ok(answer) => {
            let stranger = answer.addresses.iter().find(|ip| !nodes.contains(ip))?;
            Some(format!("it named {stranger}, where no node runs"))
        }
    };
    let said = answers.iter().filter_map(|(server, answer)| Some((server, problem(answer)?)));
    said.map(|(server, problem)| format!("the nameserver at {server}: {problem}")).collect()
}
