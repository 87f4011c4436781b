//! Working memory of a thread, kept between calls so that steady state allocates nothing.

use std::cell::Cell;

thread_local! {
    static BUFFERS: Cell<Vec<Vec<f32>>> = const { Cell::new(Vec::new()) };
}

/// Calls `work` with `len` floats of unspecified content. Calls may nest: each level has a buffer of its own.
pub fn with<R>(len: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut stack = BUFFERS.take();
    let mut buffer = stack.pop().unwrap_or_default();
    BUFFERS.set(stack);
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    let result = work(&mut buffer[..len]);
    let mut stack = BUFFERS.take();
    stack.push(buffer);
    BUFFERS.set(stack);
    result
}

/// A pointer that parallel tasks share to write disjoint places.
#[derive(Clone, Copy)]
pub struct Shared<T>(pub *mut T);

// SAFETY: whoever dereferences it writes places no other task touches (stated where it happens).
unsafe impl<T> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// The pointer, `offset` elements on.
    ///
    /// # Safety
    /// The place must lie inside the allocation.
    pub unsafe fn at(self, offset: usize) -> *mut T {
        // SAFETY: by contract.
        unsafe { self.0.add(offset) }
    }
}
