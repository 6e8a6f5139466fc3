//! Futures that stay on this thread, for tests with a client of their own.

use hyper::rt::Executor;
use tokio::runtime::Builder;
use tokio::task::{LocalSet, spawn_local};

/// Where hyper's HTTP/2 puts what goes on beside its requests.
#[derive(Clone)]
pub(crate) struct Local;

impl<F: Future<Output = ()> + 'static> Executor<F> for Local {
    fn execute(&self, future: F) {
        spawn_local(future);
    }
}

/// Runs it to its end, which must come within the time that is waited for anything.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new()
        .block_on(&runtime, async { tokio::time::timeout(super::PATIENCE, future).await.expect("in time") })
}
