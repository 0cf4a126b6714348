//! Turns a panic somewhere in a stage into the end of the process.
//!
//! A stage without its source, its settle loop or one of its partitions would look healthy and do nothing. Ending the
//! process lets whoever runs it start it again, and loses nothing.

use tokio_util::sync::CancellationToken;

/// Says that the stage has failed when it is dropped by a panic.
#[derive(Clone, Debug)]
pub(super) struct FailOnPanic(pub CancellationToken);

impl Drop for FailOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_panics_fails_its_stage_and_one_that_ends_does_not() {
        let failed = CancellationToken::new();
        let guard = FailOnPanic(failed.clone());
        assert!(tokio::spawn(async move { drop(guard) }).await.is_ok());
        assert!(!failed.is_cancelled());
        let guard = FailOnPanic(failed.clone());
        let task = tokio::spawn(async move {
            let _guard = guard;
            tokio::task::yield_now().await;
            panic!("on purpose");
        });
        assert!(task.await.is_err());
        assert!(failed.is_cancelled());
    }
}
