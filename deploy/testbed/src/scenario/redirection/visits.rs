//! A stub resolver that asks for a new name every second, as a site full of people does.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::dns::SUFFIX;

/// One name that was asked for.
#[derive(Debug, Clone)]
pub struct Asked {
    /// When.
    pub at: std::time::Instant,
    /// Until the answer.
    pub took: Duration,
    /// Its addresses, in their order, or why there are none.
    pub answer: Result<Vec<IpAddr>, String>,
}

/// Which names are asked for, one each `every`, and how many.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Part of each name, so that no run has another's in its cache.
    pub run: String,
    /// The time between two names.
    pub every: Duration,
    /// How many.
    pub count: usize,
}

/// Asks; an answer that is late does not delay the names after it.
pub async fn ask(server: SocketAddr, plan: &Plan) -> Vec<Asked> {
    let start = Instant::now();
    let mut asking = JoinSet::new();
    for number in 0..plan.count {
        sleep_until(start + plan.every * number as u32).await;
        let name = name(&plan.run, number);
        asking.spawn(async move {
            let at = std::time::Instant::now();
            let answer = resolve(server, &name).await;
            Asked { at, took: at.elapsed(), answer: answer.map_err(|why| format!("{name}: {why}")) }
        });
    }
    let mut asked = asking.join_all().await;
    asked.sort_by_key(|asked| asked.at);
    asked
}

/// Names of other hosts under a few top labels.
fn name(run: &str, number: usize) -> String {
    let top = ["com", "net", "org"][number % 3];
    format!("www.{run}-{number}.example.{top}.{SUFFIX}.")
}

/// As libc does it: again after five seconds, and no more after ten.
async fn resolve(server: SocketAddr, name: &str) -> Result<Vec<IpAddr>, String> {
    let name = Name::from_ascii(name).map_err(|e| e.to_string())?;
    let mut query = Message::new(1, MessageType::Query, OpCode::Query);
    query.metadata.recursion_desired = true;
    query.add_query(Query::query(name, RecordType::A));
    let bytes = query.to_vec().map_err(|e| e.to_string())?;
    let socket = UdpSocket::bind(("0.0.0.0", 0)).await.map_err(|e| e.to_string())?;
    socket.connect(server).await.map_err(|e| e.to_string())?;
    let begun = Instant::now();
    for attempt in 1..=2 {
        socket.send(&bytes).await.map_err(|e| e.to_string())?;
        let mut answer = [0; 4096];
        if let Ok(received) = timeout_at(begun + PATIENCE * attempt, socket.recv(&mut answer)).await {
            let length = received.map_err(|e| e.to_string())?;
            let answer = Message::from_vec(&answer[..length]).map_err(|e| e.to_string())?;
            let addresses: Vec<IpAddr> = answer
                .answers
                .iter()
                .filter_map(|record| match &record.data {
                    RData::A(a) => Some(IpAddr::V4(a.0)),
                    _ => None,
                })
                .collect();
            let code = answer.metadata.response_code;
            return match addresses.is_empty() || code != ResponseCode::NoError {
                true => Err(format!("{code}, {} addresses", addresses.len())),
                false => Ok(addresses),
            };
        }
    }
    Err(format!("no answer within {:?}", PATIENCE * 2))
}

/// Until the question is asked again.
const PATIENCE: Duration = Duration::from_secs(5);
