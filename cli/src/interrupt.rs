//! Ctrl-C and SIGTERM where they must not end the program on the spot: what was begun is put away first.

use tokio::signal::unix::{SignalKind, signal};

use crate::exit::{Code, Failure, Result};

/// Runs `work` until it is done or the user interrupts it. Dropping `work` at its next await is what puts things away.
///
/// # Errors
/// Those of `work`; [`Code::Interrupted`] or [`Code::Terminated`].
pub async fn or<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let listen = |kind| signal(kind).map_err(|e| Failure::new(Code::Failure, format!("cannot listen for signals: {e}")));
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    tokio::select! {
        biased;
        _ = interrupt.recv() => Err(Failure::new(Code::Interrupted, "interrupted")),
        _ = terminate.recv() => Err(Failure::new(Code::Terminated, "asked to end")),
        done = work => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::restore::{Extras, Target};

    #[test]
    fn an_interrupt_puts_away_what_was_begun() {
        let dir = tempfile::tempdir().expect("folder");
        let target = Target::open(dir.path(), Extras::default()).expect("open");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        let work = or(async {
            let file = target.file(b"half", 1 << 20)?;
            target.write(&file, 0, b"begun")?;
            assert_eq!(std::fs::read_dir(dir.path()).expect("list").count(), 1, "it is there under its other name");
            let _ = std::process::Command::new("kill").args(["-INT", &std::process::id().to_string()]).status();
            // Longer than any signal takes; never until the end.
            tokio::time::sleep(std::time::Duration::from_mins(1)).await;
            drop(file);
            Ok(())
        });
        assert_eq!(runtime.block_on(work).expect_err("interrupted").code, Code::Interrupted);
        assert_eq!(std::fs::read_dir(dir.path()).expect("list").count(), 0);
    }
}
