//! The latest answer to a question that costs something, for however many who ask.
//!
//! One question is under way at a time. Whoever asks meanwhile, or shortly after it began, shares its answer. It goes on
//! when nobody waits for it any more: else a client that asks and hangs up in a loop would begin it each time.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

/// The latest answer, and whether it is asked for anew.
#[derive(Debug)]
pub struct Latest<T> {
    fresh_for: Duration,
    question: Mutex<Option<Question<T>>>,
}

#[derive(Debug)]
struct Question<T> {
    began: Instant,
    /// `None` while it is under way.
    answer: watch::Receiver<Option<T>>,
}

impl<T: Clone + Send + Sync + 'static> Latest<T> {
    /// Nothing was asked yet. An answer is shared until its question is as old as this.
    pub fn new(fresh_for: Duration) -> Self {
        Self { fresh_for, question: Mutex::default() }
    }

    /// The answer that is fresh or on its way, else that to this question. `None` only when the question panics or the
    /// runtime ends.
    pub async fn ask(&self, question: impl Future<Output = T> + Send + 'static) -> Option<T> {
        let mut answer = self.begin(question);
        answer.wait_for(Option::is_some).await.ok()?.clone()
    }

    fn begin(&self, question: impl Future<Output = T> + Send + 'static) -> watch::Receiver<Option<T>> {
        let mut current = self.question.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Question { began, answer }) = &*current {
            // A question that panicked has no answer, and is not under way either.
            let is_under_way = answer.borrow().is_none() && answer.has_changed().is_ok();
            if is_under_way || began.elapsed() < self.fresh_for {
                return answer.clone();
            }
        }
        let (told, answer) = watch::channel(None);
        tokio::spawn(async move { told.send_replace(Some(question.await)) });
        *current = Some(Question { began: Instant::now(), answer: answer.clone() });
        answer
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use futures::FutureExt;
    use futures::future::join_all;
    use tokio::sync::Notify;

    use super::*;

    #[derive(Clone, Default)]
    struct Asked {
        times: Arc<AtomicU32>,
        let_go: Arc<Notify>,
    }

    impl Asked {
        /// Answers with how often it was asked, when it is let go.
        async fn question(self) -> u32 {
            let times = self.times.fetch_add(1, Ordering::Relaxed) + 1;
            self.let_go.notified().await;
            times
        }
    }

    #[tokio::test]
    async fn however_many_ask_while_it_is_under_way_or_fresh_it_is_asked_once() {
        let (latest, asked) = (Latest::new(Duration::MAX), Asked::default());
        let waiting = join_all((0..100).map(|_| latest.ask(asked.clone().question())));
        tokio::pin!(waiting);
        assert!(waiting.as_mut().now_or_never().is_none());
        asked.let_go.notify_one();
        assert!(waiting.await.iter().all(|answer| *answer == Some(1)));
        assert_eq!(latest.ask(asked.clone().question()).await, Some(1));
        assert_eq!(asked.times.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn an_answer_that_is_not_fresh_is_shared_only_while_it_is_under_way() {
        let (latest, asked) = (Latest::new(Duration::ZERO), Asked::default());
        for times in 1..=3 {
            let waiting = join_all((0..100).map(|_| latest.ask(asked.clone().question())));
            tokio::pin!(waiting);
            assert!(waiting.as_mut().now_or_never().is_none());
            asked.let_go.notify_one();
            assert!(waiting.await.iter().all(|answer| *answer == Some(times)));
        }
    }

    #[tokio::test]
    async fn a_question_goes_on_when_all_who_asked_have_gone_and_who_comes_much_later_gets_no_answer_of_old() {
        let (latest, asked) = (Latest::new(Duration::ZERO), Asked::default());
        assert_eq!(latest.ask(asked.clone().question()).now_or_never(), None);
        while asked.times.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        let next = latest.ask(asked.clone().question());
        tokio::pin!(next);
        assert!(next.as_mut().now_or_never().is_none());
        asked.let_go.notify_one();
        assert_eq!(next.await, Some(1), "it went on");

        assert_eq!(latest.ask(asked.clone().question()).now_or_never(), None);
        while asked.times.load(Ordering::Relaxed) == 1 {
            tokio::task::yield_now().await;
        }
        asked.let_go.notify_one();
        tokio::task::yield_now().await;
        asked.let_go.notify_one();
        assert_eq!(latest.ask(asked.clone().question()).await, Some(3), "nobody has had the second answer");
    }

    #[tokio::test]
    async fn a_question_that_panics_has_no_answer_and_the_next_is_asked() {
        let latest = Latest::new(Duration::ZERO);
        assert_eq!(latest.ask(async { panic!("on purpose") }).await, None::<u32>);
        assert_eq!(latest.ask(async { 7 }).await, Some(7));
    }
}
