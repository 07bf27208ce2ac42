//! The first connection of a program, before there is a pool: what is wrong is told in full, and a server that is only starting is
//! waited for, as a coordinator that runs waits for it.

use std::time::Duration;

use sqlx::PgConnection;
use tokio::time::Instant;

use super::Settings;
use super::error::{is_starting, unreachable};
use crate::catalog::CatalogError;

/// How long a connection may take.
const FIRST_TIMEOUT: Duration = Duration::from_secs(10);
/// A server that says that it is starting, because it recovers after a crash for example, is waited for this long: it replays what was
/// written since its last checkpoint, and those are 5 minutes apart by default.
const STARTING_WITHIN: Duration = Duration::from_mins(5);
/// Time between two tries.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// One connection outside of any pool: a pool would tell a wrong password or a wrong name as one more delay.
pub(super) async fn first_connection(settings: &Settings) -> Result<PgConnection, CatalogError> {
    connection_within(settings, STARTING_WITHIN).await
}

async fn connection_within(settings: &Settings, starting_within: Duration) -> Result<PgConnection, CatalogError> {
    use sqlx::ConnectOptions as _;
    let (session, begun, mut told) = (settings.session(), Instant::now(), false);
    loop {
        let e = match tokio::time::timeout(FIRST_TIMEOUT, session.connect()).await {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(e)) => e,
            Err(_) => {
                return Err(CatalogError::Failed(format!(
                    "catalog.postgres: {} did not answer within {} s; is the address right, and does a firewall let it through?",
                    settings.place(),
                    FIRST_TIMEOUT.as_secs()
                )));
            }
        };
        if !is_starting(&e) || begun.elapsed() >= starting_within {
            return Err(unreachable(settings.place(), &e));
        }
        if !told {
            let (place, seconds) = (settings.place(), starting_within.as_secs());
            tracing::warn!(place, "PostgreSQL says that it takes no connections yet; it is asked again for up to {seconds} s");
            told = true;
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use sqlx::Connection as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::super::scratch::Scratch;
    use super::*;

    /// What a server says that recovers: an ErrorResponse of the protocol.
    fn starting_up() -> Vec<u8> {
        let fields = b"SFATAL\0VFATAL\0C57P03\0Mthe database system is starting up\0\0";
        let mut message = vec![b'E'];
        message.extend_from_slice(&(fields.len() as u32 + 4).to_be_bytes());
        message.extend_from_slice(fields);
        message
    }

    /// Says so `times`, and then is the server at that port.
    async fn starting(times: usize, port: u16) -> Settings {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = format!("postgres://exhibit@{}/catalog?sslmode=disable", listener.local_addr().expect("bound"));
        tokio::spawn(async move {
            for n in 0.. {
                let (mut client, _) = listener.accept().await.expect("accepted");
                if n < times {
                    // Its first message is answered whatever it says.
                    let length = client.read_u32().await.expect("a length") as usize;
                    client.read_exact(&mut vec![0; length - 4]).await.expect("a message");
                    client.write_all(&starting_up()).await.expect("answered");
                    continue;
                }
                let mut server = TcpStream::connect(("127.0.0.1", port)).await.expect("connected");
                tokio::spawn(async move { tokio::io::copy_bidirectional(&mut client, &mut server).await });
            }
        });
        Settings::parse(&address, Path::new("/"), false).expect("an address")
    }

    #[tokio::test]
    async fn a_server_that_is_starting_is_waited_for() {
        let dir = tempfile::tempdir().expect("folder");
        let server = Scratch::start(dir.path()).await;
        let _ = server.database("catalog").await;
        let settings = starting(2, server.port()).await;
        let mut connection = connection_within(&settings, Duration::from_mins(1)).await.expect("it came");
        connection.ping().await.expect("it is the server");
    }

    #[tokio::test]
    async fn not_for_ever_and_then_it_is_said_what_the_server_said() {
        let settings = starting(usize::MAX, 0).await;
        let e = connection_within(&settings, Duration::from_millis(1_500)).await.expect_err("it never comes").to_string();
        assert!(e.contains("the database system is starting up; it still takes no connections: wait until pg_isready"), "{e}");
    }
}
