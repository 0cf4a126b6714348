//! A TCP link that a test can cut, hold and mend.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A port of this machine that leads to another address, while the link is whole.
pub struct Link {
    pub address: String,
    state: watch::Sender<State>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Whole,
    /// Connections stay, and nothing comes through.
    Held,
    Cut,
}

impl Link {
    pub async fn to(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, target) = (listener.local_addr().unwrap().to_string(), target.to_owned());
        let (state, watched) = watch::channel(State::Whole);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let (target, mut watched) = (target.clone(), watched.clone());
                tokio::spawn(async move {
                    let carried = carry(near, target, watched.clone());
                    tokio::select! {
                        _ = carried => {}
                        _ = watched.wait_for(|state| *state == State::Cut) => {}
                    }
                });
            }
        });
        Self { address, state }
    }

    /// Closes every connection, and each new one at once.
    pub fn cut(&self) {
        self.state.send_replace(State::Cut);
    }

    /// Lets nothing through, as an end that hangs does.
    pub fn hold(&self) {
        self.state.send_replace(State::Held);
    }

    pub fn mend(&self) {
        self.state.send_replace(State::Whole);
    }
}

async fn carry(near: TcpStream, target: String, mut watched: watch::Receiver<State>) -> io::Result<()> {
    let _ = watched.wait_for(|state| *state != State::Held).await;
    let far = TcpStream::connect(target).await?;
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    tokio::try_join!(pass(near_in, far_out, watched.clone()), pass(far_in, near_out, watched))?;
    Ok(())
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut watched: watch::Receiver<State>) -> io::Result<()> {
    let mut bytes = vec![0; 64 << 10];
    loop {
        let read = from.read(&mut bytes).await?;
        let _ = watched.wait_for(|state| *state != State::Held).await;
        if read == 0 {
            return to.shutdown().await;
        }
        to.write_all(&bytes[..read]).await?;
    }
}
