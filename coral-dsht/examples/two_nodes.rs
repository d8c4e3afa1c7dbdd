//! Two nodes on loopback sockets: one puts, the other gets.
//!
//! ```text
//! cargo run -p coral-dsht --features net --example two_nodes
//! ```

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use coral_dsht::{Config, Driver, Id, Levels, Peer, Services, Value};
use tokio::net::UdpSocket;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut handles = Vec::new();
    let mut seeds = Vec::new();
    for _ in 0..2 {
        let socket = UdpSocket::bind("127.0.0.1:0").await?;
        let me = Peer::new(socket.local_addr()?, Services::NONE);
        let (handle, driver) = Driver::new(socket, me, Arc::new(Config::default()))?;
        tokio::spawn(driver.run(seeds.clone(), std::future::pending()));
        seeds.push(me.addr);
        handles.push(handle);
    }
    let key = Id::hash(&[b"http://www.example.com/"]);
    let value = Value::new(b"127.0.0.1:8080").ok_or("a value is at most 64 bytes")?;
    // Until the two have met, each stores for itself alone: put until the other finds it.
    loop {
        handles[0].put(key, value.clone(), Duration::from_secs(60), Levels::ALL).await?;
        let found = handles[1].get(key, Levels::ALL).await?;
        if let Some(level) = found.level {
            println!("found {:?} at {level} after {} hops", found.values, found.hops.len());
            return Ok(());
        }
    }
}
