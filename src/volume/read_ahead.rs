//! Reading ahead: a background thread makes the next items (slices, whole volumes) while the current one is worked on.

use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

use anyhow::{Result, anyhow};

/// An iterator over `(index, item)`, in the given order, whose items are made on one background thread.
///
/// At most `depth` finished items wait, and one more is being made: with depth 0 exactly the next one. A failed item does not end the
/// iteration. Dropping it stops the thread after the item it is working on, and waits for that.
pub struct ReadAhead<T> {
    receiver: Option<Receiver<(usize, Result<T>)>>,
    thread: Option<JoinHandle<()>>,
}

impl<T: Send + 'static> ReadAhead<T> {
    /// Starts the thread, which calls `produce` for each of `indices`.
    ///
    /// # Errors
    /// The operating system gives no thread.
    pub fn new<I>(indices: I, depth: usize, mut produce: impl FnMut(usize) -> Result<T> + Send + 'static) -> Result<Self>
    where
        I: IntoIterator<Item = usize>,
        I::IntoIter: Send + 'static,
    {
        let indices = indices.into_iter();
        let (sender, receiver) = sync_channel(depth);
        let work = move || {
            for index in indices {
                if sender.send((index, produce(index))).is_err() {
                    break; // dropped: nobody listens any more
                }
            }
        };
        let thread = std::thread::Builder::new().name("read-ahead".to_string()).spawn(work)?;
        Ok(Self {
            receiver: Some(receiver),
            thread: Some(thread),
        })
    }
}

impl<T> Iterator for ReadAhead<T> {
    type Item = (usize, Result<T>);

    fn next(&mut self) -> Option<Self::Item> {
        match self.receiver.as_ref()?.recv() {
            Ok(item) => Some(item),
            Err(_) => {
                self.receiver = None;
                let panicked = self.thread.take().is_some_and(|thread| thread.join().is_err());
                panicked.then(|| {
                    (
                        usize::MAX,
                        Err(anyhow!(
                            "the read-ahead thread failed; this is a defect of the program, please report it"
                        )),
                    )
                })
            }
        }
    }
}

impl<T> Drop for ReadAhead<T> {
    fn drop(&mut self) {
        self.receiver = None; // makes a waiting `send` fail
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has nowhere to go from here, and `next` reports it to whoever still asks.
            let _ = thread.join();
        }
    }
}
