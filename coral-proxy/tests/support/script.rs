//! An index that says what the test wants.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use coral_dsht::{Claimed, Command, DshtHandle, Level, Stored, Value};
use coral_proxy::encode_reference;

/// An index that names to each node whom it was told to, but for those refused.
#[derive(Clone, Default)]
pub struct Script(Arc<Mutex<BTreeMap<SocketAddr, Vec<SocketAddr>>>>);

impl Script {
    /// From now on names `others` to `node`, whatever it asks for.
    pub fn names(&self, node: SocketAddr, others: &[SocketAddr]) {
        self.0.lock().unwrap().insert(node, others.to_vec());
    }

    /// The handle of the node `me`.
    pub fn index(&self, me: SocketAddr) -> DshtHandle {
        let (handle, mut commands) = DshtHandle::channel(8);
        let script = self.clone();
        tokio::spawn(async move {
            while let Some(command) = commands.recv().await {
                match command {
                    Command::Claim { refused, reply, .. } => {
                        let named = script.0.lock().unwrap().get(&me).cloned().unwrap_or_default();
                        let values = named.into_iter().map(encode_reference);
                        let values: Vec<Value> = values.filter(|value| !refused.contains(value)).collect();
                        let level = (!values.is_empty()).then_some(Level::GLOBAL);
                        let _ = reply.send(Claimed { values, level, ..Claimed::default() });
                    }
                    Command::Put { reply, .. } => drop(reply.send(Stored::default())),
                    Command::Remove { reply, .. } => drop(reply.send(1)),
                    _ => {}
                }
            }
        });
        handle
    }
}
