//! A ring of memory that stays while copies from it are under way, for many small ones without a wait each.

use crate::cuda::transfer::HostMemory;
use anyhow::Result;

/// Places of copies begin at multiples of this.
const ALIGNMENT: usize = 256;

/// The ring: filled from its beginning to its end, and then anew.
pub struct Ring<M> {
    memory: M,
    /// Where the next copy goes.
    next: usize,
}

impl<M: HostMemory> Ring<M> {
    pub fn new(memory: M) -> Self {
        Self { memory, next: 0 }
    }

    /// The same bytes in the ring, where they stay until `wait`, which waits for all copies from it, is called: when the ring is full. There are no more of them than
    /// the ring has.
    ///
    /// # Errors
    /// Those of `wait`.
    pub fn put(&mut self, bytes: &[u8], wait: impl FnOnce() -> Result<()>) -> Result<&[u8]> {
        if self.next + bytes.len() > self.memory.bytes().len() {
            wait()?;
            self.next = 0;
        }
        let place = self.next..self.next + bytes.len();
        self.next = place.end.next_multiple_of(ALIGNMENT);
        self.memory.bytes_mut()[place.clone()].copy_from_slice(bytes);
        Ok(&self.memory.bytes()[place])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_used_again_only_after_a_wait() {
        let mut ring = Ring::new(vec![0_u8; 1000]);
        let mut waits = 0;
        let mut put = |value: u8, bytes: usize| {
            let staged = ring.put(&vec![value; bytes], || {
                waits += 1;
                Ok(())
            });
            let staged = staged.unwrap();
            assert!(staged.len() == bytes && staged.iter().all(|found| *found == value));
            (staged.as_ptr() as usize, waits)
        };
        let (start, _) = put(1, 100);
        let places: Vec<(usize, i32)> = [(2, 300), (3, 232), (4, 1), (5, 1000), (6, 0), (7, 1)]
            .into_iter()
            .map(|(value, bytes)| put(value, bytes))
            .map(|(place, waits)| (place - start, waits))
            .collect();
        // 768 + 232 just fits; what comes next does not, nor does anything beside the largest.
        assert_eq!(places[..2], [(256, 0), (768, 0)]);
        assert_eq!(places[2..4], [(0, 1), (0, 2)]);
        assert_eq!(places[4..], [(0, 3), (0, 3)]);
    }

    #[test]
    fn a_wait_that_fails_gives_no_place() {
        let mut ring = Ring::new(vec![0_u8; 4]);
        ring.put(&[1, 2, 3], || Ok(())).unwrap();
        assert!(ring.put(&[4, 5], || anyhow::bail!("lost")).is_err());
    }
}
