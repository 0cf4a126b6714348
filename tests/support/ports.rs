//! Ports that a test may count on: one where nobody listens, and one that a process which starts later gets.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Mutex;

use tokio::net::TcpSocket;

/// An address on loopback where nobody listens, and nobody will: it is taken, and kept.
pub fn closed_port() -> String {
    static KEPT: Mutex<Vec<TcpSocket>> = Mutex::new(vec![]);
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = socket.local_addr().unwrap().to_string();
    KEPT.lock().unwrap().push(socket);
    address
}

/// A port that nothing listens at, and that no other test of this process gets. It is below those that the system gives to
/// outgoing connections: such a one could otherwise take it before the process that it is for, or even connect to itself
/// there.
pub fn free_port(address: IpAddr) -> u16 {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let port = rand::random_range(20_100..32_000);
        if TcpListener::bind((address, port)).is_ok() && GIVEN.lock().unwrap().insert(port) {
            return port;
        }
    }
}
