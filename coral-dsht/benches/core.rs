//! What the core costs: messages to bytes and back, one step of a lookup at the node that is asked (a get that finds
//! nothing: from bytes to bytes), simulated events.
//!
//! ```text
//! cargo bench -p coral-dsht --features sim --bench core
//! ```
//!
//! Times are the best of several rounds, as other programs run beside this one, and stand beside the time that hashing one
//! id takes on the same machine: that ratio may be compared with another machine's.

#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::hint::black_box;
use std::net::SocketAddr;
use std::time::{Duration, Instant as Clock};

use coral_dsht::message::{Body, ClusterInfo, Clusters, Header, Message, Request, Response, TOKEN_BYTES, Token};
use coral_dsht::sim::Simulation;
use coral_dsht::{Config, Id, Level, Peer, Services, Value, wire};

fn main() {
    let id = Id::hash(&[b"a key"]);
    let baseline = nanoseconds(|| {
        black_box(Id::hash(&[black_box(id.as_bytes())]));
    });
    let line = |what: &str, nanoseconds: f64| {
        println!("{what:<58} {nanoseconds:>9.0} ns {:>8.1} × hashing an id", nanoseconds / baseline);
    };
    line("hashing an id", baseline);

    let distance = id.distance(&Id::hash(&[b"another"]));
    let get = message(Body::Request(Request::Get { level: Level::GLOBAL, key: id, aim: distance }));
    let peers = message(Body::Response(Response::Peers((0..4).map(peer).collect())));
    let value = Value::new(b"192.0.2.1:80").expect("it is short");
    let values = message(Body::Response(Response::Values(vec![value; 4])));
    for (name, message) in [("a get", &get), ("an answer of four peers", &peers), ("an answer of four values", &values)]
    {
        let bytes = wire::encode(message);
        line(
            &format!("encoding {name} ({} bytes)", bytes.len()),
            nanoseconds(|| drop(black_box(wire::encode(message)))),
        );
        line(&format!("decoding {name}"), nanoseconds(|| drop(black_box(wire::decode(black_box(&bytes))))));
    }

    let mut sims = [10, 50, NODES].map(|nodes| {
        let mut sim = Simulation::new(42, Config::default());
        sim.join(nodes);
        sim
    });
    for sim in &mut sims {
        let (now, from, nodes) = (sim.now(), sim.node(1).me().addr, sim.alive().count());
        let mut number = 0u64;
        let step = sim.act(0, |node| {
            nanoseconds(|| {
                number += 1;
                let key = Id::hash(&[&number.to_be_bytes()]);
                let aim = node.me().id.distance(&key).halved(1);
                let request = Request::Get { level: Level::GLOBAL, key, aim };
                let message = Message { request_id: number, ..message(Body::Request(request)) };
                node.handle_datagram(now, from, &wire::encode(&message));
                while let Some(output) = node.poll_output() {
                    black_box(output);
                }
            })
        });
        let known = sim.act(0, |node| node.snapshot(now).clusters[0].known);
        line(&format!("a step of a lookup at one of {nodes} nodes, which knows {known}"), step);
    }

    let [.., sim] = &mut sims;
    let mut best = f64::INFINITY;
    for round in 0..ROUNDS {
        let (before, begun) = (sim.trace().events(), Clock::now());
        for number in 0..GETS {
            let key = Id::hash(&[&(round * GETS + number).to_be_bytes()]);
            let (from, to) = (sim.random(NODES), sim.random(NODES));
            sim.put(from, key, Value::new(b"192.0.2.1:80").expect("it is short"), Duration::from_secs(3600));
            black_box(sim.get(to, key));
        }
        let events = sim.trace().events() - before;
        best = best.min(begun.elapsed().as_secs_f64() * 1e9 / events as f64);
    }
    line(&format!("a simulated event ({NODES} nodes, puts and gets, seed 42)"), best);
    println!("{:.0} simulated events a second", 1e9 / best);
}

/// What one call takes: the best of some rounds, each long enough for the clock.
fn nanoseconds(mut call: impl FnMut()) -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..20 {
        let begun = Clock::now();
        let mut calls = 0u32;
        while begun.elapsed() < Duration::from_millis(5) {
            for _ in 0..64 {
                call();
            }
            calls += 64;
        }
        best = best.min(begun.elapsed().as_secs_f64() * 1e9 / f64::from(calls));
    }
    best
}

fn peer(number: u16) -> Peer {
    let [high, low] = number.to_be_bytes();
    Peer::new(SocketAddr::from(([10, high, low, 1], 4000)), Services::NONE)
}

/// With the header of a node that is in two clusters and has been given a token.
fn message(body: Body) -> Message {
    let info = |name: &[u8]| ClusterInfo { id: Id::hash(&[name]), age_minutes: 3, size: 100 };
    let token = Some(Token::from_bytes([7; TOKEN_BYTES]));
    let clusters = Clusters::new(vec![info(b"one"), info(b"two")]);
    Message { header: Header { clusters, token, instance: 1, ..Header::default() }, request_id: 1, body }
}

const NODES: usize = 200;
const ROUNDS: u64 = 20;
const GETS: u64 = 25;
