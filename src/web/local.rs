//! The socket in the data directory, by which commands on this machine reach the gateway whether `http` is
//! configured or not. Asks for no password: the file's mode and the peer's user are the door. Knows no route.

use std::fs::{Permissions, remove_file, set_permissions, symlink_metadata};
use std::future::ready;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

use futures_util::FutureExt as _;
use tokio::net::{UnixListener, UnixStream};

use crate::web::server::{Guest, Listen};

/// Beside the database.
pub const SOCKET_FILE: &str = "tidegate.sock";
const SOCKET_MODE: u32 = 0o600;
const ROOT: u32 = 0;

/// A listener that is in place of whatever an earlier process left. Only who holds the lock of the data
/// directory may ask for it.
pub fn bind(path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    match symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => remove_file(path)?,
        // Nobody else's file is removed.
        Ok(_) => return Err(io::Error::from(io::ErrorKind::AlreadyExists)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = std::os::unix::net::UnixListener::bind(path)?;
    set_permissions(path, Permissions::from_mode(SOCKET_MODE))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Takes root and the user of this process, whatever the mode of the file was when they came.
impl Listen for UnixListener {
    type Stream = UnixStream;

    async fn next_guest(&self) -> io::Result<Guest<UnixStream>> {
        loop {
            let (stream, _) = self.accept().await?;
            let user = stream.peer_cred()?.uid();
            if user == ROOT || user == rustix::process::geteuid().as_raw() {
                let from = IpAddr::from(Ipv6Addr::LOCALHOST).into();
                return Ok(Guest { opening: ready(Some(stream)).boxed(), from });
            }
            tracing::warn!(user, "a user who may not was turned away from the gateway's socket");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::bind;

    #[test]
    fn a_socket_that_is_left_over_makes_way_and_another_file_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(bind(&path).unwrap());
        let _listener = bind(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let other = dir.path().join("file");
        std::fs::write(&other, "kept").unwrap();
        assert_eq!(bind(&other).unwrap_err().kind(), std::io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&other).unwrap(), b"kept");
    }
}
