//! What the index keeps over a restart: addresses of peers that have lasted, so that a node finds its network again though its
//! seeds are gone.
//!
//! One small file of text, written whole beside the old one and then put in its place. It holds hints: whatever is wrong
//! with it costs a warning and no more.

use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use coral_dsht::DshtHandle;

/// A node writes its first peers down so soon after its start, and then now and then.
const FIRST_AFTER: Duration = Duration::from_secs(30);
const EVERY: Duration = Duration::from_secs(300);
/// A file that is longer is none of ours.
const MAX_BYTES: u64 = 64 * 1024;

/// The peers in the file at `path`; none, and a warning, if it cannot be used. A file that is not there yet is no fault.
pub(super) fn read(path: &Path) -> Vec<SocketAddr> {
    let text = match read_text(path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(e) => {
            tracing::warn!("the peers in {} cannot be read: {e}", path.display());
            return Vec::new();
        }
    };
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let parsed: Vec<Option<SocketAddr>> = lines.map(|line| line.parse().ok()).collect();
    let wrong = parsed.iter().filter(|addr| addr.is_none()).count();
    if wrong > 0 {
        tracing::warn!("{} lines of {} are no addresses", wrong, path.display());
    }
    parsed.into_iter().flatten().collect()
}

fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(MAX_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

/// Writes the peers down again and again until `stop`, and then once more.
pub(super) async fn keep(dsht: DshtHandle, path: &Path, stop: impl Future<Output = ()>) {
    let mut stop = std::pin::pin!(stop);
    let mut wait = FIRST_AFTER;
    loop {
        let stopped = tokio::select! {
            () = &mut stop => true,
            () = tokio::time::sleep(wait) => false,
        };
        wait = EVERY;
        // An index that has stopped has nothing to tell, and who knows nobody had better remember whom it knew.
        let peers = dsht.contacts().await.unwrap_or_default();
        if !peers.is_empty()
            && let Err(e) = write(path, &peers)
        {
            tracing::warn!("the peers cannot be written to {}: {e}", path.display());
        }
        if stopped {
            return;
        }
    }
}

/// The file is the old one or the new one, whenever the machine stops.
fn write(path: &Path, peers: &[SocketAddr]) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    writeln!(file, "# Peers of this CoralCDN node, to join by when it starts again. It writes this file itself.")?;
    for peer in peers {
        writeln!(file, "{peer}")?;
    }
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_what_is_broken_is_left_out() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("peers");
        assert_eq!(read(&path), []);
        let peers: Vec<SocketAddr> = vec!["192.0.2.1:4160".parse().unwrap(), "[2001:db8::1]:4160".parse().unwrap()];
        write(&path, &peers).unwrap();
        write(&path, &peers).unwrap();
        assert_eq!(read(&path), peers);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
        std::fs::write(&path, "# old\n192.0.2.1:4160\nnonsense\n\n192.0.2.2").unwrap();
        assert_eq!(read(&path), peers[..1]);
        std::fs::write(&path, [0xff; 100]).unwrap();
        assert_eq!(read(&path), []);
        assert_eq!(read(directory.path()), []);
    }
}
