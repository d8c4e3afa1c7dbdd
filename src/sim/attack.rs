//! Some nodes work against the others: gets that fail for it, and wrong values that gets return.
//!
//! The adversaries were honest until the tables were full, so that they are known; they answer pings like anybody. The index
//! cannot tell a wrong value from a right one. What it must do is to keep enough right ones within reach; whoever uses a value
//! checks what it leads to.

use std::net::SocketAddr;
use std::time::Duration;

use coral_dsht::message::{Body, Header, Message, Request, Response, Token};
use coral_dsht::sim::latency::Map;
use coral_dsht::sim::workload::{key, value};
use coral_dsht::sim::{Intruder, Simulation, check};
use coral_dsht::{Config, Distance, Instant, Level, Peer, Value, wire};
use serde_json::json;

use super::hops::figure;
use super::lab::Lab;
use crate::chart::{Axis, Chart, Series};
use crate::report::{Report, Row, Times, ms, percent};

/// What the adversaries do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attack {
    /// They answer no request but pings and those for peers.
    Drop,
    /// They have a value of their own for every get, room for every put, and know only each other.
    Lie,
    /// They send the forward phase of puts for one key to the nodes nearest to it, as fast as they can.
    HotPuts,
    /// They have the nodes nearest to one key store values of their own.
    Flood,
}

const ATTACKS: [(Attack, &str); 4] =
    [(Attack::Drop, "drop"), (Attack::Lie, "lie"), (Attack::HotPuts, "hot puts"), (Attack::Flood, "flood a key")];
/// Of all nodes.
const PER_CENT: [usize; 4] = [0, 1, 5, 10];

pub(super) fn run(lab: &Lab) -> Report {
    let nodes = lab.nodes.unwrap_or(490);
    let keys = lab.keys.unwrap_or(200);
    let mut rows: Vec<Row> = Vec::new();
    for (part, (attack, name)) in ATTACKS.iter().enumerate() {
        for (step, share) in PER_CENT.into_iter().enumerate() {
            lab.stage(&format!("{name}, {share} %"), (PER_CENT.len() * part + step, ATTACKS.len() * PER_CENT.len()));
            let figures = attacked(lab, *attack, nodes, nodes * share / 100, keys);
            rows.push([vec![("attack", json!(name)), ("adversaries_percent", json!(share))], figures].concat());
        }
    }
    let line = |attack: &str, name: &str| {
        let of = rows.iter().filter(|row| row[0].1 == json!(attack));
        of.map(|row| (figure(row, "adversaries_percent"), figure(row, name))).collect()
    };
    let mut series: Vec<Series> =
        ATTACKS.iter().map(|(_, name)| Series::new(format!("{name}: failed"), line(name, "failed_percent"))).collect();
    series.push(Series::new("lie: wrong values", line("lie", "wrong_percent")));
    series.push(Series::new("flood: wrong values", line("flood a key", "wrong_percent")));
    let at_ten = |attack: &str, name: &str| {
        let row = rows.iter().find(|row| row[0].1 == json!(attack) && row[1].1 == json!(10));
        row.map_or(f64::NAN, |row| figure(row, name))
    };
    let summary = vec![
        ("dropping_tenth_failed_percent", json!(at_ten("drop", "failed_percent"))),
        ("lying_tenth_failed_percent", json!(at_ten("lie", "failed_percent"))),
        ("lying_tenth_wrong_percent", json!(at_ten("lie", "wrong_percent"))),
        ("lying_tenth_lost_percent", json!(at_ten("lie", "lost_percent"))),
    ];
    Report {
        title: format!("{nodes} nodes, some of them adversaries, {keys} keys, seed {}", lab.seed),
        chart: Chart {
            title: format!("Gets by honest nodes among {nodes}: failed, and with wrong values"),
            x: Axis::linear("adversaries, per cent of all nodes"),
            y: Axis::linear("gets, per cent"),
            series,
        },
        rows,
        summary,
    }
}

fn attacked(lab: &Lab, attack: Attack, nodes: usize, adversaries: usize, keys: usize) -> Row {
    let mut sim = Simulation::new(lab.seed, Config::default());
    sim.set_map(Map::planetlab(lab.seed));
    sim.settled(nodes);
    sim.run_for(Duration::from_secs(10));
    // The first places are those of PlanetLab, which are in no order: adversaries are anywhere.
    let honest = nodes - adversaries;
    let villains: Vec<Peer> = (honest..nodes).map(|node| sim.node(node).me()).collect();
    for node in honest..nodes {
        sim.corrupt(node, Box::new(Villain { attack, friends: villains.clone(), sent: 0 }));
    }
    let one_key = matches!(attack, Attack::HotPuts | Attack::Flood);
    let targets = if one_key { 1 } else { keys };
    let mut hostile = storm(&mut sim, attack, honest..nodes);
    let putting: Vec<(usize, usize)> = if one_key {
        (0..PUTTERS.min(honest)).map(|_| (sim.random(honest), 0)).collect()
    } else {
        (0..keys).map(|key| (sim.random(honest), key)).collect()
    };
    lab.puts(&mut sim, putting, PER_SECOND);
    let mut got = Vec::new();
    for _ in 0..ROUNDS {
        hostile += storm(&mut sim, attack, honest..nodes);
        let wanted = (0..GETS / ROUNDS).map(|_| (sim.random(honest), sim.random(targets))).collect();
        got.extend(lab.gets(&mut sim, wanted, PER_SECOND));
    }
    let honest_values: Vec<Value> = (0..honest).map(value).collect();
    let is_right = |value: &Value| honest_values.contains(value);
    let failed = got.iter().filter(|got| !got.found.values.iter().any(is_right)).count();
    let misled: Vec<(usize, usize, Vec<Value>)> = got
        .iter()
        .filter(|got| !got.found.values.iter().any(is_right))
        .map(|got| (got.node, got.key, got.found.values.clone()))
        .collect();
    let lost = misled.into_iter().filter(|misled| !finds_with_claims(&mut sim, misled, is_right)).count();
    let wrong = got.iter().filter(|got| got.found.values.iter().any(|value| !is_right(value))).count();
    let times = Times::of(got.iter().map(|got| got.took));
    vec![
        ("adversaries", json!(adversaries)),
        ("gets", json!(got.len())),
        ("failed_percent", json!(percent(failed, got.len()))),
        ("wrong_percent", json!(percent(wrong, got.len()))),
        ("lost_percent", json!(percent(lost, got.len()))),
        ("p99_ms", json!(ms(times.percentile(99.0)))),
        ("hostile_datagrams", json!(hostile)),
    ]
}

/// Whether a reader that got nothing right finds it as the cache does: by claims that refuse what turned out to be of no use,
/// a few times over. It goes to the origin otherwise.
fn finds_with_claims(
    sim: &mut Simulation,
    (reader, wanted, wrong): &(usize, usize, Vec<Value>),
    is_right: impl Fn(&Value) -> bool,
) -> bool {
    let mine = bogus(u64::MAX - *reader as u64);
    let mut refused = wrong.clone();
    let found = (0..CLAIMS).any(|_| {
        let claimed = sim.claim(*reader, key(*wanted), mine.clone(), CLAIM_TTL, &refused);
        refused.extend(claimed.values.iter().cloned());
        claimed.values.iter().any(&is_right)
    });
    sim.remove(*reader, key(*wanted), mine);
    found
}

/// Lets the adversaries begin to talk to the nodes nearest to the key with number 0; how many datagrams that draws from them.
fn storm(sim: &mut Simulation, attack: Attack, adversaries: std::ops::Range<usize>) -> usize {
    if !matches!(attack, Attack::HotPuts | Attack::Flood) {
        return 0;
    }
    let nearest = check::by_distance(sim, &key(0));
    let mut sent = 0;
    for node in adversaries {
        for target in nearest.iter().filter(|target| **target != node).take(NEAREST) {
            let to = sim.node(*target).me().addr;
            let request = Request::Put { level: Level::GLOBAL, key: key(0), ttl: HOUR, aim: Distance::ZERO };
            let request_id = STORM | sim.random(1 << 40) as u64;
            let message = Message { header: Header::default(), request_id, body: Body::Request(request) };
            sim.send_as(node, to, &wire::encode(&message));
            sent += 1 + AT_ONCE as usize;
        }
    }
    sim.run_for(Duration::from_secs(1));
    sent
}

/// A value that no honest node puts: theirs are eight bytes.
fn bogus(number: u64) -> Value {
    Value::new(&[&b"bogus "[..], &number.to_be_bytes()].concat()).expect("a short value")
}

fn number_of(peer: Peer) -> u64 {
    match peer.addr {
        SocketAddr::V4(addr) => addr.ip().to_bits().into(),
        SocketAddr::V6(_) => 0,
    }
}

/// A node that was honest until everybody knew it.
#[derive(Debug)]
struct Villain {
    attack: Attack,
    friends: Vec<Peer>,
    sent: u64,
}

impl Intruder for Villain {
    fn intercept(
        &mut self,
        _: Instant,
        me: Peer,
        from: SocketAddr,
        bytes: &[u8],
    ) -> Option<Vec<(SocketAddr, Vec<u8>)>> {
        let Ok(Message { request_id, header, body }) = wire::decode(bytes) else { return None };
        let request = match body {
            Body::Request(request) if matches!(self.attack, Attack::Drop | Attack::Lie) => request,
            // The answer to what began the storm brings a token, with which all that follows is taken for honest.
            Body::Response(_) if request_id & STORM == STORM => return Some(self.burst(me, from, header.token)),
            _ => return None,
        };
        let friends = || self.friends.iter().copied().filter(|friend| friend.id != me.id).take(4).collect();
        let response = match (self.attack, request) {
            (_, Request::Ping) | (Attack::Drop, Request::Find { .. } | Request::Sample { .. }) => return None,
            (Attack::Drop, _) => return Some(Vec::new()),
            (_, Request::Get { .. }) => Response::Values(vec![bogus(0)]),
            (_, Request::Claim { .. }) => {
                // Never the same twice: that one would be refused.
                self.sent += 1;
                Response::Values(vec![bogus(number_of(me) << 32 | self.sent)])
            }
            (_, Request::Put { .. }) => Response::Room { full: false, loaded: false, peers: friends() },
            (_, Request::Store { .. } | Request::Remove { .. }) => Response::Done(true),
            _ => Response::Peers(friends()),
        };
        // The same clusters as the asker: it would not listen otherwise.
        let header = Header { clusters: header.clusters, ..Header::default() };
        Some(vec![(from, wire::encode(&Message { header, request_id, body: Body::Response(response) }))])
    }
}

impl Villain {
    /// As many datagrams as are sent at once to a node that has given this one a token.
    fn burst(&mut self, me: Peer, to: SocketAddr, token: Option<Token>) -> Vec<(SocketAddr, Vec<u8>)> {
        let Some(token) = token else { return Vec::new() };
        let (level, key, ttl) = (Level::GLOBAL, key(0), HOUR);
        (0..AT_ONCE)
            .map(|_| {
                self.sent += 1;
                let request = match self.attack {
                    Attack::Flood => Request::Store {
                        level,
                        key,
                        ttl,
                        value: bogus(number_of(me) << 32 | self.sent),
                        turned_back: false,
                    },
                    _ => Request::Put { level, key, ttl, aim: Distance::ZERO },
                };
                let header = Header { token: Some(token), ..Header::default() };
                // Ids of their own, and not the mark: nothing is to follow on the answers.
                let message = Message { header, request_id: self.sent, body: Body::Request(request) };
                (to, wire::encode(&message))
            })
            .collect()
    }
}

/// The mark of requests that begin a storm.
const STORM: u64 = 0xbad0 << 48;
const HOUR: Duration = Duration::from_secs(3600);
const PER_SECOND: f64 = 200.0;
const GETS: usize = 2000;
/// Claims that a reader makes before it goes to the origin, as coral-proxy's `peer.attempts` has it.
const CLAIMS: usize = 4;
const CLAIM_TTL: Duration = Duration::from_secs(20);
/// The gets are asked in so many parts, with an attack before each.
const ROUNDS: usize = 5;
/// Nodes that put the key that is attacked.
const PUTTERS: usize = 20;
/// An adversary aims at so many nodes, with so many datagrams at once.
const NEAREST: usize = 8;
const AT_ONCE: u64 = 20;
