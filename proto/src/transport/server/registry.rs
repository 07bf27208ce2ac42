//! Who is connected, so that a revoked peer can be cut at once.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// The live connections by peer name. Clones share one table.
#[derive(Debug, Clone, Default)]
pub struct ConnectionRegistry(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    next: u64,
    by_name: HashMap<String, HashMap<u64, Live>>,
}

#[derive(Debug)]
struct Live {
    addr: SocketAddr,
    end: Arc<Notify>,
}

/// Too many connections of one peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full;

impl ConnectionRegistry {
    /// A registry without connections.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends every connection of a peer and says how many there were. Calls in progress on them end with an error on
    /// both sides. The peer can connect again unless its certificate or name is refused elsewhere.
    pub fn disconnect(&self, name: &str) -> usize {
        let table = self.lock();
        let Some(connections) = table.by_name.get(name) else { return 0 };
        // `notify_one` keeps its permit until the connection's task looks.
        for live in connections.values() {
            live.end.notify_one();
        }
        connections.len()
    }

    /// Name and address of every live connection, sorted.
    #[must_use]
    pub fn connections(&self) -> Vec<(String, SocketAddr)> {
        let table = self.lock();
        let mut all: Vec<_> = table.by_name.iter().flat_map(|(name, live)| live.values().map(|l| (name.clone(), l.addr))).collect();
        all.sort();
        all
    }

    /// Adds a connection; it leaves the table when the result is dropped.
    pub(super) fn enter(&self, name: String, addr: SocketAddr, per_name_max: usize) -> Result<Entered, Full> {
        let end = Arc::new(Notify::new());
        let mut table = self.lock();
        table.next = table.next.wrapping_add(1);
        let id = table.next;
        let connections = table.by_name.entry(name.clone()).or_default();
        if connections.len() >= per_name_max.max(1) {
            return Err(Full);
        }
        connections.insert(id, Live { addr, end: Arc::clone(&end) });
        Ok(Entered { registry: self.clone(), name, id, end })
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // Nothing panics while the lock is held; a poisoned table is still a whole one.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place in the registry.
#[derive(Debug)]
pub(super) struct Entered {
    registry: ConnectionRegistry,
    name: String,
    /// Number of the connection within this process.
    pub(super) id: u64,
    /// Told when the connection must end.
    pub(super) end: Arc<Notify>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut table = self.registry.lock();
        if let Some(connections) = table.by_name.get_mut(&self.name) {
            connections.remove(&self.id);
            if connections.is_empty() {
                table.by_name.remove(&self.name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_come_and_go() {
        let registry = ConnectionRegistry::new();
        let addr = "127.0.0.1:1".parse().expect("address");
        let first = registry.enter("a".to_owned(), addr, 2).expect("room");
        let _second = registry.enter("a".to_owned(), addr, 2).expect("room");
        assert_eq!(registry.enter("a".to_owned(), addr, 2).err(), Some(Full));
        assert_eq!(registry.disconnect("a"), 2);
        assert_eq!(registry.disconnect("b"), 0);
        drop(first);
        assert_eq!(registry.connections(), [("a".to_owned(), addr)]);
        assert!(registry.enter("a".to_owned(), addr, 2).is_ok());
    }
}
