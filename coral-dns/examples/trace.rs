//! A traceroute for an ordinary user: `cargo run -p coral-dns --example trace -- 192.0.2.1` prints the last five hops before
//! an address, and with `--first` the first five towards it.

use std::error::Error;
use std::net::IpAddr;

use coral_dns::probe::trace::{TraceConfig, trace};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut config = TraceConfig::LAST;
    let mut destinations: Vec<IpAddr> = Vec::new();
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--first" => config = TraceConfig::FIRST,
            address => destinations.push(address.parse().map_err(|e| format!("`{address}`: {e}"))?),
        }
    }
    if destinations.is_empty() {
        return Err("no address to trace to; usage: trace [--first] ADDRESS...".into());
    }
    for destination in destinations {
        let trace = trace(destination, &config).await?;
        for hop in trace.hops {
            println!("{:>2}  {}  {:.2?}", hop.ttl, hop.addr, hop.rtt);
        }
        match trace.reached {
            Some(end) => println!("{:>2}  {destination}  {:.2?}", end.distance, end.rtt),
            None => println!(" -  {destination} does not answer"),
        }
    }
    Ok(())
}
