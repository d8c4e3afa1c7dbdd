//! A nameserver by itself, with made-up neighbours: `cargo run -p coral-dns --example serve -- 127.0.0.1:5300`, and then
//! `dig @127.0.0.1 -p 5300 www.example.com.nyud.net`. Ctrl-C ends it and prints what it counted. Behind the address the file
//! of a key may be named (`coral dnssec-key FILE`), with which it signs then.

use std::error::Error;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

use coral_dns::{Config, Metrics, NAMESERVER, PROXY, Server, Sockets};
use coral_dsht::Peer;
use coral_dsht::memory::MemoryNetwork;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let listen = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:5300".to_owned());
    let network = MemoryNetwork::new();
    let peer =
        |addr: &str| -> Result<Peer, Box<dyn Error>> { Ok(Peer::new(addr.parse::<SocketAddr>()?, PROXY | NAMESERVER)) };
    let me = peer("192.0.2.1:4000")?;
    let dsht = network.node(me);
    let _neighbours = [
        network.node(peer("192.0.2.2:4000")?),
        network.node(peer("192.0.2.3:4000")?),
        network.node(peer("[2001:db8::4]:4000")?),
    ];

    let mut registry = Registry::default();
    let config = Config { dnssec_keys: std::env::args().skip(2).map(Into::into).collect(), ..Config::default() };
    let metrics = Metrics::register(&mut registry);
    let server = Server::new(Arc::new(config), vec!["nyud.net".parse()?], me, dsht, metrics);
    let sockets = Sockets { udp: vec![UdpSocket::bind(&listen)?], tcp: Some(TcpListener::bind(&listen).await?) };
    let stop = async {
        // Without a handler for it there is no other end than a kill.
        let _ = tokio::signal::ctrl_c().await;
    };
    server.run(sockets, stop).await?;
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    println!("{text}");
    Ok(())
}
