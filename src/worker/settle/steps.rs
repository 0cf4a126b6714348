//! Calls of librdkafka that block, and may do so for long.

use std::time::Duration;

use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::types::RDKafkaErrorCode as Code;
use tracing::debug;

/// How long one step of a transaction is waited for before it is asked for again.
pub const STEP_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a step may take in all. librdkafka loses one at times when a coordinator goes away, and would wait for ever:
/// its coordinator request is only looked at again when some broker comes or goes. A new producer then ends the transaction.
const PATIENCE: Duration = Duration::from_secs(15);

/// Asks again as long as librdkafka says that this is what to do.
pub fn until_answered(mut step: impl FnMut() -> KafkaResult<()>) -> KafkaResult<()> {
    loop {
        match step() {
            Err(KafkaError::Transaction(error)) if error.is_retriable() => {
                debug!(%error, "a step of a transaction takes longer");
            }
            answer => return answer,
        }
    }
}

/// Whether the broker refuses a commit because the group has moved on.
pub fn is_of_an_old_generation(code: Code) -> bool {
    matches!(code, Code::IllegalGeneration | Code::UnknownMemberId | Code::RebalanceInProgress | Code::StaleMemberEpoch)
}

/// Runs what blocks on a thread that may, and waits for it so long and no longer. `None` when it takes longer: the thread then
/// stays until librdkafka looks at the step again, and a producer that was replaced is refused by then.
pub async fn patiently<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::time::timeout(PATIENCE, blocking(work)).await.ok().flatten()
}

pub fn timed_out() -> KafkaError {
    KafkaError::Global(Code::OperationTimedOut)
}

/// Runs what blocks on a thread that may. `None` when the runtime ends.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}
